"""The order of a stream: which record comes when, where nobody knows how many there are.

A stream can be read from its beginning only. Its order is nevertheless a function of (seed, stream, pass, position),
as that of an indexable dataset is (`data_order`): the parts of the source in an order of the pass, their records
through a buffer that is drawn from by a generator of the pass. Passes are joined end to end. Any position so can be
reached again, in any process, by reading the pass anew and leaving out what comes before; nothing has to be saved.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping

import datasets
import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from adversarial_mlm.data.streaming import RecordStream

BUFFER = 10_000
_SHUFFLE = 2  # beside the order and the crops of `data_order`
_ROWS_AT_ONCE = 1000
_DRAWS_AT_ONCE = 4096


def stream_parts(dataset: IterableDataset) -> list[Callable[[], Iterator[Mapping]]]:
    """The parts of a stream, each a function that reads it from its beginning.

    Args:
        dataset: A [`corpus.streaming.RecordStream`], a `datasets.IterableDataset`, or any iterable, which is one part.
            It has to give the same records in the same order each time.
    """
    if isinstance(dataset, RecordStream):
        return [lambda index=index: dataset.shard_rows(index) for index in range(dataset.num_shards)]
    if isinstance(dataset, datasets.IterableDataset):
        return [lambda index=index: _rows_of_part(dataset, index) for index in range(dataset.num_shards)]
    return [lambda: iter(dataset)]


def _rows_of_part(dataset: datasets.IterableDataset, index: int) -> Iterator[dict]:
    # in a worker, iterating over rows would give a share of them; `iter` gives all
    part = dataset.shard(dataset.num_shards, index)
    for batch in part.iter(_ROWS_AT_ONCE):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def shuffled(rows: Iterator[Mapping], generator: np.random.Generator, buffer_size: int) -> Iterator[Mapping]:
    """Draw from a buffer that is filled up by the rows that come: none is lost, none comes twice."""
    buffer = list(itertools.islice(rows, buffer_size))
    places = iter(())
    for row in rows:
        place = next(places, None)
        if place is None:
            places = iter(generator.integers(buffer_size, size=_DRAWS_AT_ONCE).tolist())
            place = next(places)
        drawn, buffer[place] = buffer[place], row
        yield drawn
    for place in generator.permutation(len(buffer)).tolist():
        yield buffer[place]


class StreamBatches(IterableDataset):
    """Micro-batches of one process, without end, beginning at any position of the order.

    Every process, and every worker of its loader, reads the whole stream and keeps its own batches: of each
    `batch_size * num_processes` records in a row the first process takes the first `batch_size`. So there is neither
    gap nor double, all processes make the same number of updates, and the batches of an update do not depend on the
    number of workers.

    Args:
        dataset: See [`stream_parts`].
        seed (`int`): Of the order.
        stream (`int`): `ENCODER_STREAM` or `NOISER_STREAM`: they read in different orders.
        batch_size (`int`): Records of one micro-batch on one process.
        num_processes (`int`): Processes.
        process_index (`int`): This process.
        first_record (`int`): Where in the order, passes joined end to end, the first micro-batch of all begins.
        shuffle (`bool`, *optional*, defaults to `True`): `False` keeps the order of the source.

    Raises:
        ValueError: When iterated over, if the stream holds no records.
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
        """(pass, number in the pass, row) of every record from a position on."""
        epoch, before = 0, 0  # records of the passes before this one
        while True:
            size = 0
            for size, row in enumerate(self._pass(epoch), start=1):
                if before + size > first:
                    yield epoch, size - 1, row
            if not size:
                raise ValueError("the stream to train on holds no records")
            # now that the size of a pass is known, whole passes need not be read to be passed over
            skipped = max((first - before) // size, 1)
            epoch, before = epoch + skipped, before + skipped * size

    def _pass(self, epoch: int) -> Iterator[Mapping]:
        parts = stream_parts(self.dataset)
        if not self.shuffle:
            return itertools.chain.from_iterable(part() for part in parts)
        generator = np.random.default_rng([_SHUFFLE, self.seed, self.stream, epoch])
        in_turn = (parts[index]() for index in generator.permutation(len(parts)).tolist())
        return shuffled(itertools.chain.from_iterable(in_turn), generator, BUFFER)
