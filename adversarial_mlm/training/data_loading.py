"""Loaders over keyed records: the encoder's, evaluation's, and the noiser's own stream."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, Sampler
from transformers import TrainingArguments

from adversarial_mlm.data.order import (
    ENCODER_STREAM,
    NOISER_STREAM,
    KeyedRecords,
    NoiserBatchSampler,
    data_seed,
    global_rows,
)
from adversarial_mlm.data.stream_order import StreamBatches
from adversarial_mlm.masking.data_collator import SequenceEncoder
from adversarial_mlm.utils.signals import spare_worker


def plain_loader(
    dataset,
    args: TrainingArguments,
    sequence_encoder: SequenceEncoder,
    batch_size: int | None,
    *,
    batch_sampler: Sampler[list[int]] | None = None,
    is_training: bool = True,
) -> DataLoader:
    """A loader that accelerate has not touched yet.

    Args:
        dataset: With a `sequence` column, indexable or iterable.
        args (`TrainingArguments`): Workers, pinning, seeds.
        sequence_encoder ([`SequenceEncoder`]): The collator's light stage, which alone goes to the workers: neither
            noiser nor gradient has business there.
        batch_size (`int`, *optional*): Of one process; `None` of an iterable dataset that gives whole batches.
        batch_sampler (`Sampler`, *optional*): Of an indexable dataset, which is otherwise read in order.
        is_training (`bool`, *optional*, defaults to `True`): Or evaluation.
    """
    settings: dict[str, Any] = {
        "collate_fn": sequence_encoder,
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory and args.device.type != "cpu",
        # every evaluation has a loader of its own, whose workers must go when it is done
        "persistent_workers": args.dataloader_persistent_workers and is_training,
        "multiprocessing_context": args.dataloader_multiprocessing_context,
        "worker_init_fn": spare_worker,
        "prefetch_factor": args.dataloader_prefetch_factor,
        # a loader without a generator draws from the global one whenever it starts, and so would change the dropout of
        # a run that evaluates more often, has a noiser, or was resumed
        "generator": torch.Generator().manual_seed(data_seed(args)),
    }
    drop_last = is_training and args.dataloader_drop_last and batch_size is not None
    if isinstance(dataset, IterableDataset):
        return DataLoader(dataset, batch_size=batch_size, drop_last=drop_last, **settings)
    if batch_sampler is not None:
        return DataLoader(KeyedRecords(dataset), batch_sampler=batch_sampler, **settings)
    return DataLoader(KeyedRecords(dataset), batch_size=batch_size, drop_last=drop_last, **settings)


def noiser_batches(
    dataset,
    args: TrainingArguments,
    sequence_encoder: SequenceEncoder,
    first_update: int,
    first_micro_step: int,
    world: int,
    rank: int,
) -> Iterator[dict]:
    """The noiser's micro-batches from any of its updates on.

    Args:
        dataset: The training set.
        args (`TrainingArguments`): Batch size, workers, seeds.
        sequence_encoder ([`SequenceEncoder`]): The collator's light stage.
        first_update (`int`): Noiser updates made before.
        first_micro_step (`int`): Micro-batches of this process in them.
        world (`int`): Number of processes.
        rank (`int`): Number of this one.
    """
    if isinstance(dataset, IterableDataset):
        yield from stream_batches(dataset, args, sequence_encoder, NOISER_STREAM, first_update, world, rank)
        return
    size = args.train_batch_size
    sampler = NoiserBatchSampler(len(dataset), data_seed(args), size, world, rank, first_micro_step)
    yield from plain_loader(dataset, args, sequence_encoder, size, batch_sampler=sampler)


def stream_batches(
    dataset: IterableDataset,
    args: TrainingArguments,
    sequence_encoder: SequenceEncoder,
    stream: int,
    first_update: int,
    world: int,
    rank: int,
) -> Iterator[dict]:
    """Micro-batches of a stream from any update on, see [`StreamBatches`]. The noiser's are always shuffled.

    Args:
        dataset (`IterableDataset`): The training set.
        args (`TrainingArguments`): Batch size, accumulation, workers, seeds.
        sequence_encoder ([`SequenceEncoder`]): The collator's light stage.
        stream (`int`): `ENCODER_STREAM` or `NOISER_STREAM`.
        first_update (`int`): Updates made before, by the network whose stream it is.
        world (`int`): Number of processes.
        rank (`int`): Number of this one.
    """
    shuffle = stream == NOISER_STREAM or args.train_sampling_strategy == "random"
    first = first_update * args.gradient_accumulation_steps * args.train_batch_size * world
    batches = StreamBatches(dataset, data_seed(args), stream, args.train_batch_size, world, rank, first, shuffle)
    yield from plain_loader(batches, args, sequence_encoder, None)


class TrainingBatches:
    """The micro-batches of one process for both networks, update by update.

    Args:
        dataset: The training set.
        args (`TrainingArguments`): Batch size, workers, seeds.
        sequence_encoder ([`SequenceEncoder`]): The collator's light stage.
        noiser_micro_steps (`Callable[[int], int]`): Micro-batches that the noiser has read before one of its updates.
        world (`int`): Number of processes.
        rank (`int`): Number of this one.
    """

    def __init__(
        self,
        dataset,
        args: TrainingArguments,
        sequence_encoder: SequenceEncoder,
        noiser_micro_steps: Callable[[int], int],
        world: int,
        rank: int,
    ):
        self.dataset, self.args, self.sequence_encoder = dataset, args, sequence_encoder
        self.noiser_micro_steps, self.world, self.rank = noiser_micro_steps, world, rank
        self.close()

    def close(self) -> None:
        """Let the loaders' workers go."""
        self._of_encoder: Iterator[dict] | None = None  # of a stream
        self._of_noiser: Iterator[dict] | None = None
        self._next_noiser_update = 0  # of that iterator

    def of_encoder(self, update: int, epoch_iterator: Iterator[dict], count: int) -> list[dict]:
        """The next micro-batches of the encoder, fewer at the end of an epoch.

        Args:
            update (`int`): Its number, with which a stream begins.
            epoch_iterator (`Iterator[dict]`): The stock trainer's. Of a stream nothing is read from it, because it can
                neither end with a whole update nor begin at one.
            count (`int`): How many.
        """
        if isinstance(self.dataset, IterableDataset):
            if self._of_encoder is None:
                place = (ENCODER_STREAM, update, self.world, self.rank)
                self._of_encoder = stream_batches(self.dataset, self.args, self.sequence_encoder, *place)
            epoch_iterator = self._of_encoder
        return list(itertools.islice(epoch_iterator, count))

    def of_noiser(self, update: int, count: int) -> list[dict]:
        """The micro-batches of an update of the noiser.

        Args:
            update (`int`): Its number. If it does not follow the last one, the loader is opened anew.
            count (`int`): How many.
        """
        if self._of_noiser is None or self._next_noiser_update != update:
            first = self.noiser_micro_steps(update)
            place = (update, first, self.world, self.rank)
            self._of_noiser = noiser_batches(self.dataset, self.args, self.sequence_encoder, *place)
        self._next_noiser_update = update + 1
        return [next(self._of_noiser) for _ in range(count)]

    def numbered(self, batches: list[dict]) -> list[dict]:
        """The micro-batches of an update, each with `row` `(batch,)`: its rows' indices in the global batch.

        The indices key the rows' noise.
        """
        size = self.args.train_batch_size
        return [
            {**batch, "row": global_rows(size, len(batch["input_ids"]), micro_step, self.world, self.rank)}
            for micro_step, batch in enumerate(batches)
        ]
