"""The trainer: encoder and noiser in turns, on top of `transformers.Trainer`."""

import contextlib
import copy
import json
import math
import os
from collections.abc import Iterator

import datasets
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from transformers import PreTrainedModel, Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import EvalLoopOutput

from . import model_card
from .data_collator import DataCollatorForAdversarialMLM, DataCollatorForRandomMLM, SequenceEncoder
from .data_order import EpochSampler, KeyedRecords, NoiserBatchSampler, global_rows
from .evaluation import background_log_shares, evaluate_masks
from .keyed_noise import ENCODER_PHASE, NOISER_PHASE, row_keys
from .losses import IGNORE_INDEX, token_losses
from .masking_statistics import MaskingStatistics
from .modeling_noiser import NoiserModel
from .noising import NoisedBatch
from .run_log import METRICS_FILE, BriefPrinterCallback, BriefProgressCallback, Clock, Means, MetricsFile
from .training_args import AdversarialMLMTrainingArguments

NOISER_FOLDER = "noiser"
ARGUMENTS_FILE = "training_args.json"

_UNUSED_BY_US = {"compute_loss_func", "compute_metrics", "model_init", "preprocess_logits_for_metrics"}


class AdversarialMLMTrainer(Trainer):
    """Trains a masked language model against the noiser of its data collator (Algorithms 4 and 5 of the paper).

    A step of this trainer is one update of the *encoder*: `max_steps`, the schedule, logging, evaluation and saving
    count those. Whenever `encoder_steps` of them are done, and before the first, the noiser makes `noiser_steps`
    updates in the opposite direction, on batches of its own. The encoder therefore sees the same batches at the same
    step with and without a noiser.

    In the noiser's phase the encoder is frozen: no gradient of its weights is computed, and its dropout is off, so
    that the noiser plays against the network that will be used. In the encoder's phase the noiser runs without a
    graph.

    Args:
        model (`PreTrainedModel`): The encoder, any `...ForMaskedLM`.
        args ([`AdversarialMLMTrainingArguments`]): Arguments.
        data_collator ([`DataCollatorForAdversarialMLM`] or [`DataCollatorForRandomMLM`]): With the noiser, or without
            one for the random baseline.
        **kwargs: As for `transformers.Trainer`: `train_dataset` and `eval_dataset` (with a `sequence` column; a
            dictionary of several evaluation sets is possible), `processing_class`, `callbacks`, `optimizers`.

    Raises:
        ValueError: If the collator is not one of this package, if encoder, noiser and tokenizer do not fit together,
            or if several GPUs are visible to one process (`nn.DataParallel`).
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
        _check_fit(model, args, data_collator)
        self.noiser: NoiserModel | None = data_collator.noiser
        self._noiser_wrapped: nn.Module | None = self.noiser
        self._noiser_iterator: Iterator | None = None
        self._train_sampler: EpochSampler | None = None
        self._background: torch.Tensor | None = None
        self.run_facts: dict = {}
        self.loaded_best_step: int | None = None
        super().__init__(model=model, args=args, data_collator=data_collator, **kwargs)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ValueError("DeepSpeed and FSDP are not supported, as they prepare one network only; use DDP instead")
        if self.noiser is not None:
            self._move_model_to_device(self.noiser, self.args.device)
        self._statistics = MaskingStatistics(data_collator.vocabulary, self.noiser is not None, self.args.device)
        self._noiser_figures = Means()
        self._clock = Clock()
        self._metrics_file = MetricsFile(os.path.join(self.args.output_dir, METRICS_FILE))
        self.remove_callback(PrinterCallback if self.args.disable_tqdm else ProgressCallback)
        self.add_callback(BriefPrinterCallback if self.args.disable_tqdm else BriefProgressCallback)

    # ---- Data ----

    def _get_train_sampler(self, train_dataset=None):
        dataset = self.train_dataset if train_dataset is None else train_dataset
        shuffle = self.args.train_sampling_strategy == "random"
        self._train_sampler = EpochSampler(len(dataset), self._data_seed, shuffle=shuffle)
        return self._train_sampler

    def _get_eval_sampler(self, eval_dataset=None):
        return SequentialSampler(eval_dataset)

    def _get_dataloader(
        self, dataset, description, batch_size, sampler_fn=None, is_training=False, dataloader_key=None
    ) -> DataLoader:
        return self.accelerator.prepare(self._plain_loader(dataset, batch_size, sampler_fn, is_training))

    def _plain_loader(self, dataset, batch_size, sampler_fn=None, is_training=True, batch_sampler=None) -> DataLoader:
        settings = {
            # the collator's light stage alone goes to the workers: neither noiser nor gradient has business there
            "collate_fn": self._sequence_encoder(is_training),
            "num_workers": self.args.dataloader_num_workers,
            "pin_memory": self.args.dataloader_pin_memory and self.args.device.type != "cpu",
            # every evaluation has a loader of its own, whose workers must go when it is done
            "persistent_workers": self.args.dataloader_persistent_workers and is_training,
            "multiprocessing_context": self.args.dataloader_multiprocessing_context,
            "prefetch_factor": self.args.dataloader_prefetch_factor,
            # a loader without a generator draws from the global one whenever it starts, and so would change the
            # dropout of a run that evaluates more often, has a noiser, or was resumed
            "generator": torch.Generator().manual_seed(self._data_seed),
        }
        drop_last = is_training and self.args.dataloader_drop_last
        if isinstance(dataset, IterableDataset):
            return DataLoader(dataset, batch_size=batch_size, drop_last=drop_last, **settings)
        if batch_sampler is not None:
            return DataLoader(KeyedRecords(dataset), batch_sampler=batch_sampler, **settings)
        sampler = sampler_fn(dataset)
        return DataLoader(
            KeyedRecords(dataset), batch_size=batch_size, sampler=sampler, drop_last=drop_last, **settings
        )

    def _sequence_encoder(self, is_training: bool) -> SequenceEncoder:
        sequence_encoder = copy.copy(self.data_collator.sequence_encoder)
        if not is_training:
            sequence_encoder.seed = self.args.eval_mask_seed  # the same windows whatever the run's seed
        return sequence_encoder

    @property
    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def _run_epoch(self, *args, epoch, **kwargs):
        # accelerate's set_epoch does not reach a sampler behind the batches that a resume skips
        if self._train_sampler is not None:
            self._train_sampler.set_epoch(epoch)
        return super()._run_epoch(*args, epoch=epoch, **kwargs)

    def _number_rows(self, batches: list[dict]) -> list[dict]:
        """Tell every row its index in the global batch, which keys its noise."""
        size = self.args.train_batch_size
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        return [
            {**batch, "row": global_rows(size, len(batch["input_ids"]), micro_step, world, rank)}
            for micro_step, batch in enumerate(batches)
        ]

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        # called once per step: the place to let the noiser move before the encoder does
        with self._clock("data"):
            batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and self.noiser is not None and self.state.global_step % self.args.encoder_steps == 0:
            self._noiser_phase()
        self._clock.start("encoder")
        return self._number_rows(batches), num_items

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor | None:
        """Masked residues of the whole update: all micro-batches, all processes. Exact before any mask is drawn."""
        if not batch_samples:
            return None
        budgets = sum(self.data_collator.mask_budget(batch["num_residues"]).sum() for batch in batch_samples)
        return self.accelerator.reduce(budgets.to(device), reduction="sum").clamp_min(1)

    # ---- Encoder ----

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Masked-LM loss of the encoder: the micro-batch's sum of cross-entropies ÷ masked residues of the update.

        Args:
            model (`nn.Module`): The encoder, wrapped where training is distributed.
            inputs (`dict[str, torch.Tensor]`): What the collator's CPU stage returned, with `row` `(batch,)`.
            return_outputs (`bool`, *optional*, defaults to `False`): Whether to return the encoder's output, too.
            num_items_in_batch (`torch.Tensor`, *optional*): Masked residues of the update; without it, of this batch.

        Returns:
            `torch.Tensor`, a scalar, or that and the encoder's output.
        """
        keys = row_keys(self.args.seed, ENCODER_PHASE, self.state.global_step, inputs["row"])
        noised = self.data_collator.corrupt(inputs, keys)
        outputs = model(input_ids=noised.input_ids, attention_mask=noised.attention_mask)
        losses = token_losses(outputs.logits, noised.labels)
        self._statistics.update(noised, losses, inputs["input_ids"], inputs["residue_mask"])
        loss = self._normalised(losses, noised, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _normalised(self, losses: torch.Tensor, noised: NoisedBatch, num_items: torch.Tensor | None) -> torch.Tensor:
        if num_items is None:
            return losses.sum() / (noised.labels != IGNORE_INDEX).sum().clamp_min(1)
        # times the processes, because DistributedDataParallel takes the mean of their gradients
        return losses.sum() / num_items * self.accelerator.num_processes

    # ---- Noiser ----

    def _noiser_phase(self) -> None:
        """`noiser_steps` updates of the noiser; which ones is a function of the encoder's step alone."""
        first = self.state.global_step // self.args.encoder_steps * self.args.noiser_steps
        if self._noiser_iterator is None:
            self._noiser_iterator = self._noiser_batches(first)
        with _frozen(self.model), self._dropout_of_its_own(first):
            self.noiser.train()
            for update in range(first, first + self.args.noiser_steps):
                with self._clock("data"):
                    batches = [next(self._noiser_iterator) for _ in range(self.args.gradient_accumulation_steps)]
                with self._clock("noiser"):
                    self._noiser_update(update, self._number_rows(batches))
            self.noiser.eval()

    @contextlib.contextmanager
    def _dropout_of_its_own(self, update: int) -> Iterator[None]:
        # a noiser with dropout must not shift the encoder's, which draws from the global generator
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.args.seed + update)
            yield

    def _noiser_update(self, update: int, batches: list[dict]) -> None:
        """One step up the masked-LM loss (`update_noiser` of Algorithm 4)."""
        num_items = self._get_num_items_in_batch(batches, self.args.device)
        total = torch.zeros((), device=self.args.device)
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self._noiser_wrapped):
                loss = self._noiser_loss(self._prepare_inputs(batch), update, num_items)
                self.accelerator.backward(-loss)
            total += loss.detach()
        clip = self.args.noiser_max_grad_norm or math.inf
        grad_norm = self.accelerator.clip_grad_norm_(self.noiser.parameters(), clip)
        self.optimizer.step()
        self.noiser.zero_grad(set_to_none=True)
        self._noiser_figures.add(noiser_loss=total, noiser_grad_norm=grad_norm)

    def _noiser_loss(self, inputs: dict[str, torch.Tensor], update: int, num_items: torch.Tensor) -> torch.Tensor:
        keys = row_keys(self.args.seed, NOISER_PHASE, update, inputs["row"])
        noised = self.data_collator.corrupt(inputs, keys, differentiable=True, noiser=self._noiser_wrapped)
        embeddings = self.model.get_input_embeddings().weight  # (vocab, hidden)
        outputs = self.model(
            inputs_embeds=noised.one_hot.to(embeddings.dtype) @ embeddings, attention_mask=noised.attention_mask
        )
        return self._normalised(token_losses(outputs.logits, noised.labels), noised, num_items)

    def _noiser_batches(self, first_update: int) -> Iterator[dict]:
        """The noiser's micro-batches from any update on.

        Of an iterable dataset the noiser reads a shuffled copy (one that cannot shuffle, as it comes), which starts
        anew when a run is resumed.
        """
        if not isinstance(self.train_dataset, IterableDataset):
            sampler = NoiserBatchSampler(
                len(self.train_dataset),
                self._data_seed,
                self.args.train_batch_size,
                self.args.gradient_accumulation_steps,
                self.accelerator.num_processes,
                self.accelerator.process_index,
                first_update,
            )
            yield from self._plain_loader(self.train_dataset, self.args.train_batch_size, batch_sampler=sampler)
            return
        dataset = self.train_dataset
        if isinstance(dataset, datasets.IterableDataset):
            shift = 1 + self.accelerator.process_index
            dataset = dataset.shuffle(seed=self._data_seed + shift, buffer_size=10_000)
        for epoch in range(first_update, 1 << 62):
            if isinstance(dataset, datasets.IterableDataset):
                dataset.set_epoch(epoch)
            yield from self._plain_loader(dataset, self.args.train_batch_size)

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

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.noiser is not None:
            self._noiser_wrapped = self.accelerator.prepare_model(self.noiser)
            self.noiser.eval()  # it is in training mode in its own phase only
        self._noiser_iterator = None
        if self.is_world_process_zero():
            self._metrics_file.begin(self.state.global_step if resume_from_checkpoint is not None else None)
        return prepared

    def _finalize_training(self, *args, **kwargs):
        self._noiser_iterator = None  # and with it the workers of the noiser's stream
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
        was_training = self.model.training
        self.model.eval()
        if self.noiser is not None:
            self.noiser.eval()
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
        self.model.train(was_training)
        proteins = figures.pop("proteins")
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        return EvalLoopOutput(predictions=None, label_ids=None, metrics=metrics, num_samples=proteins)

    def _eval_batches(self, dataloader) -> Iterator[dict[str, torch.Tensor]]:
        """Batches on the device with the rows' positions, without the rows that pad the last round of processes."""
        size, world, rank = self.args.eval_batch_size, self.accelerator.num_processes, self.accelerator.process_index
        streamed = isinstance(dataloader.dataset, IterableDataset)
        for step, batch in enumerate(dataloader):
            rows = global_rows(size, len(batch["input_ids"]), step, world, rank)
            batch = self._prepare_inputs({**batch, "row": rows})
            if not streamed:
                real = batch["row"] < len(dataloader.dataset)
                batch = {name: tensor[real] for name, tensor in batch.items()}
            if len(batch["row"]):
                yield batch
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
        return super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log to the trackers and to `metrics.jsonl`; training logs get the figures of the masks, too."""
        if "loss" in logs and "learning_rate" in logs:
            logs = {**logs, **self._training_figures()}
        super().log(logs, start_time)
        if self.is_world_process_zero():
            self._metrics_file.append(self.state.log_history[-1])

    def _training_figures(self) -> dict[str, float]:
        figures = self._statistics.figures(lambda x: self.accelerator.reduce(x, reduction="sum"))
        seconds = self._clock.read()
        residues = figures.pop("residues", 0.0)
        figures["residues_per_second"] = residues / max(sum(seconds.values()), 1e-9)
        figures.update({f"seconds_{phase}": value for phase, value in seconds.items()})
        if self.noiser is not None:
            # each process holds its own share of the loss, times the number of processes
            figures.update(self._noiser_figures.read(lambda x: self.accelerator.reduce(x, reduction="mean")))
            figures["noiser_learning_rate"] = self.optimizer.param_groups[-1]["lr"]
        return figures

    # ---- Saving and loading ----

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Encoder and tokenizer at the root, the noiser in `noiser/`, the card, the arguments as JSON.

        The stock trainer's `training_args.bin` is not written: it is a pickle and may hold a token.
        """
        if not self.args.should_save:
            return
        output_dir = self.args.output_dir if output_dir is None else output_dir
        os.makedirs(output_dir, exist_ok=True)
        self.model.save_pretrained(output_dir, state_dict=state_dict)
        tokenizer = self.processing_class if self.processing_class is not None else self.data_collator.tokenizer
        tokenizer.save_pretrained(output_dir)
        if self.noiser is not None:
            self.noiser.save_pretrained(os.path.join(output_dir, NOISER_FOLDER))
        with open(os.path.join(output_dir, ARGUMENTS_FILE), "w", encoding="utf-8") as file:
            json.dump(self.args.to_dict(), file, indent=2, sort_keys=True, default=str)
        model_card.write(self, output_dir)

    def create_model_card(self, *args, **kwargs) -> None:
        """Write the card of this package into the output folder."""
        if self.is_world_process_zero():
            model_card.write(self, self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_noiser(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_noiser(self.state.best_model_checkpoint)
        self.loaded_best_step = self.state.best_global_step

    def _load_noiser(self, checkpoint: str) -> None:
        if self.noiser is None:
            return
        folder = os.path.join(checkpoint, NOISER_FOLDER)
        if not os.path.isdir(folder):
            raise ValueError(f"the checkpoint {checkpoint} has no {NOISER_FOLDER}/ folder, and this run has a noiser")
        self.noiser.load_state_dict(NoiserModel.from_pretrained(folder).state_dict())


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """No gradients of the module's parameters, and no dropout, for a while."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    was_training = module.training
    for parameter in trainable:
        parameter.requires_grad_(False)
    module.eval()
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        module.train(was_training)


def _check_fit(model: PreTrainedModel, args, data_collator) -> None:
    if not isinstance(args, AdversarialMLMTrainingArguments):
        raise ValueError(f"args must be AdversarialMLMTrainingArguments, got {type(args).__name__}")
    if not isinstance(data_collator, DataCollatorForRandomMLM):
        raise ValueError(
            "data_collator must be DataCollatorForAdversarialMLM or DataCollatorForRandomMLM, "
            f"got {type(data_collator).__name__}"
        )
    if args.device.type == "mps":
        raise ValueError("the MPS device is not supported, as it has no float64; set use_cpu")
    if args.n_gpu > 1:
        raise ValueError(f"{args.n_gpu} GPUs are visible to one process; start the run with accelerate launch instead")
    vocabulary, max_length = data_collator.vocabulary, data_collator.sequence_encoder.max_length
    embeddings = model.get_input_embeddings().num_embeddings
    if embeddings != vocabulary.vocab_size:
        raise ValueError(
            f"the encoder has {embeddings} token embeddings, but the tokenizer has {vocabulary.vocab_size} tokens"
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise ValueError(f"max_length is {max_length}, but the encoder has {positions} positions")
