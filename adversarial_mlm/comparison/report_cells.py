"""Cells of the report: metrics, differences and their names in words."""

import math
from collections.abc import Mapping
from typing import Any

from adversarial_mlm.comparison.differences import Entry, is_task, mean_and_deviation, values
from adversarial_mlm.utils.counts import count

NONE = "–"
TASK_NAMES = {
    "secondary_structure": "Secondary structure",
    "remote_homology": "Remote homology",
    "fluorescence": "Fluorescence",
    "stability": "Stability",
}

_SIGNIFICANT = 0.05


def over_seeds(entry: Entry, metric: str, digits: int | None = None) -> str:
    """Format mean ± standard deviation of an arm's metric, such as `0.420 ± 0.028`; `–` if it has none."""
    numbers = list(values(entry, metric).values())
    if not numbers:
        return NONE
    factor, own_digits, unit = scale(metric)
    digits = own_digits if digits is None else digits
    mean, deviation = mean_and_deviation(numbers)
    text = f"{mean * factor:.{digits}f}"
    if not math.isnan(deviation):
        text += f" ± {deviation * factor:.{digits}f}"
    return text + unit


def difference_cell(row: dict[str, Any] | None) -> str:
    """Format a row of [`differences`], such as `+0.055 (-0.009 to +0.119; p 0.06)`, with * if p is below 0.05.

    A p that would be rounded to 0.00 is written as `p < 0.01`.
    """
    if row is None:
        return NONE
    factor, digits, unit = scale(row["metric"])
    text = f"{row['mean'] * factor:+z.{digits}f}{' points' if unit else ''}"
    if row["low"] is not None:
        p = f"p {row['adjusted_p']:.2f}" if row["adjusted_p"] >= 0.005 else "p < 0.01"
        text += f" ({row['low'] * factor:+z.{digits}f} to {row['high'] * factor:+z.{digits}f}; {p})"
        text += "*" if is_significant(row) else ""
    if row["without_partner"]:
        text += f" [{count(len(row['pairs']), 'pair')}, {len(row['without_partner'])} without partner]"
    return text


def verdict(row: dict[str, Any]) -> str:
    """Format a row of [`differences`] as a verdict, such as `worse (+0.010, +0.004 to +0.016)`."""
    factor, digits, unit = scale(row["metric"])
    numbers = [row[name] for name in ("mean", "low", "high") if row[name] is not None]
    words = [f"{number * factor:+z.{digits}f}" for number in numbers]
    amount = f"{words[0]}{unit and ' points'}" + (f", {words[1]} to {words[2]}" if len(words) == 3 else "")
    if not is_significant(row):
        return f"unclear ({amount})"
    more_is_better = is_task(row["metric"])
    return f"{'better' if (row['mean'] > 0) == more_is_better else 'worse'} ({amount})"


def is_significant(row: Mapping[str, Any]) -> bool:
    """Whether p is below 0.05 after correction for the number of arms."""
    return row["adjusted_p"] is not None and row["adjusted_p"] < _SIGNIFICANT


def metric_words(metric: str) -> str:
    """Name a metric in words, such as `Stability, test, fine-tuned`."""
    if is_task(metric):
        method, task, split = metric.split("/")
        return f"{TASK_NAMES.get(task, task)}, {split}" + (", fine-tuned" if method == "finetune" else "")
    words = metric.removeprefix("confirmation_").removesuffix("_loss")
    words = words.replace("_refitted", ", refitted")
    return words + (", confirmation" if metric.startswith("confirmation_") else "")


def scale(metric: str) -> tuple[float, int, str]:
    """Return how a metric is written: factor, digits and unit."""
    task = metric.split("/")[1] if is_task(metric) else ""
    return (100.0, 1, " %") if task in ("secondary_structure", "remote_homology") else (1.0, 3, "")


def flat(value: Any) -> str:
    """Write an option's value on one line."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
