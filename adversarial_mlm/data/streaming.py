"""A corpus that is read on the fly: shards that any process may read, and counts that all of them share."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from adversarial_mlm.data.cleaning import CleaningCounts
from adversarial_mlm.data.formats import Columns, Shard
from adversarial_mlm.data.shards import clean_shard, nothing_left

# Writing into shared memory takes as long as reading a record.
_ROWS_BETWEEN_COUNTS = 100


class RecordStream(IterableDataset):
    """Clean rows, read from their source anew in every pass; each is a dictionary of `id`, `sequence` and `length`.

    Iterating over it divides the shards among the workers of a `DataLoader`. Whoever needs another division asks for
    the rows of single shards.

    Args:
        name (`str`): Of the source, for messages.
        shards (`list[Shard]`): Its parts.
        columns ([`Columns`]): Which columns of a table to read.
        min_length (`int`): Shorter sequences are dropped.

    Attributes:
        num_shards (`int`): Number of parts.
    """

    column_names = ["id", "sequence", "length"]

    def __init__(self, name: str, shards: list[Shard], columns: Columns, min_length: int):
        self.name, self.shards, self.columns, self.min_length = name, shards, columns, min_length
        self.num_shards = len(shards)
        self._counts = _SharedCounts(len(shards))

    def counts(self) -> CleaningCounts:
        """What cleaning did until now, see [`Corpus.counts`]."""
        return self._counts.total()

    def shard_rows(self, index: int) -> Iterator[dict[str, Any]]:
        """The rows of one shard, in the order of the source; all of them, also in a `DataLoader` worker.

        Raises:
            CorpusError: If the shard is damaged, or if nothing is left of the whole corpus.
        """
        counts, is_news = CleaningCounts(), lambda: not self._counts.is_complete(index)
        rows = clean_shard(self.shards[index], self.columns, self.min_length, counts, is_news)
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
    """Counts that live in shared memory: one row per shard, of the pass over it that has got farthest.

    Several processes may read one shard. Each of them counts the same things in the same order, so that whoever has
    read most is right for all, and further passes do not add up. `torch.multiprocessing` hands the memory itself, not
    a copy, to forked and spawned `DataLoader` workers.
    """

    def __init__(self, num_shards: int):
        # the last column says whether a pass over the shard is complete
        self.table = torch.zeros((num_shards, len(vars(CleaningCounts())) + 1), dtype=torch.int64).share_memory_()

    def __deepcopy__(self, memo: dict) -> "_SharedCounts":
        return self  # a copied dataset goes on counting in the same place

    def write(self, shard: int, counts: CleaningCounts, complete: bool = False) -> None:
        # the view is made anew each time, because a kept one would be pickled as a copy
        row = self.table.numpy()[shard]
        if complete or (counts.records_read > row[0] and not row[-1]):
            row[:] = (*vars(counts).values(), complete)

    def total(self) -> CleaningCounts:
        return CleaningCounts(*self.table[:, :-1].sum(dim=0).tolist())

    def is_complete(self, shard: int) -> bool:
        return bool(self.table[shard, -1])

    def all_complete(self) -> bool:
        return bool(self.table[:, -1].all())
