"""The trainer: Algorithms 4 and 5 of the paper on top of `transformers.Trainer`.

A reader finds the parts in the order in which a run uses them: position in the data, the noiser's phase, the encoder's
update, optimizer, evaluation, log. The work is done by objects that can be built without a trainer:

| attribute | object | what it does |
| --- | --- | --- |
| `game` | [`NoiserGame`] | masks, has the encoder read, updates the noiser |
| `position` | [`DataPosition`] | knows where in the data an update begins |
| `guard` | [`UpdateGuard`] | leaves out updates that are not finite |
| `store` | [`CheckpointStore`] | writes checkpoints whole, finds the newest, removes old ones |
| `uploads` | [`HubUploader`] | pushes to the Hub |

Overrides of private methods of `Trainer`, here and in [`checkpointing_trainer`], were checked with transformers
5.23.0. A comment in each says which stock behaviour it replaces. A test fails if one changes its signature upstream.
"""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.optimizer import AcceleratedOptimizer
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput

from adversarial_mlm.masking.data_collator import DataCollatorForAdversarialMLM, DataCollatorForRandomMLM
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.masking.statistics import statistics_for
from adversarial_mlm.saving import model_card
from adversarial_mlm.saving.options_record import comparable_from
from adversarial_mlm.saving.run_files import METRICS_FILE
from adversarial_mlm.training import checks
from adversarial_mlm.training.callbacks import (
    EpochMarker,
    Follower,
    MetricsLog,
    RewardTracker,
    ShortProteinsWarning,
    StepTimer,
)
from adversarial_mlm.training.card_facts import card_facts
from adversarial_mlm.training.checkpointing_trainer import CheckpointingTrainer
from adversarial_mlm.training.collapse import CollapseAlarm, collapse_figures
from adversarial_mlm.training.data_loading import TrainingBatches, held_out_stream, plain_loader, sequence_encoder_for
from adversarial_mlm.training.data_position import DataPosition
from adversarial_mlm.training.encoder_checks import prepare_encoder
from adversarial_mlm.training.evaluation import (
    background_log_shares,
    evaluate_masks,
    in_evaluation_mode,
    numbered_batches,
)
from adversarial_mlm.training.launch_checks import check_accelerator, check_devices
from adversarial_mlm.training.metrics_log import Clock, MetricsFile, progress_callbacks
from adversarial_mlm.training.micro_batches import PARTS, in_place_of
from adversarial_mlm.training.noiser_game import NoiserGame
from adversarial_mlm.training.optimizer import LearningRateOf, add_groups, groups_of, holds, scale_schedule
from adversarial_mlm.training.packing_check import pack_if_wanted
from adversarial_mlm.training.precision import apply_tf32
from adversarial_mlm.training.run_options import options_of, records_read
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.training.update_guard import ENCODER, NOISER, UpdateGuard, mean_of_made, spoil_gradient
from adversarial_mlm.utils.ramp import Ramp


class AdversarialMLMTrainer(CheckpointingTrainer):
    """Trains a masked language model against the noiser of its data collator (Algorithms 4 and 5 of the paper).

    A step of this trainer is one update of the *encoder*. `max_steps`, the schedule, logging, evaluation and saving
    count steps. With `noiser_update: alternate`, the noiser makes `noiser_steps` updates before every `encoder_steps`
    of the encoder. It maximises its reward on batches that the encoder does not train on, and the encoder's weights
    get no gradient. With `reversal`, the noiser learns from the encoder's own batch and backward pass. In both cases
    the encoder sees the same batches at the same steps as it would without a noiser.

    Saving, resuming, signals and the Hub are in [`CheckpointingTrainer`].

    Args:
        model (`PreTrainedModel`): The encoder, any `...ForMaskedLM`. Frozen parameters stay frozen. With
            `noiser_reward: loss` it must treat `inputs_embeds` as it treats `input_ids` (an ESM with token dropout
            does not).
        args ([`AdversarialMLMTrainingArguments`]): Arguments.
        data_collator ([`DataCollatorForAdversarialMLM`] or [`DataCollatorForRandomMLM`]): With the noiser, or without
            one for the random baseline.
        **kwargs: As for `transformers.Trainer`: `train_dataset` and `eval_dataset` (with a `sequence` column; a
            dictionary of several evaluation sets is possible), `processing_class`, `callbacks`, `optimizers`.

    Attributes:
        noiser ([`NoiserModel`], *optional*): The collator's.
        run_facts (`dict`): Facts for the model card, see [`card_facts`].
        batch_stages (`list[BatchStage]`): Accumulation of every stage of the run (`global_batch_size`).

    Raises:
        ValueError: If the collator is not one of this package. If encoder, noiser and tokenizer do not fit together.
            If an option needs what the data, the encoder or the masking rules do not have. If several devices are used
            in another way than by a process for each (see [`launch_checks`]).
    """

    args: AdversarialMLMTrainingArguments
    optimizer: AcceleratedOptimizer  # once training has begun

    # compute_loss divides by the number of masked residues of the whole accumulated batch
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel,
        args: AdversarialMLMTrainingArguments,
        data_collator: DataCollatorForRandomMLM | DataCollatorForAdversarialMLM,
        **kwargs,
    ):
        checks.check_supported(kwargs)
        checks.check_fit(model, args, data_collator)
        check_devices(model, args)
        checks.check_datasets(kwargs.get("train_dataset"), kwargs.get("eval_dataset"))
        self.run_facts: dict = {}
        super().__init__(data_collator.noiser, args, model=model, data_collator=data_collator, **kwargs)
        check_accelerator(self.accelerator)
        self._set_position()
        self.get_optimizer_cls_and_kwargs(self.args, self.model)  # a package that it needs may be missing
        checks.check_game(self.args, data_collator, self.train_dataset)
        checks.check_stream(self.args, self.train_dataset, data_collator.rules)
        prepare_encoder(self.model, data_collator, self.args)
        packs = pack_if_wanted(self.model, data_collator, self.args)
        self.game = NoiserGame(self.model, self.noiser, data_collator, self.args, self.accelerator, packs)
        self.guard = UpdateGuard(self.args.max_skipped_updates, self.args.device)
        self._batches = self._training_batches()
        self._background: torch.Tensor | None = None
        self._statistics = statistics_for(data_collator, self.args.device)
        self._mask_counts: dict = {}  # of the log entry that is being written
        self._clock = Clock()
        self._add_callbacks()

    def _add_callbacks(self) -> None:
        stock, brief = progress_callbacks(bool(self.args.disable_tqdm))
        self.remove_callback(stock)
        self.add_callback(brief)
        metrics = MetricsFile(os.path.join(self.args.output_dir, METRICS_FILE))
        self.add_callback(MetricsLog(metrics, lambda: self._mask_counts))
        if isinstance(self.train_dataset, IterableDataset):
            self.add_callback(ShortProteinsWarning())
        if self.game.teacher is not None:
            self.add_callback(Follower(self.game.teacher, self.model, lambda: self.guard.skipped))
        if self.noiser is not None:
            self.add_callback(RewardTracker(self.game, lambda: self.guard.skipped))
            self._noiser_rate = LearningRateOf(self.noiser)
            self.add_callback(self._noiser_rate)
            if self.data_collator.chooses_positions:
                self.add_callback(CollapseAlarm(self.noiser.config.view, stop=self.args.on_collapse == "stop"))
        # before all callbacks that read `state.epoch` or take time
        marker = EpochMarker(lambda updates: self.position.epochs_after(updates))
        self.callback_handler.callbacks[:0] = [marker, StepTimer(self._clock)]

    # ---- The run: where it begins and how it ends ----

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        # Stock: wraps the encoder, makes optimizer and scheduler, loads their states. Added: wrap the noiser and build
        # the reward, once the encoder is on its device and has its weights.
        self.guard = UpdateGuard(
            self.args.max_skipped_updates, self.args.device, scaled=self.accelerator.scaler is not None
        )
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self.game.collator = self.data_collator  # users may have replaced it
        self.game.prepare(self._background_log_shares, resume_from_checkpoint, max_steps)
        self._batches = self._training_batches()
        return prepared

    def _finalize_training(self, *args, **kwargs):
        # Stock: logs the mean loss. Changed: updates that were left out do not count in the mean.
        self._batches.close()
        self.guard.look()
        self._stop_if_too_many_skipped()
        if self.guard.totals[ENCODER]:
            updates = self.state.global_step - self._initial_global_step
            share = mean_of_made(updates, self.guard.totals[ENCODER])
            self._total_loss_scalar, self._tr_loss = self._total_loss_scalar * share, self._tr_loss * share
        return super()._finalize_training(*args, **kwargs)

    # ---- Data: which batches come next ----

    def _set_position(self) -> None:
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        self.position = DataPosition(self.args, self.train_dataset, world, rank)
        self.batch_stages = self.position.stages
        self.args.gradient_accumulation_steps = self.batch_stages[0].size

    def _training_batches(self) -> TrainingBatches:
        return TrainingBatches(
            self.train_dataset,
            self.args,
            sequence_encoder_for(self.data_collator, self.args, is_training=True),
            lambda update: self.position.noiser_micro_steps(update, self.game.alternation),
            self.accelerator.num_processes,
            self.accelerator.process_index,
        )

    def get_train_dataloader(self) -> DataLoader:
        """The encoder's loader, for the training set as it is now."""
        if self.train_dataset is None or not self.position.is_of(self.train_dataset):
            checks.check_training_set(self.train_dataset)
            self._set_position()
        return super().get_train_dataloader()

    def _get_dataloader(
        self, dataset, description, batch_size, sampler_fn=None, is_training=False, dataloader_key=None
    ) -> DataLoader:
        # Stock: removes columns, and accelerate divides the batches among the processes. Replaced: the batch sampler
        # divides them, because it can begin at any update. Batches stay on the CPU, where they are cut by length.
        sequence_encoder = sequence_encoder_for(self.data_collator, self.args, is_training)
        if not is_training:
            checks.check_dataset("eval_dataset", dataset)
            if isinstance(dataset, IterableDataset):
                world, rank = self.accelerator.num_processes, self.accelerator.process_index
                return held_out_stream(dataset, self.args, sequence_encoder, batch_size, world, rank)
        batch_sampler = self.position.batches if is_training else None
        loader = plain_loader(
            *(dataset, self.args, sequence_encoder, batch_size), batch_sampler=batch_sampler, is_training=is_training
        )
        if batch_sampler is not None:  # its batches are this process's own already
            return prepare_data_loader(loader, self.accelerator.device, 1, 0)
        return self.accelerator.prepare_data_loader(loader, device_placement=False)

    def set_initial_training_values(self, args, dataloader):
        """As in `Trainer`, but with one pass of the loop for each part of an epoch that has one size of updates."""
        self.args.gradient_accumulation_steps = self.batch_stages[0].size
        values = super().set_initial_training_values(args, dataloader)
        if self.position.passes is None:
            return values
        _, updates, examples, samples, batch, steps, max_steps = values
        if len(self.position.stages) > 1:
            samples = self.position.samples(max_steps)
        return self.position.passes.index(max_steps - 1) + 1, updates, examples, samples, batch, steps, max_steps

    def _init_training_state(self, max_steps, num_update_steps_per_epoch, num_train_epochs, *args):
        # Stock: computes the epoch, and how many of its batches a resumed run skips. Replaced: the pass of the next
        # update. Nothing is skipped.
        begin = super()._init_training_state(max_steps, num_update_steps_per_epoch, num_train_epochs, *args)
        done = self.state.global_step
        if self.is_world_process_zero() and done:
            self.position.warn_if_elsewhere(self.state.epoch or 0, done, records_read(self._resumed, done))
        if self.position.passes is None:
            return begin
        return (num_train_epochs if done >= max_steps else self.position.passes.index(done)), 0

    def _run_epoch(self, *args, **inputs):
        # Stock: one epoch. Replaced: one pass, which may begin at any update. A run that has made all its updates
        # makes no more; the stock loop would make one.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        here = self.position.begin_pass(self.state.global_step)
        if here is not None:
            self.args.gradient_accumulation_steps = here.accumulation
            inputs.update(
                steps_in_epoch=here.stop - here.first,
                num_update_steps_per_epoch=here.updates,
                steps_trained_in_current_epoch=0,
            )
        super()._run_epoch(*args, **inputs)

    # ---- Algorithm 5: updates of the noiser before those of the encoder ----

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The micro-batches of the encoder's next update; the noiser's updates that come before it are made first."""
        step = self.state.global_step
        with self._clock("data"):
            batches = self._batches.of_encoder(step, epoch_iterator, num_batches)
            batches = self._batches.numbered(self.guard.record(ENCODER, step, batches))
        with self._clock("encoder"):
            batches = self.game.chosen_proteins(batches, step)
            num_items = self.game.count_items(batches, step)
        # what a skipped update adds to these is taken back
        self._sums_before = self._statistics.sums, self._tr_loss.clone()
        if self.noiser is not None:
            self.noiser.zero_grad(set_to_none=True)  # the stock trainer clears the encoder's alone
        if batches and self.game.is_trained(step):
            with self._clock("checks"):
                self.game.compare_half_batches(batches[0], step)
            if self.args.noiser_update == "alternate":
                self._train_noiser(step)
        self._clock.start("encoder")
        if batches and self.args.tokens_per_micro_batch is not None:
            batches = in_place_of(batches, self.game.micro_batches.parts(batches))
        return batches, num_items

    def _train_noiser(self, step: int) -> None:
        """The noiser's phase before a step of the encoder; often there is none."""
        updates = self.game.alternation.noiser_updates_before(step)
        if not updates:
            return
        with self.game.noiser_phase(updates.start):
            for update in updates:
                with self._clock("data"):
                    batches = self._batches.of_noiser(update, self.args.gradient_accumulation_steps)
                with self._clock("noiser"):
                    batches = self._batches.numbered(self.guard.record(NOISER, update, batches))
                    self.game.update_noiser(update, batches, step, self.optimizer, self.guard)

    # ---- Algorithm 4: the encoder's update (`update_noiser` is in the game) ----

    def training_step(self, model, inputs, num_items_in_batch=None):
        """Forward and backward pass of a micro-batch, part by part, see [`MicroBatches`]."""
        parts = inputs[PARTS] if PARTS in inputs else self.game.chunks(inputs, self.game.packs)
        if not parts:
            return torch.zeros((), device=self.args.device)
        *chunks, last = parts
        loss: torch.Tensor | float = 0.0
        with self.game.no_sync(model), self.game.quick_dropout():
            for chunk in chunks:
                loss = loss + super().training_step(model, self.game.to_device(chunk), num_items_in_batch)
        noiser_waits = contextlib.nullcontext() if self.accelerator.sync_gradients else self.game.no_sync()
        with noiser_waits, self.game.quick_dropout():
            return loss + super().training_step(model, self.game.to_device(last), num_items_in_batch)

    def _prepare_inputs(self, inputs):
        # Stock: moves a batch to the device. Left out: it is there already, except for the numbers that the CPU needs.
        return inputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Masked-LM loss of the encoder: the micro-batch's weighted sum of cross-entropies ÷ what the update counts.

        With `noiser_update: reversal` the backward pass of this loss also reaches the noiser.

        Args:
            model (`nn.Module`): The encoder, wrapped where training is distributed.
            inputs (`dict[str, torch.Tensor]`): What the collator's CPU stage returned, with `row` `(batch,)`.
            return_outputs (`bool`, *optional*, defaults to `False`): Whether to return the encoder's output, too.
            num_items_in_batch (`torch.Tensor`, *optional*): See [`NoiserGame.count_items`]; without it, the weights of
                this batch.

        Returns:
            `torch.Tensor`, a scalar, or that and the encoder's output.
        """
        step, game = self.state.global_step, self.game
        shared, strength = game.shares_backward(step), game.reversal_strength(step)
        keys = row_keys(self.args.seed, ENCODER_PHASE, step, inputs["row"])
        corrupted = game.corrupt(inputs, keys, step, differentiable=shared)
        outputs, losses, weights = game.read(model, corrupted, inputs, reversal=strength if shared else None)
        self._statistics.update(corrupted, losses, inputs["input_ids"], inputs["residue_mask"])
        game.measure(inputs, corrupted, outputs, step)
        items = num_items_in_batch
        if items is None:  # of this batch alone, so that the number of processes is taken out again
            items = weights.sum().clamp_min(1) * self.accelerator.num_processes
        taught, counted = losses, weights
        if game.teacher is not None:
            taught, counted = game.teacher.applied(outputs, losses, weights, corrupted, step)
        loss = game.normalised((taught * counted).sum(), items)
        if shared:
            reward = game.normalised(game.reward.direct(corrupted, losses.detach()), items)
            loss = loss - strength * (reward - reward.detach())  # a gradient for the noiser, and nothing for the log
        loss = spoil_gradient(loss)
        return (loss, outputs) if return_outputs else loss

    def _get_grad_norm(self, model, grad_norm=None):
        # Stock: returns the norm of the encoder's gradient, before each optimizer step. Gradients are complete and
        # unscaled then. Added: get and clip the noiser's gradient, leave out an update with a norm that is not finite.
        self.game.learn_choice()
        norms = {ENCODER: super()._get_grad_norm(model, grad_norm)}
        of_noiser = self.game.clip_shared_gradient()
        if of_noiser is not None:
            norms[NOISER] = of_noiser
        skipped = self.guard.check(norms, self.optimizer.optimizer)
        statistics, loss = self._sums_before
        self._statistics.sums = torch.where(skipped, statistics, self._statistics.sums)
        self._tr_loss = torch.where(skipped, loss, self._tr_loss)
        return norms[ENCODER]

    # ---- Optimizer ----

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """One optimizer for both networks; the noiser has parameter groups of its own, see [`training.optimizer`].

        Raises:
            ValueError: If an optimizer was passed to the trainer that does not hold the noiser's parameters.
        """
        given = self.optimizer is not None
        optimizer = super().create_optimizer(model)
        if self.noiser is None:
            return optimizer
        if not given:
            decayed = set(self.get_decay_parameter_names(self.noiser))
            rate, decay = self.args.noiser_learning_rate, self.args.noiser_weight_decay
            add_groups(optimizer, self.noiser, decayed, rate, decay)
        elif not holds(optimizer, self.noiser):
            raise ValueError("the optimizer passed to the trainer does not hold the noiser's parameters")
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The stock schedule for both networks, times `noiser_learning_rate_factor` for the noiser.

        Raises:
            ValueError: If there is such a factor, and the schedule is not a function of the step alone.
        """
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        factor = Ramp(self.args.noiser_learning_rate_factor, "noiser_learning_rate_factor")
        if self.noiser is not None and factor.values != [1.0]:
            scale_schedule(scheduler, groups_of(scheduler.optimizer, self.noiser), factor)
        return scheduler

    # ---- Evaluation ----

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Figures under fixed random masks and under the noiser's masks, see [`evaluation.evaluate_masks`].

        The random masks are the same in every run with the same `eval_mask_seed` and `eval_mask_rate`. The run's seed,
        batch size, number of processes and masks in training do not change them. Every run sees the same window of a
        protein that is too long.

        Returns:
            `EvalLoopOutput` whose `metrics` are those figures with the prefix. `background_loss` is that of the
            training set; a stream has none.
        """
        apply_tf32(self.args)  # evaluation may be called on its own, after the run of another trainer
        with in_evaluation_mode(self.model, self.noiser):
            figures = evaluate_masks(
                self.model,
                self.data_collator,
                self._eval_batches(dataloader),
                mask_rate=self.args.eval_mask_rate,
                mask_seed=self.args.eval_mask_seed,
                log_shares=self._background_log_shares(),
                context_gap=self.args.eval_context_gap,
                reduce=self._sum_over_processes,
                device=self.args.device,
            )
        proteins = int(figures.pop("proteins"))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        return EvalLoopOutput(None, None, metrics, proteins)  # type: ignore[arg-type]  # no predictions, as in stock

    def _eval_batches(self, dataloader) -> Iterator[dict[str, torch.Tensor]]:
        """Chunks of numbered batches on the device."""
        size, world, rank = self.args.eval_batch_size, self.accelerator.num_processes, self.accelerator.process_index
        for batch in numbered_batches(dataloader, size, world, rank):
            yield from map(self.game.to_device, self.game.chunks(batch))
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    def _background_log_shares(self) -> torch.Tensor | None:
        if self._background is None and not isinstance(self.train_dataset, IterableDataset | None):
            encoder = sequence_encoder_for(self.data_collator, self.args, is_training=False)
            self._background = background_log_shares(self.train_dataset, encoder).to(self.args.device)
        return self._background

    def _sum_over_processes(self, sums: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(sums, reduction="sum")

    # ---- Log ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log to the trackers and to `metrics.jsonl`; training logs get the figures of the masks, too.

        Raises:
            NonFiniteError: If `max_skipped_updates` updates in a row were not finite.
        """
        self._mask_counts = {}
        if "loss" in logs and "learning_rate" in logs:
            skipped = self.guard.figures(logs["loss"], self.state.global_step, warn=self.is_world_process_zero())
            logs = {**logs, **self._training_figures(), **skipped}
            logs |= collapse_figures(logs, self.state.log_history, self.args, comparable_from(self.resumptions))
        if "train_loss" in logs:  # the last entry; others count from one to the next
            logs = {**logs, **self.guard.total_figures()}
        super().log(logs, start_time)
        self._stop_if_too_many_skipped()

    def _training_figures(self) -> dict[str, float]:
        figures, self._mask_counts = self._statistics.figures_and_counts(self._sum_over_processes)
        seconds = self._clock.read()
        figures["residues_per_second"] = figures.pop("residues", 0.0) / max(sum(seconds.values()), 1e-9)
        figures |= {f"seconds_{phase}": value for phase, value in seconds.items()}
        figures.update(self.game.figures_of_options(self.state.global_step - 1, self._sum_over_processes))
        if self.noiser is not None:  # each process holds its share of the loss, times the number of processes
            figures.update(self.game.figures.read(self._sum_over_processes))
            figures["noiser_learning_rate"] = float(self._noiser_rate.latest)
        return figures

    def _stop_if_too_many_skipped(self) -> None:
        step, folder = self.state.global_step, self.args.output_dir
        self.guard.stop_if_too_many(step, folder, self.accelerator.process_index, self.is_world_process_zero())

    @property
    def collapsed_at(self) -> int | None:
        """Step of the first log entry that reports a collapse; `None` where there is none."""
        return next((int(entry["step"]) for entry in self.state.log_history if entry.get("collapse")), None)

    def run_options(self) -> dict[str, Any]:
        return options_of(self.args, self.data_collator, self.run_facts.get("recipe"))

    def card_facts(self) -> model_card.CardFacts:
        """The facts of this run for its model card."""
        return card_facts(self)

    def _write_card(self, folder: str) -> None:
        model_card.write(self.card_facts(), folder)

    def _save_more(self, folder: str) -> None:
        self.game.save_state(folder)
