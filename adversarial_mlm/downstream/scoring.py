"""Figures of predictions: the one that validation selects by, all of a split with intervals, and differences."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adversarial_mlm.downstream.tasks import TaskData
from adversarial_mlm.masking.losses import IGNORE_INDEX
from adversarial_mlm.utils.statistics import BRIGHT_CUTOFF, accuracy, bootstrap_interval, mean_squared_error, spearman

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
        wanted = np.asarray(wanted)
        right += _right_residues(predicted, wanted)
        total += int((wanted != IGNORE_INDEX).sum())
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
    data: TaskData, split: str, *runs: Sequence, bootstrap_samples: int = 1000, bootstrap_seed: int = 0
) -> dict[str, Figure]:
    """All figures of a split, the headline first; of several runs the mean.

    Regressions have `spearman` and `mse`, with fluorescence also `bright_spearman`, `bright_mse` and the same for
    `dark`; the others have the one that [`headline_name`] tells.

    Args:
        data ([`TaskData`]): The task.
        split (`str`): The split.
        runs (`Sequence`): Predictions as of [`headline_score`], of one run or of several with different seeds.
        bootstrap_samples (`int`, defaults to 1000): Resamples of the proteins, the same for all runs; 0 for no
            intervals.
        bootstrap_seed (`int`, defaults to 0): Of the resamples.

    Raises:
        ValueError: If there is not one prediction per protein.
    """
    figures = {}
    for name, metric, arrays in _metrics(data, split, runs):
        interval = (np.nan, np.nan)
        value = float(metric(*arrays))
        if bootstrap_samples and np.isfinite(value):
            interval = bootstrap_interval(metric, *arrays, samples=bootstrap_samples, seed=bootstrap_seed)
        figures[name] = Figure(value, *interval, len(arrays[0]))
    return figures


def compare(
    data: TaskData,
    split: str,
    runs: Sequence[Sequence],
    others: Sequence[Sequence],
    *,
    bootstrap_samples: int = 1000,
    bootstrap_seed: int = 0,
) -> Figure:
    """By how much the headline figure exceeds that of others, on the same resampled proteins.

    Args:
        runs (`Sequence[Sequence]`): Predictions of one run or of several, whose mean figure counts.
        others (`Sequence[Sequence]`): The same of what it is compared with.

        The others are as in [`score`].
    """
    _, metric, first = next(_metrics(data, split, runs))
    _, _, second = next(_metrics(data, split, others))

    def difference(*arrays: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return metric(*arrays[: len(first)], weights=weights) - metric(*arrays[len(first) :], weights=weights)

    interval = (np.nan, np.nan)
    value = float(difference(*first, *second))
    if bootstrap_samples and np.isfinite(value):
        interval = bootstrap_interval(difference, *first, *second, samples=bootstrap_samples, seed=bootstrap_seed)
    return Figure(value, *interval, len(first[0]))


def _mean_over_runs(metric: Callable) -> Callable:
    """A metric of the last column and each of those before it, one per run."""

    def of_runs(*arrays: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
        *found, last = arrays
        return sum(metric(column, last, weights=weights) for column in found) / len(found)

    return of_runs


def _metrics(
    data: TaskData, split: str, runs: Sequence[Sequence]
) -> Iterator[tuple[str, Callable, tuple[np.ndarray, ...]]]:
    """Yield name, function and columns of each figure: one column per run, and what they are compared with."""
    labels = data.splits[split]["label"][:]
    for predictions in runs:
        if len(predictions) != len(labels):
            raise ValueError(f"{split} has {len(labels):,} proteins, and {len(predictions):,} predictions are given")
    name = headline_name(data, split)
    if data.task.kind == "regression":
        columns = [np.asarray(column, dtype=np.float64) for column in (*runs, labels)]
        modes = {"": slice(None)}
        if data.task.name == "fluorescence":
            modes |= {"bright_": columns[-1] > BRIGHT_CUTOFF, "dark_": columns[-1] <= BRIGHT_CUTOFF}
        for mode, rows in modes.items():
            chosen = tuple(column[rows] for column in columns)
            if len(chosen[0]):
                yield f"{mode}spearman", _mean_over_runs(spearman), chosen
                yield f"{mode}mse", _mean_over_runs(mean_squared_error), chosen
    elif data.task.kind == "classification":
        right = [(np.asarray(predictions) == np.asarray(labels)).astype(np.float64) for predictions in runs]
        yield name, _mean_over_runs(accuracy), (*right, np.ones(len(labels)))
    else:
        labels = [np.asarray(wanted) for wanted in labels]
        right = [
            np.array([_right_residues(*pair) for pair in zip(predictions, labels, strict=True)], dtype=np.float64)
            for predictions in runs
        ]
        scored = np.array([(wanted != IGNORE_INDEX).sum() for wanted in labels], dtype=np.float64)
        yield name, _mean_over_runs(accuracy), (*right, scored)


def _right_residues(predicted: Sequence, wanted: np.ndarray) -> int:
    """How many residues are right; those that were not read are not."""
    wanted = wanted[: len(predicted)]
    return int(((np.asarray(predicted) == wanted) & (wanted >= 0)).sum())
