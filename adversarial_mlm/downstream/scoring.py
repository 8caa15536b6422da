"""Metrics of predictions: the headline score, all metrics of a split with intervals, and differences."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adversarial_mlm.downstream.labels import is_missing
from adversarial_mlm.downstream.tasks import TaskData
from adversarial_mlm.masking.losses import IGNORE_INDEX
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.statistics import BRIGHT_CUTOFF, accuracy, bootstrap_interval, mean_squared_error, spearman

FEW_GROUPS = 20
"""With fewer groups, an interval is rough, and the table says so."""

HEADLINE_METRICS = {
    "regression": "spearman",
    "classification": "sequence_accuracy",
    "token_classification": "residue_accuracy",
}


def headline_score(kind: str, predictions: Sequence | np.ndarray, labels: Sequence | np.ndarray) -> float:
    """Return the score by which settings are chosen: Spearman correlation, or accuracy over proteins or residues.

    Args:
        kind (`str`): Kind of the task.
        predictions (`Sequence`): A number, a class, or the classes of its residues for each protein. Residues beyond
            the predicted ones count as wrong.
        labels (`Sequence`): As in [`TaskData`]; -100 does not count, -1 is always wrong.

    Returns:
        `float`: Higher is better; nan if the correlation is not defined.
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
    """A metric with its interval; nan where it is not defined.

    Attributes:
        value, low, high (`float`): The value, and its 95 % interval from resampled groups, see [`resampled_groups`].
        rows (`int`): Number of proteins.
    """

    value: float
    low: float
    high: float
    rows: int


def headline_name(data: TaskData, split: str) -> str:
    """Name the headline metric of a split.

    It is `spearman`, `residue_accuracy` or `sequence_accuracy`. For the test sets of remote homology it is
    `fold_accuracy`, `superfamily_accuracy` or `family_accuracy`.
    """
    if split in data.task.levels:
        return f"{data.task.levels[split]}_accuracy"
    return HEADLINE_METRICS[data.task.kind]


@dataclass(frozen=True)
class Groups:
    """What the intervals of a split resample.

    Attributes:
        unit (`str`): Such as `"proteins"` or `"superfamilies"`.
        number (`int`): How many there are.
        of_rows (`np.ndarray` of shape `(proteins,)`, *optional*): The group of each protein; by default each is one.
        without (`int`): Proteins without a group; each counts as a group of its own.
    """

    unit: str
    number: int
    of_rows: np.ndarray | None = None
    without: int = 0


def resampled_groups(data: TaskData, split: str) -> Groups:
    """Return the groups of related proteins that the intervals of a split resample, or its single proteins.

    The groups are in a remark, see `groups` of [`Task`]. If the proteins are all of one group, they are resampled
    singly, because one group has no interval.
    """
    dataset = data.splits[split]
    column = next((name for name in data.task.groups if name in dataset.column_names), None)
    if column is None:
        return Groups(data.task.unit, len(dataset))
    names: list[str] = []
    without = 0
    for row, name in enumerate(dataset[column][:]):
        missing = name is None or is_missing(str(name))
        without += missing
        names.append(f"row {row}" if missing else f"group {name}")
    distinct, of_rows = np.unique(names, return_inverse=True)
    if len(distinct) == 1:
        return Groups(f"proteins of one group ({column})", len(names))
    return Groups(data.task.groups[column], len(distinct), of_rows, without)


def score(
    data: TaskData, split: str, *runs: Sequence, bootstrap_samples: int = 1000, bootstrap_seed: int = 0
) -> dict[str, Figure]:
    """Compute all metrics of a split, the headline first; with several runs, their mean.

    Regressions have `spearman` and `mse`. Fluorescence also has `bright_spearman`, `bright_mse`, and the same for
    `dark`.
    Other tasks have the metric of [`headline_name`].

    Args:
        data ([`TaskData`]): The task.
        split (`str`): The split.
        runs (`Sequence`): Predictions as for [`headline_score`], one per seed.
        bootstrap_samples (`int`, defaults to 1000): Number of resamples of the groups, the same for all runs; 0 for
            no intervals.
        bootstrap_seed (`int`, defaults to 0): Seed of the resamples.

    Raises:
        ValueError: If the number of predictions is not that of the proteins.
    """
    figures = {}
    groups = resampled_groups(data, split).of_rows if bootstrap_samples else None
    for name, metric, arrays, rows in _metrics(data, split, runs):
        interval = (np.nan, np.nan)
        value = float(metric(*arrays))
        if bootstrap_samples and np.isfinite(value):
            of_rows = None if groups is None else groups[rows]
            interval = bootstrap_interval(
                metric, *arrays, groups=of_rows, samples=bootstrap_samples, seed=bootstrap_seed
            )
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
    """Compute the difference in the headline metric to other runs, on the same resampled groups.

    Args:
        runs (`Sequence[Sequence]`): Predictions of one or several runs; their mean metric is used.
        others (`Sequence[Sequence]`): Predictions of the runs to compare with.

        The other arguments are those of [`score`].
    """
    _, metric, first, _ = next(_metrics(data, split, runs))
    _, _, second, _ = next(_metrics(data, split, others))

    def difference(*arrays: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return metric(*arrays[: len(first)], weights=weights) - metric(*arrays[len(first) :], weights=weights)

    interval = (np.nan, np.nan)
    value = float(difference(*first, *second))
    if bootstrap_samples and np.isfinite(value):
        groups = resampled_groups(data, split).of_rows
        interval = bootstrap_interval(
            difference, *first, *second, groups=groups, samples=bootstrap_samples, seed=bootstrap_seed
        )
    return Figure(value, *interval, len(first[0]))


def _mean_over_runs(metric: Callable) -> Callable:
    """Average a metric over runs: the last column holds the labels, the others one run each."""

    def of_runs(*arrays: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray:
        *found, last = arrays
        return sum(metric(column, last, weights=weights) for column in found) / len(found)

    return of_runs


def _metrics(
    data: TaskData, split: str, runs: Sequence[Sequence]
) -> Iterator[tuple[str, Callable, tuple[np.ndarray, ...], slice | np.ndarray]]:
    """Yield name, function, columns and rows of each metric: one column per run, then the labels."""
    labels = data.splits[split]["label"][:]
    for predictions in runs:
        if len(predictions) != len(labels):
            raise ValueError(
                f"{split} has {count(len(labels), 'protein')}, but {count(len(predictions), 'prediction')} given"
            )
    name = headline_name(data, split)
    if data.task.kind == "regression":
        columns = [np.asarray(column, dtype=np.float64) for column in (*runs, labels)]
        modes: dict[str, slice | np.ndarray] = {"": slice(None)}
        if data.task.name == "fluorescence":
            modes |= {"bright_": columns[-1] > BRIGHT_CUTOFF, "dark_": columns[-1] <= BRIGHT_CUTOFF}
        for mode, rows in modes.items():
            chosen = tuple(column[rows] for column in columns)
            if len(chosen[0]):
                yield f"{mode}spearman", _mean_over_runs(spearman), chosen, rows
                if not data.task.other_units:
                    yield f"{mode}mse", _mean_over_runs(mean_squared_error), chosen, rows
    elif data.task.kind == "classification":
        right = [(np.asarray(predictions) == np.asarray(labels)).astype(np.float64) for predictions in runs]
        yield name, _mean_over_runs(accuracy), (*right, np.ones(len(labels))), slice(None)
    else:
        labels = [np.asarray(wanted) for wanted in labels]
        right = [
            np.array([_right_residues(*pair) for pair in zip(predictions, labels, strict=True)], dtype=np.float64)
            for predictions in runs
        ]
        scored = np.array([(wanted != IGNORE_INDEX).sum() for wanted in labels], dtype=np.float64)
        yield name, _mean_over_runs(accuracy), (*right, scored), slice(None)


def _right_residues(predicted: Sequence, wanted: np.ndarray) -> int:
    """Count the residues that are right; residues that were not read are wrong."""
    wanted = wanted[: len(predicted)]
    return int(((np.asarray(predicted) == wanted) & (wanted >= 0)).sum())
