"""Choosing k of n positions, hard and relaxed: pure functions of tensors.

Nothing here knows of proteins or models. Every function works on a batch in which each row has its own length (`mask`)
and its own budget, and leaves a padded position at zero.
"""

import torch

_EPSILON = 1e-18  # Algorithm 1's ε: the floor under 1 − (probability already spent)
_PARTS = 1_000_000


def exact_budget(num_items: torch.Tensor, rate: float) -> torch.Tensor:
    """How many of `num_items` a rate stands for: `round(rate * num_items)`, halves rounded up.

    Computed in whole millionths, so that every device, process and precision agrees.

    Args:
        num_items (`torch.Tensor`, int64): Any shape.
        rate (`float`): In [0, 1], to a precision of one millionth.

    Returns:
        `torch.Tensor`, int64, of the shape of `num_items`.
    """
    return (num_items * round(rate * _PARTS) + _PARTS // 2) // _PARTS


def topk_mask(keys: torch.Tensor, mask: torch.Tensor, budget: torch.Tensor) -> torch.Tensor:
    """The `budget` largest keys of each row.

    With `keys = scores + Gumbel noise` this is a draw without replacement in proportion to `exp(scores)`, and equals
    the top k of [`rss`] with the same noise.

    Args:
        keys (`torch.Tensor` of shape `(batch, length)`): What to sort by.
        mask (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): How many to choose in each row; where a row has fewer
            positions, all of them are chosen.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, bool.
    """
    order = keys.masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks.scatter_(-1, order, torch.arange(keys.shape[-1], device=keys.device).expand_as(order))
    return (ranks < budget[:, None]) & mask


def rss(
    scores: torch.Tensor,
    mask: torch.Tensor,
    budget: torch.Tensor,
    noise: torch.Tensor,
    temperature: float = 1.0,
    max_budget: int | None = None,
) -> torch.Tensor:
    """Relaxed subset sampling: k successive softmaxes over keys from which spent probability is removed.

    Algorithm 1 (`rss_sampler`) of McDermott et al. (2021), after Xie and Ermon (2019). The paper's symbols: `s` is
    `scores`, `valid_tokens_mask` is `mask`, `subset_sizes` is `budget`, `g` is `scores + noise`, `t` is `temperature`,
    `y_soft` is the result. As printed, a row whose budget is spent keeps on growing while a longer row of the batch is
    being served; here each row stops at its own budget, so that row i sums to `budget[i]`.

    The result is no probability: single values can exceed 1. It is differentiable in `scores`, and computed in float32
    (or float64 where `scores` is float64) whatever the autocast.

    Args:
        scores (`torch.Tensor` of shape `(batch, length)`): Selection scores, unnormalised.
        mask (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): How many to choose in each row.
        noise (`torch.Tensor` of shape `(batch, length)`): Standard Gumbel noise.
        temperature (`float`, *optional*, defaults to 1.0): Of the softmaxes; must be above 0.
        max_budget (`int`, *optional*): An upper bound on `budget`. Without it the largest budget is read back from
            the device, which waits for the device.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, float.

    Raises:
        ValueError: If `temperature` is not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if max_budget is None:
        max_budget = int(budget.max()) if budget.numel() else 0
    dtype = torch.promote_types(scores.dtype, torch.float32)
    with torch.autocast(scores.device.type, enabled=False):
        floor = torch.finfo(dtype).min
        keys = scores.to(dtype) + noise.to(dtype)
        spent = torch.zeros_like(keys)
        soft = torch.zeros_like(keys)
        for draw in range(max_budget):
            keys = keys + torch.log((1 - spent).clamp_min(_EPSILON))
            spent = torch.softmax((keys / temperature).masked_fill(~mask, floor), dim=-1)
            soft = soft + spent * (draw < budget)[:, None]
        return soft * mask
