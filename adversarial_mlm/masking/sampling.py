"""Choose k of n positions, hard and relaxed: pure functions of tensors, independent of proteins and models.

Every function works on a batch in which each row has its own length (`mask`) and its own budget. Padded positions get
zero. No function waits for the device. An infinite score counts as the largest (or least) finite one.

A relaxed choice belongs to one kind of hard choice:

| hard choice | relaxed values, a gradient for the scores |
| --- | --- |
| the largest of `scores + Gumbel noise` | [`rss`], a function of the same noise; [`gumbel_topk_marginals`] |
| the largest of `scores + logistic noise` | [`logistic_topk_marginals`] |
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from adversarial_mlm.masking import budget_solver
from adversarial_mlm.masking.budget_solver import LEAST_TEMPERATURE, finite
from adversarial_mlm.masking.keyed_random import as_gumbel, as_logistic
from adversarial_mlm.utils.autograd import differentiable_once

# ε of Algorithm 1, the least that remains of a spent position. The paper's 1e-18 is lost when it is added to 1.
_EPSILON = 2.0**-52
ORDERED_TEMPERATURE = 0.3
"""Least temperature at which the k largest values of [`rss`] are those of `scores + noise`."""
PARTS = 1_000_000


def exact_budget(num_items: torch.Tensor, rate: float) -> torch.Tensor:
    """Return `round(rate * num_items)`, with halves rounded up.

    The computation uses whole millionths, so all devices, processes and precisions agree.

    Args:
        num_items (`torch.Tensor`, int64): Numbers of items, of any shape.
        rate (`float`): A rate in [0, 1], with a precision of one millionth.

    Returns:
        `torch.Tensor`, int64, of the shape of `num_items`.
    """
    return budget_of_parts(num_items, parts_of(rate))


def parts_of(rate: float) -> int:
    """Return a rate in whole millionths."""
    return round(rate * PARTS)


def budget_of_parts(num_items: torch.Tensor, parts: int | torch.Tensor) -> torch.Tensor:
    """As [`exact_budget`], with a rate in whole millionths, or one for each number (`torch.Tensor`, int64)."""
    return (num_items * parts + PARTS // 2) // PARTS


def topk_mask(
    keys: torch.Tensor,
    mask: torch.Tensor,
    budget: torch.Tensor,
    finite: bool = False,
    positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Choose the `budget` largest keys of each row.

    With `keys = scores + Gumbel noise` this is a draw without replacement in proportion to `exp(scores)`. From a
    temperature of 0.3 on it equals the top k of [`rss`] with the same noise. With logistic noise it is Rosén's Pareto
    sampling.

    Args:
        keys (`torch.Tensor` of shape `(batch, length)`): Keys of the positions.
        mask (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): Number of positions to choose in each row. If a row has
            fewer, all are chosen.
        finite (`bool`, *optional*, defaults to `False`): Whether all keys are known to be finite, such as random ones.
        positions (`torch.Tensor` of shape `(length,)`, int64, *optional*): Result of [`ranks`], for a compiled
            function, which cannot use the cached one.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, bool.
    """
    if not finite:  # a key of minus infinity still comes before the positions that must not be chosen
        keys = keys.clamp_min(torch.finfo(keys.dtype).min)
    keys = torch.where(mask, keys, -torch.inf)
    order = keys.argsort(dim=-1, descending=True, stable=True)
    positions = ranks(keys.shape[-1], keys.device) if positions is None else positions
    rank = torch.empty_like(order)
    rank.scatter_(-1, order, positions.expand_as(order))
    return (rank < budget[:, None]) & mask


@functools.lru_cache(maxsize=64)
def ranks(length: int, device: torch.device) -> torch.Tensor:
    """Return 0, 1, 2 …, `(length,)`, int64."""
    return torch.arange(length, device=device)


def threshold_mask(soft: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Choose the positions whose relaxed value exceeds 0.5: the hard choice as printed in Algorithm 3.

    It may choose fewer positions than the budget: the values of [`rss`] sum to the budget, but some exceed 1 and many
    are below 0.5. Below a temperature of 0.3, these may not be the positions with the largest keys, see [`rss`].

    Args:
        soft (`torch.Tensor` of shape `(batch, length)`): Result of [`rss`].
        mask (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, bool.
    """
    return (soft > 0.5) & mask


def rss(
    scores: torch.Tensor,
    mask: torch.Tensor,
    budget: torch.Tensor,
    noise: torch.Tensor,
    temperature: float = 1.0,
    max_budget: int | None = None,
    gated: bool = True,
) -> torch.Tensor:
    """Relaxed subset sampling: k successive softmaxes over keys, each after removing the probability already spent.

    Algorithm 1 (`rss_sampler`) of McDermott et al. (2021), after Xie and Ermon (2019). The paper's symbols: `s` is
    `scores`, `valid_tokens_mask` is `mask`, `subset_sizes` is `budget`, `g` is `scores + noise`, `t` is `temperature`,
    `y_soft` is the result. As printed (`gated=False`), a row whose budget is spent repeats its last softmax until the
    largest budget of the batch is spent, and sums to that budget. With `gated=True` row i stops at `budget[i]`, and
    sums to it.

    The result is not a probability: values can exceed 1. From a temperature of 0.3 on, its k largest values are those
    of `scores + noise` (docs/algorithm.md). Below, they can be others in short rows: with equal scores, n = 20 and
    k = 4, they are in a fifth of the rows at 0.1.

    The result is differentiable in `scores` once. It is computed in float64, independent of autocast, and returned in
    float32 (float64 for float64 scores). The backward pass keeps one tensor for every √k softmaxes and recomputes the
    others.

    Args:
        scores (`torch.Tensor` of shape `(batch, length)`): Unnormalised selection scores.
        mask (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): Number of positions to choose in each row.
        noise (`torch.Tensor` of shape `(batch, length)`): Standard Gumbel noise.
        temperature (`float`, *optional*, defaults to 1.0): Temperature of the softmaxes, at least 0.1. Far below 1 the
            result is nearly a hard choice, and its gradient is mostly noise.
        max_budget (`int`, *optional*): An upper bound on `budget`. By default the largest budget is read from the
            device, which waits for it.
        gated (`bool`, *optional*, defaults to `True`): Whether each row stops at its own budget.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, float.

    Raises:
        ValueError: If `temperature` is below 0.1.
        RuntimeError: In the backward pass with `create_graph=True`, because there is no second derivative.
    """
    if temperature < LEAST_TEMPERATURE:
        raise ValueError(f"temperature must be at least {LEAST_TEMPERATURE} for rss, got {temperature}")
    if scores.shape[-1] == 0:
        return scores.to(torch.promote_types(scores.dtype, torch.float32))
    if max_budget is None:
        max_budget = int(budget.max()) if budget.numel() else 0
    dtype = torch.promote_types(scores.dtype, torch.float32)
    with torch.autocast(scores.device.type, enabled=False):
        keys = scores.to(dtype) + noise.to(dtype)
        return _RelaxedSubset.apply(keys, mask, budget, max_budget, temperature, gated)


class _RelaxedSubset(torch.autograd.Function):
    """[`rss`] of keys, with a manual backward pass.

    It uses weights w = exp(keys / t) instead of keys, which avoids an exponential and a logarithm in every draw.
    A draw adds a = w / Σ w to the result, and the next draw starts from a (1 − a)^(1 / t).

    Let h be the gradient of the keys after a draw, and g that of the result. With u = g − h / (1 − a), the gradient of
    the keys before the draw is h + a (u − ⟨a, u⟩) / t.

    Such weights need float64, and so does 1 − a at a position with nearly all weight. Tensors are allocated before the
    loops, because allocation takes longer than the arithmetic.
    """

    @staticmethod
    def forward(ctx, keys, mask, budget, draws, temperature, gated):
        counted, spends = _draws_of_rows(budget, draws, gated)
        segment = max(math.isqrt(draws), 1)
        weights = _weights(keys, mask, temperature)
        starts = weights.new_empty(-(-draws // segment), *weights.shape)
        shares = weights.new_empty(draws, len(weights), 1)  # one over the sum of the weights
        soft, spent, left = torch.zeros_like(weights), torch.empty_like(weights), torch.empty_like(weights)
        for draw, (share, counts, spend) in enumerate(zip(shares.unbind(), counted.unbind(), spends, strict=True)):
            if draw % segment == 0:
                starts[draw // segment] = weights
            torch.sum(weights, dim=-1, keepdim=True, out=share).reciprocal_()
            _draw(weights, share, spend, temperature, spent, left)
            soft.addcmul_(spent, counts)
        ctx.save_for_backward(mask, budget, starts, shares)
        ctx.draws, ctx.segment, ctx.temperature, ctx.gated = draws, segment, temperature, gated
        return soft.mul_(mask).to(keys.dtype)

    @staticmethod
    @differentiable_once("rss")
    def backward(ctx, grad_soft):
        mask, budget, starts, shares = ctx.saved_tensors
        counted, spends = _draws_of_rows(budget, ctx.draws, ctx.gated)
        # in a row that is done a becomes 0, and so does its gradient
        draws = list(zip((shares * counted).unbind(), spends, strict=True))
        grad = grad_soft.double() * mask
        grad_keys, through, weights = torch.zeros_like(grad), torch.empty_like(grad), torch.empty_like(grad)
        spent, left = grad.new_empty(ctx.segment, *grad.shape).unbind(), torch.empty_like(grad)
        mean = grad.new_empty(len(grad), 1)
        for start in reversed(range(len(starts))):
            weights.copy_(starts[start])
            part = draws[start * ctx.segment : (start + 1) * ctx.segment]
            for (share, spend), a in zip(part, spent, strict=False):  # the last part is shorter
                _draw(weights, share, spend, ctx.temperature, a, left)
            for (_, spend), a in reversed(list(zip(part, spent, strict=False))):
                _leave(a, spend, left)
                torch.addcdiv(grad, grad_keys, left if spend is None else left / spend, value=-1, out=through)
                through -= torch.sum(torch.mul(through, a, out=left), dim=-1, keepdim=True, out=mean)
                grad_keys.addcmul_(a, through, value=1 / ctx.temperature)
        return grad_keys.to(grad_soft.dtype), None, None, None, None, None


def _draws_of_rows(
    budget: torch.Tensor, draws: int, gated: bool
) -> tuple[torch.Tensor, Sequence[torch.Tensor | None]]:
    """Return which rows add a draw to the result, `(draws, batch, 1)`, and which spend in it, `(batch, 1)`; 0 or 1.

    The second is `None` for gated rows: they may spend after they are done, because their draws no longer count.
    """
    draw = torch.arange(draws, device=budget.device)[:, None, None]
    if gated:
        return (draw < budget[:, None]).double(), [None] * draws
    most = budget.max() if budget.numel() else 0
    return (draw < most).double().expand(-1, len(budget), 1), (draw + 1 < budget[:, None]).double().unbind()


def _weights(keys: torch.Tensor, mask: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return exp((keys − maximum of the row) / t), float64; 0 where `mask` is false, 1 in a row without positions."""
    keys = torch.where(mask, finite(keys), -torch.inf).double().div_(temperature)
    keys -= keys.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(keys.dtype).min)
    return torch.where(mask.any(dim=-1, keepdim=True), keys, 0).exp_()


def _draw(
    weights: torch.Tensor,
    share: torch.Tensor,
    spend: torch.Tensor | None,
    temperature: float,
    spent: torch.Tensor,
    left: torch.Tensor,
) -> None:
    """Write one softmax into `spent`, the rest into `left`, and the weights of the next draw into `weights`."""
    torch.mul(weights, share, out=spent)
    _leave(spent, spend, left)
    torch.mul(spent, left if temperature == 1 else left ** (1 / temperature), out=weights)


def _leave(spent: torch.Tensor, spend: torch.Tensor | None, left: torch.Tensor) -> None:
    torch.sub(1 + _EPSILON, spent if spend is None else spent * spend, out=left)


def gumbel_topk_marginals(scores: torch.Tensor, mask: torch.Tensor, budget: torch.Tensor) -> torch.Tensor:
    """Return the probability that the top k of `scores + Gumbel noise` contains each position, in closed form.

    π_i = 1 − exp(−τ e^{s_i}), with the τ of each row for which Σ π = k. Every position has an exponential waiting time
    of rate e^{s_i}, and about k of these times end before τ (Rosén 1972, "successive sampling"). It is exact for
    k = 0, k = n and equal scores. Otherwise it is an approximation, which is better for longer rows
    (docs/algorithm.md).

    It is differentiable in `scores` once. The backward pass keeps one tensor. The result is float32, independent of
    autocast, or float64 for float64 scores.

    Args:
        scores (`torch.Tensor` of shape `(batch, length)`): Unnormalised selection scores.
        mask (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): Number of positions chosen in each row.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, in [0, 1]; row i sums to `min(budget[i], positions of the row)`.

    Raises:
        RuntimeError: In the backward pass with `create_graph=True`, because there is no second derivative.
    """
    return _BudgetedProbabilities.apply(_at_least_float32(scores), mask, budget, budget_solver.EXPONENTIAL)


def logistic_topk_marginals(
    scores: torch.Tensor, mask: torch.Tensor, budget: torch.Tensor, hajek: bool = False
) -> torch.Tensor:
    """Return the probability that the top k of `scores + logistic noise` contains each position, in closed form.

    π_i = sigmoid(s_i + c), with the c of each row for which Σ π = k (Pareto sampling, Rosén 1997). With `hajek=True`,
    Hájek's (1964) correction gives the probabilities of conditional Poisson sampling, P(m) ∝ exp(Σ_{i∈m} s_i) on
    subsets of size k. The two are similar, but Pareto sampling follows the uncorrected ones more closely. The
    correction is an expansion: if few positions decide, values can be slightly outside of [0, 1].

    It is differentiable in `scores` once; the backward pass keeps one tensor, with `hajek=True` two. The result is
    float32, independent of autocast, or float64 for float64 scores.

    Args:
        scores (`torch.Tensor` of shape `(batch, length)`): Unnormalised selection scores.
        mask (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): Number of positions chosen in each row.
        hajek (`bool`, *optional*, defaults to `False`): Whether to apply the correction.

    Returns:
        `torch.Tensor` of shape `(batch, length)`; row i sums to `min(budget[i], positions of the row)`.

    Raises:
        RuntimeError: In the backward pass with `create_graph=True`, because there is no second derivative.
    """
    probabilities = _BudgetedProbabilities.apply(_at_least_float32(scores), mask, budget, budget_solver.LOGISTIC)
    return _HajekCorrection.apply(probabilities) if hajek else probabilities


def _at_least_float32(scores: torch.Tensor) -> torch.Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


class _BudgetedProbabilities(torch.autograd.Function):
    """π(s + c) for an increasing π, with the c of each row for which Σ π = k.

    With d = π'(s + c) the gradient of s is d (g − Σ d g / Σ d).
    """

    @staticmethod
    def forward(ctx, scores, mask, budget, law):
        with torch.autocast(scores.device.type, enabled=False):
            may_stop = scores.device.type == "cpu"
            probabilities, slope = budget_solver.solve(scores, mask, budget, law, may_stop=may_stop)
        ctx.save_for_backward(slope)
        return probabilities

    @staticmethod
    @differentiable_once("a closed-form probability")
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensors
        total = slope.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)  # 0 where all is decided
        mean = (slope * grad).sum(dim=-1, keepdim=True) / total
        return slope * (grad - mean), None, None, None


class _HajekCorrection(torch.autograd.Function):
    """p [1 − (p̄ − p)(1 − p) / D] with D = Σ p (1 − p) and p̄ = Σ p² (1 − p) / D."""

    @staticmethod
    def forward(ctx, p):
        ctx.save_for_backward(p)
        spread, variance, mean = _hajek_sums(p)
        return p - spread * (mean - p) / variance

    @staticmethod
    @differentiable_once("Hájek's correction")
    def backward(ctx, grad):
        (p,) = ctx.saved_tensors
        spread, variance, mean = _hajek_sums(p)
        direct = grad * (1 - ((1 - 2 * p) * (mean - p) - spread) / variance)
        grad_mean = -(grad * spread).sum(dim=-1, keepdim=True) / variance
        grad_variance = (grad * spread * (mean - p)).sum(dim=-1, keepdim=True) / variance**2
        mean_slope = (2 * p - 3 * p**2 - mean * (1 - 2 * p)) / variance
        return direct + grad_mean * mean_slope + grad_variance * (1 - 2 * p)


def _hajek_sums(p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    spread = p * (1 - p)
    variance = spread.sum(dim=-1, keepdim=True)
    variance = torch.where(variance > 0, variance, 1)  # if nothing is undecided, there is nothing to correct
    return spread, variance, (p * spread).sum(dim=-1, keepdim=True) / variance


@dataclass(frozen=True)
class Sampler:
    """A way to draw positions. The hard choice is always the largest of `scores + noise`, see [`topk_mask`].

    Attributes:
        noise (`Callable`): Turns uniform numbers into the noise of its law, see [`keyed_random`].
        marginals (`Callable`): Returns the closed-form probability of each position from `(scores, mask, budget)`.
        relaxation (`Callable`, *optional*): Returns relaxed values of the same draw, with the signature of [`rss`].
            Without it the marginals are the relaxed values.
    """

    noise: Callable[[torch.Tensor], torch.Tensor]
    marginals: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    relaxation: Callable[..., torch.Tensor] | None = None


SAMPLERS = {
    "rss": Sampler(as_gumbel, gumbel_topk_marginals, relaxation=rss),
    "gumbel_topk": Sampler(as_gumbel, gumbel_topk_marginals),
    "logistic_topk": Sampler(as_logistic, logistic_topk_marginals),
}
