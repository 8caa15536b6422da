"""Arrow files of clean rows: one byte per residue, memory-mapped."""

from collections.abc import Iterator
from itertools import islice

import pyarrow as pa
from datasets import Dataset, Features, Value
from datasets.table import MemoryMappedTable, concat_tables

_SCHEMA = Features({"id": Value("string"), "sequence": Value("string"), "length": Value("int32")}).arrow_schema
# Small batches cost memory when the file is mapped, large ones while it is written.
_ROWS_PER_BATCH = 5000


class TableWriter:
    """Write clean rows into a file, batch by batch. Use it as a context manager.

    Args:
        file: A binary file that is open for writing.
    """

    def __init__(self, file):
        self._writer = pa.ipc.new_stream(file, _SCHEMA)

    def write(self, rows: Iterator[tuple[str, str, int]]) -> None:
        """Write all rows (id, sequence, length)."""
        while batch := list(islice(rows, _ROWS_PER_BATCH)):
            arrays = [list(column) for column in zip(*batch, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))

    def __enter__(self) -> "TableWriter":
        return self

    def __exit__(self, *error) -> None:
        self._writer.close()


def map_tables(paths: list[str], fingerprint: str) -> Dataset:
    """Map the rows of several files into memory, one file after the other.

    Args:
        paths (`list[str]`): Files written by [`TableWriter`].
        fingerprint (`str`): Fingerprint of their content, under which results about the rows are cached.
    """
    return Dataset(concat_tables([MemoryMappedTable.from_file(path) for path in paths]), fingerprint=fingerprint)
