"""The pictures of a report on one or several runs, from their logs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from adversarial_mlm.masking.statistics import POSITION_BINS
from adversarial_mlm.reports.drawing import (
    LIGHT,
    MOST_PANELS,
    Panel,
    Style,
    Theme,
    curves,
    figure_of,
    has,
    short,
    time_axis,
)
from adversarial_mlm.reports.run_log import PARTS, RunLog, position_counts, replacement_counts, seconds_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RANGE = (0.25, 4.0)  # of the colours of an enrichment
_SMALL_RANGE = (0.5, 1.5)  # least range of the bars, so small differences look small
_SHADES = dict(zip(PARTS, (0.25, 0.8, 0.5, 1.0, 0.05, 0.65), strict=True))  # neighbours differ
_WIDE = 6  # per cent of the time that a bar needs for its number
_NATS = "cross-entropy, nats"


@dataclass(frozen=True)
class Picture:
    """A picture of a report.

    Attributes:
        name (`str`): Name of its file, without the ending.
        title (`str`): Its heading.
        words (`str`): How to read it.
        draw (`Callable`): Draws it from runs and a theme; returns `None` if they did not log what it needs.
        missing (`str`): Why it is left out in that case.
    """

    name: str
    title: str
    words: str
    draw: "Callable[[Sequence[RunLog], Theme], Figure | None]"
    missing: str


# ---- Pictures ----


def losses(runs: Sequence[RunLog], theme: Theme = LIGHT) -> "Figure | None":
    """Cross-entropy in training and on each held-out set, and the gap between both kinds of masks."""
    panels = _training_loss(runs) + _gap(runs)
    return figure_of(panels + [_held_out_loss(runs, name) for name in _sets(runs)], runs, theme)


def learning_rates(runs: Sequence[RunLog], theme: Theme = LIGHT) -> "Figure | None":
    """Learning rates of both networks."""
    return figure_of(
        _of_networks(runs, "learning_rate", "learning rate", "learning rate", from_zero=True), runs, theme
    )


def masks(runs: Sequence[RunLog], theme: Theme = LIGHT) -> "Figure | None":
    """Mask rate, corruption mix, and the noiser's choice: entropy over positions, or lift of the chosen proteins."""
    panels = []
    if has(runs, "mask_rate"):
        panels.append(curves(runs, {"mask_rate": ""}, "mask rate", "% of residues", factor=100, from_zero=True))
    if has(runs, "share_mask"):
        panels.append(_corruption_mix(runs))
    if has(runs, "entropy"):
        panels.append(curves(runs, {"entropy": ""}, "entropy of the noiser's choice", "relative to uniform"))
    if has(runs, "choice_lift"):
        panels.append(curves(runs, {"choice_lift": ""}, "learnability of the chosen proteins", "relative to all"))
    return figure_of(panels, runs, theme)


def enrichment(runs: Sequence[RunLog], theme: Theme = LIGHT) -> "Figure | None":
    """Heat map of each residue's enrichment over time, for each run."""
    return figure_of([_enrichment(run) for run in runs if _residues(run)], runs, theme, height=4.4, names_runs=False)


def replacements(runs: Sequence[RunLog], theme: Theme = LIGHT) -> "Figure | None":
    """Which residue the noiser replaced by which, in the last quarter of the log of each run."""
    shown = [run for run in runs if run.replacements]
    return figure_of([_replacements(run) for run in shown], runs, theme, height=4.4, names_runs=False)


def positions(runs: Sequence[RunLog], theme: Theme = LIGHT) -> "Figure | None":
    """How often the noiser masks a residue, against its position in the protein."""
    shown = [run for run in runs if position_counts(run)[1].any()]
    return figure_of([_positions(shown)] if shown else [], runs, theme)


def gradients(runs: Sequence[RunLog], theme: Theme = LIGHT) -> "Figure | None":
    """Gradient norms of both networks, and skipped updates if there were any."""
    panels = _of_networks(runs, "grad_norm", "gradient", "norm", logarithmic=True)
    if any(run.skipped("skipped_updates") or run.skipped("noiser_skipped_updates") for run in runs):
        panels += _of_networks(runs, "skipped_updates", "skipped updates", "updates per log entry", from_zero=True)
    return figure_of(panels, runs, theme)


def speed(runs: Sequence[RunLog], theme: Theme = LIGHT) -> "Figure | None":
    """Throughput, and where the time went."""
    panels = []
    if has(runs, "residues_per_second"):
        panels.append(
            curves(runs, {"residues_per_second": ""}, "throughput", "residues/s, no padding", from_zero=True)
        )
    return figure_of(panels + _time(runs), runs, theme)


def overview(runs: Sequence[RunLog], theme: Theme = LIGHT) -> "Figure | None":
    """The main picture: losses, what the noiser masked, and where the time went."""
    panels = _training_loss(runs) + [_held_out_loss(runs, name) for name in _sets(runs)[:1]]
    if len(runs) == 1 and _residues(runs[0]):
        panels.append(_enrichment(runs[0]))
    else:
        panels += _gap(runs) or _of_networks(runs, "learning_rate", "learning rate", "learning rate", from_zero=True)
    return figure_of(panels + _time(runs), runs, theme, height=3.6)


def mask_policy(runs: Sequence[RunLog], theme: Theme = LIGHT) -> "Figure | None":
    """What the noiser of one run masks at the end of training: which residues, where, and how if it chooses that."""
    if len(runs) != 1 or not _residues(runs[0]):
        return None
    panels = [_enrichment_at_end(runs[0])]
    if position_counts(runs[0])[1].any():
        panels.append(_positions(runs))
    if (runs[0].series("share_mask")[1] < 1).any():
        panels.append(_corruption_mix(runs))
    return figure_of(panels, runs, theme)


PICTURES = (
    Picture(
        "losses",
        "How well does the encoder predict masked residues?",
        "Cross-entropy; lower is better. The background predictor predicts each residue's frequency and ignores "
        "context. The gap is the cross-entropy of the noiser's masks minus that of random masks. Above 0, the "
        "noiser's residues are harder to predict.",
        losses,
        "no losses were logged",
    ),
    Picture(
        "enrichment",
        "Which residues does the noiser mask?",
        "How many times more often than its share the noiser masks a residue. The residue that it masks most at the "
        "end is on top. In a collapse one or a few rows become bright and the others dark. A dashed line marks the "
        "first collapse alarm.",
        enrichment,
        "there is no noiser, or its masks were not logged",
    ),
    Picture(
        "masks",
        "How many residues are masked, and how?",
        "The mask rate counts both kinds of masks. The entropy is that of the noiser's choice of positions: 1 if all "
        "are equally likely. If the noiser chooses proteins, the curve shows how much more it expects to be learned "
        "from them than from all: 1 without any preference.",
        masks,
        "no figures of masks were logged",
    ),
    Picture(
        "replacements",
        "Which residue does the noiser write in place of which?",
        "Share of each residue's replacements, in the last quarter of the log. A row adds up to 100 %. Rows with "
        "fewer than 10 replacements are left out.",
        replacements,
        "the noiser replaced no residues, or an earlier version wrote the log, which did not count them",
    ),
    Picture(
        "positions",
        "Where in the protein does the noiser mask?",
        "Share of the residues that the noiser masks, in 20 bins from the N-terminus to the C-terminus, in the last "
        "quarter of the log. The band shows two standard errors of the counts, the dotted line the mean. In a cropped "
        "protein, positions are those in the window that the encoder reads.",
        positions,
        "there is no noiser, or an earlier version wrote the log, which did not count positions",
    ),
    Picture("learning_rates", "Which learning rates were used?", "", learning_rates, "no learning rates were logged"),
    Picture(
        "gradients",
        "How large are the gradients?",
        "Norms before clipping, on a logarithmic axis.",
        gradients,
        "no gradient norms were logged",
    ),
    Picture(
        "speed",
        "How fast is training, and where does the time go?",
        "The rest of the time, such as saves, is only known if training has ended and was not resumed.",
        speed,
        "no times were logged",
    ),
)
"""The pictures of a report, in the order of the page."""


# ---- Panels ----


def _of_networks(runs: Sequence[RunLog], name: str, title: str, label: str, **options) -> list[Panel]:
    return [
        curves(runs, {prefix + name: ""}, f"{title}, {network}", label, **options)
        for prefix, network in (("", "encoder"), ("noiser_", "noiser"))
        if has(runs, prefix + name)
    ]


def _training_loss(runs: Sequence[RunLog]) -> list[Panel]:
    names = {"random_loss": "random masks", "adversarial_loss": "noiser's masks"}
    if not all(run.has_noiser for run in runs):  # a baseline logs one loss, that of random masks
        names = {"loss": "all masks"} | ({"adversarial_loss": "noiser's masks"} if len(runs) > 1 else {})
    return [curves(runs, names, "training", _NATS)] if has(runs, "loss") else []


def _gap(runs: Sequence[RunLog]) -> list[Panel]:
    shown = [run for run in runs if run.has_noiser]
    if not has(shown, "gap"):
        return []
    lines = curves(shown, {"gap": "all masks", "mask_gap": "at [MASK] alone"}, "gap in training", "nats")

    def draw(axis: "Axes", style: Style) -> None:
        axis.axhline(0, color=style.theme.text, linewidth=0.8)
        lines(axis, style)

    return [draw]


def _corruption_mix(runs: Sequence[RunLog]) -> Panel:
    shares = {"share_mask": "[MASK]", "share_replace": "replaced", "share_keep": "kept"}
    kind = "of the noiser's masks" if any(run.has_noiser for run in runs) else "of random masks"
    return curves(runs, shares, f"corruption mix {kind}", "% of masks", factor=100, from_zero=True)


def _held_out_loss(runs: Sequence[RunLog], name: str) -> Panel:
    names = {"random_loss": "random masks of training", "adversarial_loss": "noiser's masks", "loss": "random [MASK]s"}
    if len(runs) > 1:
        names = {"loss": "random [MASK]s", "adversarial_loss": "noiser's masks"}
    if not has(runs, "adversarial_loss", name):
        names = {"loss": "random [MASK]s"}
    return curves(runs, names, f"held-out {name}", _NATS, held_out=name, level="background_loss")


def _enrichment(run: RunLog) -> Panel:
    from matplotlib.colors import LogNorm

    def draw(axis: "Axes", style: Style) -> None:
        letters, steps, grid, at_end = _enrichments(run)
        order = np.argsort(-np.nan_to_num(at_end), kind="stable")
        time_axis(axis, [run], f"enrichment of residues, {short(run.name)}", "")
        mesh = axis.pcolormesh(
            np.concatenate([[0], steps]),
            np.arange(len(letters) + 1),
            np.clip(grid[order], *_RANGE),
            norm=LogNorm(*_RANGE),
            cmap="viridis",
        )
        axis.set_xlim(0, max(1, steps[-1]))
        axis.set_yticks(np.arange(len(letters)) + 0.5, [letters[row] for row in order], fontsize=8)
        axis.invert_yaxis()
        if run.alarms:
            axis.axvline(run.alarms[0], color="white", linestyle="--", linewidth=1.8)
        bar = axis.figure.colorbar(mesh, ax=axis, extend="both", ticks=[0.25, 0.5, 1, 2, 4])
        bar.ax.set_yticklabels(["¼×", "½×", "1×", "2×", "4×"])
        bar.ax.minorticks_off()

    return draw


def _enrichments(run: RunLog) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Letters, steps, enrichments of shape `(letters, steps)`, and their means in the last quarter of the log."""
    letters = _residues(run)
    of_letters = [run.series(f"enrichment_{letter}") for letter in letters]
    steps = max((steps for steps, _ in of_letters), key=len)
    grid = np.stack([np.interp(steps, *of_letter) for of_letter in of_letters])
    return letters, steps, grid, grid[:, -max(1, len(steps) // 4) :].mean(axis=1)


def _enrichment_at_end(run: RunLog) -> Panel:
    def draw(axis: "Axes", style: Style) -> None:
        letters, _, _, at_end = _enrichments(run)
        order = [row for row in np.argsort(-np.nan_to_num(at_end), kind="stable") if np.isfinite(at_end[row])]
        heights = at_end[order]
        axis.bar(range(len(order)), heights - 1, 0.8, bottom=1, color=style.theme.of_curve(1))
        axis.axhline(1, color=style.theme.text, linewidth=1)
        axis.set_xticks(range(len(order)), [letters[row] for row in order], fontsize=8)
        axis.set_title("enrichment of residues")
        axis.set_xlabel("residue")
        axis.set_ylabel("masks, relative to its share")
        low, high = axis.get_ylim()
        axis.set_ylim(min(low, _SMALL_RANGE[0]), max(high, _SMALL_RANGE[1]))
        axis.yaxis.set_major_formatter("{x:g}×")
        axis.grid(axis="y", linewidth=0.6)

    return draw


def _replacements(run: RunLog) -> Panel:
    def draw(axis: "Axes", style: Style) -> None:
        rows, columns, counts = replacement_counts(run)
        shares = 100 * counts / counts.sum(axis=1, keepdims=True)
        mesh = axis.pcolormesh(shares, cmap="cividis", vmin=0)
        axis.set_title(f"{int(counts.sum()):,} replacements, {short(run.name)}")
        axis.set_xticks(np.arange(len(columns)) + 0.5, list(columns), fontsize=8)
        axis.set_yticks(np.arange(len(rows)) + 0.5, list(rows), fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel("residue that the noiser wrote")
        axis.set_ylabel("true residue")
        axis.figure.colorbar(mesh, ax=axis, label="% of the row")

    return draw


def _positions(runs: Sequence[RunLog]) -> Panel:
    def draw(axis: "Axes", style: Style) -> None:
        middles = (np.arange(POSITION_BINS) + 0.5) / POSITION_BINS * 100
        for run in runs:
            residues, masked = position_counts(run)
            share = masked / np.maximum(residues, 1)
            error = 2 * np.sqrt(share * (1 - share) / np.maximum(residues, 1))
            colour, mean = style.of_group[run.group], 100 * masked.sum() / max(residues.sum(), 1)
            axis.fill_between(middles, 100 * (share - error), 100 * (share + error), color=colour, alpha=0.25, lw=0)
            axis.plot(middles, 100 * share, color=colour, marker="o", markersize=3, linewidth=1.6)
            axis.axhline(mean, color=colour, linestyle=":", linewidth=1.2)
        axis.set_title("masks of the noiser")
        axis.set_xlabel("position, % of the length from the N-terminus")
        axis.set_ylabel("% of residues")
        axis.set_xlim(0, 100)
        axis.set_ylim(0, axis.get_ylim()[1] * 1.05)
        axis.grid(axis="y", linewidth=0.6)

    return draw


def _time(runs: Sequence[RunLog]) -> list[Panel]:
    from matplotlib import colormaps

    shown = [run for run in runs if seconds_of(run)][:MOST_PANELS]
    if not shown:
        return []

    def draw(axis: "Axes", style: Style) -> None:
        seconds, size = [seconds_of(run) for run in shown], 9 if len(shown) < 6 else 7
        left = np.zeros(len(shown))
        for name, shade in _SHADES.items():
            if not any(name in of for of in seconds):
                continue
            colour = colormaps["cividis"](shade)
            shares = np.array([100 * of.get(name, 0.0) / sum(of.values()) for of in seconds])
            bars = axis.barh(range(len(shown)), shares, 0.6, left=left, color=colour, label=name)
            numbers = [f"{share:.0f}" if share >= _WIDE else "" for share in shares]
            axis.bar_label(
                bars, numbers, label_type="center", color="black" if shade > 0.5 else "white", fontsize=size
            )
            left += shares
        axis.set_yticks(range(len(shown)), [short(run.name) for run in shown], fontsize=size)
        axis.set_ylim(len(shown) - 0.4, -0.6 - max(1.2, 0.45 * len(shown)))  # the legend is above the bars
        axis.set_xlim(0, 100)
        axis.set_xlabel("% of the time")
        axis.set_title("where the time went")
        axis.legend(loc="upper left", ncols=2, frameon=False)

    return [draw]


def _sets(runs: Sequence[RunLog]) -> list[str]:
    """Names of the held-out sets."""
    return list(dict.fromkeys(name for run in runs for name in run.held_out))


def _residues(run: RunLog) -> list[str]:
    """Residues whose enrichment was logged."""
    names = dict.fromkeys(name for entry in run.training for name in entry if name.startswith("enrichment_"))
    return [name.removeprefix("enrichment_") for name in names if name != "enrichment_max"]
