"""How figures are drawn: colours, panels, and curves of runs over time.

Figures are made with matplotlib's objects alone, without `pyplot`, which would look for a display.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adversarial_mlm.reports.run_log import RunLog
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.errors import CorpusError
from adversarial_mlm.utils.extras import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_RESIDUES = 2000
"""Longest protein that is drawn."""

MOST_PANELS = 12  # of a figure with a panel for each run
_DOTS = (0, (1, 2))
_LINES: tuple[Any, ...] = ("-", "--", "-.", ":")
_FEW_POINTS = 8  # get a marker each
_DPI = 150
_LONGEST_NAME = 24


@dataclass(frozen=True)
class Theme:
    """Colours. Curves are in the palette of Okabe and Ito, which colour-blind readers can tell apart.

    Attributes:
        text (`str`): Text and axes.
        paper (`str`): Background.
        grid (`str`): Grid lines.
        curves (`tuple[str, ...]`): Curves; of a single run, the first is for random masks, the second for the noiser.
    """

    text: str
    paper: str
    grid: str
    curves: tuple[str, ...]

    def of_curve(self, row: int) -> str:
        """The colour of a curve; after the last one, they repeat."""
        return self.curves[row % len(self.curves)]


LIGHT = Theme(
    "#1a1a1a", "#ffffff", "#d9d9d9",
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5c5c5c"),
)  # fmt: skip
DARK = Theme(
    "#e6e6e6", "#16181c", "#3a3d42",
    ("#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#b0b0b0"),
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """The colours of a figure.

    Attributes:
        theme ([`Theme`]): Colours of paper, text and curves.
        of_group (`dict[str, str]`): Colour of each group of runs, the same in all panels.
    """

    theme: Theme
    of_group: dict[str, str]


Panel = Callable[["Axes", Style], object]
"""Draws into an axis."""


def figure_of(
    panels: Sequence[Panel], runs: Sequence[RunLog], theme: Theme, height: float = 3.2, names_runs: bool = True
) -> "Figure | None":
    """Draw panels in rows of two, below a legend of the runs if there are several.

    Args:
        panels (`Sequence[Panel]`): Those after the twelfth are left out.
        runs (`Sequence[RunLog]`): All runs of the report.
        theme ([`Theme`]): Colours.
        height (`float`, *optional*, defaults to 3.2): Height of a row, in inches.
        names_runs (`bool`, *optional*, defaults to `True`): Whether runs are told apart by colour.

    Returns:
        `matplotlib.figure.Figure`: For [`png`]; `None` if there are no panels.
    """
    if not panels:
        return None
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    groups = dict.fromkeys(run.group for run in runs)
    style = Style(theme, dict(zip(groups, _distinct(len(groups), theme), strict=True)))
    panels = panels[:MOST_PANELS]
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    with rc_context(_settings(theme)):
        figure = Figure(figsize=(9 if columns == 2 else 6.5, height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis, panel in zip(axes, panels, strict=False):
            panel(axis, style)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        if names_runs and len(groups) > 1:
            lines = [
                Line2D([], [], color=colour, lw=2.5, label=short(name)) for name, colour in style.of_group.items()
            ]
            figure.legend(handles=lines, loc="outside upper left", ncols=3 if columns == 2 else 2, frameon=False)
    return figure


def check_drawable(residues: int, what: str) -> None:
    """Check before the work that a figure of a protein can be drawn.

    Args:
        residues (`int`): Length of the protein.
        what (`str`): The kind of figure, for messages: `"a heat map"`.

    Raises:
        CorpusError: If the protein has more than 2,000 residues.
        MissingPackageError: If matplotlib is not installed.
    """
    if residues > MOST_RESIDUES:
        raise CorpusError(
            f"the protein has {residues:,} residues, but {what} is drawn for at most {MOST_RESIDUES:,}: leave out "
            "the figure, and use the table."
        )
    require("matplotlib", "plot", what)


def write_png(figure: "Figure", path: Path, resolution: int) -> None:
    """Write a figure into a PNG file, with `resolution` dots per inch.

    Raises:
        OSError: If the file cannot be written.
    """
    with atomic_files.replacing_file(path) as file:
        figure.savefig(file, dpi=resolution, format="png")


def short(name: str) -> str:
    """Return a name with dots in the middle if it is longer than 24 characters."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:12]}…{name[-11:]}"


def png(figure: "Figure", theme: Theme = LIGHT) -> bytes:
    """Return a figure as a PNG file, 150 dots per inch."""
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context(_settings(theme)):  # ticks are made while drawing
        figure.savefig(file, format="png", dpi=_DPI, metadata={"Software": None})
    return file.getvalue()


def _distinct(number: int, theme: Theme) -> list[str]:
    """Colours of some groups; steps of a colour map if there are more groups than curves in the theme."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if number <= len(theme.curves):
        return list(theme.curves[:number])
    return [to_hex(colormaps["viridis"](0.1 + 0.85 * row / (number - 1))) for row in range(number)]


def _settings(theme: Theme) -> Any:
    of_text = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor")
    of_paper = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    return {
        **dict.fromkeys(of_text, theme.text),
        **dict.fromkeys(of_paper, theme.paper),
        "grid.color": theme.grid,
        "legend.edgecolor": theme.grid,
        "font.family": "DejaVu Sans",  # comes with matplotlib
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "legend.fontsize": 9,
        "legend.framealpha": 0.85,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
    }


# ---- Curves over time ----


def has(runs: Sequence[RunLog], name: str, held_out: str | None = None) -> bool:
    """Whether a run logged a figure."""
    return any(len(run.series(name, held_out)[0]) for run in runs)


def time_axis(axis: "Axes", runs: Sequence[RunLog], title: str, label: str) -> None:
    """Prepare an axis whose x are the encoder updates of some runs."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_title(title)
    axis.set_xlabel("encoder updates")
    axis.set_ylabel(label)
    axis.set_xlim(0, max(1, *(run.last_step for run in runs)) * 1.02)
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def curves(
    runs: Sequence[RunLog],
    names: Mapping[str, str],
    title: str,
    label: str,
    *,
    factor: float = 1.0,
    from_zero: bool = False,
    logarithmic: bool = False,
    held_out: str | None = None,
    level: str | None = None,
) -> Panel:
    """A panel with figures of runs over time. Several runs differ in colour; several figures of one run do, too.

    Args:
        runs (`Sequence[RunLog]`): The runs.
        names (`Mapping[str, str]`): Name of each figure → words for the legend, which may be empty.
        title (`str`): Title of the panel.
        label (`str`): Label of the y axis, with the unit.
        factor (`float`, *optional*, defaults to 1.0): Factor from the figures to the unit.
        from_zero (`bool`, *optional*, defaults to `False`): Whether the y axis begins at 0.
        logarithmic (`bool`, *optional*, defaults to `False`): Whether the y axis is logarithmic.
        held_out (`str`, *optional*): A held-out set; by default training.
        level (`str`, *optional*): A figure whose newest values are drawn as dotted lines.
    """

    def draw(axis: "Axes", style: Style) -> None:
        theme, several = style.theme, len(style.of_group) > 1
        shown = {name: words for name, words in names.items() if has(runs, name, held_out)}
        time_axis(axis, runs, title, label)
        for row, name in enumerate(shown):
            for run in runs:
                steps, values = run.series(name, held_out)
                axis.plot(
                    steps,
                    values * factor,
                    color=style.of_group[run.group] if several else theme.of_curve(row),
                    linestyle=_LINES[row % len(_LINES)],
                    marker="o" if len(steps) < _FEW_POINTS else "",
                    markersize=4,
                    linewidth=1.6,
                )
        levels = {round(run.last(level, held_out), 4) for run in runs} if level else set()
        levels = {value for value in levels if not math.isnan(value)}
        for value in levels:
            axis.axhline(value, color=theme.text, linestyle=_DOTS, linewidth=1.2)
        if from_zero:
            axis.set_ylim(0, axis.get_ylim()[1] * 1.1)
        if logarithmic and any((run.series(name, held_out)[1] > 0).any() for run in runs for name in shown):
            _set_logarithmic(axis)
        axis.grid(axis="y", linewidth=0.6)
        _legend(axis, style, [*shown.values()], "background predictor" if levels else "")

    return draw


def _legend(axis: "Axes", style: Style, words: Sequence[str], level: str) -> None:
    """Add a legend of the figures and of the dotted line."""
    from matplotlib.lines import Line2D

    theme, several, lines = style.theme, len(style.of_group) > 1, []
    for row, text in enumerate(words):
        if text and len(words) > 1:
            colour = theme.text if several else theme.of_curve(row)
            lines.append(Line2D([], [], color=colour, linestyle=_LINES[row % len(_LINES)], label=text))
    if level:
        lines.append(Line2D([], [], color=theme.text, linestyle=_DOTS, label=level))
    if lines:
        axis.legend(handles=lines, loc="best")


def _set_logarithmic(axis: "Axes") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
