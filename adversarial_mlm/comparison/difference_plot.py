"""Plot of a comparison: how much each arm differs from its partner, with its interval."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adversarial_mlm.comparison.differences import Study, by_budget, values
from adversarial_mlm.comparison.report_cells import is_significant, metric_words
from adversarial_mlm.comparison.report_tables import held_out_sets

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BETTER, _WORSE, _UNCLEAR = "#0072b2", "#d55e00", "#5c5c5c"  # of Okabe and Ito


def difference_figure(study: Study) -> "Figure | None":
    """Draw the differences in cross-entropy of all pairs, with a row of panels for each budget.

    The confirmation part is drawn if it was read, else the selection part. Gray: p is not below 0.05 after correction.

    Args:
        study (`Mapping`): The content of `study.json`.

    Returns:
        `matplotlib.figure.Figure`, or `None` if no arm has a partner.
    """
    from matplotlib.figure import Figure  # pyplot would look for a display

    read = any(row["metric"].startswith("confirmation_") for row in study["differences"])
    metrics = [f"{'confirmation_' if read else ''}{name}_loss" for name in held_out_sets(study)]
    rows = [(budget, found) for budget, _ in by_budget(study) if (found := _rows(study, budget, metrics))]
    if not rows:
        return None
    heights = [1.0 + 0.32 * max(len(of_metric) for of_metric in found.values()) for _, found in rows]
    figure = Figure(figsize=(2.2 + 3.4 * len(metrics), sum(heights) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), len(metrics), squeeze=False, sharey="row", height_ratios=heights)
    for (budget, found), axes in zip(rows, grid, strict=True):
        for metric, axis in zip(metrics, axes, strict=True):
            _draw(axis, study, budget, found[metric])
            axis.set_title(f"{metric_words(metric)}, equal {study['budgets'][budget]['equal']}", fontsize=9)
    label = "difference in cross-entropy, nats; left of 0 is better (● seeds, | mean, — 95 % interval"
    figure.supxlabel(f"{label}; gray: unclear after correction for the number of arms)", fontsize=8)
    return figure


def _rows(study: Study, budget: str, metrics: Sequence[str]) -> dict[str, list[Mapping[str, Any]]] | None:
    found = {
        metric: [row for row in study["differences"] if (row["budget"], row["metric"]) == (budget, metric)]
        for metric in metrics
    }
    return found if any(found.values()) else None


def _draw(axis: "Axes", study: Study, budget: str, rows: Sequence[Mapping[str, Any]]) -> None:
    labels = [f"{row['arm']} − {row['against']}{'' if row['matched'] else ' †'}" for row in rows]
    axis.set_yticks(range(len(rows)), labels, fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.tick_params(labelsize=8)
    axis.locator_params(axis="x", nbins=5)
    axis.grid(axis="x", linewidth=0.4)
    axis.set_axisbelow(True)
    axis.axvline(0, color="black", linewidth=1)
    entries = {entry["name"]: entry for entry in study["arms"] if entry["budget"] == budget}
    for height, row in enumerate(rows):
        own, partner = (values(entries[row[name]], row["metric"]) for name in ("arm", "against"))
        points = [own[seed] - partner[seed] for seed in row["pairs"]]
        colour = _colour(row)
        axis.plot(points, [height] * len(points), "o", color=colour, markersize=3.5, alpha=0.6)
        if row["low"] is not None:
            axis.plot([row["low"], row["high"]], [height, height], "-", color=colour, linewidth=2)
        axis.plot([row["mean"]], [height], "|", color=colour, markersize=12, markeredgewidth=2)


def _colour(row: Mapping[str, Any]) -> str:
    if not is_significant(row):
        return _UNCLEAR
    return _BETTER if row["mean"] < 0 else _WORSE
