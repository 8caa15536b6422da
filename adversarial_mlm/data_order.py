"""Which record comes when: the order of training data as a function of (seed, stream, epoch, position).

The encoder and the noiser read the same records in two independent orders (streams), so that the encoder meets the
same batches at the same update whether or not a noiser is trained beside it. A sampler hands out keys, `epoch *
records + record`, not bare indices: the worker that fetches a record then knows the epoch too, and can crop it
differently each time without a random state of its own.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

ENCODER_STREAM, NOISER_STREAM = 0, 1
_ORDER, _CROP = 0, 1


def record_order(num_records: int, seed: int, stream: int, epoch: int) -> np.ndarray:
    """A permutation of the records, `(num_records,)` int64, that depends on nothing but the arguments."""
    return np.random.default_rng([_ORDER, seed, stream, epoch]).permutation(num_records)


def crop_start(length: int, window: int, seed: int, epoch: int, record: int) -> int:
    """Where the crop of a record longer than `window` starts: uniform over all windows that fit."""
    if length <= window:
        return 0
    return int(np.random.default_rng([_CROP, seed, epoch, record]).integers(length - window + 1))


class EpochSampler(Sampler[int]):
    """Keys of one epoch's records, in the encoder's order.

    Args:
        num_records (`int`): Records of the dataset.
        seed (`int`): Of the order.
        shuffle (`bool`, *optional*, defaults to `True`): `False` keeps the order of the dataset.
    """

    def __init__(self, num_records: int, seed: int, shuffle: bool = True):
        self.num_records, self.seed, self.shuffle, self.epoch = num_records, seed, shuffle, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_records

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.num_records)
        if self.shuffle:
            order = record_order(self.num_records, self.seed, ENCODER_STREAM, self.epoch)
        return iter((self.epoch * self.num_records + order).tolist())


class NoiserBatchSampler(Sampler[list[int]]):
    """Keys of the noiser's batches, without end, beginning at any update.

    The global batch of update u is the u-th run of `batch_size * num_processes * accumulation_steps` records of the
    noiser's order, epochs joined end to end. Micro-batches and processes take turns in it as the encoder's do.

    Args:
        num_records (`int`): Records of the dataset.
        seed (`int`): Of the order.
        batch_size (`int`): Records of one micro-batch on one process.
        accumulation_steps (`int`): Micro-batches of one update on one process.
        num_processes (`int`): Processes.
        process_index (`int`): This process.
        first_update (`int`): Where to begin.
    """

    def __init__(
        self,
        num_records: int,
        seed: int,
        batch_size: int,
        accumulation_steps: int,
        num_processes: int,
        process_index: int,
        first_update: int,
    ):
        self.num_records, self.seed = num_records, seed
        self.batch_size, self.num_processes, self.process_index = batch_size, num_processes, process_index
        self.first_micro_step = first_update * accumulation_steps

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, np.empty(0, dtype=np.int64)
        micro_step = self.first_micro_step
        while True:
            start = (micro_step * self.num_processes + self.process_index) * self.batch_size
            batch = []
            for position in range(start, start + self.batch_size):
                if position // self.num_records != epoch:
                    epoch = position // self.num_records
                    order = record_order(self.num_records, self.seed, NOISER_STREAM, epoch)
                batch.append(epoch * self.num_records + int(order[position % self.num_records]))
            yield batch
            micro_step += 1


class KeyedRecords(Dataset):
    """A dataset addressed by keys; each example gets its `epoch` and its `record` number.

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
        places = [divmod(key, len(self.dataset)) for key in keys]
        records = [record for _, record in places]
        if hasattr(self.dataset, "__getitems__"):
            examples = self.dataset.__getitems__(records)
        else:
            examples = [self.dataset[record] for record in records]
        return [
            {**example, "epoch": epoch, "record": record}
            for example, (epoch, record) in zip(examples, places, strict=True)
        ]


def global_rows(
    batch_size: int, rows_here: int, micro_step: int, num_processes: int, process_index: int
) -> torch.Tensor:
    """Indices in the global batch of the rows of one micro-batch, `(rows_here,)` int64."""
    return torch.arange(rows_here) + (micro_step * num_processes + process_index) * batch_size
