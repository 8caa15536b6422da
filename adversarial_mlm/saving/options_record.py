"""The options that a checkpoint was made with, and how those of a run that resumes from it differ.

A checkpoint has them in `options.json`, so it can be moved. What a change means is in [`resume_options`].
"""

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adversarial_mlm.models import presets
from adversarial_mlm.saving import checkpoint_manifest
from adversarial_mlm.saving.resume_options import (
    BATCHES,
    EVALUATION,
    HELD_OUT_PROTEINS,
    MASKS,
    OF_POSITIONS,
    Effect,
    known_options,
    rule_of,
)
from adversarial_mlm.saving.run_files import ARGUMENTS_FILE, NOISER_FOLDER, OPTIONS_FILE
from adversarial_mlm.utils import distributed
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import CheckpointError, clip
from adversarial_mlm.utils.ramp import Ramp

logger = logging.getLogger(__name__)

Changes = dict[str, tuple[Any, Any]]
"""Name of an option → its value in the checkpoint and in the run that resumes."""

_FORMAT = 1
_LISTED = 5  # changes that a message shows
_LONGEST_VALUE = 100  # characters

_RAMPS = ("reversal_strength", "adversarial_share", "noiser_learning_rate_factor")
_SWITCHES = ("activation_checkpointing", "gradient_checkpointing", "packed_attention")  # not set is the same as false
# options that have no effect without a noiser, in addition to those whose name begins with `noiser`
_OF_THE_NOISER = {
    *MASKS,
    *("encoder_steps", "shared_phase_counter", "reversal_strength", "slow_encoder_decay", "importance_exponent"),
    *("encoder_dropout_in_noiser_phase", "collapse_margin", "collapse_enrichment", "on_collapse"),
} - {"random_rate", "adversarial_rate", "mask_options", "mask_rate", "mask_rate_curve", *OF_POSITIONS}
_OF_PROTEINS = {"protein_share"}
# options that have no effect where a noiser does not choose positions
_OF_THE_CHOICE = _OF_THE_NOISER - {
    *_OF_PROTEINS,
    *("encoder_steps", "shared_phase_counter", "reversal_strength", "encoder_dropout_in_noiser_phase"),
}
# options of the masks that came after 0.1.0, with their defaults
_LATER: dict[str, Any] = {"mask_rate": None, "mask_rate_curve": "linear"}
# schedules whose learning rate is part of their state
_STATEFUL_SCHEDULES = ("reduce_lr_on_plateau", "greedy")
_OF_A_SCHEDULE = ("lr_scheduler_type", "lr_scheduler_kwargs", "learning_rate", "noiser_learning_rate")


@dataclass(frozen=True)
class Resumption:
    """A start of a run from a checkpoint, with options that differ from those of the checkpoint.

    Attributes:
        step: Encoder updates of the checkpoint.
        changes: What changed, without options that do not concern the trained weights.
    """

    step: int
    changes: Changes

    def __str__(self) -> str:
        changed = [f"{name} {shown(before)} -> {shown(now)}" for name, (before, now) in self.changes.items()]
        return f"after update {self.step}: {', '.join(changed)}"


@dataclass(frozen=True)
class OptionsRecord:
    """What a checkpoint tells of the options that it was made with.

    Attributes:
        options: Name → plain value. Empty if the checkpoint does not tell them. Checkpoints of version 0.1.0 only have
            those of the trainer.
        data: What identifies its proteins: `train`, and `held_out` by name. Each has the number of `records` and a
            hash of a `sample`, or is `None` for a stream. `None` if it is not recorded.
        resumptions: Resumptions with changed options before the checkpoint, in order.
        processes: Number of processes; `None` if it is not recorded.
    """

    options: Mapping[str, Any]
    data: Mapping[str, Any] | None = None
    resumptions: tuple[Resumption, ...] = ()
    processes: int | None = None


# ---- The file ----


def write(folder: str, record: OptionsRecord) -> None:
    """Write `options.json` into a checkpoint that is being made.

    Raises:
        OSError: If it cannot be written.
    """
    content = {
        "format": _FORMAT,
        "options": plain(record.options),
        "data": record.data,
        "resumptions": [{"step": one.step, "changes": one.changes} for one in record.resumptions],
    }
    text = json.dumps(content, indent=2, default=str)
    Path(folder, OPTIONS_FILE).write_text(text + "\n", encoding="utf-8")


def read(folder: str) -> OptionsRecord:
    """Read the options that a checkpoint was made with.

    Raises:
        CheckpointError: If the file is damaged, or if a later version of this package wrote it.
    """
    subject, path = f"the checkpoint {folder}", Path(folder, OPTIONS_FILE)
    if not path.is_file():
        options = {**_read_mapping(Path(folder, ARGUMENTS_FILE)), **_form_of_noiser(folder)}
        return OptionsRecord(options, processes=_processes(folder))
    content = _read_mapping(path)
    if isinstance(content.get("format"), int) and content["format"] > _FORMAT:
        raise CheckpointError(f"{subject} was written by a later version of this package; update the package")
    try:
        resumptions = tuple(
            Resumption(one["step"], {name: (before, now) for name, (before, now) in one["changes"].items()})
            for one in content["resumptions"]
        )
        record = OptionsRecord(dict(content["options"]), content["data"], resumptions, _processes(folder))
        _effective(record.options)
        return record
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{subject} has a damaged {OPTIONS_FILE}") from error


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON gives them back, without tokens."""
    kept = {name: value for name, value in options.items() if not name.endswith("_token")}
    return json.loads(json.dumps(kept, default=str))


def _read_mapping(path: Path) -> dict[str, Any]:
    """A mapping from a JSON file; empty if the file is missing or contains something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _processes(folder: str) -> int | None:
    return checkpoint_manifest.read(folder)["processes"] if checkpoint_manifest.has_manifest(folder) else None


def _form_of_noiser(folder: str) -> dict[str, Any]:
    config = _read_mapping(Path(folder, NOISER_FOLDER, "config.json"))
    return {f"noiser_{name}": config[name] for name in ("view", "backbone") if name in config}


# ---- What has changed ----


def changes_of(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """The options whose values differ in effect, in the order of the table.

    An option that only one side has is not compared.

    Args:
        before (`Mapping[str, Any]`): Options of the checkpoint, from [`read`].
        now (`Mapping[str, Any]`): Options of the run that resumes.
    """
    old, new = _effective(before), _effective(plain(now))
    order = {name: index for index, name in enumerate(known_options())}
    names = sorted(old.keys() & new.keys(), key=lambda name: (order.get(name, len(order)), name))
    return {name: (old[name], new[name]) for name in names if old[name] != new[name]}


def _effective(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with equal values if they have equal effects."""
    found = {name: None if value in ("", [], {}) else value for name, value in options.items()}
    if "masking" in found:
        for name, default in _LATER.items():
            found.setdefault(name, default)
        _resolve_networks(found)
    if "seed" in found and found.get("data_seed") is None:
        found["data_seed"] = found["seed"]
    if found.get("global_batch_size"):
        found.pop("gradient_accumulation_steps", None)  # follows from it
    for name in _RAMPS:
        words = found.get(name)
        if words is not None:
            ramp = Ramp(words, name)
            points = [f"{value:g}@{step}" for step, value in zip(ramp.steps, ramp.values, strict=True)]
            found[name] = " ".join(points) if len(points) > 1 else f"{ramp.values[0]:g}"
    for name in ("mask_rate", "soft_targets"):
        given = found.get(name)
        if isinstance(given, list | tuple):
            found[name] = " ".join(" ".join(map(str, given)).split())
    for name in _SWITCHES:
        found[name] = found.get(name) or None
    return found


def _resolve_networks(found: dict[str, Any]) -> None:
    """Put defaults in place of what is not given, and drop options that have no effect."""
    loaded, loaded_noiser = found.get("model_name_or_path"), found.get("noiser_name_or_path")
    if "encoder" in found:
        found["encoder"] = None if loaded else found["encoder"] or presets.DEFAULT_ENCODER
    chooses_positions = found["masking"] == "adversarial"
    if not chooses_positions:
        found["random_rate"] = round((found.get("random_rate") or 0) + (found.get("adversarial_rate") or 0), 9)
        found.pop("adversarial_rate", None)
        if found.get("mask_rate"):  # which replaces it
            found.pop("random_rate")
    has_noiser = chooses_positions or found["masking"] == "chosen_proteins"
    without_effect = _OF_PROTEINS if chooses_positions else _OF_THE_CHOICE if has_noiser else _OF_THE_NOISER
    for name in [name for name in found if name in without_effect]:
        del found[name]
    if not has_noiser:
        for name in [name for name in found if name.startswith("noiser")]:
            del found[name]
        return
    if "noiser" in found:
        found["noiser"] = None if loaded_noiser else found["noiser"] or presets.DEFAULT_NOISER
    for name, default in (("noiser_view", presets.DEFAULT_VIEW), ("noiser_backbone", presets.DEFAULT_BACKBONE)):
        if found.get(name) is None:
            found[name] = default
            if loaded_noiser:  # which has a form of its own
                del found[name]


def listed(changes: Changes) -> Changes:
    """The changes that concern the trained weights."""
    return {name: pair for name, pair in changes.items() if rule_of(name).effect is not Effect.UNLISTED}


def forgets_best(changes: Changes, metric: str | None) -> bool:
    """Whether figures of the best checkpoint so far cannot be compared with later ones.

    Args:
        changes (`Changes`): From [`changes_of`].
        metric (`str`, *optional*): The option `metric_for_best_model`.
    """
    decisive = {*EVALUATION, "max_length"}
    if metric is not None and metric.endswith(("adversarial_loss", "random_loss")):
        decisive.update(MASKS)
    return bool(decisive & changes.keys())


def comparable_from(resumptions: Iterable[Resumption]) -> int:
    """The step after which the loss on random masks belongs to the present masks."""
    return max((one.step for one in resumptions if {*MASKS, "max_length"} & one.changes.keys()), default=0)


def first_value(resumptions: Iterable[Resumption], option: str) -> Any:
    """The value that an option had at the start of the run, if a resumption has changed it; otherwise `None`."""
    return next((one.changes[option][0] for one in resumptions if option in one.changes), None)


# ---- What is refused or warned of ----


def check(checkpoint: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Compare the options of a checkpoint with those of a run that resumes from it.

    Args:
        checkpoint (`str`): The checkpoint, for messages.
        before (`Mapping[str, Any]`): Its options, from [`read`].
        now (`Mapping[str, Any]`): Options of the run.

    Returns:
        `Changes`

    Raises:
        CheckpointError: If an option has another value that cannot change. The sentence names it, with both values.
    """
    changes = changes_of(before, now)
    refused = {name: pair for name, pair in changes.items() if _is_refused(name, changes, before, now)}
    if refused:
        it, value = ("it", "value") if len(refused) == 1 else ("them", "values")
        raise CheckpointError(
            f"{_described(refused)}: a run that resumes from the checkpoint {checkpoint} cannot change {it}; use the "
            f"earlier {value}, or {_new_run(checkpoint)}"
        )
    return changes


def _is_refused(name: str, changes: Changes, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if rule_of(name).effect is Effect.REFUSED:
        return True
    if name == "max_length" and "encoder" in now and not now.get("model_name_or_path"):
        first, second = map(presets.positions, changes[name])
        return first != second
    if name == "noiser_reward":
        return changes[name][1] == "reducible"
    if name == "teacher":
        return changes[name][1] == "ema"
    if name in _OF_A_SCHEDULE:
        return any(options.get("lr_scheduler_type") in _STATEFUL_SCHEDULES for options in (before, plain(now)))
    return False


def check_data(
    checkpoint: str, before: Mapping[str, Any] | None, now: Mapping[str, Any], changes: Changes
) -> tuple[Changes, bool]:
    """Refuse other training proteins, in which a position has no meaning; warn of what cannot be compared.

    Args:
        checkpoint (`str`): The checkpoint, for messages.
        before (`Mapping[str, Any]`, *optional*): `data` of its record.
        now (`Mapping[str, Any]`): The same of the run that resumes.
        changes (`Changes`): From [`check`].

    Returns:
        `Changes`, without options that changed although the proteins are the same, such as the path of a file; and
        whether the held-out proteins differ.

    Raises:
        CheckpointError: If the training proteins differ.
    """
    about_training = {name: pair for name, pair in changes.items() if rule_of(name).effect is Effect.SAME_DATA}
    if before is not None and (before["train"] is None) != (now["train"] is None):
        raise CheckpointError(
            f"of the checkpoint {checkpoint} and this run, only one reads a stream, so the order of the data differs: "
            f"use the same kind of data, or {_new_run(checkpoint)}"
        )
    if before is None or before["train"] is None:
        if about_training:
            _warn(f"{_described(about_training)}: whether the training proteins are the same cannot be checked")
        about_training = {}
    elif before["train"] != now["train"]:
        raise CheckpointError(_other_proteins(checkpoint, before["train"], now["train"], changes))
    same = set(about_training)
    if before is None:
        return changes, False
    if before["held_out"] != now["held_out"]:
        _warn(
            f"the held-out proteins are not those of the checkpoint {checkpoint}: figures from before and after "
            "cannot be compared"
        )
        return {name: pair for name, pair in changes.items() if name not in same}, True
    same |= set(HELD_OUT_PROTEINS)
    return {name: pair for name, pair in changes.items() if name not in same}, False


def _other_proteins(checkpoint: str, before: Mapping[str, Any], now: Mapping[str, Any], changes: Changes) -> str:
    found = f"{count(now['records'], 'record')} instead of {before['records']:,}"
    if now["records"] == before["records"]:
        found = f"{count(now['records'], 'record')} as before, but other sequences or another order"
    about_data = {
        name: pair
        for name, pair in changes.items()
        if rule_of(name).effect is Effect.SAME_DATA or name in HELD_OUT_PROTEINS
    }
    changed = f"; {_described(about_data)}" if about_data else ""
    return (
        f"the training proteins are not those of the checkpoint {checkpoint} ({found}{changed}), and its position has "
        f"no meaning in others: use the same proteins, or {_new_run(checkpoint)}"
    )


def check_updates(checkpoint: str, step: int, max_steps: int, changes: Changes) -> None:
    """Refuse a run that has no update left for what has changed.

    Args:
        checkpoint (`str`): The checkpoint, for messages.
        step (`int`): Its encoder updates.
        max_steps (`int`): Encoder updates of the run.
        changes (`Changes`): From [`check`].

    Raises:
        CheckpointError: If the checkpoint has more updates than the run, or as many although options of training have
            changed.
    """
    if step > max_steps:
        raise CheckpointError(
            f"the checkpoint {checkpoint} has made {count(step, 'update')}, but the run has only {max_steps:,}: set "
            f"max_steps (or num_train_epochs) to {count(step, 'update')} or more"
        )
    lengths = ("max_steps", "num_train_epochs")
    without = {name: pair for name, pair in changes.items() if rule_of(name).trains and name not in lengths}
    if step == max_steps and without:
        raise CheckpointError(
            f"{_described(without)}: this would have no effect, because the checkpoint {checkpoint} has made all "
            f"{count(max_steps, 'update')}; set max_steps above {step:,}, or {_new_run(checkpoint)}"
        )


def report(checkpoint: str, before: Mapping[str, Any], changes: Changes) -> None:
    """Log what has changed, on process 0; the position in the data is reported where it is known."""
    if not before:
        _warn(f"the checkpoint {checkpoint} does not record its options: they were not compared with those of the run")
    elif "masking" not in before:
        _warn(
            f"the checkpoint {checkpoint} was written by an earlier version and only records the options of the "
            "trainer: those of data, networks and masks were not compared"
        )
    told = listed(changes)
    if told and distributed.is_main_process():
        differences = [f"{name} {shown(before)} -> {shown(now)}" for name, (before, now) in told.items()]
        logger.info(f"options that differ from those of the checkpoint {checkpoint}: {', '.join(differences)}")
    by_meaning: dict[str, Changes] = {}
    for name, pair in told.items():
        rule = rule_of(name)
        if rule.effect is Effect.WARNS and name not in BATCHES:
            by_meaning.setdefault(rule.meaning, {})[name] = pair
    for meaning, group in by_meaning.items():
        _warn(f"{_described(group)}: {meaning}")


def _warn(sentence: str) -> None:
    if distributed.is_main_process():
        logger.warning(sentence)


def _described(changes: Changes) -> str:
    parts = [f"{name} is {shown(now)} and was {shown(before)}" for name, (before, now) in changes.items()]
    more = len(parts) - _LISTED
    return ", ".join(parts[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _new_run(checkpoint: str) -> str:
    return f"start a new run from its weights (model_name_or_path: {checkpoint})"


def shown(value: Any) -> str:
    """A value as it is written on a command line; `not set` for none."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list | tuple):
        return clip(" ".join(map(shown, value)), _LONGEST_VALUE)
    text = value if isinstance(value, str) else json.dumps(value)
    return clip(" ".join(text.split()), _LONGEST_VALUE)
