"""Means, spreads and paired differences of a study, from its plain data alone."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..statistics import holm, paired_difference

Study = Mapping[str, Any]
Entry = Mapping[str, Any]
"""One arm under one budget, as in a study's list `arms`."""

_LOSS = re.compile(r"(confirmation_)?(?!\w*background)\w+_loss")
_OF_A_LOG = ("adversarial_loss", "random_loss")


def metric_names(study: Study) -> list[str]:
    """The figures that arms are compared by: losses on held-out proteins, and those of downstream tasks."""
    names: dict[str, None] = {}
    for entry in study["arms"]:
        for of_seed in entry["seeds"]:
            names |= dict.fromkeys(of_seed["metrics"])
    return [name for name in names if is_task(name) or (_LOSS.fullmatch(name) and name not in _OF_A_LOG)]


def is_task(metric: str) -> bool:
    """Whether it is the figure of a downstream task, of which more is better."""
    return metric.startswith(("probe/", "finetune/")) and not metric.endswith("/by_seed")


def values(entry: Entry, metric: str) -> dict[int, float]:
    """By seed, where there is a value."""
    found = {of_seed["seed"]: of_seed["metrics"].get(metric) for of_seed in entry["seeds"]}
    return {seed: value for seed, value in found.items() if value is not None}


def mean_and_deviation(numbers: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; nan of fewer than one and two."""
    mean = float(np.mean(numbers)) if len(numbers) else math.nan
    return mean, float(np.std(numbers, ddof=1)) if len(numbers) > 1 else math.nan


def finetuning_deviation(entry: Entry, metric: str) -> float:
    """Standard deviation over seeds of fine-tuning, within encoders: the root of the mean of their variances."""
    lists = values(entry, f"{metric}/by_seed").values()
    defined = [[value for value in one if value is not None] for one in lists]
    variances = [float(np.var(one, ddof=1)) for one in defined if len(one) > 1]
    return math.sqrt(float(np.mean(variances))) if variances else math.nan


def differences(study: Study) -> list[dict[str, Any]]:
    """Every arm against its partner, under every budget, by every figure.

    Returns:
        `list[dict]`: `budget`, `arm`, `against`, `matched`, `metric`; `mean`, `low`, `high` of the paired differences
        (95 % interval by Student's t), `p_value`, and `adjusted_p`: by Holm's method, for all arms that are compared
        under the same budget by the same figure; `pairs`, their seeds, and `without_partner`, seeds that one of the
        two lacks, as where a run diverged. What is not defined is `None`.
    """
    by_name = {(entry["name"], entry["budget"]): entry for entry in study["arms"]}
    found = []
    for metric in metric_names(study):
        groups: dict[str, list[dict]] = {}
        for entry in study["arms"]:
            partner = by_name.get((entry.get("against"), entry["budget"]))
            if partner is not None:
                row = _compared(entry, partner, metric)
                if row["pairs"]:
                    groups.setdefault(entry["budget"], []).append(row)
        for rows in groups.values():
            adjusted = holm([math.nan if row["p_value"] is None else row["p_value"] for row in rows])
            found += [{**row, "adjusted_p": _plain(p)} for row, p in zip(rows, adjusted, strict=True)]
    return found


def _compared(entry: Entry, partner: Entry, metric: str) -> dict[str, Any]:
    own, others = values(entry, metric), values(partner, metric)
    seeds = sorted(own.keys() & others.keys())
    all_seeds = {of_seed["seed"] for of_seed in entry["seeds"]}
    row = {
        "budget": entry["budget"],
        "arm": entry["name"],
        "against": partner["name"],
        "matched": not entry["unmatched"],
        "metric": metric,
        "pairs": seeds,
        "without_partner": sorted(all_seeds - set(seeds)),
    }
    if not seeds:
        return row
    difference = paired_difference([own[seed] for seed in seeds], [others[seed] for seed in seeds])
    return {**row, **{name: _plain(getattr(difference, name)) for name in ("mean", "low", "high", "p_value")}}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def by_budget(study: Study) -> Iterator[tuple[str, list[Entry]]]:
    """The arms of each budget, in the order of the study."""
    for budget in study["budgets"]:
        yield budget, [entry for entry in study["arms"] if entry["budget"] == budget]
