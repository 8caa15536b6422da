"""Results of contact prediction: records as of other tasks, and their table."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adversarial_mlm.downstream.contacts.scoring import HEADLINE, METRICS, RANGES, SHARES
from adversarial_mlm.downstream.definitions import CONTACTS
from adversarial_mlm.downstream.results import as_plain
from adversarial_mlm.utils.statistics import accuracy, bootstrap_interval
from adversarial_mlm.utils.tables import text_table

TARGET = "below 8 Å"
SPLIT = "test"

Runs = Sequence[np.ndarray]
"""Precisions `(proteins, metrics)` of each run."""


def record(
    method: str,
    runs: Runs,
    data: Mapping[str, Any],
    *,
    model: str = "",
    seeds: Sequence[int] = (),
    settings: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    baselines: Mapping[str, Runs] | None = None,
    is_baseline: bool = False,
    bootstrap_samples: int = 1000,
) -> dict[str, Any]:
    """Summarise the precisions of one method.

    Args:
        method (`str`): Name of the method.
        runs (`Sequence[np.ndarray]`): Precisions of shape `(proteins, metrics)`, one per seed; nan where a metric is
            not defined for a protein.
        data (`Mapping`): `files`, `rows` and `fingerprints` of the data.
        baselines (`Mapping[str, Sequence[np.ndarray]]`, *optional*): Precisions of baselines on the same proteins. In
            each range, the result is compared with the best of them by the precision at L.

        The other arguments are those of [`record`][adversarial_mlm.downstream.results.record].

    Returns:
        `dict`: As there, with the split `test`. A figure is the mean over the proteins for which it is defined, of
        which there are `rows`. `against_by_range` has the comparison for each range, and `against` that at long range.
    """
    mean = np.mean(runs, axis=0)
    figures = {}
    for column, name in enumerate(METRICS):
        figures[name] = _figure(mean[:, column], bootstrap_samples)
        if len(runs) > 1:
            by_seed = [_mean(run[:, column]) for run in runs]
            figures[name] |= {"by_seed": by_seed, "std": float(np.std(by_seed, ddof=1))}
    found: dict[str, Any] = {
        "task": CONTACTS,
        "kind": CONTACTS,
        "target": TARGET,
        "method": method,
        "model": model,
        "settings": dict(settings or {}),
        "seeds": list(seeds),
        "is_baseline": is_baseline,
        "data": dict(data),
        "notes": list(notes),
        "as_in_paper": False,
        "headline": {SPLIT: HEADLINE},
        "figures": {SPLIT: figures},
    }
    if baselines:
        others = {name: np.mean(theirs, axis=0) for name, theirs in baselines.items()}
        by_range = {name: _against(mean, others, f"{name}_precision_L", bootstrap_samples) for name in RANGES}
        found["against_by_range"] = {name: against for name, against in by_range.items() if against}
        if by_range["long"]:
            found["against"] = {SPLIT: by_range["long"]}
    return as_plain(found)


def _mean(values: np.ndarray) -> float:
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else np.nan


def _mean_of_samples(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(accuracy(values, np.ones(len(values)), weights))


def _figure(values: np.ndarray, samples: int) -> dict[str, Any]:
    """Return the mean over proteins, with its interval from resampled proteins."""
    defined = values[np.isfinite(values)]
    interval = (np.nan, np.nan)
    if samples and len(defined) > 1:
        interval = bootstrap_interval(_mean_of_samples, defined, samples=samples)
    return {"value": _mean(values), "low": interval[0], "high": interval[1], "rows": len(defined)}


def _against(mean: np.ndarray, others: Mapping[str, np.ndarray], name: str, samples: int) -> dict[str, Any] | None:
    column = METRICS.index(name)
    values = {baseline: _mean(theirs[:, column]) for baseline, theirs in others.items()}
    values = {baseline: value for baseline, value in values.items() if np.isfinite(value)}
    if not values or not np.isfinite(mean[:, column]).any():
        return None
    best = max(values, key=values.__getitem__)
    difference = _figure(mean[:, column] - others[best][:, column], samples)
    shown = difference["low"] if samples else difference["value"]
    return {
        "baseline": best,
        "difference": difference["value"],
        "low": difference["low"],
        "high": difference["high"],
        "beaten": bool(shown > 0),
    }


def contact_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Format the precisions of all results as a text table with footnotes, range after range, the longest first."""
    header = ("range", "method", "P@L", "95 % interval", *(f"P@{_written(share)}" for share in list(SHARES)[1:]))
    rows: list[tuple[str, ...]] = []
    for name in reversed(RANGES):
        rows.extend(_row(result, name) for result in results)
    text = text_table((*header, "against the best baseline"), rows)
    notes = []
    if any("!" in row[-1] for row in rows):
        notes.append("! not shown to beat the best baseline: the 95 % interval of the difference does not lie above 0")
    notes.extend(dict.fromkeys(note for result in results for note in result["notes"]))
    return "\n".join([text, *(f"  {note}" for note in notes)])


def _written(share: str) -> str:
    return share.replace("L", "L/") if len(share) > 1 else share


def _row(result: Mapping[str, Any], name: str) -> tuple[str, ...]:
    figures = [result["figures"][SPLIT][f"{name}_precision_{share}"] for share in SHARES]
    texts = ["not defined" if figure["value"] is None else f"{figure['value']:.3f}" for figure in figures]
    if figures[0].get("std") is not None:
        texts[0] += f" ± {figures[0]['std']:.3f}"
    interval = "" if figures[0]["low"] is None else f"{figures[0]['low']:.3f} to {figures[0]['high']:.3f}"
    least, beyond = RANGES[name]
    model = os.path.basename(result["model"].rstrip("/")) or result["model"]
    against, verdict = result.get("against_by_range", {}).get(name), ""
    if against is not None:
        difference = "not defined" if against["difference"] is None else f"{against['difference']:+.3f}"
        verdict = f"{difference} to {against['baseline']}" + ("" if against["beaten"] else " !")
    return (
        f"{name}, {least} {f'to {beyond - 1}' if beyond else 'and more'}",
        ", ".join(filter(None, (result["method"], model))),
        texts[0],
        interval,
        *texts[1:],
        verdict,
    )
