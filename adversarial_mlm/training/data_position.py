"""The trainer's place in the data: which batches come next, after a resume and where the size of updates changes."""

import dataclasses
import logging
from collections.abc import Callable

from torch.utils.data import IterableDataset
from transformers.trainer_callback import TrainerCallback

from adversarial_mlm.data.order import EncoderBatchSampler, data_seed
from adversarial_mlm.training.batch_schedule import BatchStage, EpochPasses, accumulation, micro_steps_before

logger = logging.getLogger(__name__)


class DataPosition:
    """The part of [`AdversarialMLMTrainer`] that knows its place in an indexable dataset. It is of no use alone.

    The stock trainer goes through the batches that a resumed run has seen already, and has one size of updates. Here a
    pass of its loop begins at any update and has one size (see [`batch_stages`]). A stream keeps the stock loop.
    """

    def _set_up_position(self) -> None:
        """To be called when the processes are known. `batch_stages` then holds the accumulation of every stage.

        Raises:
            ValueError: If `global_batch_size` does not go with the processes or the dataset, or if what an epoch
                leaves out is all of it.
        """
        args, world = self.args, self.accelerator.num_processes
        streamed = isinstance(self.train_dataset, IterableDataset)
        self._batches: EncoderBatchSampler | None = None
        self._passes: EpochPasses | None = None
        self.batch_stages = [BatchStage(0, args.gradient_accumulation_steps)]
        if args.batch_stages:
            self.batch_stages = accumulation(args.batch_stages, "global_batch_size", args.train_batch_size, world)
            args.gradient_accumulation_steps = self.batch_stages[0].size
        if streamed and len(self.batch_stages) > 1:
            raise ValueError("global_batch_size cannot change in a stream; give one number, or set streaming: false")
        if streamed or self.train_dataset is None:
            return
        if args.ignore_data_skip:
            raise ValueError("ignore_data_skip is not supported: a run goes on at its place in the data at once")
        self._batches = EncoderBatchSampler(
            len(self.train_dataset),
            data_seed(args),
            args.train_batch_size,
            world,
            self.accelerator.process_index,
            shuffle=args.train_sampling_strategy == "random",
            drop_last=args.dataloader_drop_last,
        )
        self._passes = EpochPasses(len(self._batches), self.batch_stages)
        self.remove_callback(_EpochOfTheData)
        self.callback_handler.callbacks.insert(0, _EpochOfTheData(self._epochs_after))  # before those that read it

    def get_train_dataloader(self):
        if self._batches is not None and len(self.train_dataset) != self._batches.num_records:
            self._set_up_position()  # for a dataset that has taken the place of the first
        return super().get_train_dataloader()

    def _epochs_after(self, updates: int) -> float:
        """Epochs of the data that so many updates have read."""
        epoch, batches = self._passes.place(updates)
        return epoch + self._batches.share(batches)

    def set_initial_training_values(self, args, dataloader):
        self.args.gradient_accumulation_steps = self.batch_stages[0].size
        values = super().set_initial_training_values(args, dataloader)
        if self._passes is None:
            return values
        _, updates, examples, samples, batch, steps, max_steps = values
        if len(self.batch_stages) > 1:
            per_micro_step = args.train_batch_size * self.accelerator.num_processes
            samples = micro_steps_before(max_steps, self.batch_stages) * per_micro_step
        return self._passes.index(max_steps - 1) + 1, updates, examples, samples, batch, steps, max_steps

    def _init_training_state(self, max_steps, num_update_steps_per_epoch, num_train_epochs, *args):
        begin = super()._init_training_state(max_steps, num_update_steps_per_epoch, num_train_epochs, *args)
        if self._passes is None:
            return begin
        done = self.state.global_step
        read, here = self.state.epoch or 0, self._epochs_after(done)
        if abs(read - here) > 1e-6 and self.is_world_process_zero():
            logger.warning(
                f"the checkpoint had read {read:.4f} epochs in {done:,} updates, of other data or with another global "
                f"batch; this run goes on where it would be itself, after {here:.4f} epochs"
            )
        return (num_train_epochs if done >= max_steps else self._passes.index(done)), 0

    def _run_epoch(self, **inputs):
        if self._passes is None:
            return super()._run_epoch(**inputs)
        here = self._passes.at(self.state.global_step)
        self._batches.start_at(here.epoch, here.first, here.stop)
        self.args.gradient_accumulation_steps = here.accumulation
        # to the stock trainer a pass is an epoch that begins here, so that there is nothing to skip
        inputs.update(
            steps_in_epoch=here.stop - here.first,
            num_update_steps_per_epoch=here.updates,
            steps_trained_in_current_epoch=0,
        )
        return super()._run_epoch(**inputs)

    def _noiser_stages(self) -> list[BatchStage]:
        """The stages by the noiser's updates, in place of the encoder's."""
        firsts = [self._alternation.first_update_from(stage.first_update) for stage in self.batch_stages]
        return [dataclasses.replace(s, first_update=first) for s, first in zip(self.batch_stages, firsts, strict=True)]


class _EpochOfTheData(TrainerCallback):
    """Corrects `state.epoch`, which the stock trainer counts in passes of its loop."""

    def __init__(self, epochs_after: Callable[[int], float]):
        self.epochs_after = epochs_after

    def on_step_end(self, args, state, control, **kwargs):
        state.epoch = self.epochs_after(state.global_step)
