"""Faster dropout on a CPU.

PyTorch draws a float32 number for every value, and uses a slower float32 kernel for attention with dropout. Together
these take up to half of a training step. Here, dropout uses 16 random bits per value, and attention keeps its
precision. The bits come from PyTorch's generator: a seed repeats a run, but with other numbers than stock dropout.
"""

import math

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from adversarial_mlm.utils.autograd import differentiable_once

_LEVELS = 2**16


class QuickDropout(TorchFunctionMode):
    """A context that makes `F.dropout`, and `F.scaled_dot_product_attention` with dropout, faster on a CPU.

    Calls that it does not support go to PyTorch: other devices, causal attention, grouped heads, a learned mask. Do
    not use it with activation checkpointing: the autograd engine repeats the forward pass outside of any context, with
    other random numbers.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.dropout:
            return _dropout_or_stock(*args, **kwargs)
        if function is F.scaled_dot_product_attention:
            return _attention_or_stock(*args, **kwargs)
        return function(*args, **kwargs)


def _dropout_or_stock(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False):
    if training and not inplace and _can_be_quick(input, p):
        return dropout(input, p)
    return F.dropout(input, p, training, inplace)


def _attention_or_stock(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **others):
    same_heads = query.shape[:2] == key.shape[:2] == value.shape[:2]
    plain = query.dim() == 4 and same_heads and not is_causal and not any(others.values())
    learned_mask = attn_mask is not None and attn_mask.requires_grad
    if plain and not learned_mask and _can_be_quick(query, dropout_p):
        return attention(query, key, value, attn_mask, dropout_p, scale)
    return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **others)


def _can_be_quick(tensor: torch.Tensor, p: float) -> bool:
    return 0 < p < 1 and tensor.device.type == "cpu" and tensor.is_floating_point()


def dropout(values: torch.Tensor, p: float) -> torch.Tensor:
    """`F.dropout` with `training=True`.

    Args:
        values (`torch.Tensor`): Any shape, floating point, on a CPU.
        p (`float`): Probability that a value becomes 0, between 0 and 1; it is rounded to a multiple of 1/65,536.

    Returns:
        `torch.Tensor` of the same shape and dtype; values that are kept are divided by 1 − p.
    """
    return _Dropout.apply(values, p)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values, p):
        keep, factor = _keep_at_random(values, p)
        ctx.save_for_backward(keep.mul_(factor))
        return values * keep

    @staticmethod
    def backward(ctx, grad):
        (factors,) = ctx.saved_tensors
        return grad * factors, None


def _keep_at_random(like: torch.Tensor, p: float) -> tuple[torch.Tensor, float]:
    """Return 1 for values that are kept and 0 for others, with the shape and dtype of `like`, and 1 ÷ (1 − p).

    They are not booleans because a product of two dtypes takes three times as long.
    """
    dropped = min(round(p * _LEVELS), _LEVELS - 1)
    words = torch.empty(math.ceil(like.numel() / 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[: like.numel()].view(like.shape)
    keep = torch.empty_like(like, memory_format=torch.contiguous_format)
    torch.ge(bits, dropped - _LEVELS // 2, out=keep)
    return keep, _LEVELS / (_LEVELS - dropped)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    p: float,
    scale: float | None = None,
) -> torch.Tensor:
    """`F.scaled_dot_product_attention` with dropout of the probabilities.

    Scores have the dtype of the queries. The softmax is computed in float32.

    Args:
        query (`torch.Tensor` of shape `(batch, heads, length, width)`): Queries, floating point, on a CPU.
        key (`torch.Tensor` of shape `(batch, heads, others, width)`): Keys.
        value (`torch.Tensor` of shape `(batch, heads, others, width)`): Values.
        mask (`torch.Tensor` that broadcasts to `(batch, heads, length, others)`, *optional*): bool, `True` where a
            query attends; or numbers to add to the scores, without a gradient.
        p (`float`): Probability that an attention probability becomes 0; see [`dropout`].
        scale (`float`, *optional*): Factor of the scores. Defaults to 1 / √width.

    Returns:
        `torch.Tensor` of shape `(batch, heads, length, width)`; 0 for a query that attends to nothing.
    """
    parts = [query, key, value]
    if torch.is_autocast_enabled("cpu"):
        parts = [part.to(torch.get_autocast_dtype("cpu")) for part in parts]
    with torch.autocast("cpu", enabled=False):
        return _Attention.apply(*parts, mask, p, query.shape[-1] ** -0.5 if scale is None else scale)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, mask, p, scale):
        ctx.shapes = query.shape, key.shape, value.shape
        query, key, value = (query * scale).flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
        scores = torch.bmm(query, key.transpose(1, 2))
        probabilities = _probabilities(scores.view(*ctx.shapes[0][:3], -1), mask).view_as(scores)
        keep, factor = _keep_at_random(probabilities, p)
        value = value * factor
        ctx.scale, ctx.factor = scale, factor
        ctx.save_for_backward(query, key, value, probabilities, keep)
        return torch.bmm(probabilities * keep, value).view(*ctx.shapes[0][:3], -1)

    @staticmethod
    @differentiable_once("attention with quick dropout", "set quick_cpu_dropout: false")
    def backward(ctx, grad):
        query, key, value, probabilities, keep = ctx.saved_tensors
        grad, kept = grad.flatten(0, 1), probabilities * keep
        grad_value = torch.bmm(kept.transpose(1, 2), grad).mul_(ctx.factor)
        grad_probabilities = torch.bmm(grad, value.transpose(1, 2), out=kept).mul_(keep)
        # in place, because new memory would cost as much as the arithmetic
        grad_scores = torch.ops.aten._softmax_backward_data.out(
            grad_probabilities, probabilities, -1, probabilities.dtype, grad_input=grad_probabilities
        )
        grad_query = torch.bmm(grad_scores, key).mul_(ctx.scale)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), query)
        grads = (part.view(shape) for part, shape in zip((grad_query, grad_key, grad_value), ctx.shapes, strict=True))
        return *grads, None, None, None


def _probabilities(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Softmax of `(batch, heads, length, others)`, in place; 0 for a query that attends to nothing."""
    if mask is None:
        return torch.softmax(scores, dim=-1, out=scores)
    if mask.dim() > 1 and mask.stride(-2) == 0:  # the same for all queries
        mask = mask[..., :1, :]
    # half of the lowest number: a sum with the lowest would be infinite, and its softmax nan
    least = torch.finfo(scores.dtype).min / 2
    if mask.dtype == torch.bool:
        attends = mask.any(dim=-1, keepdim=True)
        scores += scores.new_zeros(mask.shape).masked_fill_(~mask, least)
    else:
        attends = (mask > -torch.inf).any(dim=-1, keepdim=True)
        scores += mask.clamp_min(least)
    torch.softmax(scores, dim=-1, out=scores)
    return scores if attends.all() else scores.mul_(attends)
