"""Arrow files of clean rows: a byte for each residue, mapped into memory."""

from collections.abc import Iterator
from itertools import islice

import pyarrow as pa
from datasets import Dataset, Features, Value
from datasets.table import MemoryMappedTable, concat_tables

_SCHEMA = Features({"id": Value("string"), "sequence": Value("string"), "length": Value("int32")}).arrow_schema
# A mapped file has a description of each batch in memory: small ones cost memory then, large ones while writing.
_ROWS_PER_BATCH = 5000


class TableWriter:
    """Writes clean rows into a file, batch by batch; to be used with `with`.

    Args:
        file: A file that is open for writing bytes.
    """

    def __init__(self, file):
        self._writer = pa.ipc.new_stream(file, _SCHEMA)

    def write(self, rows: Iterator[tuple[str, str, int]]) -> None:
        """Write all of these (id, sequence, length)."""
        while batch := list(islice(rows, _ROWS_PER_BATCH)):
            arrays = [list(column) for column in zip(*batch, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, *error) -> None:
        self._writer.close()


def map_tables(paths: list[str], fingerprint: str) -> Dataset:
    """The rows of several files, one after the other, mapped into memory.

    Args:
        paths (`list[str]`): Files of a [`TableWriter`].
        fingerprint (`str`): Of their content, which `Dataset.from_file` does not know: what is found out about the
            rows is kept under it.
    """
    return Dataset(concat_tables([MemoryMappedTable.from_file(path) for path in paths]), fingerprint=fingerprint)
