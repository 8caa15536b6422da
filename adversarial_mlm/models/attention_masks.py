"""Attention masks that are made without waiting for the device."""

import torch
from transformers import PreTrainedModel

PACKED_ATTENTION = "adversarial_mlm_packed"  # attn_implementation; acts as `sdpa` for padded rows


def square_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """The mask that transformers makes for `sdpa` from the padding of a batch.

    For a mask with two dimensions, transformers checks in every forward pass whether there is padding, which waits for
    the device. It uses a mask with four dimensions as it is.

    Args:
        attention_mask (`torch.Tensor` of shape `(batch, length)`): 0 at padding.

    Returns:
        `torch.Tensor` of shape `(batch, 1, length, length)`, bool; the query dimension takes no memory.
    """
    return attention_mask[:, None, None, :].bool().expand(-1, 1, attention_mask.shape[1], -1)


def additive_mask(attention_mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[`square_mask`] as numbers that are added to the scores: 0, and minus infinity at padding.

    PyTorch makes such a mask from one of bools in every layer, and keeps each for the backward pass.

    Args:
        attention_mask (`torch.Tensor` of shape `(batch, length)`): 0 at padding.
        dtype (`torch.dtype`): That of the attention's inputs.

    Returns:
        `torch.Tensor` of shape `(batch, 1, length, length)`; the query dimension takes no memory.
    """
    mask = torch.zeros(attention_mask.shape, dtype=dtype, device=attention_mask.device)
    mask = mask.masked_fill_(attention_mask == 0, -torch.inf)
    return mask[:, None, None, :].expand(-1, 1, attention_mask.shape[1], -1)


def encoder_mask(
    model: PreTrainedModel, attention_mask: torch.Tensor, padded: bool, dtype: torch.dtype | None = None
) -> torch.Tensor | None:
    """The `attention_mask` for an encoder.

    Args:
        model (`PreTrainedModel`): The encoder. BERT uses the mask in attention only, so it gets a mask for `sdpa`.
            Other models may use it elsewhere and get it unchanged.
        attention_mask (`torch.Tensor` of shape `(batch, length)`): 0 at padding.
        padded (`bool`): Whether there is any padding.
        dtype (`torch.dtype`, *optional*): That of the attention's inputs, for a mask that is added to the scores. By
            default the mask is made of bools.

    Returns:
        `torch.Tensor`, or `None` for a BERT without padding.
    """
    if model.config.model_type != "bert" or model.config._attn_implementation not in ("sdpa", PACKED_ATTENTION):
        return attention_mask
    if not padded:
        return None
    return square_mask(attention_mask) if dtype is None else additive_mask(attention_mask, dtype)
