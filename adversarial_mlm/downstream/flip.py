"""The benchmark FLIP (Dallago et al. 2021): find its splits below a folder, and load them as tasks.

The formats are those of https://github.com/J-SNACKKB/FLIP and of https://github.com/sacdallago/biotrainer:

- a CSV file with the columns `sequence`, `target`, `set` and `validation`;
- a FASTA file whose headers have `TARGET=`, `SET=` and, optionally, `VALIDATION=` and `MASK=`;
- for labels of residues, a FASTA file with the labels, next to `sequences.fasta` and, optionally, `mask.fasta` or
  `resolved.fasta` with ones and zeros.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from adversarial_mlm.data.formats import Shard, fasta_entries
from adversarial_mlm.data.text_files import without_compression
from adversarial_mlm.downstream.definitions import KINDS, Task, with_groups
from adversarial_mlm.downstream.labels import is_missing, read_mark, read_number
from adversarial_mlm.downstream.reading import read_records
from adversarial_mlm.downstream.records import SplitRecords, collect
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
from adversarial_mlm.utils.errors import CorpusError, RecipeError, shorten
from adversarial_mlm.utils.spelling import did_you_mean

logger = logging.getLogger(__name__)

SEQUENCE, TARGET, SET, VALIDATION, MASK = "sequence", "target", "set", "validation", "mask"
NO_SET = "without a set"
FOR_PREDICTION = "for prediction only (set pred)"

_SEQUENCES = "sequences"
_MASKS = ("mask", "masks", "resolved")
_TABLES, _FASTA = (".csv", ".tsv"), (".fasta", ".fa")
_SETS = {"train": "train", "training": "train", **dict.fromkeys(("valid", "validation", "val", "dev"), "valid")}
_TEST = re.compile(r"test\w*")
_ATTRIBUTE = re.compile(r"([A-Za-z_]+)=(\S+)")
_VALID_FRACTION = 0.1
_OF_ONE_WILD_TYPE = ("gb1", "aav")


class UnsupportedTargetsError(CorpusError):
    """The targets of a split are of a kind that no task of this package predicts."""


@dataclass(frozen=True)
class FlipSplit:
    """The files of a split.

    Attributes:
        data_set (`str`): The name of the data set, such as `gb1`.
        stem (`str`): The name of the file without its endings, such as `two_vs_rest`.
        path (`str`): The table, or the FASTA file with the targets.
        sequences, mask (`str`, *optional*): For labels of residues: the FASTA files with the proteins and the masks.
    """

    data_set: str
    stem: str
    path: str
    sequences: str | None = None
    mask: str | None = None

    @property
    def name(self) -> str:
        """Data set and split, such as `gb1-two_vs_rest`."""
        return f"{self.data_set}-{self.stem}"


def find_splits(data_dir: str, only: Sequence[str] = ()) -> list[FlipSplit]:
    """Find the splits below a folder, sorted by name. Other tables and FASTA files are skipped, as the log says.

    The name of a data set is that of the folders above the file, without `splits`. If a split is there as a table and
    as FASTA, the table is used.

    Args:
        data_dir (`str`): The folder: that of FLIP, of a data set, or one with the files of splits.
        only (`Sequence[str]`, *optional*): Names of splits to return; by default all.

    Raises:
        CorpusError: If the folder does not exist, a file cannot be read, two splits have one name, or there is none.
        RecipeError: If `only` has a name that no split has.
    """
    if not os.path.isdir(data_dir):
        raise CorpusError(f"{data_dir}: there is no such folder (data_dir).")
    found: dict[str, FlipSplit] = {}
    for folder, files in _folders_below(data_dir):
        for split in _splits_in(folder, files, _data_set(data_dir, folder)):
            other = found.setdefault(split.name, split)
            if other != split:
                raise CorpusError(f"{split.path}: {other.path} is a split of the same name, {split.name}: remove one.")
    if not found:
        zipped = any(name.endswith(".zip") for _, files in _folders_below(data_dir) for name in files)
        hint = ": unpack splits.zip first" if zipped else f", with the columns {SEQUENCE}, {TARGET} and {SET}"
        raise CorpusError(f"{data_dir}: there is no split, a CSV or FASTA file of FLIP{hint}.")
    for name in only:
        if name not in found:
            raise RecipeError(
                f"only names '{name}', but there is no such split below {data_dir}{did_you_mean(name, found)}"
            )
    return [split for name, split in sorted(found.items()) if not only or name in only]


def _folders_below(data_dir: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder once with the names of its files. Links to folders are followed, hidden folders skipped."""
    seen: set[str] = set()
    for folder, folders, files in os.walk(data_dir, followlinks=True):
        if (place := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__")))
        yield folder, files


def _data_set(data_dir: str, folder: str) -> str:
    inside = os.path.relpath(folder, data_dir)
    parts = [part for part in inside.split(os.sep) if part not in (".", "splits")]
    above = [part for part in os.path.abspath(data_dir).split(os.sep) if part and part != "splits"]
    return "-".join(parts or above[-1:])


def _splits_in(folder: str, files: Sequence[str], data_set: str) -> Iterator[FlipSplit]:
    by_stem: dict[str, dict[str, str]] = {}
    for name in sorted(files):
        ending = _ending(name)
        if ending in (*_TABLES, *_FASTA) and not name.startswith("."):
            stem = name[: len(without_compression(name)) - len(ending)]
            by_stem.setdefault(stem, {}).setdefault(
                "table" if ending in _TABLES else "fasta", os.path.join(folder, name)
            )
    sequences = by_stem.get(_SEQUENCES, {}).get("fasta")
    masks = [by_stem[stem]["fasta"] for stem in _MASKS if "fasta" in by_stem.get(stem, {})]
    for stem, paths in by_stem.items():
        if sequences is not None and stem in (_SEQUENCES, *_MASKS):
            continue
        path = paths.get("table") or paths["fasta"]
        if not _is_split(path):
            logger.info("%s: skipped, because it has no set for each protein.", path)
        elif sequences is not None and "table" not in paths:
            yield FlipSplit(data_set, stem, path, sequences, masks[0] if masks else None)
        else:
            yield FlipSplit(data_set, stem, path)


def _ending(path: str) -> str:
    return os.path.splitext(without_compression(path))[1]


def _is_split(path: str) -> bool:
    if _ending(path) in _TABLES:
        _, first = next(read_records(path, [], [SEQUENCE, TARGET, SET]))
        return first.keys() == {SEQUENCE, TARGET, SET}
    return SET in next(_fasta(path))[2]


def _fasta(path: str) -> Iterator[tuple[str, str, dict[str, str], str]]:
    """Yield (location, id, attributes by name in lower case, text) of every record of a FASTA file."""
    for number, (header, text) in enumerate(fasta_entries(Shard(0, path, "fasta")), start=1):
        identifier, _, description = header[1:].strip().partition(" ")
        attributes = {name.lower(): value for name, value in _ATTRIBUTE.findall(description)}
        yield f"record {number:,} ({shorten(identifier)})", identifier, attributes, "".join(text.split())


def load_split(
    split: FlipSplit,
    *,
    kind: str | None = None,
    group_column: str | None = None,
    seed: int = 0,
    max_records: int | None = None,
) -> TaskData:
    """Load a split of FLIP as a task. The target is a number, a class, or a class for each residue.

    `set` is train or test. Rows of train with `validation` true are validation data, and no training data. If there
    are none, a tenth of the distinct sequences of train is drawn. `set` may also be `val`, or begin with `test`, each
    being a test set; rows with `pred` or without a set are left out and counted.

    Args:
        split ([`FlipSplit`]): The files, from [`find_splits`].
        kind (`str`, *optional*): Kind of the target. By default it is told by the targets: labels of residues if there
            is a file `sequences.fasta`, or if all have the length of their protein; else numbers, else classes.
        group_column (`str`, *optional*): A column, or an attribute of FASTA headers, with groups that intervals
            resample, see [`with_groups`].
        seed (`int`, defaults to 0): Seed of validation data that are drawn.
        max_records (`int`, *optional*): Maximum number of records of each split, always the same random ones.

    Raises:
        UnsupportedTargetsError: If a target is a list of classes of a protein, or of numbers of residues.
        CorpusError: If a file or a record is invalid, or there is no train or no test.
    """
    check_at_least(1, max_records=max_records)
    check_at_least(0, seed=seed)
    grouped = [group_column] if group_column is not None else []
    rows = list(_rows(split, grouped))
    task = _task(split, kind, rows, group_column)
    whole = collect(task, split.path, rows, [SET, VALIDATION, *grouped])
    check_groups(group_column, {"train": whole}, {"train": split.path})
    whole, records = _by_set(whole, split.path)
    sets = sorted(records)
    notes: list[str] = []
    left_out = left_out_facts({"train": whole}, {"train": split.path}, notes)
    if "valid" not in records:
        records |= split_at_random(records["train"], {"valid": _VALID_FRACTION}, seed)
        notes.append(random_note(["valid"], seed))
    tests = sorted(name for name in records if name not in ("train", "valid"))
    task = _with_tests(task, tests)
    facts = {
        "files": {"train": os.path.basename(split.path)},
        "split": f"column {SET} of FLIP: {', '.join(sets)}" + ("" if "valid" in sets else "; valid at random"),
        "left_out": left_out,
    }
    return task_data(task, {name: records[name] for name in task.splits}, facts, notes, max_records)


def _with_tests(task: Task, tests: list[str]) -> Task:
    return dataclasses.replace(
        task, splits=("train", "valid", *tests), headline="test" if "test" in tests else tests[0]
    )


def _rows(split: FlipSplit, grouped: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield location and values of every record, with those of the other files of labels of residues."""
    if _ending(split.path) in _TABLES:
        yield from read_records(split.path, [SEQUENCE, TARGET, SET, *grouped], ["id", VALIDATION])
        return
    proteins = None if split.sequences is None else _by_id(split.sequences)
    masks = {} if split.mask is None else {name: text for name, (_, text) in _by_id(split.mask).items()}
    for where, identifier, attributes, text in _fasta(split.path):
        record: dict[str, Any] = {"id": identifier, **attributes}
        if proteins is None:
            record[SEQUENCE] = text
            if TARGET not in attributes:
                raise CorpusError(f"{split.path}: {where}: the header has no TARGET=.")
        elif identifier in proteins:
            of_protein, record[SEQUENCE] = proteins[identifier]
            record = {**of_protein, **record, TARGET: [*text] or None}  # the set of the labels wins
        else:
            raise CorpusError(f"{split.path}: {where}: {split.sequences} has no protein of this id.")
        record[MASK] = masks.get(identifier, record.get(MASK))
        record |= {column: record.get(column.lower()) for column in grouped}
        yield where, record


def _by_id(path: str) -> dict[str, tuple[dict[str, str], str]]:
    """Return attributes and text of the records of a FASTA file by id."""
    found: dict[str, tuple[dict[str, str], str]] = {}
    for where, identifier, attributes, text in _fasta(path):
        if found.setdefault(identifier, (attributes, text))[1] != text:
            raise CorpusError(f"{path}: {where}: the id occurs twice, with two sequences: rename one.")
    return found


def _task(
    split: FlipSplit, kind: str | None, rows: Sequence[tuple[str, dict[str, Any]]], group_column: str | None
) -> Task:
    targets = [(where, record[TARGET]) for where, record in rows if not is_missing(record[TARGET])]
    if kind is None:
        kind = _kind_of(split, rows, targets)
    elif kind not in KINDS:
        raise CorpusError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}.")
    if kind != "token_classification":
        for where, target in targets:
            if isinstance(target, str) and ";" in target:
                raise UnsupportedTargetsError(
                    f"{split.path}: {where}: the target is {shorten(target)}, but several classes of a protein, and "
                    "numbers of residues, are not supported."
                )
    mask = kind == "token_classification" and any(record.get(MASK) is not None for _, record in rows)
    task = Task(
        name=split.name,
        kind=kind,
        target=TARGET,
        sequence_column=SEQUENCE,
        mask_column=MASK if mask else None,
        unit="variants of one wild type" if split.data_set in _OF_ONE_WILD_TYPE else "proteins",
    )
    return with_groups(task, group_column)


def _kind_of(split: FlipSplit, rows: Sequence[tuple[str, dict[str, Any]]], targets: Sequence[tuple[str, Any]]) -> str:
    if split.sequences is not None:
        return "token_classification"
    # first, because classes of residues may be digits
    lengths = {len(str(record[TARGET])) - len(str(record[SEQUENCE])) for _, record in rows if record[TARGET]}
    if lengths == {0}:
        return "token_classification"
    return "regression" if _are_numbers([target for _, target in targets]) else "classification"


def _are_numbers(targets: Sequence[Any]) -> bool:
    try:
        return all(read_number(target) is not None for target in targets)
    except ValueError:
        return False


def _by_set(records: SplitRecords, path: str) -> tuple[SplitRecords, dict[str, SplitRecords]]:
    """Return the records that have a set, together and by split; count the others."""
    sets, marks = (records.remarks.pop(name, [None] * len(records)) for name in (SET, VALIDATION))
    rows: dict[str, list[int]] = {}
    for row, (value, mark) in enumerate(zip(sets, marks, strict=True)):
        place = f"{path}: {records.where[row]}"
        name = "" if is_missing(value) else value.strip().lower()
        if not name or name == "pred":
            records.left_out.add(FOR_PREDICTION if name else NO_SET, records.where[row])
            continue
        split = _SETS.get(name) or (name if _TEST.fullmatch(name) else None)
        if split is None:
            raise CorpusError(
                f'{place}: "{SET}" is {shorten(value)}, but must be train, val, pred, or begin with test.'
            )
        marked = read_mark(mark)
        if marked is None:
            raise CorpusError(f'{place}: "{VALIDATION}" is {shorten(mark)}, but must be true, false or empty.')
        rows.setdefault(split_with_mark(split, marked, place, SET), []).append(row)
    for needed in ("train", "test"):
        if not any(name.startswith(needed) for name in rows):
            raise CorpusError(f"{path}: there is no protein of {needed}.")
    together = records.select(sorted(row for chosen in rows.values() for row in chosen))
    together.left_out = records.left_out
    return together, {name: records.select(chosen) for name, chosen in rows.items()}
