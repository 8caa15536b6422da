import pytest

from adversarial_mlm.comparison.arms import arm_recipe, check_arms, difference_of_masks, fingerprint, masks_of
from adversarial_mlm.comparison.recipe import read_comparison
from adversarial_mlm.recipes.recipe import RecipeError, recipe_of


def masks(**options):
    return masks_of(recipe_of({"train_data": ["x"], "use_cpu": True, **options}, [], "test"))


def test_masks_are_counted_over_both_kinds_together():
    assert masks(masking="random").words() == "20 % 80/10/10"
    assert masks(preset="fast").words() == "40 % 90/5/5"  # half by [MASK] alone, half 80/10/10
    assert masks(preset="blind", adversarial_rate=0.1, random_rate=0.3).words() == "40 % 85/7.5/7.5"
    assert masks(preset="blind", adversarial_share=["0.5"]).words() == "40 % 85/7.5/7.5"


def test_a_mix_that_the_noiser_chooses_is_not_known_before():
    assert masks(preset="paper").words() == "20 % learned"
    assert masks(preset="paper-literal").words() == "? % learned"
    assert masks(preset="blind", adversarial_share=["0@0", "1@9"]).mix is None


def test_a_changing_rate_counts_by_its_mean_over_the_run():
    falling, half = {"masking": "random", "mask_rate": ["75%@0", "15%@100%"]}, {"adversarial_rate": 0.2}
    assert masks(**falling).words() == "45 % 80/10/10"
    assert difference_of_masks(masks(**falling), masks(masking="random", **half, random_rate=0.25)) == ""
    assert masks(preset="fast", mask_rate=["10%-70%"]).words() == "40 % 90/5/5"
    in_updates = masks(masking="random", mask_rate=["75%@0", "15%@100"])
    assert "write its steps in % of the run" in difference_of_masks(in_updates, masks(masking="random"))
    with pytest.raises(RecipeError, match="test: mask_rate must be above 0 and at most 1"):
        masks(masking="random", mask_rate=["75"])


def test_masks_without_a_noiser_are_matched_whatever_positions_they_choose():
    random = masks(masking="random")
    for options in ({"masking": "span", "span_length": 5}, {"masking": "stratified"}):
        assert difference_of_masks(masks(**options), random) == ""
    assert difference_of_masks(masks(masking="span", random_rate=0.3), random) == "in mask rate"


def test_weights_count_by_their_content(tmp_path):
    def print_of(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        options = {"masking": "weighted", "mask_weights": [str(tmp_path / name)]}
        return fingerprint(recipe_of({"train_data": ["x"], "use_cpu": True, **options}, [], "test"))

    assert print_of("a.csv", "id,weights\n") == print_of("b.csv", "id,weights\n") != print_of("c.csv", "id\n")


def test_arms_are_matched_where_rate_and_mix_are_equal():
    fast, ninety = masks(preset="fast"), {"masking": "random", "mask_options": [0.9, 0.05, 0.05]}
    assert difference_of_masks(fast, masks(**ninety, random_rate=0.3)) == ""
    assert difference_of_masks(fast, masks(**ninety)) == "in mask rate"
    assert difference_of_masks(fast, masks(masking="random")) == "in mask rate and corruption mix"
    assert difference_of_masks(masks(preset="paper"), masks(masking="random")) == "its noiser chooses how to mask"


def test_unmatched_arms_are_refused_unless_they_are_said_to_be(write):
    changes = {"arms.random.options.mask_options": [0.8, 0.1, 0.1]}
    with pytest.raises(RecipeError, match="arm game .20 % 90/5/5. and its partner random .20 % 80/10/10. are not"):
        check_arms(read_comparison(write(changes)))
    assert check_arms(read_comparison(write({**changes, "arms.game.unmatched": True})))
    with pytest.raises(
        RecipeError, match="arm game has unmatched: true, but its masks match those of random: remove it"
    ):
        check_arms(read_comparison(write({"arms.game.unmatched": True})))


_OWN = {"own": {"game": {"adversarial_rate": [0.1, 0.3]}}}


@pytest.mark.parametrize(
    "searched, allowed",
    [
        ({"options": {"mask_rate": ["20%", "40%"]}}, True),
        ({"options": {"learning_rate": [1e-3, 1e-2]}, **_OWN}, True),
        ({"options": {"learning_rate": [1e-3, 1e-2]}}, False),
    ],
)
def test_an_arm_that_a_search_may_unmatch_can_be_declared_before(write, searched, allowed):
    tune = {"baseline": "random", "updates": 4, "rungs": 1, **searched}
    recipe = read_comparison(write({"tune": tune, "arms.game.unmatched": True}))
    if allowed:
        assert check_arms(recipe)
    else:
        with pytest.raises(RecipeError, match="arm game has unmatched: true, but its masks match"):
            check_arms(recipe)


@pytest.mark.parametrize(
    "option, value",
    [("max_length", 32), ("per_device_train_batch_size", 8), ("eval_mask_seed", 1), ("encoder", "small")],
)
def test_arms_that_could_not_be_paired_are_refused(write, option, value):
    with pytest.raises(RecipeError, match=f"arm game has {option} {value}, but arm random has .*: move it to common"):
        check_arms(read_comparison(write({f"arms.game.options.{option}": value})))


@pytest.mark.parametrize("option, value", [("seed", 3), ("max_steps", 5), ("output_dir", "x"), ("streaming", True)])
def test_what_the_comparison_decides_is_no_option_of_an_arm(write, option, value):
    for changes in ({f"common.{option}": value}, {f"arms.game.options.{option}": value}):
        with pytest.raises(RecipeError, match=f"{option} is set by the comparison"):
            check_arms(read_comparison(write(changes)))
    with pytest.raises(RecipeError, match=f"^--{option} is given, but {option} is set by the comparison itself"):
        check_arms(read_comparison(write()), [f"--{option}", str(value)])


def test_an_unknown_option_names_file_and_arm(write):
    with pytest.raises(RecipeError, match=r"compare.yaml \(game\): unknown option 'learning_rat'; did you mean"):
        check_arms(read_comparison(write({"arms.game.options.learning_rat": 1})))


def test_an_arms_options_win_over_the_common_ones_and_both_over_its_preset(write):
    recipe = read_comparison(write({"arms.game.options.preset": "paper", "common.noiser_learning_rate": 1e-2}))
    of_arm = arm_recipe(recipe, "game", seed=4, updates=9)
    assert of_arm.training.learning_rate == 1e-3  # the preset's is 1e-4
    assert of_arm.training.noiser_learning_rate == 1e-3
    assert (of_arm.training.seed, of_arm.training.max_steps) == (4, 9)
    assert arm_recipe(recipe, "game", words=["--noiser_learning_rate", "5e-3"]).training.noiser_learning_rate == 5e-3


def test_a_fingerprint_is_of_what_a_result_depends_on(write):
    recipe = read_comparison(write())
    one = fingerprint(arm_recipe(recipe, "game"))
    assert fingerprint(arm_recipe(recipe, "game", seed=3, updates=7, output_dir="x")) == one
    assert fingerprint(arm_recipe(recipe, "game", words=["--train_data", "elsewhere.fasta"])) == one
    assert fingerprint(arm_recipe(recipe, "game", words=["--learning_rate", "2e-3"])) != one
    assert fingerprint(arm_recipe(recipe, "random")) != one
    # an option that older comparisons did not have counts where it is not at its default
    assert fingerprint(arm_recipe(recipe, "game", words=["--quick_cpu_dropout", "true"])) == one
    assert fingerprint(arm_recipe(recipe, "game", words=["--quick_cpu_dropout", "false"])) != one


def test_a_fork_starts_from_the_warm_up_whatever_the_command_line_says(write):
    recipe = read_comparison(write({"warm_up": {"updates": 2, "options": {"masking": "random"}}}))
    for words in (["--encoder", "small"], ["--model_name_or_path=elsewhere"], ["--model-name-or-path", "elsewhere"]):
        model = arm_recipe(recipe, "game", start="runs/warm", words=words).model
        assert (model.encoder, model.model_name_or_path) == (None, "runs/warm")
    assert arm_recipe(recipe, "warm_up", words=["--encoder", "small"]).model.encoder == "small"


def test_what_an_arm_starts_from_is_part_of_its_fingerprint(write):
    recipe = read_comparison(write({"common.encoder": None}))
    one, other = (fingerprint(arm_recipe(recipe, "game", words=["--model_name_or_path", name])) for name in "ab")
    assert one != other


def test_the_log_of_a_run_is_as_long_as_there_are_updates_for(write):
    recipe = read_comparison(write({"common.logging_steps": None}))
    assert arm_recipe(recipe, "game", updates=600).training.logging_steps == 12
    assert arm_recipe(recipe, "game", updates=7).training.logging_steps == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"arms.game.options.mask_options": [0.9, 0.1]},
            r"arm game: mask_options must be three shares .*got \[0.9, 0.1\]",
        ),
        (
            {"arms.random.options.adversarial_rate": 0, "arms.random.options.random_rate": 0},
            "arm random: .* must be above 0; got .* and 0",
        ),
        (
            {
                "arms.game.options.adversarial_share": ["0@0", "1@2"],
                "arms.game.unmatched": True,
                "budgets.time": {"equal": "seconds", "like": "random", "updates": 3},
            },
            "arm game has an adversarial_share of 0 in some updates.*Budget time .equal: seconds.*use equal: flops",
        ),
        (
            {
                "arms.random.options.soft_targets": ["0.5@0", "0@50%"],
                "arms.random.options.teacher": "ema",
                "budgets.time": {"equal": "seconds", "like": "random", "updates": 3},
            },
            "arm random has soft_targets of 0 in some updates.*Budget time .equal: seconds.*use equal: flops",
        ),
    ],
)
def test_an_arm_that_cannot_be_compared_is_named(write, changes, message):
    with pytest.raises(RecipeError, match=message):
        check_arms(read_comparison(write(changes)))
