"""Load the data of TAPE's tasks, and of a user's own table."""

import os
from collections.abc import Sequence

from adversarial_mlm.downstream.definitions import (
    KINDS,
    RESIDUE_CLASSES,
    TASKS,
    Task,
    own_task,
    with_groups,
    with_labels,
    with_target,
)
from adversarial_mlm.downstream.labels import UNSEEN_LABEL, read_mark
from adversarial_mlm.downstream.reading import read_records
from adversarial_mlm.downstream.records import SplitRecords, read_split
from adversarial_mlm.downstream.task_data import (
    TaskData,
    check_at_least,
    check_groups,
    left_out_facts,
    random_note,
    split_at_random,
    split_with_mark,
    task_data,
)
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

# in search order
_ENDINGS = (".jsonl.gz", ".jsonl", ".json.gz", ".json", ".lmdb")

VALIDATION = "validation"
"""FLIP's column that marks the rows of train that are validation data."""

_SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLIT_NAMES |= dict.fromkeys(("valid", "validation", "val", "dev"), "valid")


def load_task(
    task: Task | str,
    data_dir: str | os.PathLike,
    *,
    file_prefix: str | None = None,
    target: str | None = None,
    group_column: str | None = None,
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
        group_column (`str`, *optional*): a column with groups that intervals resample, see [`with_groups`]; train may
            lack it.
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
    task = with_groups(task, group_column)
    grouped = [] if group_column is None else [group_column]
    if not (file_prefix or task.file_prefix):
        raise CorpusError(f"{task.name} has no file_prefix: set one, or use load_own_task.")
    check_at_least(1, max_records=max_records)
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
    records = {
        split: read_split(task, path, list(task.remarks), grouped if split != "train" else ())
        for split, path in files.items()
    }
    check_groups(group_column, records, files)
    facts = {
        "files": {split: os.path.relpath(path, data_dir) for split, path in files.items()},
        "other_target_than_tape": other_target,
        "left_out": left_out_facts(records, files, notes),
    }
    return task_data(task, records, facts, notes, max_records)


def load_own_task(
    task: Task,
    train_file: str | os.PathLike,
    *,
    valid_file: str | os.PathLike | None = None,
    test_file: str | os.PathLike | None = None,
    split_column: str | None = None,
    group_column: str | None = None,
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
            `validation`, `val` or `dev`; `test`. If there is also a column `validation` of only true, false and
            missing values, as in FLIP's files, the rows of train that it marks as true are validation data.
        group_column (`str`, *optional*): a column with groups that intervals resample, see [`with_groups`].
        valid_fraction (`float`, defaults to 0.1): share of the distinct sequences in valid, for a random split.
        test_fraction (`float`, defaults to 0.1): the same for test.
        seed (`int`, defaults to 0): seed of the random split.
        max_records (`int`, *optional*): maximum number of records of each split, always the same random ones.

    Returns:
        [`TaskData`]: as from [`load_task`]; `facts["split"]` describes how the splits were made.

    Raises:
        [`CorpusError`]: if the options contradict each other, a split would be empty, or as [`load_task`].
    """
    check_at_least(1, max_records=max_records)
    check_at_least(0, seed=seed)
    _check_fractions(valid_fraction=valid_fraction, test_fraction=test_fraction)
    paths = _paths_of_splits(train_file, valid_file, test_file, split_column)
    task = with_groups(task, group_column)
    marks = [column for column in (split_column, group_column) if column is not None]
    optional = [VALIDATION] if split_column is not None and split_column.strip() != VALIDATION else []
    records = {split: read_split(task, path, optional, marks) for split, path in paths.items()}
    check_groups(group_column, records, paths)
    notes: list[str] = []
    left_out = left_out_facts(records, paths, notes)
    how = "files"
    if split_column is not None:
        marked = any(_validation_marks(records["train"]))
        records = _split_by_column(records["train"], split_column, paths["train"])
        how = f'column "{split_column}"' + f' and column "{VALIDATION}"' * marked
    wanted = {"test": test_fraction, "valid": valid_fraction}
    wanted = {split: fraction for split, fraction in wanted.items() if split not in records}
    if wanted:
        records |= split_at_random(records["train"], wanted, seed)
        how = f"{how}; {' and '.join(wanted)} at random with seed {seed}"
        notes.append(random_note(wanted, seed))
    facts = {
        "files": {split: os.path.basename(path) for split, path in paths.items()},
        "split": how,
        "left_out": left_out,
    }
    return task_data(task, {split: records[split] for split in task.splits}, facts, notes, max_records)


def _check_fractions(**fractions: float) -> None:
    for option, fraction in fractions.items():
        if not 0.0 < fraction < 1.0:
            raise CorpusError(f"{option} must be between 0 and 1, got {fraction!r}.")


def _paths_of_splits(
    train_file: str | os.PathLike,
    valid_file: str | os.PathLike | None,
    test_file: str | os.PathLike | None,
    split_column: str | None,
) -> dict[str, str]:
    """Split → path of its file, of the splits that have one.

    Raises:
        CorpusError: If the files contradict each other or the column that names the split.
    """
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
    return paths


def _find_files(task: Task, data_dir: str, prefix: str, notes: list[str]) -> dict[str, str]:
    folders = [os.path.join(data_dir, task.name), data_dir]
    files, missing = {}, []
    for split in task.splits:
        path = find_file(folders, f"{prefix}_{split}")
        # labels of another set of files only mean the same if the classes are fixed
        if path is None and prefix != task.file_prefix and split in task.tests and task.class_names:
            path = find_file(folders, f"{task.file_prefix}_{split}")
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


def find_file(folders: Sequence[str], name: str) -> str | None:
    """Return the file of this name, with the ending of one of TAPE's formats, in the first folder that has it."""
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
    values, marks = records.remarks.pop(column, []), _validation_marks(records)
    records.remarks.pop(VALIDATION, None)
    rows: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for row, value in enumerate(values):
        split = _SPLIT_NAMES.get(str(value).strip().lower())
        if split is None:
            raise CorpusError(
                f'{path}: {records.where[row]}: column "{column}" contains {shorten(str(value))}, but must contain '
                "train, valid (or validation, val, dev) or test."
            )
        rows[split_with_mark(split, marks[row], f"{path}: {records.where[row]}", column)].append(row)
    for split in ("train", "test"):
        if not rows[split]:
            raise CorpusError(f'{path}: column "{column}" has no record with {split}.')
    return {split: records.select(chosen) for split, chosen in rows.items() if chosen}


def _validation_marks(records: SplitRecords) -> list[bool]:
    """Return which rows the column `validation` marks; none if it holds anything but true, false and missing."""
    values = records.remarks.get(VALIDATION, [None] * len(records))
    marks = [read_mark(value) for value in values]
    return [False] * len(marks) if None in marks else [bool(mark) for mark in marks]
