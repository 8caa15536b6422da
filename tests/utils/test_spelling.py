import random
import re
import string

import pytest

from adversarial_mlm.downstream.arguments import OPTIONS as OF_TASKS
from adversarial_mlm.recipes.recipe import OPTIONS as OF_RECIPES
from adversarial_mlm.utils.spelling import did_you_mean, nearest


def test_the_nearest_name_is_offered_or_all_where_they_are_few():
    assert nearest("lerning_rate", ["learning_rate", "seed"]) == "learning_rate"
    assert nearest("x", ["learning_rate"]) is None
    assert nearest("Learning-Rate", ["learning_rate"]) == "learning_rate" and nearest("adam", ["ADAM"]) == "ADAM"
    assert did_you_mean("sed", ["learning_rate", "seed"]) == "; did you mean 'seed'?"
    assert did_you_mean("x", ["learning_rate", "seed"]) == "; there are learning_rate, seed"
    assert did_you_mean("x", [f"option_{number}" for number in range(99)]) == ""
    assert did_you_mean("LR", ["learning_rate"], {"lr": "learning_rate"}) == "; did you mean 'learning_rate'?"
    assert did_you_mean("gpu", ["learning_rate"], {"gpu": "it is used"}) == "; it is used"


def slip(name: str, draw: random.Random) -> str:
    """A name with one letter too many, too few, wrong, or swapped with the next."""
    at = draw.randrange(len(name) - 1)
    letter = draw.choice(string.ascii_lowercase)
    return draw.choice(
        [
            name[:at] + name[at + 1 :],
            name[:at] + letter + name[at:],
            name[:at] + letter + name[at + 1 :],
            name[:at] + name[at + 1] + name[at] + name[at + 2 :],
        ]
    )


def test_a_slip_of_the_finger_finds_its_option():
    draw, known = random.Random(0), list(OF_RECIPES.fields)
    pairs = [(name, slip(name, draw)) for name in known for _ in range(3)]
    offered = [(name, nearest(wrong, known)) for name, wrong in pairs if wrong not in known]
    right = sum(name == offer for name, offer in offered)
    other = sum(offer is not None and name != offer for name, offer in offered)
    assert right > 0.95 * len(offered) and other < 0.01 * len(offered)


ELSEWHERE = (
    "foo vocab unk_token pad_token num_beams attention_dropout layer_norm_eps zero_stage offload",
    "nodes local_files_only num_return_sequences hidden_act betas momentum sigma tokenize horovod no_cuda",
)


@pytest.mark.parametrize("name", " ".join(ELSEWHERE).split())
def test_a_name_of_something_else_is_not_taken_for_an_option(name):
    assert nearest(name, OF_RECIPES.fields) is None


@pytest.mark.parametrize(
    ("options", "name", "hint"),
    [
        (OF_RECIPES, "no_cuda", "did you mean 'use_cpu'?"),
        (OF_RECIPES, "evaluation_strategy", "did you mean 'eval_strategy'?"),
        (OF_RECIPES, "per_gpu_train_batch_size", "did you mean 'per_device_train_batch_size'?"),
        (OF_RECIPES, "mlm_probability", "the mask rate is the sum of adversarial_rate and random_rate"),
        (OF_RECIPES, "line_by_line", "train_data has one protein in each record"),
        (OF_RECIPES, "train_file", "did you mean 'train_data'?"),
        (OF_RECIPES, "tokenizer_name", "an encoder's own tokenizer is used"),
        (OF_RECIPES, "lr", "did you mean 'learning_rate'?"),
        (OF_RECIPES, "batch-size", "did you mean 'per_device_train_batch_size'?"),
        (OF_RECIPES, "epochs", "did you mean 'num_train_epochs'?"),
        (OF_TASKS, "lr", "did you mean 'learning_rate'?"),
        (OF_TASKS, "epochs", "did you mean 'max_epochs'?"),
        (OF_TASKS, "train_data", "did you mean 'train_file'?"),
        (OF_TASKS, "no_cuda", "did you mean 'use_cpu'?"),
    ],
)
def test_what_an_option_is_called_elsewhere_leads_to_its_name_here(options, name, hint):
    assert did_you_mean(name, options.fields, options.other_names).startswith(f"; {hint}")


@pytest.mark.parametrize("options", [OF_RECIPES, OF_TASKS])
def test_other_names_lead_to_options_that_exist(options):
    for name, found in options.other_names.items():
        assert name not in options.fields
        assert found in options.fields or re.search(r"\w \w", found), name
