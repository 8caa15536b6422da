"""Sections of the report: which settings were tried before the comparison, and what an arm must gain for its time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from adversarial_mlm.comparison.differences import Entry, Study, by_budget, mean_and_deviation, values
from adversarial_mlm.comparison.report_cells import NONE, flat, metric_words
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.tables import markdown_table


def tuning_section(study: Study) -> str:
    """Return every trial of every search as Markdown; empty if nothing was tuned.

    Args:
        study (`Mapping`): The content of `study.json`.
    """
    tuning = study.get("tuning")
    if not tuning:
        return ""
    tune = tuning["tune"]
    lines = [
        "## Which settings were tried?",
        "Before the comparison, settings were searched by successive halving, "
        f"{count(tune['rungs'], 'rung')}, with seed {tune['seed']}. Cross-entropy on {tune['held_out_set']}, "
        f"selection part. All arms have the best settings of {tune['baseline']}. **Bold**: the best.",
    ]
    for arm, search in tuning["searches"].items():
        names = list(search["trials"][0]["options"])
        header = [f"trial of {arm}", *names, *(f"rung {rung + 1}" for rung in range(tune["rungs"]))]
        rows = [_trial(trial, names, tune["rungs"], search["winner"]) for trial in search["trials"]]
        lines.append(markdown_table(header, rows))
    return "\n\n".join(lines)


def _trial(trial: Mapping[str, Any], names: Sequence[str], rungs: int, winner: Mapping[str, Any]) -> list[str]:
    cells = [_cell(rung) for rung in trial["rungs"]]
    name = f"**{trial['name']}**" if trial["options"] == winner else trial["name"]
    return [name, *(flat(trial["options"][option]) for option in names), *cells, *[NONE] * (rungs - len(cells))]


def _cell(rung: Mapping[str, Any]) -> str:
    loss = "diverged" if rung["loss"] is None else f"{rung['loss']:.3f}"
    return f"{loss} ({count(rung['updates'], 'update')})"


# ---- The bar ----


def bar_section(study: Study) -> str:
    """Return what each arm must gain at equal updates to be worth its time, and what it gained.

    An arm whose update takes 1 + c times as long as its partner's pays if it gains more than S · ln(1 + c) at equal
    updates. S = −dCE / d ln(updates) is the partner's, from its runs of two lengths, or from the search of settings.

    Args:
        study (`Mapping`): The content of `study.json`.

    Returns:
        Markdown; empty if no S or no cost is known.
    """
    metric = f"{_held_out_set(study)}_loss"
    costs = {
        entry["name"]: entry["seconds_of_an_update"] for entry in study["arms"] if "seconds_of_an_update" in entry
    }
    rows = []
    for entry in {entry["name"]: entry for entry in study["arms"]}.values():
        partner = entry["against"]
        slope = None if partner is None else _slope(study, partner, metric)
        if slope is None or entry["name"] not in costs or partner not in costs:
            continue
        ratio = costs[entry["name"]] / costs[partner]
        bar = slope * math.log(ratio)
        found = [_gain(study, equal, entry["name"], metric) for equal in ("updates", "seconds")]
        rows.append([entry["name"], partner, f"{ratio:.2f}", f"{slope:.3f}", f"{bar:+z.3f}", *found])
    if not rows:
        return ""
    header = ["arm", "compared with", "cost of an update", "S", "must gain", "gained, equal updates", "equal time"]
    note = (
        f"Cross-entropy on {metric_words(metric)}, selection part. *S*: how much the partner's falls when its number "
        "of updates grows by a factor of e. *Must gain*: S · ln(cost), at equal updates. In brackets: 95 % interval."
    )
    return f"## What must an arm gain to be worth its time?\n\n{note}\n\n{markdown_table(header, rows)}"


def _held_out_set(study: Study) -> str:
    """The set by which settings were searched, else members or the first one."""
    names = [name for name in study["proteins"] if name != "train"]
    wanted = study["tuning"]["tune"]["held_out_set"] if study.get("tuning") else "members"
    return wanted if wanted in names else names[0]


def _slope(study: Study, arm: str, metric: str) -> float | None:
    """S of an arm from its shortest and its longest runs; else that of its search."""
    points = {}
    for entry in study["arms"]:
        if entry["name"] == arm and values(entry, metric):
            points[entry["updates"]] = mean_and_deviation(list(values(entry, metric).values()))[0]
    if len(points) > 1:
        first, last = min(points), max(points)
        return (points[first] - points[last]) / math.log(last / first)
    searches = study["tuning"]["searches"] if study.get("tuning") else {}
    return searches.get(arm, {}).get("slope")


def _gain(study: Study, equal: str, arm: str, metric: str) -> str:
    """How much lower the loss of an arm is than its partner's, under the first budget of a kind."""
    for budget, _ in by_budget(study):
        if study["budgets"][budget]["equal"] != equal:
            continue
        for row in study["differences"]:
            if (row["budget"], row["arm"], row["metric"]) == (budget, arm, metric):
                return _negated(row)
    return NONE


def _negated(row: Entry) -> str:
    text = f"{-row['mean']:+z.3f}"
    return text if row["low"] is None else f"{text} ({-row['high']:+z.3f} to {-row['low']:+z.3f})"
