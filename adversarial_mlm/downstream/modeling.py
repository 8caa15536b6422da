"""An encoder with a head for a downstream task, as one model to save and load.

One class serves all tasks. The configuration names the head and the loss.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, configuration_utils
from transformers import initialization as init
from transformers.utils import ModelOutput

from adversarial_mlm.downstream.definitions import KINDS
from adversarial_mlm.masking.losses import IGNORE_INDEX, token_losses
from adversarial_mlm.models.encoders import check_row_length
from adversarial_mlm.models.loading import new_backbone

STOCK_HEAD = "hf"
"""The head of transformers, for any kind of task, see `stock_heads.py`."""

HEADS = {
    "regression": ("attention", "mean", "cls"),
    "classification": ("attention", "mean", "cls"),
    "token_classification": ("conv", "linear"),
}
"""The heads of this package by kind of task; the first is the default."""

_DROPOUT = {"attention": 0.5, "mean": 0.5}  # as in the code of TAPE's paper; TAPE's PyTorch heads have no dropout


class TaskModelConfig(PreTrainedConfig):
    """Configuration of a [`ProteinTaskModel`].

    Args:
        encoder_config (`PreTrainedConfig` or `dict`, *optional*): Configuration of the encoder; by default a BERT's.
        kind (`str`, *optional*, defaults to `"regression"`): `"regression"`, `"classification"` (of proteins) or
            `"token_classification"` (of residues).
        head (`str`, *optional*): For proteins, one of

            - `"attention"` (default): softmax over the residues, layer norm and two layers, as in the code of TAPE's
              paper;
            - `"mean"`: the same over the mean of the residues;
            - `"cls"`: TAPE's weight-normed MLP over a tanh layer on the first token. That layer is newly initialised,
              because masked-language modelling does not train it.

            For residues `"conv"` (default: TAPE's batch norm and two weight-normed convolutions) or `"linear"`.
            `"hf"` is for a [`StockHeadModel`][adversarial_mlm.downstream.stock_heads.StockHeadModel] only.
        id2label (`dict[int, str]`, *optional*): Names of the classes; with `num_labels` only, they are numbered. A
            regression has one output.
        head_size (`int`, *optional*, defaults to 512): Units of the head's hidden layer, if it has one.
        head_dropout (`float`, *optional*): Dropout before the last layer; by default 0.5 for `attention` and `mean`,
            and 0 for the others.
        label_mean (`float`, *optional*, defaults to 0.0): Mean of a regression's training labels. The head works with
            labels of mean 0 and standard deviation 1; the model's output is in the task's units.
        label_std (`float`, *optional*, defaults to 1.0): Standard deviation of the training labels.
        max_length (`int`, *optional*): Largest number of tokens in a row during fine-tuning.

    Raises:
        ValueError: If the kind is unknown, the head does not suit it, or a number is out of range.
    """

    model_type = "adversarial_mlm_task"
    sub_configs: ClassVar[dict] = {"encoder_config": AutoConfig}
    if hasattr(configuration_utils, "SubConfigSpec"):  # transformers 5.19 lacks it, and writes a longer file
        sub_configs_defaults: ClassVar[dict] = {
            "encoder_config": configuration_utils.SubConfigSpec(AutoConfig, model_type="bert")
        }

    encoder_config: dict | PreTrainedConfig | None = None
    kind: str = "regression"
    head: str | None = None
    head_size: int = 512
    head_dropout: float | None = None
    label_mean: float = 0.0
    label_std: float = 1.0
    max_length: int | None = None

    def __post_init__(self, **kwargs):
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got '{self.kind}'")
        self.head = HEADS[self.kind][0] if self.head is None else self.head
        check_head(self.kind, self.head)
        self.head_dropout = _DROPOUT.get(self.head, 0.0) if self.head_dropout is None else self.head_dropout
        if not 0 <= self.head_dropout < 1:
            raise ValueError(f"head_dropout must be at least 0 and below 1, got {self.head_dropout}")
        if self.head_size < 1:
            raise ValueError(f"head_size must be at least 1, got {self.head_size}")
        if not self.label_std > 0:
            raise ValueError(f"label_std must be positive, got {self.label_std}")
        if not isinstance(self.encoder_config, PreTrainedConfig):
            self.encoder_config = AutoConfig.for_model(**{"model_type": "bert", **(self.encoder_config or {})})
        super().__post_init__(**kwargs)
        if self.kind == "regression":
            self.num_labels = 1


def check_head(kind: str, head: str) -> None:
    """Check that a head suits a kind of task.

    Raises:
        ValueError: If it does not.
    """
    if head not in (*HEADS[kind], STOCK_HEAD):
        raise ValueError(
            f"head must be one of {', '.join(HEADS[kind])} for {kind}, got '{head}'; or {STOCK_HEAD} for that of "
            "transformers"
        )


@dataclass
class TaskModelOutput(ModelOutput):
    """Output of a [`ProteinTaskModel`].

    Attributes:
        loss (`torch.Tensor`, *optional*): A scalar, if labels are given.
        logits (`torch.Tensor`): `(batch,)` in the task's units for regression, `(batch, classes)` for classes of
            proteins, and `(batch, length, classes)` for residues, undefined at other tokens. At least float32.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None


class _ResidueMean(nn.Module):
    def forward(self, hidden: torch.Tensor, residues: torch.Tensor) -> torch.Tensor:
        weights = residues.to(hidden.dtype) / residues.sum(1, keepdim=True)
        return (weights.unsqueeze(1) @ hidden).squeeze(1)  # (batch, hidden)


class _ResidueAttention(nn.Module):
    """A mean over the residues with learned weights; the score of a residue depends on its own vector only."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.score = nn.Linear(hidden_size, 1)

    def forward(self, hidden: torch.Tensor, residues: torch.Tensor) -> torch.Tensor:
        scores = self.score(self.norm(hidden)).squeeze(-1).float()  # (batch, length)
        weights = scores.masked_fill(~residues, -torch.inf).softmax(-1).to(hidden.dtype)
        return (weights.unsqueeze(1) @ hidden).squeeze(1)  # (batch, hidden)


class _FirstToken(nn.Module):
    def __init__(self, hidden_size: int):
        super().__init__()
        self.dense = nn.Linear(hidden_size, hidden_size)

    def forward(self, hidden: torch.Tensor, residues: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(hidden[:, 0]))  # (batch, hidden)


def _weight_normed(layer: nn.Module) -> nn.Module:
    """Weight normalization with one norm for the whole matrix."""
    return weight_norm(layer, dim=None)  # type: ignore[arg-type]  # None is documented, its annotation is missing


def _outputs_and_dropout(config: TaskModelConfig) -> tuple[int, float]:
    """Return both numbers of a head. A configuration has them once it is built."""
    if config.num_labels is None or config.head_dropout is None:
        raise ValueError("id2label or head_dropout of the configuration was set to None")
    return config.num_labels, config.head_dropout


class PooledHead(nn.Module):
    """Pool a protein into one vector, then apply two layers.

    Args:
        config ([`TaskModelConfig`]): The model's configuration.
        hidden_size (`int`): Width of the encoder's output.
    """

    def __init__(self, config: TaskModelConfig, hidden_size: int):
        super().__init__()
        outputs, dropout_rate = _outputs_and_dropout(config)
        first, last = nn.Linear(hidden_size, config.head_size), nn.Linear(config.head_size, outputs)
        dropout = nn.Dropout(dropout_rate)
        self.pooling: nn.Module
        if config.head == "cls":
            self.pooling = _FirstToken(hidden_size)
            self.layers = nn.Sequential(_weight_normed(first), nn.ReLU(), dropout, _weight_normed(last))
        else:
            self.pooling = _ResidueAttention(hidden_size) if config.head == "attention" else _ResidueMean()
            self.layers = nn.Sequential(nn.LayerNorm(hidden_size), first, nn.ReLU(), dropout, last)

    def forward(self, hidden: torch.Tensor, residues: torch.Tensor) -> torch.Tensor:
        """Map (batch, length, hidden) and (batch, length) to (batch, outputs)."""
        return self.layers(self.pooling(hidden, residues))


class ConvolutionHead(nn.Module):
    """TAPE's head for residues. Other tokens are zero in both layers, and do not enter the batch norm.

    Args:
        config ([`TaskModelConfig`]): The model's configuration.
        hidden_size (`int`): Width of the encoder's output.
    """

    def __init__(self, config: TaskModelConfig, hidden_size: int):
        super().__init__()
        outputs, dropout_rate = _outputs_and_dropout(config)
        self.norm = nn.BatchNorm1d(hidden_size)
        self.first = _weight_normed(nn.Conv1d(hidden_size, config.head_size, 5, padding=2))
        self.dropout = nn.Dropout(dropout_rate)
        self.last = _weight_normed(nn.Conv1d(config.head_size, outputs, 3, padding=1))

    def forward(self, hidden: torch.Tensor, residues: torch.Tensor) -> torch.Tensor:
        """Map (batch, length, hidden) and (batch, length) to (batch, length, outputs)."""
        normed = hidden.new_zeros(hidden.shape)
        normed[residues] = self._normalise(hidden[residues]).to(hidden.dtype)
        mask = residues.unsqueeze(1)
        # masked again: the first layer writes beyond the end of a row, which the second would read
        inner = torch.relu(self.first(normed.transpose(1, 2))) * mask
        return self.last(self.dropout(inner)).transpose(1, 2)

    def _normalise(self, rows: torch.Tensor) -> torch.Tensor:
        if self.training and len(rows) == 1:  # one row has no variance
            norm = self.norm
            return nn.functional.batch_norm(rows, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        return self.norm(rows)


class LinearHead(nn.Module):
    """One linear layer, the same for every residue.

    Args:
        config ([`TaskModelConfig`]): The model's configuration.
        hidden_size (`int`): Width of the encoder's output.
    """

    def __init__(self, config: TaskModelConfig, hidden_size: int):
        super().__init__()
        outputs, dropout_rate = _outputs_and_dropout(config)
        self.dropout = nn.Dropout(dropout_rate)
        self.last = nn.Linear(hidden_size, outputs)

    def forward(self, hidden: torch.Tensor, residues: torch.Tensor) -> torch.Tensor:
        """Map (batch, length, hidden) to (batch, length, outputs)."""
        return self.last(self.dropout(hidden))


_HEAD_CLASSES: dict[str, type[PooledHead | ConvolutionHead | LinearHead]] = {
    "attention": PooledHead,
    "mean": PooledHead,
    "cls": PooledHead,
    "conv": ConvolutionHead,
    "linear": LinearHead,
}


def scored_items(labels: torch.Tensor) -> torch.Tensor:
    """Count the labels in the loss: all numbers, and all classes that are not negative; a scalar, int64."""
    return torch.tensor(labels.numel()) if labels.is_floating_point() else (labels >= 0).sum()


class ProteinTaskModel(PreTrainedModel):
    """An encoder with a head. Any encoder that `AutoModel` loads works, with its own tokenizer.

    Predictions for a protein do not depend on padding. After importing this module, `AutoModel` also loads saved
    models of this class.

    Args:
        config ([`TaskModelConfig`]): Encoder, head and task.

    Attributes:
        encoder_dropout (`bool`): Whether the encoder uses its dropout in training; initially `True`, not saved.

    Raises:
        ValueError: If the encoder's configuration has no `hidden_size`.
    """

    config_class = TaskModelConfig
    base_model_prefix = "task_model"
    main_input_name = "input_ids"
    accepts_loss_kwargs = True  # for Trainer: `loss` is divided by num_items_in_batch
    # the encoder decides which of them it supports
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True

    def __init__(self, config: TaskModelConfig):
        super().__init__(config)
        self.encoder_dropout = True
        encoder_config, head = config.encoder_config, config.head
        if not isinstance(encoder_config, PreTrainedConfig) or head is None:
            raise ValueError("encoder_config or head of the configuration was set to None")
        hidden_size = getattr(encoder_config, "hidden_size", None)
        if hidden_size is None:
            raise ValueError(
                f"an encoder of the type {encoder_config.model_type} has no hidden_size: use another encoder"
            )
        self.encoder = new_backbone(encoder_config)
        if head not in _HEAD_CLASSES:
            raise ValueError(f"head is '{head}', which is for a StockHeadModel only")
        self.head = _HEAD_CLASSES[head](config, hidden_size)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the head by Glorot's method, as in the code of TAPE's paper. The encoder has its own method."""
        if hasattr(module, "parametrizations"):  # weight norm
            direction = module.get_parameter("parametrizations.weight.original1")
            if not getattr(direction, "_is_hf_initialized", False):
                module.weight = nn.init.xavier_uniform_(torch.empty_like(direction))
        elif isinstance(module, (nn.Linear, nn.Conv1d)):
            init.xavier_uniform_(module.weight)
        elif isinstance(module, (nn.LayerNorm, nn.BatchNorm1d)):
            super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv1d)) and module.bias is not None:
            init.zeros_(module.bias)

    def load_encoder(self, weights: dict[str, torch.Tensor]) -> None:
        """Load the weights of an encoder without a head."""
        self.encoder.load_state_dict(weights)

    def train(self, mode: bool = True) -> "ProteinTaskModel":
        """Set the mode. The encoder stays in evaluation mode if it is frozen or has no `encoder_dropout`."""
        super().train(mode)
        trained = any(parameter.requires_grad for parameter in self.encoder.parameters())
        self.encoder.train(mode and trained and self.encoder_dropout)
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        residue_mask: torch.Tensor,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> TaskModelOutput:
        """Predict, and compute the loss if labels are given. The arguments come from [`DataCollatorForTask`].

        Args:
            input_ids (`torch.Tensor` of shape `(batch, length)`): Tokens.
            attention_mask (`torch.Tensor` of shape `(batch, length)`): 0 at padding.
            residue_mask (`torch.Tensor` of shape `(batch, length)`, bool): True at residues; every row needs at least
                one.
            labels (`torch.Tensor` of shape `(batch,)` or `(batch, length)`, *optional*): Numbers in the task's units,
                or classes. Negative classes do not count.
            num_items_in_batch (`int`, *optional*): Number by which the sum of the losses is divided; by default the
                number of labels in this batch that count.

        Returns:
            [`TaskModelOutput`]. The loss of a regression is the squared error, in standard deviations of the training
            labels; otherwise it is the cross-entropy in nats.
        """
        scores = self._scores(input_ids, attention_mask, residue_mask)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        loss = None
        if labels is not None:
            items = scored_items(labels) if num_items_in_batch is None else num_items_in_batch
            loss = self._losses(scores, labels).sum() / torch.as_tensor(items, device=scores.device).clamp_min(1)
        if self.config.kind == "regression":
            scores = scores.squeeze(-1) * self.config.label_std + self.config.label_mean
        return TaskModelOutput(loss=loss, logits=scores)

    def _scores(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, residue_mask: torch.Tensor
    ) -> torch.Tensor:
        check_row_length(self.encoder, input_ids.shape[1])
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.head(hidden, residue_mask)

    def _losses(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.config.kind == "regression":
            return (scores.squeeze(-1) - (labels - self.config.label_mean) / self.config.label_std) ** 2
        labels = labels.where(labels >= 0, IGNORE_INDEX)
        if self.config.kind == "classification":
            scores, labels = scores.unsqueeze(1), labels.unsqueeze(1)
        return token_losses(scores, labels)


AutoConfig.register(TaskModelConfig.model_type, TaskModelConfig, exist_ok=True)
AutoModel.register(TaskModelConfig, ProteinTaskModel, exist_ok=True)
