import pytest

from adversarial_mlm.comparison.differences import differences, finetuning_deviation, gains, metric_names


def entry(name, losses, against=None, budget="updates", **more):
    seeds = [
        {"seed": seed, "metrics": {} if loss is None else {"members_loss": loss}} for seed, loss in enumerate(losses)
    ]
    told = {"name": name, "budget": budget, "against": against, "unmatched": False, "updates": 600, "seeds": seeds}
    return {**told, **more}


def study(*entries):
    return {"arms": list(entries), "budgets": dict.fromkeys(one["budget"] for one in entries)}


def test_differences_are_paired_by_seed():
    (row,) = differences(study(entry("a", [3.0, 2.0, 4.0]), entry("b", [4.0, 2.0, 6.0], "a")))
    assert (row["arm"], row["against"], row["metric"], row["pairs"]) == ("b", "a", "members_loss", [0, 1, 2])
    assert row["mean"] == 1.0  # of 1, 0 and 2
    assert (row["low"], row["high"]) == pytest.approx((-1.484138, 3.484138), abs=1e-5)
    assert row["adjusted_p"] == row["p_value"] == pytest.approx(0.225403, abs=1e-5)


def test_p_allows_for_all_arms_that_are_compared_under_a_budget_whatever_their_partners():
    rows = differences(
        study(
            entry("a", [1.0, 2.0, 3.0]),
            entry("b", [2.0, 2.9, 4.1], "a"),
            entry("c", [1.1, 2.0, 3.2], "a"),
            entry("d", [2.0, 2.9, 4.2], "b"),  # p is the largest
            entry("b", [2.0, 2.9, 4.1], "a", budget="flops", updates=500),
            entry("a", [1.0, 2.0, 3.0], budget="flops"),
        )
    )
    p = {(row["budget"], row["arm"]): (row["p_value"], row["adjusted_p"]) for row in rows}
    assert p["updates", "b"][1] == pytest.approx(3 * p["updates", "b"][0])
    assert p["updates", "c"][1] == pytest.approx(2 * p["updates", "c"][0])
    assert p["updates", "d"][1] == p["updates", "c"][1]  # never below that of a smaller p
    assert p["flops", "b"][0] == p["flops", "b"][1]


def test_a_pair_of_an_earlier_budget_counts_in_the_correction_and_is_not_repeated():
    rows = differences(
        study(
            entry("a", [1.0, 2.0, 3.0]),
            entry("b", [2.0, 2.9, 4.1], "a"),
            entry("a", [1.0, 2.0, 3.0], budget="flops"),
            entry("b", [2.0, 2.9, 4.1], "a", budget="flops"),
            entry("c", [2.0, 2.9, 4.2], "a", budget="flops", updates=400),
        )
    )
    assert [(row["budget"], row["arm"]) for row in rows] == [("updates", "b"), ("flops", "c")]
    assert rows[0]["adjusted_p"] == rows[0]["p_value"]
    assert rows[1]["adjusted_p"] == rows[1]["p_value"] > 2 * rows[0]["p_value"]  # the larger of two


def test_gains_are_those_over_the_weights_that_a_run_began_with_and_of_tasks_alone():
    arms = [entry("a", [3.0, 2.0, 4.0]), entry("b", [3.0, 2.0, 4.0], "a")]
    untrained = [{"seed": seed, "metrics": {"members_loss": 5.0, "probe/stability/test": 0.1}} for seed in (0, 1, 2)]
    for number, arm in enumerate(arms):
        for of_seed in arm["seeds"]:
            of_seed["metrics"]["probe/stability/test"] = 0.4 + number + 0.1 * of_seed["seed"]
    first, second = gains({**study(*arms), "untrained": untrained})
    assert (first["arm"], first["against"], first["metric"]) == ("a", "untrained", "probe/stability/test")
    assert (first["mean"], second["mean"]) == pytest.approx((0.4, 1.4))
    assert first["adjusted_p"] == pytest.approx(first["p_value"])
    assert second["adjusted_p"] == pytest.approx(2 * second["p_value"])


def test_a_run_without_a_figure_has_no_pair_and_is_counted():
    (row,) = differences(study(entry("a", [3.0, 2.0, None]), entry("b", [4.0, None, 6.0], "a")))
    assert row["pairs"] == [0] and row["without_partner"] == [1, 2]
    assert row["mean"] == 1.0 and row["low"] is None and row["adjusted_p"] is None
    assert differences(study(entry("a", [None]), entry("b", [1.0], "a"))) == []


def test_arms_are_compared_by_held_out_losses_and_tasks_alone():
    one = entry("a", [1.0])
    one["seeds"][0]["metrics"] |= {
        "members_refitted_loss": 1.0, "confirmation_members_loss": 1.0, "members_background_loss": 2.0,
        "confirmation_members_background_loss": 2.0, "random_loss": 3.0, "adversarial_loss": 3.0, "seconds": 9.0,
        "probe/stability/test": 0.5, "finetune/stability/test": 0.4, "finetune/stability/test/by_seed": [0.3, 0.5],
    }  # fmt: skip
    assert metric_names(study(one)) == [
        "members_loss",
        "members_refitted_loss",
        "confirmation_members_loss",
        "probe/stability/test",
        "finetune/stability/test",
    ]


def test_the_spread_of_fine_tuning_is_within_encoders():
    one = entry("a", [1.0, 1.0])
    for of_seed, runs in zip(one["seeds"], ([1.0, 3.0], [11.0, 11.0]), strict=True):
        of_seed["metrics"]["finetune/stability/test/by_seed"] = runs
    # variances 2 and 0, whose mean is 1; that the encoders differ by 9 does not count, nor a figure without a value
    one["seeds"].append({"seed": 2, "metrics": {"finetune/stability/test/by_seed": [None, 5.0]}})
    assert finetuning_deviation(one, "finetune/stability/test") == pytest.approx(1.0)
