"""Metrics of TAPE's tasks for the library `evaluate`, without network access.

- regression: [`SpearmanCorrelation`], [`MeanSquaredError`], [`BrightAndDark`];
- classes of proteins: [`SequenceAccuracy`], [`HomologyAccuracy`];
- classes of residues: [`ResidueAccuracy`].

Each is an `evaluate.Metric`: `add`, `add_batch`, `compute` and `evaluate.combine` work as usual. The formulas are in
`utils/statistics.py`. This module imports `evaluate`, which takes seconds.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value
from datasets import Sequence as SequenceOf

from adversarial_mlm.masking.losses import IGNORE_INDEX
from adversarial_mlm.utils import statistics
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.statistics import BRIGHT_CUTOFF

HOMOLOGY_LEVELS = ("fold", "superfamily", "family")

_OPTIONS = """
Options of `compute`:
    bootstrap_samples (`int`, defaults to 0): number of resamples of the proteins for an interval of every metric, as
        `<name>_low` and `<name>_high`; 0 for none.
    bootstrap_seed (`int`, defaults to 0): seed of the resamples.
    level (`float`, defaults to 0.95): level of the interval.
    groups (`list`, *optional*): a name per protein; proteins of a group are resampled together.
"""

_NUMBERS = """
Args:
    predictions (`list[float]`): one number per protein.
    references (`list[float]`): the true numbers.
"""


class _OfflineMetric(evaluate.Metric):
    """Base class of metrics that keep predictions in memory and need no folder.

    `evaluate` writes predictions to its cache folder, and creates the folder even with `keep_in_memory`. These metrics
    also work where nothing can be written, and processes do not disturb each other. With `num_process` above 1 they
    need a common folder, `cache_dir`, as usual.
    """

    def __init__(self, config_name: str | None = None, keep_in_memory: bool | None = None, **kwargs: Any):
        in_memory = kwargs.get("num_process", 1) == 1 if keep_in_memory is None else keep_in_memory
        self.keep_in_memory = in_memory
        super().__init__(config_name, keep_in_memory=in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        if self.keep_in_memory:
            return os.path.join(self._data_dir_root, self.name, self.config_name)
        return super()._build_data_dir()

    def _finalize(self) -> None:
        if self.keep_in_memory and self.writer is None:
            raise ValueError(f"{self.name}: compute was called without any prediction: call add or add_batch first.")
        super()._finalize()


def _info(description: str | None, inputs: str, features: dict[str, Any]) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description, citation="", inputs_description=inputs + _OPTIONS, features=Features(features)
    )


def _figure(
    name: str,
    metric: Callable[..., Any],
    *arrays: np.ndarray,
    groups: Sequence[Any] | None = None,
    bootstrap_samples: int = 0,
    bootstrap_seed: int = 0,
    level: float = 0.95,
) -> dict[str, float]:
    """Return the value of a metric by name, with its interval if `bootstrap_samples` is not 0."""
    figures = {name: metric(*arrays)}
    if bootstrap_samples:
        of_rows = None if groups is None else np.asarray(groups)
        figures[f"{name}_low"], figures[f"{name}_high"] = statistics.bootstrap_interval(
            metric, *arrays, groups=of_rows, samples=bootstrap_samples, seed=bootstrap_seed, level=level
        )
    return figures


def _of_rows(options: dict[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Return the options for a subset of the rows."""
    groups = options.get("groups")
    return options if groups is None else {**options, "groups": np.asarray(groups)[rows]}


class SpearmanCorrelation(_OfflineMetric):
    """`spearman`: rank correlation of predictions and references; nan if one is constant."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(self.__doc__, _NUMBERS, {"predictions": Value("float64"), "references": Value("float64")})

    def _compute(self, predictions: list[float], references: list[float], **options: Any) -> dict[str, float]:
        return _figure("spearman", statistics.spearman, np.array(predictions), np.array(references), **options)


class MeanSquaredError(_OfflineMetric):
    """`mse`: mean of the squared differences of predictions and references."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(self.__doc__, _NUMBERS, {"predictions": Value("float64"), "references": Value("float64")})

    def _compute(self, predictions: list[float], references: list[float], **options: Any) -> dict[str, float]:
        return _figure("mse", statistics.mean_squared_error, np.array(predictions), np.array(references), **options)


class BrightAndDark(_OfflineMetric):
    """Spearman correlation, mean squared error and number of proteins in the two modes of fluorescence:
    `bright_spearman`, `bright_mse`, `bright_proteins`, and the same for `dark`. References above 2.0 are bright."""

    def _info(self) -> evaluate.MetricInfo:
        return _info(self.__doc__, _NUMBERS, {"predictions": Value("float64"), "references": Value("float64")})

    def _compute(self, predictions: list[float], references: list[float], **options: Any) -> dict[str, float]:
        predicted, wanted = np.array(predictions), np.array(references)
        figures: dict[str, float] = {}
        for mode, rows in (("bright", wanted > BRIGHT_CUTOFF), ("dark", wanted <= BRIGHT_CUTOFF)):
            columns, chosen = (predicted[rows], wanted[rows]), _of_rows(options, rows)
            figures |= _figure(f"{mode}_spearman", statistics.spearman, *columns, **chosen)
            figures |= _figure(f"{mode}_mse", statistics.mean_squared_error, *columns, **chosen)
            figures[f"{mode}_proteins"] = int(rows.sum())
        return figures


class SequenceAccuracy(_OfflineMetric):
    """`sequence_accuracy`: share of proteins with the right class. Negative references always count as wrong."""

    def _info(self) -> evaluate.MetricInfo:
        inputs = """
Args:
    predictions (`list[int]`): one class per protein.
    references (`list[int]`): the true classes; -1 for a class that train lacks.
"""
        return _info(self.__doc__, inputs, {"predictions": Value("int64"), "references": Value("int64")})

    def _compute(self, predictions: list[int], references: list[int], **options: Any) -> dict[str, float]:
        right = _right(predictions, references)
        return _figure("sequence_accuracy", statistics.accuracy, right, np.ones(len(right)), **options)


class HomologyAccuracy(_OfflineMetric):
    """Share of proteins with the right fold, by what was held out from train: `fold_accuracy` (whole superfamilies),
    `superfamily_accuracy` (whole families), `family_accuracy` (single proteins), and the number of proteins, such as
    `fold_proteins`. Negative references always count as wrong. Levels without proteins are left out."""

    def _info(self) -> evaluate.MetricInfo:
        inputs = """
Args:
    predictions (`list[int]`): one fold per protein.
    references (`list[int]`): the true folds; -1 for a fold that train lacks.
    levels (`list[str]`): `"fold"`, `"superfamily"` or `"family"`.
"""
        features = {"predictions": Value("int64"), "references": Value("int64"), "levels": Value("string")}
        return _info(self.__doc__, inputs, features)

    def _compute(
        self, predictions: list[int], references: list[int], levels: list[str], **options: Any
    ) -> dict[str, float]:
        foreign = sorted(set(levels) - set(HOMOLOGY_LEVELS))
        if foreign:
            raise ValueError(f"levels must be {', '.join(HOMOLOGY_LEVELS)}, got {foreign[0]!r}.")
        right, of_rows = _right(predictions, references), np.array(levels)
        figures: dict[str, float] = {}
        for level in HOMOLOGY_LEVELS:
            rows = of_rows == level
            if rows.any():
                columns = right[rows], np.ones(rows.sum())
                figures |= _figure(f"{level}_accuracy", statistics.accuracy, *columns, **_of_rows(options, rows))
                figures[f"{level}_proteins"] = int(rows.sum())
        return figures


class ResidueAccuracy(_OfflineMetric):
    """`residue_accuracy`: share of scored residues with the right class, and `scored_residues`, their number.

    Residues with the reference -100 are not scored. Other negative references always count as wrong. Long proteins
    weigh more, as in TAPE. The interval resamples proteins, not residues."""

    def _info(self) -> evaluate.MetricInfo:
        inputs = """
Args:
    predictions (`list[list[int]]`): the class of every residue, for each protein.
    references (`list[list[int]]`): the true classes, in lists of the same lengths; -100 for unscored residues.
"""
        classes = SequenceOf(Value("int64"))
        return _info(self.__doc__, inputs, {"predictions": classes, "references": classes})

    def _compute(self, predictions: list[list[int]], references: list[list[int]], **options: Any) -> dict[str, float]:
        right, scored = np.zeros(len(references)), np.zeros(len(references))
        for row, (predicted, reference) in enumerate(zip(predictions, references, strict=True)):
            if len(predicted) != len(reference):
                raise ValueError(
                    f"protein {row + 1:,} has {count(len(predicted), 'prediction')} for "
                    f"{count(len(reference), 'residue')}."
                )
            counts = np.array(reference, dtype=np.int64) != IGNORE_INDEX
            scored[row] = counts.sum()
            right[row] = _right(predicted, reference)[counts].sum()
        figures = _figure("residue_accuracy", statistics.accuracy, right, scored, **options)
        return {**figures, "scored_residues": int(scored.sum())}


def _right(predictions: Sequence[int], references: Sequence[int]) -> np.ndarray:
    predicted = np.array(predictions, dtype=np.int64)
    wanted = np.array(references, dtype=np.int64)
    return ((predicted == wanted) & (wanted >= 0)).astype(np.float64)
