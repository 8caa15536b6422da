"""What an encoder can take, whoever made it, and which of its parameters are trained."""

from torch import nn
from transformers import PreTrainedModel


def number_of_positions(model: PreTrainedModel) -> int | None:
    """Longest input that the encoder can take, in tokens; `None` where its configuration sets no limit.

    RoBERTa and its kin count positions from behind the padding token's id, so that their table is longer than that.
    """
    for name, module in model.base_model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1)
    return getattr(model.config, "max_position_embeddings", None)


def train_last_layers(model: PreTrainedModel, count: int) -> None:
    """Freeze the embeddings and all layers but the last `count`; what comes after the layers stays trainable.

    Args:
        model (`PreTrainedModel`): A masked language model. An output layer that is tied to the embeddings is frozen
            with them, but for its bias.
        count (`int`): Layers to train; with 0 the head alone.

    Raises:
        ValueError: If the encoder has fewer layers, or none that can be told apart.
    """
    total = model.config.num_hidden_layers
    below, layers = below_and_layers(model)
    if not layers:
        raise ValueError(f"trained_layers is {count}, but the layers of a {type(model).__name__} share their weights")
    if not 0 <= count <= total:
        raise ValueError(f"trained_layers must lie between 0 and the encoder's {total} layers, got {count}")
    for module in [*below, *layers[: total - count]]:
        module.requires_grad_(False)


def below_and_layers(model: PreTrainedModel) -> tuple[list[nn.Module], list[nn.Module]]:
    """What stands below the encoder's layers, embeddings above all, and the layers from the bottom up.

    The second list is empty where layers share their weights, so that they cannot be told apart.
    """
    total = model.config.num_hidden_layers
    stacks = [m for m in model.base_model.modules() if isinstance(m, nn.ModuleList) and len(m) == total]
    embeddings = model.get_input_embeddings()
    below = [child for child in model.base_model.children() if embeddings in child.modules()]
    return below, list(stacks[0]) if stacks else []
