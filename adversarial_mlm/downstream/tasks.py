"""The data of a task: its splits as datasets, its classes, facts and warnings."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from adversarial_mlm.downstream.definitions import (
    KINDS,
    RESIDUE_CLASSES,
    TASKS,
    Task,
    own_task,
    with_labels,
    with_target,
)
from adversarial_mlm.downstream.labels import UNSEEN_LABEL
from adversarial_mlm.downstream.reading import read_records
from adversarial_mlm.downstream.records import (
    SplitRecords,
    check_minus_one,
    fingerprint,
    number_classes,
    read_split,
    to_dataset,
)
from adversarial_mlm.masking.losses import IGNORE_INDEX
from adversarial_mlm.utils.errors import CorpusError, shorten

__all__ = [
    "KINDS",
    "RESIDUE_CLASSES",
    "TASKS",
    "UNSEEN_LABEL",
    "Task",
    "TaskData",
    "load_own_task",
    "load_task",
    "own_task",
    "with_labels",
    "with_target",
]

logger = logging.getLogger(__name__)

# in search order
_ENDINGS = (".jsonl.gz", ".jsonl", ".json.gz", ".json", ".lmdb")

_SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLIT_NAMES |= dict.fromkeys(("valid", "validation", "val", "dev"), "valid")


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


def load_task(
    task: Task | str,
    data_dir: str | os.PathLike,
    *,
    file_prefix: str | None = None,
    target: str | None = None,
    max_records: int | None = None,
) -> TaskData:
    """Load one of TAPE's tasks, or data of the same form.

    A split is the file `<file_prefix>_<split>` with the ending `.jsonl`, `.json` (both also with `.gz`) or `.lmdb`, in
    `data_dir` or in its folder `<name of the task>`.

    Args:
        task ([`Task`] or `str`): the task, or its name in [`TASKS`].
        data_dir (`str` or path): the folder with the data.
        file_prefix (`str`, *optional*): another prefix of the file names, such as `"scope208"`. Test sets of secondary
            structure without such a file are taken from the task's usual files, with a warning.
        target (`str`, *optional*): another column as the target, see [`with_target`].
        max_records (`int`, *optional*): maximum number of records of each split, always the same random ones.

    Returns:
        [`TaskData`]: the splits that exist. Warnings are logged, and counted in `facts`, for differences from the
        paper's Table 1, missing test sets, classes that train lacks, and sequences that are also in train.

    Raises:
        [`CorpusError`]: if the task is unknown; if train, valid or the headline test set is missing; if a file or a
            record is invalid; or if all labels of train are the same.
    """
    if isinstance(task, str):
        if task not in TASKS:
            raise CorpusError(f"there is no task {task!r}: choose one of {', '.join(TASKS)}.")
        task = TASKS[task]
    if target is not None:
        task = with_target(task, target)
    if not (file_prefix or task.file_prefix):
        raise CorpusError(f"{task.name} has no file_prefix: set one, or use load_own_task.")
    _check_at_least(1, max_records=max_records)
    data_dir = os.path.expanduser(os.fspath(data_dir))
    if not os.path.isdir(data_dir):
        raise CorpusError(f"{data_dir}: there is no such folder (data_dir).")
    notes: list[str] = []
    files = _find_files(task, data_dir, file_prefix or task.file_prefix, notes)
    files = {split: path for split, path in files.items() if _is_labelled(task, split, path, notes)}
    other_target = task.tape_target not in (None, task.target) and _has_column(files["train"], task.tape_target)
    if other_target:
        notes.append(
            f"the target is {task.target}, but TAPE and the paper use {task.tape_target} of files that have both."
        )
    records = {split: read_split(task, path, list(task.remarks)) for split, path in files.items()}
    facts = {
        "files": {split: os.path.relpath(path, data_dir) for split, path in files.items()},
        "other_target_than_tape": other_target,
        "left_out": _left_out(records, files, notes),
    }
    return _task_data(task, records, facts, notes, max_records)


def load_own_task(
    task: Task,
    train_file: str | os.PathLike,
    *,
    valid_file: str | os.PathLike | None = None,
    test_file: str | os.PathLike | None = None,
    split_column: str | None = None,
    valid_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    max_records: int | None = None,
) -> TaskData:
    """Load your own task from CSV, TSV, JSON, Parquet or LMDB (see [`read_records`]).

    The splits are three files, one file with a column that names the split, or one file that is split at random. If
    only validation data are missing, they are drawn from train. Equal sequences are always in the same part of a
    random split; related ones may not be, and a warning says so.

    Args:
        task ([`Task`]): what to predict, from [`own_task`].
        train_file (`str` or path): training data, or all data.
        valid_file (`str` or path, *optional*): validation data.
        test_file (`str` or path, *optional*): test data.
        split_column (`str`, *optional*): the column of `train_file` that names the split: `train`; `valid`,
            `validation`, `val` or `dev`; `test`.
        valid_fraction (`float`, defaults to 0.1): share of the distinct sequences in valid, for a random split.
        test_fraction (`float`, defaults to 0.1): the same for test.
        seed (`int`, defaults to 0): seed of the random split.
        max_records (`int`, *optional*): maximum number of records of each split, always the same random ones.

    Returns:
        [`TaskData`]: as from [`load_task`]; `facts["split"]` describes how the splits were made.

    Raises:
        [`CorpusError`]: if the options contradict each other, a split would be empty, or as [`load_task`].
    """
    _check_at_least(1, max_records=max_records)
    _check_at_least(0, seed=seed)
    for option, fraction in (("valid_fraction", valid_fraction), ("test_fraction", test_fraction)):
        if not 0.0 < fraction < 1.0:
            raise CorpusError(f"{option} must be between 0 and 1, got {fraction!r}.")
    if split_column is not None and (valid_file is not None or test_file is not None):
        raise CorpusError(
            "split_column names the splits of one file and cannot be combined with valid_file or test_file: remove "
            "one."
        )
    if valid_file is not None and test_file is None:
        raise CorpusError(
            "valid_file is given without test_file: give both, or neither to split train_file at random."
        )
    given = {"train": train_file, "valid": valid_file, "test": test_file}
    paths = {split: os.path.expanduser(os.fspath(path)) for split, path in given.items() if path is not None}
    if len({os.path.realpath(path) for path in paths.values()}) < len(paths):
        raise CorpusError(f"a file is named for more than one split: {', '.join(paths.values())}.")
    marks = [split_column] if split_column is not None else []
    records = {split: read_split(task, path, required_remarks=marks) for split, path in paths.items()}
    notes: list[str] = []
    left_out = _left_out(records, paths, notes)
    how = "files"
    if split_column is not None:
        records, how = _split_by_column(records["train"], split_column, paths["train"]), f'column "{split_column}"'
    wanted = {"test": test_fraction, "valid": valid_fraction}
    wanted = {split: fraction for split, fraction in wanted.items() if split not in records}
    if wanted:
        records |= _split_at_random(records["train"], wanted, seed)
        how = f"{how}; {' and '.join(wanted)} at random with seed {seed}"
        notes.append(
            f"{' and '.join(wanted)}: taken from train at random (seed {seed}). Related proteins stay in train, so "
            "the results are too optimistic."
        )
    facts = {
        "files": {split: os.path.basename(path) for split, path in paths.items()},
        "split": how,
        "left_out": left_out,
    }
    return _task_data(task, {split: records[split] for split in task.splits}, facts, notes, max_records)


def _left_out(records: dict[str, SplitRecords], files: dict[str, str], notes: list[str]) -> dict[str, dict[str, int]]:
    """Return the numbers of records that were left out by reason, for each file, and add a note for each."""
    found = {split: of_split.left_out for split, of_split in records.items() if of_split.left_out.total}
    for split, left_out in found.items():
        notes.append(f"{os.path.basename(files[split])}: {left_out.summary(len(records[split]) + left_out.total)}.")
    return {split: dict(left_out.counts) for split, left_out in found.items()}


def _check_at_least(least: int, **options: int | None) -> None:
    for option, value in options.items():
        if value is not None and value < least:
            raise CorpusError(f"{option} must be {least} or more, got {value!r}.")


def _find_files(task: Task, data_dir: str, prefix: str, notes: list[str]) -> dict[str, str]:
    folders = [os.path.join(data_dir, task.name), data_dir]
    files, missing = {}, []
    for split in task.splits:
        path = _find_file(folders, f"{prefix}_{split}")
        # labels of another set of files only mean the same if the classes are fixed
        if path is None and prefix != task.file_prefix and split in task.tests and task.class_names:
            path = _find_file(folders, f"{task.file_prefix}_{split}")
            if path is not None:
                notes.append(f'{split}: no file name begins with "{prefix}", so {os.path.basename(path)} is used.')
        if path is not None:
            files[split] = path
        elif split not in task.optional_splits:
            missing.append(split)
    needed = [split for split in missing if split in ("train", "valid", task.headline)]
    if needed:
        raise CorpusError(
            f"{data_dir}: {task.name} needs the split{'s' if len(needed) > 1 else ''} {', '.join(needed)}, but there "
            f"is no file {prefix}_{needed[0]} with one of the endings {', '.join(_ENDINGS)} in it or in its folder "
            f"{task.name}."
        )
    notes.extend(f"{split}: missing, there is no file {prefix}_{split}." for split in missing)
    return files


def _find_file(folders: Sequence[str], name: str) -> str | None:
    paths = (os.path.join(folder, name + ending) for folder in folders for ending in _ENDINGS)
    return next(filter(os.path.exists, paths), None)


def _is_labelled(task: Task, split: str, path: str, notes: list[str]) -> bool:
    """Whether to read a split. Other test sets than the headline may lack the target, such as 8 states."""
    if split in ("train", "valid", task.headline):
        return True
    labelled = _has_column(path, task.target)
    if not labelled:
        notes.append(f'{split}: left out, {os.path.basename(path)} has no column "{task.target}".')
    return labelled


def _has_column(path: str, column: str) -> bool:
    """Whether the first record of a file has a column."""
    _, first = next(read_records(path, [], [column]))
    return column in first


def _split_by_column(records: SplitRecords, column: str, path: str) -> dict[str, SplitRecords]:
    values = records.remarks.pop(column, [])
    rows: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for row, value in enumerate(values):
        split = _SPLIT_NAMES.get(str(value).strip().lower())
        if split is None:
            raise CorpusError(
                f'{path}: {records.where[row]}: column "{column}" contains {shorten(str(value))}, but must contain '
                "train, valid (or validation, val, dev) or test."
            )
        rows[split].append(row)
    for split in ("train", "test"):
        if not rows[split]:
            raise CorpusError(f'{path}: column "{column}" has no record with {split}.')
    return {split: records.select(chosen) for split, chosen in rows.items() if chosen}


def _split_at_random(records: SplitRecords, fractions: dict[str, float], seed: int) -> dict[str, SplitRecords]:
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
            f"{len(distinct):,} distinct sequences are too few to take {' and '.join(fractions)} from them: add "
            "records, or give separate files."
        )
    sides = [side[sequence] for sequence in records.sequences]
    return {
        split: records.select([row for row, chosen in enumerate(sides) if chosen == split])
        for split in ("train", *fractions)
    }


def _task_data(
    task: Task,
    records: dict[str, SplitRecords],
    facts: dict[str, Any],
    notes: list[str],
    max_records: int | None,
) -> TaskData:
    facts = {"task": task.name, "kind": task.kind, "target": task.target, **facts}
    facts["rows_in_file"] = {split: len(found) + found.left_out.total for split, found in records.items()}
    _compare_with_table_1(task, facts, notes)
    facts["max_records"] = max_records
    if max_records is not None:
        notes.append(f"at most {max_records:,} records of each split are used (max_records).")
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
            f"{split}: {rows[split]:,} records, {abs(difference):,} {'more' if difference > 0 else 'fewer'} than the "
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
            notes.append(f"{split}: the sequences of {number:,} of {len(records[split]):,} records are also in train.")
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
                f"{split}: {unseen[what]:,} {what} belong to {unseen['classes']:,} classes that train lacks; no model "
                "can predict them."
            )
        if of_residues:
            masked, without_mask = int((labels == IGNORE_INDEX).sum()), sum(found.without_mask)
            facts.setdefault("residues", {})[split] = len(labels)
            facts.setdefault("masked_residues", {})[split] = masked
            facts.setdefault("records_without_mask", {})[split] = without_mask
            facts.setdefault("records_kept_in_place", {})[split] = sum(found.kept_in_place)
            if task.mask_column and without_mask:
                notes.append(
                    f"{split}: {without_mask:,} records have no {task.mask_column}; all their residues count."
                )
            if masked and not task.file_prefix:  # TAPE's tasks always have such residues
                notes.append(f"{split}: {masked:,} of {len(labels):,} residues do not count (no label, or masked).")
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
