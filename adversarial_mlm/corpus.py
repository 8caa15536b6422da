"""Every way in for protein sequences: files, folders and Hub datasets become one clean, counted corpus.

[`load_corpus`] reads FASTA, Parquet, JSON, CSV and TSV files, folders written by `datasets`, and Hub datasets, and
returns rows with three columns: `id` (string), `sequence` (string, clean) and `length` (int32, in residues).
[`split_corpus`] holds out whole protein families, members of the remaining families, or random records.

Nothing is repaired or dropped without being counted in [`CleaningCounts`], and every complaint about the input is a
[`CorpusError`] whose message names the file and, where it is known, the record or line.
"""

import csv
import dataclasses
import glob
import gzip
import hashlib
import io
import json
import logging
import os
import re
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TextIO

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, IterableDataset, Value

logger = logging.getLogger(__name__)

# Part of every cache fingerprint: raise it whenever the same input would give other rows or other counts.
_CLEANING_VERSION = 1

_FEATURES = Features({"id": Value("string"), "sequence": Value("string"), "length": Value("int32")})

# All capital letters except J, which stands for no residue in the tokenizer's alphabet.
_RESIDUES = "ABCDEFGHIKLMNOPQRSTUVWXYZ"
_RESIDUE_BYTES = _RESIDUES.encode()
_UNKNOWN = "?"
_NOT_A_RESIDUE = re.compile(f"[^{_RESIDUES}]")
_LOWER_CASE = re.compile("[a-z]")
_WHITESPACE = re.compile(r"\s")
_TO_REMOVE = re.compile(r"[\s*.\-]+")
# `str.upper` would also turn letters outside ASCII into other letters, some into residues (a long s into S).
_ASCII_UPPER = {ord(letter): letter.upper() for letter in "abcdefghijklmnopqrstuvwxyz"}

_FORMATS = {
    ".fasta": "fasta",
    ".fa": "fasta",
    ".faa": "fasta",
    ".fas": "fasta",
    ".fsa": "fasta",
    ".parquet": "parquet",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# What reading a damaged or unreadable file raises, from the gzip, csv, text and Arrow layers.
_READ_ERRORS = (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error, pa.ArrowException)

_ROWS_PER_BATCH = 10_000
_RESIDUES_PER_BATCH = 16_000_000
_MAX_DATASET_SHARDS = 64
_MIN_FAMILY_FOR_MEMBERS = 5


class CorpusError(ValueError):
    """The input cannot be used as asked; the message is one sentence that names the file, column or option."""


@dataclass
class CleaningCounts:
    """What cleaning did to a corpus. All numbers are records, except `unknown_residues`.

    Attributes:
        records_read (`int`, defaults to 0): records found in the source.
        records_kept (`int`, defaults to 0): records that are in the corpus.
        lower_case (`int`, defaults to 0): records in which letters were upper-cased.
        stops_removed (`int`, defaults to 0): records from which `*` was removed.
        gaps_removed (`int`, defaults to 0): records from which `-` or `.` was removed.
        whitespace_removed (`int`, defaults to 0): records with white space inside the sequence (line ends of a FASTA
            file do not count).
        unknown_residues (`int`, defaults to 0): *residues* that were turned to `?`.
        records_with_unknown (`int`, defaults to 0): records that hold such residues.
        dropped_empty (`int`, defaults to 0): records left out because nothing remained of the sequence.
        dropped_too_short (`int`, defaults to 0): records left out because fewer than `min_length` residues remained.
    """

    records_read: int = 0
    records_kept: int = 0
    lower_case: int = 0
    stops_removed: int = 0
    gaps_removed: int = 0
    whitespace_removed: int = 0
    unknown_residues: int = 0
    records_with_unknown: int = 0
    dropped_empty: int = 0
    dropped_too_short: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name, in the order of the attributes."""
        return {name: getattr(self, name) for name in _COUNT_NAMES}

    def summary(self) -> str:
        """Return one readable line. Counts that are zero are left out, except those of records read and kept."""
        text = f"{self.records_read:,} records read, {self.records_kept:,} kept"
        remarks = [
            (self.dropped_empty, "dropped as empty"),
            (self.dropped_too_short, "dropped as too short"),
            (self.lower_case, "upper-cased"),
            (self.stops_removed, "with stops (*) removed"),
            (self.gaps_removed, "with gaps (- or .) removed"),
            (self.whitespace_removed, "with white space removed"),
            (self.records_with_unknown, f"with unknown residues ({self.unknown_residues:,} residues)"),
        ]
        said = [f"{number:,} {remark}" for number, remark in remarks if number]
        return f"{text}; {', '.join(said)}" if said else text

    def __add__(self, other: "CleaningCounts") -> "CleaningCounts":
        return CleaningCounts(*(getattr(self, name) + getattr(other, name) for name in _COUNT_NAMES))


_COUNT_NAMES = tuple(field.name for field in dataclasses.fields(CleaningCounts))


class CleanedSequence(NamedTuple):
    """A clean sequence and what had to be done to it: four flags, and `unknown`, a number of residues."""

    sequence: str
    lower_case: bool = False
    stops: bool = False
    gaps: bool = False
    whitespace: bool = False
    unknown: int = 0


def clean_sequence(text: str) -> CleanedSequence:
    """Clean one protein sequence.

    Letters are upper-cased; white space, `*` (stops), `-` and `.` (gaps) are removed; every character that is then
    not a capital letter, and `J`, becomes `?`, which the tokenizer reads as its unknown token.

    Args:
        text (`str`): the sequence as found in the source.

    Returns:
        [`CleanedSequence`]: the sequence, possibly empty, and what was done.
    """
    if _is_clean(text):
        return CleanedSequence(text)
    sequence = _TO_REMOVE.sub("", text).translate(_ASCII_UPPER)
    sequence, unknown = _NOT_A_RESIDUE.subn(_UNKNOWN, sequence)
    return CleanedSequence(
        sequence,
        lower_case=_LOWER_CASE.search(text) is not None,
        stops="*" in text,
        gaps="-" in text or "." in text,
        whitespace=_WHITESPACE.search(text) is not None,
        unknown=unknown,
    )


def _is_clean(text: str) -> bool:
    # Deleting all residues from the bytes is several times faster than matching a regular expression.
    return text.isascii() and not text.encode().translate(None, _RESIDUE_BYTES)


@dataclass
class Corpus:
    """A cleaned corpus, as returned by [`load_corpus`].

    Attributes:
        dataset (`datasets.Dataset` or `datasets.IterableDataset`): rows with the columns `id`, `sequence` and
            `length` (in residues).
        source (`str`): the source as it was asked for, for logs and model cards.
        read_counts (`Callable`): gives the counts of this moment; use `counts` instead.
    """

    dataset: Dataset | IterableDataset
    source: str
    read_counts: Callable[[], CleaningCounts] = dataclasses.field(repr=False)

    @property
    def counts(self) -> CleaningCounts:
        """What cleaning did.

        With `streaming=True` the counts are those of this moment, over all `DataLoader` workers of this process: for
        every shard those of its latest pass, as far as it has got. They start at zero, are complete after one whole
        pass, and do not grow with further epochs; of a resumed pass, only what was read again is counted. Read them
        anew each time, since the returned object stands still.
        """
        return self.read_counts()


@dataclass
class Splits:
    """Train and held-out data, as returned by [`split_corpus`].

    Attributes:
        train (`datasets.Dataset`): the records to train on.
        held_out (`dict[str, datasets.Dataset]`): held-out records by name: `"families"`, `"members"`, `"random"`.
        duplicates_removed (`int`, defaults to 0): records taken out of train because their sequence stands verbatim
            in a held-out set.
        missing_in_clusters (`int`, defaults to 0): records that the cluster table does not list.
    """

    train: Dataset
    held_out: dict[str, Dataset]
    duplicates_removed: int = 0
    missing_in_clusters: int = 0


# ---------------------------------------------------------------------------------------------------------------------
# Readers: each yields (id, sequence as found) and raises CorpusError
# ---------------------------------------------------------------------------------------------------------------------


class _Columns(NamedTuple):
    sequence: str
    id: str | None


@dataclass(frozen=True)
class _Shard:
    """One part of a source that is read by one process at a time: a file, or a part of a dataset."""

    index: int
    name: str
    format: str
    dataset: Dataset | IterableDataset | None = None
    first_row: int = 0
    id_prefix: str = ""


def _read_rows(shard: _Shard, columns: _Columns) -> Iterator[tuple[str, str]]:
    if shard.format == "fasta":
        return _read_fasta(shard.name)
    if shard.format == "parquet":
        return _read_parquet(shard.name, columns)
    if shard.format == "json":
        return _read_json(shard.name, columns)
    if shard.format == "dataset":
        return _read_dataset(shard, columns)
    return _read_csv(shard.name, columns, delimiter="\t" if shard.format == "tsv" else ",")


def _read_failure(name: str, error: BaseException, after_line: int | None = None) -> CorpusError:
    where = f" after line {after_line:,}" if after_line else ""
    if isinstance(error, EOFError):
        return CorpusError(
            f"{name}: the compressed file ends too early{where}; it was probably not copied completely."
        )
    if isinstance(error, gzip.BadGzipFile | zlib.error):
        return CorpusError(f"{name}: the compressed file is damaged{where} ({error}).")
    if isinstance(error, UnicodeDecodeError):
        return CorpusError(f"{name}: not UTF-8 text{where} ({error.reason} at byte {error.start:,} of the block).")
    if isinstance(error, OSError) and error.strerror:
        return CorpusError(f"{name}: could not be read{where} ({error.strerror}).")
    return CorpusError(f"{name}: could not be read{where} ({_one_line(error)}).")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _open_text(path: str, encoding: str, newline: str | None = None) -> TextIO:
    """Open a plain or gzip-compressed text file (told apart by its first bytes), refusing empty and binary ones."""
    with open(path, "rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    # The magic bytes decide rather than the name, because browsers and copy tools unpack files and keep the name.
    file = gzip.open(path, "rb") if compressed else open(path, "rb")
    try:
        head = file.peek(1)  # a whole buffer, at least 8 KiB of a longer file
        if not head:
            raise CorpusError(f"{path}: the file is empty.")
        if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise CorpusError(f"{path}: the file is UTF-16 text; save it as UTF-8.")
        if b"\0" in head:
            raise CorpusError(f"{path}: the file is binary, not text.")
        if head.startswith(b"\xef\xbb\xbf"):
            file.read(3)  # the byte order mark that some editors write
    except BaseException:
        file.close()
        raise
    return io.TextIOWrapper(file, encoding=encoding, newline=newline)


def _shorten(text: str) -> str:
    text = text.strip()
    return ascii(text if len(text) <= 40 else text[:40] + "...")


def _read_fasta(path: str) -> Iterator[tuple[str, str]]:
    # dnaio, otherwise a good strict reader, refuses headers that are not ASCII (by two separate checks), leaves out
    # lines that start with "#" without a word, accepts empty files and headers inside a line, and reads FASTA in
    # Python too, so that reading the lines here costs nothing.
    header, parts, number, records = None, [], 0, 0
    try:
        # Latin-1 maps every byte to a character, so that no header can fail to decode; `_fasta_id` looks closer.
        with _open_text(path, encoding="latin-1") as lines:
            for number, line in enumerate(lines, start=1):
                if line[0] == ">":
                    if header is not None:
                        yield _fasta_record(path, number - 1, records, header, parts)
                        records += 1
                    header, parts = line, []
                elif header is not None:
                    if line[0] in ";#":
                        raise CorpusError(
                            f"{path}: line {number:,} is neither a header nor a sequence: {_shorten(line)}."
                        )
                    parts.append(line)
                elif line.strip():
                    raise CorpusError(
                        f"{path}: not a FASTA file: line {number:,} is {_shorten(line)}, where a header that starts "
                        'with ">" must stand.'
                    )
    except _READ_ERRORS as error:
        raise _read_failure(path, error, after_line=number) from error
    if header is None:
        raise CorpusError(f"{path}: the file holds no FASTA record, only blank lines.")
    yield _fasta_record(path, number, records, header, parts)


def _fasta_record(path: str, line: int, row: int, header: str, parts: list[str]) -> tuple[str, str]:
    """Join one record; `line` is its last line (from 1) and `row` its number in the file (from 0)."""
    sequence = "".join(parts).replace("\n", "")
    # Letters of a header glued to a sequence would pass as residues, and binary data as unknown residues.
    if ">" in sequence:
        raise CorpusError(
            f'{path}: record {row + 1:,}, which ends at line {line:,}, has a ">" inside its sequence; a line end is '
            "missing."
        )
    if "\0" in sequence:
        raise CorpusError(f"{path}: record {row + 1:,}, which ends at line {line:,}, holds binary data.")
    return _fasta_id(header) or str(row), sequence


def _fasta_id(header: str) -> str:
    """The accession of a UniProt header, else the first word; empty if there is none. `header` is decoded Latin-1."""
    # Only ASCII blanks part words here: in UTF-8 text read as Latin-1, `str.split` would cut inside characters.
    word = header[1:].strip(" \t\n").replace("\t", " ").partition(" ")[0]
    if not word.isascii():
        try:
            word = word.encode("latin-1").decode("utf-8")
        except UnicodeDecodeError:
            pass  # it is Latin-1 indeed
    if word.startswith(("sp|", "tr|")):
        return word.split("|")[1] or word
    return word


def _read_parquet(path: str, columns: _Columns) -> Iterator[tuple[str, str]]:
    try:
        if os.path.getsize(path) == 0:
            raise CorpusError(f"{path}: the file is empty.")
        with pq.ParquetFile(path, memory_map=True) as file:
            columns = _resolve_columns(path, columns, file.schema_arrow.names)
            row = 0
            for batch in file.iter_batches(batch_size=1000, columns=_column_list(columns)):
                yield from _table_rows(path, columns, batch.to_pydict(), row)
                row += len(batch)
    except _READ_ERRORS as error:
        raise _read_failure(path, error) from error


def _read_dataset(shard: _Shard, columns: _Columns) -> Iterator[tuple[str, str]]:
    row = shard.first_row
    columns = _resolve_columns(shard.name, columns, _dataset_columns(shard.dataset))
    # Unlike iterating over single rows, `iter` reads the whole shard also inside a DataLoader worker, where an
    # `IterableDataset` would divide itself among the workers a second time.
    selected = shard.dataset.select_columns(_column_list(columns)).with_format(None)
    try:
        for batch in selected.iter(batch_size=1000):
            yield from _table_rows(shard.name, columns, batch, row, shard.id_prefix)
            row += len(batch[columns.sequence])
    except _READ_ERRORS as error:
        raise _read_failure(shard.name, error) from error


def _read_csv(path: str, columns: _Columns, delimiter: str) -> Iterator[tuple[str, str]]:
    # Read with the standard library, because its errors carry the line number, which pyarrow's reader lacks.
    number, row = 0, 0
    try:
        with _open_text(path, encoding="utf-8", newline="") as lines:
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            header = next(reader)
            columns = _resolve_columns(path, columns, header)
            sequence_at = header.index(columns.sequence)
            id_at = None if columns.id is None else header.index(columns.id)
            for fields in reader:
                number = reader.line_num
                if not fields:
                    continue
                if len(fields) != len(header):
                    raise CorpusError(
                        f"{path}: line {number:,} has {len(fields)} fields where the header has {len(header)}."
                    )
                yield _row_id(None if id_at is None else fields[id_at] or None, row), fields[sequence_at]
                row += 1
    except _READ_ERRORS as error:
        raise _read_failure(path, error, after_line=number) from error


def _read_json(path: str, columns: _Columns) -> Iterator[tuple[str, str]]:
    try:
        for row, (where, record) in enumerate(_json_records(path)):
            if not isinstance(record, dict):
                raise CorpusError(f"{path}: {where} is not a JSON object but {_shorten(str(record))}.")
            found = _resolve_columns(f"{path}, {where}", columns, list(record))
            identifier = None if found.id is None else record[found.id]
            yield _row_id(identifier, row), _sequence_text(path, found.sequence, row, record[found.sequence])
    except _READ_ERRORS as error:
        raise _read_failure(path, error) from error


def _json_records(path: str) -> Iterator[tuple[str, Any]]:
    """Yield (where it stands, record) from JSON lines, or from one JSON list, which is held in memory as a whole."""
    with _open_text(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            if line.lstrip().startswith("["):
                break
            try:
                yield f"line {number:,}", json.loads(line)
            except json.JSONDecodeError as error:
                raise CorpusError(f"{path}: line {number:,} is not a JSON object ({error.msg}).") from error
        else:
            return
    with _open_text(path, encoding="utf-8") as file:
        try:
            records = json.load(file)
        except json.JSONDecodeError as error:
            raise CorpusError(f"{path}: not a JSON list ({error.msg} at line {error.lineno:,}).") from error
    for number, record in enumerate(records, start=1):
        yield f"record {number:,}", record


def _table_rows(
    name: str, columns: _Columns, batch: dict[str, list], first_row: int, id_prefix: str = ""
) -> Iterator[tuple[str, str]]:
    sequences = batch[columns.sequence]
    identifiers = [None] * len(sequences) if columns.id is None else batch[columns.id]
    for row, (identifier, sequence) in enumerate(zip(identifiers, sequences, strict=True), start=first_row):
        yield _row_id(identifier, row, id_prefix), _sequence_text(name, columns.sequence, row, sequence)


def _row_id(value: Any, row: int, prefix: str = "") -> str:
    if value is None:
        return f"{prefix}{row}"
    # JSON can spell characters that UTF-8, and so Arrow, cannot hold.
    return str(value).encode("utf-8", "replace").decode("utf-8")


def _sequence_text(name: str, column: str, row: int, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CorpusError(
            f'{name}: column "{column}" holds {type(value).__name__} values (record {row + 1:,}), but sequences must '
            "be text."
        )
    return value


def _resolve_columns(name: str, asked: _Columns, present: Sequence[str]) -> _Columns:
    """Check that the columns asked for are there, and take `id` as id column if none was asked for."""
    for column, option in ((asked.sequence, "sequence_column"), (asked.id, "id_column")):
        if column is not None and column not in present:
            there = ", ".join(f'"{other}"' for other in present[:30]) + (", ..." if len(present) > 30 else "")
            raise CorpusError(f'{name}: there is no column "{column}" ({option}); the columns are {there or "none"}.')
    return _Columns(asked.sequence, asked.id or ("id" if "id" in present else None))


def _column_list(columns: _Columns) -> list[str]:
    return list(dict.fromkeys(column for column in columns if column is not None))


def _dataset_columns(dataset: Dataset | IterableDataset) -> list[str]:
    if dataset.column_names is not None:
        return list(dataset.column_names)
    # A streamed dataset without declared features shows its columns only in its records.
    batch = next(dataset.with_format(None).iter(batch_size=1), {})
    return list(batch)


# ---------------------------------------------------------------------------------------------------------------------
# Cleaning of rows, the cache, and streaming
# ---------------------------------------------------------------------------------------------------------------------


def _clean_rows(
    rows: Iterable[tuple[str, str]], min_length: int, counts: CleaningCounts
) -> Iterator[tuple[str, str, int]]:
    """Yield (id, clean sequence, residues) of the records to keep, and count in `counts`."""
    for identifier, text in rows:
        counts.records_read += 1
        if not _is_clean(text):
            cleaned = clean_sequence(text)
            counts.lower_case += cleaned.lower_case
            counts.stops_removed += cleaned.stops
            counts.gaps_removed += cleaned.gaps
            counts.whitespace_removed += cleaned.whitespace
            counts.unknown_residues += cleaned.unknown
            counts.records_with_unknown += cleaned.unknown > 0
            text = cleaned.sequence
        length = len(text)
        if length == 0:
            counts.dropped_empty += 1
        elif length < min_length:
            counts.dropped_too_short += 1
        else:
            counts.records_kept += 1
            yield identifier, text, length


def _nothing_left(source: str, min_length: int, counts: CleaningCounts) -> CorpusError:
    return CorpusError(f"{source}: no sequence is left with min_length={min_length} ({counts.summary()}).")


def _cached_dataset(
    shards: list[_Shard], columns: _Columns, min_length: int, cache_dir: str | None, key: list, source: str
) -> tuple[Dataset, CleaningCounts]:
    """Clean `shards` into an Arrow file unless one stands for the same `key`, and map it into memory."""
    key = [_CLEANING_VERSION, *columns, min_length, key]
    fingerprint = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    folder = os.path.join(os.path.expanduser(cache_dir or str(datasets.config.HF_DATASETS_CACHE)), "adversarial_mlm")
    table_path = os.path.join(folder, f"{fingerprint}.arrow")
    counts_path = os.path.join(folder, f"{fingerprint}.json")

    counts = _load_counts(counts_path) if os.path.exists(table_path) else None
    if counts is None:
        _check_first_records(shards, columns)
        counts = _write_cache(shards, columns, min_length, table_path, counts_path, source)
        logger.info("%s: %s", source, counts.summary())
    else:
        logger.info("%s: %s (from the cache, %s)", source, counts.summary(), table_path)
    return Dataset.from_file(table_path), counts


def _load_counts(path: str) -> CleaningCounts | None:
    try:
        with open(path, encoding="utf-8") as file:
            return CleaningCounts(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None  # never written, or by another version: the caller cleans again


def _write_cache(
    shards: list[_Shard], columns: _Columns, min_length: int, table_path: str, counts_path: str, source: str
) -> CleaningCounts:
    counts = CleaningCounts()
    # Names of their own for every writer, renamed when complete: a reader sees a whole file or none, and of two
    # processes that write the same corpus at once the later simply puts equal files in place.
    suffix = f".{uuid.uuid4().hex}.tmp"
    try:
        os.makedirs(os.path.dirname(table_path), exist_ok=True)
        with open(table_path + suffix, "xb") as file, pa.ipc.new_stream(file, _FEATURES.arrow_schema) as writer:
            for shard in shards:
                rows = _clean_rows(_read_rows(shard, columns), min_length, counts)
                for batch in _record_batches(rows):
                    writer.write_batch(batch)
        if counts.records_kept == 0:
            raise _nothing_left(source, min_length, counts)
        with open(counts_path + suffix, "x", encoding="utf-8") as file:
            json.dump(counts.as_dict(), file, indent=1)
        # The counts first: the table is what a reader looks for.
        os.replace(counts_path + suffix, counts_path)
        os.replace(table_path + suffix, table_path)
    except OSError as error:  # the readers turn theirs into CorpusError
        raise CorpusError(
            f"{os.path.dirname(table_path)}: the cleaned corpus could not be written to this folder "
            f"({error.strerror or error}); name another one with cache_dir."
        ) from error
    finally:
        for path in (table_path + suffix, counts_path + suffix):
            if os.path.exists(path):
                os.remove(path)
    return counts


def _record_batches(rows: Iterable[tuple[str, str, int]]) -> Iterator[pa.RecordBatch]:
    schema = _FEATURES.arrow_schema
    batch, residues = [], 0
    for row in rows:
        batch.append(row)
        residues += row[2]
        if len(batch) >= _ROWS_PER_BATCH or residues >= _RESIDUES_PER_BATCH:
            yield pa.record_batch([list(column) for column in zip(*batch, strict=True)], schema=schema)
            batch, residues = [], 0
    if batch:
        yield pa.record_batch([list(column) for column in zip(*batch, strict=True)], schema=schema)


def _check_first_records(shards: list[_Shard], columns: _Columns) -> None:
    """Read one record of every file, so that a wrong file is refused now and not after hours of training."""
    for shard in shards:
        # The shards of a dataset share its columns, which were checked, and on the Hub each would be one more request.
        if shard.format != "dataset" and next(_read_rows(shard, columns), None) is None:
            raise CorpusError(f"{shard.name}: the file holds no records.")


class _SharedCounts:
    """Counts that live in shared memory: one row per shard, written by the one process that reads the shard.

    One row per shard rather than per worker: a new pass over a shard starts its row afresh, so that further epochs do
    not add up, and no two processes write to the same row. `torch.multiprocessing` hands the memory itself, not a
    copy, to forked and spawned `DataLoader` workers.
    """

    def __init__(self, num_shards: int):
        import torch

        # The last column says whether the pass over the shard is complete.
        self.table = torch.zeros((num_shards, len(_COUNT_NAMES) + 1), dtype=torch.int64).share_memory_()

    def __deepcopy__(self, memo: dict) -> "_SharedCounts":
        return self  # a copied dataset goes on counting in the same place

    def write(self, shard: int, counts: CleaningCounts, complete: bool = False) -> None:
        # The view is made anew each time, because a kept one would be pickled as a copy.
        self.table.numpy()[shard] = (*(getattr(counts, name) for name in _COUNT_NAMES), complete)

    def total(self) -> CleaningCounts:
        return CleaningCounts(*self.table[:, :-1].sum(dim=0).tolist())

    def all_complete(self) -> bool:
        return bool(self.table[:, -1].all())


def _stream_rows(
    shards: list[_Shard], columns: _Columns, min_length: int, shared_counts: _SharedCounts, source: str
) -> Iterator[dict[str, Any]]:
    for shard in shards:
        counts = CleaningCounts()
        shared_counts.write(shard.index, counts)
        try:
            for identifier, sequence, length in _clean_rows(_read_rows(shard, columns), min_length, counts):
                shared_counts.write(shard.index, counts)
                yield {"id": identifier, "sequence": sequence, "length": length}
        finally:
            shared_counts.write(shard.index, counts)
        shared_counts.write(shard.index, counts, complete=True)
        if shared_counts.all_complete() and shared_counts.total().records_kept == 0:
            raise _nothing_left(source, min_length, shared_counts.total())


# ---------------------------------------------------------------------------------------------------------------------
# Loading
# ---------------------------------------------------------------------------------------------------------------------


def load_corpus(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    sequence_column: str = "sequence",
    id_column: str | None = None,
    dataset_split: str = "train",
    dataset_config: str | None = None,
    min_length: int = 10,
    streaming: bool = False,
    cache_dir: str | None = None,
) -> Corpus:
    """Turn a source of protein sequences into a clean dataset with the columns `id`, `sequence` and `length`.

    By default the clean rows are written once to `<cache_dir>/adversarial_mlm/` and mapped into memory from there, so
    that a corpus may be larger than memory and a second start is immediate. A changed file, another column or another
    `min_length` makes a new cache entry.

    Args:
        source (`str`, path or list of these): one of

            - a file, a glob pattern (`**` goes through folders) or a list of files and patterns, all of one format:
              FASTA (`.fasta`, `.fa`, `.faa`, `.fas`, `.fsa`), `.parquet`, `.jsonl` or `.json` (lines or one list),
              `.csv`, `.tsv`; all but Parquet also with `.gz`;
            - a folder written by `save_to_disk` of `datasets`;
            - the name of a Hub dataset, `owner/name`.
        sequence_column (`str`, defaults to `"sequence"`): column of a table that holds the sequences.
        id_column (`str`, *optional*): column of a table that holds the ids. By default `id` if there is such a
            column, else the ids are the row numbers of each file, from 0 (`<shard>-<row>` where a Hub dataset is
            streamed). The id of a FASTA record is the accession of a UniProt header (`sp|A0AJR1|...`), else the first
            word of its header, else its number in the file.
        dataset_split (`str`, defaults to `"train"`): split of a Hub dataset or of a folder with several splits.
        dataset_config (`str`, *optional*): configuration of a Hub dataset.
        min_length (`int`, defaults to 10): sequences with fewer residues after cleaning are dropped.
        streaming (`bool`, defaults to `False`): return an `IterableDataset` that cleans on the fly and stores
            nothing. Files are its shards, so that as many `DataLoader` workers can read as there are files.
        cache_dir (`str`, *optional*): folder for the cache, by default that of `datasets` (`HF_DATASETS_CACHE`).

    Returns:
        [`Corpus`]: the dataset, what cleaning did, and the source.

    Raises:
        [`CorpusError`]: if the source is missing, empty, damaged or of another format than its name says, lacks a
            column, leaves no sequence after cleaning, if an option has no meaning for this source, or if the cache
            folder cannot be written. When streaming, what stands behind the first record of a file is only seen, and
            complained about, during iteration.
    """
    if isinstance(min_length, bool) or not isinstance(min_length, int) or min_length < 0:
        raise CorpusError(f"min_length must be a whole number of residues, 0 or more, and not {min_length!r}.")
    columns = _Columns(sequence_column, id_column)
    sources = [source] if isinstance(source, str | os.PathLike) else list(source)
    sources = [os.path.expanduser(os.fspath(item)) for item in sources]
    if not sources or not all(sources):
        raise CorpusError("The source is empty: give a file, a folder, a pattern or the name of a Hub dataset.")
    description = ", ".join(sources)

    if len(sources) == 1 and (os.path.isdir(sources[0]) or _is_hub_name(sources[0])):
        name = sources[0]
        if os.path.isdir(name):
            _refuse_option("dataset_config", dataset_config, None, f"{name} is a folder")
            dataset = _load_folder(name, dataset_split)
        else:
            dataset = _load_from_hub(name, dataset_config, dataset_split, streaming, cache_dir)
        shards = _dataset_shards(name, dataset, streaming)
        _resolve_columns(name, columns, _dataset_columns(dataset))
        key = [] if streaming else [dataset._fingerprint]
    else:
        paths = _find_files(sources)
        file_format = _common_format(paths)
        _refuse_option("dataset_config", dataset_config, None, f"{description} names files")
        _refuse_option("dataset_split", dataset_split, "train", f"{description} names files")
        if file_format == "fasta":
            _refuse_option("sequence_column", sequence_column, "sequence", f"{description} is FASTA")
            _refuse_option("id_column", id_column, None, f"{description} is FASTA")
        shards = [_Shard(index, path, file_format) for index, path in enumerate(paths)]
        key = [_file_key(path) for path in paths]

    if not streaming:
        dataset, counts = _cached_dataset(shards, columns, min_length, cache_dir, key, description)
        return Corpus(dataset, description, lambda: counts)

    _check_first_records(shards, columns)
    shared_counts = _SharedCounts(len(shards))
    arguments = {
        "shards": shards,  # the only list: `datasets` divides lists among workers and ranks
        "columns": columns,
        "min_length": min_length,
        "shared_counts": shared_counts,
        "source": description,
    }
    dataset = IterableDataset.from_generator(_stream_rows, features=_FEATURES, gen_kwargs=arguments)
    return Corpus(dataset, description, shared_counts.total)


def _refuse_option(option: str, value: Any, default: Any, reason: str) -> None:
    if value != default:
        raise CorpusError(f"{option}={value!r} has no meaning here, because {reason}.")


def _is_hub_name(name: str) -> bool:
    # A name with the ending of a data file is a file that is missing, not worth a request to the Hub.
    return not os.path.exists(name) and _HUB_NAME.fullmatch(name) is not None and _file_format(name) is None


def _file_format(path: str) -> str | None:
    stem, extension = os.path.splitext(path.lower())
    if extension == ".gz":
        extension = os.path.splitext(stem)[1]
        return None if extension == ".parquet" else _FORMATS.get(extension)
    return _FORMATS.get(extension)


def _find_files(sources: list[str]) -> list[str]:
    """Expand patterns (sorted) and check that every source is a file, given once."""
    paths = []
    for item in sources:
        if os.path.isdir(item):
            raise CorpusError(
                f"{item}: a folder cannot stand in a list of files; use a pattern such as {item}/*.fasta."
            )
        if os.path.exists(item):
            paths.append(item)
        elif glob.has_magic(item):
            found = sorted(path for path in glob.glob(item, recursive=True) if not os.path.isdir(path))
            if not found:
                raise CorpusError(f"{item}: no file matches this pattern.")
            paths.extend(found)
        else:
            raise CorpusError(f"{item}: there is no such file.")
    seen = set()
    for path in paths:
        real_path = os.path.realpath(path)
        if real_path in seen:
            raise CorpusError(f"{path}: the file is named more than once in the source.")
        seen.add(real_path)
    return paths


def _common_format(paths: list[str]) -> str:
    first = None
    for path in paths:
        file_format = _file_format(path)
        if file_format is None:
            raise CorpusError(
                f"{path}: the ending of the name tells no known format ({', '.join(_FORMATS)}; all but .parquet also "
                "with .gz)."
            )
        if first is None:
            first = (file_format, path)
        elif file_format != first[0]:
            raise CorpusError(
                f"{path}: is {file_format} while {first[1]} is {first[0]}, but all files must be of one format."
            )
    return first[0]


def _file_key(path: str) -> list:
    try:
        status = os.stat(path)
    except OSError as error:
        raise _read_failure(path, error) from error
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]


def _load_folder(path: str, split: str) -> Dataset:
    is_dict = os.path.exists(os.path.join(path, "dataset_dict.json"))
    if not is_dict and not os.path.exists(os.path.join(path, "state.json")):
        raise CorpusError(
            f"{path}: the folder was not written by save_to_disk of datasets; for files in it, give a pattern such as "
            f"{os.path.join(path, '*.fasta')}."
        )
    try:
        dataset = datasets.load_from_disk(path)
    except Exception as error:  # whatever a damaged folder makes it raise
        raise CorpusError(f"{path}: datasets could not load this folder ({_one_line(error)}).") from error
    if isinstance(dataset, DatasetDict):
        if split not in dataset:
            raise CorpusError(f"{path}: there is no split {split!r} (dataset_split); the splits are {list(dataset)}.")
        return dataset[split]
    if split not in ("train", str(dataset.split)):
        raise CorpusError(
            f"{path}: the folder holds a single dataset, so dataset_split={split!r} has no meaning here."
        )
    return dataset


def _load_from_hub(
    name: str, config: str | None, split: str, streaming: bool, cache_dir: str | None
) -> Dataset | IterableDataset:
    try:
        return datasets.load_dataset(name, config, split=split, streaming=streaming, cache_dir=cache_dir)
    except Exception as error:  # network, authentication, names, splits, formats: any of many classes
        raise CorpusError(
            f"{name}: no file or folder of this name exists here, and as a Hub dataset (config {config!r}, split "
            f"{split!r}) it could not be loaded ({type(error).__name__}: {_one_line(error)})."
        ) from error


def _dataset_shards(name: str, dataset: Dataset | IterableDataset, streaming: bool) -> list[_Shard]:
    if isinstance(dataset, IterableDataset):
        number = max(1, dataset.num_shards)
        return [
            _Shard(
                index,
                name,
                "dataset",
                dataset.shard(num_shards=number, index=index),
                # The rows before a streamed shard are unknown, so a row number alone would not be unique.
                id_prefix=f"{index}-",
            )
            for index in range(number)
        ]
    if len(dataset) == 0:
        raise CorpusError(f"{name}: the dataset holds no records.")
    number = min(_MAX_DATASET_SHARDS, -(-len(dataset) // 1000)) if streaming else 1
    starts = [len(dataset) * index // number for index in range(number + 1)]
    return [
        _Shard(index, name, "dataset", dataset.select(range(starts[index], starts[index + 1])), starts[index])
        for index in range(number)
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Held-out data
# ---------------------------------------------------------------------------------------------------------------------


def read_cluster_table(path: str | os.PathLike) -> dict[str, str]:
    """Read which protein belongs to which family.

    Args:
        path (`str` or path): a tab- or comma-separated file, also with `.gz`, whose header line names the columns
            `id` and `cluster`. Other columns are ignored.

    Returns:
        `dict[str, str]`: the name of the family by record id.

    Raises:
        [`CorpusError`]: if the file is missing, empty or damaged, lacks a column, has a line with an empty field or
            another number of fields than its header, or puts one id in two families.
    """
    path = os.path.expanduser(os.fspath(path))
    clusters: dict[str, str] = {}
    number = 0
    try:
        with _open_text(path, encoding="utf-8", newline="") as lines:
            first_line = next(lines)
            delimiter = "\t" if "\t" in first_line else ","
            header = next(csv.reader([first_line], delimiter=delimiter, strict=True), [])
            for column in ("id", "cluster"):
                if column not in header:
                    raise CorpusError(
                        f'{path}: the header line of a cluster table must name the columns "id" and "cluster", but '
                        f"it is {_shorten(first_line)}."
                    )
            id_at, cluster_at = header.index("id"), header.index("cluster")
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            for fields in reader:
                number = reader.line_num + 1
                if not fields:
                    continue
                if len(fields) != len(header) or not fields[id_at] or not fields[cluster_at]:
                    raise CorpusError(f"{path}: line {number:,} does not have an id and a cluster as the header says.")
                identifier, cluster = fields[id_at], fields[cluster_at]
                if clusters.setdefault(identifier, cluster) != cluster:
                    raise CorpusError(
                        f"{path}: line {number:,} puts {identifier} in cluster {cluster}, but an earlier line put it "
                        f"in {clusters[identifier]}."
                    )
    except _READ_ERRORS as error:
        raise _read_failure(path, error, after_line=number) from error
    if not clusters:
        raise CorpusError(f"{path}: the cluster table has no line after its header.")
    return clusters


def split_corpus(
    dataset: Dataset,
    *,
    clusters: dict[str, str] | None = None,
    family_fraction: float = 0.0,
    member_fraction: float = 0.0,
    random_fraction: float = 0.0,
    seed: int = 0,
) -> Splits:
    """Hold out records for evaluation: unseen families, unseen members of known families, or random records.

    The result depends only on the arguments. Records whose sequence stands verbatim in a held-out set are taken out
    of train. A record that `clusters` does not list counts as a family of its own.

    Args:
        dataset (`datasets.Dataset`): rows with the columns `id` and `sequence`.
        clusters (`dict[str, str]`, *optional*): family by record id, see [`read_cluster_table`].
        family_fraction (`float`, defaults to 0.0): whole families are held out as `"families"`, in an order that
            depends on the seed and their names only, until their members reach this fraction of all records. A family
            that would carry the set beyond one and a half times the fraction is passed over.
        member_fraction (`float`, defaults to 0.0): of every remaining family with 5 members or more, this fraction
            of its members, rounded but at least one, is held out as `"members"`.
        random_fraction (`float`, defaults to 0.0): this fraction of all records is held out at random as `"random"`;
            families then stand on both sides, which is said in a warning.
        seed (`int`, defaults to 0): seed of all choices.

    Returns:
        [`Splits`]: train and the held-out sets that were asked for.

    Raises:
        [`CorpusError`]: if the dataset is streamed or lacks a column, a fraction is outside 0 to 1 or they add up to
            1 or more, one needs `clusters` and there are none, or a requested set or train would be empty.
    """
    _check_split_options(dataset, clusters, family_fraction, member_fraction, random_fraction, seed)
    generator = np.random.default_rng(seed)
    in_train = np.ones(len(dataset), dtype=bool)
    held_out: dict[str, np.ndarray] = {}
    missing = 0

    if family_fraction or member_fraction:
        families, names, missing = _family_of_records(dataset, clusters)
        if missing:
            logger.warning(
                "%d of %d records are not in the cluster table; each id is treated as a family of its own.",
                missing,
                len(dataset),
            )
        if family_fraction:
            sizes = np.bincount(families, minlength=len(names))
            chosen = _choose_families(names, sizes, family_fraction * len(dataset), seed)
            held_out["families"] = np.flatnonzero(chosen[families])
            in_train[held_out["families"]] = False
        if member_fraction:
            held_out["members"] = _choose_members(families, np.flatnonzero(in_train), member_fraction, generator)
            in_train[held_out["members"]] = False
    if random_fraction:
        logger.warning(
            "Records are held out at random, so that relatives of the held-out proteins stay in train: results on the "
            'held-out set "random" are optimistic. Hold out families with a cluster table to avoid it.'
        )
        wanted = max(1, round(random_fraction * len(dataset)))
        held_out["random"] = np.sort(generator.permutation(np.flatnonzero(in_train))[:wanted])
        in_train[held_out["random"]] = False

    removed = 0
    if held_out:
        digests = _digests(dataset)
        shared = in_train & np.isin(digests, digests[~in_train])
        in_train[shared] = False
        removed = int(shared.sum())
    if removed:
        logger.warning("%d records were taken out of train: their sequences stand in a held-out set.", removed)
    if not in_train.any():
        raise CorpusError(
            f"No record of {len(dataset):,} is left to train on (family_fraction={family_fraction}, "
            f"member_fraction={member_fraction}, random_fraction={random_fraction})."
        )
    return Splits(
        train=dataset.select(np.flatnonzero(in_train)) if held_out else dataset,
        held_out={name: dataset.select(indices) for name, indices in held_out.items()},
        duplicates_removed=removed,
        missing_in_clusters=missing,
    )


def _check_split_options(
    dataset: Dataset,
    clusters: dict[str, str] | None,
    family_fraction: float,
    member_fraction: float,
    random_fraction: float,
    seed: int,
) -> None:
    if not isinstance(dataset, Dataset):
        raise CorpusError("A streamed corpus cannot be split; load it with streaming=False or give separate files.")
    for column in ("id", "sequence"):
        if column not in dataset.column_names:
            raise CorpusError(
                f'The dataset to split has no column "{column}"; its columns are {dataset.column_names}.'
            )
    fractions = {
        "family_fraction": family_fraction,
        "member_fraction": member_fraction,
        "random_fraction": random_fraction,
    }
    for name, fraction in fractions.items():
        if not 0.0 <= fraction < 1.0:
            raise CorpusError(f"{name} must be at least 0 and less than 1, and not {fraction!r}.")
        if fraction and name != "random_fraction" and not clusters:
            raise CorpusError(f"{name}={fraction!r} needs a cluster table (clusters) that says which family is whose.")
    if sum(fractions.values()) >= 1.0:
        raise CorpusError(f"The held-out fractions add up to 1 or more: {fractions}.")
    if seed < 0:
        raise CorpusError(f"seed must be 0 or more, and not {seed!r}.")


def _batches_of(dataset: Dataset, column: str) -> Iterator[list[str]]:
    for table in dataset.select_columns([column]).with_format("arrow").iter(batch_size=_ROWS_PER_BATCH):
        yield table.column(column).to_pylist()


def _family_of_records(dataset: Dataset, clusters: dict[str, str]) -> tuple[np.ndarray, list[str], int]:
    """Number the families: returns (family number of each record, names by number, records without a family)."""
    numbers: dict[str, int] = {}
    families = np.empty(len(dataset), dtype=np.int64)
    row = missing = 0
    for identifiers in _batches_of(dataset, "id"):
        for identifier in identifiers:
            name = clusters.get(identifier)
            if name is None:
                missing += 1
                # Families are often named after a member: the mark keeps this one apart from them.
                name = f"\0{identifier}"
            families[row] = numbers.setdefault(name, len(numbers))
            row += 1
    if missing == len(dataset):
        raise CorpusError(
            f"None of the {missing:,} record ids (such as {dataset[0]['id']!r}) is in the cluster table, whose ids "
            f"are such as {next(iter(clusters))!r}."
        )
    return families, list(numbers), missing


def _choose_families(names: list[str], sizes: np.ndarray, wanted: float, seed: int) -> np.ndarray:
    """Return a mask over families whose members together reach `wanted` records, or come near it."""

    # Keyed by name: other records, or another order of them, do not change the order of the families.
    def key(number: int) -> bytes:
        return hashlib.blake2b(f"{seed}:{names[number]}".encode(), digest_size=16).digest()

    chosen = np.zeros(len(names), dtype=bool)
    taken = 0
    for number in sorted(range(len(names)), key=key):
        if taken >= wanted:
            break
        # Without this bound one large family could put a third of a corpus into a set meant to be a twentieth.
        if taken + sizes[number] <= max(1.0, 1.5 * wanted):
            chosen[number] = True
            taken += int(sizes[number])
    if taken == 0:
        raise CorpusError(
            f"family_fraction asks for {wanted:.0f} records, but the smallest family has {sizes.min():,}, which is "
            "too many to hold it out; raise the fraction."
        )
    if taken < wanted:
        logger.warning("Families of %d records are held out instead of %.0f: the others are too large.", taken, wanted)
    return chosen


def _choose_members(
    families: np.ndarray, candidates: np.ndarray, fraction: float, generator: np.random.Generator
) -> np.ndarray:
    """Return the sorted indices, out of `candidates`, of the members to hold out."""
    candidate_families = families[candidates]
    # Sorted by family and at random within each, so that the first members of every family are a random choice.
    order = np.lexsort((generator.random(len(candidates)), candidate_families))
    _, starts, sizes = np.unique(candidate_families[order], return_index=True, return_counts=True)
    # At least one member, but never the whole family: that would be a held-out family.
    quotas = np.clip(np.floor(sizes * fraction + 0.5).astype(np.int64), 1, np.maximum(sizes - 1, 1))
    quotas[sizes < _MIN_FAMILY_FOR_MEMBERS] = 0
    if not quotas.any():
        raise CorpusError(
            f"member_fraction={fraction!r} cannot be honoured: no family with {_MIN_FAMILY_FOR_MEMBERS} or more "
            "members is left to take members from."
        )
    rank = np.arange(len(candidates)) - np.repeat(starts, sizes)
    return np.sort(candidates[order[rank < np.repeat(quotas, sizes)]])


def _digests(dataset: Dataset) -> np.ndarray:
    """Return one 64-bit digest per sequence."""
    # 8 bytes per record instead of the sequences: with a million records, the chance that a record is taken for a
    # copy of another that it is not is below one in ten million.
    digests = b"".join(
        hashlib.blake2b(sequence.encode(), digest_size=8).digest()
        for sequences in _batches_of(dataset, "sequence")
        for sequence in sequences
    )
    return np.frombuffer(digests, dtype=np.uint64)


def remove_shared_sequences(train: Dataset, held_out: Dataset) -> tuple[Dataset, int]:
    """Take the records out of `train` whose sequence stands verbatim in `held_out`.

    [`split_corpus`] does so for the sets it makes; this is for held-out data that come from a file of their own.

    Args:
        train (`datasets.Dataset`): rows with the column `sequence`.
        held_out (`datasets.Dataset`): rows with the column `sequence`.

    Returns:
        `tuple[datasets.Dataset, int]`: the remaining records, and the number of records taken out.

    Raises:
        [`CorpusError`]: if nothing is left to train on.
    """
    shared = np.isin(_digests(train), _digests(held_out))
    removed = int(shared.sum())
    if not removed:
        return train, 0
    if removed == len(train):
        raise CorpusError(f"All {removed:,} records to train on also stand in the held-out data.")
    logger.warning("%d records were taken out of train: their sequences stand in the held-out data.", removed)
    return train.select(np.flatnonzero(~shared)), removed
