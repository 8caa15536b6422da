"""Which tokens an encoder attends to, made so that nobody has to ask the device."""

import torch
from transformers import PreTrainedModel

PACKED_ATTENTION = "adversarial_mlm_packed"  # an attn_implementation that is `sdpa` where rows are padded


def square_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """The mask that transformers makes of a batch's padding for `sdpa`.

    Of a mask with two dimensions it first asks whether there is padding at all, and waits for the device in every
    pass; one with four it takes as it is.

    Args:
        attention_mask (`torch.Tensor` of shape `(batch, length)`): 0 at padding.

    Returns:
        `torch.Tensor` of shape `(batch, 1, length, length)`, bool, without memory of its own for the queries.
    """
    return attention_mask[:, None, None, :].bool().expand(-1, 1, attention_mask.shape[1], -1)


def encoder_mask(model: PreTrainedModel, attention_mask: torch.Tensor, padded: bool) -> torch.Tensor | None:
    """What to give an encoder as `attention_mask`.

    Args:
        model (`PreTrainedModel`): The encoder. A BERT reads its mask in attention alone, and gets one that is made
            already; others do more with it, and get it as it is.
        attention_mask (`torch.Tensor` of shape `(batch, length)`): 0 at padding.
        padded (`bool`): Whether there is any, as the host knows.

    Returns:
        `torch.Tensor`, or `None` for a BERT where nothing is padded.
    """
    if model.config.model_type != "bert" or model.config._attn_implementation not in ("sdpa", PACKED_ATTENTION):
        return attention_mask
    return square_mask(attention_mask) if padded else None
