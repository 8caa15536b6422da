"""The longest input of any encoder, its dropout, and which of its parameters are trained."""

import copy
from typing import TypeVar

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from adversarial_mlm.utils.counts import count as counted


def number_of_positions(model: PreTrainedModel) -> int | None:
    """Longest input of an encoder in tokens; `None` if its configuration sets no limit.

    Models such as RoBERTa count positions from the padding token's id + 1, so their position table is longer.
    """
    for name, module in model.base_model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return getattr(model.config, "max_position_embeddings", None)


def check_row_length(model: PreTrainedModel, length: int) -> None:
    """Check that an encoder has a position for each token of a row.

    Raises:
        ValueError: If it has fewer.
    """
    positions = number_of_positions(model)
    if positions is not None and length > positions:
        raise ValueError(
            f"a row has {length:,} tokens, but the encoder has {positions:,} positions: cut it, for example with "
            f"truncation=True and max_length={positions} of the tokenizer"
        )


# names of dropout in configurations, of BERT, RoBERTa, ESM and others, and of ModernBERT
_DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "embedding_dropout", "attention_dropout", "mlp_dropout"),
    *("hidden_dropout", "dropout", "activation_dropout"),
)


Config = TypeVar("Config", bound=PreTrainedConfig)


def config_with_dropout(config: Config, dropout: float) -> Config:
    """A copy of an encoder's configuration in which all dropout of layers, embeddings and attention is `dropout`.

    Raises:
        ValueError: If `dropout` is not at least 0 and below 1, or if the configuration has no dropout that is known.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1, got {dropout}")
    config = copy.deepcopy(config)
    names = [name for name in _DROPOUTS if isinstance(getattr(config, name, None), (int, float))]
    if not names:
        raise ValueError(f"dropout is {dropout}, but a {config.model_type} has no dropout that is known: leave it out")
    for name in names:
        setattr(config, name, dropout)
    return config


def with_dropout(model: PreTrainedModel, dropout: float) -> PreTrainedModel:
    """An encoder with the weights of another, and with another dropout, see [`config_with_dropout`]."""
    changed = type(model)(config_with_dropout(model.config, dropout))
    nn.Module.to(changed, device=model.device, dtype=model.dtype)
    changed.load_state_dict(model.state_dict())
    return changed.train(model.training)


def train_last_layers(model: PreTrainedModel, count: int) -> None:
    """Freeze the embeddings and all layers but the last `count`; the head stays trainable.

    Args:
        model (`PreTrainedModel`): A masked language model. If its output weights are tied to the embeddings, they are
            frozen, too, except for the bias.
        count (`int`): Number of layers to train; 0 trains only the head.

    Raises:
        ValueError: If the encoder has fewer layers, or if its layers share their weights.
    """
    total = model.config.num_hidden_layers
    below, layers = below_and_layers(model)
    if not layers:
        raise ValueError(f"trained_layers is {count}, but the layers of {type(model).__name__} share their weights")
    if not 0 <= count <= total:
        raise ValueError(f"trained_layers must be between 0 and the encoder's {counted(total, 'layer')}, got {count}")
    for module in [*below, *layers[: total - count]]:
        module.requires_grad_(False)


def below_and_layers(model: PreTrainedModel) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules below the encoder's layers, such as the embeddings, and the layers from the first to the last.

    The list of layers is empty if the layers share their weights.
    """
    total = model.config.num_hidden_layers
    stacks = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == total]
    embeddings = model.get_input_embeddings()
    below = [child for child in model.base_model.children() if embeddings in child.modules()]
    return below, list(stacks[0]) if stacks else []
