"""Which record comes when: the order of training data as a function of (seed, stream, epoch, position).

The encoder and the noiser read the same records in two independent orders (streams), so that the encoder meets the
same batches at the same update whether or not a noiser is trained beside it. A sampler hands out keys, `epoch *
records + record`, not bare indices: the worker that fetches a record then knows the epoch too, and can crop it
differently each time without a random state of its own.

Any position can be asked for at once, so that a resumed run begins where it stopped without going through what it
has seen, and nothing is as large as the data: of 32 million records each stream holds 8 MB.
"""

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

if TYPE_CHECKING:
    from transformers import TrainingArguments

ENCODER_STREAM, NOISER_STREAM = 0, 1
_ORDER, _CROP = 0, 1

# A block is read from the disk as one. A window is shuffled in memory; blocks so small beside it share no batches.
BLOCK, WINDOW = 64, 1 << 19


def data_seed(args: "TrainingArguments") -> int:
    """Return the seed of the order of the data: the option `data_seed`, or `seed` where it is not given."""
    return args.seed if args.data_seed is None else args.data_seed


class RecordOrder:
    """A permutation of the records for every epoch, which depends on nothing but the arguments.

    A corpus of fewer than two windows is shuffled as a whole. A larger one is turned by a random number of records
    and cut into blocks of `BLOCK` neighbours, the blocks are shuffled, their sequence is cut into windows of `WINDOW`
    records or somewhat more, and each window is shuffled as a whole. Every record so has the same chance to stand at
    every position, the pages of a memory-mapped file that a block lies on are read within one window, and two
    neighbours of the corpus meet in a batch hardly more often than any two records do.

    Args:
        num_records (`int`): Records of the dataset.
        seed (`int`): Of the order.
        stream (`int`): `ENCODER_STREAM` or `NOISER_STREAM`.
        shuffle (`bool`, *optional*, defaults to `True`): `False` keeps the order of the dataset.
    """

    def __init__(self, num_records: int, seed: int, stream: int, shuffle: bool = True):
        self.num_records, self.shuffle = num_records, shuffle
        self._key = (_ORDER, seed, stream)
        self._num_windows = max(num_records // WINDOW, 1)
        self._held = (-1, -1)  # epoch and window of the records below
        self._records = np.empty(0, dtype=np.int64)
        self._blocks = (-1, 0, self._records)  # epoch, turn, order of its blocks

    def keys(self, start: int, stop: int) -> list[int]:
        """Keys of the positions from `start` to before `stop`, counted over all epochs, which follow each other."""
        keys: list[int] = []
        while start < stop:
            epoch, position = divmod(start, self.num_records)
            end = min(position + stop - start, self.num_records)
            if self.shuffle:
                window = (position * self._num_windows + self._num_windows - 1) // self.num_records
                first, end = self._first_of(window), min(end, self._first_of(window + 1))
                records = self._of_window(epoch, window)[position - first : end - first]
            else:
                records = np.arange(position, end)
            keys += (epoch * self.num_records + records).tolist()
            start += end - position
        return keys

    def _first_of(self, window: int) -> int:
        """The position in the epoch at which a window begins."""
        return window * self.num_records // self._num_windows

    def _of_window(self, epoch: int, window: int) -> np.ndarray:
        if (epoch, window) != self._held:
            self._records = self._shuffled_window(epoch, window)
            self._held = (epoch, window)
        return self._records

    def _shuffled_window(self, epoch: int, window: int) -> np.ndarray:
        if self._num_windows == 1:
            return np.random.default_rng([*self._key, epoch]).permutation(self.num_records)
        if self._blocks[0] != epoch:
            generator = np.random.default_rng([*self._key, epoch, 0])
            turn = int(generator.integers(self.num_records))
            self._blocks = (epoch, turn, generator.permutation(self.num_records // BLOCK))
        _, turn, blocks = self._blocks
        records = np.arange(self._first_of(window), self._first_of(window + 1))
        whole = records < len(blocks) * BLOCK  # what is left over after the last whole block stays where it is
        places = records[whole]
        records[whole] = blocks[places // BLOCK] * BLOCK + places % BLOCK
        np.random.default_rng([*self._key, epoch, 1 + window]).shuffle(records)
        return (records + turn) % self.num_records


def crop_start(length: int, window: int, seed: int, epoch: int, record: int) -> int:
    """Where the crop of a record longer than `window` starts: uniform over all windows that fit."""
    if length <= window:
        return 0
    return int(np.random.default_rng([_CROP, seed, epoch, record]).integers(length - window + 1))


class EncoderBatchSampler(Sampler[list[int]]):
    """Keys of one process' batches of the encoder, an epoch at a time, beginning anywhere in it.

    Batches and processes take turns: batch i of the epoch goes to process i modulo their number. On one process the
    last batch of an epoch is as short as it comes. On several the last round of batches is filled up with the first
    records of the same epoch, as accelerate's `even_batches` does it. Their keys are negative (`~key`): they keep the
    processes together, and do not count, so that every split over processes has the same updates.

    Args:
        num_records (`int`): Records of the dataset.
        seed (`int`): Of the order.
        batch_size (`int`): Records of one batch.
        num_processes (`int`, *optional*, defaults to 1): Processes.
        process_index (`int`, *optional*, defaults to 0): This process.
        shuffle (`bool`, *optional*, defaults to `True`): `False` keeps the order of the dataset.
        drop_last (`bool`, *optional*, defaults to `False`): Leave out the last round of an epoch where it is not full.

    Raises:
        ValueError: If `drop_last` leaves nothing.
    """

    def __init__(
        self,
        num_records: int,
        seed: int,
        batch_size: int,
        num_processes: int = 1,
        process_index: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ):
        self.num_records, self.batch_size = num_records, batch_size
        self.num_processes, self.process_index = num_processes, process_index
        self._order = RecordOrder(num_records, seed, ENCODER_STREAM, shuffle)
        rounds = num_records / (batch_size * num_processes)
        self._batches = math.floor(rounds) if drop_last else math.ceil(rounds)
        if not self._batches:
            raise ValueError(
                f"dataloader_drop_last drops all of the {num_records:,} records, which are fewer than one batch of "
                f"every process ({batch_size * num_processes:,})"
            )
        self.start_at(0)

    def start_at(self, epoch: int, first: int = 0, stop: int | None = None) -> None:
        """Which batches come when it is iterated over next: of this epoch, from number `first` to before `stop`."""
        self.epoch, self.first, self.stop = epoch, first, self._batches if stop is None else stop

    def __len__(self) -> int:
        """Batches of an epoch on every process."""
        return self._batches

    def share(self, batches: int) -> float:
        """The share of an epoch's records that the first batches of all processes have; the same for every split."""
        of_round = self.batch_size * self.num_processes
        records = min(len(self) * of_round, self.num_records)  # fewer than there are with `drop_last`
        return min(batches * of_round, records) / records

    def __iter__(self) -> Iterator[list[int]]:
        begin, end = self.epoch * self.num_records, (self.epoch + 1) * self.num_records
        for batch in range(self.first, self.stop):
            start = begin + (batch * self.num_processes + self.process_index) * self.batch_size
            stop = start + self.batch_size
            if self.num_processes == 1:
                stop = min(stop, end)
            keys = self._order.keys(start, min(stop, end))
            while len(keys) < stop - start:  # in the last round, more than once where the epoch is shorter than it
                again = begin + (start + len(keys)) % self.num_records
                keys += [~key for key in self._order.keys(again, min(again + stop - start - len(keys), end))]
            yield keys


class NoiserBatchSampler(Sampler[list[int]]):
    """Keys of one process' batches of the noiser, without end, beginning anywhere.

    The global batch of an update is a run of records of the noiser's order, epochs joined end to end, that begins
    where the last one ended. Micro-batches and processes take turns in it as the encoder's do.

    Args:
        num_records (`int`): Records of the dataset.
        seed (`int`): Of the order.
        batch_size (`int`): Records of one micro-batch on one process.
        num_processes (`int`): Processes.
        process_index (`int`): This process.
        first_micro_step (`int`): Where to begin: micro-batches of this process before.
    """

    def __init__(
        self,
        num_records: int,
        seed: int,
        batch_size: int,
        num_processes: int,
        process_index: int,
        first_micro_step: int,
    ):
        self.batch_size, self.num_processes, self.process_index = batch_size, num_processes, process_index
        self.first_micro_step = first_micro_step
        self._order = RecordOrder(num_records, seed, NOISER_STREAM)

    def __iter__(self) -> Iterator[list[int]]:
        for micro_step in itertools.count(self.first_micro_step):
            start = (micro_step * self.num_processes + self.process_index) * self.batch_size
            yield self._order.keys(start, start + self.batch_size)


class KeyedRecords(Dataset):
    """A dataset addressed by keys; each example gets its `epoch` and its `record` number.

    An example whose key is negative (`~key`) is a `filler`.

    Args:
        dataset: Any dataset with `__len__` and `__getitem__` (or `__getitems__`) whose examples are dictionaries.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int) -> dict:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[int]) -> list[dict]:
        places = [divmod(max(key, ~key), len(self.dataset)) for key in keys]
        records = [record for _, record in places]
        if hasattr(self.dataset, "__getitems__"):
            examples = self.dataset.__getitems__(records)
        else:
            examples = [self.dataset[record] for record in records]
        return [
            {**example, "epoch": epoch, "record": record, "filler": key < 0}
            for example, (epoch, record), key in zip(examples, places, keys, strict=True)
        ]


def global_rows(
    batch_size: int, rows_here: int, micro_step: int, num_processes: int, process_index: int
) -> torch.Tensor:
    """Indices in the global batch of the rows of one micro-batch, `(rows_here,)` int64."""
    return torch.arange(rows_here) + (micro_step * num_processes + process_index) * batch_size
