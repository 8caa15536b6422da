"""What a checkpoint records of its run: all options, what identifies the proteins, and how many records were read."""

from collections.abc import Mapping, Sized
from typing import Any

from torch.utils.data import IterableDataset

from adversarial_mlm.data.order import KeyedRecords
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.saving.options_record import OptionsRecord
from adversarial_mlm.training.batch_schedule import micro_steps_before, read_stages
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.utils.hashing import fingerprint_of_parts

_SAMPLED = 16  # records of a dataset that are compared

_OF_RULES = (
    *("mask_options", "adversarial_rate", "random_rate", "learned_options", "sampler", "selection", "gated"),
    *("temperature", "candidate_rate", "span_length", "protein_share"),
)


def options_of(
    args: AdversarialMLMTrainingArguments, collator: DataCollatorForRandomMLM, recipe: Any = None
) -> dict[str, Any]:
    """All options of a run, under the names that they have in a recipe.

    Args:
        args ([`AdversarialMLMTrainingArguments`]): Options of the trainer.
        collator ([`DataCollatorForRandomMLM`]): Has those of the masks.
        recipe ([`Recipe`], *optional*): Has all options, also those of data and networks.
    """
    noiser = collator.noiser
    found = {
        "masking": _way_of_masking(collator),
        "max_length": collator.sequence_encoder.max_length,
        **{name: getattr(collator.rules, name) for name in _OF_RULES},
        "mask_rate": list(collator.rules.rate_schedule),
        "mask_rate_curve": collator.rules.rate_curve,
        **args.to_dict(),
    }
    if recipe is not None:
        found |= recipe.options()
    if noiser is not None:  # also the form of one that was loaded
        found |= {"noiser_view": noiser.config.view, "noiser_backbone": noiser.config.backbone}
    return found


def _way_of_masking(collator: DataCollatorForRandomMLM) -> str:
    if collator.noiser is None:
        return collator.rules.positions
    return "adversarial" if collator.chooses_positions else "chosen_proteins"


def identity_of_data(train: Any, held_out: Any) -> dict[str, Any]:
    """What identifies the proteins of a run.

    Args:
        train: The training set.
        held_out: A held-out set, or several by name; `None` if there are none.

    Returns:
        `dict` with `train` and, by name, `held_out`: the number of `records`, and a hash of a `sample` of evenly
        spaced sequences. `None` for a stream. A dataset that changes its sequences at random has no `sample`.
    """
    parts = held_out if isinstance(held_out, Mapping) else {} if held_out is None else {"": held_out}
    return {"train": _identity(train), "held_out": {name: _identity(part) for name, part in parts.items()}}


def _identity(dataset: Any) -> dict[str, Any] | None:
    if not isinstance(dataset, Sized) or isinstance(dataset, IterableDataset) or not len(dataset):
        return None
    last, steps = len(dataset) - 1, _SAMPLED - 1
    records = sorted({last * step // steps for step in range(_SAMPLED)})
    keyed = KeyedRecords(dataset)
    samples = {
        fingerprint_of_parts(f"{example.get('sequence')}\n" for example in keyed.__getitems__(records))
        for _ in range(2)
    }
    return {"records": len(dataset), "sample": samples.pop() if len(samples) == 1 else None}


def records_read(record: OptionsRecord, updates: int) -> int | None:
    """Records that a run has read in its complete updates; `None` if its options are not known.

    Args:
        record ([`OptionsRecord`]): Options of the run, and its number of processes.
        updates (`int`): Updates of the encoder.
    """
    options, processes = record.options, record.processes
    if processes is None:
        return None
    try:
        if options.get("global_batch_size"):
            stages = read_stages(options["global_batch_size"], "global_batch_size", options["max_steps"])
            return micro_steps_before(updates, stages)
        return updates * options["per_device_train_batch_size"] * options["gradient_accumulation_steps"] * processes
    except (KeyError, TypeError, ValueError):
        return None
