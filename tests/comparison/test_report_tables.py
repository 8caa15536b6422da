import copy
import csv
import io
import json

import pytest

from adversarial_mlm.comparison.differences import differences, gains
from adversarial_mlm.comparison.report_csv import runs_csv
from adversarial_mlm.comparison.report_plot import figure_of
from adversarial_mlm.comparison.report_tables import markdown

STUDIES = ["study", *(f"study_{name}" for name in ("stability", "tuned", "falling", "proteins", "broad"))]


def entry(name, budget, seeds, **more):
    told = {
        "corpus": "some proteins", "updates": 600, "options": {"masking": "random"}, "against": None,
        "unmatched": False, "masks": {"words": "20 % 80/10/10"}, "removed": False,
    }  # fmt: skip
    of_seeds = [{"seed": seed, "metrics": metrics} for seed, metrics in enumerate(seeds)]
    return {"name": name, "budget": budget, "seeds": of_seeds, **told, **more}


def figures(loss, **more):
    return {
        "updates": 600, "flops": 2.5e12, "seconds": 90.0, "diverged": False, "collapsed_at": None,
        "skipped_updates": 0.0, "members_loss": loss, "members_refitted_loss": loss - 0.01,
        "members_background_loss": 2.85, "confirmation_members_loss": loss + 0.1,
        "confirmation_members_refitted_loss": loss + 0.09, "confirmation_members_background_loss": 2.9, **more,
    }  # fmt: skip


@pytest.fixture
def study():
    random = [figures(2.70, **{"probe/stability/test": 0.40}), figures(2.72, **{"probe/stability/test": 0.44})]
    game = [
        figures(
            2.75, **{"probe/stability/test": 0.41}, entropy=0.9, share_mask=0.5, share_keep=0.1, share_replace=0.4
        ),
        figures(2.78, **{"probe/stability/test": 0.43}, collapsed_at=7, entropy=0.7),
    ]
    of_game = {"against": "random", "unmatched": True, "difference": "in mask rate", "removed": True}
    content = {
        "corpus": "some proteins",
        "common": {"encoder": "tiny", "eval_mask_rate": 0.2},
        "divided_by_family": True,
        "proteins": {
            "train": {"proteins": 9000},
            "members": {
                "selection": 400,
                "confirmation": 380,
                "selection_families": 7,
                "confirmation_families": 6,
            },
        },
        "machine": {"processor": "a quick one"},
        "warm_up": None,
        "budgets": {
            "updates": {"equal": "updates", "updates": 600},
            "flops": {"equal": "flops", "like": "random", "updates": 600},
        },
        "arms": [
            entry("random", "updates", random),
            entry("game", "updates", game, **of_game),
            entry("random", "flops", random),
            entry("game", "flops", [figures(2.8), {"diverged": True}], **{**of_game, "updates": 300}),
        ],
        "untrained": [
            {"seed": 0, "metrics": {"members_loss": 3.4, "probe/stability/test": 0.3}},
            {"seed": 1, "metrics": {"members_loss": 3.4, "probe/stability/test": 0.32}},
        ],
        "tasks": {
            "stability": {
                "facts": {"target": "stability_score", "headline": "test", "rows": {"test": 50}, "as_in_paper": False},
                "baselines": {"mean": {"test": {"value": None}}, "composition": {"test": {"value": 0.52}}},
            }
        },
        "task_budgets": ["updates"],
    }
    return {**content, "differences": differences(content), "gains": gains(content)}


def lines_with(text: str, *words: str) -> list[str]:
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_a_table_has_mean_and_deviation_over_seeds(study):
    (line,) = lines_with(markdown(study), "| random | 600 |", "2.710 ± 0.014")[:1]
    assert line == "| random | 600 | 2.5 | 1.5 | 2.710 ± 0.014 | 2.700 ± 0.014 | no | 0 |"


def test_alarms_and_runs_that_diverged_are_told(study):
    text = markdown(study)
    assert lines_with(text, "game (no longer in the recipe) | 600", "1 of 2 | 0 |")
    assert lines_with(text, "game (no longer in the recipe) | 300", "2.800", "1 of 2 diverged")


def test_the_papers_table_2_has_our_columns_beside_the_papers(study):
    text = markdown(study)
    header = (
        "| task | paper: random | paper: adversarial | random | game (no longer in the recipe) | no pre-training |"
    )
    assert lines_with(text, header)
    (line,) = lines_with(text, "| Stability, test | 0.626")
    assert line == (
        "| Stability, test | 0.626 ± 0.044 (a) | 0.630 ± 0.009 (a) | 0.420 ± 0.028 | 0.420 ± 0.014 "
        "| 0.310 ± 0.014 | 0.520 (composition) |"
    )
    assert text.count("the paper's Table 2 (budget updates)?") == text.count("the paper's Table 2 (") == 1


def test_unmatched_arms_are_marked_in_every_table_of_differences(study):
    text = markdown(study)
    assert lines_with(text, "random † (in mask rate)")
    rows = lines_with(text, "game − random")
    assert len(rows) == 7 and all("game − random †" in row for row in rows)


def test_differences_have_their_interval_and_say_which_runs_have_no_partner(study):
    # of 0.05 and 0.06: mean 0.055, deviation 0.00707, error 0.005, t of one degree of freedom 12.706
    rows = lines_with(markdown(study), "| updates | game − random", "+0.055 (-0.009 to +0.119; p 0.06)")
    assert len(rows) == 2  # selection and confirmation
    assert lines_with(markdown(study), "| flops | game − random", "+0.100 [1 pair, 1 without partner]")


def test_a_pair_whose_runs_are_those_of_an_earlier_budget_is_not_repeated(study):
    same = copy.deepcopy(study)
    same["arms"][3] = {**same["arms"][1], "budget": "flops"}
    same["differences"] = differences(same)
    assert not lines_with(markdown(same), "| flops | game − random")


def test_the_report_tells_masks_rate_and_sizes(study):
    text = markdown(study)
    assert lines_with(
        text, "compares 2 arms, that is, ways of masking residues in pre-training. Proteins: some proteins."
    )
    assert lines_with(text, "9,000 proteins were used for training", "divided by whole families")
    assert lines_with(text, "| members | 400 of 7 families | 380 of 6 families |")
    assert lines_with(text, "20 % random [MASK]s")
    assert lines_with(text, "| game (no longer in the recipe) | updates | 0.50 | 0.10 | 0.40 | 0.80 ± 0.14 |")


def test_the_csv_has_a_line_for_every_run_under_every_budget(study):
    rows = list(csv.DictReader(io.StringIO(runs_csv(study))))
    assert [(row["arm"], row["budget"], row["seed"]) for row in rows][:3] == [
        ("random", "updates", "0"), ("random", "updates", "1"), ("game", "updates", "0"),
    ]  # fmt: skip
    assert len(rows) == 10 and rows[-1]["arm"] == "untrained" and float(rows[0]["members_loss"]) == 2.7


def test_the_plot_has_the_losses_of_every_budget_and_the_tasks_of_those_that_have_them(study):
    pytest.importorskip("matplotlib")
    axes = {axis.get_title(): axis for part in figure_of(study).subfigs for axis in part.axes}
    assert list(axes) == ["members, budget updates", "members, budget flops", "Stability, test\nbudget updates"]
    task = axes["Stability, test\nbudget updates"]
    assert [label.get_text() for label in task.get_yticklabels()] == ["random", "game †"]
    drawn = [list(line.get_xdata()) for line in task.lines]
    # no pre-training, the best without an encoder, then each arm's seeds
    assert drawn[0] == [0.31, 0.31] and drawn[1] == [0.52, 0.52]
    assert [0.40, 0.44] in drawn and [0.41, 0.43] in drawn


def conclusions(study) -> dict[str, str]:
    """The row of `game` under budget `updates` in the first table: column → cell."""
    section = markdown(study).split("## ")[1]
    assert section.startswith("Which arms are better?")
    header, _, *rows = [line for line in section.splitlines() if line.startswith("|")]
    (row,) = [line for line in rows if line.startswith("| updates | game − random † |")]
    return dict(zip(header.strip("| ").split(" | "), row.strip("| ").split(" | "), strict=True))


def test_the_report_begins_with_its_conclusions(study):
    cells = conclusions(study)
    assert cells["members, confirmation"] == "unclear (+0.055, -0.009 to +0.119)"
    assert cells["Stability, test"] == "unclear (+0.000, -0.127 to +0.127)"
    surer = copy.deepcopy(study)
    entries = surer["arms"][:2]
    for number, of_seed in enumerate(entries[0]["seeds"]):
        of_seed["metrics"]["confirmation_members_loss"] = 2.80 + 0.02 * number
        of_seed["metrics"]["probe/stability/test"] = 0.40 + 0.02 * number
    for number, of_seed in enumerate(entries[1]["seeds"]):
        of_seed["metrics"]["confirmation_members_loss"] = 2.9 + 0.0201 * number
        of_seed["metrics"]["probe/stability/test"] = 0.50 + 0.0201 * number
    surer["differences"] = differences(surer)
    cells = conclusions(surer)
    assert cells["members, confirmation"] == "worse (+0.100, +0.099 to +0.101)"
    assert cells["Stability, test"] == "better (+0.100, +0.099 to +0.101)"


def test_every_arm_is_compared_with_the_weights_that_it_started_from(study):
    # random 0.40 and 0.44, fresh weights 0.30 and 0.32: 0.10 and 0.12, mean 0.11, error 0.01; game always 0.11: no p
    rows = lines_with(markdown(study), "| updates | random | +0.110 (-0.017 to +0.237; p 0.06) |")
    assert len(rows) == 1
    start = "Downstream tasks, compared with *no pre-training*: "
    assert lines_with(markdown(study), f"{start}2 of 2 differences are unclear.")
    for of_seed, value in zip(study["arms"][0]["seeds"], (0.41, 0.4301), strict=True):
        of_seed["metrics"]["probe/stability/test"] = value
    study["gains"] = gains(study)
    (line,) = lines_with(markdown(study), start)
    assert (
        "random (budget updates) is better (+0.110, +0.109 to +0.111) on Stability, test. 1 of 2 differences" in line
    )


def test_the_report_says_whether_the_confirmation_part_was_evaluated(study):
    assert lines_with(markdown(study), "The *confirmation part* was evaluated once")
    for entry in study["arms"]:
        for of_seed in entry["seeds"]:
            of_seed["metrics"] = {n: v for n, v in of_seed["metrics"].items() if not n.startswith("confirmation_")}
    study["differences"] = differences(study)
    assert lines_with(markdown(study), "The *confirmation part* was not evaluated yet")
    assert conclusions(study)["members, selection"].startswith("unclear (+0.055")


@pytest.mark.parametrize("name", STUDIES)
def test_the_reports_of_this_repository_are_those_of_their_figures(repository, name):
    study = json.loads((repository / "model_cards" / f"{name}.json").read_text())
    computed = {**study, "differences": differences(study), "gains": gains(study)}
    assert (repository / "docs" / f"{name}.md").read_text() == markdown(study) == markdown(computed)
