"""The trainer: encoder and noiser in turns, on top of `transformers.Trainer`."""

import contextlib
import copy
import logging
import os
from collections.abc import Iterator

import torch
from accelerate.data_loader import prepare_data_loader
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from transformers import PreTrainedModel, Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import EvalLoopOutput, IntervalStrategy

from adversarial_mlm.data.length_chunks import cut_by_length
from adversarial_mlm.data.order import ENCODER_STREAM, global_rows
from adversarial_mlm.masking.data_collator import (
    DataCollatorForAdversarialMLM,
    DataCollatorForRandomMLM,
    SequenceEncoder,
)
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.masking.statistics import MaskingStatistics
from adversarial_mlm.saving.hub import HubPushes
from adversarial_mlm.saving.model_card import CardFacts
from adversarial_mlm.saving.run_files import METRICS_FILE
from adversarial_mlm.training.card_facts import card_facts
from adversarial_mlm.training.checkpointing import Checkpointing
from adversarial_mlm.training.checks import check_fit, check_game, check_stream
from adversarial_mlm.training.collapse import collapse_message, has_collapsed, random_loss_above_best
from adversarial_mlm.training.data_loading import plain_loader, stream_batches
from adversarial_mlm.training.data_position import DataPosition
from adversarial_mlm.training.encoder_checks import check_soft_inputs, freeze_what_is_not_reached
from adversarial_mlm.training.evaluation import background_log_shares, evaluate_masks
from adversarial_mlm.training.launch_checks import check_accelerator, check_devices
from adversarial_mlm.training.metrics_log import BriefPrinterCallback, BriefProgressCallback, Clock, Means, MetricsFile
from adversarial_mlm.training.noiser_game import NoiserTurns
from adversarial_mlm.training.packed_attention import pack_attention, packed_rows
from adversarial_mlm.training.precision import compiled_as, not_compiled
from adversarial_mlm.training.rewards import REWARDS
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.training.update_guard import FiniteUpdates, spoil_gradient
from adversarial_mlm.utils.ramp import Ramp

logger = logging.getLogger(__name__)

_UNUSED_BY_US = {"compute_loss_func", "compute_metrics", "model_init", "preprocess_logits_for_metrics"}


class AdversarialMLMTrainer(NoiserTurns, DataPosition, Checkpointing, FiniteUpdates, HubPushes, Trainer):
    """Trains a masked language model against the noiser of its data collator (Algorithms 4 and 5 of the paper).

    A step of this trainer is one update of the *encoder*: `max_steps`, the schedule, logging, evaluation and saving
    count those. With `noiser_update: alternate`, whenever `encoder_steps` of them are done, and before the first, the
    noiser makes `noiser_steps` updates in the opposite direction, on batches of its own; no gradient of the encoder's
    weights is computed then. With `reversal` the noiser moves along with the encoder, on the same batch and by the
    same backward pass. Either way the encoder sees the same batches at the same step as without a noiser.

    What the noiser climbs is in [`noiser_rewards`], when it moves in [`noiser_schedule`], what goes to the Hub
    in [`hub`].

    Args:
        model (`PreTrainedModel`): The encoder, any `...ForMaskedLM`; parameters that are frozen stay so. With
            `noiser_reward: loss` it has to take `inputs_embeds` for what they are (an ESM with token dropout does
            not).
        args ([`AdversarialMLMTrainingArguments`]): Arguments.
        data_collator ([`DataCollatorForAdversarialMLM`] or [`DataCollatorForRandomMLM`]): With the noiser, or without
            one for the random baseline.
        **kwargs: As for `transformers.Trainer`: `train_dataset` and `eval_dataset` (with a `sequence` column; a
            dictionary of several evaluation sets is possible), `processing_class`, `callbacks`, `optimizers`.

    Raises:
        ValueError: If the collator is not one of this package, if encoder, noiser and tokenizer do not fit together,
            if an option needs what the data, the encoder or the masking rules do not have, or if several devices are
            used in another way than by a process for each (see [`distribution`]).
    """

    # compute_loss divides by the number of masked residues of the whole accumulated batch
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel,
        args: AdversarialMLMTrainingArguments,
        data_collator: DataCollatorForRandomMLM | DataCollatorForAdversarialMLM,
        **kwargs,
    ):
        for name in _UNUSED_BY_US & kwargs.keys():
            raise ValueError(f"{name} is not supported: this trainer has its own loss and its own evaluation")
        check_fit(model, args, data_collator)
        check_devices(model, args)
        self._set_up_noiser(args, data_collator.noiser)
        self._stream_iterator: Iterator | None = None
        self._short_rows_said = False
        self._background: torch.Tensor | None = None
        self.run_facts: dict = {}
        self.loaded_best_step: int | None = None
        super().__init__(model=model, args=args, data_collator=data_collator, **kwargs)
        check_accelerator(self.accelerator)
        self._set_up_position()
        self.get_optimizer_cls_and_kwargs(self.args, self.model)  # a package that it needs may be missing
        check_game(self.args, data_collator, self.train_dataset)
        check_stream(self.args, self.train_dataset)
        if (
            self.noiser is not None
            and self.args.noiser_update != "none"
            and REWARDS[self.args.noiser_reward].through_encoder
        ):
            check_soft_inputs(self.model, data_collator)
        freeze_what_is_not_reached(self.model, data_collator)
        if self.args.packed_attention:
            pack_attention(self.model, data_collator)
        if self.noiser is not None:
            self._move_model_to_device(self.noiser, self.args.device)
        self._statistics = MaskingStatistics(data_collator.vocabulary, self.noiser is not None, self.args.device)
        self._noiser_figures = Means("noiser_pay", "noiser_grad_norm", "noiser_cosine", device=self.args.device)
        self._clock = Clock()
        self._metrics_file = MetricsFile(os.path.join(self.args.output_dir, METRICS_FILE))
        self.remove_callback(PrinterCallback if self.args.disable_tqdm else ProgressCallback)
        self.add_callback(BriefPrinterCallback if self.args.disable_tqdm else BriefProgressCallback)

    # ---- Data ----

    def _get_eval_sampler(self, eval_dataset=None):
        return SequentialSampler(eval_dataset)

    def _get_dataloader(
        self, dataset, description, batch_size, sampler_fn=None, is_training=False, dataloader_key=None
    ) -> DataLoader:
        loader = plain_loader(
            dataset,
            self.args,
            self._sequence_encoder(is_training),
            batch_size,
            sampler_fn=sampler_fn,
            batch_sampler=self._batches if is_training else None,
            is_training=is_training,
        )
        # batches are cut by length before they go to the device
        if is_training and self._batches is not None:  # they are this process' own already
            return prepare_data_loader(loader, self.accelerator.device, 1, 0)
        return self.accelerator.prepare_data_loader(loader, device_placement=False)

    def _sequence_encoder(self, is_training: bool) -> SequenceEncoder:
        sequence_encoder = copy.copy(self.data_collator.sequence_encoder)
        sequence_encoder.names_records = is_training
        if not is_training:
            sequence_encoder.seed = self.args.eval_mask_seed  # the same windows whatever the run's seed
        return sequence_encoder

    def _number_rows(self, batches: list[dict]) -> list[dict]:
        """Tell every row its index in the global batch, which keys its noise."""
        size = self.args.train_batch_size
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        return [
            {**batch, "row": global_rows(size, len(batch["input_ids"]), micro_step, world, rank)}
            for micro_step, batch in enumerate(batches)
        ]

    def _chunks(self, batch: dict, packed: bool = False) -> list[dict]:
        """What of a batch is read at once, each with `padded` (whether any of its tokens is padding) or `packed`."""
        whole = packed and self.args.chunk_overhead is None
        if not self.data_collator.rules.gated:  # a row's masks then depend on the others of its batch
            whole = True
        chunks = [batch] if whole else cut_by_length(batch, self.args.overhead_of_a_chunk)
        if packed:
            return [{**chunk, "packed": packed_rows(chunk)} for chunk in chunks]
        return [{**chunk, "padded": not chunk["attention_mask"].all()} for chunk in chunks]

    def _prepare_input(self, data):
        if isinstance(data, torch.Tensor):  # the stock trainer waits for the device at every one of them
            return data.to(self.args.device, non_blocking=True)
        return super()._prepare_input(data)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        # called once per step: the place to let the noiser move before the encoder does
        if isinstance(self.train_dataset, IterableDataset):
            # the stock iterator, of which nothing was read, can neither end with a whole update nor begin at one
            if self._stream_iterator is None:
                encoder, step = self._sequence_encoder(is_training=True), self.state.global_step
                place = (self.accelerator.num_processes, self.accelerator.process_index)
                self._stream_iterator = stream_batches(
                    self.train_dataset, self.args, encoder, ENCODER_STREAM, step, *place
                )
            epoch_iterator = self._stream_iterator
        with self._clock("data"):
            batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        batches = self._number_rows(batches)
        if self.noiser is not None:
            self.noiser.zero_grad(set_to_none=True)  # the stock trainer clears the encoder's alone
        if batches and self._noiser_is_trained():
            with self._clock("checks"):
                self._compare_half_batches(batches[0])
            if self.args.noiser_update == "alternate":
                self._noiser_phase()
        self._clock.start("encoder")
        return batches, num_items

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """What the residues of the whole update count in the loss: all micro-batches, all processes.

        Known before any mask is drawn: the budgets (of which `selection: threshold` spends a part only), and the
        residues beside them with the weight of unmasked ones.
        """
        if not batch_samples:
            return None
        items, of_unmasked = 0, self.args.weight_of_unmasked
        for batch in batch_samples:
            budget = self.data_collator.mask_budget(batch["num_residues"])
            items = items + (budget + of_unmasked * (batch["num_residues"] - budget).double()).sum()
        items = items.to(device, non_blocking=True)
        return self.accelerator.reduce(items, reduction="sum").clamp_min(1)

    # ---- Encoder ----

    def training_step(self, model, inputs, num_items_in_batch=None):
        *chunks, last = self._chunks(inputs, self.args.packed_attention)
        loss = 0.0
        with self._no_sync(model), self._quick_dropout():
            for chunk in chunks:
                loss = loss + super().training_step(model, chunk, num_items_in_batch)
        synced = self.noiser is None or self.accelerator.sync_gradients
        noiser_waits = contextlib.nullcontext() if synced else self.accelerator.no_sync(self._noiser_wrapped)
        with noiser_waits, self._quick_dropout():
            return loss + super().training_step(model, last, num_items_in_batch)

    @contextlib.contextmanager
    def _no_sync(self, model) -> Iterator[None]:
        """Gradients of both networks stay with this process for a while."""
        with contextlib.ExitStack() as stack:
            for network in (model, self._noiser_wrapped):
                if network is not None:
                    stack.enter_context(self.accelerator.no_sync(network))
            yield

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Masked-LM loss of the encoder: the micro-batch's weighted sum of cross-entropies ÷ what the update counts.

        Where the noiser moves along (`noiser_update: reversal`) the backward pass of this loss reaches it, too.

        Args:
            model (`nn.Module`): The encoder, wrapped where training is distributed.
            inputs (`dict[str, torch.Tensor]`): What the collator's CPU stage returned, with `row` `(batch,)`.
            return_outputs (`bool`, *optional*, defaults to `False`): Whether to return the encoder's output, too.
            num_items_in_batch (`torch.Tensor`, *optional*): What the residues of the update count (without weights,
                its masked residues); without it, those of this batch.

        Returns:
            `torch.Tensor`, a scalar, or that and the encoder's output.
        """
        step = self.state.global_step
        moves_along = (
            self.args.noiser_update == "reversal" and self._noiser_is_trained() and step % self.args.noiser_every == 0
        )
        corrupted = self._corrupt(inputs, row_keys(self.args.seed, ENCODER_PHASE, step, inputs["row"]), moves_along)
        strength = self._reversal_strength(step)
        outputs, losses, weights = self._read(model, corrupted, inputs, reversal=strength if moves_along else None)
        self._statistics.update(corrupted, losses, inputs["input_ids"], inputs["residue_mask"])
        items = num_items_in_batch
        if items is None:  # of this batch alone, so that the number of processes is taken out again
            items = weights.sum().clamp_min(1) * self.accelerator.num_processes
        loss = self._normalised((losses * weights).sum(), items)
        if moves_along:
            pay = strength * self._normalised(self._reward.direct(corrupted, losses.detach()), items)
            loss = loss - (pay - pay.detach())  # a gradient for the noiser, and nothing for the log
        loss = spoil_gradient(loss)
        return (loss, outputs) if return_outputs else loss

    # ---- Optimizer ----

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """One optimizer with groups of its own for the noiser.

        A parameter without a gradient is skipped entirely and keeps its own step count, so this equals two optimizers.

        Raises:
            ValueError: If an optimizer was passed to the trainer that does not hold the noiser's parameters.
        """
        given = self.optimizer is not None
        super().create_optimizer(model)
        if self.noiser is None:
            return self.optimizer
        if given:
            held = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
            if not all(id(parameter) in held for parameter in self.noiser.parameters()):
                raise ValueError("the optimizer passed to the trainer does not hold the noiser's parameters")
            return self.optimizer
        decayed = set(self.get_decay_parameter_names(self.noiser))
        for decay in (True, False):
            self.optimizer.add_param_group(
                {
                    "params": [p for name, p in self.noiser.named_parameters() if (name in decayed) == decay],
                    "lr": self.args.noiser_learning_rate,
                    "weight_decay": self.args.noiser_weight_decay if decay else 0.0,
                }
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The stock schedule for both networks, times `noiser_learning_rate_factor` for the noiser.

        Raises:
            ValueError: If there is such a factor, and the schedule is not a function of the step alone.
        """
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        factor = Ramp(self.args.noiser_learning_rate_factor, "noiser_learning_rate_factor")
        if self.noiser is None or factor.values == [1.0]:
            return scheduler
        if not isinstance(scheduler, LambdaLR):
            raise ValueError(
                f"noiser_learning_rate_factor does not go with lr_scheduler_type {self.args.lr_scheduler_type.value}"
            )
        for index, group in enumerate(scheduler.optimizer.param_groups):
            if self._is_noisers(group):
                shape = scheduler.lr_lambdas[index]
                scheduler.lr_lambdas[index] = lambda step, shape=shape: shape(step) * factor(step)
                group["lr"] = scheduler.base_lrs[index] * scheduler.lr_lambdas[index](scheduler.last_epoch)
        return scheduler

    def _is_noisers(self, group: dict) -> bool:
        own = {id(parameter) for parameter in self.noiser.parameters()}
        return any(id(parameter) in own for parameter in group["params"])

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.noiser is not None:
            self._noiser_wrapped = not_compiled(self.accelerator.prepare_model(self.noiser))
            self._frozen_encoder = compiled_as(self.accelerator, self.model)
            # in training mode only where it is trained: in its own phase, or all along
            self.noiser.train(self.args.noiser_update == "reversal")
            self._reward = REWARDS[self.args.noiser_reward].build(
                self.model, self._background_log_shares, self.args.slow_encoder_decay
            )
            if resume_from_checkpoint is not None:
                self._reward.load(resume_from_checkpoint)
            self._rewarded_step = self.state.global_step
        self._noiser_iterator = self._stream_iterator = None
        if self.is_world_process_zero():
            self._metrics_file.begin(self.state.global_step if resume_from_checkpoint is not None else None)
        return prepared

    def _finalize_training(self, *args, **kwargs):
        self._noiser_iterator = self._stream_iterator = None  # and with them the workers of both streams
        return super()._finalize_training(*args, **kwargs)

    # ---- Evaluation ----

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """Figures under fixed random masks and under the noiser's masks, see [`evaluation.evaluate_masks`].

        The random masks are the same in every run with the same `eval_mask_seed` and `eval_mask_rate`, whatever the
        run's seed, the batch size, the number of processes and the masks used in training. Of a protein that is too
        long every run sees the same window.

        Returns:
            `EvalLoopOutput` whose `metrics` are those figures with the prefix. `background_loss` is that of the
            training set; a stream has none.
        """
        networks = [self.model] if self.noiser is None else [self.model, self.noiser]
        was_training = [network.training for network in networks]
        for network in networks:
            network.eval()
        figures = evaluate_masks(
            self.model,
            self.data_collator,
            self._eval_batches(dataloader),
            mask_rate=self.args.eval_mask_rate,
            mask_seed=self.args.eval_mask_seed,
            log_shares=self._background_log_shares(),
            reduce=lambda sums: self.accelerator.reduce(sums, reduction="sum"),
            device=self.args.device,
        )
        for network, training in zip(networks, was_training, strict=True):
            network.train(training)
        proteins = figures.pop("proteins")
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=proteins)

    def _eval_batches(self, dataloader) -> Iterator[dict[str, torch.Tensor]]:
        """Batches on the device with the rows' positions, without the rows that pad the last round of processes."""
        size, world, rank = self.args.eval_batch_size, self.accelerator.num_processes, self.accelerator.process_index
        streamed = isinstance(dataloader.dataset, IterableDataset)
        for step, batch in enumerate(dataloader):
            batch = {**batch, "row": global_rows(size, len(batch["input_ids"]), step, world, rank)}
            if not streamed:
                real = batch["row"] < len(dataloader.dataset)
                batch = {name: tensor[real] for name, tensor in batch.items()}
            yield from map(self._prepare_inputs, self._chunks(batch))
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)

    def _background_log_shares(self) -> torch.Tensor | None:
        dataset = self.train_dataset
        if self._background is None and dataset is not None and not isinstance(dataset, IterableDataset):
            shares = background_log_shares(dataset, self._sequence_encoder(is_training=False))
            self._background = shares.to(self.args.device)
        return self._background

    # ---- Logging ----

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        self._clock.stop("encoder")
        if self._reward is not None and self.state.global_step > self._rewarded_step:  # also called between epochs
            self._reward.after_encoder_update(self.model, self._guard.skipped)
            self._rewarded_step = self.state.global_step
        if self.args.logging_strategy == IntervalStrategy.STEPS and self.state.global_step >= self.state.max_steps:
            self.control.should_log = True  # the last updates, where they are fewer than logging_steps
        return super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log to the trackers and to `metrics.jsonl`; training logs get the figures of the masks, too."""
        if "loss" in logs and "learning_rate" in logs:
            logs = {**logs, **self._training_figures(), **self._skipped_figures(logs)}
            self._say_short_rows(logs)
            self._watch_for_collapse(logs)
        super().log(logs, start_time)
        if self.is_world_process_zero():
            self._metrics_file.append(self.state.log_history[-1])
        self._stop_where_too_many()

    @property
    def collapsed_at(self) -> int | None:
        """Step of the first log entry at which the alarm for a collapse rang; `None` where it did not."""
        return next((entry["step"] for entry in self.state.log_history if entry.get("collapse")), None)

    def card_facts(self) -> CardFacts:
        """Everything that the model card of this run is made from, as it stands now."""
        return card_facts(self)

    def _say_short_rows(self, logs: dict[str, float]) -> None:
        # of a dataset with lengths it was said before; a stream shows its short proteins as they come
        short = logs.get("rows_without_mask", 0)
        if short and not self._short_rows_said and isinstance(self.train_dataset, IterableDataset):
            self._short_rows_said = True
            if self.is_world_process_zero():
                logger.warning(
                    f"{short:.0f} proteins of the updates up to step {self.state.global_step} are so short that no "
                    "residue of them is masked; `rows_without_mask` in the log counts on"
                )

    def _watch_for_collapse(self, logs: dict[str, float]) -> None:
        if not {"random_loss", "enrichment_max"} <= logs.keys():
            return
        earlier = [entry["random_loss"] for entry in self.state.log_history if "random_loss" in entry]
        above = logs["random_loss_above_best"] = random_loss_above_best([*earlier, logs["random_loss"]])
        args, enrichment = self.args, logs["enrichment_max"]
        logs["collapse"] = float(has_collapsed(above, enrichment, args.collapse_margin, args.collapse_enrichment))
        if not logs["collapse"]:
            return
        if self.collapsed_at is None and self.is_world_process_zero():  # this entry is not in the history yet
            logger.warning(collapse_message(self.state.global_step, above, enrichment, self.noiser.config.view))
        if args.on_collapse == "stop":
            self.control.should_training_stop = True

    def _training_figures(self) -> dict[str, float]:
        figures = self._statistics.figures(lambda x: self.accelerator.reduce(x, reduction="sum"))
        seconds = self._clock.read()
        residues = figures.pop("residues", 0.0)
        figures["residues_per_second"] = residues / max(sum(seconds.values()), 1e-9)
        figures.update({f"seconds_{phase}": value for phase, value in seconds.items()})
        if self.noiser is not None:
            # each process holds its own share of the loss, times the number of processes
            figures.update(self._noiser_figures.read(lambda x: self.accelerator.reduce(x, reduction="sum")))
            figures["noiser_learning_rate"] = next(g["lr"] for g in self.optimizer.param_groups if self._is_noisers(g))
        return figures
