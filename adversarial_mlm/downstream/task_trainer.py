"""A `transformers.Trainer` for [`ProteinTaskModel`], and predictions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from adversarial_mlm.downstream.finetune_settings import FinetuneSettings
from adversarial_mlm.downstream.modeling import ProteinTaskModel, scored_items
from adversarial_mlm.downstream.scoring import headline_score
from adversarial_mlm.inference.batches import DataCollatorForTask
from adversarial_mlm.models.encoders import below_and_layers
from adversarial_mlm.utils.errors import DivergenceError

_WORST = -1.0  # score if the correlation is not defined


def predict(
    model: ProteinTaskModel, sequences: Sequence[str], collator: DataCollatorForTask, batch_size: int
) -> np.ndarray | list[np.ndarray]:
    """Predict a task's labels without dropout. The order of the proteins does not matter.

    Args:
        model ([`ProteinTaskModel`]): The model, on any device.
        sequences (`Sequence[str]`): The proteins.
        collator ([`DataCollatorForTask`]): A collator for the model's tokenizer and kind of task.
        batch_size (`int`): Proteins in a batch.

    Returns:
        In the order of `sequences`: for regression `np.ndarray` of shape `(proteins,)`, float64, in the task's units;
        for classes of proteins the same in int64; for residues a list of `np.ndarray` of shape `(residues read,)`,
        int64.

    Raises:
        DivergenceError: If an output is not finite.
    """
    was_training = model.training
    model.eval()
    results: list = [None] * len(sequences)
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = collator([{"sequence": sequences[row]} for row in rows])
        with torch.no_grad():
            logits = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits.cpu()
        for row, found in zip(rows, _to_predictions(model.config.kind, logits, batch["residue_mask"]), strict=True):
            results[row] = found
    model.train(was_training)
    if model.config.kind == "token_classification":
        return results
    return np.array(results, dtype=np.float64 if model.config.kind == "regression" else np.int64)


def _to_predictions(kind: str, logits: torch.Tensor, residue_mask: torch.Tensor) -> list:
    used = logits[residue_mask] if kind == "token_classification" else logits
    if not used.isfinite().all():
        raise DivergenceError("the model's output is not finite: try a lower learning_rate or more warmup_steps")
    if kind == "regression":
        return logits.tolist()
    if kind == "classification":
        return logits.argmax(-1).tolist()
    return [row.numpy() for row in used.argmax(-1).split(residue_mask.sum(1).tolist())]


def parameter_groups(model: ProteinTaskModel, settings: FinetuneSettings) -> list[dict]:
    """Group trainable parameters by learning rate and weight decay, for an optimizer.

    Matrices have weight decay; vectors (norms, biases, gains of weight norm) do not.

    Args:
        model ([`ProteinTaskModel`]): The model.
        settings ([`FinetuneSettings`]): Learning rate, its decay by layer, and weight decay.

    Raises:
        ValueError: If there is a decay by layer, but the encoder's layers share their weights.
    """
    decay = settings.encoder_learning_rate_decay
    depths = _depths(model) if decay != 1 else {}
    groups: dict[tuple, list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            key = depths.get(parameter, 0), parameter.ndim >= 2
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.learning_rate * decay**depth,
            "weight_decay": settings.weight_decay if is_matrix else 0.0,
        }
        for (depth, is_matrix), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _depths(model: ProteinTaskModel) -> dict[nn.Parameter, int]:
    """Return the depth of each parameter of layers and embeddings: 1 in the encoder's last layer."""
    below, layers = below_and_layers(model.encoder)
    if not layers:
        raise ValueError(
            f"encoder_learning_rate_decay is not 1, but the layers of a {type(model.encoder).__name__} share their "
            "weights: set it to 1"
        )
    depths = {}
    for depth, modules in enumerate([*([layer] for layer in reversed(layers)), below], start=1):
        depths.update({parameter: depth for module in modules for parameter in module.parameters()})
    return depths


class _QuietEarlyStopping(EarlyStoppingCallback):
    """Early stopping without the stock checks of the training arguments."""

    def on_train_begin(self, args, state, control, **kwargs):
        pass


class TaskTrainer(Trainer):
    """Fine-tune, evaluate by [`headline_score`] on valid, and keep the best weights in memory.

    Nothing is written during training: a killed run starts again from the beginning.

    Args:
        model ([`ProteinTaskModel`]): The model to train.
        settings ([`FinetuneSettings`]): Options of fine-tuning.
        collator ([`DataCollatorForTask`]): A collator for the encoder's tokenizer.
        train (`datasets.Dataset`): Training data with the columns `sequence` and `label`.
        valid (`datasets.Dataset`): Validation data with the same columns.
        output_dir (`str`): A folder for trackers.

    Raises:
        ValueError: If there is more than one process.
    """

    model: ProteinTaskModel
    data_collator: DataCollatorForTask

    def __init__(
        self,
        model: ProteinTaskModel,
        settings: FinetuneSettings,
        collator: DataCollatorForTask,
        train: Dataset,
        valid: Dataset,
        output_dir: str,
    ):
        self.settings = settings
        self.best_weights: dict[str, torch.Tensor] = {}
        self.valid_sequences, self.valid_labels = valid["sequence"][:], valid["label"][:]
        args = _training_arguments(settings, len(train), output_dir)
        if args.world_size > 1:
            raise ValueError(
                f"fine-tuning runs in one process, but was started with {args.world_size}: use accelerate launch "
                "--num_processes 1"
            )
        args._n_gpu = min(args.n_gpu, 1)  # Trainer would otherwise use all GPUs
        train = train.select_columns(["sequence", "label"])
        train = train.add_column("length", [min(len(row), collator.max_residues) for row in train["sequence"]])
        super().__init__(model, args, data_collator=collator, train_dataset=train, eval_dataset=valid)
        self.remove_callback(PrinterCallback)
        self.add_callback(_QuietEarlyStopping(settings.patience))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Create AdamW over [`parameter_groups`]."""
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        self.optimizer = optimizer_class(parameter_groups(self.model, self.settings), **options)
        return self.optimizer

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> torch.Tensor:
        # the stock method skips regression labels of -100 and counts the class -1
        return sum((scored_items(batch["labels"]) for batch in batch_samples), start=torch.tensor(0))

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Run the step of `Trainer`, and raise an error if the loss is not finite."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not loss.isfinite():
            raise DivergenceError(
                f"the loss is {loss.item()} in update {self.state.global_step + 1}: try a lower learning_rate or more "
                "warmup_steps"
            )
        return loss

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """Return the score on valid as `eval_score`; -1 if it is not defined."""
        found = predict(self.model, self.valid_sequences, self.data_collator, self.args.eval_batch_size)
        score = headline_score(self.model.config.kind, found, self.valid_labels)
        metrics = {"eval_score": _WORST if math.isnan(score) else score}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save_checkpoint(self, model, trial) -> None:
        # `Trainer` calls this at every new best score
        self.best_weights = {name: tensor.to("cpu", copy=True) for name, tensor in self.model.state_dict().items()}

    def load_best(self) -> None:
        """Load the weights of the best evaluation."""
        self.model.load_state_dict(self.best_weights)

    @property
    def best_step(self) -> int:
        """The update whose weights are the best."""
        if self.state.best_global_step is None:
            raise ValueError("the model was not evaluated during training")
        return self.state.best_global_step

    def history(self) -> list[dict[str, float]]:
        """Return `step`, `epoch`, `train_loss` (mean since the last one) and `validation_score` of each evaluation."""
        names = {"loss": "train_loss", "eval_score": "validation_score"}
        by_step: dict[float, dict[str, float]] = {}
        for entry in self.state.log_history:
            for name, own_name in names.items():
                if name in entry:
                    row = by_step.setdefault(entry["step"], {"step": entry["step"], "epoch": entry["epoch"]})
                    row[own_name] = entry[name]
        return list(by_step.values())


def _training_arguments(settings: FinetuneSettings, proteins: int, output_dir: str) -> TrainingArguments:
    steps_per_epoch = math.ceil(math.ceil(proteins / settings.batch_size) / settings.gradient_accumulation)
    most_steps = settings.max_epochs * steps_per_epoch
    when: dict[str, Any] = {"strategy": "epoch"}
    if settings.eval_steps is not None:
        when = {"strategy": "steps", "steps": settings.eval_steps}
    return TrainingArguments(
        output_dir=output_dir,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        max_steps=min(most_steps, settings.max_steps or most_steps),
        warmup_steps=settings.warmup_steps,
        lr_scheduler_type="constant_with_warmup",
        max_grad_norm=settings.max_grad_norm,
        bf16=settings.bf16,
        seed=settings.seed,
        train_sampling_strategy="group_by_length" if settings.length_bucketing else "random",
        remove_unused_columns=False,  # the sampler needs the column `length`
        **{f"{what}_{name}": value for what in ("eval", "logging") for name, value in when.items()},
        save_strategy="best",
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
        logging_nan_inf_filter=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=settings.report_to,
    )
