"""Linear heads in closed form, solved in seconds: ridge regression, and a linear discriminant for classes.

Penalties are chosen on valid. Only sums over rows are kept in memory; rows are computed when they are needed. Sums are
in float64, because float32 would lose the digits that small penalties need.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from adversarial_mlm.downstream.scoring import headline_score
from adversarial_mlm.masking.losses import IGNORE_INDEX
from adversarial_mlm.utils.errors import AdversarialMLMError

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 8192
_ROWS_IN_FLOAT64 = 2048

PENALTIES = tuple(10.0 ** (exponent / 2) for exponent in range(-12, 5))
"""Penalties, added to the variance of every (standardised) column: 1e-6 to 100."""

_DISCRIMINANT_PENALTIES = PENALTIES[2:14:2]
_SHRINKAGES = (0.0, 1.0, 3.0, 10.0)


@dataclass(frozen=True)
class Rows:
    """A matrix that is computed in blocks of rows.

    Attributes:
        count (`int`): Number of rows.
        columns (`int`): Number of columns.
        blocks (`Callable`): Returns an iterator over blocks of shape `(some rows, columns)`, float32.
    """

    count: int
    columns: int
    blocks: Callable[[], Iterator[np.ndarray]]

    @classmethod
    def of(cls, matrix: np.ndarray) -> "Rows":
        """Wrap an array of shape `(rows, columns)`."""

        def blocks() -> Iterator[np.ndarray]:
            for start in range(0, len(matrix), _ROWS_AT_ONCE):
                yield np.asarray(matrix[start : start + _ROWS_AT_ONCE], dtype=np.float32)

        count, columns = matrix.shape
        return cls(count, columns, blocks)


@dataclass(frozen=True)
class Fit:
    """A fitted head.

    Attributes:
        predictions (`dict[str, np.ndarray]`): By split, one number or class per row.
        settings (`dict`): Settings chosen on valid.
        valid_score (`float`): Score on valid of these settings.
    """

    predictions: dict[str, np.ndarray]
    settings: dict
    valid_score: float


@dataclass(frozen=True)
class _Scale:
    """Means and factors of the columns; the factor of a column that is constant in train is 0."""

    mean: np.ndarray
    factor: np.ndarray

    @classmethod
    def of(cls, rows: Rows, standardise: bool) -> "_Scale":
        total, squares = np.zeros(rows.columns), np.zeros(rows.columns)
        for block in rows.blocks():
            total += block.sum(axis=0, dtype=np.float64)
        mean = total / rows.count
        for block in rows.blocks():
            squares += np.square(block - mean).sum(axis=0)
        deviation = np.sqrt(squares / rows.count)
        varies = deviation > 1e-6 * np.maximum(np.abs(mean), 1e-30)
        factor = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
        return cls(mean, factor if standardise else varies.astype(np.float64))

    def blocks(self, rows: Rows) -> Iterator[np.ndarray]:
        """Yield the scaled rows in blocks, float64."""
        for block in rows.blocks():
            for start in range(0, len(block), _ROWS_IN_FLOAT64):
                yield (block[start : start + _ROWS_IN_FLOAT64] - self.mean) * self.factor


def fit_ridge(
    features: Mapping[str, Rows],
    labels: Mapping[str, np.ndarray],
    *,
    standardise: bool = True,
    penalties: Sequence[float] = PENALTIES,
) -> Fit:
    """Fit ridge regression, with the penalty that has the highest Spearman correlation on valid.

    Minimises mean((y - b - Xw)²) + penalty · |w|² for centred columns X; b is not penalised.

    Args:
        features (`Mapping[str, Rows]`): Rows by split, including `train` and `valid`.
        labels (`Mapping[str, np.ndarray]`): Numbers of `train` and `valid`.
        standardise (`bool`, defaults to `True`): Whether to scale columns to variance 1 in train.
        penalties (`Sequence[float]`): Penalties to choose from.

    Returns:
        [`Fit`] with a float64 per row, and the setting `penalty`. If no correlation is defined, the penalty with the
        smallest squared error on valid is chosen. Penalties without a solution are logged and counted in the setting
        `penalties_without_solution`.

    Raises:
        [`AdversarialMLMError`]: If there is no solution for any penalty.
    """
    scale = _Scale.of(features["train"], standardise)
    numbers = np.asarray(labels["train"], dtype=np.float64)
    centre = numbers.mean()
    columns = features["train"].columns
    gram, cross, start = np.zeros((columns, columns)), np.zeros(columns), 0
    for block in scale.blocks(features["train"]):
        stop = start + len(block)
        gram += block.T @ block
        cross += block.T @ (numbers[start:stop] - centre)
        start = stop
    gram, cross = gram / len(numbers), cross / len(numbers)
    solved = {penalty: _solve(gram, penalty, cross[:, None]) for penalty in penalties}
    usable = {penalty: found for penalty, found in solved.items() if found is not None}
    failed = _count_failed("ridge regression", gram, penalties, [*(solved.keys() - usable.keys())])
    weights = np.concatenate(list(usable.values()), axis=1)
    on_valid = _apply(scale, features["valid"], weights) + centre
    truth = np.asarray(labels["valid"], dtype=np.float64)
    scores = np.array([headline_score("regression", column, truth) for column in on_valid.T])
    errors = np.square(on_valid - truth[:, None]).mean(axis=0)
    best = int(np.argmin(errors) if np.isnan(scores).all() else np.nanargmax(scores))
    chosen = weights[:, [best]]
    predictions = {split: _apply(scale, rows, chosen)[:, 0] + centre for split, rows in features.items()}
    return Fit(predictions, {"penalty": float(list(usable)[best]), **failed}, float(scores[best]))


def fit_discriminant(
    features: Mapping[str, Rows],
    labels: Mapping[str, np.ndarray],
    num_classes: int,
    *,
    penalties: Sequence[float] = _DISCRIMINANT_PENALTIES,
    shrinkages: Sequence[float] = _SHRINKAGES,
) -> Fit:
    """Fit linear discriminant analysis: normal distributions with a common covariance and one centre per class.

    The centre of a class with n rows is multiplied by n / (n + shrinkage), which moves it towards the common centre.
    The penalty is added to the variance of every standardised column. Both are chosen by accuracy on valid.

    Args:
        features (`Mapping[str, Rows]`): Rows by split, including `train` and `valid`.
        labels (`Mapping[str, np.ndarray]`): Classes of `train` and `valid`. Rows with a negative class do not count.
        num_classes (`int`): Number of classes; a class that train lacks is never predicted.
        penalties, shrinkages (`Sequence[float]`): Values to choose from.

    Returns:
        [`Fit`] with an int64 per row, and the settings `penalty` and `shrinkage`. Penalties without a solution are
        logged and counted in the setting `penalties_without_solution`.

    Raises:
        [`AdversarialMLMError`]: If there is no solution for any penalty.
    """
    scale = _Scale.of(features["train"], standardise=True)
    classes = np.asarray(labels["train"])
    columns = features["train"].columns
    counts = np.bincount(classes[classes >= 0], minlength=num_classes).astype(np.float64)
    sums, gram, start = np.zeros((num_classes, columns)), np.zeros((columns, columns)), 0
    for block in scale.blocks(features["train"]):
        of_block = classes[start : start + len(block)]
        start += len(block)
        block, of_block = block[of_block >= 0], of_block[of_block >= 0]
        gram += block.T @ block
        order = np.argsort(of_block, kind="stable")
        present, first = np.unique(of_block[order], return_index=True)
        if len(present):
            sums[present] += np.add.reduceat(block[order], first, axis=0, dtype=np.float64)
    centres = sums / np.maximum(counts, 1)[:, None]
    covariance = (gram - (centres.T * counts) @ centres) / counts.sum()
    with np.errstate(divide="ignore"):
        prior = np.log(counts / counts.sum())
    truth = np.asarray(labels["valid"])
    best: tuple | None = None
    without_solution = []
    for penalty in penalties:
        directions = _solve(covariance, penalty, centres.T)
        if directions is None:
            without_solution.append(penalty)
            continue
        squares = np.einsum("cd,dc->c", centres, directions)
        on_valid = _apply(scale, features["valid"], directions)
        for shrinkage in shrinkages:
            factor = counts / np.maximum(counts + shrinkage, 1)
            bias = prior - 0.5 * np.square(factor) * squares
            found = (on_valid * factor + bias).argmax(axis=1)
            score = float((found == truth)[truth != IGNORE_INDEX].mean())
            if best is None or score > best[0]:
                best = score, penalty, shrinkage, directions * factor, bias
    failed = _count_failed("linear discriminant", covariance, penalties, without_solution)
    assert best is not None  # at least one penalty has a solution
    score, penalty, shrinkage, weights, bias = best
    predictions = {split: _apply(scale, rows, weights, bias) for split, rows in features.items()}
    return Fit(predictions, {"penalty": float(penalty), "shrinkage": float(shrinkage), **failed}, score)


def _solve(matrix: np.ndarray, penalty: float, right: np.ndarray) -> np.ndarray | None:
    """Solve (matrix + penalty · identity) x = right for a positive matrix; `None` if rounding makes it singular."""
    system = torch.from_numpy(matrix).clone()
    system.diagonal().add_(penalty)
    factor, failed = torch.linalg.cholesky_ex(system)
    if failed:
        return None
    return torch.cholesky_solve(torch.from_numpy(np.ascontiguousarray(right)), factor).numpy()


def _count_failed(
    head: str, matrix: np.ndarray, penalties: Sequence[float], failed: Sequence[float]
) -> dict[str, int]:
    """Log the penalties without a solution, and return their number as a setting; none if all have one."""
    if not failed:
        return {}
    if not np.isfinite(matrix).all():
        raise AdversarialMLMError(
            f"the {head} has no solution, because the features of train are not finite: the encoder's weights may be "
            "damaged"
        )
    if len(failed) == len(penalties):
        raise AdversarialMLMError(
            f"the {head} has no solution for any of the penalties up to {max(failed):g}: give larger ones"
        )
    logger.warning(
        "%s: %d of %d penalties have no solution because of rounding and are left out: those up to %g.",
        *(head, len(failed), len(penalties), max(failed)),
    )
    return {"penalties_without_solution": len(failed)}


def _apply(scale: _Scale, rows: Rows, weights: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    """Return rows @ weights; with a bias, the index of the largest column of each row."""
    products = (block @ weights for block in scale.blocks(rows))
    if bias is not None:
        products = ((block + bias).argmax(axis=1) for block in products)
    return np.concatenate(list(products))
