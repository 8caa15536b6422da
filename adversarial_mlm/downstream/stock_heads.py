"""Fine-tuning with the heads of transformers. The result loads with `AutoModelFor...` alone, without this package."""

import copy
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init

from adversarial_mlm.downstream.modeling import STOCK_HEAD, ProteinTaskModel, TaskModelConfig
from adversarial_mlm.models.encoders import check_row_length

_PROBLEM_TYPES = {"regression": "regression", "classification": "single_label_classification"}


def check_stock_head(encoder_config: PreTrainedConfig, kind: str) -> None:
    """Check that transformers has a model with a head for an encoder.

    Raises:
        ValueError: If it has none.
    """
    mapping = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if kind == "token_classification":
        mapping = MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING
    if type(encoder_config) not in mapping:
        name = "ForTokenClassification" if kind == "token_classification" else "ForSequenceClassification"
        raise ValueError(
            f"head is {STOCK_HEAD}, but transformers has no model {name} for encoders of the type "
            f"{encoder_config.model_type}: leave out head"
        )


def _auto_class(kind: str) -> Any:
    return AutoModelForTokenClassification if kind == "token_classification" else AutoModelForSequenceClassification


class StockHeadModel(ProteinTaskModel):
    """A model of transformers with its own head, trained like other task models.

    Proteins are pooled as that model does it, special tokens included, mostly from the first token. A regression is
    trained on labels of mean 0 and standard deviation 1. When it is saved, both become part of its last layer.

    Args:
        config ([`TaskModelConfig`]): Encoder and task, with the head `hf`.
        stock (`PreTrainedModel`, *optional*): A model to use instead of a new one.

    Attributes:
        stock (`PreTrainedModel`): The model of transformers.

    Raises:
        ValueError: If transformers has no head for the encoder, or if a regression's head has no last linear layer.
    """

    def __init__(self, config: TaskModelConfig, stock: PreTrainedModel | None = None):
        if stock is None:
            stock = _new_stock(config)
        PreTrainedModel.__init__(self, config)
        self.encoder_dropout = True
        self.stock = stock
        # not a module of its own, because its weights are those of `stock`
        object.__setattr__(self, "encoder", stock.base_model)
        with init.no_init_weights():  # it has its weights
            self.post_init()

    def _scores(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, residue_mask: torch.Tensor
    ) -> torch.Tensor:
        check_row_length(self.encoder, input_ids.shape[1])
        return self.stock(input_ids=input_ids, attention_mask=attention_mask).logits

    def load_encoder(self, weights: dict[str, torch.Tensor]) -> None:
        """Load the weights of an encoder without a head. A pooler that they lack keeps its fresh weights.

        Raises:
            ValueError: If other weights differ.
        """
        missing, unexpected = self.encoder.load_state_dict(weights, strict=False)
        wrong = [name for name in missing if not name.startswith("pooler.")] + list(unexpected)
        if wrong:
            raise ValueError(
                f"head is {STOCK_HEAD}, but the encoder of a {type(self.stock).__name__} has other weights than a "
                f"{type(self.encoder).__name__} without a head, such as {wrong[0]}: leave out head"
            )

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> None:
        """Save the model of transformers, whose outputs are in the task's units.

        Args:
            save_directory (`str` or path): The folder.
        """
        stock = copy.deepcopy(self.stock)
        if self.config.kind == "regression":
            last = _last_layer(stock)
            with torch.no_grad():
                last.weight.mul_(self.config.label_std)
                last.bias.mul_(self.config.label_std).add_(self.config.label_mean)
        stock.save_pretrained(save_directory, *args, **options)

    @classmethod
    def of_folder(cls, folder: str, config: TaskModelConfig) -> "StockHeadModel":
        """Load what [`save_pretrained`][StockHeadModel.save_pretrained] wrote.

        Args:
            folder (`str`): The folder.
            config ([`TaskModelConfig`]): The configuration with which the model was made.
        """
        plain = TaskModelConfig.from_dict({**config.to_dict(), "label_mean": 0.0, "label_std": 1.0})
        return cls(plain, _auto_class(config.kind).from_pretrained(folder, use_safetensors=True))


def _new_stock(config: TaskModelConfig) -> PreTrainedModel:
    encoder_config = config.encoder_config
    if not isinstance(encoder_config, PreTrainedConfig):
        raise ValueError("encoder_config of the configuration was set to None")
    check_stock_head(encoder_config, config.kind)
    settings = {**encoder_config.to_dict(), "id2label": config.id2label, "label2id": config.label2id}
    settings["problem_type"] = _PROBLEM_TYPES.get(config.kind)
    of_stock = type(encoder_config).from_dict(settings)
    stock = _auto_class(config.kind).from_config(of_stock, dtype=torch.get_default_dtype())
    if config.kind == "regression":
        _last_layer(stock)  # refused before training
    return stock


def _last_layer(stock: PreTrainedModel) -> nn.Linear:
    """Return the linear layer whose output are the logits of a regression."""
    of_encoder = set(stock.base_model.modules())
    layers = [module for module in stock.modules() if isinstance(module, nn.Linear) and module not in of_encoder]
    if not layers or layers[-1].out_features != 1 or layers[-1].bias is None:
        raise ValueError(
            f"head is {STOCK_HEAD}, but the head of a {type(stock).__name__} does not end with a linear layer: leave "
            "out head"
        )
    return layers[-1]
