"""Loaders over keyed records: the encoder's, evaluation's, and the noiser's own stream."""

import itertools
from collections.abc import Callable, Iterator

import datasets
import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainingArguments

from .data_collator import SequenceEncoder
from .data_order import KeyedRecords, NoiserBatchSampler
from .signals import spare_worker

_SHUFFLE_BUFFER = 10_000


def data_seed(args: TrainingArguments) -> int:
    """The seed of the order of the data."""
    return args.seed if args.data_seed is None else args.data_seed


def plain_loader(
    dataset,
    args: TrainingArguments,
    sequence_encoder: SequenceEncoder,
    batch_size: int,
    *,
    sampler_fn: Callable | None = None,
    batch_sampler=None,
    is_training: bool = True,
) -> DataLoader:
    """A loader that accelerate has not touched yet.

    Args:
        dataset: With a `sequence` column, indexable or iterable.
        args (`TrainingArguments`): Workers, pinning, seeds.
        sequence_encoder ([`SequenceEncoder`]): The collator's light stage, which alone goes to the workers: neither
            noiser nor gradient has business there.
        batch_size (`int`): Of one process.
        sampler_fn (`Callable`, *optional*): Makes the sampler of an indexable dataset.
        batch_sampler (*optional*): In place of a sampler and a batch size.
        is_training (`bool`, *optional*, defaults to `True`): Or evaluation.
    """
    settings = {
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
    drop_last = is_training and args.dataloader_drop_last
    if isinstance(dataset, IterableDataset):
        return DataLoader(dataset, batch_size=batch_size, drop_last=drop_last, **settings)
    if batch_sampler is not None:
        return DataLoader(KeyedRecords(dataset), batch_sampler=batch_sampler, **settings)
    sampler = sampler_fn(dataset)
    return DataLoader(KeyedRecords(dataset), batch_size=batch_size, sampler=sampler, drop_last=drop_last, **settings)


def noiser_batches(
    dataset, args: TrainingArguments, sequence_encoder: SequenceEncoder, first_update: int, world: int, rank: int
) -> Iterator[dict]:
    """The noiser's micro-batches from any of its updates on.

    Of an iterable dataset the noiser reads a shuffled copy (one that cannot shuffle, as it comes), which starts anew
    when a run is resumed.

    Args:
        dataset: The training set.
        args (`TrainingArguments`): Batch size, accumulation, workers, seeds.
        sequence_encoder ([`SequenceEncoder`]): The collator's light stage.
        first_update (`int`): Noiser updates made before.
        world (`int`): Number of processes.
        rank (`int`): Number of this one.
    """
    size = args.train_batch_size
    if not isinstance(dataset, IterableDataset):
        sampler = NoiserBatchSampler(
            len(dataset), data_seed(args), size, args.gradient_accumulation_steps, world, rank, first_update
        )
        yield from plain_loader(dataset, args, sequence_encoder, size, batch_sampler=sampler)
        return
    if isinstance(dataset, datasets.IterableDataset):
        dataset = dataset.shuffle(seed=data_seed(args) + 1 + rank, buffer_size=_SHUFFLE_BUFFER)
    for epoch in range(first_update, 1 << 62):
        if isinstance(dataset, datasets.IterableDataset):
            dataset.set_epoch(epoch)
        yield from plain_loader(dataset, args, sequence_encoder, size)


class EndlessStream:
    """Lets the iterator over a pass of a stream go on with the next pass, so that every update is whole.

    The stock trainer does not step at the end of a pass that is no multiple of the accumulation, and carries its
    gradients into the next; of a stream that is shorter than one update it would never step.

    Args:
        loader (`Callable`): Gives the loader over the whole stream.
    """

    def __init__(self, loader: Callable[[], DataLoader]):
        self.loader = loader
        self._first: Iterator | None = None
        self._passes: Iterator | None = None

    def __call__(self, first: Iterator) -> Iterator:
        """The iterator that begins with the pass `first`; the same one as long as it is asked for the same pass."""
        if first is not self._first:
            self._first, self._passes = first, self._all_passes(first)
        return self._passes

    def _all_passes(self, first: Iterator) -> Iterator[dict]:
        yield from first
        loader = self.loader()
        for number in itertools.count(1):
            loader.set_epoch(number)
            empty = True
            for batch in loader:
                empty = False
                yield batch
            if empty:
                return
