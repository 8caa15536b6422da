"""Options of fine-tuning, and their checks."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adversarial_mlm.models.adapters import lora_settings

_DEFAULT_MAX_LENGTH = 512


@dataclass(frozen=True)
class FinetuneSettings:
    """Options of fine-tuning an encoder on a task. An update uses `batch_size * gradient_accumulation` proteins.

    The learning rate rises during the warm-up and is then constant, as in TAPE, because early stopping leaves the
    length of a run open.

    Args:
        head (`str`, *optional*): For proteins `attention` (the default), `mean` or `cls`; for residues `conv` (the
            default) or `linear`; or `hf` for the head of transformers, which loads without this package. See
            [`TaskModelConfig`].
        head_size (`int`, *optional*, defaults to 512): Units of the head's hidden layer.
        head_dropout (`float`, *optional*): Dropout of the head; by default 0.5 for `attention` and `mean`, else 0.
        learning_rate (`float`, *optional*, defaults to 1e-4): Learning rate of the head and of the encoder's top.
        encoder_learning_rate_decay (`float`, *optional*, defaults to 1.0): Factor on the learning rate for each layer
            further down: applied once for the last layer, and L + 1 times for the embeddings below L layers. Other
            encoder parameters, such as a final norm, have the full rate.
        weight_decay (`float`, *optional*, defaults to 0.01): AdamW's weight decay, for matrices only.
        batch_size (`int`, *optional*, defaults to 32): Proteins in a batch.
        gradient_accumulation (`int`, *optional*, defaults to 1): Batches in an update, weighted as one batch. The
            batch norm of the `conv` head uses each batch separately.
        max_epochs (`int`, *optional*, defaults to 30): Maximum number of epochs.
        max_steps (`int`, *optional*): Maximum number of updates.
        warmup_steps (`int`, *optional*, defaults to 100): Updates during which the learning rate rises from 0.
        patience (`int`, *optional*, defaults to 5): Stop after this many evaluations on valid without a new best. The
            best weights are kept.
        eval_steps (`int`, *optional*): Updates between two evaluations; by default one evaluation per epoch.
        max_length (`int`, *optional*): Largest number of tokens in a row; longer proteins are cut at the end. By
            default 512, or the encoder's number of positions if it is smaller.
        max_grad_norm (`float`, *optional*, defaults to 1.0): Gradient clipping; 0 for none.
        length_bucketing (`bool`, *optional*, defaults to `True`): Whether to batch proteins of similar length.
        frozen_encoder (`bool`, *optional*, defaults to `False`): Whether to train the head only.
        encoder_dropout (`bool`, *optional*, defaults to `True`): Whether the encoder uses its dropout in training. A
            frozen encoder never does.
        bf16 (`bool`, *optional*, defaults to `False`): Whether to train with bfloat16 autocast. Final predictions are
            in float32.
        peft (`str`, *optional*): `lora` trains adapters of the encoder, and the head, in place of all weights. The
            saved model has the adapters merged into it; they are also saved in `adapter/`.
        lora_rank (`int`, *optional*): Rank of the adapters; by default 8.
        lora_alpha (`float`, *optional*): Scale of the adapters, divided by the rank; by default 2 × `lora_rank`.
        lora_dropout (`float`, *optional*): Dropout of the adapters' inputs; by default 0.
        lora_target_modules (`list[str]`, *optional*): Last parts of the names of linear modules, or all-linear; by
            default the queries and values of BERT, ESM, RoBERTa and ModernBERT.
        seed (`int`, *optional*, defaults to 0): Seed of the head, the order of the proteins and dropout.
        report_to (`str`, *optional*, defaults to `"none"`): A tracker, as in `TrainingArguments`.

    Raises:
        ValueError: If a value has the wrong type, is out of range or has no effect; the message names the option.
    """

    head: str | None = None
    head_size: int = 512
    head_dropout: float | None = None
    learning_rate: float = 1e-4
    encoder_learning_rate_decay: float = 1.0
    weight_decay: float = 0.01
    batch_size: int = 32
    gradient_accumulation: int = 1
    max_epochs: int = 30
    max_steps: int | None = None
    warmup_steps: int = 100
    patience: int = 5
    eval_steps: int | None = None
    max_length: int | None = None
    max_grad_norm: float = 1.0
    length_bucketing: bool = True
    frozen_encoder: bool = False
    encoder_dropout: bool = True
    bf16: bool = False
    peft: str | None = None
    lora_rank: int | None = None
    lora_alpha: float | None = None
    lora_dropout: float | None = None
    lora_target_modules: list[str] = field(default_factory=list)
    seed: int = 0
    report_to: str = "none"

    def __post_init__(self):
        for option in dataclasses.fields(self):
            _check_type(option, getattr(self, option.name))
        at_least_1 = ("head_size", "batch_size", "gradient_accumulation", "max_epochs", "max_steps", "patience")
        for names, least in (
            ((*at_least_1, "eval_steps", "max_length"), 1),
            (("warmup_steps", "weight_decay", "max_grad_norm", "seed"), 0),
        ):
            for name in names:
                if getattr(self, name) is not None and not getattr(self, name) >= least:
                    raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 < self.encoder_learning_rate_decay <= 1:
            raise ValueError(
                f"encoder_learning_rate_decay must be above 0 and at most 1, got {self.encoder_learning_rate_decay}"
            )
        if self.head_dropout is not None and not 0 <= self.head_dropout < 1:
            raise ValueError(f"head_dropout must be at least 0 and below 1, got {self.head_dropout}")
        if self.head == "hf" and (self.head_size != type(self).head_size or self.head_dropout is not None):
            raise ValueError(
                "head_size or head_dropout is set, but has no effect with head hf, which takes its sizes from the "
                "encoder's configuration: remove it"
            )
        if lora_settings(self) is not None and self.frozen_encoder:
            raise ValueError(
                "frozen_encoder is set, but peft: lora trains adapters of the encoder: remove one of them"
            )
        if self.frozen_encoder and self.encoder_learning_rate_decay != 1:
            raise ValueError(
                "encoder_learning_rate_decay is set, but with frozen_encoder the encoder is not trained: remove one "
                "of them"
            )

    def replace(self, options: Mapping[str, Any]) -> "FinetuneSettings":
        """Return the settings with some options changed.

        Raises:
            ValueError: If an option is unknown, or as above.
        """
        known = [option.name for option in dataclasses.fields(self)]
        for name in options:
            if name not in known:
                raise ValueError(f"there is no option '{name}' of fine-tuning: choose one of {', '.join(known)}")
        return dataclasses.replace(self, **options)

    def row_length(self, positions: int | None) -> int:
        """Return the largest number of tokens in a row, for an encoder with `positions` positions (`None`: unlimited).

        Raises:
            ValueError: If `max_length` exceeds the number of positions.
        """
        if self.max_length is None:
            return _DEFAULT_MAX_LENGTH if positions is None else min(_DEFAULT_MAX_LENGTH, positions)
        if positions is not None and self.max_length > positions:
            raise ValueError(
                f"max_length is {self.max_length}, but the encoder has {positions} positions: use "
                f"--max_length {positions} or less"
            )
        return self.max_length


_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _check_type(option: dataclasses.Field, value: Any) -> None:
    if option.type == list[str]:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{option.name} must be a list of texts, got {value!r}")
        return
    wanted = next(kind for kind in (bool, int, float, str) if option.type in (kind, kind | None))
    if value is None and option.type != wanted:
        return
    fits = isinstance(value, (int, float) if wanted is float else wanted)
    fits = fits and (wanted is bool or not isinstance(value, bool))
    if not fits or (wanted is float and not math.isfinite(value)):
        raise ValueError(f"{option.name} must be {_TYPES[wanted]}, got {value!r}")
