"""How gradients pass between encoder and noiser."""

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
    """Return `x`; its gradient is multiplied by minus `strength`."""
    return _ReverseGradient.apply(x, strength)


def soft_embeddings(
    corrupted: CorruptedBatch, embeddings: nn.Embedding, reversal: float | None = None
) -> torch.Tensor:
    """Embeddings of a corrupted batch that pass a gradient to the noiser.

    Their values, and the gradient of the embedding table, are exactly those of `embeddings(corrupted.input_ids)`.

    Args:
        corrupted ([`CorruptedBatch`]): A batch with `one_hot`.
        embeddings (`nn.Embedding`): Token embeddings of the encoder.
        reversal (`float`, *optional*): Strength of a gradient reversal before the noiser; without it, the gradient is
            not reversed.

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
    """A context in which a module's parameters get no gradient, and without dropout unless `training`.

    Layers with activation checkpointing stay in training mode, without which they would not checkpoint. The dropout
    inside them is off all the same.
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
    """Cosine between two lists of gradients, each concatenated to one vector; a scalar, 0 if one of them is 0."""
    a, b = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in (first, second))
    return (a @ b) / (a.norm() * b.norm()).clamp_min(torch.finfo(a.dtype).tiny)
