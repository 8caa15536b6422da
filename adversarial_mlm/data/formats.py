"""Readers of file formats. Each yields (id, sequence as found), and raises [`CorpusError`] for invalid input."""

import csv
import gzip
import io
import itertools
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset

from adversarial_mlm.utils.errors import CorpusError, clip, one_line, shorten

# Errors of the gzip, text and Arrow layers for a damaged or unreadable file.
_READ_ERRORS = (OSError, EOFError, zlib.error, UnicodeDecodeError, pa.ArrowException)

_ROWS_PER_BATCH = 1000

# Characters in a CSV field. Bounded, because an unclosed quotation mark makes one field of the rest of the file.
_LONGEST_FIELD = 1 << 26

_LINE_END = re.compile(rb"\r\n|\r|\n")

# How the error handler "surrogateescape" decodes a byte that is not UTF-8, and the Latin-1 character of that byte.
_ESCAPED_TO_LATIN_1 = {0xDC00 + byte: chr(byte) for byte in range(0x80, 0x100)}


class Columns(NamedTuple):
    """The columns of a table with the sequences and, optionally, the ids."""

    sequence: str = "sequence"
    id: str | None = None


@dataclass(frozen=True)
class Shard:
    """A part of a source, read by one process at a time: a file, a part of a file, or a part of a dataset.

    A part of a file is the bytes from `start` to `stop` of uncompressed FASTA; a header begins at `start`.
    """

    index: int
    name: str
    format: str
    dataset: Dataset | IterableDataset | None = None
    first_row: int = 0
    id_prefix: str = ""
    first_line: int = 0
    start: int = 0
    stop: int | None = None


def read_rows(shard: Shard, columns: Columns) -> Iterator[tuple[str, str]]:
    """Yield (id, sequence as found) of every record; missing ids become row numbers."""
    name = shard.name
    # Arrow, `datasets` and the Hub client raise errors of any class
    errors = Exception if shard.format in ("parquet", "dataset") else _READ_ERRORS
    try:
        records = _READERS[shard.format](shard, columns)
        for row, (identifier, sequence) in enumerate(records, start=shard.first_row):
            if sequence is None:
                sequence = ""
            elif not isinstance(sequence, str):
                raise CorpusError(
                    f'{name}: column "{columns.sequence}" holds {type(sequence).__name__} values (record {row + 1:,}),'
                    " but sequences must be text."
                )
            if identifier is None:
                identifier = f"{shard.id_prefix}{row}"
            # JSON can contain characters that UTF-8, and therefore Arrow, cannot store
            yield str(identifier).encode("utf-8", "replace").decode("utf-8"), sequence
    except CorpusError:
        raise
    except errors as error:
        raise _read_failure(name, error) from error


def resolve_columns(name: str, asked: Columns, present: Sequence[str]) -> Columns:
    """Check that the requested columns exist, and use `id` as id column if none was requested."""
    for column, option in ((asked.sequence, "sequence_column"), (asked.id, "id_column")):
        if column is not None and list(present).count(column) > 1:
            raise CorpusError(f'{name}: the column "{column}" ({option}) occurs more than once: rename one.')
        if column is not None and column not in present:
            there = ", ".join(f'"{_brief(other)}"' for other in present[:30]) + (", ..." if len(present) > 30 else "")
            raise CorpusError(f'{name}: there is no column "{column}" ({option}); the columns are {there or "none"}.')
    return Columns(asked.sequence, asked.id or ("id" if "id" in present else None))


def _brief(text: str) -> str:
    """Return the beginning of a text from the input, in any language, without control characters."""
    text = clip(text, 40)
    return text if text.isprintable() else ascii(text)[1:-1]


class _ByteRange(io.RawIOBase):
    """The bytes of a file from `start` to `stop`."""

    def __init__(self, path: str, start: int, stop: int):
        self._file, self._left = open(path, "rb", buffering=0), stop - start
        self._file.seek(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        read = self._file.readinto(memoryview(buffer)[: self._left])
        self._left -= read
        return read

    def close(self) -> None:
        self._file.close()
        super().close()


def is_compressed(path: str) -> bool:
    """Whether a file is gzip-compressed, by its first bytes: some tools unpack a file and keep its name."""
    with open(path, "rb") as file:
        return file.read(2) in (b"\x1f\x8b", b"\x1f")


def _open(path: str, start: int, stop: int | None) -> io.BufferedReader | gzip.GzipFile:
    if stop is not None:
        return io.BufferedReader(_ByteRange(path, start, stop))
    return gzip.open(path, "rb") if is_compressed(path) else open(path, "rb")


def read_lines(
    path: str, errors: str = "strict", newline: str | None = None, start: int = 0, stop: int | None = None
) -> Iterator[str]:
    """Yield the lines of a UTF-8 file, plain or gzip-compressed.

    `start` and `stop` limit the bytes of a plain file; `errors` and `newline` are passed to `open`.
    """
    number = 0
    try:
        with _open(path, start, stop) as file:
            head = file.peek(1) if start == 0 else b">"  # a whole buffer, at least 8 KiB of a longer file
            if not head:
                raise CorpusError(f"{path}: the file is empty.")
            if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
                raise CorpusError(f"{path}: the file is UTF-16 or UTF-32 text; save it as UTF-8.")
            if b"\0" in head:
                raise CorpusError(f"{path}: the file is binary, not text.")
            if head.startswith(b"\xef\xbb\xbf"):
                file.read(3)  # the byte order mark that some editors write
            text = io.TextIOWrapper(file, encoding="utf-8", errors=errors, newline=newline)
            for line in text:
                number += 1
                yield line
    except UnicodeDecodeError as error:
        # the decoder's buffer begins within the next line
        number += 1 + len(_LINE_END.findall(error.object[: error.start]))
        byte = f"0x{error.object[error.start]:02X}"
        raise CorpusError(f"{path}: line {number:,} is not UTF-8 text (byte {byte}); save it as UTF-8.") from error
    except _READ_ERRORS as error:
        raise _read_failure(path, error, after_line=number) from error


def _read_failure(name: str, error: BaseException, after_line: int = 0) -> CorpusError:
    what, detail = "could not be read", getattr(error, "strerror", None) or one_line(error)
    if isinstance(error, EOFError):
        what, detail = "the compressed file ends too early", "probably an incomplete copy or download: get it again"
    elif isinstance(error, gzip.BadGzipFile | zlib.error):
        what = "the compressed file is damaged"
    elif isinstance(error, UnicodeDecodeError):
        what, detail = "not UTF-8 text", error.reason
    where = f" after line {after_line:,}" if after_line else ""
    return CorpusError(f"{name}: {what}{where} ({detail}).")


def _read_fasta(shard: Shard, _: Columns) -> Iterator[tuple[str | None, str]]:
    # Not dnaio: it refuses headers that are not ASCII, silently skips lines that start with "#", and is not faster.
    path, header, records = shard.name, None, shard.first_row
    parts: list[str] = []
    # headers may have any encoding; an extra header ends the last record
    lines = itertools.chain(read_lines(path, errors="surrogateescape", start=shard.start, stop=shard.stop), [">"])
    for number, line in enumerate(lines, start=1 + shard.first_line):
        if line[0] == ">":
            if header is not None:
                records += 1
                sequence = "".join(parts).replace("\n", "")
                # a header joined to a sequence would pass as residues, binary data as unknown residues
                for sign, what in ((">", '">" inside its sequence; a line end is missing'), ("\0", "binary data")):
                    if sign in sequence:
                        raise CorpusError(
                            f"{path}: record {records:,}, which ends at line {number - 1:,}, has {what}."
                        )
                yield _fasta_id(header), sequence
            header, parts = line, []
        elif header is None and line.strip():
            raise CorpusError(
                f"{path}: not a FASTA file: line {number:,} is {shorten(line)}, but must be a header that starts with "
                '">".'
            )
        elif line[0] in ";#":
            raise CorpusError(f"{path}: line {number:,} is neither a header nor a sequence: {shorten(line)}.")
        else:
            parts.append(line)
    if not records:
        raise CorpusError(f"{path}: the file holds no FASTA record, only blank lines.")


def _fasta_id(header: str) -> str | None:
    """Return the accession of a UniProt header, else the first word, else `None`."""
    words = header[1:].split(maxsplit=1)
    if not words:
        return None
    word = words[0].translate(_ESCAPED_TO_LATIN_1)
    if word.startswith(("sp|", "tr|")):
        return word.split("|")[1] or word
    return word


def _read_csv(shard: Shard, columns: Columns) -> Iterator[tuple[str | None, str]]:
    rows = csv_rows(shard.name, delimiter="\t" if shard.format == "tsv" else ",")
    _, header = next(rows, (0, []))
    columns = resolve_columns(shard.name, columns, header)
    sequence_at = header.index(columns.sequence)
    id_at = None if columns.id is None else header.index(columns.id)
    for _, fields in rows:
        yield (None if id_at is None else fields[id_at] or None), fields[sequence_at]


def csv_rows(path: str, delimiter: str | None = None) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) of each row, header first; a tab in the header makes tab the default delimiter."""
    # the standard library's errors contain the line number, unlike pyarrow's
    lines = read_lines(path, newline="")
    first_line = next(lines, "")
    delimiter = delimiter or ("\t" if "\t" in first_line else ",")
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    reader = csv.reader(itertools.chain([first_line], lines), delimiter=delimiter, strict=True)
    width = None
    try:
        for fields in filter(None, reader):
            width = width or len(fields)
            if len(fields) != width:
                raise CorpusError(
                    f"{path}: line {reader.line_num:,} has {len(fields)} fields, but the header has {width}."
                )
            yield reader.line_num, fields
    except csv.Error as error:
        raise _read_failure(path, error, after_line=reader.line_num) from error


def _read_json(shard: Shard, columns: Columns) -> Iterator[tuple[Any, Any]]:
    for where, record in json_records(shard.name):
        if not isinstance(record, dict):
            raise CorpusError(f"{shard.name}: {where} is not a JSON object but {shorten(str(record))}.")
        found = resolve_columns(f"{shard.name}, {where}", columns, list(record))
        yield (None if found.id is None else record[found.id]), record[found.sequence]


def json_records(path: str) -> Iterator[tuple[str, Any]]:
    """Yield (location, record) from JSON lines, or from one JSON list, which is loaded into memory as a whole."""
    lines = read_lines(path)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        is_list = line.lstrip().startswith("[")
        try:
            found = json.loads(line + "".join(lines) if is_list else line, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            reason = one_line(error)
            if isinstance(error, RecursionError):
                reason = "it is nested too deeply"
            elif isinstance(error, json.JSONDecodeError):
                reason = f"{error.msg} at line {number - 1 + error.lineno:,}" if is_list else error.msg
            where = "not a JSON list" if is_list else f"line {number:,} is not a JSON object"
            raise CorpusError(f"{path}: {where} ({reason}).") from error
        if is_list:
            yield from ((f"record {index:,}", record) for index, record in enumerate(found, start=1))
        else:
            yield f"line {number:,}", found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object, and refuse duplicate names, of which Python would silently keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {shorten(max(names, key=names.count))} occurs in one object more than once")
    return found


def _read_parquet(shard: Shard, columns: Columns) -> Iterator[tuple[Any, Any]]:
    if os.path.getsize(shard.name) == 0:
        raise CorpusError(f"{shard.name}: the file is empty.")
    with pq.ParquetFile(shard.name, memory_map=True) as file:
        columns = resolve_columns(shard.name, columns, file.schema_arrow.names)
        for batch in file.iter_batches(_ROWS_PER_BATCH, columns=_to_select(columns)):
            yield from _batch_rows(batch.to_pydict(), columns)


def _read_dataset(shard: Shard, columns: Columns) -> Iterator[tuple[Any, Any]]:
    # `iter` reads the whole shard also in a DataLoader worker; iterating over rows would divide it among the workers
    assert shard.dataset is not None  # a shard of this format has one
    selected = shard.dataset.select_columns(_to_select(columns))
    on_disk = isinstance(selected, Dataset)
    for batch in selected.with_format("arrow" if on_disk else None).iter(_ROWS_PER_BATCH):
        if on_disk:
            # without this check of the offsets, a damaged memory-mapped file would crash the process
            batch.validate(full=True)
            batch = batch.to_pydict()
        yield from _batch_rows(batch, columns)


def _to_select(columns: Columns) -> list[str]:
    return list(dict.fromkeys(column for column in columns if column is not None))


def _batch_rows(batch: dict[str, list], columns: Columns) -> Iterator[tuple[Any, Any]]:
    sequences = batch[columns.sequence]
    return zip(itertools.repeat(None) if columns.id is None else batch[columns.id], sequences, strict=False)


_READERS = {
    "fasta": _read_fasta,
    "csv": _read_csv,
    "tsv": _read_csv,
    "json": _read_json,
    "parquet": _read_parquet,
    "dataset": _read_dataset,
}
