"""Metrics and averages of ProteinGym, as its script `performance_DMS_benchmarks.py` computes them.

The definitions are those of https://github.com/OATML-Markslab/ProteinGym (Notin et al. 2023), including what happens
to ties and to undefined values. The code is our own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from adversarial_mlm.utils.statistics import average_ranks, spearman

METRICS = {
    "spearman": "Spearman correlation",
    "auc": "Area under the ROC curve",
    "mcc": "Matthews correlation coefficient",
    "ndcg": "NDCG of the top 10 %",
    "top_recall": "Recall of the top 10 %",
}
"""The metrics of an assay: name, and how to call it in text."""

BINARY = ("auc", "mcc")
"""The metrics that compare with `DMS_score_bin`."""

_TOP_PERCENT = 10
_DIGITS = 3  # the script rounds the figures of each assay before it averages them


def assay_figures(scores: np.ndarray, labels: np.ndarray, bins: np.ndarray) -> dict[str, float]:
    """Compute all metrics of an assay. Higher is better in each.

    Args:
        scores (`np.ndarray` of shape `(variants,)`): The model's scores; higher means fitter.
        labels (`np.ndarray` of shape `(variants,)`): `DMS_score`; nan for a variant that was not measured.
        bins (`np.ndarray` of shape `(variants,)`): `DMS_score_bin`, 1 for fit and 0 for not; nan if unknown.

    Returns:
        `dict[str, float]`: By name, as in [`METRICS`]; nan if a metric is not defined. A variant without a score does
        not count, nor does one without a label (`auc` and `mcc`: without a bin).
    """
    measured = np.isfinite(scores) & np.isfinite(labels)
    binned = np.isfinite(scores) & np.isfinite(bins)
    continuous, binary = (scores[measured], labels[measured]), (scores[binned], bins[binned] == 1)
    return {
        "spearman": float(spearman(*continuous)),
        "auc": area_under_curve(*binary),
        "mcc": matthews_at_median(*binary),
        "ndcg": ndcg_of_top(*continuous),
        "top_recall": recall_of_top(*continuous),
    }


def area_under_curve(scores: np.ndarray, fit: np.ndarray) -> float:
    """Area under the ROC curve: how often a fit variant has a higher score than another; equal scores count half.

    Args:
        scores (`np.ndarray` of shape `(variants,)`): The scores.
        fit (`np.ndarray` of shape `(variants,)`, bool): Whether each variant is fit.

    Returns:
        `float`: 0 to 1; nan if all or none are fit.
    """
    positives = int(fit.sum())
    pairs = positives * (len(fit) - positives)
    if not pairs:
        return float("nan")
    return float((average_ranks(scores)[fit].sum() - positives * (positives + 1) / 2) / pairs)


def matthews_at_median(scores: np.ndarray, fit: np.ndarray) -> float:
    """Matthews correlation coefficient if the variants at or above the median score are predicted to be fit.

    Args: as of [`area_under_curve`].

    Returns:
        `float`: -1 to 1; 0 if all variants are predicted or found to be of one class; nan without variants.
    """
    if not len(scores):
        return float("nan")
    predicted = (scores >= np.median(scores)).astype(np.float64)
    wanted = fit.astype(np.float64)
    predicted, wanted = predicted - predicted.mean(), wanted - wanted.mean()
    spread = np.sqrt((predicted @ predicted) * (wanted @ wanted))
    return float(predicted @ wanted / spread) if spread > 0 else 0.0


def ndcg_of_top(scores: np.ndarray, labels: np.ndarray) -> float:
    """Normalised discounted cumulative gain of the tenth of the variants with the highest scores.

    The gain of a variant is its label, scaled to 0 to 1 over the assay. The k variants at the top count, where k is a
    tenth of the variants, rounded down; a gain at rank r is divided by log2(r + 1). The sum is divided by that of the
    best order. Equal scores are ordered as `np.argsort` leaves them, as in the benchmark.

    Returns:
        `float`: 0 to 1; 0 for fewer than 10 variants; nan if all labels are equal.
    """
    if not len(scores) or np.ptp(labels) == 0:
        return float("nan")
    gains = (labels - labels.min()) / np.ptp(labels)
    top = len(scores) * _TOP_PERCENT // 100
    discounts = 1 / np.log2(np.arange(top) + 2)
    best = np.sort(gains)[::-1][:top] @ discounts
    return float(gains[np.argsort(-scores)[:top]] @ discounts / best) if top else 0.0


def recall_of_top(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of the variants at or above the 90th percentile of the labels that are so in the scores, too.

    Percentiles are interpolated, as `np.percentile` does by default.

    Returns:
        `float`: 0 to 1; nan without variants.
    """
    if not len(scores):
        return float("nan")
    best = labels >= np.percentile(labels, 100 - _TOP_PERCENT)
    found = scores >= np.percentile(scores, 100 - _TOP_PERCENT)
    return float((best & found).sum() / best.sum())


@dataclass(frozen=True)
class Averages:
    """Averages of a metric over assays.

    Attributes:
        value (`float`): The average over functions; nan if no assay has the metric.
        low, high (`float`): Its 95 % interval, from resampled proteins within each function.
        by_function (`dict[str, float]`): The average of each function.
        proteins (`dict[str, int]`): By function, the number of proteins (UniProt ids), which are the resampled units.
    """

    value: float
    low: float
    high: float
    by_function: dict[str, float]
    proteins: dict[str, int]


def average(
    values: Sequence[float],
    proteins: Sequence[str],
    functions: Sequence[str],
    *,
    bootstrap_samples: int = 1000,
    seed: int = 0,
) -> Averages:
    """Average a metric as the benchmark does: by protein within a function, over proteins, and over functions.

    Each value is first rounded to three decimals, as there. Values that are nan are left out. The interval resamples
    the proteins of each function, which is how the benchmark computes its standard errors.

    Args:
        values (`Sequence[float]`): The metric of each assay.
        proteins (`Sequence[str]`): `UniProt_ID` of each assay.
        functions (`Sequence[str]`): `coarse_selection_type` of each assay.
        bootstrap_samples (`int`, defaults to 1000): Number of resamples; 0 for no interval.
        seed (`int`, defaults to 0): Seed of the resamples.
    """
    groups: dict[str, dict[str, list[float]]] = {}
    for value, protein, function in zip(np.round(values, _DIGITS).tolist(), proteins, functions, strict=True):
        if np.isfinite(value):
            groups.setdefault(function, {}).setdefault(protein, []).append(value)
    of_proteins = {
        function: np.array([np.mean(found) for found in by_protein.values()])
        for function, by_protein in sorted(groups.items())
    }
    by_function = {function: float(found.mean()) for function, found in of_proteins.items()}
    value = float(np.mean(list(by_function.values()))) if by_function else float("nan")
    low = high = float("nan")
    if bootstrap_samples and any(len(found) > 1 for found in of_proteins.values()):
        generator = np.random.default_rng(seed)
        resampled = np.mean(
            [_resampled(generator, bootstrap_samples, found) for found in of_proteins.values()], axis=0
        )
        low, high = (float(end) for end in np.quantile(resampled, [0.025, 0.975]))
    return Averages(value, low, high, by_function, {function: len(found) for function, found in of_proteins.items()})


def _resampled(generator: np.random.Generator, samples: int, values: np.ndarray) -> np.ndarray:
    """Return the means of resampled values: `(samples,)`."""
    return values[generator.integers(len(values), size=(samples, len(values)))].mean(axis=1)
