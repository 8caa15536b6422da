"""Read records from files: TAPE's JSON lists and LMDB folders, JSON lines, CSV, TSV and Parquet."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from adversarial_mlm.data.formats import csv_rows, json_records
from adversarial_mlm.downstream.lmdb_entries import load_plain
from adversarial_mlm.utils.errors import CorpusError, one_line, shorten

_ROWS_PER_BATCH = 1000

Record = dict[str, Any]
_Reader = Callable[..., Iterator[tuple[str, Any]]]


def read_records(
    path: str | os.PathLike, required: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[str, Record]]:
    """Yield every record of a file, with the requested columns only.

    Args:
        path (`str` or path): a file `.json`, `.jsonl` (one list, or one record per line), `.csv` or `.tsv`, each also
            with `.gz`; a file `.parquet`; or a folder `.lmdb` as published by TAPE (needs the package `lmdb`). Nothing
            in an LMDB folder is executed, see [`load_plain`]. But the library may crash on a manipulated file.
        required (`list[str]`): columns that every record must have.
        optional (`list[str]`, defaults to none): columns to keep if a record has them.

    Yields:
        `tuple[str, dict]`: location of the record, such as `"line 3"`, and its values by column. CSV gives text only,
        other formats also numbers, lists or numpy arrays.

    Raises:
        [`CorpusError`]: if the file is missing, empty or damaged, has an unknown format, or lacks a required column.
    """
    path = os.path.expanduser(os.fspath(path))
    if not os.path.exists(path):
        raise CorpusError(f"{path}: there is no such file.")
    count = 0
    for where, record in _reader(path)(path, required, optional):
        count += 1
        if not isinstance(record, dict):
            raise CorpusError(f"{path}: {where} must be a record with columns, but is {shorten(str(record)[:200])}.")
        for column in required:
            if column not in record:
                there = ", ".join(f'"{name}"' for name in list(record)[:30])
                raise CorpusError(f'{path}: {where} has no column "{column}"; its columns are {there or "none"}.')
        yield where, {column: record[column] for column in (*required, *optional) if column in record}
    if not count:
        raise CorpusError(f"{path}: the file contains no records.")


def _reader(path: str) -> _Reader:
    name = path.lower().rstrip("/")
    if name.endswith(".lmdb"):
        return _lmdb_records
    ending = os.path.splitext(name.removesuffix(".gz"))[1]
    if ending not in _READERS or name.endswith(".parquet.gz"):
        raise CorpusError(
            f"{path}: the ending of the name is not that of a known format ({', '.join(_READERS)}; all but .parquet "
            "also with .gz; .lmdb): rename or convert the file."
        )
    return _READERS[ending]


def _json_records(path: str, *_: Sequence[str]) -> Iterator[tuple[str, Any]]:
    return json_records(path)


def _csv_records(path: str, *_: Sequence[str]) -> Iterator[tuple[str, Any]]:
    rows = csv_rows(path, delimiter="\t" if ".tsv" in path.lower()[-7:] else ",")
    header = next(rows, (0, []))[1]
    _check_distinct(path, header)
    for number, fields in rows:
        yield f"line {number:,}", dict(zip(header, fields, strict=True))


def _check_distinct(path: str, columns: list[str]) -> None:
    repeated = [column for column in columns if columns.count(column) > 1]
    if repeated:
        raise CorpusError(f"{path}: the column {shorten(repeated[0])} occurs more than once: rename one.")


def _parquet_records(path: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[tuple[str, Any]]:
    if os.path.getsize(path) == 0:
        raise CorpusError(f"{path}: the file is empty.")
    number = 0
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            present = file.schema_arrow.names
            _check_distinct(path, present)
            # if a required column is missing, read all, because the error lists them
            if set(required) <= set(present):
                present = [column for column in (*required, *optional) if column in present]
            for batch in file.iter_batches(_ROWS_PER_BATCH, columns=present):
                for record in batch.to_pylist():
                    number += 1
                    yield f"record {number:,}", record
    except CorpusError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:  # text that is not UTF-8 raises a ValueError
        raise CorpusError(f"{path}: could not be read ({one_line(error)}).") from error


def _lmdb_records(path: str, *_: Sequence[str]) -> Iterator[tuple[str, Any]]:
    try:
        import lmdb
    except ModuleNotFoundError as error:
        raise CorpusError(
            f"{path}: LMDB folders need the package lmdb, which is not installed: pip install 'adversarial-mlm[tape]'."
        ) from error
    try:
        environment = lmdb.open(path, subdir=os.path.isdir(path), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise CorpusError(f"{path}: could not be opened as an LMDB folder ({one_line(error)}).") from error
    try:
        with environment, environment.begin() as transaction:
            # reading missing pages of a truncated file would crash the process
            needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
            if os.path.getsize(os.path.join(path, "data.mdb") if os.path.isdir(path) else path) < needed:
                raise CorpusError(
                    f"{path}: the file ends too early; probably the copy or download is incomplete: get it again."
                )
            for key in _lmdb_keys(path, transaction.get):
                yield f"entry {shorten(key.decode('latin-1'))}", _lmdb_value(path, transaction.get, key)
    except lmdb.Error as error:
        raise CorpusError(f"{path}: could not be read ({one_line(error)}).") from error


def _lmdb_keys(path: str, get: Callable[[bytes], bytes | None]) -> Iterator[bytes]:
    """Yield the keys of the records: 0, 1, ... up to `num_examples`, or those in the entry `keys`."""
    if get(b"num_examples") is None and get(b"keys") is not None:
        keys = _lmdb_value(path, get, b"keys")
        if not isinstance(keys, list) or not all(isinstance(key, bytes) and key for key in keys):
            raise CorpusError(f'{path}: the entry "keys" is not a list of keys.')
        yield from keys
        return
    number = _lmdb_value(path, get, b"num_examples")
    if type(number) is not int or number < 0:
        raise CorpusError(f'{path}: the entry "num_examples" is not a number of records.')
    for index in range(number):
        yield str(index).encode()


def _lmdb_value(path: str, get: Callable[[bytes], bytes | None], key: bytes) -> Any:
    data = get(key)
    if data is None:
        raise CorpusError(f"{path}: there is no entry {shorten(key.decode('latin-1'))}.")
    try:
        return load_plain(bytes(data))
    except ValueError as error:
        raise CorpusError(
            f"{path}: the entry {shorten(key.decode('latin-1'))} was not read: {error}. Only pickles of numbers, "
            "text, lists, dictionaries and numpy arrays of these are read."
        ) from error


_READERS: dict[str, _Reader] = {
    ".json": _json_records,
    ".jsonl": _json_records,
    ".csv": _csv_records,
    ".tsv": _csv_records,
    ".parquet": _parquet_records,
}
