"""Shift the scores of a row until the probabilities of its positions sum to its budget.

A [`Law`] turns a shifted score x into a probability π(x). The solver finds, for each row, the shift c with
Σ π(s_i + c) = k. It works in float64.

| device | method | ends |
| --- | --- | --- |
| CPU | Newton's method, with bisection where a step leaves the bracket | when all rows are solved |
| others | two rounds of 31 sections each, then Newton's method | after a fixed number of steps, so nothing waits |
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

LEAST_TEMPERATURE = 0.1  # of `rss`; infinite scores are replaced by numbers that can be divided by it


@dataclass(frozen=True)
class Law:
    """How a shifted score becomes a probability.

    Attributes:
        probability (`Callable`): π(x), which increases with x and is below e^x.
        with_slope (`Callable`): π(x) and its slope π'(x).
    """

    probability: Callable[[torch.Tensor], torch.Tensor]
    with_slope: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


_MOST_STEPS = 40  # of a CPU
_LEAST_TOLERANCE = 1e-13  # relative to the budget
_LARGEST_DIFFERENCE = 1e6  # between the scores of a row, for the bisection
_SURE = 7.0  # above this, exp(-exp(x)) is 0 even in float64
# The bracket is 2 log n plus the gap between the k-th score and the next. Two rounds narrow it to a thousandth. From
# there, each Newton step squares the error: about 1e-2, 1e-4, 1e-9, 1e-18.
_SECTIONS, _ROUNDS = 32, 2
_WIDEST_GAP = 100.0  # exp(-100) is 0 in float32, and far below the tolerance in float64
_NEWTON_STEPS = {torch.float32: 2, torch.float64: 4}


def finite(scores: torch.Tensor) -> torch.Tensor:
    """Return scores in which infinity is the largest number that can be divided by any temperature."""
    largest = torch.finfo(scores.dtype).max * LEAST_TEMPERATURE / 2
    return scores.clamp(-largest, largest)


def _over(x: torch.Tensor) -> torch.Tensor:
    return 1 - x.exp().neg_().exp_()


def _over_with_slope(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rate = x.clamp_max(_SURE).exp_()
    not_yet = torch.neg(rate).exp_()
    return 1 - not_yet, rate.mul_(not_yet)


def _sigmoid_with_slope(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    probability = torch.sigmoid(x)
    return probability, probability * torch.sigmoid(-x)


# 1 − exp(−e^x): the probability that an exponential waiting time of rate e^x is over at time 1
EXPONENTIAL = Law(_over, _over_with_slope)
LOGISTIC = Law(torch.sigmoid, _sigmoid_with_slope)


def solve(
    scores: torch.Tensor, mask: torch.Tensor, budget: torch.Tensor, law: Law, may_stop: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return probabilities that sum to the budget of each row, and their slopes.

    The sum is the budget within an eighth of the dtype's precision, or 1e-13, relative to the budget.

    Args:
        scores (`torch.Tensor` of shape `(batch, length)`, float32 or float64): Scores; infinite ones count as the
            largest or least finite one.
        mask (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): What the probabilities of a row sum to. If a row has fewer
            positions, all have probability 1.
        law ([`Law`]): `EXPONENTIAL` or `LOGISTIC`.
        may_stop (`bool`): Whether to stop when all rows are solved, which waits for the device.

    Returns:
        Two `torch.Tensor` of shape `(batch, length)`; 0 where `mask` is false.
    """
    if scores.shape[-1] == 0:
        return scores.clone(), scores.clone()
    positions = mask.sum(dim=-1, keepdim=True, dtype=torch.float64)
    target = torch.minimum(budget[:, None], positions)
    undecided = (target > 0) & (target < positions)
    wanted = torch.where(undecided, target, positions / 2)  # any value for the others
    x = torch.where(mask, finite(scores), -torch.inf).double()
    x = x - x.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).min)
    x = torch.where(mask, x.clamp_min(-_LARGEST_DIFFERENCE), x)
    if may_stop:
        tolerance = wanted * max(torch.finfo(scores.dtype).eps / 8, _LEAST_TOLERANCE)
        probabilities, slope = _until_solved(x, mask, positions, wanted, tolerance, law)
    else:
        probabilities, slope = _in_fixed_steps(x, positions, wanted, law, _NEWTON_STEPS[scores.dtype])
    sure = mask & (target == positions)
    probabilities, slope = torch.where(undecided, probabilities, sure), torch.where(undecided, slope, 0)
    return probabilities.to(scores.dtype), slope.to(scores.dtype)


def _until_solved(
    x: torch.Tensor,
    mask: torch.Tensor,
    positions: torch.Tensor,
    wanted: torch.Tensor,
    tolerance: torch.Tensor,
    law: Law,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Newton's method with bisection where a step is too large.

    Newton's steps are taken for the log-odds of the chosen share, which are nearly linear in c: four or five steps
    suffice if scores differ by less than ten. Both laws are below e^x, which gives the lower end of the bracket. At
    log n above minus the least score, all but one position are chosen, which gives the upper end.
    """
    shift = wanted.log() - x.exp().sum(dim=-1, keepdim=True).clamp_min(1).log()  # below 1 in a row without positions
    low, high = shift, positions.clamp_min(2).log() - torch.where(mask, x, 0).amin(dim=-1, keepdim=True)
    for _ in range(_MOST_STEPS):
        probabilities, slope = law.with_slope(x + shift)
        reached = probabilities.sum(dim=-1, keepdim=True)
        excess = reached - wanted
        if bool((excess.abs() <= tolerance).all()):
            break
        low, high = torch.where(excess <= 0, shift, low), torch.where(excess >= 0, shift, high)
        newton = shift + _log_odds_step(reached, wanted, positions, slope.sum(dim=-1, keepdim=True))
        inside = (newton >= low) & (newton <= high)
        shift = torch.where(inside, newton, (low + high) / 2)
    return probabilities, slope


def _log_odds_step(
    reached: torch.Tensor, wanted: torch.Tensor, positions: torch.Tensor, slope: torch.Tensor
) -> torch.Tensor:
    rest = positions - reached
    odds = (wanted / (positions - wanted)).log() - (reached / rest).log()
    return odds * reached * rest / (positions * slope)


def _in_fixed_steps(
    x: torch.Tensor, positions: torch.Tensor, wanted: torch.Tensor, law: Law, steps: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sections of a bracket, then Newton's method within it; the number of steps follows from the dtype alone.

    Let s_(k) be the k-th largest score. With c = −s_(k) − log n, the k − 1 largest count less than 1 each and the
    others at most 1 / n, so the sum is below k. With c = −s_(k+1) + log n, the k + 1 largest miss at most 1 / n each,
    so the sum is above k. If the k-th score is far above the next, the sum is k in most of this bracket. Then a part
    of it suffices.
    """
    ordered = x.sort(dim=-1, descending=True).values.clamp_min(-_LARGEST_DIFFERENCE)
    rank = wanted.long().clamp_min(1)  # the (k + 1)-th is at index k
    margin = positions.clamp_min(2).log()
    least_chosen = ordered.gather(-1, rank - 1)
    gap = least_chosen - ordered.gather(-1, rank.clamp_max(x.shape[-1] - 1))
    low = -least_chosen - margin
    width = torch.add(gap.clamp_max(_WIDEST_GAP), margin, alpha=2)
    inner = _inner_ends(x.device)
    for _ in range(_ROUNDS):
        width = width / _SECTIONS
        shifts = torch.addcmul(low, width, inner)  # (batch, sections − 1)
        sums = law.probability(x[:, None] + shifts[..., None]).sum(dim=-1)
        below = (sums < wanted).sum(dim=-1, keepdim=True, dtype=x.dtype)
        low = torch.addcmul(low, width, below)
    high = low + width
    shift = torch.add(low, width, alpha=0.5)
    for _ in range(steps):
        probabilities, slope = law.with_slope(x + shift)
        missing = wanted - probabilities.sum(dim=-1, keepdim=True)
        # where the slope is 0, the sum is constant, and so is the shift if nothing is missing
        slope = slope.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(slope.dtype).tiny)
        shift = torch.clamp(torch.addcdiv(shift, missing, slope), low, high)
    return law.with_slope(x + shift)


@functools.cache
def _inner_ends(device: torch.device) -> torch.Tensor:
    """1, 2 … of the sections of a bracket."""
    return torch.arange(1, _SECTIONS, device=device, dtype=torch.float64)
