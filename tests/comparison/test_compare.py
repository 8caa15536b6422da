"""Whole comparisons in miniature."""

import contextlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adversarial_mlm import AdversarialMLMTrainer
from adversarial_mlm.comparison import compare as compare_module
from adversarial_mlm.comparison import confirmation, runs
from adversarial_mlm.comparison.arms import fingerprint
from adversarial_mlm.comparison.differences import metric_names
from adversarial_mlm.comparison.report_tables import markdown
from adversarial_mlm.comparison.step_costs import StepCosts
from adversarial_mlm.recipes.recipe import RecipeError
from adversarial_mlm.training.update_guard import NonFiniteError
from adversarial_mlm.utils.hardware import machine
from tests.helpers.exhaustive import exhaustive

_TIMES = ("seconds", "seconds_noiser")


class Killed(BaseException):
    """As by a signal that cannot be handled: nothing is cleaned up."""


def results(folder: Path) -> dict[str, dict]:
    """All results of a comparison without what differs from time to time."""
    found = {}
    for path in sorted(folder.glob("runs/*/*/*/result.json")):
        result = json.loads(path.read_text())
        result["metrics"] = {name: value for name, value in result["metrics"].items() if name not in _TIMES}
        found[str(path.parent.relative_to(folder / "runs"))] = result
    return found


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {
        str(path.parent.relative_to(folder / "runs")): load_file(path)
        for path in folder.glob("runs/*/*/*/model.safetensors")
    }


@pytest.fixture
def study(tmp_path):
    return lambda: json.loads((tmp_path / "study" / "study.json").read_text())


def test_a_comparison_leaves_tables_plain_results_and_the_encoders(compare, study, tmp_path):
    outcome = compare({"arms.bare": {"options": {"masking": "random"}, "against": "random", "unmatched": True}})
    found = study()
    assert [(arm["name"], arm["corpus"], arm["budget"]) for arm in found["arms"]] == [
        (name, "the demo's proteins", "updates") for name in ("random", "game", "bare")
    ]
    for arm in found["arms"]:
        assert [of_seed["seed"] for of_seed in arm["seeds"]] == [0, 1]
        for of_seed in arm["seeds"]:
            metrics = of_seed["metrics"]
            assert metrics["updates_done"] == 3 and metrics["flops"] > 0 and metrics["seconds"] > 0
            for name in ("members", "families"):
                for prefix in ("", "confirmation_"):
                    assert 2 < metrics[f"{prefix}{name}_loss"] < 5
                    assert metrics[f"{prefix}{name}_refitted_loss"] < metrics[f"{prefix}{name}_loss"]
    assert {row["metric"] for row in found["differences"]} == set(metric_names(found))
    assert outcome.tables == (tmp_path / "study" / "study.md").read_text() == markdown(found)
    assert len((tmp_path / "study" / "runs.csv").read_text().splitlines()) == 1 + 6
    assert len(weights(tmp_path / "study")) == 6
    assert not list((tmp_path / "study").glob("runs/*/*/*/checkpoint-*"))


def test_arms_of_a_seed_begin_with_the_same_weights_and_see_the_same_batches(compare, monkeypatch):
    seen: dict[str, list] = {}
    compute_loss = AdversarialMLMTrainer.compute_loss

    def note(self, model, inputs, *args, **kwargs):
        run = Path(self.args.output_dir)
        if run.parent.name.startswith("seed-"):  # and not what is measured before
            first = next(self.model.parameters()).detach().clone()
            seen.setdefault(f"{run.parent.parent.name} {run.parent.name}", []).append((inputs["input_ids"], first))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(AdversarialMLMTrainer, "compute_loss", note)
    compare()
    for seed in ("seed-0", "seed-1"):
        random, game = seen[f"random {seed}"], seen[f"game {seed}"]
        assert len(random) == len(game) >= 3
        assert all(torch.equal(one[0], other[0]) for one, other in zip(random, game, strict=True))
        assert torch.equal(random[0][1], game[0][1])
    assert not torch.equal(seen["random seed-0"][0][1], seen["random seed-1"][0][1])


def test_a_run_is_the_same_on_its_own_as_among_others(compare, finished, tmp_path):
    compare({"seeds": [1], "output_dir": str(tmp_path / "alone"), "arms.game.seeds": [1]})
    alone, among = results(tmp_path / "alone"), results(finished)
    assert set(alone) < set(among) and all(among[name] == result for name, result in alone.items())


@pytest.mark.slow
@pytest.mark.parametrize("at", [8, exhaustive(2)])
def test_a_killed_comparison_goes_on_to_the_same_results(compare, finished, monkeypatch, tmp_path, at):
    training_step, steps = AdversarialMLMTrainer.training_step, []

    def killed(self, *args, **kwargs):
        if Path(self.args.output_dir).parent.name.startswith("seed-"):
            steps.append(self.args.output_dir)
            if len(steps) == at:
                raise Killed
        return training_step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(AdversarialMLMTrainer, "training_step", killed)
        with pytest.raises(Killed):
            compare()
    compare()
    assert results(tmp_path / "study") == results(finished)
    whole = weights(finished)
    for name, tensors in weights(tmp_path / "study").items():
        assert all(torch.equal(tensor, whole[name][key]) for key, tensor in tensors.items())


def test_a_kill_between_training_and_result_does_not_train_again(compare, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(runs, "figures_of_sets", lambda *args: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            compare()
    trained = []
    pretrain = runs.pretrain
    monkeypatch.setattr(runs, "pretrain", lambda recipe, data: trained.append(recipe) or pretrain(recipe, data))
    compare()
    assert len(trained) == 3  # of four


def test_what_is_complete_is_not_made_again(compare, compared, monkeypatch):
    tables = (compared / "study.md").read_text()
    monkeypatch.setattr(compare_module, "make_run", None)
    monkeypatch.setattr(compare_module, "measure", None)
    assert compare().tables == tables


def test_a_run_that_diverged_is_a_result(compare, study, monkeypatch):
    pretrain = runs.pretrain

    def diverging(recipe, data):
        if recipe.masking.masking == "adversarial" and recipe.training.seed == 1:
            raise NonFiniteError("no update was finite")
        return pretrain(recipe, data)

    monkeypatch.setattr(runs, "pretrain", diverging)
    outcome = compare()
    game = next(arm for arm in study()["arms"] if arm["name"] == "game")
    assert [of_seed["metrics"]["diverged"] for of_seed in game["seeds"]] == [False, True]
    assert "1 of 2 diverged" in outcome.tables and "[1 pair, 1 without partner]" in outcome.tables
    assert compare().tables == outcome.tables  # and it does not stand in the way of the next start


def test_arms_may_start_from_one_warmed_up_encoder_per_seed(compare, study, tmp_path):
    outcome = compare({"warm_up": {"updates": 2, "options": {"masking": "random"}}})
    warm = {seed: tmp_path / "study" / "runs" / "warm_up" / f"seed-{seed}" / "2-updates" for seed in (0, 1)}
    for seed, folder in warm.items():
        for arm in ("random", "game"):
            of_arm = tmp_path / "study" / "runs" / arm / f"seed-{seed}" / "3-updates" / "recipe.yaml"
            assert f"model_name_or_path: {folder}" in of_arm.read_text()
    assert study()["warm_up"]["updates"] == 2 and "after 2 common updates" in outcome.tables
    with pytest.raises(
        RecipeError, match="warm_up differs from that of the runs in output_dir .*: choose another output_dir"
    ):
        compare({"warm_up": {"updates": 3, "options": {"masking": "random"}}})
    with pytest.raises(
        RecipeError, match="warm_up differs from that of the runs in output_dir .*: choose another output_dir"
    ):
        compare({"warm_up": {"updates": 2, "options": {"masking": "random"}}, "common.learning_rate": 2e-3})


# ---- Another recipe for the same folder ----


def test_what_was_begun_with_other_options_is_made_anew(compare, monkeypatch, tmp_path):
    rate = ("--learning_rate", "2e-3")
    compare({"output_dir": str(tmp_path / "whole"), "seeds": [0]}, *rate)
    training_step, steps = AdversarialMLMTrainer.training_step, []

    def killed(self, *args, **kwargs):
        if Path(self.args.output_dir).parent.name.startswith("seed-"):
            steps.append(self.args.output_dir)
            if len(steps) == 3:  # there is a checkpoint of the first run by then
                raise Killed
        return training_step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(AdversarialMLMTrainer, "training_step", killed)
        with pytest.raises(Killed):
            compare({"seeds": [0]})
    assert list((tmp_path / "study").glob("runs/*/*/*/checkpoint-*"))
    compare({"seeds": [0]}, *rate)
    assert results(tmp_path / "study") == results(tmp_path / "whole")


def test_a_run_that_was_begun_stays_in_the_plan_when_its_arm_leaves_the_recipe(compare, study, tmp_path):
    def half(self, *args):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "figures_of_sets", half)
        with pytest.raises(Killed):  # at the end of the first run
            compare()
    compare({"arms.random": None, "arms.game.against": None})
    plan = json.loads((tmp_path / "study" / "plan.json").read_text())
    assert plan["arms"]["random"]["removed"] and plan["entries"]["updates"]["random"] == {"updates": 3, "seeds": [0]}
    assert [arm["name"] for arm in study()["arms"]] == ["game"]  # it has no result


def test_an_arm_that_is_added_leaves_the_plan_of_the_others_alone(compare, monkeypatch, tmp_path):
    budgets = {"budgets": {"time": {"equal": "seconds", "like": "random", "updates": 6}}, "seeds": [0]}
    seconds, measured = {"random": 1.0, "game": 2.0, "bare": 1.5}, []

    def measure(recipes, data, rounds):
        measured.append(sorted(recipes))
        slower = 1.0 if len(measured) == 1 else 3.0  # by then the machine is busy
        series = {name: [seconds[name] * slower] * rounds for name in recipes}
        return StepCosts(1, series, machine(), data.fingerprint, {n: fingerprint(r) for n, r in recipes.items()})

    def planned() -> dict:
        entries = json.loads((tmp_path / "study" / "plan.json").read_text())["entries"]["time"]
        return {name: entry["updates"] for name, entry in entries.items()}

    monkeypatch.setattr(compare_module, "measure", measure)
    compare(budgets, "--selection_only")
    assert planned() == {"random": 6, "game": 3}
    bare = {"options": {"masking": "random"}, "against": "random", "unmatched": True}
    compare({**budgets, "arms.bare": bare}, "--selection_only")
    assert planned() == {"random": 6, "game": 3, "bare": 4}
    assert measured == [["game", "random"], ["bare", "random"]]
    # an arm that did not run is measured anew when its options change
    other = {"options": {"masking": "random", "random_rate": 0.2}, "against": "random", "unmatched": True}
    shutil.rmtree(tmp_path / "study" / "runs" / "bare")
    compare({**budgets, "arms.bare": other}, "--selection_only")
    assert measured[2:] == [["bare", "random"]]


def test_an_arm_that_ran_is_reported_when_it_has_left_the_recipe(compare, compared, study):
    outcome = compare({"arms.game": None})
    assert [(arm["name"], arm["removed"]) for arm in study()["arms"]] == [("random", False), ("game", True)]
    assert "game (no longer in the recipe)" in outcome.tables
    assert {row["arm"] for row in study()["differences"]} == {"game"}
    compare({"seeds": [0]})  # and seeds that were removed
    assert all(len(arm["seeds"]) == 2 for arm in study()["arms"])


def test_an_arm_cannot_change_under_its_name(compare, compared):
    with pytest.raises(
        RecipeError, match="arm game has other options than its runs in output_dir .*: give it another"
    ):
        compare({"arms.game.options.noiser_learning_rate": 2e-3})
    with pytest.raises(RecipeError, match="budget updates gives arm random 4 updates, but gave it 3 when it ran"):
        compare({"budgets.updates.updates": 4})
    with pytest.raises(RecipeError, match="held_out .* differs from .* of the runs in output_dir"):
        compare({"held_out": {"split_seed": 1}})
    with pytest.raises(RecipeError, match="the proteins differ from those of the runs"):
        compare({"common.min_length": 100})


def test_options_of_the_command_line_go_to_all_arms_and_are_reported(compare, study, tmp_path):
    compare(None, "--learning_rate", "2e-3", "--cache_dir", str(tmp_path / "elsewhere"))
    assert study()["common"]["learning_rate"] == 2e-3 and str(tmp_path) not in json.dumps(study()["arms"])
    assert "elsewhere" not in json.dumps(study())
    for arm in ("random", "game"):
        recipe = tmp_path / "study" / "runs" / arm / "seed-0" / "3-updates" / "recipe.yaml"
        assert "learning_rate: 0.002" in recipe.read_text()


def test_runs_of_two_recipes_side_by_side_are_found(compare, tmp_path):
    compare(None, "--selection_only")
    path = tmp_path / "study" / "runs" / "game" / "seed-1" / "3-updates" / "result.json"
    # as a process with other options leaves it
    path.write_text(path.read_text().replace('"fingerprint": "', '"fingerprint": "0'))
    with pytest.raises(RecipeError, match="the run game/seed-1/3-updates was made with other options or proteins"):
        compare()
    assert not (tmp_path / "study" / "confirmation.json").exists()


def test_options_that_pair_the_arms_cannot_change_once_there_are_results(compare):
    compare({"arms.game": None}, "--selection_only")
    with pytest.raises(RecipeError, match="the values of max_length differ from those of the runs"):
        compare({"arms": {"other": {"options": {"masking": "random"}}}, "common.max_length": 32})


def test_a_process_with_an_older_recipe_leaves_the_tables_to_the_one_with_the_newer(compare, monkeypatch, tmp_path):
    make_run, path = compare_module.make_run, tmp_path / "study" / "plan.json"

    def make(comparison, run):
        plan = json.loads(path.read_text())
        plan["runs"].append("more/seed-0/3-updates")  # as another process writes it, that was started meanwhile
        path.write_text(json.dumps(plan))
        return make_run(comparison, run)

    monkeypatch.setattr(compare_module, "make_run", make)
    outcome = compare()
    assert outcome.elsewhere and outcome.tables == ""
    assert not (tmp_path / "study" / "confirmation.json").exists()


# ---- Confirmation ----


def test_the_confirmation_part_is_read_once_for_all_runs(compare, compared, monkeypatch, study, tmp_path):
    read = json.loads((tmp_path / "study" / "confirmation.json").read_text())
    assert len(read["runs"]) == 4 and all(len(run["weights"]) == 64 for run in read["runs"].values())
    monkeypatch.setattr(confirmation, "ask", None)
    compare()  # and not a second time
    another = {"arms.bare": {"options": {"masking": "random"}, "against": "random", "unmatched": True}}
    with pytest.raises(
        RecipeError, match="the confirmation part was already evaluated for 4 runs. The recipe adds 2 runs"
    ):
        compare(another)
    assert not (tmp_path / "study" / "runs" / "bare").exists()
    compare({**another, "held_out": {"spent": True}})
    bare = next(arm for arm in study()["arms"] if arm["name"] == "bare")
    assert bare["seeds"][0]["metrics"]["members_loss"] > 0
    assert "confirmation_members_loss" not in bare["seeds"][0]["metrics"]
    assert json.loads((tmp_path / "study" / "confirmation.json").read_text()) == read


def test_the_selection_part_may_be_looked_at_alone_and_arms_added(compare, study, tmp_path):
    outcome = compare({"seeds": [0]}, "--selection_only")
    assert "Cross-entropy on random masks, confirmation part" not in outcome.tables
    assert "The *confirmation part* was not evaluated yet" in outcome.tables
    assert not (tmp_path / "study" / "confirmation.json").exists()
    compare({"seeds": [0], "arms.bare": {"options": {"masking": "random"}, "against": "random", "unmatched": True}})
    for arm in study()["arms"]:
        assert arm["seeds"][0]["metrics"]["confirmation_members_loss"] > 0
    # once it was read, its figures stay in the tables
    assert (
        "confirmation part ("
        in compare(
            {"seeds": [0], "arms.bare": {"options": {"masking": "random"}, "against": "random", "unmatched": True}},
            "--selection_only",
        ).tables
    )


def test_nothing_is_known_of_the_confirmation_part_before_all_runs_are_read(compare, monkeypatch, tmp_path):
    ask, calls = confirmation.ask, []

    def killed(*args):
        calls.append(args)
        if len(calls) == 6:
            raise Killed
        return ask(*args)

    with monkeypatch.context() as patch:
        patch.setattr(confirmation, "ask", killed)
        with pytest.raises(Killed):
            compare()
    assert not (tmp_path / "study" / "confirmation.json").exists()
    assert "Cross-entropy on random masks, confirmation part" in compare().tables


def test_spent_is_refused_while_it_is_not(compare):
    with pytest.raises(RecipeError, match="held_out.spent is true, but the confirmation part was not evaluated yet"):
        compare({"held_out": {"spent": True}})


def test_weights_that_changed_after_the_reading_are_found(compare, compared):
    runs = compared / "runs"
    shutil.copyfile(
        runs / "game" / "seed-0" / "3-updates" / "model.safetensors",
        runs / "game" / "seed-1" / "3-updates" / "model.safetensors",
    )
    with pytest.raises(RecipeError, match="seed-1/3-updates have changed since the confirmation part was evaluated"):
        compare()


# ---- Dry runs, other processes ----


def test_a_dry_run_tells_the_cost_and_makes_nothing(write, tmp_path):
    path = write({"budgets.flops": {"equal": "flops", "like": "random", "updates": 30}})
    before = set(tmp_path.iterdir())
    plan = compare_module.dry_run(*compare_module.parse_arguments([path, "--dry-run"]))
    assert set(tmp_path.iterdir()) == before
    assert "8 different runs, 8 to do; minutes measured just now" in plan and "training: about" in plan
    assert sum(line.startswith("flops") for line in plan.splitlines()) == 2


def test_a_dry_run_of_a_comparison_that_ran_counts_what_is_left(compared, write):
    shutil.rmtree(compared / "runs" / "game" / "seed-1")
    plan = compare_module.dry_run(*compare_module.parse_arguments([write(), "--dry_run"]))
    assert "4 different runs, 1 to do; minutes as measured before the first run" in plan


def test_runs_that_another_process_is_at_are_left_to_it(compare, tmp_path):
    folder = compare_module.ComparisonFolder(str(tmp_path / "study"))
    with folder.lock("game/seed-1/3-updates"):
        outcome = compare()
        assert outcome.elsewhere == 1 and outcome.tables == ""
        assert len(results(tmp_path / "study")) == 3
    assert compare().tables


def test_a_run_that_another_process_gave_up_is_made_in_the_end(compare, monkeypatch, tmp_path):
    folder, make_run = compare_module.ComparisonFolder(str(tmp_path / "study")), compare_module.make_run
    others = contextlib.ExitStack()
    others.enter_context(folder.lock("random/seed-0/3-updates"))

    def make(comparison, run):
        if run.name == "game/seed-1/3-updates":
            others.close()  # the other process ends, when its run was passed over
        return make_run(comparison, run)

    monkeypatch.setattr(compare_module, "make_run", make)
    outcome = compare()
    assert outcome.elsewhere == 0 and len(results(tmp_path / "study")) == 4


def test_copies_of_tables_go_where_they_are_asked_for(compare, compared, tmp_path):
    copies = {name: tmp_path / "docs" / f"study.{name}" for name in ("markdown", "json")}
    compare(None, *(word for name, path in copies.items() for word in (f"--{name}", str(path))))
    assert copies["markdown"].read_text() == (tmp_path / "study" / "study.md").read_text()
    assert copies["json"].read_text() == (tmp_path / "study" / "study.json").read_text()


def test_a_plot_has_a_panel_for_every_held_out_set(compare, compared, tmp_path):
    pytest.importorskip("matplotlib")
    outcome = compare({"plot": True}, "--plot", str(tmp_path / "docs" / "study.png"))
    assert (tmp_path / "docs" / "study.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert tmp_path / "docs" / "study.png" in outcome.files


@pytest.mark.parametrize("package", ["greenlet", "scipy"])
def test_a_package_of_the_extra_that_is_missing_is_said_before_any_work(package, compare, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(RecipeError, match=rf"the package {package}, .*: pip install 'adversarial-mlm\[compare\]'"):
        compare({})
    assert not (tmp_path / "study").exists()


def test_a_plot_that_cannot_be_drawn_is_said_before_any_work(compare, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(RecipeError, match="the plot needs matplotlib, which is not installed: pip install"):
        compare({"plot": True})
    assert not (tmp_path / "study").exists()
