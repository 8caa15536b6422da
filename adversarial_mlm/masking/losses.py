"""The loss of masked language modelling, and the weight of each residue in it."""

import torch
from torch.nn import functional as F

IGNORE_INDEX = -100


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of every token in nats; 0 where the label is -100.

    Args:
        logits (`torch.Tensor` of shape `(batch, length, vocab)`): Scores before the softmax.
        labels (`torch.Tensor` of shape `(batch, length)`, int64): True tokens; -100 at positions without a loss.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, float32, or float64 for float64 logits.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    losses = F.cross_entropy(
        logits.to(dtype).flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    return losses.view_as(labels)


def loss_weights(
    masked: torch.Tensor,
    residues: torch.Tensor,
    importance: torch.Tensor | None = None,
    importance_exponent: float = 0.0,
    unmasked_weight: float = 0.0,
) -> torch.Tensor:
    """Return the weight of each residue in the loss: 1 or its importance if masked, otherwise `unmasked_weight`.

    Args:
        masked (`torch.Tensor` of shape `(batch, length)`, bool): Residues that are masked in any way.
        residues (`torch.Tensor` of shape `(batch, length)`, bool): Positions with a residue.
        importance (`torch.Tensor` of shape `(batch, length)`, *optional*): ρ / q_i, see [`corruption.NoiserChoice`]:
            the mask rate divided by the probability that residue i is masked.
        importance_exponent (`float`, *optional*, defaults to 0.0): β of (ρ / q_i)^β. With 1 the weighted sum over
            masked residues has the expectation of uniform masking (Horvitz and Thompson 1952).
        unmasked_weight (`float`, *optional*, defaults to 0.0): Weight of the residues that are not masked.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, float32 or wider, without a gradient.
    """
    weights = masked.float()
    if importance is not None and importance_exponent:
        # the weight of a residue that was not masked may be infinite
        weights = torch.where(masked, importance.detach() ** importance_exponent, 0)
    return weights + unmasked_weight * (residues & ~masked) if unmasked_weight else weights


def learnability(teacher_logits: torch.Tensor, logits: torch.Tensor, residue_ids: torch.Tensor) -> torch.Tensor:
    """Return KL(p_T || p) of the predictions of every token, restricted to the standard residues.

    Args:
        teacher_logits (`torch.Tensor` of shape `(batch, length, vocab)`): The teacher's scores before the softmax.
        logits (`torch.Tensor` of shape `(batch, length, vocab)`): The encoder's.
        residue_ids (`torch.Tensor` of shape `(residues,)`, int64): Tokens that the distributions are over.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, in nats, float32, or float64 for float64 logits.
    """
    taught, own = (_log_shares(scores, residue_ids) for scores in (teacher_logits, logits))
    return (taught.exp() * (taught - own)).sum(dim=-1).clamp_min(0)


def soft_target_losses(teacher_logits: torch.Tensor, logits: torch.Tensor, residue_ids: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of every token with the teacher's prediction, which is over the standard residues.

    If the teacher is certain, this is the cross-entropy of [`token_losses`] with its residue.

    Args:
        teacher_logits, logits, residue_ids: As for [`learnability`]. A gradient reaches `logits`.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, in nats, float32, or float64 for float64 logits.
    """
    own = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)[..., residue_ids]
    return -(_log_shares(teacher_logits, residue_ids).exp() * own).sum(dim=-1)


def _log_shares(logits: torch.Tensor, residue_ids: torch.Tensor) -> torch.Tensor:
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return torch.log_softmax(logits[..., residue_ids].to(dtype), dim=-1)
