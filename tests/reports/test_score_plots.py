import numpy as np
import pytest

from adversarial_mlm.models.tokenization_protein import STANDARD_RESIDUES
from adversarial_mlm.reports.score_plots import RESIDUE_ORDER, draw_saturation, saturation_figure
from adversarial_mlm.utils.errors import CorpusError

PROTEIN = "MKTAYIXKQR" * 13  # 130 residues


@pytest.fixture
def matrix():
    matrix = np.random.default_rng(0).normal(size=(len(PROTEIN), 20))
    matrix[[position for position, residue in enumerate(PROTEIN) if residue == "X"]] = np.nan
    return matrix


def test_rows_hold_60_positions_and_show_each_score_once(matrix):
    figure = saturation_figure(PROTEIN, matrix)
    axes = [axis for axis in figure.axes if axis.images]
    assert sorted(RESIDUE_ORDER) == sorted(STANDARD_RESIDUES)
    shown = np.ma.concatenate([axis.images[0].get_array() for axis in axes], axis=1)
    assert [axis.images[0].get_array().shape[1] for axis in axes] == [60, 60, 10]
    for row, letter in enumerate(RESIDUE_ORDER):
        wanted = matrix[:, STANDARD_RESIDUES.index(letter)]
        np.testing.assert_array_equal(shown[row].filled(np.nan), wanted)


def test_colours_are_symmetric_around_0_and_dots_mark_the_wild_type(matrix):
    axes = [axis for axis in saturation_figure(PROTEIN, matrix - 3).axes if axis.images]
    low, high = axes[0].images[0].get_clim()
    assert low == -high < 0
    dots = [pair for axis in axes for pair in zip(*axis.lines[0].get_data(), strict=True)]
    wanted = [(at, RESIDUE_ORDER.index(residue)) for at, residue in enumerate(PROTEIN, 1) if residue != "X"]
    assert dots == wanted


def test_positions_are_those_of_the_table(matrix):
    for first, ticks in ((1, [1, 10, 20, 30, 40, 50, 60]), (24, [24, 30, 40, 50, 60, 70, 80]), (-3, None)):
        axis = saturation_figure(PROTEIN, matrix, first=first).axes[0]
        assert axis.get_xlim() == (first - 0.5, first + 59.5)
        assert ticks is None or axis.get_xticks().tolist() == ticks


def test_a_protein_of_one_residue_and_one_without_scores_are_drawn(tmp_path):
    draw_saturation("M", np.zeros((1, 20)), tmp_path / "one.png", "title")
    draw_saturation("XX", np.full((2, 20), np.nan), tmp_path / "none.png")
    assert (tmp_path / "one.png").read_bytes()[:4] == (tmp_path / "none.png").read_bytes()[:4] == b"\x89PNG"


def test_too_long_a_protein_is_refused():
    with pytest.raises(CorpusError, match="has 2,001 residues, but a heat map is drawn for at most 2,000"):
        saturation_figure("M" * 2001, np.zeros((2001, 20)))
