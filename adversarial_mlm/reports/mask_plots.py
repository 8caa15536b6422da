"""Pictures of what a noiser does with a protein: a figure with a sequence track, and coloured text for a terminal."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adversarial_mlm.inference.mask_view import CORRUPTIONS, MaskView
from adversarial_mlm.models.modeling_noiser import KEEP, MASK, REPLACE
from adversarial_mlm.reports.drawing import LIGHT, check_drawable, write_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.text import Text

COLOURS = dict(zip(CORRUPTIONS, (LIGHT.curves[0], LIGHT.curves[4], LIGHT.curves[3]), strict=True))
"""Colour of each corruption; readers with any colour blindness can tell them apart."""
_RESIDUES_IN_ROW = 60
_RESIDUES_IN_LINE, _RESIDUES_IN_BLOCK = 60, 10
_BARS = " ▁▂▃▄▅▆▇█"
_SIGNS = {MASK: "_", KEEP: "="}
_COLOUR_PERCENTILES = (2, 98)  # of loss and entropy, at which the colours end


def draw_masks(view: MaskView, path: Path, title: str = "", resolution: int = 150) -> None:
    """Draw the figure into a PNG file, see [`mask_figure`].

    Raises:
        CorpusError: If the protein is too long.
        MissingPackageError: If matplotlib is not installed.
        OSError: If the file cannot be written.
    """
    write_png(mask_figure(view, title), path, resolution)


def mask_figure(view: MaskView, title: str = "") -> "Figure":
    """Draw a protein in rows of 60 residues.

    Each row shows, from top to bottom:

    - Bars: the probability that the noiser masks a residue, in the colour of its most frequent corruption. A letter
      above a bar names the residue that replaces it.
    - The residues.
    - The encoder's loss and entropy. Their colours end at their 2nd and 98th percentiles.

    Args:
        view ([`MaskView`]): Result of [`view_masks`].
        title (`str`, *optional*): Title of the figure.

    Raises:
        CorpusError: If the protein has more than 2,000 residues.
    """
    residues = len(view.sequence)
    check_drawable(residues, "a figure")
    from matplotlib.figure import Figure

    width = min(residues, _RESIDUES_IN_ROW)
    rows = -(-residues // width)
    figure = Figure(figsize=(2.4 + 0.14 * max(width, 40), 1.3 + 2.1 * rows), layout="constrained")
    axes = figure.subplots(2 * rows, 1, height_ratios=[3, 1] * rows, squeeze=False)[:, 0]
    largest = max(float(view.probability.max()) * 1.1, 1e-3)
    limits = np.nanpercentile(np.concatenate([view.loss, view.entropy]), _COLOUR_PERCENTILES)
    for number in range(rows):
        start, stop = number * width, min((number + 1) * width, residues)
        _draw_bars(axes[2 * number], view, start, stop, largest)
        image = _draw_strips(axes[2 * number + 1], view, start, stop, limits)
        for axis in axes[2 * number : 2 * number + 2]:
            axis.set_xlim(start + 0.5, start + width + 0.5)
            axis.set_xticks([tick for tick in (1, *range(10, stop + 1, 10)) if start < tick <= stop])
            axis.spines["bottom"].set_bounds(start + 0.5, stop + 0.5)
    axes[-1].set_xlabel("position", fontsize=9)
    bar = figure.colorbar(image, ax=list(axes), extend="both", shrink=min(1, 1.5 / rows), fraction=0.03, pad=0.01)
    bar.set_label("encoder at a [MASK] there, nats", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    _add_legend(figure, view)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _draw_bars(axis: "Axes", view: MaskView, start: int, stop: int, largest: float) -> None:
    positions = np.arange(start, stop)
    favourites = view.corruption[start:stop].argmax(axis=1)
    colours = [COLOURS[CORRUPTIONS[index]] for index in favourites]
    axis.bar(positions + 1, view.probability[start:stop], width=0.85, color=colours)
    mean = view.budget / len(view.sequence)
    axis.plot([start + 0.5, stop + 0.5], [mean, mean], color="0.35", linewidth=0.8, linestyle="--")
    axis.set_ylim(0, largest)
    axis.set_ylabel("P(masked)", fontsize=8)
    axis.tick_params(labelsize=8, labelbottom=False, length=2)
    for position in positions[favourites == REPLACE].tolist():
        height = view.probability[position] + 0.01 * largest
        axis.text(position + 1, height, view.replacement[position], fontsize=7, ha="center", va="bottom")
    for position in positions.tolist():
        axis.text(
            position + 1,
            -0.04 * largest,
            view.sequence[position],
            fontsize=8,
            ha="center",
            va="top",
            family="monospace",
        )
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _draw_strips(axis: "Axes", view: MaskView, start: int, stop: int, limits: np.ndarray):
    values = np.ma.masked_invalid(np.stack([view.loss[start:stop], view.entropy[start:stop]]))
    image = axis.imshow(
        values,
        cmap="cividis",
        vmin=limits[0],
        vmax=limits[1],
        aspect="auto",
        interpolation="nearest",
        extent=(start + 0.5, stop + 0.5, 1.5, -0.5),
    )
    axis.set_yticks([0, 1], ["loss", "entropy"], fontsize=8)
    axis.tick_params(labelsize=8, length=2)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    return image


def _add_legend(figure: "Figure", view: MaskView) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    seen = sorted(set(view.corruption.argmax(axis=1).tolist()))
    handles: list = [Patch(color=COLOURS[CORRUPTIONS[index]], label=f"mostly {CORRUPTIONS[index]}") for index in seen]
    mean = view.budget / len(view.sequence)
    handles.append(Line2D([], [], color="0.35", linewidth=0.8, linestyle="--", label=f"mean {mean:.3f}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)


def mask_text(view: MaskView) -> "Text":
    """Return the protein for a terminal: residues on a colour that shows how often they are masked.

    Below the residues there are bars of the same probability, and of the encoder's loss and entropy, which can also be
    read without colours. If the noiser does not only use [MASK], a line shows its favourite corruption: `_` for
    [MASK], `=` for keep, and a letter for a replacement by this residue.
    """
    from rich.text import Text

    text = Text()
    largest = max(float(view.probability.max()), 1e-12)
    tracks = {"masked": _bars(view.probability)}
    if not only_masks(view):
        tracks["how"] = favourite_signs(view)
    tracks |= {"loss": _bars(view.loss), "entropy": _bars(view.entropy)}
    for start in range(0, len(view.sequence), _RESIDUES_IN_LINE):
        stop = min(start + _RESIDUES_IN_LINE, len(view.sequence))
        text.append(f"{start + 1:>7}  ", style="dim")
        for position in range(start, stop):
            share = view.probability[position] / largest
            text.append(_gap(position, start))
            text.append(view.sequence[position], style=_style(share))
        text.append(f"  {stop}\n", style="dim")
        for name, signs in tracks.items():
            text.append(f"{name:>7}  ", style="dim")
            text.append("".join(_gap(position, start) + signs[position] for position in range(start, stop)) + "\n")
        text.append("\n")
    text.right_crop(1)
    return text


def _gap(position: int, start: int) -> str:
    return " " if position > start and (position - start) % _RESIDUES_IN_BLOCK == 0 else ""


def only_masks(view: MaskView) -> bool:
    """Whether the noiser never keeps or replaces a residue."""
    return not view.corruption[:, MASK + 1 :].any()


def _bars(values: np.ndarray) -> str:
    """Return a bar for each value, relative to the largest; a blank for nan and 0."""
    shares = np.nan_to_num(values / max(float(np.nanmax(values)), 1e-12))
    return "".join(_BARS[index] for index in np.ceil(shares * (len(_BARS) - 1)).astype(int))


def favourite_signs(view: MaskView) -> str:
    """Return a sign for the favourite corruption of each residue: `_` for [MASK], `=` for keep, or the new residue."""
    return "".join(
        replacement if index == REPLACE else _SIGNS[index]
        for index, replacement in zip(view.corruption.argmax(axis=1), view.replacement, strict=True)
    )


def shade(share: float) -> tuple[str, str]:
    """Return a blue that is darker the larger the share (0 to 1), and the colour of letters on it: `rgb(r,g,b)`."""
    light, dark = np.array([255, 255, 255]), np.array([0, 70, 140])
    colour = (light + (dark - light) * np.clip(share, 0, 1)).astype(int)
    # relative luminance of sRGB; below 0.18, white has more contrast than black
    luminance = np.dot((0.2126, 0.7152, 0.0722), (colour / 255) ** 2.2)
    red, green, blue = colour.tolist()
    letter = "rgb(255,255,255)" if luminance < 0.18 else "rgb(0,0,0)"  # named colours differ between terminals
    return f"rgb({red},{green},{blue})", letter


def _style(share: float) -> str:
    paper, letter = shade(share)
    return f"{letter} on {paper}"
