"""A study as one picture: every arm's cross-entropy under every budget, a point for each seed."""

from pathlib import Path

from ..recipe import RecipeError
from .differences import Study, by_budget, values
from .tables import held_out_sets


def check_available() -> None:
    """Make sure that a plot can be drawn, before hours of work.

    Raises:
        RecipeError: If matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise RecipeError(
            "the plot needs matplotlib, which is missing: pip install 'adversarial-mlm[plot]', or say plot: false"
        ) from error


def draw(study: Study, path: Path) -> None:
    """Write the picture.

    Args:
        study (`Mapping`): What `study.json` holds.
        path (`Path`): Of the PNG file.
    """
    from matplotlib.figure import Figure  # without pyplot, which would look for a screen

    budgets = [(budget, entries) for budget, entries in by_budget(study) if entries]
    sets = held_out_sets(study)
    rows = max(len(entries) for _, entries in budgets)
    figure = Figure(figsize=(1.5 + 3.4 * len(sets), (1.1 + 0.32 * rows) * len(budgets)), layout="constrained")
    axes = figure.subplots(len(budgets), len(sets), squeeze=False, sharex="col")
    for of_budget, (budget, entries) in zip(axes, budgets, strict=True):
        for axis, name in zip(of_budget, sets, strict=True):
            _draw_arms(axis, entries, f"{name}_loss")
            axis.set_title(f"{name}, budget {budget}", fontsize=9)
            axis.tick_params(labelsize=8)
        for axis in of_budget[1:]:
            axis.set_yticklabels([])
    for axis in axes[-1]:
        axis.set_xlabel("cross-entropy on random masks, nats\n(● each seed, ○ refitted biases, | mean)", fontsize=8)
    figure.savefig(path, dpi=150)


def _draw_arms(axis, entries, metric: str) -> None:
    labels = [entry["name"] + (" †" if entry["unmatched"] else "") for entry in entries]
    axis.set_yticks(range(len(entries)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.grid(axis="x", linewidth=0.4)
    for place, entry in enumerate(entries):
        losses = list(values(entry, metric).values())
        refitted = list(values(entry, metric.replace("_loss", "_refitted_loss")).values())
        axis.plot(refitted, [place + 0.18] * len(refitted), "o", color="tab:gray", markersize=4, fillstyle="none")
        axis.plot(losses, [place - 0.12] * len(losses), "o", color="tab:blue", markersize=4)
        if losses:
            axis.plot([sum(losses) / len(losses)], [place - 0.12], "|", color="black", markersize=12)
