"""Readers of file formats. Each yields (id, sequence as found), and raises [`CorpusError`] for invalid input."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from datasets import Dataset, IterableDataset

from adversarial_mlm.data.cleaning import sequence_text
from adversarial_mlm.data.tables import column_index, csv_rows, find_column, json_records
from adversarial_mlm.data.text_files import READ_ERRORS, check_parquet, read_failure, read_lines
from adversarial_mlm.utils.errors import CorpusError, one_line, shorten

_ROWS_PER_BATCH = 1000

# How the error handler "surrogateescape" decodes a byte that is not UTF-8, and the Latin-1 character of that byte.
_ESCAPED_TO_LATIN_1 = {0xDC00 + byte: chr(byte) for byte in range(0x80, 0x100)}

# Types of records in PIR files, between ">" and ";". The line after such a header is a description.
_PIR_TYPES = ("P1", "F1", "DL", "DC", "RL", "RC", "N1", "N3", "XX")


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
    errors = Exception if shard.format in ("parquet", "dataset") else READ_ERRORS
    try:
        records = _READERS[shard.format](shard, columns)
        for row, (identifier, sequence) in enumerate(records, start=shard.first_row):
            if not isinstance(sequence, str):
                try:
                    sequence = sequence_text(sequence)
                except ValueError as error:
                    where = f'{name}: record {row + 1:,}: column "{columns.sequence}"'
                    raise CorpusError(f"{where} {one_line(error)}.") from error
            if not isinstance(identifier, str):
                identifier = _id_text(identifier)
            identifier = identifier.strip() or f"{shard.id_prefix}{row}"
            if not identifier.isascii():
                # JSON can contain characters that UTF-8, and therefore Arrow, cannot store
                identifier = identifier.encode("utf-8", "replace").decode("utf-8")
            yield identifier, sequence
    except CorpusError:
        raise
    except errors as error:
        raise read_failure(name, error) from error


def _id_text(value: Any) -> str:
    """Return an id that is not text as text; empty if it is missing."""
    if value is None or value != value:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def resolve_columns(name: str, asked: Columns, present: Sequence[str]) -> Columns:
    """Find the requested columns, and use `id` as id column if none was requested; returns their names as present."""
    sequence = present[column_index(name, present, asked.sequence, "sequence_column")]
    if asked.id is not None:
        return Columns(sequence, present[column_index(name, present, asked.id, "id_column")])
    id_at = find_column(name, present, "id", "id_column")
    return Columns(sequence, None if id_at is None else present[id_at])


def _read_fasta(shard: Shard, _: Columns) -> Iterator[tuple[str | None, str]]:
    for header, sequence in fasta_entries(shard):
        yield _fasta_id(header), sequence


def fasta_entries(shard: Shard) -> Iterator[tuple[str, str]]:
    """Yield (header line, sequence as found) of every record of a FASTA file, or of a part of it.

    Raises:
        CorpusError: If the file is not FASTA. Errors of reading are those of [`read_lines`].
    """
    # Not dnaio: it refuses headers that are not ASCII, silently skips lines that start with "#", and is not faster.
    path, header, records = shard.name, None, shard.first_row
    parts: list[str] = []
    # headers may have any encoding; an extra header ends the last record
    lines = itertools.chain(read_lines(path, errors="surrogateescape", start=shard.start, stop=shard.stop), [">"])
    for number, line in enumerate(lines, start=1 + shard.first_line):
        if line[0] == ">":
            if header is not None:
                records += 1
                if header[3:4] == ";" and header[1:3] in _PIR_TYPES:
                    header, parts = _from_pir(path, number - len(parts), header, parts)
                sequence = "".join(parts).replace("\n", "")
                if ">" in sequence or "\0" in sequence:
                    raise _foreign_text(path, records, number, parts)
                if sequence[:1] <= "9" or sequence[-1:] <= "9":  # seldom true, and faster than `isdigit`
                    sequence = _with_numbers_apart(sequence, parts)
                yield header, sequence
            header, parts = line, []
        elif header is None and line.strip():
            raise CorpusError(
                f"{path}: not a FASTA file: line {number:,} is {shorten(line)}, but must be a header that starts with "
                '">".'
            )
        elif line[0] in ";#/":
            raise CorpusError(f"{path}: line {number:,} is neither a header nor a sequence: {shorten(line)}.")
        else:
            parts.append(line)
    if not records:
        raise CorpusError(f"{path}: the file holds no FASTA record, only blank lines.")


def _with_numbers_apart(sequence: str, parts: list[str]) -> str:
    """Put blanks around the numbers of lines or positions, for the cleaning to remove them."""
    if sequence[:1].isdigit() or sequence[-1:].isdigit():
        return f" {' '.join(map(str.rstrip, parts))} "
    return sequence


def _foreign_text(path: str, records: int, number: int, parts: list[str]) -> CorpusError:
    """Return the error for what would pass as residues: a header joined to a sequence, or binary data.

    Args:
        path (`str`): The file.
        records (`int`): Number of the record.
        number (`int`): Number of the line after the record.
        parts (`list[str]`): Lines of the record's sequence.
    """
    for line, part in enumerate(parts, start=number - len(parts)):
        before, sign, _ = part.partition(">")
        if sign and not any(letter.isascii() and letter.isalpha() for letter in before):
            return CorpusError(
                f'{path}: line {line:,} is {shorten(part)}, but a header must start with ">": remove what precedes it.'
            )
    sequence = "".join(parts)
    what = '">" inside its sequence; a line end is missing' if ">" in sequence else "binary data"
    return CorpusError(f"{path}: record {records:,}, which ends at line {number - 1:,}, has {what}.")


def _from_pir(path: str, first_line: int, header: str, parts: list[str]) -> tuple[str, list[str]]:
    """Return header and lines of a PIR record, with description, final `*` and the comments after it left empty.

    Args:
        path (`str`): The file.
        first_line (`int`): Number of the line after the header.
        header (`str`): The header, such as `>P1;CRAB_ANAPL`.
        parts (`list[str]`): The lines after it.
    """
    ends = next((index for index, part in enumerate(parts) if index and part.rstrip().endswith("*")), None)
    if ends is None:
        raise CorpusError(
            f"{path}: line {first_line - 1:,} is the header of a PIR record, {shorten(header)}, but no line after its "
            'description ends with "*": complete the record, or remove the type and semicolon for a FASTA header.'
        )
    comments = parts[ends + 1 :]
    for line, comment in enumerate(comments, start=first_line + ends + 1):
        if comment.strip() and comment[1:2] != ";":
            raise CorpusError(f'{path}: line {line:,} follows the "*" at the end of a PIR record: {shorten(comment)}.')
    last = parts[ends].rstrip()[:-1]
    return ">" + header[4:], ["", *parts[1:ends], last, *[""] * len(comments)]


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
    asked = [column for column in columns if column is not None]
    rows = csv_rows(shard.name, asked, delimiter="\t" if shard.format == "tsv" else ",")
    _, header = next(rows, (0, []))
    columns = resolve_columns(shard.name, columns, header)
    sequence_at = header.index(columns.sequence)
    id_at = None if columns.id is None else header.index(columns.id)
    for _, fields in rows:
        yield (None if id_at is None else fields[id_at]), fields[sequence_at]


def _read_json(shard: Shard, columns: Columns) -> Iterator[tuple[Any, Any]]:
    asked = [column for column in columns if column is not None]
    present, found = None, columns
    for where, record in json_records(shard.name, asked):
        if not isinstance(record, dict):
            raise CorpusError(f"{shard.name}: {where} is not a JSON object but {shorten(str(record))}.")
        if record.keys() != present:
            present = record.keys()
            found = resolve_columns(f"{shard.name}, {where}", columns, list(record))
        yield (None if found.id is None else record[found.id]), record[found.sequence]


def _read_parquet(shard: Shard, columns: Columns) -> Iterator[tuple[Any, Any]]:
    check_parquet(shard.name)
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
