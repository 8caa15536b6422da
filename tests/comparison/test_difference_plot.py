"""The plot of differences has a row for every pair of arms, with its seeds, mean and interval."""

import json

import pytest

from adversarial_mlm.comparison.difference_plot import difference_figure

pytest.importorskip("matplotlib")


@pytest.fixture
def study(repository) -> dict:
    return json.loads((repository / "model_cards" / "study.json").read_text())


def _axes(study: dict) -> dict:
    return {axis.get_title(): axis for axis in difference_figure(study).axes}


def test_every_pair_has_a_row_with_its_seeds_and_the_interval_of_the_tables(study):
    axes = _axes(study)
    axis = axes["members, confirmation, equal updates"]
    labels = [label.get_text() for label in axes["families, confirmation, equal updates"].get_yticklabels()]
    assert labels[:2] == ["random_20 − random_40 †", "paper − random_20 †"] and "fast_40 − random_40" in labels
    row = labels.index("fast_40 − random_40")
    drawn = [list(line.get_xdata()) for line in axis.lines if list(line.get_ydata())[0] == row]
    (told,) = [
        one
        for one in study["differences"]
        if (one["budget"], one["arm"], one["metric"]) == ("updates", "fast_40", "confirmation_members_loss")
    ]
    points, interval, mean = drawn[-3:]
    assert len(points) == 3 and sum(points) / 3 == pytest.approx(told["mean"])
    assert interval == [told["low"], told["high"]] and mean == [told["mean"]]


def test_budgets_have_their_own_panels_and_without_confirmation_the_selection_part_is_drawn(study):
    assert list(_axes(study)) == [
        f"{name}, confirmation, equal {equal}" for equal in ("updates", "seconds") for name in ("families", "members")
    ]
    study["differences"] = [row for row in study["differences"] if not row["metric"].startswith("confirmation_")]
    assert "members, equal updates" in _axes(study)


def test_a_pair_that_lacks_an_interval_is_drawn_by_its_points(study):
    for row in study["differences"]:
        row["low"] = row["high"] = row["adjusted_p"] = None
    axis = _axes(study)["members, confirmation, equal updates"]
    assert {line.get_color() for line in axis.lines[1:]} == {"#5c5c5c"}


def test_without_pairs_there_is_no_figure(study):
    assert difference_figure({**study, "differences": []}) is None
