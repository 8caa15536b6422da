"""Read records from files: TAPE's JSON lists and LMDB folders, JSON lines, CSV, TSV and Parquet."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from adversarial_mlm.data.tables import column_index, csv_rows, find_column, json_records
from adversarial_mlm.data.text_files import COMPRESSED_ENDINGS, check_parquet, without_compression
from adversarial_mlm.downstream.lmdb_entries import load_plain
from adversarial_mlm.utils.errors import CorpusError, one_line, shorten

_ROWS_PER_BATCH = 1000

Record = dict[str, Any]
_Reader = Callable[..., Iterator[tuple[str, Any]]]


def read_records(
    path: str | os.PathLike, required: Collection[str], optional: Sequence[str] = ()
) -> Iterator[tuple[str, Record]]:
    """Yield every record of a file, with the requested columns only.

    Args:
        path (`str` or path): a file `.json` or `.jsonl` (see [`json_records`]), `.csv` or `.tsv` (see [`csv_rows`]),
            each also compressed; a file `.parquet`; or a folder `.lmdb` as published by TAPE (needs the package
            `lmdb`). Nothing in an LMDB folder is executed, see [`load_plain`]. But the library may crash on a
            manipulated file.
        required (`list[str]` or `dict[str, str]`): columns that every record must have; as a mapping, with the options
            that name them, for messages.
        optional (`list[str]`, defaults to none): columns to keep if a record has them. Columns that are not asked for
            may repeat or lack a name.

    Yields:
        `tuple[str, dict]`: location of the record, such as `"line 3"`, and its values by column. CSV gives text only,
        other formats also numbers, lists or numpy arrays.

    Raises:
        [`CorpusError`]: if the file is missing, empty or damaged, has an unknown format, lacks a required column, or
            has one of the columns more than once.
    """
    path = os.path.expanduser(os.fspath(path))
    if not os.path.exists(path):
        raise CorpusError(f"{path}: there is no such file.")
    if os.path.isdir(path) and not path.rstrip("/").endswith(".lmdb"):
        raise CorpusError(f"{path}: this is a folder: name a file in it.")
    count, keys, names = 0, None, {}
    for where, record in _reader(path)(path, required, optional):
        count += 1
        if not isinstance(record, dict):
            raise CorpusError(f"{path}: {where} must be a record with columns, but is {shorten(str(record)[:200])}.")
        if record.keys() != keys:
            keys, names = record.keys(), _asked_columns(f"{path}: {where}", list(record), required, optional)
        yield where, {asked: record[name] for asked, name in names.items()}
    if not count:
        raise CorpusError(f"{path}: the file contains no records.")


def _asked_columns(
    location: str, columns: Sequence[Any], required: Collection[str], optional: Sequence[str]
) -> dict[str, Any]:
    """Return the name in the file of every column that is asked for and present."""
    texts = [name if isinstance(name, str) else repr(name) for name in columns]
    options = required if isinstance(required, Mapping) else {}
    names = {asked: columns[column_index(location, texts, asked, options.get(asked, ""))] for asked in required}
    found = ((asked, find_column(location, texts, asked)) for asked in optional)
    return names | {asked: columns[index] for asked, index in found if index is not None}


def _reader(path: str) -> _Reader:
    name = path.lower().rstrip("/")
    if name.endswith(".lmdb"):
        return _lmdb_records
    ending = os.path.splitext(without_compression(name))[1]
    if ending not in _READERS or (ending == ".parquet" and not name.endswith(ending)):
        raise CorpusError(
            f"{path}: the ending of the name is not that of a known format ({', '.join(_READERS)}; all but .parquet "
            f"also with {', '.join(COMPRESSED_ENDINGS)}; .lmdb): rename or convert the file."
        )
    return _READERS[ending]


def _json_records(path: str, required: Collection[str], optional: Sequence[str]) -> Iterator[tuple[str, Any]]:
    return json_records(path, [*required] or optional)


def _csv_records(path: str, required: Collection[str], optional: Sequence[str]) -> Iterator[tuple[str, Any]]:
    rows = csv_rows(path, [*required] or optional, "\t" if without_compression(path).endswith(".tsv") else ",")
    header = next(rows, (0, []))[1]
    names = _asked_columns(path, header, required, optional)
    places = [(name, header.index(name)) for name in names.values()]
    for number, fields in rows:
        yield f"line {number:,}", {name: fields[at] for name, at in places}


def _parquet_records(path: str, required: Collection[str], optional: Sequence[str]) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        check_parquet(path)
        with pq.ParquetFile(path, memory_map=True) as file:
            present = list(_asked_columns(path, file.schema_arrow.names, required, optional).values())
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
