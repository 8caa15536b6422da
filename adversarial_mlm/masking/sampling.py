"""Choosing k of n positions, hard and relaxed: pure functions of tensors.

Nothing here knows of proteins or models. Every function works on a batch in which each row has its own length (`mask`)
and its own budget, leaves a padded position at zero, and waits for no device.

A relaxed choice belongs to the law of one hard choice, and to no other:

| hard choice | relaxed values, a gradient for the scores |
| --- | --- |
| the largest of `scores + Gumbel noise` | [`rss`], a function of the same noise; [`gumbel_topk_marginals`] |
| the largest of `scores + logistic noise` | [`logistic_topk_marginals`] |
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.autograd.function import once_differentiable

from adversarial_mlm.masking.keyed_random import gumbel, logistic

# Algorithm 1's ε, what is left at least of a position that was spent. Its 1e-18 cannot be told from 0 beside a 1.
_EPSILON = 2.0**-52
LEAST_TEMPERATURE = 0.1
_PARTS = 1_000_000
_SOLVER_STEPS = 40
_LEAST_TOLERANCE = 1e-13  # of the budget
_SURE = 7.0  # above it exp(-exp(x)) is 0 even in float64


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
    the top k of [`rss`] with the same noise. With logistic noise it is Rosén's Pareto sampling.

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


def threshold_mask(soft: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Positions whose relaxed value exceeds one half: the hard choice as Algorithm 3 prints it.

    It does not spend the budget: the values of [`rss`] sum to it, but single ones exceed 1 and many stay below 0.5.

    Args:
        soft (`torch.Tensor` of shape `(batch, length)`): From [`rss`].
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
    """Relaxed subset sampling: k successive softmaxes over keys from which spent probability is removed.

    Algorithm 1 (`rss_sampler`) of McDermott et al. (2021), after Xie and Ermon (2019). The paper's symbols: `s` is
    `scores`, `valid_tokens_mask` is `mask`, `subset_sizes` is `budget`, `g` is `scores + noise`, `t` is `temperature`,
    `y_soft` is the result. As printed, a row whose budget is spent repeats its last softmax while a longer row of the
    batch is being served, so that every row sums to the largest budget of the batch (`gated=False`). With
    `gated=True` row i stops at `budget[i]`, and sums to it.

    The result is no probability: single values can exceed 1. It is differentiable in `scores`, once, computed in
    float64 and returned in float32 (or float64 where `scores` is float64) whatever the autocast. The backward pass
    keeps one tensor for every √k softmaxes and computes the others again.

    Args:
        scores (`torch.Tensor` of shape `(batch, length)`): Selection scores, unnormalised.
        mask (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): How many to choose in each row.
        noise (`torch.Tensor` of shape `(batch, length)`): Standard Gumbel noise.
        temperature (`float`, *optional*, defaults to 1.0): Of the softmaxes; at least 0.1. Far below 1 the result is
            the hard choice, and its gradient noise.
        max_budget (`int`, *optional*): An upper bound on `budget`. Without it the largest budget is read back from
            the device, which waits for the device.
        gated (`bool`, *optional*, defaults to `True`): Whether each row stops at its own budget.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, float.

    Raises:
        ValueError: If `temperature` is below 0.1.
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
    """[`rss`] of keys, with a backward pass derived by hand.

    It works on weights w = exp(keys / t) instead of keys, so that a draw needs neither exponential nor logarithm:
    a = w / Σ w is added to the result, and a (1 − a)^(1 / t) is what the next draw starts from. Where h is the
    gradient of the keys after a draw and g that of the result, the gradient of the keys before it is
    h + a (u − ⟨a, u⟩) / t with u = g − h / (1 − a). It takes float64 to hold such weights, and to subtract a from 1
    where one position has nearly everything. The tensors of the loops are made before them: fresh ones would cost more
    than the arithmetic.
    """

    @staticmethod
    def forward(ctx, keys, mask, budget, draws, temperature, gated):
        counted, spends = _turns(budget, draws, gated)
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
    @once_differentiable
    def backward(ctx, grad_soft):
        mask, budget, starts, shares = ctx.saved_tensors
        counted, spends = _turns(budget, ctx.draws, ctx.gated)
        # of a row that is done a = 0 is made, and so its gradient
        turns = list(zip((shares * counted).unbind(), spends, strict=True))
        grad = grad_soft.double() * mask
        grad_keys, through, weights = torch.zeros_like(grad), torch.empty_like(grad), torch.empty_like(grad)
        spent, left = grad.new_empty(ctx.segment, *grad.shape).unbind(), torch.empty_like(grad)
        mean = grad.new_empty(len(grad), 1)
        for start in reversed(range(len(starts))):
            weights.copy_(starts[start])
            part = turns[start * ctx.segment : (start + 1) * ctx.segment]
            for (share, spend), a in zip(part, spent, strict=False):  # the last part is shorter
                _draw(weights, share, spend, ctx.temperature, a, left)
            for (_, spend), a in reversed(list(zip(part, spent, strict=False))):
                _leave(a, spend, left)
                torch.addcdiv(grad, grad_keys, left if spend is None else left / spend, value=-1, out=through)
                through -= torch.sum(torch.mul(through, a, out=left), dim=-1, keepdim=True, out=mean)
                grad_keys.addcmul_(a, through, value=1 / ctx.temperature)
        return grad_keys.to(grad_soft.dtype), None, None, None, None, None


def _turns(budget: torch.Tensor, draws: int, gated: bool) -> tuple[torch.Tensor, Sequence[torch.Tensor | None]]:
    """Which rows add each draw to the result, `(draws, batch, 1)`, and which spend in it, `(batch, 1)`; 0 or 1.

    A gated row may go on spending when it is done, as nothing looks at it any more: `None`.
    """
    draw = torch.arange(draws, device=budget.device)[:, None, None]
    if gated:
        return (draw < budget[:, None]).double(), [None] * draws
    most = budget.max() if budget.numel() else 0
    return (draw < most).double().expand(-1, len(budget), 1), (draw + 1 < budget[:, None]).double().unbind()


def _weights(keys: torch.Tensor, mask: torch.Tensor, temperature: float) -> torch.Tensor:
    """exp(keys / t) over the row's largest, float64; 0 where nothing may be chosen, 1 in a row without positions."""
    keys = torch.where(mask, keys, -torch.inf).double().div_(temperature)
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
    """One softmax into `spent`, what it leaves into `left`, and the weights of the next draw."""
    torch.mul(weights, share, out=spent)
    _leave(spent, spend, left)
    torch.mul(spent, left if temperature == 1 else left ** (1 / temperature), out=weights)


def _leave(spent: torch.Tensor, spend: torch.Tensor | None, left: torch.Tensor) -> None:
    torch.sub(1 + _EPSILON, spent if spend is None else spent * spend, out=left)


def gumbel_topk_marginals(scores: torch.Tensor, mask: torch.Tensor, budget: torch.Tensor) -> torch.Tensor:
    """How probable it is that the top k of `scores + Gumbel noise` holds each position, in closed form.

    π_i = 1 − exp(−τ e^{s_i}), with the τ of each row for which Σ π = k: every position rings after an exponential time
    of rate e^{s_i}, and about k have rung by the time τ (Rosén 1972, "successive sampling"). It is exact for k = 0,
    k = n and equal scores, and an approximation otherwise, the better the longer the row.

    Differentiable in `scores`, once; backward keeps one tensor. float32 whatever the autocast, float64 for float64.

    Args:
        scores (`torch.Tensor` of shape `(batch, length)`): Selection scores, unnormalised.
        mask (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): How many are chosen in each row.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, in [0, 1]; row i sums to `min(budget[i], positions of the row)`.
    """
    return _BudgetedProbabilities.apply(_at_least_float32(scores), mask, budget, _rung_by_now)


def logistic_topk_marginals(
    scores: torch.Tensor, mask: torch.Tensor, budget: torch.Tensor, hajek: bool = False
) -> torch.Tensor:
    """How probable it is that the top k of `scores + logistic noise` holds each position, in closed form.

    π_i = sigmoid(s_i + c), with the c of each row for which Σ π = k (Pareto sampling, Rosén 1997). With `hajek=True`
    the probabilities are those of conditional Poisson sampling, P(m) ∝ exp(Σ_{i∈m} s_i) on subsets of size k, by
    Hájek's (1964) correction; Pareto sampling is close to that, but the plain ones are closer to what it does. The
    correction is an expansion: where few positions decide, a value can leave [0, 1] by a little.

    Differentiable in `scores`, once; backward keeps one tensor (with `hajek=True` one more). float32 whatever the
    autocast, float64 for float64.

    Args:
        scores (`torch.Tensor` of shape `(batch, length)`): Selection scores, unnormalised.
        mask (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): How many are chosen in each row.
        hajek (`bool`, *optional*, defaults to `False`): Whether to correct.

    Returns:
        `torch.Tensor` of shape `(batch, length)`; row i sums to `min(budget[i], positions of the row)`.
    """
    probabilities = _BudgetedProbabilities.apply(_at_least_float32(scores), mask, budget, _logistic)
    return _HajekCorrection.apply(probabilities) if hajek else probabilities


def _at_least_float32(scores: torch.Tensor) -> torch.Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _rung_by_now(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rate = x.clamp_max(_SURE).exp_()
    not_yet = torch.neg(rate).exp_()
    return 1 - not_yet, rate.mul_(not_yet)


def _logistic(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    probability = torch.sigmoid(x)
    return probability, probability * torch.sigmoid(-x)


class _BudgetedProbabilities(torch.autograd.Function):
    """π(s + c) for an increasing π, with the c of each row for which Σ π = k.

    With d = π'(s + c) the gradient of s is d (g − Σ d g / Σ d).
    """

    @staticmethod
    def forward(ctx, scores, mask, budget, law):
        with torch.autocast(scores.device.type, enabled=False):
            probabilities, slope = _solve(scores, mask, budget, law, may_stop=scores.device.type == "cpu")
        ctx.save_for_backward(slope)
        return probabilities

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (slope,) = ctx.saved_tensors
        total = slope.sum(dim=-1, keepdim=True)
        mean = (slope * grad).sum(dim=-1, keepdim=True) / torch.where(total > 0, total, 1)
        return slope * (grad - mean), None, None, None


def _solve(
    scores: torch.Tensor,
    mask: torch.Tensor,
    budget: torch.Tensor,
    law: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    may_stop: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and their slopes, by Newton's method in float64, in a bracket that halves where Newton leaves it.

    Newton's steps are those for the log-odds of the share that is chosen, which are nearly straight in c: four or five
    are enough where scores differ by less than ten. Both laws are below e^x, which is where the bracket begins, and at
    log n above minus the least score all but one position are chosen. With `may_stop` it is over when all rows are
    right, for which the host has to look; otherwise all steps are made.
    """
    if scores.shape[-1] == 0:
        return scores.clone(), scores.clone()
    positions = mask.sum(dim=-1, keepdim=True, dtype=torch.float64)
    target = torch.minimum(budget[:, None], positions)
    undecided = (target > 0) & (target < positions)
    wanted = torch.where(undecided, target, positions / 2)  # of the others nothing is asked
    tolerance = wanted * max(torch.finfo(scores.dtype).eps / 8, _LEAST_TOLERANCE)
    x = torch.where(mask, scores, -torch.inf).double()
    x = x - x.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).min)
    shift = wanted.log() - x.exp().sum(dim=-1, keepdim=True).clamp_min(1).log()  # below 1 in a row without positions
    low, high = shift, positions.clamp_min(2).log() - torch.where(mask, x, 0).amin(dim=-1, keepdim=True)
    for _ in range(_SOLVER_STEPS):
        probabilities, slope = law(x + shift)
        reached = probabilities.sum(dim=-1, keepdim=True)
        excess = reached - wanted
        if may_stop and bool((excess.abs() <= tolerance).all()):
            break
        low, high = torch.where(excess <= 0, shift, low), torch.where(excess >= 0, shift, high)
        newton = shift + _log_odds_step(reached, wanted, positions, slope.sum(dim=-1, keepdim=True))
        inside = (newton >= low) & (newton <= high)
        shift = torch.where(inside, newton, (low + high) / 2)
    sure = (mask & (target == positions)).to(scores.dtype)
    probabilities, slope = torch.where(undecided, probabilities, sure), torch.where(undecided, slope, 0)
    return probabilities.to(scores.dtype), slope.to(scores.dtype)


def _log_odds_step(
    reached: torch.Tensor, wanted: torch.Tensor, positions: torch.Tensor, slope: torch.Tensor
) -> torch.Tensor:
    rest = positions - reached
    odds = (wanted / (positions - wanted)).log() - (reached / rest).log()
    return odds * reached * rest / (positions * slope)


class _HajekCorrection(torch.autograd.Function):
    """p [1 − (p̄ − p)(1 − p) / D] with D = Σ p (1 − p) and p̄ = Σ p² (1 − p) / D."""

    @staticmethod
    def forward(ctx, p):
        ctx.save_for_backward(p)
        spread, variance, mean = _hajek_sums(p)
        return p - spread * (mean - p) / variance

    @staticmethod
    @once_differentiable
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
    variance = torch.where(variance > 0, variance, 1)  # nothing is undecided, and nothing to correct
    return spread, variance, (p * spread).sum(dim=-1, keepdim=True) / variance


@dataclass(frozen=True)
class Sampler:
    """A way of drawing positions. The hard choice is always the largest of `scores + noise`, see [`topk_mask`].

    Attributes:
        noise (`Callable`): Draws the noise from keys, see [`keyed_random`].
        marginals (`Callable`): Closed-form probabilities that each position is drawn: `(scores, mask, budget)`.
        relaxation (`Callable`, *optional*): Relaxed values of the same draw, with the signature of [`rss`]. Without it
            the marginals are the relaxed values.
    """

    noise: Callable[..., torch.Tensor]
    marginals: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
    relaxation: Callable[..., torch.Tensor] | None = None


SAMPLERS = {
    "rss": Sampler(gumbel, gumbel_topk_marginals, relaxation=rss),
    "gumbel_topk": Sampler(gumbel, gumbel_topk_marginals),
    "logistic_topk": Sampler(logistic, logistic_topk_marginals),
}
