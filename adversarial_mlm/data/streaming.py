"""Streamed corpora: shards that any process may read, and cleaning counts in shared memory."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from adversarial_mlm.data.cleaning import CleaningCounts
from adversarial_mlm.data.formats import Columns, Shard
from adversarial_mlm.data.shards import clean_shard, nothing_left

# writing to shared memory takes as long as reading a record
_ROWS_BETWEEN_COUNTS = 100


class RecordStream(IterableDataset):
    """Clean rows that are read from their source in every epoch: dictionaries of `id`, `sequence` and `length`.

    Iterating divides the shards among the workers of a `DataLoader`. Use `shard_rows` for another division.

    Args:
        name (`str`): Name of the source, for messages.
        shards (`list[Shard]`): Parts of the source.
        columns ([`Columns`]): Columns of a table to read.
        min_length (`int`): Minimum number of residues; shorter sequences are dropped.

    Attributes:
        num_shards (`int`): Number of shards.
    """

    column_names = ["id", "sequence", "length"]

    def __init__(self, name: str, shards: list[Shard], columns: Columns, min_length: int):
        self.name, self.shards, self.columns, self.min_length = name, shards, columns, min_length
        self.num_shards = len(shards)
        self._counts = _SharedCounts(len(shards))

    def counts(self) -> CleaningCounts:
        """Return the counts so far, see [`Corpus.counts`]."""
        return self._counts.total()

    def shard_rows(self, index: int) -> Iterator[dict[str, Any]]:
        """Yield all rows of one shard in the order of the source, also in a `DataLoader` worker.

        Raises:
            CorpusError: If the shard is damaged, or if the whole corpus has no record after cleaning.
        """
        counts, warn = CleaningCounts(), lambda: not self._counts.is_complete(index)
        rows = clean_shard(self.shards[index], self.columns, self.min_length, counts, warn)
        for number, (identifier, sequence, length) in enumerate(rows):
            if number % _ROWS_BETWEEN_COUNTS == 0:
                self._counts.write(index, counts)
            yield {"id": identifier, "sequence": sequence, "length": length}
        self._counts.write(index, counts, complete=True)
        if self._counts.all_complete() and self.counts().records_kept == 0:
            raise nothing_left(self.name, self.min_length, self.counts())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for index in range(first, self.num_shards, step):
            yield from self.shard_rows(index)


class _SharedCounts:
    """Counts in shared memory, one row per shard.

    Several processes may read one shard. All count the same records in the same order, so the counts of the process
    that has read most are kept. `torch.multiprocessing` shares the memory with forked and spawned workers.
    """

    def __init__(self, num_shards: int):
        # the last column is 1 if the shard was read completely
        self.table = torch.zeros((num_shards, len(vars(CleaningCounts())) + 1), dtype=torch.int64).share_memory_()

    def __deepcopy__(self, memo: dict) -> "_SharedCounts":
        return self  # copies of a dataset share the counts

    def write(self, shard: int, counts: CleaningCounts, complete: bool = False) -> None:
        # not stored, because a stored view would be pickled as a copy
        row = self.table.numpy()[shard]
        if complete or (counts.records_read > row[0] and not row[-1]):
            row[:] = (*vars(counts).values(), complete)

    def total(self) -> CleaningCounts:
        return CleaningCounts(*self.table[:, :-1].sum(dim=0).tolist())

    def is_complete(self, shard: int) -> bool:
        return bool(self.table[shard, -1])

    def all_complete(self) -> bool:
        return bool(self.table[:, -1].all())
