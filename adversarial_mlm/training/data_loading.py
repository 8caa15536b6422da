"""Data loaders: of the encoder, of the noiser and of evaluation."""

import copy
import functools
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
from adversarial_mlm.data.stream_order import HeldOutBatches, StreamBatches
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM, SequenceEncoder
from adversarial_mlm.training.micro_batches import width_multiple
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.utils.signals import spare_worker, workers_needed


def sequence_encoder_for(
    collator: DataCollatorForRandomMLM, args: AdversarialMLMTrainingArguments, is_training: bool
) -> SequenceEncoder:
    """The CPU stage of a collator as loaders use it: it names records, and pads as the device of the run likes it.

    For evaluation it cuts the same windows out of long proteins whatever the seed of the run.
    """
    sequence_encoder = copy.copy(collator.sequence_encoder)
    sequence_encoder.names_records = True
    if sequence_encoder.pad_to_multiple_of is None:
        sequence_encoder.pad_to_multiple_of = width_multiple(args.device)
    return sequence_encoder if is_training else sequence_encoder.for_evaluation(args.eval_mask_seed)


def plain_loader(
    dataset,
    args: TrainingArguments,
    sequence_encoder: SequenceEncoder,
    batch_size: int | None,
    *,
    batch_sampler: Sampler[list[int]] | None = None,
    is_training: bool = True,
) -> DataLoader:
    """A loader that accelerate has not prepared.

    Args:
        dataset: An indexable or iterable dataset with a `sequence` column.
        args (`TrainingArguments`): Workers, pinned memory, seeds.
        sequence_encoder ([`SequenceEncoder`]): CPU stage of the collator. Workers get a copy of it, but not of the
            noiser.
        batch_size (`int`, *optional*): Records per batch of one process; `None` for an iterable dataset of batches.
        batch_sampler (`Sampler`, *optional*): For an indexable dataset, which is otherwise read in order.
        is_training (`bool`, *optional*, defaults to `True`): Whether it is for training; otherwise for evaluation.
    """
    settings: dict[str, Any] = {
        "collate_fn": sequence_encoder,
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory and args.device.type != "cpu",
        # each evaluation makes a new loader, whose workers must end with it
        "persistent_workers": args.dataloader_persistent_workers and is_training,
        "multiprocessing_context": args.dataloader_multiprocessing_context,
        "worker_init_fn": functools.partial(spare_worker, workers_needed()),
        "prefetch_factor": args.dataloader_prefetch_factor,
        # without it, a loader draws from the global generator at its start, so an additional evaluation, a noiser or a
        # resumption would change dropout
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
    """The noiser's micro-batches from a given update on.

    Args:
        dataset: The training set.
        args (`TrainingArguments`): Batch size, workers, seeds.
        sequence_encoder ([`SequenceEncoder`]): CPU stage of the collator.
        first_update (`int`): Number of the first update of the noiser.
        first_micro_step (`int`): Micro-batches of this process before that update.
        world (`int`): Number of processes.
        rank (`int`): Rank of this process.
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
    """Micro-batches of a streamed dataset from a given update on, see [`StreamBatches`].

    Args:
        dataset (`IterableDataset`): The training set.
        args (`TrainingArguments`): Batch size, accumulation, workers, seeds, and whether the encoder's batches are
            shuffled. The noiser's always are.
        sequence_encoder ([`SequenceEncoder`]): CPU stage of the collator.
        stream (`int`): `ENCODER_STREAM` or `NOISER_STREAM`.
        first_update (`int`): Number of the first update, among those of that network.
        world (`int`): Number of processes.
        rank (`int`): Rank of this process.
    """
    shuffle = stream == NOISER_STREAM or args.train_sampling_strategy == "random"
    first = first_update * args.gradient_accumulation_steps * args.train_batch_size * world
    batches = StreamBatches(dataset, data_seed(args), stream, args.train_batch_size, world, rank, first, shuffle)
    yield from plain_loader(batches, args, sequence_encoder, None)


def held_out_stream(
    dataset: IterableDataset,
    args: TrainingArguments,
    sequence_encoder: SequenceEncoder,
    batch_size: int,
    world: int,
    rank: int,
) -> DataLoader:
    """The loader of one process for a held-out set that is streamed, see [`HeldOutBatches`].

    Args:
        dataset (`IterableDataset`): The held-out set.
        args (`TrainingArguments`): Workers, seeds.
        sequence_encoder ([`SequenceEncoder`]): CPU stage of the collator.
        batch_size (`int`): Proteins per batch of one process.
        world (`int`): Number of processes.
        rank (`int`): Rank of this process.
    """
    batches = HeldOutBatches(dataset, batch_size, world, rank)
    return plain_loader(batches, args, sequence_encoder, None, is_training=False)


class TrainingBatches:
    """The micro-batches of one process for both networks, update by update.

    Args:
        dataset: The training set.
        args (`TrainingArguments`): Batch size, workers, seeds.
        sequence_encoder ([`SequenceEncoder`]): CPU stage of the collator.
        noiser_micro_steps (`Callable[[int], int]`): From the number of a noiser update to the micro-batches before it.
        world (`int`): Number of processes.
        rank (`int`): Rank of this process.
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
        """End the workers of the loaders."""
        self._of_encoder: Iterator[dict] | None = None  # only for a streamed dataset
        self._of_noiser: Iterator[dict] | None = None
        self._next_noiser_update = 0  # the one that `_of_noiser` gives next

    def of_encoder(self, update: int, epoch_iterator: Iterator[dict], count: int) -> list[dict]:
        """The micro-batches of the encoder's next update.

        Args:
            update (`int`): Number of the update.
            epoch_iterator (`Iterator[dict]`): Iterator of the stock trainer. For a streamed dataset it is not used,
                because it cannot begin or end at an update.
            count (`int`): Number of micro-batches; an epoch may end with fewer.
        """
        if isinstance(self.dataset, IterableDataset):
            if self._of_encoder is None:
                start = (ENCODER_STREAM, update, self.world, self.rank)
                self._of_encoder = stream_batches(self.dataset, self.args, self.sequence_encoder, *start)
            epoch_iterator = self._of_encoder
        return list(itertools.islice(epoch_iterator, count))

    def of_noiser(self, update: int, count: int) -> list[dict]:
        """The micro-batches of an update of the noiser.

        Args:
            update (`int`): Number of the update. If it is not the next one, a new loader is made.
            count (`int`): Number of micro-batches.
        """
        if self._of_noiser is None or self._next_noiser_update != update:
            first = self.noiser_micro_steps(update)
            start = (update, first, self.world, self.rank)
            self._of_noiser = noiser_batches(self.dataset, self.args, self.sequence_encoder, *start)
        self._next_noiser_update = update + 1
        return [next(self._of_noiser) for _ in range(count)]

    def numbered(self, batches: list[dict]) -> list[dict]:
        """Add `row` `(batch,)` to the micro-batches of an update: indices in the global batch, keys of the noise."""
        size = self.args.train_batch_size
        return [
            {**batch, "row": global_rows(size, len(batch["input_ids"]), micro_step, self.world, self.rank)}
            for micro_step, batch in enumerate(batches)
        ]
