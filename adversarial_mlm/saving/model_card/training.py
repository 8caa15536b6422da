"""The networks, how they were trained, and on which hardware."""

from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.models import presets
from adversarial_mlm.saving.model_card import origin
from adversarial_mlm.saving.model_card.facts import CardFacts, NoiserFacts, Points
from adversarial_mlm.saving.model_card.text import percent, table
from adversarial_mlm.utils.counts import count

_VIEWS = {
    "full": "it sees all residues",
    "context": "it sees all residues except the one that it scores",
    "blind": "it chooses among random candidates and does not see their residues",
}

_WAYS = {
    "random": "random masks",
    "span": "masks in spans of mean length {:g}",
    "stratified": "masks of all residues of a protein in turn (`stratified`)",
    "weighted": "masks in proportion to given weights (`mask_weights`)",
}

_MODULE = "-m adversarial_mlm "

# options that have no effect in a run without a noiser
_OF_THE_GAME = {
    *("learned_options", "sampler", "selection", "gated", "temperature", "candidate_rate", "preset", "on_collapse"),
    *("encoder_steps", "shared_phase_counter", "reversal_strength", "adversarial_share", "slow_encoder_decay"),
    *("encoder_dropout_in_noiser_phase", "importance_exponent", "collapse_margin", "collapse_enrichment"),
}


def preset_name(facts: CardFacts) -> str | None:
    """The preset of this package with the sizes of the encoder; `None` if there is none."""
    config = facts.encoder.config
    if origin.started_from(facts) or facts.encoder.adapters or config.model_type != "bert":
        return None
    for name, sizes in presets.ENCODERS.items():
        if all(getattr(config, size) == value for size, value in sizes.items()):
            return name
    return None


def millions(parameters: int) -> str:
    """A number of parameters: `38.1 M`."""
    return f"{parameters / 1e6:.1f} M"


def architecture(facts: CardFacts) -> str:
    """Table of the encoder's sizes."""
    encoder, preset = facts.encoder, preset_name(facts)
    rows = [("class", f"`{encoder.class_name}`" + (f" (preset `{preset}`)" if preset else ""))]
    parameters = millions(encoder.parameters)
    if encoder.adapters:
        rows.append(("adapter", origin.adapter_summary(facts)))
        parameters += f", {encoder.trained_parameters:,} of them in the adapter"
    rows.append(("parameters", parameters))
    sizes = {
        "hidden size": "hidden_size",
        "layers": "num_hidden_layers",
        "attention heads": "num_attention_heads",
        "feed-forward size": "intermediate_size",
        "vocabulary size": "vocab_size",
        "maximum positions": "max_position_embeddings",
    }
    for told, name in sizes.items():
        if getattr(encoder.config, name, None) is not None:
            rows.append((told, f"{getattr(encoder.config, name):,}"))
    rows.append(("residues per training window", f"{facts.inputs.max_residues:,}"))
    return table(("the encoder", ""), rows)


def encoder_facts(facts: CardFacts) -> list[str]:
    """How the encoder was trained, one line each."""
    made, rules = facts.optimization, facts.rules
    told = [
        f"{facts.step:,} of {count(made.max_steps, 'encoder update')}, {_batches(facts)}",
        f"optimizer `{made.optimizer}`, peak learning rate {made.learning_rate:g}, "
        f"`{made.schedule}` schedule {_warm_up(made.warmup_steps)}, "
        f"weight decay {made.weight_decay:g}, {_clip(made.max_grad_norm)}",
        "loss: " + _loss(facts),
        f"{_random_masks(rules)}, corruption mix "
        f"[MASK]/keep/replace {'/'.join(f'{100 * share:g}' for share in rules.mask_options)}",
        f"proteins of more than {count(facts.inputs.max_residues, 'residue')}: "
        "a random window of this length, a new one in each epoch",
    ]
    trained = origin.what_was_trained(facts)
    if trained is not None:
        told.insert(1, trained)
    if facts.best_by is not None:
        told.append(f"these weights have the best `{facts.best_by}` of all evaluated ones (update {facts.step:,})")
    return told


def _random_masks(rules: MaskingRules) -> str:
    way = _WAYS[rules.positions].format(rules.mean_span_length)
    if rules.schedule is None:
        return f"{way}: {percent(rules.random_rate)} of the residues of each protein"
    if not rules.adversarial_rate:
        return f"{way}, mask rate: {rules.schedule.words()}"
    share = rules.random_rate / rules.mask_rate
    return f"mask rate: {rules.schedule.words()}; random masks are {percent(round(share, 4))} of the masks"


def _batches(facts: CardFacts) -> str:
    made, processes = facts.optimization, facts.environment.processes
    at_a_time = made.batch_size_per_process * processes
    (_, first), *later = made.accumulation
    told = f"batch size {at_a_time * first:,}"
    told += "".join(f", {at_a_time * steps:,} from update {update:,}" for update, steps in later)
    steps = " then ".join(f"{steps:,}" for _, steps in made.accumulation)
    steps = f"{steps} accumulation step" + ("" if steps == "1" else "s")
    return f"{told} ({made.batch_size_per_process} per device, {steps}, {count(processes, 'process', 'processes')})"


def _warm_up(steps: int) -> str:
    return f"after {count(steps, 'warm-up update')}" if steps else "without warm-up"


def _loss(facts: CardFacts) -> str:
    made = facts.optimization
    loss = "cross-entropy of the masked residues, including those that keep their token"
    if made.unmasked_weight:
        loss = f"cross-entropy of all residues; weight of those that are not masked: {made.unmasked_weight:g}"
    if facts.noiser is not None and made.importance_exponent:
        loss += f"; importance weights with exponent {made.importance_exponent:g}"
    return f"{loss}; {made.teacher}" if made.teacher else loss


def noiser_facts(facts: CardFacts) -> list[str]:
    """What the noiser is, what it masked and how it was trained, one line each; empty without a noiser."""
    noiser, rules = facts.noiser, facts.rules
    if noiser is None:
        return []
    config = noiser.config
    if rules.protein_share is not None:
        of_masks = [
            f"it chooses {percent(rules.protein_share)} of the proteins that an update reads, in proportion to what "
            "it predicts can be learned from them; it does not see the masked residues"
        ]
    else:
        of_masks = _choice_of_positions(noiser, rules)
    told = [
        f"`{config.backbone}` with {millions(noiser.parameters)} parameters "
        f"(embedding size {config.embedding_size}, hidden size {config.hidden_size}, "
        f"{count(config.num_hidden_layers, 'layer')})",
        *of_masks,
        _updates(noiser),
    ]
    if noiser.update == "none":
        return told
    factor = _ramp(noiser.learning_rate_factor)
    return [
        *told,
        f"reward `{noiser.reward}`: {noiser.reward_description}",
        f"peak learning rate {noiser.learning_rate:g}, with the schedule of the encoder"
        + (f" times {factor}" if factor else "")
        + f", weight decay {noiser.weight_decay:g}, {_clip(noiser.max_grad_norm)}",
    ]


def _choice_of_positions(noiser: NoiserFacts, rules: MaskingRules) -> list[str]:
    candidates = ""
    if rules.blind:
        rate = rules.candidate_rate
        if rate is None and rules.schedule is not None:
            times = 1 + rules.adversarial_rate / rules.mask_rate
            candidates = f" (candidate set: {times:g} times the mask rate)"
        else:
            rate = min(rules.random_rate + 2 * rules.adversarial_rate, 1) if rate is None else rate
            candidates = f" (candidate set: {percent(rate)} of the residues)"
    chooses = "positions and how to mask them" if rules.learned_options else "positions only and always uses [MASK]"
    share = _ramp(noiser.adversarial_share)
    return [
        f"view `{noiser.config.view}`: {_VIEWS[noiser.config.view]}{candidates}",
        f"adversarial masks: {_adversarial_rate(rules)}"
        + (" or fewer (`selection: threshold`)" if rules.selection == "threshold" else "")
        + f", in addition to the random masks; the noiser chooses {chooses}"
        + (f"; its share of these masks: {share}, the rest was random" if share else ""),
        f"sampler `{rules.sampler}`, selection `{rules.selection}`"
        + ("" if rules.gated else ", not gated")
        + (f", temperature {rules.temperature:g}" if rules.temperature != 1 else ""),
    ]


def _adversarial_rate(rules: MaskingRules) -> str:
    if rules.schedule is None:
        return f"{percent(rules.adversarial_rate)} of the residues of each protein"
    return f"{percent(round(rules.adversarial_rate / rules.mask_rate, 4))} of the masks"


def _updates(noiser: NoiserFacts) -> str:
    if noiser.update == "none":
        return "the noiser was not trained in this run"
    if noiser.update == "alternate":
        told = f"alternating updates: {count(noiser.steps, 'noiser update')}, then "
        told += count(noiser.encoder_steps, "encoder update")
        told += ", with one counter for both phases" if noiser.shared_phase_counter else ""
        return told + (", with the encoder's dropout in both phases" if noiser.encoder_dropout else "")
    at = "every encoder update" if noiser.every == 1 else f"one of {noiser.every} encoder updates"
    if noiser.reward == "learnability":
        return f"updates by what the teacher measures, at {at}"
    told = f"one-backward updates by gradient reversal, at {at}"
    strength = _ramp(noiser.reversal_strength)
    return told + (f"; reversal strength {strength}" if strength else "")


def _ramp(points: Points) -> str | None:
    """A ramp in words; `None` if it is always 1."""
    if [value for _, value in points] == [1.0]:
        return None
    told = [f"{value:g} at update {step:,}" for step, value in points]
    return f"{points[0][1]:g}" if len(told) == 1 else f"({', '.join(told)})"


def _clip(norm: float) -> str:
    return f"gradients clipped at norm {norm:g}" if norm else "gradients not clipped"


def options(facts: CardFacts) -> str:
    """Table of all options that differ from their defaults; empty if there are none."""
    rows = dict(facts.options)
    if "global_batch_size" in rows:
        rows.pop("gradient_accumulation_steps", None)  # computed from the global batch size
    if facts.noiser is None:
        rows = {name: rows[name] for name in rows if name not in _OF_THE_GAME and not name.startswith("noiser")}
    return table(("option", "value"), [(f"`{name}`", value) for name, value in rows.items()]) if rows else ""


def option_changes(facts: CardFacts) -> str:
    """Table of the options that changed when the run was resumed; empty if there are none."""
    rows = [(f"`{one.name}`", f"{one.step:,}", _value(one.before), _value(one.after)) for one in facts.option_changes]
    return table(("option", "changed after update", "before", "after"), rows) if rows else ""


def _value(text: str | None) -> str:
    return "not set" if text is None else text


def environment(facts: CardFacts) -> str:
    """Table of seeds, versions and hardware."""
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
        rows.append(
            ("residues read", f"{round(residues):,} by the encoder, in {count(training[-1]['step'], 'update')}")
        )
    return table(("", ""), rows)


def _seconds(entry: dict[str, float]) -> float:
    return sum(value for name, value in entry.items() if name.startswith("seconds_"))


def launch_command(facts: CardFacts) -> str | None:
    """The command that repeats the run, with its launcher; `None` if it is unknown."""
    if facts.command is None:
        return None
    made = facts.environment
    if made.processes == 1 and not made.launcher_sets_precision and facts.command.startswith(_MODULE):
        return f"adv-mlm {facts.command.removeprefix(_MODULE)}"
    launcher = ["accelerate launch", "--multi_gpu"] if made.processes > 1 else ["accelerate launch"]
    launcher.append(f"--num_processes {made.processes}")
    if made.launcher_sets_precision:
        launcher.append(f"--mixed_precision {made.mixed_precision}")
    return f"{' '.join(launcher)} {facts.command}"
