"""The search of settings before a comparison."""

import json
import math

import pytest

from adversarial_mlm.comparison import compare as compare_module
from adversarial_mlm.comparison import tuning
from adversarial_mlm.comparison.folder import ComparisonFolder
from adversarial_mlm.comparison.recipe import Tune
from adversarial_mlm.comparison.tuning import TUNING_FILE, cost_in_runs, rung_sizes, trials_of, with_winners
from adversarial_mlm.utils.errors import RecipeError

_TUNE = {
    "baseline": "random",
    "options": {"learning_rate": [1e-3, 1e-2], "per_device_train_batch_size": [4, 8]},
    "updates": 4,
    "rungs": 2,
}


def _read(tmp_path) -> dict:
    return json.loads((tmp_path / "study" / TUNING_FILE).read_text())


def test_rungs_halve_the_trials_and_the_cost_is_counted_in_whole_runs():
    assert rung_sizes(9, 3) == [9, 5, 3]
    tune = Tune(baseline="a", options={"x": [1, 2, 3, 4]}, updates=100, rungs=3)
    assert cost_in_runs(tune) == pytest.approx(4 / 4 + 2 / 2 + 1)
    twice = Tune(baseline="a", options={"x": [1, 2, 3, 4]}, updates=100, rungs=3, own={"b": {"y": [1, 2, 3, 4]}})
    assert cost_in_runs(twice) == pytest.approx(2 * cost_in_runs(tune))


def test_trials_are_all_combinations_or_a_choice_of_them_that_repeats():
    values = {"x": list(range(6)), "y": [True, False]}
    everything = trials_of(Tune(baseline="a", options=values, updates=1), "a")
    assert [trial.options for trial in everything] == [{"x": x, "y": y} for x in values["x"] for y in values["y"]]
    some = Tune(baseline="a", options=values, updates=1, trials=5)
    assert len({str(trial.options) for trial in trials_of(some, "a")}) == 5
    assert trials_of(some, "a") == trials_of(some, "a")
    other = Tune(baseline="a", options=values, updates=1, trials=5, seed=7)
    assert trials_of(some, "a") != trials_of(other, "a")


def test_the_best_setting_of_the_baseline_is_that_of_all_arms_with_as_many_proteins(compare, tmp_path):
    compare({"tune": _TUNE, "seeds": [0]})
    search = _read(tmp_path)["searches"]["random"]
    rungs = {trial["name"]: trial["rungs"] for trial in search["trials"]}
    batches = {trial["name"]: trial["options"]["per_device_train_batch_size"] for trial in search["trials"]}
    assert all(rung["updates"] * batches[name] in (8, 16) for name, found in rungs.items() for rung in found)
    assert sorted(len(found) for found in rungs.values()) == [1, 1, 2, 2]
    first = sorted(rungs, key=lambda name: rungs[name][0]["loss"])
    assert {name for name, found in rungs.items() if len(found) == 2} == set(first[:2])
    best = min(first[:2], key=lambda name: rungs[name][1]["loss"])
    assert search["winner"] == next(trial["options"] for trial in search["trials"] if trial["name"] == best)
    before, after = rungs[best]
    assert search["slope"] == pytest.approx((before["loss"] - after["loss"]) / math.log(2))

    study = json.loads((tmp_path / "study" / "study.json").read_text())
    assert {name: study["common"][name] for name in search["winner"]} == search["winner"]
    rows = search["winner"]["per_device_train_batch_size"]
    assert all(arm["updates"] == round(3 * 4 / rows) for arm in study["arms"])
    assert study["tuning"] == _read(tmp_path)
    assert best in (tmp_path / "study" / "study.md").read_text()


def test_an_arm_is_searched_as_often_after_the_baseline_and_marked_if_its_rate_differs(compare, tmp_path):
    of_both = {"rungs": 1, "options": {"learning_rate": [1e-3, 1e-2]}, "own": {"game": {"mask_rate": ["30%", "35%"]}}}
    compare({"tune": {**_TUNE, **of_both}, "seeds": [0]})
    searches = _read(tmp_path)["searches"]
    assert list(searches) == ["random", "game"]
    assert len(searches["game"]["trials"]) == len(searches["random"]["trials"])
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    game = next(arm for arm in study["arms"] if arm["name"] == "game")
    assert game["unmatched"] and game["options"]["mask_rate"] == searches["game"]["winner"]["mask_rate"]


def test_an_arm_with_a_rate_of_its_own_is_marked_once_the_baseline_has_another(prepared):
    masks = {"masking": "random"}
    arms = {"random": {"options": masks}, "fixed": {"options": {**masks, "mask_rate": "20%"}, "against": "random"}}
    tune = {**_TUNE, "rungs": 1, "options": {"mask_rate": ["20%", "40%"]}}
    now = prepared({"tune": tune, "arms": arms})
    for rate, unmatched in (("20%", False), ("40%", True)):
        tuned = with_winners(now.recipe, [], {"searches": {"random": {"winner": {"mask_rate": rate}}}})
        assert tuned.arms["fixed"].unmatched is unmatched


@pytest.mark.exhaustive
def test_a_search_that_was_stopped_goes_on_and_one_that_ended_is_not_repeated(compare, monkeypatch, tmp_path):
    made, make_run = [], tuning.make_run

    def stopped(comparison, run):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(run.name)
        return make_run(comparison, run)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "make_run", stopped)
        with pytest.raises(KeyboardInterrupt):
            compare({"tune": _TUNE})

    def noted(comparison, run):
        made.append(run.name)
        return make_run(comparison, run)

    monkeypatch.setattr(tuning, "make_run", noted)
    compare({"tune": _TUNE})
    assert len(made) == len(set(made)) == 4 + 2
    compare({"tune": _TUNE})
    assert len(made) == 6


def test_a_search_that_changed_is_refused(prepared, tmp_path):
    def begin(tune: dict) -> dict:
        now = prepared({"tune": tune})
        return tuning._begin(now.recipe, [], ComparisonFolder(str(tmp_path / "study")), now.data)

    assert begin(_TUNE) == begin(_TUNE)
    with pytest.raises(RecipeError, match=r"tune differs? from those of the trials in .*tuning\.json"):
        begin({**_TUNE, "updates": 8})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "randm"}, r"tune\.baseline: there is no 'randm'"),
        ({"options": {"learning_rat": [1, 2]}, "rungs": 1}, "learning_rat"),
        ({"options": {"learning_rate": 1e-3}}, r"tune\.options\.learning_rate must be a list of values, got 0\.001"),
        ({"options": {"learning_rate": ["fast", 1e-3]}}, "learning_rate must be a number, got 'fast'"),
        ({"options": {"masking": ["random", "span"]}}, r"masking is also an option of arm random"),
        ({"options": {"seed": [1, 2]}}, "seed is set by the comparison itself"),
        ({"rungs": 4}, "there are 4: use fewer rungs or more trials"),
        ({"seed": 1}, r"tune\.seed 1 is also a seed of an arm"),
        ({"held_out_set": "sample"}, "held_out_set is sample, but the held-out sets are families, members"),
        (
            {"own": {"game": {"noiser_learning_rate": [1e-3]}}},
            "has 1 combination of values, but a search has 4 trials",
        ),
        (
            {"own": {"game": {"per_device_train_batch_size": [2, 4, 8, 16]}}},
            r"tune\.own\.game\.per_device_train_batch_size would unpair the arm",
        ),
    ],
)
def test_a_search_that_cannot_be_made_is_refused_before_any_work(prepared, changes, message):
    with pytest.raises(RecipeError, match=message):
        prepared({"tune": {**_TUNE, **changes}})


def test_an_option_that_is_searched_is_refused_on_the_command_line(compare):
    with pytest.raises(RecipeError, match="--learning_rate is given, but .* searches it for random"):
        compare({"tune": _TUNE}, "--learning_rate", "1e-3")


@pytest.mark.exhaustive
def test_a_search_in_which_every_trial_diverges_says_so(compare):
    with pytest.raises(RecipeError, match="every trial of random diverged"):
        compare({"tune": {**_TUNE, "options": {"learning_rate": [1e30, 1e31]}}})


def test_a_dry_run_says_what_the_search_costs(write, capsys):
    args, words = compare_module.parse_arguments([write({"tune": _TUNE}), "--dry_run"])
    assert "tuning first: as much as 4.0 runs of 4 updates" in compare_module.dry_run(args, words)
