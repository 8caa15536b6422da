"""One split: turn the records of a file into sequences, labels and remarks, and into a dataset."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value

from adversarial_mlm.data.cleaning import CleanedSequence, CleaningCounts, clean_sequence
from adversarial_mlm.downstream.definitions import Task
from adversarial_mlm.downstream.labels import (
    UNSEEN_LABEL,
    is_missing,
    read_class,
    read_mask,
    read_number,
    read_residue_classes,
    read_sequence,
    read_text,
    read_whole_number,
    sorted_classes,
)
from adversarial_mlm.downstream.left_out import NO_LABEL, LeftOut
from adversarial_mlm.downstream.reading import read_records
from adversarial_mlm.masking.losses import IGNORE_INDEX
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import CorpusError, one_line, shorten
from adversarial_mlm.utils.hashing import fingerprint_of_parts

_LABEL_FEATURES = {
    "regression": Value("float32"),
    "classification": Value("int64"),
    "token_classification": List(Value("int64")),
}

# Cleaning removes these characters. Where each residue has a label, they become unknown residues, because they may
# have a label. White space has none.
_KEPT_IN_PLACE = re.compile(r"[*.\-]")


@dataclass
class SplitRecords:
    """The records of one split as lists of equal length, with classes by name.

    Attributes:
        ids (`list[str]`): the id of each record, or its number in the file.
        where (`list[str]`): where each record is in the file, such as `"line 3"`.
        sequences (`list[str]`): clean sequences.
        targets (`list`): a `float`, the name of a class, or a list with the class name (or None) of each residue.
        remarks (`dict[str, list]`): columns that metrics need, by name.
        repairs (`list[CleanedSequence]`): what cleaning changed; their sequences are empty.
        without_mask (`list[bool]`): whether the record has no mask; then all its residues count.
        kept_in_place (`list[bool]`): whether `*` or gaps became unknown residues.
        left_out (`LeftOut`): records of the file that are not among these, because they have no label.
    """

    ids: list[str] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)
    remarks: dict[str, list[Any]] = field(default_factory=dict)
    repairs: list[CleanedSequence] = field(default_factory=list)
    without_mask: list[bool] = field(default_factory=list)
    kept_in_place: list[bool] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: Sequence[int]) -> "SplitRecords":
        """Return the records with these indices."""
        selected: dict[str, Any] = {"remarks": {}}
        for option in fields(self):
            if option.name not in ("remarks", "left_out"):
                values = getattr(self, option.name)
                selected[option.name] = [values[row] for row in rows]
        for name, values in self.remarks.items():
            selected["remarks"][name] = [values[row] for row in rows]
        return SplitRecords(**selected)

    def cleaning(self) -> CleaningCounts:
        """Count what cleaning changed."""
        counts = CleaningCounts(records_read=len(self) + self.left_out.total, records_kept=len(self))
        for repairs in self.repairs:
            counts.add(repairs)
        return counts


def in_place(text: str) -> tuple[str, int]:
    """Make unknown residues of `*` and gaps, so that cleaning moves no residue; return also their number."""
    return _KEPT_IN_PLACE.subn("?", text)


def read_split(
    task: Task, path: str, remarks: Sequence[str] = (), required_remarks: Sequence[str] = ()
) -> SplitRecords:
    """Read and clean the records of one file. Records without a label are left out and counted.

    Args:
        task ([`Task`]): the kind of the target, and the columns.
        path (`str`): the file, see [`read_records`].
        remarks (`list[str]`, defaults to none): further columns to keep if the records have them.
        required_remarks (`list[str]`, defaults to none): further columns that every record must have.

    Raises:
        [`CorpusError`]: as [`read_records`]; also if a sequence is empty, a target cannot be read, labels and residues
            differ in number, or no record has a label. The message names file, record and column.
    """
    required = [task.sequence_column, task.target, *required_remarks]
    optional = [task.id_column or "id", *remarks]
    (required if task.mask_required else optional).extend([task.mask_column] if task.mask_column else [])
    if task.id_column:
        required.append(optional.pop(0))
    optional = [column for column in optional if column not in required]
    own = {} if task.file_prefix else {task.sequence_column: "sequence_column", task.target: "target"}
    options = {column: own.get(column, "") for column in required}
    return collect(task, path, read_records(path, options, optional), (*remarks, *required_remarks))


def collect(
    task: Task, path: str, records: Iterable[tuple[str, dict[str, Any]]], remarks: Sequence[str] = ()
) -> SplitRecords:
    """Clean records that were read before. Records without a label are left out and counted.

    Args:
        task ([`Task`]): the kind of the target, and the columns.
        path (`str`): the file, for messages.
        records (`Iterable[tuple[str, dict]]`): location and values by column, as from [`read_records`].
        remarks (`list[str]`, defaults to none): further columns to keep.

    Raises:
        [`CorpusError`]: as [`read_split`].
    """
    found = SplitRecords(remarks={name: [] for name in remarks})
    for number, (where, record) in enumerate(records):
        _add_record(found, task, path, where, number, record)
    if not found.ids:
        raise CorpusError(f'{path}: no record has a label: column "{task.target}" contains missing values only.')
    found.remarks = {
        name: values for name, values in found.remarks.items() if any(value is not None for value in values)
    }
    return found


def _add_record(found: SplitRecords, task: Task, path: str, where: str, number: int, record: dict[str, Any]) -> None:
    column = task.sequence_column
    kept, without_mask = 0, False
    remarks = {}
    try:
        text = read_sequence(record[column])
        if is_missing(text):
            raise ValueError(f"contains {shorten(text)} instead of a sequence" if text else "contains no sequence")
        if task.kind == "token_classification":
            text, kept = in_place(text)
        cleaned = clean_sequence(text)
        if not cleaned.sequence.strip("?"):
            raise ValueError("contains no residues")
        column = task.id_column or "id"
        identifier = read_text(record.get(column))
        column = task.target
        target = _read_target(task, record, len(cleaned.sequence))
        for column in found.remarks:
            read_remark = read_whole_number if task.remarks.get(column) == "int32" else read_text
            remarks[column] = read_remark(record.get(column))
        if target is not None and task.kind == "token_classification" and task.mask_column:
            column = task.mask_column
            without_mask = _apply_mask(target, read_mask(record.get(column)))
    except CorpusError:
        raise
    except ValueError as error:
        raise CorpusError(f'{path}: {where}: column "{column}" {one_line(error)}.') from error
    if target is None:
        found.left_out.add(NO_LABEL, where)
        return
    found.ids.append(str(number) if identifier is None else identifier)
    found.where.append(where)
    found.sequences.append(cleaned.sequence)
    found.targets.append(target)
    for name, value in remarks.items():
        found.remarks[name].append(value)
    found.repairs.append(cleaned._replace(sequence=""))
    found.without_mask.append(without_mask)
    found.kept_in_place.append(kept > 0)


def _read_target(task: Task, record: dict[str, Any], residues: int) -> Any:
    value = record[task.target]
    if task.kind == "regression":
        return read_number(value)
    if task.kind == "classification":
        return read_class(value)
    # TAPE's files mark residues without a state by -1
    classes = read_residue_classes(value, residues, missing=("-1",) if task.class_names else ())
    if classes is None:
        return None
    if len(classes) != residues:
        blanks = " (white space is no label)" if isinstance(value, str) and len(value.split()) > 1 else ""
        raise ValueError(
            f"has {count(len(classes), 'label')}{blanks} for the {count(residues, 'residue')} of column "
            f'"{task.sequence_column}", '
            "but needs one per residue"
        )
    if task.class_names:
        # TAPE's files number the classes in this order
        by_number = {str(index): name for index, name in enumerate(task.class_names)}
        classes = [None if item is None else by_number.get(item, item) for item in classes]
        foreign = {item for item in classes if item is not None} - set(task.class_names)
        if foreign:
            raise ValueError(
                f"contains the class {shorten(min(foreign))}, but the classes are {list(task.class_names)}"
            )
    return classes


def _apply_mask(classes: list[str | None], mask: np.ndarray | None) -> bool:
    """Set the class of residues that do not count to None; return whether there is no mask."""
    if mask is None:
        return True
    if len(mask) != len(classes):
        raise ValueError(
            f"has {count(len(mask), 'value')} for {count(len(classes), 'residue')}, but needs one per residue"
        )
    for position in np.flatnonzero(~mask).tolist():
        classes[position] = None
    return False


def check_minus_one(task: Task, records: Iterable[SplitRecords]) -> None:
    """Refuse the class -1 next to several classes that are numbers from 0, because it may mark missing labels.

    Raises:
        [`CorpusError`]: if so; the message says how to write a missing label, and how a class.
    """
    if task.kind == "regression":
        return
    of_residues = task.kind == "token_classification"
    targets = [target for found in records for target in found.targets]
    names = {name for target in targets for name in (target if of_residues else [target])} - {None}
    others = names - {"-1"}
    if "-1" in names and len(others) > 1 and all(name.isdecimal() for name in others):
        listed = ", ".join(sorted_classes(others)[:3]) + ", ..." * (len(others) > 3)
        raise CorpusError(
            f'{task.name}: column "{task.target}" contains -1 next to the classes {listed}: '
            "write null or -100 if it marks missing labels, or a name such as minus if it is a class."
        )


def number_classes(task: Task, train: SplitRecords) -> list[str] | None:
    """Return the class names in order: those of the task, else those in train; `None` for regression.

    Names that are whole numbers are ordered by number, so classes 0, 1, 2, ... keep their numbers.

    Raises:
        [`CorpusError`]: if all labels of train are the same, or if those of a classification are measured numbers.
    """
    if task.kind == "regression":
        # in the precision in which they are stored
        constant, classes = len(np.unique(np.asarray(train.targets, dtype=np.float32))) == 1, None
    elif task.kind == "classification":
        seen = set(train.targets)
        fraction = next((name for name in train.targets if _is_fraction(name)), None)
        if fraction is not None and 2 * len(seen) > len(train):
            raise CorpusError(
                f'column "{task.target}" has {count(len(seen), "different value")} in {count(len(train), "record")} '
                f"of train, such as {fraction}: these are numbers and no classes, so use regression."
            )
        constant, classes = len(seen) < 2, list(task.class_names or sorted_classes(seen))
    else:
        seen = {name for target in train.targets for name in target} - {None}
        constant, classes = len(seen) < 2, list(task.class_names or sorted_classes(seen))
    if constant:
        raise CorpusError(
            f'all labels of train are the same or missing (column "{task.target}", '
            f"{count(len(train), 'record')}): choose "
            "another target."
        )
    return classes


def _is_fraction(name: str) -> bool:
    try:
        number = float(name)
    except ValueError:
        return False
    return math.isfinite(number) and not number.is_integer()


def to_dataset(task: Task, records: SplitRecords, classes: list[str] | None) -> Dataset:
    """Build the dataset of a split: `id`, `sequence`, `label` and the remarks."""
    columns: dict[str, Any] = {"id": records.ids, "sequence": records.sequences}
    features = {"id": Value("string"), "sequence": Value("string"), "label": _LABEL_FEATURES[task.kind]}
    if classes is None:
        columns["label"] = np.array(records.targets, dtype=np.float32)
    else:
        numbers = {name: number for number, name in enumerate(classes)} | {None: IGNORE_INDEX}
        if task.kind == "classification":
            columns["label"] = [numbers.get(name, UNSEEN_LABEL) for name in records.targets]
        else:
            columns["label"] = [[numbers.get(name, UNSEEN_LABEL) for name in target] for target in records.targets]
    for name, values in records.remarks.items():
        features[name] = Value(task.remarks.get(name, "string"))
        columns[name] = values
    return Dataset.from_dict(columns, features=Features(features))


def fingerprint(dataset: Dataset) -> str:
    """Hash the ids, sequences and labels of a split to 32 hexadecimal digits."""
    batches = dataset.select_columns(["id", "sequence", "label"]).with_format(None).iter(1000)
    return fingerprint_of_parts(
        repr(row) for batch in batches for row in zip(batch["id"], batch["sequence"], batch["label"], strict=True)
    )
