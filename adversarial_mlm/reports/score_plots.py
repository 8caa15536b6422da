"""Heat map of all single substitutions of a protein."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from adversarial_mlm.models.tokenization_protein import STANDARD_RESIDUES
from adversarial_mlm.reports.drawing import check_drawable, write_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# grouped by chemistry, so that similar residues are neighbours
RESIDUE_ORDER = "GAVLIMFWYPCSTNQHKRDE"

_RESIDUES_IN_ROW = 60
_MOST_CERTAIN = 98  # percentile of |score| at which the colours end


def draw_saturation(
    sequence: str, matrix: np.ndarray, path: Path, title: str = "", first: int = 1, resolution: int = 150
) -> None:
    """Draw the heat map into a PNG file, see [`saturation_figure`].

    Raises:
        CorpusError: If the protein is too long.
        MissingPackageError: If matplotlib is not installed.
        OSError: If the file cannot be written.
    """
    write_png(saturation_figure(sequence, matrix, title, first), path, resolution)


def saturation_figure(sequence: str, matrix: np.ndarray, title: str = "", first: int = 1) -> "Figure":
    """Draw the scores of all single substitutions: positions to the right, new residues downwards.

    Colours diverge from white at 0: red is a substitution that the encoder finds less probable than the wild type,
    blue one that it finds more probable. Both are told apart with every kind of colour blindness. A dot marks the wild
    type, grey a position without scores. There are 60 positions in a row. Colours end at the 98th percentile of
    |score|.

    Args:
        sequence (`str`): The protein.
        matrix (`np.ndarray` of shape `(residues, 20)`): Result of [`saturation_matrix`].
        title (`str`, *optional*): Title of the figure.
        first (`int`, defaults to 1): Number of the first position.

    Raises:
        CorpusError: If the protein has more than 2,000 residues.
    """
    check_drawable(len(sequence), "a heat map")
    from matplotlib import colormaps
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    order = [STANDARD_RESIDUES.index(letter) for letter in RESIDUE_ORDER]
    values = np.ma.masked_invalid(matrix[:, order].T)  # (20, residues)
    finite = np.abs(matrix[np.isfinite(matrix)])
    limit = float(np.percentile(finite, _MOST_CERTAIN)) if len(finite) else 1.0
    limit = limit or 1.0
    width = min(len(sequence), _RESIDUES_IN_ROW)
    rows = -(-len(sequence) // width)
    figure = Figure(figsize=(2.2 + 0.13 * max(width, 30), 0.9 + 3.1 * rows), layout="constrained")
    colours = colormaps["RdBu"].with_extremes(bad="0.75")
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    for number, axis in enumerate(axes):
        start, stop = number * width, min((number + 1) * width, len(sequence))
        image = axis.imshow(
            values[:, start:stop],
            cmap=colours,
            norm=Normalize(-limit, limit),
            aspect="auto",
            interpolation="nearest",
            extent=(start + first - 0.5, stop + first - 0.5, len(RESIDUE_ORDER) - 0.5, -0.5),
        )
        known = [position for position in range(start, stop) if sequence[position] in RESIDUE_ORDER]
        own = [RESIDUE_ORDER.index(sequence[position]) for position in known]
        axis.plot([position + first for position in known], own, ".", color="black", markersize=3)
        axis.set_xlim(start + first - 0.5, start + first + width - 0.5)
        axis.set_yticks(range(len(RESIDUE_ORDER)), list(RESIDUE_ORDER), fontsize=7, family="monospace")
        axis.set_ylabel("new residue", fontsize=8)
        axis.set_xticks(_ticks(start + first, stop + first - 1, first))
        axis.tick_params(labelsize=8, length=2)
        for position in range(start, stop):
            axis.text(
                position + first, -0.8, sequence[position], fontsize=7, ha="center", va="bottom", family="monospace"
            )
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        axis.spines["bottom"].set_bounds(start + first - 0.5, stop + first - 0.5)
    axes[-1].set_xlabel("position (wild type above, ● its residue)", fontsize=9)
    bar = figure.colorbar(image, ax=list(axes), extend="both", shrink=min(1, 1.5 / rows), fraction=0.03, pad=0.01)
    bar.set_label("log p(new) − log p(wild type), nats", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _ticks(begin: int, end: int, first: int) -> list[int]:
    """Return the multiples of 10 from `begin` to `end`, and the protein's first position if it is not near one."""
    ticks = [position for position in range(begin, end + 1) if position % 10 == 0]
    return [first, *ticks] if begin == first and (first - 1) % 10 < 7 and first not in ticks else ticks
