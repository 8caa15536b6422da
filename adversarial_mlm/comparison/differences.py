"""Means, spreads and paired differences, computed from the content of `study.json`."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from adversarial_mlm.utils.statistics import holm, paired_difference

Study = Mapping[str, Any]
Entry = Mapping[str, Any]
"""One arm under one budget: an entry of the list `arms` in `study.json`."""

_LOSS = re.compile(r"(confirmation_)?(?!\w*background)\w+_loss")
_OF_A_LOG = ("adversarial_loss", "random_loss")


def metric_names(study: Study) -> list[str]:
    """Name the metrics by which arms are compared: losses on held-out proteins, and downstream tasks."""
    names: dict[str, None] = {}
    for entry in study["arms"]:
        for of_seed in entry["seeds"]:
            names |= dict.fromkeys(of_seed["metrics"])
    return [name for name in names if is_task(name) or (_LOSS.fullmatch(name) and name not in _OF_A_LOG)]


def is_task(metric: str) -> bool:
    """Whether a metric is of a downstream task, where more is better."""
    return metric.startswith(("probe/", "finetune/")) and not metric.endswith("/by_seed")


def values(entry: Entry, metric: str) -> dict[int, float]:
    """Return a metric by seed, for the seeds that have a value."""
    found = {of_seed["seed"]: of_seed["metrics"].get(metric) for of_seed in entry["seeds"]}
    return {seed: value for seed, value in found.items() if value is not None}


def mean_and_deviation(numbers: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation; nan with fewer than one and two numbers."""
    mean = float(np.mean(numbers)) if len(numbers) else math.nan
    return mean, float(np.std(numbers, ddof=1)) if len(numbers) > 1 else math.nan


def finetuning_deviation(entry: Entry, metric: str) -> float:
    """Return the standard deviation over fine-tuning seeds of one encoder: the root of the mean variance."""
    lists = [of_seed["metrics"].get(f"{metric}/by_seed") for of_seed in entry["seeds"]]
    defined = [[value for value in one if value is not None] for one in lists if one is not None]
    variances = [float(np.var(one, ddof=1)) for one in defined if len(one) > 1]
    return math.sqrt(float(np.mean(variances))) if variances else math.nan


def differences(study: Study) -> list[dict[str, Any]]:
    """Compare every arm with its partner, under every budget and by every metric.

    A pair that also belongs to an earlier budget counts in the correction, but is not repeated.

    Returns:
        `list[dict]`: A dictionary per comparison. Undefined values are `None`. The keys are:

        - `budget`, `arm`, `against`, `matched`, `metric`;
        - `mean`, `low`, `high`: of the paired differences, with a 95 % interval by Student's t;
        - `p_value`, and `adjusted_p` by Holm's method, over all arms compared under this budget by this metric;
        - `pairs`: seeds that both arms have;
        - `without_partner`: seeds that one arm lacks, for example because a run diverged.
    """

    def partner_of(entry: Entry, entries: list[Entry]) -> Entry | None:
        return next((other for other in entries if other["name"] == entry.get("against")), None)

    return [row for metric in metric_names(study) for row in _rows(study, metric, partner_of)]


def gains(study: Study) -> list[dict[str, Any]]:
    """Compare every arm with the weights that it started from, on downstream tasks.

    Returns:
        `list[dict]`: As from [`differences`]; `against` is `untrained`.
    """
    untrained = {"name": "untrained", "updates": 0, "seeds": study["untrained"]}
    metrics = [metric for metric in metric_names(study) if is_task(metric)]
    return [row for metric in metrics for row in _rows(study, metric, lambda *_: untrained)]


def _rows(
    study: Study, metric: str, partner_of: Callable[[Entry, list[Entry]], Entry | None]
) -> Iterator[dict[str, Any]]:
    """Yield the differences by one metric, with p corrected within each budget."""
    seen: set[tuple] = set()
    for _, entries in by_budget(study):
        pairs = [(entry, partner) for entry in entries if (partner := partner_of(entry, entries)) is not None]
        rows = [_compared(entry, partner, metric) for entry, partner in pairs]
        rows = [row for row in rows if row["pairs"]]
        adjusted = holm([math.nan if row["p_value"] is None else row["p_value"] for row in rows])
        for row, p in zip(rows, adjusted, strict=True):
            runs = row["arm"], *row.pop("updates")
            if runs not in seen:
                yield {**row, "adjusted_p": _finite_or_none(p)}
            seen.add(runs)


def _compared(entry: Entry, partner: Entry, metric: str) -> dict[str, Any]:
    own, others = values(entry, metric), values(partner, metric)
    seeds = sorted(own.keys() & others.keys())
    all_seeds = {of_seed["seed"] for of_seed in entry["seeds"]}
    row = {
        "budget": entry["budget"],
        "arm": entry["name"],
        "against": partner["name"],
        "matched": partner["name"] == entry.get("against") and not entry["unmatched"],
        "metric": metric,
        "updates": (entry["updates"], partner["updates"]),
        "pairs": seeds,
        "without_partner": sorted(all_seeds - set(seeds)),
    }
    if not seeds:
        return row
    difference = paired_difference([own[seed] for seed in seeds], [others[seed] for seed in seeds])
    return {**row, **{name: _finite_or_none(getattr(difference, name)) for name in ("mean", "low", "high", "p_value")}}


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def by_budget(study: Study) -> Iterator[tuple[str, list[Entry]]]:
    """Yield each budget with its arms, in the order of the study."""
    for budget in study["budgets"]:
        yield budget, [entry for entry in study["arms"] if entry["budget"] == budget]
