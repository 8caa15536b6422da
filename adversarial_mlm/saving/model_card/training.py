"""The networks, how they were trained, and where."""

from adversarial_mlm.models import presets
from adversarial_mlm.saving.model_card import origin
from adversarial_mlm.saving.model_card.facts import CardFacts, NoiserFacts, Points
from adversarial_mlm.saving.model_card.text import count, percent, table

_VIEWS = {
    "full": "sees the whole protein",
    "context": "sees all but the residue it scores",
    "blind": "chooses among random candidates that are hidden from it",
}

# options that do nothing in a run without a noiser
_OF_THE_GAME = {
    *("learned_options", "sampler", "selection", "gated", "temperature", "candidate_rate", "preset", "on_collapse"),
    *("encoder_steps", "shared_phase_counter", "reversal_strength", "adversarial_share", "slow_encoder_decay"),
    *("encoder_dropout_in_noiser_phase", "importance_exponent", "collapse_margin", "collapse_enrichment"),
}


def preset_name(facts: CardFacts) -> str | None:
    """The preset of this package whose sizes the encoder has; `None` for any other network."""
    config = facts.encoder.config
    if origin.started_from(facts) or facts.encoder.adapters or config.model_type != "bert":
        return None
    for name, sizes in presets.ENCODERS.items():
        if all(getattr(config, size) == value for size, value in sizes.items()):
            return name
    return None


def architecture(facts: CardFacts) -> str:
    """Sizes of the encoder, as a table."""
    encoder, preset = facts.encoder, preset_name(facts)
    rows = [("class", f"`{encoder.class_name}`" + (f" (preset `{preset}`)" if preset else ""))]
    parameters = f"{encoder.parameters / 1e6:.1f} M"
    if encoder.adapters:
        rows.append(("adapter", origin.adapter_summary(facts)))
        parameters += f", {encoder.trained_parameters:,} of them in the adapter"
    rows.append(("parameters", parameters))
    sizes = {
        "hidden size": "hidden_size",
        "layers": "num_hidden_layers",
        "attention heads": "num_attention_heads",
        "width of the feed-forward layers": "intermediate_size",
        "tokens in the vocabulary": "vocab_size",
        "positions": "max_position_embeddings",
    }
    for told, name in sizes.items():
        if getattr(encoder.config, name, None) is not None:
            rows.append((told, f"{getattr(encoder.config, name):,}"))
    rows.append(("residues in a training window", f"{facts.inputs.max_residues:,}"))
    return table(("the encoder", ""), rows)


def encoder_facts(facts: CardFacts) -> list[str]:
    """How the encoder was trained, a sentence each."""
    made, rules = facts.optimization, facts.rules
    told = [
        f"{facts.step:,} of {made.max_steps:,} encoder updates on {_batches(facts)}",
        f"optimizer {made.optimizer}, peak learning rate {made.learning_rate:g}, "
        f"schedule {made.schedule} {_warm_up(made.warmup_steps)}, "
        f"weight decay {made.weight_decay:g}, {_clip(made.max_grad_norm)}",
        "loss: " + _loss(facts),
        f"random masks: {percent(rules.random_rate)} of the residues of every protein, "
        f"[MASK]/keep/replace {'/'.join(f'{100 * share:g}' for share in rules.mask_options)}",
    ]
    trained = origin.what_was_trained(facts)
    if trained is not None:
        told.insert(1, trained)
    if facts.best_by is not None:
        told.append(
            f"these weights are the best of those that were evaluated, by `{facts.best_by}`, "
            f"after update {facts.step:,}"
        )
    return told


def _batches(facts: CardFacts) -> str:
    made, processes = facts.optimization, facts.environment.processes
    at_a_time = made.batch_size_per_process * processes
    (_, first), *later = made.accumulation
    told = f"{count(at_a_time * first, 'sequence')} each"
    told += "".join(f", {at_a_time * steps:,} from update {update:,} on" for update, steps in later)
    steps = " then ".join(f"{steps:,}" for _, steps in made.accumulation)
    steps = f"{steps} accumulation step" + ("" if steps == "1" else "s")
    return f"{told} ({made.batch_size_per_process} at a time, {steps}, {count(processes, 'process', 'processes')})"


def _warm_up(steps: int) -> str:
    return f"after {count(steps, 'update')} of warm-up" if steps else "without warm-up"


def _loss(facts: CardFacts) -> str:
    made = facts.optimization
    loss = "cross-entropy of the masked residues, kept ones included"
    if made.unmasked_weight:
        loss = f"cross-entropy of all residues, those that are not masked counted {made.unmasked_weight:g} times"
    if facts.noiser is not None and made.importance_exponent:
        loss += f"; importance weights with the exponent {made.importance_exponent:g}"
    return loss


def noiser_facts(facts: CardFacts) -> list[str]:
    """What the noiser is, what it masked and how it was trained, a sentence each; empty where there is none."""
    noiser, rules = facts.noiser, facts.rules
    if noiser is None:
        return []
    config = noiser.config
    candidates = ""
    if rules.blind:
        rate = rules.candidate_rate
        rate = min(rules.random_rate + 2 * rules.adversarial_rate, 1) if rate is None else rate
        candidates = f", {percent(rate)} of the residues"
    how = "where and how" if rules.learned_options else "where, always by [MASK]"
    share = _ramp(noiser.adversarial_share)
    told = [
        f"a {config.backbone} noiser with {noiser.parameters / 1e6:.1f} M parameters "
        f"(embedding {config.embedding_size}, hidden size {config.hidden_size}, "
        f"{count(config.num_hidden_layers, 'layer')}) that {_VIEWS[config.view]}{candidates}",
        f"adversarial masks: {percent(rules.adversarial_rate)} of the residues of every protein"
        + (", or fewer, as `threshold` has it" if rules.selection == "threshold" else "")
        + f", on others than the random ones; the noiser chooses {how}"
        + (f"; {share} of these masks were left to it, and random ones filled up" if share else ""),
        f"sampler {rules.sampler}, selection {rules.selection}"
        + ("" if rules.gated else ", not gated")
        + (f", temperature {rules.temperature:g}" if rules.temperature != 1 else ""),
        "the game: " + _game(noiser),
    ]
    if noiser.update == "none":
        return told
    factor = _ramp(noiser.learning_rate_factor)
    return [
        *told,
        f"reward {noiser.reward}: it was paid for {noiser.reward_description}",
        f"peak learning rate {noiser.learning_rate:g} on the encoder's schedule"
        + (f" times {factor}" if factor else "")
        + f", weight decay {noiser.weight_decay:g}, {_clip(noiser.max_grad_norm)}",
    ]


def _game(noiser: NoiserFacts) -> str:
    if noiser.update == "none":
        return "the noiser masked as it was, and was not trained"
    if noiser.update == "alternate":
        game = f"{count(noiser.steps, 'noiser update')} to every {noiser.encoder_steps} of the encoder"
        game += ", phases counted together" if noiser.shared_phase_counter else ""
        return game + (", the encoder's dropout on in both" if noiser.encoder_dropout else "")
    game = "the noiser learned by gradient reversal with "
    game += "every update" if noiser.every == 1 else f"one of every {noiser.every} updates"
    strength = _ramp(noiser.reversal_strength)
    return f"{game} of the encoder" + (f", times {strength}" if strength else "")


def _ramp(points: Points) -> str | None:
    """A ramp in words; `None` where it is 1 throughout."""
    if [value for _, value in points] == [1.0]:
        return None
    told = [f"{value:g} at update {step:,}" for step, value in points]
    return f"{points[0][1]:g}" if len(told) == 1 else f"({', '.join(told)})"


def _clip(norm: float) -> str:
    return f"gradient clipped at a norm of {norm:g}" if norm else "gradient not clipped"


def options(facts: CardFacts) -> str:
    """All options that differ from their defaults, as a table; empty where none does."""
    rows = dict(facts.options)
    if "global_batch_size" in rows:
        rows.pop("gradient_accumulation_steps", None)  # which follows from it
    if facts.noiser is None:
        rows = {name: rows[name] for name in rows if name not in _OF_THE_GAME and not name.startswith("noiser")}
    return table(("option", "value"), [(f"`{name}`", value) for name, value in rows.items()]) if rows else ""


def environment(facts: CardFacts) -> str:
    """Seeds, versions, hardware and times, as a table."""
    made, dtype = facts.environment, facts.encoder.dtype
    precision = dtype if made.mixed_precision == "no" else f"{dtype} weights, {made.mixed_precision} mixed precision"
    rows = [
        ("seeds", ", ".join(f"`{name}` {seed}" for name, seed in made.seeds.items())),
        ("versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())),
        ("hardware", f"{made.device}, {count(made.processes, 'process', 'processes')}"),
        ("precision", precision),
    ]
    training = [e for e in facts.log_history if "residues_per_second" in e and e["step"] <= facts.step]
    if training:
        residues = sum(entry["residues_per_second"] * _seconds(entry) for entry in training)
        rows.append(("residues read", f"{round(residues):,} by the encoder, in {training[-1]['step']:,} updates"))
        rows.append(("time", _time(facts, sum(map(_seconds, training)))))
    return table(("", ""), rows)


def _seconds(entry: dict[str, float]) -> float:
    return sum(value for name, value in entry.items() if name.startswith("seconds_"))


def _time(facts: CardFacts, seconds: float) -> str:
    told = f"{_duration(seconds)} in updates"
    whole = next((e["train_runtime"] for e in reversed(facts.log_history) if "train_runtime" in e), 0)
    # of a run that was resumed it tells of the last start alone
    complete = whole >= seconds and facts.best_by is None
    return told + (f", {_duration(whole)} with evaluations and saves" if complete else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def launch_command(facts: CardFacts) -> str | None:
    """The command that makes the run again, its launcher included; `None` where nothing is known of it."""
    if facts.command is None:
        return None
    made = facts.environment
    launcher = ["accelerate launch", "--multi_gpu"] if made.processes > 1 else ["accelerate launch"]
    launcher.append(f"--num_processes {made.processes}")
    if made.launcher_sets_precision:
        launcher.append(f"--mixed_precision {made.mixed_precision}")
    return f"{' '.join(launcher)} {facts.command}"
