"""The data of a task: its splits as datasets, its classes, facts and warnings. `tasks.py` and `flip.py` load it."""

import dataclasses
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from adversarial_mlm.downstream.definitions import Task
from adversarial_mlm.downstream.labels import UNSEEN_LABEL, is_missing
from adversarial_mlm.downstream.records import (
    SplitRecords,
    check_minus_one,
    fingerprint,
    number_classes,
    to_dataset,
)
from adversarial_mlm.masking.losses import IGNORE_INDEX
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import CorpusError, shorten

logger = logging.getLogger(__name__)


@dataclass
class TaskData:
    """The data of a task, as returned by [`load_task`] and [`load_own_task`].

    Attributes:
        task ([`Task`]): what to predict.
        splits (`dict[str, datasets.Dataset]`): by name, in the order of `task.splits`. Columns are `id` (string),
            `sequence` (string, clean), `label`, and the columns of `task.remarks` that the files have. A label is a
            float32, an int64 (-1 for a class that train lacks), or a list of int64, one per residue (also -100 for
            residues that do not count).
        facts (`dict`): plain values for JSON, by split unless noted:

            - `files`, `rows_in_file`, `rows` (fewer with `max_records`), `expected_rows`, `differences` from them;
            - `left_out`: numbers of records that are not in `rows` by reason, by split of the file;
            - `missing_splits` (a list);
            - `other_target_than_tape`: whether the files have TAPE's target, but another column is the target;
            - `fingerprints` of ids, sequences and labels; `cleaning`: what was changed in sequences, in the counts of
              [`CleaningCounts`];
            - `shared_with_train`: number of records whose sequence is in train;
            - for regressions `label_mean`, `label_std`; for classes `num_classes` (a number), `unseen_classes`;
            - for residues `residues`, `masked_residues`, `records_without_mask`, and `records_kept_in_place` (a gap or
              stop became an unknown residue);
            - `notes`: a list of all logged warnings.
        classes (`list[str]`, *optional*): names of the classes; a class's index is its number.
    """

    task: Task
    splits: dict[str, Dataset]
    facts: dict[str, Any]
    classes: list[str] | None

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 for a regression."""
        return len(self.classes or ())


def left_out_facts(
    records: dict[str, SplitRecords], files: dict[str, str], notes: list[str]
) -> dict[str, dict[str, int]]:
    """Return the numbers of records that were left out by reason, for each file, and add a note for each."""
    found = {split: of_split.left_out for split, of_split in records.items() if of_split.left_out.total}
    for split, left_out in found.items():
        notes.append(f"{os.path.basename(files[split])}: {left_out.summary(len(records[split]) + left_out.total)}.")
    return {split: dict(left_out.counts) for split, left_out in found.items()}


def check_at_least(least: int, **options: int | None) -> None:
    """Refuse an option below a number; `None` is allowed.

    Raises:
        [`CorpusError`]: if one is.
    """
    for option, value in options.items():
        if value is not None and value < least:
            raise CorpusError(f"{option} must be {least} or more, got {value!r}.")


def check_groups(column: str | None, records: dict[str, SplitRecords], files: dict[str, str]) -> None:
    """Check that a column of groups has values in every split but train.

    Raises:
        [`CorpusError`]: if not.
    """
    for split, found in records.items():
        if column is not None and (split != "train" or len(records) == 1):
            if all(value is None or is_missing(value) for value in found.remarks.get(column, [None])):
                raise CorpusError(f'{files[split]}: column "{column}" (group_column) contains missing values only.')


def split_with_mark(split: str, marked: bool, place: str, column: str) -> str:
    """Return the split of a row, given whether it is marked as validation data.

    Args:
        split (`str`): what the row is by the column of splits.
        marked (`bool`): whether the row is validation data.
        place (`str`): file and row, for messages.
        column (`str`): the column of splits, for messages.

    Raises:
        [`CorpusError`]: if a row of a test set is marked.
    """
    if marked and split not in ("train", "valid"):
        raise CorpusError(f'{place}: "{column}" is {split}, but validation is true: correct one of them.')
    return "valid" if marked else split


def random_note(splits: Iterable[str], seed: int) -> str:
    """Return the note about splits that were drawn from train."""
    return (
        f"{' and '.join(splits)}: taken from train at random (seed {seed}). Related proteins stay in train, so the "
        "results are too optimistic."
    )


def split_at_random(records: SplitRecords, fractions: dict[str, float], seed: int) -> dict[str, SplitRecords]:
    """Return the splits of `fractions`, and the rest as train; equal sequences stay together."""
    distinct = list(dict.fromkeys(records.sequences))
    order = np.random.default_rng(seed).permutation(len(distinct))
    side = dict.fromkeys(distinct, "train")
    start = 0
    for split, fraction in fractions.items():
        stop = start + max(1, round(fraction * len(distinct)))
        side.update((distinct[index], split) for index in order[start:stop])
        start = stop
    if start >= len(distinct):
        raise CorpusError(
            f"{count(len(distinct), 'distinct sequence')} {verb(len(distinct), 'is', 'are')} too few to take "
            f"{' and '.join(fractions)} from them: add "
            "records, or give separate files."
        )
    sides = [side[sequence] for sequence in records.sequences]
    return {
        split: records.select([row for row, chosen in enumerate(sides) if chosen == split])
        for split in ("train", *fractions)
    }


def task_data(
    task: Task,
    records: dict[str, SplitRecords],
    facts: dict[str, Any],
    notes: list[str],
    max_records: int | None,
) -> TaskData:
    """Make the data of a task from the records of its splits, and log its notes.

    Args:
        task ([`Task`]): what to predict.
        records (`dict[str, SplitRecords]`): the records by split, train first.
        facts (`dict`): what is known of the files, see [`TaskData`].
        notes (`list[str]`): warnings so far.
        max_records (`int`, *optional*): maximum number of records of each split, always the same random ones.

    Raises:
        [`CorpusError`]: if all labels of train are the same, or as [`check_minus_one`].
    """
    facts = {"task": task.name, "kind": task.kind, "target": task.target, **facts}
    facts["rows_in_file"] = {split: len(found) + found.left_out.total for split, found in records.items()}
    _compare_with_table_1(task, facts, notes)
    facts["max_records"] = max_records
    if max_records is not None:
        notes.append(f"at most {count(max_records, 'record')} of each split are used (max_records).")
        records = {split: _at_most(found, max_records) for split, found in records.items()}
    facts["cleaning"] = {}
    for split, found in records.items():
        counts = found.cleaning()
        changed = dataclasses.replace(counts, records_read=0, records_kept=0).as_dict()
        facts["cleaning"][split] = {name: number for name, number in changed.items() if number}
        if facts["cleaning"][split]:
            notes.append(f"{split}: {counts.summary()}.")
    facts["rows"] = {split: len(found) for split, found in records.items()}
    facts["shared_with_train"] = _shared_with_train(records, notes)
    check_minus_one(task, records.values())
    classes = number_classes(task, records["train"])
    splits = {split: to_dataset(task, found, classes) for split, found in records.items()}
    facts["fingerprints"] = {split: fingerprint(dataset) for split, dataset in splits.items()}
    if classes is None:
        _describe_numbers(splits, facts, notes)
    else:
        _describe_classes(task, records, splits, classes, facts, notes)
    facts["notes"] = notes
    for note in notes:
        logger.warning("%s: %s", task.name, note)
    return TaskData(task, splits, facts, classes)


def _compare_with_table_1(task: Task, facts: dict[str, Any], notes: list[str]) -> None:
    rows = facts["rows_in_file"]
    facts["expected_rows"] = dict(task.table_1)
    facts["missing_splits"] = [split for split in task.table_1 if split not in rows]
    facts["differences"] = {
        split: rows[split] - expected
        for split, expected in task.table_1.items()
        if split in rows and rows[split] != expected
    }
    for split, difference in facts["differences"].items():
        source = "the paper's Table 1" if split in ("train", "valid", task.headline) else "TAPE"
        notes.append(
            f"{split}: {count(rows[split], 'record')}, {abs(difference):,} "
            f"{'more' if difference > 0 else 'fewer'} than the "
            f"{task.table_1[split]:,} of {source}."
        )


def _at_most(records: SplitRecords, number: int) -> SplitRecords:
    if len(records) <= number:
        return records
    # at random, because the files of homology are sorted by fold
    rows = np.random.default_rng(0).choice(len(records), number, replace=False)
    return records.select(sorted(rows.tolist()))


def _shared_with_train(records: dict[str, SplitRecords], notes: list[str]) -> dict[str, int]:
    in_train = set(records["train"].sequences)
    shared = {
        split: sum(sequence in in_train for sequence in found.sequences)
        for split, found in records.items()
        if split != "train"
    }
    for split, number in shared.items():
        if number:
            notes.append(
                f"{split}: the sequences of {number:,} of {count(len(records[split]), 'record')} are also in train."
            )
    return shared


def _describe_numbers(splits: dict[str, Dataset], facts: dict[str, Any], notes: list[str]) -> None:
    facts["label_mean"], facts["label_std"] = {}, {}
    for split, dataset in splits.items():
        labels = np.asarray(dataset["label"][:], dtype=np.float64)
        facts["label_mean"][split] = float(labels.mean())
        facts["label_std"][split] = float(labels.std())
        if split != "train" and np.ptp(labels) == 0.0:
            notes.append(f"{split}: all labels are {labels[0]:g}, so the rank correlation is not defined.")


def _describe_classes(
    task: Task,
    records: dict[str, SplitRecords],
    splits: dict[str, Dataset],
    classes: list[str],
    facts: dict[str, Any],
    notes: list[str],
) -> None:
    facts["num_classes"] = len(classes)
    _note_classes_of_one_spelling(classes, notes)
    facts["unseen_classes"] = {}
    of_residues = task.kind == "token_classification"
    what = "residues" if of_residues else "records"
    for split, found in records.items():
        labels = splits[split].with_format("numpy")["label"][:]
        labels = np.concatenate(labels) if of_residues else np.asarray(labels)
        names = {name for target in found.targets for name in (target if of_residues else [target])} - {None}
        unseen = {"classes": len(names - set(classes)), what: int((labels == UNSEEN_LABEL).sum())}
        if unseen["classes"]:
            facts["unseen_classes"][split] = unseen
            notes.append(
                f"{split}: {count(unseen[what], what[:-1])} {verb(unseen[what], 'belongs', 'belong')} to "
                f"{count(unseen['classes'], 'class', 'classes')} that train lacks; no model can predict them."
            )
        if of_residues:
            masked, without_mask = int((labels == IGNORE_INDEX).sum()), sum(found.without_mask)
            facts.setdefault("residues", {})[split] = len(labels)
            facts.setdefault("masked_residues", {})[split] = masked
            facts.setdefault("records_without_mask", {})[split] = without_mask
            facts.setdefault("records_kept_in_place", {})[split] = sum(found.kept_in_place)
            if task.mask_column and without_mask:
                notes.append(
                    f"{split}: {count(without_mask, 'record')} {verb(without_mask, 'has', 'have')} no "
                    f"{task.mask_column}; all their residues count."
                )
            if masked and not task.file_prefix:  # TAPE's tasks always have such residues
                notes.append(
                    f"{split}: {masked:,} of {count(len(labels), 'residue')} {verb(masked, 'does', 'do')} not count "
                    "(no label, or masked)."
                )
            if masked == len(labels):
                raise CorpusError(
                    f"{task.name}: no residue of {split} has a label that counts: check the labels and the mask."
                )


def _note_classes_of_one_spelling(classes: list[str], notes: list[str]) -> None:
    """Note names that differ only in case. Single letters are left out, because case often has a meaning there."""
    spellings: dict[str, list[str]] = {}
    for name in classes:
        if len(name) > 1:
            spellings.setdefault(name.lower(), []).append(name)
    alike = [names for names in spellings.values() if len(names) > 1]
    if alike:
        listed = " and ".join(map(shorten, alike[0]))
        more = f", and {len(alike) - 1} more such classes" if len(alike) > 1 else ""
        notes.append(f"the classes {listed} differ only in case{more}; each counts as a class of its own.")
