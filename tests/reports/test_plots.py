import io

import pytest

from adversarial_mlm.reports import plots
from adversarial_mlm.reports.drawing import DARK, LIGHT, png
from adversarial_mlm.reports.run_log import read_run
from adversarial_mlm.saving.run_files import REPORT_FILES
from tests.reports.conftest import log, training_entry

pytest.importorskip("matplotlib")


@pytest.fixture
def runs(write_run):
    """A run with a noiser and a baseline."""
    return [read_run(write_run("game")), read_run(write_run("baseline", log(noiser=False)))]


def titles(figure) -> list[str]:
    return [axis.get_title() or axis.get_title(loc="left") for axis in figure.axes if axis.axison]


def test_every_picture_has_a_file_among_those_of_a_run():
    assert {f"report/{picture.name}.png" for picture in plots.PICTURES} == set(REPORT_FILES[3:])


@pytest.mark.parametrize(
    ("name", "panels"),
    [
        ("losses", ["training", "gap in training", "held-out families", "held-out members"]),
        ("learning_rates", ["learning rate, encoder", "learning rate, noiser"]),
        ("masks", ["mask rate", "corruption mix of the noiser's masks", "entropy of the noiser's choice"]),
        ("enrichment", ["enrichment of residues, game"]),
        ("replacements", ["12 replacements, game"]),
        ("positions", ["masks of the noiser"]),
        ("gradients", ["gradient, encoder", "gradient, noiser"]),
        ("speed", ["throughput", "where the time went"]),
    ],
)
def test_a_run_with_a_noiser_has_every_picture(runs, name, panels):
    picture = next(picture for picture in plots.PICTURES if picture.name == name)
    figure = picture.draw(runs[:1], LIGHT)
    assert [title for title in titles(figure) if title] == panels
    assert all(axis.get_xlabel() for axis in figure.axes if axis.get_title(loc="left"))


def test_a_baseline_has_no_pictures_of_a_noiser(runs):
    drawn = {picture.name for picture in plots.PICTURES if picture.draw(runs[1:], LIGHT) is not None}
    assert drawn == {"losses", "learning_rates", "masks", "gradients", "speed"}
    assert titles(plots.losses(runs[1:])) == ["training", "held-out families", "held-out members"]


def test_a_noiser_that_chooses_proteins_has_a_curve_of_its_choice(write_run):
    entries = [{**entry, "choice_lift": 1.2} if "grad_norm" in entry else entry for entry in log(noiser=False)]
    shown = titles(plots.masks([read_run(write_run(entries=entries))]))
    assert shown == ["mask rate", "corruption mix of random masks", "learnability of the chosen proteins"]


def test_an_old_log_has_all_pictures_but_those_of_counts(write_run):
    run = read_run(write_run(entries=log(counts=False)))
    missing = {picture.name for picture in plots.PICTURES if picture.draw([run], LIGHT) is None}
    assert missing == {"replacements", "positions"}


def test_a_run_has_the_same_colour_in_all_panels(runs):
    baseline, game = runs[::-1]
    figure = plots.losses([baseline, game])
    names = {line.get_label(): line.get_color() for line in figure.legends[0].get_lines()}
    assert list(names) == ["baseline", "game"] and names["game"] == LIGHT.curves[1]
    gap = next(axis for axis in figure.axes if axis.get_title(loc="left") == "gap in training")
    assert {line.get_color() for line in gap.lines} == {LIGHT.text, names["game"]}


def test_seeds_of_an_arm_share_a_colour(write_run):
    arms = [read_run(write_run(f"arm{seed}"), name=f"arm, seed {seed}", group="arm") for seed in range(2)]
    assert not plots.losses(arms).legends  # one group
    training = plots.losses(arms).axes[0]
    assert len(training.lines) == 4 and len({line.get_color() for line in training.lines}) == 2


def test_the_residue_that_is_masked_most_at_the_end_is_the_first_row(runs):
    axis = plots.enrichment(runs).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()][0] == "W" and axis.yaxis_inverted()
    mesh = axis.collections[0].get_array()
    assert mesh.shape == (20, 4) and mesh[0, -1] == 4 and mesh[1, 0] == 1  # 5 times, at the end of the colours


def test_the_first_alarm_is_marked(write_run):
    entries = [{**training_entry(step), "collapse": float(step > 10)} for step in (10, 20, 30)]
    axis = plots.enrichment([read_run(write_run(entries=entries))]).axes[0]
    assert [list(line.get_xdata()) for line in axis.lines] == [[20, 20]]


def test_skipped_updates_are_drawn_if_there_were_any(write_run):
    entries = [training_entry(10), {**training_entry(20), "skipped_updates": 3.0}]
    names = titles(plots.gradients([read_run(write_run(entries=entries))]))
    assert names[2:] == ["skipped updates, encoder", "skipped updates, noiser"]


def test_the_overview_shows_what_was_logged(runs):
    assert titles(plots.overview(runs[:1]))[:4] == [
        "training", "held-out families", "enrichment of residues, game", "where the time went",
    ]  # fmt: skip
    assert "gap in training" in titles(plots.overview(runs))
    assert "learning rate, encoder" in titles(plots.overview(runs[1:]))


def test_the_picture_of_the_card_shows_what_the_noiser_masks_at_the_end(runs, write_run):
    policy = plots.mask_policy(runs[:1])
    residues, positions, mix, _ = policy.axes
    assert [label.get_text() for label in residues.get_xticklabels()][0] == "W"
    tops = [bar.get_y() + bar.get_height() for bar in residues.patches]
    assert tops == pytest.approx([5.0, *[1.0] * 19])  # in the last of four entries
    assert positions.get_xlabel().startswith("position") and "corruption mix" in mix.get_title("left")
    only_masks = [{**entry, "share_mask": 1.0} if "share_mask" in entry else entry for entry in log()]
    assert len(plots.mask_policy([read_run(write_run("masks", only_masks))]).axes) == 2
    without_counts = read_run(write_run("old", log(counts=False)))
    assert len(plots.mask_policy([without_counts]).axes) == 2


def test_several_runs_and_a_baseline_have_no_picture_for_a_card(runs, write_run):
    assert plots.mask_policy(runs) is None
    assert plots.mask_policy([read_run(write_run("random", log(noiser=False)))]) is None


def test_a_log_of_one_entry_or_of_evaluations_alone_can_be_drawn(write_run):
    first = read_run(write_run("first", [training_entry(1)]))
    evaluated = read_run(write_run("evaluated", [entry for entry in log() if "loss" not in entry]))
    for run in (first, evaluated):
        png(plots.overview([run]))
        assert [picture for picture in plots.PICTURES if picture.draw([run], LIGHT) is not None]


def test_many_runs_have_colours_of_their_own_and_short_names(write_run):
    runs = [read_run(write_run(f"a_name_that_is_much_too_long_{number}")) for number in range(9)]
    lines = plots.learning_rates(runs).legends[0].get_lines()
    assert len({line.get_color() for line in lines}) == 9
    assert lines[3].get_label() == "a_name_that_…_too_long_3"


def test_gradients_that_are_zero_are_drawn_without_a_logarithm(write_run):
    axis = plots.gradients([read_run(write_run(entries=[{**training_entry(10), "grad_norm": 0.0}]))]).axes[0]
    assert axis.get_yscale() == "linear"


def test_pictures_of_both_themes_have_their_paper(runs):
    from PIL import Image

    for theme in (LIGHT, DARK):
        image = Image.open(io.BytesIO(png(plots.positions(runs, theme), theme))).convert("RGB")
        assert "#{:02x}{:02x}{:02x}".format(*image.getpixel((0, 0))) == theme.paper
        assert image.width == 975  # 6.5 inches at 150 dots
