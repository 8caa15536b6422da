"""Plot of a comparison: cross-entropy and downstream metrics of every arm, one point per seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from adversarial_mlm.comparison.differences import Entry, Study, by_budget, mean_and_deviation, values
from adversarial_mlm.comparison.report_cells import metric_words
from adversarial_mlm.comparison.report_tables import best_baseline, headline_metrics, held_out_sets, untrained_words
from adversarial_mlm.utils.errors import RecipeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOSS_LABEL = "cross-entropy on random masks, selection part, nats\n(● each seed, ○ refitted biases, | mean)"
_TASK_LABEL = "● each seed, | mean\n(dotted: {untrained}, gray: best without an encoder)"


@dataclass(frozen=True)
class _Panel:
    """One metric of all arms: filled points, optional hollow points below, and vertical reference lines."""

    title: str
    metric: str
    hollow: str = ""
    untrained: float | None = None
    baseline: float | None = None


def check_available() -> None:
    """Check before hours of work that a plot can be drawn.

    Raises:
        RecipeError: If matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise RecipeError(
            "the plot needs matplotlib, which is not installed: pip install 'adversarial-mlm[plot]', or set plot: "
            "false"
        ) from error


def draw(study: Study, path: Path) -> None:
    """Draw the study into a PNG file, see [`figure_of`].

    Args:
        study (`Mapping`): The content of `study.json`.
        path (`Path`): The PNG file.
    """
    figure_of(study).savefig(path, dpi=150)


def figure_of(study: Study) -> "Figure":
    """Draw a row of panels per budget, and another row per budget with downstream tasks.

    Args:
        study (`Mapping`): The content of `study.json`.

    Returns:
        `matplotlib.figure.Figure`: An axis per held-out set of each budget, then one per task.
    """
    from matplotlib.figure import Figure  # pyplot would look for a display

    budgets = [(budget, entries) for budget, entries in by_budget(study) if entries]
    rows = [(_losses(study, budget), entries, _LOSS_LABEL) for budget, entries in budgets]
    rows += [
        (panels, entries, _TASK_LABEL.format(untrained=untrained_words(study)))
        for budget, entries in budgets
        if budget in study["task_budgets"] and (panels := _tasks(study, budget, entries))
    ]
    heights = [1.3 + 0.3 * len(entries) for _, entries, _ in rows]
    widest = max(len(panels) for panels, _, _ in rows)
    figure = Figure(figsize=(1.5 + max(2.6 * widest, 7), sum(heights)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    first: dict[str, object] = {}  # panels of the same metric share the x axis
    for part, (panels, entries, label) in zip(parts, rows, strict=True):
        for axis, panel in zip(part.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
            if panel.metric in first:
                axis.sharex(first[panel.metric])
            first.setdefault(panel.metric, axis)
            _draw_arms(axis, entries, panel)
        part.supxlabel(label, fontsize=8)
    return figure


def _losses(study: Study, budget: str) -> list[_Panel]:
    return [
        _Panel(f"{name}, budget {budget}", f"{name}_loss", f"{name}_refitted_loss") for name in held_out_sets(study)
    ]


def _tasks(study: Study, budget: str, entries: Sequence[Entry]) -> list[_Panel]:
    panels = []
    for metric in headline_metrics(study):
        if not any(values(entry, metric) for entry in entries):
            continue
        untrained = list(values({"seeds": study["untrained"]}, metric).values())
        _, task, split = metric.split("/")
        found = best_baseline(study["tasks"][task], split)
        panels.append(
            _Panel(
                f"{metric_words(metric)}\nbudget {budget}",
                metric,
                untrained=mean_and_deviation(untrained)[0] if untrained else None,
                baseline=None if found is None else found[1],
            )
        )
    return panels


def _draw_arms(axis, entries: Sequence[Entry], panel: _Panel) -> None:
    labels = [entry["name"] + (" †" if entry["unmatched"] else "") for entry in entries]
    axis.set_yticks(range(len(entries)), labels, fontsize=8)
    axis.set_ylim(len(entries) - 0.5, -0.5)
    axis.set_title(panel.title, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(axis="x", linewidth=0.4)
    if panel.untrained is not None:
        axis.axvline(panel.untrained, color="black", linestyle=":", linewidth=1)
    if panel.baseline is not None:
        axis.axvline(panel.baseline, color="tab:gray", linewidth=1)
    for row, entry in enumerate(entries):
        filled, hollow = (list(values(entry, metric).values()) for metric in (panel.metric, panel.hollow))
        axis.plot(hollow, [row + 0.18] * len(hollow), "o", color="tab:gray", markersize=4, fillstyle="none")
        axis.plot(filled, [row - 0.12] * len(filled), "o", color="tab:blue", markersize=4)
        if filled:
            axis.plot([sum(filled) / len(filled)], [row - 0.12], "|", color="black", markersize=12)
