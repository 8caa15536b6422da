import pytest
from transformers.training_args import OptimizerNames

from adversarial_mlm.recipes.recipe import build_recipe
from adversarial_mlm.recipes.refusals import explained
from adversarial_mlm.utils.errors import CorpusError, RecipeError

GOOD = {"train_data": ["a"], "output_dir": "x", "use_cpu": True}


@pytest.mark.parametrize(
    ("error", "given", "sentence"),
    [
        (ValueError("seed must be even"), {"seed": 1}, "seed must be even"),
        (CorpusError("a.fasta: is empty"), {"seed": 1}, "a.fasta: is empty"),
        (KeyError("fancy"), {"optim": "fancy", "seed": 1}, "optim: fancy cannot be used: KeyError: 'fancy'"),
        (RuntimeError("needs wandb\nand b."), {"report_to": ["a", "wandb"]}, "report_to: a, wandb cannot be used"),
        (TypeError("no"), {"seed": 1, "data_seed": 2}, "seed: 1, data_seed: 2 cannot be used: TypeError: no"),
        (TypeError("bad hf_secret"), {"hub_token": "hf_secret", "seed": 1}, "seed: 1 cannot be used"),
        (TypeError("the noiser is odd"), {"noiser": "tiny"}, "noiser: tiny cannot be used: TypeError: the noiser"),
        (TypeError("odd"), {"optim": OptimizerNames.SGD}, "optim: sgd cannot be used: TypeError: odd"),
        (ValueError("'FOO' is no backend"), {"torch_compile_backend": "foo"}, "torch_compile_backend: foo cannot"),
        (TypeError("no"), dict.fromkeys("abcdef", 1), "the options cannot be used: TypeError: no"),
        (OverflowError(), {}, "the options cannot be used: OverflowError: OverflowError"),
    ],
)  # fmt: skip
def test_an_error_of_a_library_names_the_option(error, given, sentence):
    assert explained(error, given).startswith(sentence)


@pytest.mark.parametrize(
    ("from_file", "said", "sentence"),
    [
        ({"noiser_steps": 0}, {}, "mine.yaml: noiser_steps must be at least 1, got 0"),
        ({"noiser_steps": 1}, {"noiser_steps": 0}, "--noiser_steps must be at least 1, got 0"),
        (
            {"gradient_accumulation_steps": 4, "noiser": "tiny"},
            {"global_batch_size": ["128"]},
            "global_batch_size and gradient_accumulation_steps are both set: leave out one of them, or use "
            "gradient_accumulation_steps: 1 (global_batch_size on the command line, gradient_accumulation_steps in "
            "mine.yaml)",
        ),
        (
            {"gradient_accumulation_steps": 4, "global_batch_size": ["128"]},
            {"noiser": "tiny"},
            "mine.yaml: global_batch_size and gradient_accumulation_steps are both set: leave out one of them, or use "
            "gradient_accumulation_steps: 1",
        ),
        ({"train_data": []}, {"seed": 1}, "mine.yaml: train_data is missing"),
        ({"logging_steps": 0}, {}, "mine.yaml: logging strategy steps requires non-zero --logging_steps"),
    ],
)  # fmt: skip
def test_a_message_says_where_the_options_were_given(from_file, said, sentence):
    with pytest.raises(RecipeError) as error:
        build_recipe({**GOOD, **from_file}, said, "mine.yaml")
    assert str(error.value).startswith(sentence)


def test_an_accumulation_of_1_makes_way_for_a_global_batch():
    said = {"global_batch_size": ["128"], "gradient_accumulation_steps": 1}
    recipe = build_recipe({**GOOD, "gradient_accumulation_steps": 4}, said, "mine.yaml")
    assert recipe.training.batch_stages[0].size == 128


def test_an_empty_text_unsets_a_list_and_is_no_source():
    assert build_recipe({**GOOD, "validation_data": ["b"]}, {"validation_data": [""]}, "").data.validation_data == []
    with pytest.raises(RecipeError, match="--train_data contains an empty text: remove it"):
        build_recipe(GOOD, {"train_data": ["a", ""]}, "mine.yaml")
