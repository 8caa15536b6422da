"""The order of streamed data, where the number of records is unknown.

A stream can only be read from its beginning. Its order is still a function of (seed, stream, epoch, position), like
that of an indexable dataset (see `order`). In each epoch the parts of the source are permuted, and their records pass
through a shuffle buffer. Epochs are joined end to end. Any process can return to a position by reading the epoch again
up to it; nothing has to be saved.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import datasets
import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from adversarial_mlm.data.streaming import RecordStream
from adversarial_mlm.utils.arguments import class_of
from adversarial_mlm.utils.errors import CorpusError

BUFFER = 10_000
_SHUFFLE = 2  # seed key; `order` uses 0 and 1
_ROWS_AT_ONCE = 1000
_DRAWS_AT_ONCE = 4096


def stream_parts(dataset: IterableDataset) -> list[Callable[[], Iterator[Mapping]]]:
    """Return the parts of a stream: functions that each read one part from its beginning.

    Args:
        dataset: A [`streaming.RecordStream`], a `datasets.IterableDataset`, or any iterable, which is one part. It
            must give the same records in the same order each time.
    """
    if isinstance(dataset, RecordStream):
        return [functools.partial(dataset.shard_rows, index) for index in range(dataset.num_shards)]
    if isinstance(dataset, datasets.IterableDataset):
        return [functools.partial(_rows_of_part, dataset, index) for index in range(dataset.num_shards)]
    return [lambda: iter(dataset)]


def _rows_of_part(dataset: datasets.IterableDataset, index: int) -> Iterator[dict]:
    # in a worker, iterating over rows would yield only a share of them; `iter` yields all
    part = dataset.shard(dataset.num_shards, index)
    for batch in part.iter(_ROWS_AT_ONCE):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def shuffled(rows: Iterator[Mapping], generator: np.random.Generator, buffer_size: int) -> Iterator[Mapping]:
    """Yield every row exactly once, drawn at random from a buffer of `buffer_size` rows."""
    buffer = list(itertools.islice(rows, buffer_size))
    draws: Iterator[int] = iter(())
    for row in rows:
        index = next(draws, None)
        if index is None:
            draws = iter(generator.integers(buffer_size, size=_DRAWS_AT_ONCE).tolist())
            index = next(draws)
        drawn, buffer[index] = buffer[index], row
        yield drawn
    for index in generator.permutation(len(buffer)).tolist():
        yield buffer[index]


class StreamBatches(IterableDataset):
    """Yield the micro-batches of one process, endlessly, from any position of the order.

    Every process, and every worker of its loader, reads the whole stream and keeps its own batches. Of each
    `batch_size * num_processes` consecutive records the first process takes the first `batch_size`, and so on. All
    processes make the same number of updates, and the batches do not depend on the number of workers.

    Args:
        dataset: See [`stream_parts`].
        seed (`int`): Seed of the order.
        stream (`int`): `ENCODER_STREAM` or `NOISER_STREAM`, which have different orders.
        batch_size (`int`): Number of records in a micro-batch on one process.
        num_processes (`int`): Number of processes.
        process_index (`int`): Index of this process.
        first_record (`int`): Position, over all epochs, at which the first micro-batch of all processes begins.
        shuffle (`bool`, *optional*, defaults to `True`): `False` keeps the order of the source.

    Raises:
        CorpusError: During iteration, if the stream contains no records, or one that is not a mapping.
    """

    def __init__(
        self,
        dataset: IterableDataset,
        seed: int,
        stream: int,
        batch_size: int,
        num_processes: int,
        process_index: int,
        first_record: int,
        shuffle: bool = True,
    ):
        self.dataset, self.seed, self.stream, self.shuffle = dataset, seed, stream, shuffle
        self.batch_size, self.num_processes, self.process_index = batch_size, num_processes, process_index
        self.first_record = first_record

    def __iter__(self) -> Iterator[list[dict]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        records = self._records(self.first_record)
        own = slice(self.process_index * self.batch_size, (self.process_index + 1) * self.batch_size)
        for number in itertools.count():
            batch = list(itertools.islice(records, self.batch_size * self.num_processes))
            if number % workers == worker:
                yield [{**row, "epoch": epoch, "record": record} for epoch, record, row in batch[own]]

    def _records(self, first: int) -> Iterator[tuple[int, int, Mapping]]:
        """Yield (epoch, number in the epoch, row) of every record from position `first` on."""
        epoch, before = 0, 0  # records in earlier epochs
        while True:
            size = 0
            for size, row in enumerate(self._epoch(epoch), start=1):
                if not isinstance(row, Mapping):
                    raise CorpusError(f"a record of the training stream must be a mapping, got {class_of(row)}")
                if before + size > first:
                    yield epoch, size - 1, row
            if not size:
                raise CorpusError("the training stream contains no records")
            # the size of an epoch is known now, so further whole epochs are skipped without reading
            skipped = max((first - before) // size, 1)
            epoch, before = epoch + skipped, before + skipped * size

    def _epoch(self, epoch: int) -> Iterator[Mapping]:
        parts = stream_parts(self.dataset)
        if not self.shuffle:
            return itertools.chain.from_iterable(part() for part in parts)
        generator = np.random.default_rng([_SHUFFLE, self.seed, self.stream, epoch])
        permuted = (parts[index]() for index in generator.permutation(len(parts)).tolist())
        return shuffled(itertools.chain.from_iterable(permuted), generator, BUFFER)


class HeldOutBatches(IterableDataset):
    """Yield the batches of one process out of a held-out set that is streamed: every record once, and no fillers.

    Records are numbered, so a protein that is too long has the same window in every evaluation. Processes and workers
    read as those of [`StreamBatches`].

    Args:
        dataset: See [`stream_parts`].
        batch_size (`int`): Number of records in a batch on one process.
        num_processes (`int`): Number of processes.
        process_index (`int`): Index of this process.
    """

    def __init__(self, dataset: IterableDataset, batch_size: int, num_processes: int, process_index: int):
        self.dataset, self.batch_size = dataset, batch_size
        self.num_processes, self.process_index = num_processes, process_index

    def __iter__(self) -> Iterator[list[dict]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        rows = itertools.chain.from_iterable(part() for part in stream_parts(self.dataset))
        records = (_numbered(row, number) for number, row in enumerate(rows))
        first = self.process_index * self.batch_size
        for number in itertools.count():
            batch = list(itertools.islice(records, self.batch_size * self.num_processes))
            if not batch:
                return
            own = batch[first : first + self.batch_size]
            if own and number % workers == worker:
                yield own


def _numbered(row: Any, number: int) -> Any:
    # the collator refuses another row in a sentence
    return {**row, "epoch": 0, "record": number} if isinstance(row, Mapping) else row
