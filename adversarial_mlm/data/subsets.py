"""Subsets and statistics of whole corpora in little memory, and the cache that keeps them.

For a corpus on disk, row numbers and statistics are cached next to it, so only the first start computes them. A
dataset in memory is handled in memory.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator

import datasets
import numpy as np
import pyarrow as pa
from datasets import Dataset
from datasets.table import MemoryMappedTable

from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.atomic_files import UNFINISHED_FILES
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import CorpusError
from adversarial_mlm.utils.hashing import array_checksum, fingerprint_of_parts

ROWS_FILE = ".rows.arrow"
_ROWS_AT_ONCE = 100_000

logger = logging.getLogger(__name__)


def cache_folder(cache_dir: str | None) -> str:
    """Return the cache folder: `adversarial_mlm` in `cache_dir`, by default in the cache of `datasets`."""
    return os.path.join(os.path.expanduser(cache_dir or str(datasets.config.HF_DATASETS_CACHE)), "adversarial_mlm")


def row_pieces(dataset: Dataset) -> Iterator[tuple[int, np.ndarray]]:
    """Yield pieces of at most 100,000 rows: (number of the first row, index of each row in the underlying table)."""
    for start in range(0, len(dataset), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(dataset))
        if dataset._indices is None:
            yield start, np.arange(start, stop)
        else:
            yield start, dataset._indices.column(0).slice(start, stop - start).to_numpy()


def column_pieces(dataset: Dataset, column: str) -> Iterator[pa.ChunkedArray]:
    """Yield the values of a column in pieces of at most 100,000 rows, in the order of the dataset."""
    values = dataset.data.column(column)
    for start, rows in row_pieces(dataset):
        first, stop = int(rows.min()), int(rows.max()) + 1
        if stop - first == len(rows) and dataset._indices is None:
            yield values.slice(first, len(rows))
        elif stop - first <= 2 * len(rows):
            # if rows are left out, `datasets` would gather them one by one, 100 times as slow
            yield values.slice(first, stop - first).take(pa.array(rows - first))
        else:
            gathered = dataset.select_columns([column]).with_format("arrow")[start : start + len(rows)]
            yield gathered.column(column)


def without_rows(dataset: Dataset, rows: np.ndarray, cache_dir: str | None = None) -> Dataset:
    """Return the dataset without some rows. The remaining row numbers are stored in a memory-mapped file.

    Args:
        dataset (`datasets.Dataset`): Any dataset.
        rows (`np.ndarray` of shape `(rows,)`): Sorted numbers of the rows to leave out.
        cache_dir (`str`, *optional*): See [`cache_folder`].
    """
    if not dataset.cache_files:
        kept = np.ones(len(dataset), dtype=bool)
        kept[rows] = False
        return dataset.select(np.flatnonzero(kept))
    fingerprint = _fingerprint("without", dataset._fingerprint, array_checksum(rows.astype("<u8")))
    path = os.path.join(cache_folder(cache_dir), fingerprint + ROWS_FILE)
    if not os.path.exists(path):
        keep(path, lambda file: _write_rows(file, dataset, rows))
    numbers = MemoryMappedTable.from_file(path)
    return Dataset(
        dataset.data, info=dataset.info, split=dataset.split, indices_table=numbers, fingerprint=fingerprint
    )


def _write_rows(file, dataset: Dataset, rows: np.ndarray) -> None:
    schema = pa.schema({"indices": pa.uint64()})
    with pa.ipc.new_stream(file, schema) as writer:
        for start, indices in row_pieces(dataset):
            kept = np.ones(len(indices), dtype=bool)
            here = slice(*np.searchsorted(rows, (start, start + len(indices))))
            kept[rows[here] - start] = False
            writer.write_batch(pa.record_batch([pa.array(indices[kept], pa.uint64())], schema=schema))


def count_lengths(dataset: Dataset, cache_dir: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Count the records of each length: return the sorted distinct lengths, and the number of records of each.

    Args:
        dataset (`datasets.Dataset`): Rows with the column `length`.
        cache_dir (`str`, *optional*): Folder for the cached result, by default that of `datasets`.
    """

    def find() -> np.ndarray:
        counts: Counter[int] = Counter()
        for piece in column_pieces(dataset, "length"):
            lengths, records = np.unique(piece.to_numpy(), return_counts=True)
            counts.update(dict(zip(lengths.tolist(), records.tolist(), strict=True)))
        return np.array(sorted(counts.items()), dtype=np.int64).reshape(-1, 2)

    return tuple(remembered("lengths-1", [dataset], find, cache_dir).T)


def remembered(
    what: str, parts: list[Dataset], find: Callable[[], np.ndarray], cache_dir: str | None = None
) -> np.ndarray:
    """Return an array computed from whole datasets; it is cached if they are on disk.

    Args:
        what (`str`): Name of the computation, with a number to raise when its result changes.
        parts (`list[datasets.Dataset]`): The datasets.
        find (`Callable`): Function that computes the array.
        cache_dir (`str`, *optional*): See [`cache_folder`].
    """
    if not all(part.cache_files for part in parts):
        return find()
    fingerprint = _fingerprint(what, *(part._fingerprint for part in parts))
    path = os.path.join(cache_folder(cache_dir), f"{fingerprint}.{what}.npy")
    found = load_kept(path)
    if found is None:
        found = find()
        keep(path, lambda file: np.save(file, found))
    return found


def load_kept(path: str) -> np.ndarray | None:
    """Load an array of the cache; `None` if it is missing or damaged."""
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError):
        return None


def keep(path: str, write: Callable) -> None:
    """Write a file of the cache.

    Raises:
        CorpusError: If the file cannot be written.
    """
    try:
        with atomic_files.replacing_file(path) as file:
            write(file)
    except OSError as error:
        raise not_kept(os.path.dirname(path), error) from error


def log_cache_size(folder: str) -> None:
    """Log the size of the cache, which is never cleaned up."""
    files = [entry.path for entry in os.scandir(folder) if entry.is_file()]
    killed = sum(entry.name.startswith(UNFINISHED_FILES) for entry in os.scandir(folder))
    corpora = sum(path.endswith(".arrow") and not path.endswith(ROWS_FILE) for path in files)
    logger.info(
        "cache %s: %s, %.2f GB in total; you can delete any that no run is using%s",
        *(folder, count(corpora, "cleaned corpus", "cleaned corpora")),
        sum(map(os.path.getsize, files)) / 1e9,
        f", and {UNFINISHED_FILES}* ({killed:,}), left by killed processes" if killed else "",
    )


def not_kept(folder: str, error: OSError) -> CorpusError:
    """Return the error for a cache that cannot be written."""
    return CorpusError(
        f"{folder}: this folder, the cache of cleaned corpora, cannot be written to ({error.strerror or error}): set "
        "another one with cache_dir."
    )


def _fingerprint(*words: str) -> str:
    return fingerprint_of_parts(["\n".join(words)])
