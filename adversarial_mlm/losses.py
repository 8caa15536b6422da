"""The masked-language-model loss."""

import torch
from torch.nn import functional as F

IGNORE_INDEX = -100


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of every token, in nats, float32 (float64 for float64 logits); 0 where the label is -100.

    Args:
        logits (`torch.Tensor` of shape `(batch, length, vocab)`): Scores before the softmax.
        labels (`torch.Tensor` of shape `(batch, length)`, int64): True tokens, -100 where nothing is scored.

    Returns:
        `torch.Tensor` of shape `(batch, length)`.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    losses = F.cross_entropy(
        logits.to(dtype).flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return losses.view_as(labels)
