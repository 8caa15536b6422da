"""The report's sections about the search of settings, and about what an arm must gain for its time."""

import math

import pytest

from adversarial_mlm.comparison.differences import differences
from adversarial_mlm.comparison.report_tuning import bar_section, tuning_section

_TUNING = {
    "tune": {"baseline": "random", "rungs": 2, "seed": 1000, "held_out_set": "members"},
    "searches": {
        "random": {
            "winner": {"learning_rate": 2e-3, "mask_rate": ["75%@0", "15%@100%"]},
            "slope": 0.2,
            "trials": [
                {
                    "name": "random-00",
                    "options": {"learning_rate": 1e-3, "mask_rate": "40%"},
                    "rungs": [{"updates": 50, "loss": None}],
                },
                {
                    "name": "random-01",
                    "options": {"learning_rate": 2e-3, "mask_rate": ["75%@0", "15%@100%"]},
                    "rungs": [{"updates": 50, "loss": 2.75}, {"updates": 100, "loss": 2.7}],
                },
            ],
        }
    },
}


def _entry(name: str, budget: str, updates: int, losses: list[float], seconds: float, **more) -> dict:
    seeds = [{"seed": seed, "metrics": {"members_loss": loss}} for seed, loss in enumerate(losses)]
    return {
        **{"name": name, "budget": budget, "updates": updates, "against": None, "unmatched": False},
        **{"seconds_of_an_update": seconds, "seeds": seeds, **more},
    }


@pytest.fixture
def study() -> dict:
    """Two arms, one of which costs 1.5 times as much and gains about 0.1 at equal updates."""
    content = {
        "proteins": {"train": {}, "families": {}, "members": {}},
        "budgets": {"updates": {"equal": "updates"}, "seconds": {"equal": "seconds"}},
        "arms": [
            _entry("random", "updates", 300, [2.70, 2.72], 0.2),
            _entry("taught", "updates", 300, [2.60, 2.63], 0.3, against="random"),
            _entry("random", "seconds", 300, [2.70, 2.72], 0.2),
            _entry("taught", "seconds", 200, [2.69, 2.70], 0.3, against="random"),
        ],
        "tuning": _TUNING,
    }
    return {**content, "differences": differences(content)}


def _rows(text: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


def test_every_trial_is_reported_with_the_losses_of_its_rungs(study):
    text = tuning_section(study)
    assert "2 rungs, with seed 1000" in text and "best settings of random" in text
    assert [row for row in _rows(text) if "-" in row[0] and "0" in row[0]] == [
        ["random-00", "0.001", "40%", "diverged (50 updates)", "–"],
        ["**random-01**", "0.002", "75%@0, 15%@100%", "2.750 (50 updates)", "2.700 (100 updates)"],
    ]


def test_without_a_search_there_is_no_section(study):
    assert tuning_section({**study, "tuning": None}) == "" == tuning_section({})


def test_the_bar_is_the_slope_times_the_logarithm_of_the_cost(study):
    _, _, (arm, partner, cost, slope, bar, gained, in_time) = _rows(bar_section(study))
    assert (arm, partner, cost, slope) == ("taught", "random", "1.50", "0.200")
    assert bar == f"{0.2 * math.log(1.5):+.3f}" == "+0.081"
    assert gained.startswith("+0.095 (") and in_time.startswith("+0.015 (")


def test_the_slope_is_that_of_the_partners_runs_if_they_have_two_lengths(study):
    study["arms"][2] = _entry("random", "seconds", 600, [2.61, 2.61], 0.2)
    study["differences"] = differences(study)
    assert f"| {0.1 / math.log(2):.3f} |" in bar_section(study)


def test_without_a_known_slope_there_is_no_bar(study):
    assert bar_section({**study, "tuning": None}) == ""
