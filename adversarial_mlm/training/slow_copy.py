"""A slow copy of the encoder: an exponential moving average of its weights, without dropout."""

import copy

import torch
from torch import nn
from transformers import PreTrainedModel

from adversarial_mlm.masking.corruption import CorruptedBatch
from adversarial_mlm.models.attention_masks import encoder_mask


def slow_copy(encoder: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of an encoder in evaluation mode, which gets no gradient."""
    return copy.deepcopy(encoder).eval().requires_grad_(False)


@torch.no_grad()
def follow(slow: nn.Module, encoder: nn.Module, decay: float, skipped: torch.Tensor) -> None:
    """Move a slow copy towards the encoder after an update.

    Args:
        slow (`nn.Module`): The copy.
        encoder (`nn.Module`): The encoder with its new weights.
        decay (`float`): Decay of the moving average per update.
        skipped (`torch.Tensor`): A scalar, bool: whether the update was skipped. Then nothing moves.
    """
    own, fast = ([p.detach() for p in network.parameters()] for network in (slow, encoder))
    if skipped.device.type != "cpu":
        follow_at_once(own, fast, (1 - decay) * ~skipped)
        return
    for one, other in zip(own, fast, strict=True):
        one.lerp_(torch.where(skipped, one, other), 1 - decay)


def follow_at_once(slow: list[torch.Tensor], fast: list[torch.Tensor], weight: torch.Tensor) -> None:
    """Move tensors towards others, in place: `slow + weight * (fast - slow)`, in three operations for all of them.

    Args:
        slow (`list[torch.Tensor]`): Tensors to move.
        fast (`list[torch.Tensor]`): Where to, finite.
        weight (`torch.Tensor`): A scalar; 0 moves nothing.
    """
    differences = torch._foreach_sub(fast, slow)
    torch._foreach_mul_(differences, weight)
    torch._foreach_add_(slow, differences)


@torch.no_grad()
def logits_of(encoder: PreTrainedModel, corrupted: CorruptedBatch) -> torch.Tensor:
    """Return an encoder's logits for a corrupted batch, `(batch, length, vocab)`, without a gradient."""
    mask = encoder_mask(encoder, corrupted.attention_mask, padded=True)
    return encoder(input_ids=corrupted.input_ids, attention_mask=mask).logits
