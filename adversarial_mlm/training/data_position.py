"""Where in the data an update begins, after a resume and where the size of updates changes."""

import dataclasses
import logging

from torch.utils.data import IterableDataset

from adversarial_mlm.data.order import EncoderBatchSampler, data_seed
from adversarial_mlm.training.batch_schedule import BatchStage, EpochPasses, Pass, accumulation, micro_steps_before
from adversarial_mlm.training.noiser_schedule import Alternation
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.utils.counts import count

logger = logging.getLogger(__name__)


class DataPosition:
    """The position in an indexable dataset, as a function of the number of updates.

    A resumed stock trainer reads all earlier batches again, and its updates have one size. Here, each pass of its loop
    begins at any update and has its own size (see [`batch_schedule`]). A streamed dataset keeps the stock loop;
    `passes` and `batches` are then `None`.

    Args:
        args ([`AdversarialMLMTrainingArguments`]): Arguments.
        dataset: The training set; `None` if nothing is trained.
        world (`int`): Number of processes.
        rank (`int`): Number of this one.

    Attributes:
        stages (`list[BatchStage]`): Accumulation of every stage of the run.
        passes ([`EpochPasses`], *optional*): Which micro-batches belong to which update.
        batches ([`EncoderBatchSampler`], *optional*): The encoder's micro-batches.

    Raises:
        ValueError: If `global_batch_size` does not fit the processes or the dataset, or if `dataloader_drop_last`
            leaves nothing of an epoch.
    """

    def __init__(self, args: AdversarialMLMTrainingArguments, dataset, world: int, rank: int):
        self._micro_step_size = args.train_batch_size * world
        self.batches: EncoderBatchSampler | None = None
        self.passes: EpochPasses | None = None
        self.stages = [BatchStage(0, args.gradient_accumulation_steps)]
        if args.batch_stages:
            self.stages = accumulation(args.batch_stages, "global_batch_size", args.train_batch_size, world)
        streamed = isinstance(dataset, IterableDataset)
        if streamed and len(self.stages) > 1:
            raise ValueError("global_batch_size cannot change in a stream; give one number, or set streaming: false")
        if streamed or dataset is None:
            return
        if args.ignore_data_skip:
            raise ValueError(
                "ignore_data_skip is not supported: a resumed run starts at its position in the data at once"
            )
        self.batches = EncoderBatchSampler(
            len(dataset),
            data_seed(args),
            args.train_batch_size,
            world,
            rank,
            shuffle=args.train_sampling_strategy == "random",
            drop_last=args.dataloader_drop_last,
        )
        self.passes = EpochPasses(len(self.batches), self.stages)

    def is_of(self, dataset) -> bool:
        """Whether this is the position in this dataset, or in one of its size."""
        return self.batches is None or len(dataset) == self.batches.num_records

    def epochs_after(self, updates: int) -> float | None:
        """Epochs of the data that this number of updates reads; `None` for a stream."""
        if self.passes is None or self.batches is None:
            return None
        epoch, batches = self.passes.position(updates)
        return epoch + self.batches.share(batches)

    def samples(self, updates: int) -> int:
        """Records that this number of complete updates reads, over all processes."""
        return micro_steps_before(updates, self.stages) * self._micro_step_size

    def begin_pass(self, updates: int) -> Pass | None:
        """Let the sampler start after this number of updates.

        Returns:
            [`Pass`]: the rest of the current pass; `None` for a stream.
        """
        if self.passes is None or self.batches is None:
            return None
        here = self.passes.at(updates)
        self.batches.start_at(here.epoch, here.first, here.stop)
        return here

    def warn_if_elsewhere(self, epochs: float, updates: int, records: int | None = None) -> None:
        """Warn if a checkpoint has read another amount of data in its updates than this run would have.

        Args:
            epochs (`float`): Epochs that the checkpoint had read. Those of a stream are not compared.
            updates (`int`): Its updates.
            records (`int`, *optional*): Records of a stream that it had read in them.
        """
        here = self.epochs_after(updates)
        if here is None and records is not None and records != self.samples(updates):
            logger.warning(
                f"the checkpoint had read {count(records, 'record')} of the stream in "
                f"{count(updates, 'update')}, with "
                f"another global batch; this run continues after {count(self.samples(updates), 'record')}, its own "
                "position at that update"
            )
        if here is not None and abs(epochs - here) > 1e-6:
            logger.warning(
                f"the checkpoint had read {epochs:.4f} epochs in {count(updates, 'update')}, with other data or "
                "another "
                f"global batch; this run continues after {here:.4f} epochs, its own position at that update"
            )

    def noiser_stages(self, alternation: Alternation) -> list[BatchStage]:
        """The stages, counted in updates of the noiser."""
        firsts = [alternation.first_update_from(stage.first_update) for stage in self.stages]
        return [dataclasses.replace(s, first_update=first) for s, first in zip(self.stages, firsts, strict=True)]

    def noiser_micro_steps(self, update: int, alternation: Alternation) -> int:
        """Number of micro-batches of this process before an update of the noiser."""
        return micro_steps_before(update, self.noiser_stages(alternation))
