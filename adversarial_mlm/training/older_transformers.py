"""What the trainer needs of transformers, and versions before 5.23 lack."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

__all__ = ["OlderArguments", "StockArguments"]

_OLDER_NAMES = {
    "activation_checkpointing": "gradient_checkpointing",
    "activation_checkpointing_kwargs": "gradient_checkpointing_kwargs",
}


@dataclass
class OlderArguments(TrainingArguments):
    """`TrainingArguments` before 5.23, which also take two names of 5.23, and pass them on under the older ones.

    Args:
        activation_checkpointing (`bool`, *optional*): The newer name of `gradient_checkpointing`, which decides if
            this is `None`.
        activation_checkpointing_kwargs (`dict` or `str`, *optional*): As well for `gradient_checkpointing_kwargs`.
    """

    activation_checkpointing: bool | None = None
    activation_checkpointing_kwargs: dict[str, Any] | str | None = None

    def __post_init__(self):
        super().__post_init__()
        for name, older in _OLDER_NAMES.items():
            setattr(self, name, getattr(self, older))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _OLDER_NAMES and value is not None:
            super().__setattr__(_OLDER_NAMES[name], value)


if TYPE_CHECKING or hasattr(TrainingArguments, "activation_checkpointing"):
    StockArguments = TrainingArguments
else:
    StockArguments = OlderArguments
