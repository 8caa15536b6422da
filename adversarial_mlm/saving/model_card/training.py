"""The networks, how they were trained, and where."""

import inspect
import os
import platform
from importlib import metadata
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from adversarial_mlm import __version__
from adversarial_mlm.models import presets
from adversarial_mlm.saving.model_card import origin
from adversarial_mlm.saving.model_card.text import changed_options, count, option_value, percent, table
from adversarial_mlm.training.data_loading import data_seed
from adversarial_mlm.training.noiser_schedule import Ramp

if TYPE_CHECKING:
    from adversarial_mlm.training.trainer import AdversarialMLMTrainer

_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers")

_VIEWS = {
    "full": "sees the whole protein",
    "context": "sees all but the residue it scores",
    "blind": "chooses among random candidates that are hidden from it",
}

_REWARDS = {
    "loss": "the encoder's loss, of all masked residues together",
    "credit": "each chosen residue's own loss",
    "surprise": "each chosen residue's own loss minus its background surprise",
    "reducible": "each chosen residue's own loss minus that of a slow copy of the encoder",
    "predictor": "predicting the loss; it masks where it expects much",
}

# options that do nothing in a run without a noiser
_OF_THE_GAME = {
    *("learned_options", "sampler", "selection", "gated", "temperature", "candidate_rate", "preset", "on_collapse"),
    *("encoder_steps", "shared_phase_counter", "reversal_strength", "adversarial_share", "slow_encoder_decay"),
    *("encoder_dropout_in_noiser_phase", "importance_exponent", "collapse_margin", "collapse_enrichment"),
}


def preset_name(trainer: "AdversarialMLMTrainer") -> str | None:
    """The preset of this package whose sizes the encoder has; `None` for any other network."""
    config = trainer.model.config
    if origin.started_from(trainer) or origin.adapters(trainer.model) or config.model_type != "bert":
        return None
    for name, sizes in presets.ENCODERS.items():
        if all(getattr(config, size) == value for size, value in sizes.items()):
            return name
    return None


def has_pooler(model: PreTrainedModel) -> bool:
    """Whether `AutoModel` would give the encoder a pooler, which masked-language modelling does not train.

    An adapter is loaded into the model that it was trained in, which has none.
    """
    if origin.adapters(model):
        return False
    base = MODEL_MAPPING.get(type(model.config), None)
    return base is not None and "add_pooling_layer" in inspect.signature(base.__init__).parameters


def architecture(trainer: "AdversarialMLMTrainer") -> str:
    """Sizes of the encoder, as a table."""
    model, config = trainer.model, trainer.model.config
    preset = preset_name(trainer)
    rows = [("class", f"`{type(origin.encoder_of(model)).__name__}`" + (f" (preset `{preset}`)" if preset else ""))]
    parameters = f"{model.num_parameters() / 1e6:.1f} M"
    if origin.adapters(model):
        rows.append(("adapter", origin.adapter_summary(model)))
        parameters += f", {origin.trained_parameters(trainer):,} of them in the adapter"
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
        if getattr(config, name, None) is not None:
            rows.append((told, f"{getattr(config, name):,}"))
    rows.append(("residues in a training window", f"{trainer.data_collator.sequence_encoder.max_residues:,}"))
    return table(("the encoder", ""), rows)


def encoder_facts(trainer: "AdversarialMLMTrainer", step: int) -> list[str]:
    """How the encoder was trained, a sentence each."""
    args, rules = trainer.args, trainer.data_collator.rules
    facts = [
        f"{step:,} of {trainer.state.max_steps:,} encoder updates on {_batches(trainer)}",
        f"optimizer {args.optim.value}, peak learning rate {args.learning_rate:g}, "
        f"schedule {option_value(args.lr_scheduler_type)} {_warm_up(trainer)}, "
        f"weight decay {args.weight_decay:g}, {_clip(args.max_grad_norm)}",
        "loss: " + _loss(trainer),
        f"random masks: {percent(rules.random_rate)} of the residues of every protein, "
        f"[MASK]/keep/replace {'/'.join(f'{100 * share:g}' for share in rules.mask_options)}",
    ]
    trained = origin.what_was_trained(trainer)
    if trained is not None:
        facts.insert(1, trained)
    if trainer.loaded_best_step is not None:
        facts.append(
            f"these weights are the best of those that were evaluated, by `{args.metric_for_best_model}`, "
            f"after update {step:,}"
        )
    return facts


def _batches(trainer: "AdversarialMLMTrainer") -> str:
    args = trainer.args
    at_a_time, (first, *later) = args.train_batch_size * args.world_size, trainer.batch_stages
    told = f"{count(at_a_time * first.size, 'sequence')} each"
    told += "".join(f", {at_a_time * stage.size:,} from update {stage.first_update:,} on" for stage in later)
    steps = " then ".join(f"{stage.size:,}" for stage in (first, *later))
    steps = f"{steps} accumulation step" + ("" if steps == "1" else "s")
    return f"{told} ({args.train_batch_size} at a time, {steps}, {count(args.world_size, 'process', 'processes')})"


def _warm_up(trainer: "AdversarialMLMTrainer") -> str:
    steps = trainer.args.get_warmup_steps(trainer.state.max_steps)
    return f"after {count(steps, 'update')} of warm-up" if steps else "without warm-up"


def _loss(trainer: "AdversarialMLMTrainer") -> str:
    args = trainer.args
    loss = "cross-entropy of the masked residues, kept ones included"
    if args.weight_of_unmasked:
        loss = f"cross-entropy of all residues, those that are not masked counted {args.unmasked_weight:g} times"
    if trainer.noiser is not None and args.importance_exponent:
        loss += f"; importance weights with the exponent {args.importance_exponent:g}"
    return loss


def noiser_facts(trainer: "AdversarialMLMTrainer") -> list[str]:
    """What the noiser is, what it masked and how it was trained, a sentence each."""
    args, rules, noiser = trainer.args, trainer.data_collator.rules, trainer.noiser
    config = noiser.config
    candidates = ""
    if rules.blind:
        rate = rules.candidate_rate
        rate = min(rules.random_rate + 2 * rules.adversarial_rate, 1) if rate is None else rate
        candidates = f", {percent(rate)} of the residues"
    how = "where and how" if rules.learned_options else "where, always by [MASK]"
    share = _ramp(args.adversarial_share)
    facts = [
        f"a {config.backbone} noiser with {noiser.num_parameters() / 1e6:.1f} M parameters "
        f"(embedding {config.embedding_size}, hidden size {config.hidden_size}, "
        f"{count(config.num_hidden_layers, 'layer')}) that {_VIEWS[config.view]}{candidates}",
        f"adversarial masks: {percent(rules.adversarial_rate)} of the residues of every protein"
        + (", or fewer, as `threshold` has it" if rules.selection == "threshold" else "")
        + f", on others than the random ones; the noiser chooses {how}"
        + (f"; {share} of these masks were left to it, and random ones filled up" if share else ""),
        f"sampler {rules.sampler}, selection {rules.selection}"
        + ("" if rules.gated else ", not gated")
        + (f", temperature {rules.temperature:g}" if rules.temperature != 1 else ""),
        "the game: " + _game(trainer),
    ]
    if args.noiser_update == "none":
        return facts
    factor = _ramp(args.noiser_learning_rate_factor)
    return [
        *facts,
        f"reward {args.noiser_reward}: it was paid for {_REWARDS[args.noiser_reward]}"
        + (f" (decay {args.slow_encoder_decay:g})" if args.noiser_reward == "reducible" else ""),
        f"peak learning rate {args.noiser_learning_rate:g} on the encoder's schedule"
        + (f" times {factor}" if factor else "")
        + f", weight decay {args.noiser_weight_decay:g}, {_clip(args.noiser_max_grad_norm)}",
    ]


def _game(trainer: "AdversarialMLMTrainer") -> str:
    args = trainer.args
    if args.noiser_update == "none":
        return "the noiser masked as it was, and was not trained"
    if args.noiser_update == "alternate":
        game = f"{count(args.noiser_steps, 'noiser update')} to every {args.encoder_steps} of the encoder"
        game += ", phases counted together" if args.shared_phase_counter else ""
        return game + (", the encoder's dropout on in both" if args.encoder_dropout_in_noiser_phase else "")
    game = "the noiser learned by gradient reversal with "
    game += "every update" if args.noiser_every == 1 else f"one of every {args.noiser_every} updates"
    strength = _ramp(args.reversal_strength)
    return f"{game} of the encoder" + (f", times {strength}" if strength else "")


def _ramp(points: list[str]) -> str | None:
    """A ramp in words; `None` where it is 1 throughout."""
    values = Ramp(points, "a ramp")
    if values.values == [1.0]:
        return None
    told = [f"{value:g} at update {step:,}" for value, step in zip(values.values, values.steps, strict=True)]
    return f"{values.values[0]:g}" if len(told) == 1 else f"({', '.join(told)})"


def _clip(norm: float) -> str:
    return f"gradient clipped at a norm of {norm:g}" if norm else "gradient not clipped"


def options(trainer: "AdversarialMLMTrainer") -> str:
    """All options that differ from their defaults, as a table; empty where none does."""
    recipe = trainer.run_facts.get("recipe")
    parts = [] if recipe is None else [recipe.data, recipe.model, recipe.masking, recipe.run]
    rows = {name: value for part in (*parts, trainer.args) for name, value in changed_options(part).items()}
    if "global_batch_size" in rows:
        rows.pop("gradient_accumulation_steps", None)  # which follows from it
    if trainer.noiser is None:
        rows = {name: rows[name] for name in rows if name not in _OF_THE_GAME and not name.startswith("noiser")}
    return table(("option", "value"), [(f"`{name}`", value) for name, value in rows.items()]) if rows else ""


def environment(trainer: "AdversarialMLMTrainer", step: int) -> str:
    """Seeds, versions, hardware and times, as a table."""
    args = trainer.args
    rows = [("seeds", _seeds(trainer))]
    packages = (*_PACKAGES, "peft") if origin.adapters(trainer.model) else _PACKAGES
    versions = [f"Python {platform.python_version()}", f"adversarial-mlm {__version__}"]
    versions += [f"{name} {metadata.version(name)}" for name in packages]
    rows.append(("versions", ", ".join(versions)))
    rows.append(("hardware", f"{device_name(args.device)}, {count(args.world_size, 'process', 'processes')}"))
    mixed = trainer.args.mixed_precision
    precision = str(trainer.model.dtype).removeprefix("torch.")
    rows.append(("precision", precision if mixed == "no" else f"{precision} weights, {mixed} mixed precision"))
    training = [e for e in trainer.state.log_history if "residues_per_second" in e and e["step"] <= step]
    if training:
        residues = sum(entry["residues_per_second"] * _seconds(entry) for entry in training)
        rows.append(("residues read", f"{round(residues):,} by the encoder, in {training[-1]['step']:,} updates"))
        rows.append(("time", _time(trainer, sum(map(_seconds, training)))))
    return table(("", ""), rows)


def _seconds(entry: dict[str, float]) -> float:
    return sum(value for name, value in entry.items() if name.startswith("seconds_"))


def _time(trainer: "AdversarialMLMTrainer", seconds: float) -> str:
    told = f"{_duration(seconds)} in updates"
    whole = next((e["train_runtime"] for e in reversed(trainer.state.log_history) if "train_runtime" in e), 0)
    # of a run that was resumed it tells of the last start alone
    complete = whole >= seconds and trainer.loaded_best_step is None
    return told + (f", {_duration(whole)} with evaluations and saves" if complete else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _seeds(trainer: "AdversarialMLMTrainer") -> str:
    args, recipe = trainer.args, trainer.run_facts.get("recipe")
    seeds = [f"`seed` {args.seed}", f"`data_seed` {data_seed(args)}"]
    if recipe is not None:
        seeds.append(f"`holdout_seed` {recipe.data.holdout_seed}")
    return ", ".join([*seeds, f"`eval_mask_seed` {args.eval_mask_seed}"])


def device_name(device: torch.device) -> str:
    """What computed: the GPU's name, or the CPU's with its cores and threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        name = models[0] if models else name
    return f"CPU {name} ({count(os.cpu_count() or 1, 'core')}, {count(torch.get_num_threads(), 'thread')})"


def launch_command(trainer: "AdversarialMLMTrainer") -> str | None:
    """The command that makes the run again, its launcher included; `None` where nothing is known of it."""
    command = trainer.run_facts.get("command")
    if command is None:
        return None
    processes, mixed = trainer.args.world_size, trainer.args.mixed_precision
    launcher = ["accelerate launch", "--multi_gpu"] if processes > 1 else ["accelerate launch"]
    launcher.append(f"--num_processes {processes}")
    if mixed != "no" and not (trainer.args.bf16 or trainer.args.fp16):  # asked for at the launcher
        launcher.append(f"--mixed_precision {mixed}")
    return f"{' '.join(launcher)} {command}"
