import pytest
import torch

from adversarial_mlm.comparison.plan import Run, count_flops, make_plan, plan_table
from adversarial_mlm.comparison.recipe import UNTRAINED, WARM_UP
from adversarial_mlm.comparison.step_costs import StepCosts, measure
from adversarial_mlm.recipes.run import build_networks

_COSTS = StepCosts(2, {"random": [2.0] * 8, "game": [3.0] * 8})


@pytest.fixture
def planned(prepared):
    def plan(changes: dict | None = None, costs: StepCosts | None = _COSTS):
        made = prepared(changes)
        flops = count_flops(made.recipe, made.recipes, made.data)
        return make_plan(made.recipe, flops, costs), flops

    return plan


def test_every_arm_has_a_run_for_every_seed_and_pairs_are_complete_early(planned):
    plan, _ = planned()
    assert [run.name for run in plan.runs] == [
        "random/seed-0/3-updates",
        "game/seed-0/3-updates",
        "random/seed-1/3-updates",
        "game/seed-1/3-updates",
    ]
    assert Run.of_name(plan.runs[1].name) == plan.runs[1] and plan.with_tasks == set()


def test_equal_runs_of_two_budgets_are_made_once(planned):
    budgets = {
        "more": {"equal": "updates", "updates": 5},
        "time": {"equal": "seconds", "like": "random", "updates": 3},
    }
    plan, _ = planned({"budgets.more": budgets["more"], "budgets.time": budgets["time"]})
    assert plan.updates["time"] == {"random": 3, "game": 2}  # an update of the game takes 1.5 times as long
    assert len(plan.runs) == len(set(plan.runs)) == 2 * (2 + 2 + 1)
    assert plan.budgets_of(Run("random", 0, 3)) == ["updates", "time"]


def test_equal_flops_are_equal_within_half_an_update(planned):
    for budget in ({"equal": "flops", "like": "random", "updates": 50}, {"equal": "flops", "flops": "1e9"}):
        plan, flops = planned({"budgets.flops": budget})
        wanted = 1e9 if "flops" in budget else flops["random"].of(50)
        for arm, updates in plan.updates["flops"].items():
            assert abs(flops[arm].of(updates) - wanted) <= flops[arm].update(updates, updates) / 2
        assert plan.updates["flops"]["game"] < plan.updates["flops"]["random"]


def test_a_budget_of_seconds_waits_for_what_is_measured(planned):
    changes = {"budgets.time": {"equal": "seconds", "seconds": 12}}
    assert "time" not in planned(changes, None)[0].updates
    assert planned(changes)[0].updates["time"] == {"random": 12, "game": 8}


def test_seeds_and_budgets_of_an_arm_win_over_the_comparisons(planned):
    more = {"equal": "updates", "updates": 5}
    plan, _ = planned({"budgets.more": more, "arms.game.seeds": [1], "arms.game.budgets": ["more"]})
    assert [run.name for run in plan.runs if run.arm == "game"] == ["game/seed-1/5-updates"]


def test_untrained_encoders_stand_beside_the_tasks_of_the_budgets_that_have_them(planned):
    tasks = {"data_dir": "x", "of": {"stability": {}}, "budgets": ["more"]}
    plan, _ = planned({"budgets.more": {"equal": "updates", "updates": 5}, "tasks": tasks})
    assert plan.runs[:2] == [Run(UNTRAINED, 0, 0), Run(UNTRAINED, 1, 0)]
    assert {run.updates for run in plan.with_tasks} == {0, 5}


def test_a_warm_up_is_made_once_for_each_seed(planned):
    plan, _ = planned({"warm_up": {"updates": 2, "options": {"masking": "random"}}})
    assert plan.warm_ups == {0: Run(WARM_UP, 0, 2), 1: Run(WARM_UP, 1, 2)}


def test_the_table_tells_updates_cost_and_what_is_done(planned):
    plan, flops = planned()
    lines = plan_table(plan, flops, _COSTS, {"game/seed-0/3-updates"}).splitlines()
    assert lines[0].split() == "budget arm updates TFLOP a run min a run runs of them done".split()
    assert lines[2].split()[:3] == ["updates", "game", "3"] and lines[2].split()[-2:] == ["2", "1"]
    assert "?" in plan_table(plan, flops, None, set())


def test_counting_leaves_the_random_numbers_of_a_run_alone(prepared):
    made = prepared()
    torch.manual_seed(5)
    count_flops(made.recipe, made.recipes, made.data)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))


def test_all_arms_are_measured_in_the_same_turns_and_cycles_are_whole(prepared):
    made = prepared({"arms.game.options": {"preset": "paper", "noiser": "tiny", "noiser_steps": 4, "encoder_steps": 6},
                     "arms.game.unmatched": True})  # fmt: skip
    costs = measure(made.recipes, made.data, rounds=2)
    assert costs.updates == 3  # 4:6 is the work of 2:3
    assert {name: len(turns) for name, turns in costs.turns.items()} == {"random": 2, "game": 2}
    assert costs.ratio("game", "random")[0] > 1
    assert made.recipes["game"].training.encoder_steps == 6  # the runs keep their cycle


def test_arms_whose_costs_cannot_be_told_apart_get_as_many_updates():
    turns = {"a": [1.0, 1.1, 1.0, 0.9, 1.0, 1.1, 1.0, 0.9], "b": [1.0] * 8, "c": [1.01] * 8, "d": [2.0] * 8}
    costs = StepCosts(1, turns)
    assert costs.updates_for("b", "a", 600) == 600  # 1 is in the interval
    assert costs.updates_for("c", "b", 600) == 594 and costs.updates_for("c", "b", 600, tolerance=0.02) == 600
    assert costs.updates_for("d", "b", 600, tolerance=0.02) == 300
    assert costs.of("d") == 2.0


def test_an_arm_that_is_measured_later_is_added_by_its_ratio_to_one_that_both_have():
    first = StepCosts(2, {"a": [2.0, 2.2], "b": [4.0, 4.0]}, {"processor": "x"}, "data", {"a": "1", "b": "2"})
    later = StepCosts(6, {"a": [12.0, 18.0], "c": [18.0, 36.0]}, {"processor": "y"}, "data", {"c": "3"})
    both = first.with_arms(later, "a")
    assert both.turns == {"a": [2.0, 2.2], "b": [4.0, 4.0], "c": [3.0, 4.4]}
    assert (both.updates, both.machine) == (2, {"processor": "x"})
    assert both.fingerprints == {"a": "1", "b": "2", "c": "3"}
    assert both.ratio("c", "a")[0] == pytest.approx(1.75)  # of 1.5 and 2


def test_networks_of_a_seed_begin_with_the_same_weights(prepared):
    made = prepared()
    first, second = (build_networks(made.recipes[name])[0] for name in ("random", "game"))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
