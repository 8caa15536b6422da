import pytest

from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.models.configuration_noiser import NoiserConfig
from adversarial_mlm.recipes.saved_rules import saved_rules
from adversarial_mlm.utils.errors import RecipeError

RECIPE = """
train_data: [a.fasta]
adversarial_rate: 0.2
random_rate: 0.05
sampler: logistic_topk
learned_options: false
learning_rate: 1e-3
"""
RULES = {"adversarial_rate": 0.2, "random_rate": 0.05, "sampler": "logistic_topk", "learned_options": False}


@pytest.fixture
def run(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "other").mkdir()
    return tmp_path


def test_the_rules_are_those_of_the_recipe_and_the_view_that_of_the_noiser(run):
    for view in ("full", "blind"):
        rules, path = saved_rules(str(run), NoiserConfig(view=view))
        assert rules == MaskingRules(blind=view == "blind", **RULES) and path == str(run / "recipe.yaml")


def test_a_checkpoint_has_the_recipe_of_its_run_and_another_folder_none(run):
    rules, path = saved_rules(str(run / "checkpoint-10"), NoiserConfig())
    assert rules.adversarial_rate == 0.2 and path == str(run / "recipe.yaml")
    rules, path = saved_rules(str(run / "other"), NoiserConfig())
    assert rules == MaskingRules(random_rate=0.1, adversarial_rate=0.1) and path == ""


def test_given_options_override_the_recipe(run):
    rules, _ = saved_rules(str(run), NoiserConfig(), adversarial_rate=0.3, sampler=None, learned_options=True)
    assert (rules.adversarial_rate, rules.sampler, rules.learned_options) == (0.3, "logistic_topk", True)


@pytest.mark.parametrize(
    ("mask_rate", "given", "rates"),
    [
        ('"40%"', {}, (0.32, 0.08)),
        ('"40%"', {"adversarial_rate": 0.3}, (0.3, 0.05)),
        ('["75%@0", "15%@100%"]', {}, (0.2, 0.05)),
        ('"10%-90%"', {}, (0.2, 0.05)),
    ],
)
def test_one_mask_rate_of_the_run_is_that_of_the_rules(run, mask_rate, given, rates):
    (run / "recipe.yaml").write_text(f"{RECIPE}mask_rate: {mask_rate}\n")
    rules, _ = saved_rules(str(run), NoiserConfig(), **given)
    assert (rules.adversarial_rate, rules.random_rate) == pytest.approx(rates)
    assert rules.schedule is None and rules.lowest_rate is None


def test_recipes_that_do_not_fit_are_refused_in_one_sentence(run):
    with pytest.raises(RecipeError, match="adversarial_rate must be at least 0"):
        saved_rules(str(run), NoiserConfig(), adversarial_rate=2.0)
    (run / "recipe.yaml").write_text(RECIPE + "masking: random\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml: masking is random, so this run had no noiser"):
        saved_rules(str(run), NoiserConfig())
    (run / "recipe.yaml").write_text("adversarial_rate: much\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml: adversarial_rate .*much"):
        saved_rules(str(run), NoiserConfig())
    (run / "recipe.yaml").write_text("sampler: gumbel_topk\nselection: threshold\n")
    with pytest.raises(RecipeError, match=r"recipe\.yaml: selection: threshold is given, but sampler is gumbel_topk"):
        saved_rules(str(run), NoiserConfig())
