"""Where gradients go between the two networks."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from adversarial_mlm.masking.corruption import CorruptedBatch


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -ctx.strength * grad, None


def reverse_gradient(x: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
    """`x`, with a gradient multiplied by minus `strength` on its way back."""
    return _ReverseGradient.apply(x, strength)


def soft_embeddings(
    corrupted: CorruptedBatch, embeddings: nn.Embedding, reversal: float | None = None
) -> torch.Tensor:
    """Embeddings of a corrupted batch through which a gradient reaches the noiser.

    The values, and the gradient of the embedding table, are exactly those of `embeddings(corrupted.input_ids)`.

    Args:
        corrupted ([`CorruptedBatch`]): With `one_hot`.
        embeddings (`nn.Embedding`): The encoder's.
        reversal (`float`, *optional*): Reverse the gradient on its way to the noiser, with this strength.

    Returns:
        `torch.Tensor` of shape `(batch, length, hidden)`.

    Raises:
        ValueError: If the batch has no `one_hot`.
    """
    if corrupted.one_hot is None:
        raise ValueError("the batch was corrupted without one_hot, so no gradient can reach the noiser")
    table = embeddings.weight.detach()[: corrupted.one_hot.shape[-1]]  # some tables have rows beyond the vocabulary
    with torch.autocast(table.device.type, enabled=False):
        one_hot = corrupted.one_hot.to(table.dtype)
        if reversal is not None:
            one_hot = reverse_gradient(one_hot, reversal)
        return embeddings(corrupted.input_ids) + (one_hot - one_hot.detach()) @ table


@contextlib.contextmanager
def frozen(module: nn.Module, training: bool = False) -> Iterator[None]:
    """No gradients of the module's parameters for a while, and no dropout unless `training`.

    Layers whose activations are checkpointed go on with that: they do so in training mode only, which concerns the
    layers themselves and not the dropout inside them.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    was_training = module.training
    for parameter in trainable:
        parameter.requires_grad_(False)
    module.train(training)
    for layer in module.modules():
        if isinstance(layer, GradientCheckpointingLayer) and layer.gradient_checkpointing:
            layer.training = was_training
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        module.train(was_training)


def cosine(first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]) -> torch.Tensor:
    """Cosine between two lists of gradients, taken as one long vector each; a scalar, 0 where one is zero."""
    a, b = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in (first, second))
    return (a @ b) / (a.norm() * b.norm()).clamp_min(torch.finfo(a.dtype).tiny)
