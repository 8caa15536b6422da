import pytest

from adversarial_mlm.comparison.arms import check_arms
from adversarial_mlm.comparison.recipe import read_comparison
from adversarial_mlm.recipes.recipe import RecipeError


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"seed": [0]}, "unknown option 'seed'; did you mean 'seeds'?"),
        ({"arms.game.agains": "random"}, "unknown option 'arms.game.agains'; did you mean 'against'?"),
        ({"budgets.updates.update": 3}, "unknown option 'budgets.updates.update'; did you mean 'updates'?"),
        ({"path": "x"}, "unknown option 'path'"),
        ({"corpus": None}, "corpus is missing"),
        ({"arms.game.options": None}, "arms.game.options is missing"),
        ({"seeds": 3}, "seeds must be a list, got 3"),
        ({"seeds": ["one"]}, r"seeds\[0\] must be a whole number, got 'one'"),
        ({"seeds": [0, 0]}, r"seeds must be one or more different whole numbers of at least 0, got \[0, 0\]"),
        ({"seeds": []}, "seeds must be one or more different whole numbers"),
        ({"plot": "perhaps"}, "plot must be true or false, got 'perhaps'"),
        ({"common": ["x"]}, "common must be a mapping of names to values"),
        ({"arms": {}}, "arms is empty: give at least one"),
        ({"arms.a/b": {"options": {}}}, "arms.a/b is not a valid name"),
        ({"arms.untrained": {"options": {}}}, "arms.untrained is not a valid name"),
        ({"arms.game.against": "rndom"}, "arms.game.against: there is no 'rndom'; choose from random, game"),
        ({"arms.game.against": "game"}, "arms.game.against names the arm itself"),
        ({"arms.random.unmatched": True}, "arms.random.unmatched is set, but the arm has no partner"),
        ({"arms.random.seeds": [1]}, "arms.game has the seed 0, but its partner random does not"),
        ({"arms.random.budgets": []}, "arms.game has the budget updates, but its partner random does not"),
        ({"budgets.updates.equal": "steps"}, "budgets.updates.equal: there is no 'steps'; choose from updates, flops"),
        (
            {"budgets.updates.like": "random"},
            "budgets.updates has equal: updates and needs the key updates only, got updates, like",
        ),
        ({"budgets.f": {"equal": "flops", "updates": 3}}, "needs either flops, or like and updates, got updates"),
        ({"budgets.f": {"equal": "flops", "flops": 0}}, "budgets.f.flops must be a finite number above 0, got 0"),
        (
            {"budgets.f": {"equal": "flops", "flops": "inf"}},
            "budgets.f.flops must be a finite number above 0, got inf",
        ),
        ({"budgets.updates.tolerance": 0.1}, "budgets.updates.tolerance only has an effect with equal: seconds"),
        ({"budgets.f": {"equal": "seconds", "like": "x", "updates": 1}}, "budgets.f.like: there is no 'x'"),
        ({"warm_up": {"updates": 0}}, "warm_up.updates must be at least 1, got 0"),
        ({"held_out": {"confirmation_share": 1.0}}, "held_out.confirmation_share must be between 0 and 1, got 1.0"),
        (
            {"tasks": {"data_dir": "x", "of": {"folding": {}}}},
            "tasks.of: there is no 'folding'; choose from secondary",
        ),
        ({"tasks": {"data_dir": "x", "of": {"stability": {"max_records": 0}}}}, "max_records must be at least 1"),
        (
            {"tasks": {"data_dir": "x", "of": {"stability": {"finetune": {"learning_rat": 1}}}}},
            "unknown option 'tasks.of.stability.finetune.learning_rat'; did you mean 'learning_rate'?",
        ),
        (
            {"tasks": {"data_dir": "x", "of": {"stability": {"finetune": {"seeds": 2}}}}},
            "tasks.of.stability.finetune.seeds must be a list of whole numbers, got 2",
        ),
    ],
)
def test_a_mistake_is_one_sentence_that_names_file_and_key(write, changes, sentence):
    with pytest.raises(RecipeError, match=sentence) as error:
        read_comparison(write(changes))
    assert "compare.yaml: " in str(error.value) and "\n" not in str(error.value)


def test_numbers_that_yaml_takes_for_text_are_numbers(write):
    path = write({"budgets.f": {"equal": "flops", "flops": "1e12"}})
    assert read_comparison(path).budgets["f"].flops == 1e12
    path = write({"tasks": {"data_dir": "x", "of": {"stability": {"finetune": {"learning_rate": "3e-4"}}}}})
    assert read_comparison(path).tasks.of["stability"].finetune_settings().learning_rate == 3e-4


def test_the_command_line_wins_over_the_files_folders(write):
    path = write({"tasks": {"data_dir": "x", "of": {"stability": {}}}})
    recipe = read_comparison(path, output_dir="out", data_dir="data")
    assert (recipe.output_dir, recipe.tasks.data_dir) == ("out", "data")
    with pytest.raises(RecipeError, match="--data_dir is given, but .* has no tasks"):
        read_comparison(write(), data_dir="data")


@pytest.mark.parametrize("name", ["compare_small", "compare_stability"])
def test_the_recipes_of_the_studies_are_recipes(repository, name):
    recipe = read_comparison(str(repository / "examples" / "recipes" / f"{name}.yaml"))
    resolved = check_arms(recipe)
    assert resolved["paper"].training.learning_rate == 2e-3 and resolved["paper"].training.noiser_learning_rate == 1e-4
    of_games = [arm for arm in recipe.arms if arm in ("fast_40", "partner_40")]
    assert of_games and not any(recipe.arms[arm].unmatched for arm in of_games)
