"""Weights of residues from tables: a record has an id, and a list with a weight for each residue."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset

from adversarial_mlm.data.sources import file_shards
from adversarial_mlm.data.tables import column_index, csv_rows, json_records
from adversarial_mlm.data.text_files import READ_ERRORS, check_parquet, read_failure
from adversarial_mlm.utils.errors import CorpusError, one_line, shorten

_SEPARATORS = re.compile(r"[\s,;]+")
_OPTION = "mask_weights_column"
_ROWS_AT_ONCE = 1000


class ResidueWeights:
    """Weights by the id of a protein, in one array.

    Args:
        weights (`Mapping[str, Sequence[float]]`): The weights of each protein.
        source (`str`, *optional*, defaults to `"mask_weights"`): Where they are from, for messages.

    Raises:
        CorpusError: If weights are negative, not finite, not numbers, or all 0.
    """

    def __init__(self, weights: Mapping[str, Sequence[float] | np.ndarray], source: str = "mask_weights"):
        self.source = source
        arrays = []
        for name, values in weights.items():
            try:
                arrays.append(as_weights(values))
            except CorpusError as error:
                raise CorpusError(f"{source}: the list of {shorten(name)} {one_line(error)}.") from error
        ends = np.cumsum([len(array) for array in arrays], dtype=np.int64)
        self._values = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.float32)
        self._places = {
            name: (int(end) - len(array), int(end)) for name, array, end in zip(weights, arrays, ends, strict=True)
        }

    def __len__(self) -> int:
        return len(self._places)

    def get(self, name: str) -> np.ndarray | None:
        """Return the weights of a protein, float32; `None` if there are none."""
        place = self._places.get(name)
        return None if place is None else self._values[slice(*place)]


def as_weights(value: Any) -> np.ndarray:
    """Read the weights of a protein: a list of numbers, or a text of numbers.

    Args:
        value: A list or an array; or a text such as `"0.1 0.5 2"` or `"[0.1, 0.5, 2]"`.

    Returns:
        `np.ndarray` of shape `(residues,)`, float32.

    Raises:
        CorpusError: If a weight is not a number, is negative or not finite, or if all are 0. The message completes the
            sentence 'the list of P1 ...'.
    """
    if isinstance(value, str):
        text = value.strip()
        try:
            value = json.loads(text) if text.startswith("[") else [word for word in _SEPARATORS.split(text) if word]
        except ValueError as error:
            raise CorpusError(f"contains {shorten(text)}, which is not a list of numbers") from error
    try:
        weights = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CorpusError(f"contains {shorten(str(value)[:200])}, which is not a list of numbers") from error
    if weights.ndim != 1 or not len(weights):
        raise CorpusError(f"contains {shorten(str(value)[:200])}, but must have one number for each residue")
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(bad):
        raise CorpusError(f"contains {weights[bad[0]]:g} at residue {bad[0] + 1:,}, but weights must be 0 or more")
    narrow = weights.astype(np.float32)
    if not narrow.any() or not np.isfinite(narrow).all():
        raise CorpusError("must contain a weight above 0, and numbers of 32 bits")
    return narrow


def read_residue_weights(files: Sequence[str], column: str = "weights", id_column: str = "id") -> ResidueWeights:
    """Read weights from tables (Parquet, JSON lines, CSV, TSV).

    Args:
        files (`Sequence[str]`): Files or patterns.
        column (`str`, *optional*, defaults to `"weights"`): Column with a list for each protein, also as text.
        id_column (`str`, *optional*, defaults to `"id"`): Column with the ids.

    Raises:
        CorpusError: If a file cannot be read, lacks a column, has weights that cannot be used, or two lists for an id.
            The message names file and record.
    """
    found: dict[str, np.ndarray] = {}
    for shard in file_shards(list(files)):
        path = shard.name
        if shard.format == "fasta":
            raise CorpusError(f"{path}: mask_weights must be a table (Parquet, JSON lines, CSV or TSV), not FASTA.")
        for where, name, value in _rows(path, shard.format, column, id_column):
            try:
                weights = as_weights(value)
            except CorpusError as error:
                raise CorpusError(f"{path}: {where}: the list of {shorten(name)} {one_line(error)}.") from error
            if name in found and not np.array_equal(found[name], weights):
                raise CorpusError(f"{path}: {where}: {shorten(name)} occurs twice, with different weights.")
            found[name] = weights
    if not found:
        raise CorpusError(f"{', '.join(files)}: there are no weights in it.")
    return ResidueWeights(found, ", ".join(files))


def _rows(path: str, kind: str, column: str, id_column: str) -> Iterator[tuple[str, str, Any]]:
    """Yield place, id and value of every record of a table."""
    try:
        if kind == "parquet":
            yield from _of_parquet(path, column, id_column)
        elif kind == "json":
            for where, record in json_records(path, [column, id_column]):
                if not isinstance(record, dict):
                    raise CorpusError(f"{path}: {where} is not a JSON object but {shorten(str(record))}.")
                names = list(record)
                key, name = (names[column_index(path, names, asked, _OPTION)] for asked in (column, id_column))
                yield where, str(record[name]).strip(), record[key]
        else:
            rows = csv_rows(path, [column, id_column], delimiter="\t" if kind == "tsv" else ",")
            _, header = next(rows, (0, []))
            at, id_at = (column_index(path, header, asked, _OPTION) for asked in (column, id_column))
            for number, fields in rows:
                yield f"line {number:,}", fields[id_at].strip(), fields[at]
    except CorpusError:
        raise
    except (*READ_ERRORS, OSError) as error:
        raise read_failure(path, error) from error


def _of_parquet(path: str, column: str, id_column: str) -> Iterator[tuple[str, str, Any]]:
    check_parquet(path)
    with pq.ParquetFile(path, memory_map=True) as file:
        names = file.schema_arrow.names
        key, name = (names[column_index(path, names, asked, _OPTION)] for asked in (column, id_column))
        row = 0
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(dict.fromkeys((key, name)))):
            values = batch.to_pydict()
            for identifier, value in zip(values[name], values[key], strict=True):
                row += 1
                yield f"record {row:,}", str(identifier).strip(), value


def check_residue_weights(dataset: Dataset, weights: ResidueWeights) -> None:
    """Check that every protein of a corpus has a weight for each of its residues.

    Args:
        dataset (`datasets.Dataset`): Rows with the columns `id` and `length`.
        weights ([`ResidueWeights`]): The weights.

    Raises:
        CorpusError: If not. The message has the number of proteins, and names the first one.
    """
    missing, other = [], []
    for batch in dataset.select_columns(["id", "length"]).iter(_ROWS_AT_ONCE):
        for name, length in zip(batch["id"], batch["length"], strict=True):
            found = weights.get(name)
            if found is None:
                missing.append(name)
            elif len(found) != length:
                other.append(f"{shorten(name)} has {len(found):,} weights and {length:,} residues")
    if missing:
        raise CorpusError(
            f"{weights.source}: there are no weights for {len(missing):,} of {len(dataset):,} training proteins, such "
            f"as {shorten(missing[0])}: add them, or leave these proteins out."
        )
    if other:
        raise CorpusError(
            f"{weights.source}: {len(other):,} of {len(dataset):,} training proteins do not have as many weights as "
            f"residues: {other[0]}."
        )
