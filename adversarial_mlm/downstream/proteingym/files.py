"""Files of ProteinGym: the reference file, the tables of its assays, and tables with the scores of a model.

The columns are those of https://github.com/OATML-Markslab/ProteinGym (Notin et al. 2023).
"""

import csv
import io
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adversarial_mlm.downstream.labels import read_number, read_sequence, read_text, read_words
from adversarial_mlm.downstream.left_out import LeftOut
from adversarial_mlm.downstream.reading import read_records
from adversarial_mlm.inference.variant_effects import check_wild_type
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.errors import CorpusError, RecipeError, WritingError, one_line, shorten
from adversarial_mlm.utils.spelling import did_you_mean

logger = logging.getLogger(__name__)

MUTANT, SEQUENCE, LABEL, BIN = "mutant", "mutated_sequence", "DMS_score", "DMS_score_bin"
COLUMNS = (MUTANT, SEQUENCE, LABEL, BIN)
"""The columns of an assay's table that are read, and copied into the table with the scores."""

_REFERENCE_COLUMNS = ("DMS_id", "DMS_filename", "UniProt_ID", "coarse_selection_type", "target_seq")
CATEGORIES = ("taxon", "MSA_Neff_L_category")
"""Columns of the reference file by which the benchmark averages, too."""

_BINS = {0.0, 1.0}


@dataclass(frozen=True)
class Assay:
    """An assay of the reference file.

    Attributes:
        name (`str`): `DMS_id`.
        path (`str`): The table with its variants.
        protein (`str`): `UniProt_ID`.
        function (`str`): `coarse_selection_type`, such as `Stability`.
        target (`str`): `target_seq`, the wild type.
        categories (`dict[str, str]`): `taxon` and `MSA_Neff_L_category`, as far as the file has them.
    """

    name: str
    path: str
    protein: str
    function: str
    target: str
    categories: dict[str, str] = field(default_factory=dict)


@dataclass
class AssayTable:
    """The variants of an assay, in the order of the file.

    Attributes:
        indels (`bool`): Whether the variants are whole sequences, and not substitutions.
        columns (`list[str]`): Which of [`COLUMNS`] the file has; those of indels always have `mutated_sequence`.
        cells (`list[list[str]]`): The values of these columns as found, by variant.
        where (`list[str]`): How to name each variant in a message, such as `"line 3"`.
        variants (`list[str]`): The substitutions, or the sequence, of each variant.
        labels, bins (`np.ndarray` of shape `(variants,)`): `DMS_score` and `DMS_score_bin`; nan where missing.
    """

    indels: bool
    columns: list[str]
    cells: list[list[str]] = field(default_factory=list)
    where: list[str] = field(default_factory=list)
    variants: list[str] = field(default_factory=list)
    labels: np.ndarray = field(default_factory=lambda: np.empty(0))
    bins: np.ndarray = field(default_factory=lambda: np.empty(0))

    def __len__(self) -> int:
        return len(self.variants)


def read_reference(reference_file: str, data_dir: str, only: Sequence[str] = ()) -> tuple[list[Assay], list[str]]:
    """Read the assays of a reference file whose tables are in a folder.

    Args:
        reference_file (`str`): The benchmark's file, such as `DMS_substitutions.csv`.
        data_dir (`str`): The folder with the tables.
        only (`Sequence[str]`, *optional*): `DMS_id` of the assays to use; by default all.

    Returns:
        The assays in the order of the file, and the ids of those whose table is missing.

    Raises:
        CorpusError: If the file cannot be read, a value is missing, an id occurs twice, a `target_seq` is no protein,
            or there is no table at all.
        RecipeError: If `only` names an assay that the file lacks, or whose table is missing.
    """
    if not os.path.isdir(data_dir):
        raise CorpusError(f"{data_dir}: there is no such folder (data_dir).")
    assays: dict[str, Assay] = {}
    for where, record in read_records(reference_file, _REFERENCE_COLUMNS, CATEGORIES):
        assay = _assay(f"{reference_file}: {where}", record, data_dir)
        if assay.name in assays:
            raise CorpusError(f"{reference_file}: {where}: the DMS_id {shorten(assay.name)} occurs twice: remove one.")
        assays[assay.name] = assay
    for name in only:
        if name not in assays:
            raise RecipeError(
                f"only names '{name}', which is no DMS_id of {reference_file}{did_you_mean(name, assays)}"
            )
    chosen = [assay for assay in assays.values() if not only or assay.name in only]
    found = [assay for assay in chosen if os.path.isfile(assay.path)]
    missing = [assay.name for assay in chosen if not os.path.isfile(assay.path)]
    if (only and missing) or not found:
        example = next(assay.path for assay in chosen if not os.path.isfile(assay.path))
        raise CorpusError(f"{example}: there is no such file, which {reference_file} names: check data_dir.")
    return found, missing


def _assay(place: str, record: dict[str, Any], data_dir: str) -> Assay:
    column = ""
    try:
        texts = {}
        for column in _REFERENCE_COLUMNS:
            texts[column] = (read_text(record[column]) or "").strip()
            if not texts[column]:
                raise ValueError("is empty")
        column = "DMS_id"
        if os.path.basename(texts[column]) != texts[column] or texts[column].startswith("."):
            raise ValueError(f"contains {shorten(texts[column])}, but must be the name of a file without its ending")
        column = "target_seq"
        target = check_wild_type(read_sequence(record[column]))
    except CorpusError as error:
        raise CorpusError(f'{place}: column "{column}": {str(error).removeprefix("wild_type ")}') from error
    except ValueError as error:
        raise CorpusError(f'{place}: column "{column}" {one_line(error)}.') from error
    path = os.path.join(data_dir, texts["DMS_filename"])
    found = {column: (read_text(record.get(column)) or "").strip() for column in CATEGORIES}
    categories = {column: text[:1].upper() + text[1:] for column, text in found.items() if text}
    return Assay(texts["DMS_id"], path, texts["UniProt_ID"], texts["coarse_selection_type"], target, categories)


def read_assay(assay: Assay) -> AssayTable:
    """Read the variants of an assay.

    A table with substitutions has them in the column `mutant`. A table of insertions and deletions has whole
    sequences, in `mutated_sequence` or, if this is missing, in `mutant`. A missing `DMS_score` or `DMS_score_bin` is
    no mistake.

    Raises:
        CorpusError: If the table cannot be read, has neither column, or has a value that is no number (or for
            `DMS_score_bin` neither 0 nor 1). The message names file, line and column.
    """
    records = list(read_records(assay.path, (), COLUMNS))
    columns = [column for column in COLUMNS if column in records[0][1]]
    if not {MUTANT, SEQUENCE} & {*columns}:
        raise CorpusError(f'{assay.path}: there is no column "{MUTANT}" or "{SEQUENCE}".')
    # a substitution has a position, and a sequence has no digits
    indels = not any(any(map(str.isdigit, read_words(record.get(MUTANT)))) for _, record in records)
    column_read = (SEQUENCE if SEQUENCE in columns else MUTANT) if indels else MUTANT
    adds_sequence = indels and SEQUENCE not in columns  # the benchmark merges indels by this column
    table = AssayTable(indels, [*columns, SEQUENCE] if adds_sequence else columns)
    labels, bins = [], []
    for where, record in records:
        column = column_read
        try:
            variant = read_sequence(record[column]) if indels else read_words(record[column])
            column = LABEL
            labels.append(read_number(record.get(LABEL)))
            column = BIN
            bins.append(_read_bin(record.get(BIN)))
        except ValueError as error:
            raise CorpusError(f'{assay.path}: {where}: column "{column}" {one_line(error)}.') from error
        table.where.append(where)
        table.variants.append(variant)
        cells = ["" if record[name] is None else str(record[name]) for name in columns]
        table.cells.append([*cells, variant] if adds_sequence else cells)
    table.labels, table.bins = np.array(labels, dtype=np.float64), np.array(bins, dtype=np.float64)
    return table


def _read_bin(value: Any) -> float | None:
    number = read_number(value)
    if number is not None and number not in _BINS:
        raise ValueError(f"contains {shorten(str(value))}, but must contain 0 or 1")
    return number


def write_scores(path: str, table: AssayTable, name: str, scores: Iterable[float]) -> None:
    """Write the table of an assay with a column of scores, as the benchmark's scripts read it.

    Args:
        path (`str`): The file, `<DMS_id>.csv`.
        table ([`AssayTable`]): The variants.
        name (`str`): The column with the scores.
        scores (`Iterable[float]`): The score of each variant; nan leaves the field empty.

    Raises:
        WritingError: If it cannot be written.
    """
    try:
        with atomic_files.replacing_file(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow([*table.columns, name])
            for cells, score in zip(table.cells, scores, strict=True):
                writer.writerow([*cells, "" if np.isnan(score) else repr(float(score))])
            text.flush()
            text.detach()
    except OSError as error:
        raise WritingError(f"{path} could not be written ({error.strerror or error})") from error


def left_out_line(assay: Assay, table: AssayTable, left_out: LeftOut) -> str:
    """Return a line that counts the variants without a score; empty if all have one."""
    return f"{os.path.basename(assay.path)}: {left_out.summary(len(table))}." if left_out.total else ""
