"""A corpus without some of its records, and one look at every record: with little memory, however many there are.

What such a look finds, and which rows a subset has, is kept beside the cache of the corpus, so that only the first
start of many spends time on it. A dataset that is in memory anyway is treated in memory.
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
from adversarial_mlm.utils.errors import CorpusError
from adversarial_mlm.utils.hashing import array_checksum, fingerprint_of_parts

ROWS_FILE = ".rows.arrow"
_ROWS_AT_ONCE = 100_000

logger = logging.getLogger(__name__)


def cache_folder(cache_dir: str | None) -> str:
    """The folder for what is kept: `adversarial_mlm` in `cache_dir`, by default in that of `datasets`."""
    return os.path.join(os.path.expanduser(cache_dir or str(datasets.config.HF_DATASETS_CACHE)), "adversarial_mlm")


def row_pieces(dataset: Dataset) -> Iterator[tuple[int, np.ndarray]]:
    """(Number of the first, place of each in the table behind the dataset) of at most 100,000 rows in a row."""
    for start in range(0, len(dataset), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(dataset))
        if dataset._indices is None:
            yield start, np.arange(start, stop)
        else:
            yield start, dataset._indices.column(0).slice(start, stop - start).to_numpy()


def column_pieces(dataset: Dataset, column: str) -> Iterator[pa.ChunkedArray]:
    """The values of a column in pieces of at most 100,000 rows, in the order of the dataset."""
    values = dataset.data.column(column)
    for start, rows in row_pieces(dataset):
        first, stop = int(rows.min()), int(rows.max()) + 1
        if stop - first == len(rows) and dataset._indices is None:
            yield values.slice(first, len(rows))
        elif stop - first <= 2 * len(rows):
            # where some rows are left out `datasets` would gather one by one, which takes a hundred times as long
            yield values.slice(first, stop - first).take(pa.array(rows - first))
        else:
            gathered = dataset.select_columns([column]).with_format("arrow")[start : start + len(rows)]
            yield gathered.column(column)


def without_rows(dataset: Dataset, rows: np.ndarray, cache_dir: str | None = None) -> Dataset:
    """The dataset without some rows. The numbers of the others stand in a file that is mapped into memory.

    Args:
        dataset (`datasets.Dataset`): Any.
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
        for start, places in row_pieces(dataset):
            kept = np.ones(len(places), dtype=bool)
            here = slice(*np.searchsorted(rows, (start, start + len(places))))
            kept[rows[here] - start] = False
            writer.write_batch(pa.record_batch([pa.array(places[kept], pa.uint64())], schema=schema))


def count_lengths(dataset: Dataset, cache_dir: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """How many records have which length: the lengths that there are, sorted, and the number of records of each.

    Args:
        dataset (`datasets.Dataset`): Rows with the column `length`.
        cache_dir (`str`, *optional*): Folder for the answer, by default that of `datasets`.
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
    """What a look at whole datasets finds: an array, computed once where they are on disk.

    Args:
        what (`str`): Name of the question, with a number that changes where the answer would.
        parts (`list[datasets.Dataset]`): What it is about.
        find (`Callable`): Computes the array.
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
    """An array of the cache; `None` where it was never written, or is damaged."""
    try:
        return np.load(path)
    except (OSError, ValueError, EOFError):
        return None


def keep(path: str, write: Callable) -> None:
    """Write a file of the cache.

    Raises:
        CorpusError: If that is not possible.
    """
    try:
        with atomic_files.replacing_file(path) as file:
            write(file)
    except OSError as error:
        raise not_kept(os.path.dirname(path), error) from error


def say_what_is_kept(folder: str) -> None:
    """Log how much is in the cache, from which nothing is ever deleted."""
    files = [entry.path for entry in os.scandir(folder) if entry.is_file()]
    killed = sum(entry.name.startswith(UNFINISHED_FILES) for entry in os.scandir(folder))
    corpora = sum(path.endswith(".arrow") and not path.endswith(ROWS_FILE) for path in files)
    logger.info(
        "%s keeps %s, %.2f GB in all; what no run needs any more can be deleted%s",
        *(folder, "1 cleaned corpus" if corpora == 1 else f"{corpora:,} cleaned corpora"),
        sum(map(os.path.getsize, files)) / 1e9,
        f", as can {UNFINISHED_FILES}* ({killed:,}), which starts that were killed have left there" if killed else "",
    )


def not_kept(folder: str, error: OSError) -> CorpusError:
    """The error of a cache that cannot be written."""
    return CorpusError(
        f"{folder}: nothing could be written to this folder, which keeps cleaned corpora ({error.strerror or error}); "
        "name another one with cache_dir."
    )


def _fingerprint(*words: str) -> str:
    return fingerprint_of_parts(["\n".join(words)])
