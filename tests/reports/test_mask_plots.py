import numpy as np
import pytest

from adversarial_mlm.inference.mask_view import MaskView
from adversarial_mlm.reports.mask_plots import draw_masks, mask_figure, mask_text
from adversarial_mlm.utils.errors import CorpusError


def view_of(sequence: str) -> MaskView:
    generator = np.random.default_rng(0)
    residues = len(sequence)
    loss = generator.uniform(0, 4, residues)
    loss[[at for at, residue in enumerate(sequence) if residue == "?"]] = np.nan
    return MaskView(
        sequence=sequence,
        probability=np.linspace(0, 0.5, residues),
        corruption=np.eye(3)[np.arange(residues) % 3],
        replacement="W" * residues,
        loss=loss,
        entropy=generator.uniform(0, 3, residues),
        answer="A" * residues,
        answers=np.tile(np.eye(20)[0], (residues, 1)),
        budget=residues // 4,
        method="closed form",
        draws=1,
        candidates=residues,
        parts=1,
    )


PROTEIN = "MKTAYI?KQRQISFVKSHFSRQLEERLGAVLIG" * 4  # 132 residues


def test_rows_hold_60_residues_with_a_bar_and_a_letter_for_each():
    view = view_of(PROTEIN)
    axes = mask_figure(view, "title").axes
    bars, strips = [axis for axis in axes if axis.containers], [axis for axis in axes if axis.images]
    assert [len(axis.patches) for axis in bars] == [60, 60, 12]
    heights = [patch.get_height() for axis in bars for patch in axis.patches]
    np.testing.assert_allclose(heights, view.probability)
    letters = [text for axis in bars for text in axis.texts]
    assert "".join(text.get_text() for text in letters if text.get_position()[1] < 0) == PROTEIN
    replaced = [text for text in letters if text.get_position()[1] > 0]
    assert [text.get_text() for text in replaced] == ["W"] * 44 and replaced[0].get_position()[0] == 3
    shown = np.ma.concatenate([axis.images[0].get_array() for axis in strips], axis=1).filled(np.nan)
    np.testing.assert_array_equal(shown, np.stack([view.loss, view.entropy]))


def test_bars_have_the_colour_of_their_favourite_corruption_and_a_legend():
    figure = mask_figure(view_of("MKTAYI"))
    colours = [patch.get_facecolor() for patch in figure.axes[0].patches]
    assert colours[:3] == colours[3:] and len(set(colours[:3])) == 3
    (legend,) = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["mostly [MASK]", "mostly keep", "mostly replace", "mean 0.167"]
    assert [patch.get_facecolor() for patch in legend.get_patches()] == colours[:3]


def test_a_figure_of_one_residue_is_written(tmp_path):
    draw_masks(view_of("M"), tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_too_long_a_protein_is_refused():
    with pytest.raises(CorpusError, match="has 2,001 residues, but a figure is drawn for at most 2,000"):
        mask_figure(view_of("M" * 2001))


def test_the_terminal_shows_residues_in_blocks_of_ten_with_bars_below():
    text = mask_text(view_of(PROTEIN))
    lines = text.plain.split("\n")
    assert lines[0] == f"      1  {' '.join(PROTEIN[at : at + 10] for at in range(0, 60, 10))}  60"
    assert lines[12] == f"    121  {PROTEIN[120:130]} {PROTEIN[130:]}  132"
    assert lines[13].startswith(" masked  ") and lines[13][9:].replace(" ", "") == "█" * 12
    assert lines[1].startswith(" masked   ▁▁▁▁") and lines[2].startswith("    how  _=W_=W")
    assert lines[3].startswith("   loss  ") and lines[3][9 + 6] == " "  # an unknown residue has no loss
    assert lines[4].startswith("entropy  ") and lines[4][9 + 6] != " "
    styles = [str(span.style) for span in text.spans if " on rgb" in str(span.style)]
    assert len(styles) == len(PROTEIN) and styles[0] == "rgb(0,0,0) on rgb(255,255,255)"
    assert styles[-1] == "rgb(255,255,255) on rgb(0,70,140)"
