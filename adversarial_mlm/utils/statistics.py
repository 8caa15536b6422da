"""Metrics and their uncertainty, in numpy; only Student's t distribution comes from scipy.

The functions take a weight for every row, so a bootstrap does not have to build its resamples: a row that was drawn
three times has the weight 3. `weights` has the shape `(rows,)`, or `(samples, rows)` for many resamples at once. The
result is one number or one per sample. Undefined results are nan.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.extras import require

BRIGHT_CUTOFF = 2.0
"""A protein is bright if its log fluorescence is above this value, else dark, as in TAPE's published analysis."""

# This fits into the caches of a processor: 27,217 rows and 1,000 samples take half the time of one big block.
_WEIGHTS_AT_ONCE = 300_000

_ROUNDING = 1e-12  # a smaller spread of differences, relative to the values, counts as rounding


def spearman(predictions: np.ndarray, references: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
    """Rank correlation: Pearson's correlation of the ranks. Equal values share the average of their ranks.

    Args:
        predictions (`np.ndarray` of shape `(rows,)`): predicted values.
        references (`np.ndarray` of shape `(rows,)`): true values.
        weights (`np.ndarray` of shape `(rows,)` or `(samples, rows)`, *optional*): how often each row counts, in
            whole numbers; by default once.

    Returns:
        `float`, or `np.ndarray` of shape `(samples,)`: between -1 and 1. It is nan if either side is constant, has
        fewer than two rows or contains nan.
    """
    predictions, references = _columns(predictions, references)
    weights, single = _as_samples(weights, len(predictions))
    if np.isnan(predictions).any() or np.isnan(references).any() or not len(predictions):
        return _result(np.full(len(weights), np.nan), single)
    # ranks run from 1 to the sum of the weights, which gives their mean
    middle = (weights.sum(axis=1, keepdims=True) + 1) / 2
    first = _ranks(predictions, weights) - middle
    second = _ranks(references, weights) - middle
    covariance = np.einsum("sr,sr,sr->s", weights, first, second)
    variances = np.einsum("sr,sr,sr->s", weights, first, first) * np.einsum("sr,sr,sr->s", weights, second, second)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlation = np.where(variances > 0, covariance / np.sqrt(variances), np.nan)
    return _result(np.clip(correlation, -1.0, 1.0), single)


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value, from 1; equal values share the average of their ranks: `(rows,)`."""
    return _ranks(np.asarray(values, dtype=np.float64), np.ones((1, len(values))))[0]


def mean_squared_error(
    predictions: np.ndarray, references: np.ndarray, weights: np.ndarray | None = None
) -> float | np.ndarray:
    """Mean of the squared differences; nan without rows. Arguments and result have the shapes of [`spearman`]."""
    predictions, references = _columns(predictions, references)
    return accuracy(np.square(predictions - references), np.ones(len(predictions)), weights)


def accuracy(right: np.ndarray, total: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
    """Share of the right answers, over rows with several answers each.

    Args:
        right (`np.ndarray` of shape `(rows,)`): number of right answers, such as residues of a protein.
        total (`np.ndarray` of shape `(rows,)`): number of answers.
        weights (`np.ndarray` of shape `(rows,)` or `(samples, rows)`, *optional*): how often each row counts; by
            default once.

    Returns:
        `float`, or `np.ndarray` of shape `(samples,)`: the sum of `right` by the sum of `total`; nan if that is 0.
    """
    right, total = _columns(right, total)
    weights, single = _as_samples(weights, len(right))
    answers = weights @ total
    with np.errstate(divide="ignore", invalid="ignore"):
        return _result(np.where(answers > 0, (weights @ right) / answers, np.nan), single)


def bootstrap_interval(
    metric: Callable[..., np.ndarray],
    *arrays: np.ndarray,
    groups: np.ndarray | None = None,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of a metric from resampled rows: the percentile bootstrap.

    Args:
        metric (`Callable`): called as `metric(*arrays, weights=weights)` with weights of shape `(samples, rows)`, and
            returns one value per sample, such as [`spearman`], [`mean_squared_error`] or [`accuracy`].
        arrays (`np.ndarray` of shape `(rows,)`): the arguments of `metric`, one row per protein.
        groups (`np.ndarray` of shape `(rows,)`, *optional*): rows of the same group are drawn together, such as
            variants of one protein. By default every row is its own group.
        samples (`int`, defaults to 1000): number of resamples.
        seed (`int`, defaults to 0): seed of the draws.
        level (`float`, defaults to 0.95): share of the resamples inside the interval.

    Returns:
        `tuple[float, float]`: lower and upper end. Resamples in which the metric is not defined are left out. Both
        ends are nan if these are more than `1 - level` of all, or if there are fewer than two groups.

    Raises:
        `ValueError`: if the arrays have different lengths, or `samples` or `level` is out of range.
    """
    if samples < 1 or not 0.0 < level < 1.0:
        raise ValueError(f"samples must be at least 1 and level between 0 and 1, got {samples!r} and {level!r}")
    rows = len(arrays[0])
    number, group_of_row = rows, None
    if groups is not None:
        names, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
        number = len(names)
    if any(len(array) != rows for array in arrays) or (group_of_row is not None and len(group_of_row) != rows):
        raise ValueError("all arrays of a bootstrap, and its groups, must have the same number of rows")
    if number < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    at_once = max(1, _WEIGHTS_AT_ONCE // rows)
    parts = []
    for start in range(0, samples, at_once):
        weights = _draw(generator, min(at_once, samples - start), number)
        parts.append(metric(*arrays, weights=weights if group_of_row is None else weights[:, group_of_row]))
    values = np.concatenate(parts)
    defined = values[~np.isnan(values)]
    if len(defined) < level * samples:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class MeanDifference:
    """The mean of paired differences, with an interval from Student's t distribution.

    Attributes:
        mean (`float`): Mean difference.
        low, high (`float`): The ends of its interval; nan for fewer than two pairs, or if all differences are equal.
        p_value (`float`): Two-sided p-value of a mean of 0; nan in the same cases.
        pairs (`int`): Number of pairs.
    """

    mean: float
    low: float
    high: float
    p_value: float
    pairs: int


def paired_difference(first: Sequence[float], second: Sequence[float], level: float = 0.95) -> MeanDifference:
    """Return the mean of `first - second`, with its interval and p-value.

    Args:
        first (`Sequence[float]`): One value for each pair, such as each seed.
        second (`Sequence[float]`): The values to compare with, in the same order.
        level (`float`, defaults to 0.95): Level of the interval.

    Raises:
        ValueError: If the numbers of values differ or are 0.
        MissingPackageError: If scipy is not installed, and the differences are not all equal.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"first and second must have the same number of values, at least one, got {len(first)} and {len(second)}"
        )
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    pairs, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(pairs) if pairs > 1 else 0.0
    largest = max(np.abs(first).max(), np.abs(second).max())
    if error <= _ROUNDING * largest:
        return MeanDifference(mean, math.nan, math.nan, math.nan, pairs)
    reach = t_quantile(level, pairs - 1) * error
    return MeanDifference(mean, mean - reach, mean + reach, t_p_value(mean / error, pairs - 1), pairs)


def t_p_value(t: float, freedom: int) -> float:
    """Return the two-sided p-value of `t` under Student's distribution: the probability of |T| ≥ |t|."""
    return float(2 * _student_t().sf(abs(t), freedom))


def t_quantile(level: float, freedom: int) -> float:
    """Return the value x for which P(-x < T < x) = `level` under Student's distribution."""
    return float(_student_t().ppf((1 + level) / 2, freedom))


def _student_t() -> Any:
    return require("scipy.stats", "compare", "Student's t distribution").t


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple comparisons with Holm's method. Values that are nan stay nan and do not count.

    Args:
        p_values (`Sequence[float]`): P-values of comparisons that belong together.

    Returns:
        `list[float]`: Corrected p-values in the same order. Rejecting all below α has a probability of at most α of
        one or more wrong rejections.
    """
    adjusted = [math.nan] * len(p_values)
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = largest
    return adjusted


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return a confidence interval of the median from order statistics, valid for any distribution.

    With fewer than six values no interval reaches 95 %. Then the smallest and the largest value are returned.
    """
    ordered, n = sorted(values), len(values)
    outside = 0.0  # probability that the median lies below the next order statistic
    low = 0
    for k in range(n // 2):
        outside += math.comb(n, k) / 2**n
        if 2 * outside > 1 - confidence:
            break
        low = k
    return ordered[low], ordered[n - 1 - low]


def _draw(generator: np.random.Generator, samples: int, number: int) -> np.ndarray:
    """Return how often each of `number` items was drawn in `number` draws with replacement: `(samples, number)`."""
    drawn = generator.integers(number, size=(samples, number))
    drawn += np.arange(samples)[:, None] * number
    return np.bincount(drawn.ravel(), minlength=samples * number).reshape(samples, number).astype(np.float64)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the average rank of each row, where each row counts as often as its weight: `(samples, rows)`."""
    _, value_of_row, counts = np.unique(values, return_inverse=True, return_counts=True)
    starts = np.cumsum(counts) - counts
    order = np.argsort(value_of_row, kind="stable")
    of_value = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(of_value, axis=1) - (of_value - 1) / 2)[:, value_of_row]


def _columns(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"a metric needs two columns of the same length, got shapes {first.shape} and {second.shape}")
    return first, second


def _as_samples(weights: np.ndarray | None, rows: int) -> tuple[np.ndarray, bool]:
    """Return the weights as `(samples, rows)`, and whether they had no dimension of samples."""
    weights = np.ones(rows) if weights is None else np.asarray(weights, dtype=np.float64)
    if weights.shape[-1] != rows:
        raise ValueError(f"weights must have one value for each of the {count(rows, 'row')}, got {weights.shape[-1]}")
    return np.atleast_2d(weights), weights.ndim == 1


def _result(values: np.ndarray, single: bool) -> float | np.ndarray:
    return float(values[0]) if single else values
