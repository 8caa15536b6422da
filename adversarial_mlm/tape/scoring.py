"""Figures of predictions: the one that validation selects by, all of a split with intervals, and differences."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..losses import IGNORE_INDEX
from ..statistics import BRIGHT_CUTOFF, accuracy, bootstrap_interval, mean_squared_error, spearman
from .tasks import TaskData

HEADLINE_METRICS = {
    "regression": "spearman",
    "classification": "sequence_accuracy",
    "token_classification": "residue_accuracy",
}


def headline_score(kind: str, predictions: Sequence, labels: Sequence) -> float:
    """Spearman correlation, share of the right proteins or share of the right residues; the higher, the better.

    Args:
        kind (`str`): Of the task.
        predictions (`Sequence`): Per protein a number, a class, or the classes of its residues. Of a protein that was
            read in part the classes of that part; the residues behind count as wrong.
        labels (`Sequence`): As in [`TaskData`]; -100 does not count, -1 is never right.

    Returns:
        `float`; nan where a correlation is not defined.
    """
    if kind == "regression":
        return float(spearman(np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)))
    if kind == "classification":
        return float((np.asarray(predictions) == np.asarray(labels)).mean())
    right = total = 0
    for predicted, wanted in zip(predictions, labels, strict=True):
        of_protein, scored = _right_residues(predicted, wanted)
        right, total = right + of_protein, total + scored
    return right / max(total, 1)


@dataclass(frozen=True)
class Figure:
    """A value with the ends of its interval; nan where it is not defined.

    Attributes:
        value, low, high (`float`): The figure, and its 95 % interval from resampled proteins.
        rows (`int`): How many proteins it is of.
    """

    value: float
    low: float
    high: float
    rows: int


def headline_name(data: TaskData, split: str) -> str:
    """The name of the figure that counts on a split: `spearman`, `residue_accuracy`, `sequence_accuracy`, or of the
    tests of remote homology `fold_accuracy`, `superfamily_accuracy`, `family_accuracy`."""
    if split in data.task.levels:
        return f"{data.task.levels[split]}_accuracy"
    return HEADLINE_METRICS[data.task.kind]


def score(
    data: TaskData, split: str, predictions: Sequence, *, bootstrap_samples: int = 1000, bootstrap_seed: int = 0
) -> dict[str, Figure]:
    """All figures of a split, the headline first.

    Regressions have `spearman` and `mse`, with fluorescence also `bright_spearman`, `bright_mse` and the same for
    `dark`; the others have the one that [`headline_name`] tells.

    Args:
        data ([`TaskData`]): The task.
        split (`str`): The split.
        predictions (`Sequence`): As of [`headline_score`].
        bootstrap_samples (`int`, defaults to 1000): Resamples of the proteins; 0 for no intervals.
        bootstrap_seed (`int`, defaults to 0): Of the resamples.

    Raises:
        ValueError: If there is not one prediction per protein.
    """
    labels = data.splits[split]["label"][:]
    _check_rows(split, predictions, labels)
    figures = {}
    for name, metric, arrays in _metrics(data, split, predictions, labels):
        value, low, high = float(metric(*arrays)), np.nan, np.nan
        if bootstrap_samples and np.isfinite(value):
            low, high = bootstrap_interval(metric, *arrays, samples=bootstrap_samples, seed=bootstrap_seed)
        figures[name] = Figure(value, low, high, len(arrays[0]))
    return figures


def compare(
    data: TaskData,
    split: str,
    predictions: Sequence,
    others: Sequence,
    *,
    bootstrap_samples: int = 1000,
    bootstrap_seed: int = 0,
) -> Figure:
    """By how much the headline figure of predictions exceeds that of others, on the same resampled proteins.

    Args:
        others (`Sequence`): Predictions of a baseline for the same rows.

        The others are as in [`score`].
    """
    labels = data.splits[split]["label"][:]
    for found in (predictions, others):
        _check_rows(split, found, labels)
    _, metric, first = next(iter(_metrics(data, split, predictions, labels)))
    _, _, second = next(iter(_metrics(data, split, others, labels)))
    columns = len(first)

    def difference(*arrays: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return metric(*arrays[:columns], weights=weights) - metric(*arrays[columns:], weights=weights)

    value, low, high = float(difference(*first, *second)), np.nan, np.nan
    if bootstrap_samples and np.isfinite(value):
        low, high = bootstrap_interval(
            difference, *first, *second, samples=bootstrap_samples, seed=bootstrap_seed
        )
    return Figure(value, low, high, len(labels))


def _check_rows(split: str, predictions: Sequence, labels: Sequence) -> None:
    if len(predictions) != len(labels):
        raise ValueError(f"{split} has {len(labels):,} proteins, and {len(predictions):,} predictions are given")


def _metrics(
    data: TaskData, split: str, predictions: Sequence, labels: Sequence
) -> Iterator[tuple[str, Callable, tuple[np.ndarray, np.ndarray]]]:
    """Yield name, function and the two columns of each figure."""
    name = headline_name(data, split)
    if data.task.kind == "regression":
        found, wanted = np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)
        yield name, spearman, (found, wanted)
        yield "mse", mean_squared_error, (found, wanted)
        if data.task.name == "fluorescence":
            for mode, rows in (("bright", wanted > BRIGHT_CUTOFF), ("dark", wanted <= BRIGHT_CUTOFF)):
                if rows.any():
                    yield f"{mode}_spearman", spearman, (found[rows], wanted[rows])
                    yield f"{mode}_mse", mean_squared_error, (found[rows], wanted[rows])
    elif data.task.kind == "classification":
        right = np.asarray(predictions) == np.asarray(labels)
        yield name, accuracy, (right.astype(np.float64), np.ones(len(right)))
    else:
        right, scored = np.zeros(len(labels)), np.zeros(len(labels))
        for row, (predicted, wanted) in enumerate(zip(predictions, labels, strict=True)):
            right[row], scored[row] = _right_residues(predicted, wanted)
        yield name, accuracy, (right, scored)


def _right_residues(predicted: Sequence, wanted: Sequence) -> tuple[int, int]:
    """How many residues are right, and how many are scored; residues that were not read are wrong."""
    predicted, wanted = np.asarray(predicted), np.asarray(wanted)
    right = (predicted == wanted[: len(predicted)]) & (wanted[: len(predicted)] >= 0)
    return int(right.sum()), int((wanted != IGNORE_INDEX).sum())
