"""Where an option of a recipe is said decides which value counts, and what was decided can be saved."""

import json
import random

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adversarial_mlm import presets
from adversarial_mlm.recipes.recipe import Recipe, parse_recipe, recipe_of

ALWAYS = {"train_data": ["a.fasta"], "output_dir": "x", "use_cpu": True}
SOME_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "preset": st.sampled_from(["paper", "blind", "fast", "recommended"]),
        "learning_rate": st.sampled_from([1e-3, 2e-5]),
        "max_steps": st.integers(1, 9),
        "random_rate": st.sampled_from([0.05, 0.3]),
        "mask_options": st.sampled_from([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]]),
        "masking": st.sampled_from(["random", "adversarial"]),
        "sampler": st.sampled_from(["rss", "gumbel_topk"]),
        "noiser": st.sampled_from(["tiny", "small"]),
        "learned_options": st.booleans(),
        "noiser_learning_rate": st.sampled_from([1e-2, 3e-3]),
        "adversarial_share": st.sampled_from([["0@0", "1@9"], ["0.5"]]),
        "lr_scheduler_type": st.sampled_from(["cosine", "linear"]),
        "save_strategy": st.sampled_from(["no", "steps"]),
        "report_to": st.just("none"),
        "data_license": st.sampled_from(["1e-4", "CC BY 4.0: as it is", "no"]),
        "lr_scheduler_kwargs": st.sampled_from([{"num_cycles": 2}, {"min_lr": 1e-5}]),
    },
)


def with_preset(said: dict) -> dict:
    return {**(presets.game(said["preset"]) if "preset" in said else {}), **said}


def words_of(name: str, value) -> list[str]:
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={json.dumps(value) if isinstance(value, dict) else value}"]


def plain(recipe: Recipe) -> dict:
    return json.loads(json.dumps(recipe.resolved(), default=str))


@settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(SOME_OPTIONS, SOME_OPTIONS, st.integers(0, 99))
def test_each_level_wins_over_those_below_it_and_the_outcome_can_be_saved(tmp_path, from_file, said, seed):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**ALWAYS, **from_file}))
    groups = [words_of(name, value) for name, value in said.items()]
    random.Random(seed).shuffle(groups)
    recipe = parse_recipe([str(path), *sum(groups, [])])
    expected = {**ALWAYS, **with_preset(from_file), **with_preset(said)}
    expected.pop("report_to", None)  # `none` becomes an empty list
    assert {name: plain(recipe).get(name) for name in expected} == expected

    again = parse_recipe([recipe.save(str(tmp_path / "saved"))])
    assert plain(again) == plain(recipe)
    for part in ("data", "model", "masking", "run", "probe"):
        assert getattr(again, part) == getattr(recipe, part)


def test_a_value_that_is_said_wins_over_an_equal_default_of_a_preset(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**ALWAYS, "preset": "blind", "noiser_view": "full"}))
    assert parse_recipe([str(path)]).model.noiser_view == "full"
    assert parse_recipe([str(path), "--preset", "blind"]).model.noiser_view == "blind"
    # a line without a value is as good as none
    assert recipe_of({**ALWAYS, "preset": "fast", "noiser": None}, [], "mine").model.noiser == "small"


def test_a_number_with_an_exponent_is_one_in_a_mapping_too(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "train_data: a\noutput_dir: x\nuse_cpu: true\nlr_scheduler_type: cosine_with_min_lr\n"
        "lr_scheduler_kwargs: {min_lr: 1e-5}\nlearning_rate: 1e-3\n"
    )
    training = parse_recipe([str(path)]).training
    assert training.lr_scheduler_kwargs == {"min_lr": 1e-5}
    said = parse_recipe([str(path), "--lr_scheduler_kwargs", '{"min_lr": 2e-5}']).training
    assert said.lr_scheduler_kwargs == {"min_lr": 2e-5}


@pytest.mark.parametrize("value", [{"dp_replicate_size": 2}, "x"])
def test_an_option_that_is_an_object_of_a_library_is_refused(value):
    with pytest.raises(ValueError, match="mine: parallelism_config cannot be set in a file or on a command line"):
        recipe_of({**ALWAYS, "parallelism_config": value}, [], "mine")


def test_several_trackers_are_a_list():
    trackers = ["trackio", "wandb"]
    assert recipe_of({**ALWAYS, "report_to": trackers}, [], "mine").training.report_to == trackers
    assert recipe_of(ALWAYS, ["--report_to", *trackers, "--seed", "3"], "mine").training.report_to == trackers
    assert recipe_of(ALWAYS, ["--report_to", "wandb"], "mine").training.report_to == ["wandb"]
    assert recipe_of(ALWAYS, ["--report_to=none"], "mine").training.report_to == []
