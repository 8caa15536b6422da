"""The order of training data, as a function of (seed, stream, epoch, position).

- Encoder and noiser read the same records in two independent orders (streams). The encoder gets the same batches at
  the same update with and without a noiser.
- Samplers return keys, `epoch * records + record`. The worker that loads a record knows the epoch from it, and can
  crop the record differently in each epoch without a random state.
- Any position can be computed directly, so a resumed run skips nothing. For 32 million records each stream needs 8 MB.
"""

import itertools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from adversarial_mlm.utils.counts import count

if TYPE_CHECKING:
    from transformers import TrainingArguments

ENCODER_STREAM, NOISER_STREAM = 0, 1
_ORDER, _CROP = 0, 1

# Records of a block are read from disk together. A window is shuffled in memory, and is large enough to spread the
# records of a block.
BLOCK, WINDOW = 64, 1 << 19


def data_seed(args: "TrainingArguments") -> int:
    """Return the seed of the order of the data: the option `data_seed`, or `seed` where it is not given."""
    return args.seed if args.data_seed is None else args.data_seed


class RecordOrder:
    """A permutation of the records for every epoch, which depends on the arguments only.

    A corpus of fewer than two windows is shuffled as a whole. A larger one is shuffled in four steps:

    1. rotate the records by a random offset;
    2. cut them into blocks of `BLOCK` neighbours, and shuffle the blocks;
    3. cut the sequence of blocks into windows of `WINDOW` records or slightly more;
    4. shuffle each window.

    Every record has the same chance to be at every position. A block of a memory-mapped file is read within one
    window. Two neighbours are in the same batch hardly more often than any two records.

    Args:
        num_records (`int`): Number of records in the dataset.
        seed (`int`): Seed of the order.
        stream (`int`): `ENCODER_STREAM` or `NOISER_STREAM`.
        shuffle (`bool`, *optional*, defaults to `True`): `False` keeps the order of the dataset.
    """

    def __init__(self, num_records: int, seed: int, stream: int, shuffle: bool = True):
        self.num_records, self.shuffle = num_records, shuffle
        self._key = (_ORDER, seed, stream)
        self._num_windows = max(num_records // WINDOW, 1)
        self._held = (-1, -1)  # epoch and window of `_records`
        self._records = np.empty(0, dtype=np.int64)
        self._blocks = (-1, 0, self._records)  # epoch, offset of the rotation, order of the blocks

    def keys(self, start: int, stop: int) -> list[int]:
        """Return the keys of positions `start` to `stop` (exclusive), counted over all epochs joined end to end."""
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
        """Return the position in the epoch at which a window begins."""
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
            offset = int(generator.integers(self.num_records))
            self._blocks = (epoch, offset, generator.permutation(self.num_records // BLOCK))
        _, offset, blocks = self._blocks
        records = np.arange(self._first_of(window), self._first_of(window + 1))
        whole = records < len(blocks) * BLOCK  # records after the last whole block keep their position
        positions = records[whole]
        records[whole] = blocks[positions // BLOCK] * BLOCK + positions % BLOCK
        np.random.default_rng([*self._key, epoch, 1 + window]).shuffle(records)
        return (records + offset) % self.num_records


def crop_start(length: int, window: int, seed: int, epoch: int, record: int) -> int:
    """Draw where the crop of a record longer than `window` starts, uniformly over all windows that fit."""
    if length <= window:
        return 0
    return int(np.random.default_rng([_CROP, seed, epoch, record]).integers(length - window + 1))


class EncoderBatchSampler(Sampler[list[int]]):
    """Yield the keys of the encoder's batches on one process, one epoch at a time, from any position.

    Batch i of the epoch goes to process i modulo the number of processes. On one process the last batch of an epoch
    may be short. On several processes the last round is filled with the first records of the same epoch, like
    accelerate's `even_batches`. These fillers have negative keys (`~key`) and do not count, so the updates do not
    depend on the number of processes.

    Args:
        num_records (`int`): Number of records in the dataset.
        seed (`int`): Seed of the order.
        batch_size (`int`): Number of records in a batch.
        num_processes (`int`, *optional*, defaults to 1): Number of processes.
        process_index (`int`, *optional*, defaults to 0): Index of this process.
        shuffle (`bool`, *optional*, defaults to `True`): `False` keeps the order of the dataset.
        drop_last (`bool`, *optional*, defaults to `False`): Whether to drop the last round of an epoch if it is not
            full.

    Raises:
        ValueError: If `drop_last` drops every record.
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
                f"dataloader_drop_last drops all of the {count(num_records, 'record')}, because one batch of "
                "every process "
                f"needs {batch_size * num_processes:,}: remove it, or use smaller batches"
            )
        self.start_at(0)

    def start_at(self, epoch: int, first: int = 0, stop: int | None = None) -> None:
        """Set the batches of the next iteration: of this epoch, from number `first` to `stop` (exclusive)."""
        self.epoch, self.first, self.stop = epoch, first, self._batches if stop is None else stop

    def __len__(self) -> int:
        """Return the number of batches of an epoch on every process."""
        return self._batches

    def share(self, batches: int) -> float:
        """Return the share of an epoch's records in the first `batches` batches of all processes."""
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
            while len(keys) < stop - start:  # fill the last round, repeatedly if the epoch is shorter
                again = begin + (start + len(keys)) % self.num_records
                keys += [~key for key in self._order.keys(again, min(again + stop - start - len(keys), end))]
            yield keys


class NoiserBatchSampler(Sampler[list[int]]):
    """Yield the keys of the noiser's batches on one process, endlessly, from any position.

    The noiser's epochs are joined end to end, and each global batch begins where the last one ended. It is divided
    among micro-batches and processes like the encoder's batches.

    Args:
        num_records (`int`): Number of records in the dataset.
        seed (`int`): Seed of the order.
        batch_size (`int`): Number of records in a micro-batch on one process.
        num_processes (`int`): Number of processes.
        process_index (`int`): Index of this process.
        first_micro_step (`int`): First micro-batch of this process to yield, counted from 0.
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
    """A dataset indexed by keys. Each example gets the fields `epoch`, `record` and `filler`.

    An example with a negative key (`~key`) is a `filler`.

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
        positions = [divmod(max(key, ~key), len(self.dataset)) for key in keys]  # (epoch, record)
        records = [record for _, record in positions]
        if hasattr(self.dataset, "__getitems__"):
            examples = self.dataset.__getitems__(records)
        else:
            examples = [self.dataset[record] for record in records]
        return [
            {**example, "epoch": epoch, "record": record, "filler": key < 0}
            for example, (epoch, record), key in zip(examples, positions, keys, strict=True)
        ]


def global_rows(
    batch_size: int, rows_here: int, micro_step: int, num_processes: int, process_index: int
) -> torch.Tensor:
    """Return the indices, in the global batch, of the rows of one micro-batch: `(rows_here,)` int64."""
    return torch.arange(rows_here) + (micro_step * num_processes + process_index) * batch_size
