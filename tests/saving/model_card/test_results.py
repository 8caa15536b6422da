"""Results that are added to a saved card."""

import math

import numpy as np
import pytest
from huggingface_hub import EvalResult, ModelCard

from adversarial_mlm import DataCollatorForRandomMLM
from adversarial_mlm.saving import model_card


@pytest.fixture
def folder(tokenizer, make_trainer, card_of, tmp_path):
    collator = DataCollatorForRandomMLM(tokenizer)
    card_of(make_trainer(collator, eval_loss=2.5, eval_perplexity=12.18, eval_accuracy=0.2))
    return tmp_path


def result(value, **changes) -> EvalResult:
    of = {
        "task_type": "text-classification", "task_name": "Remote homology", "dataset_type": "tape",
        "dataset_name": "TAPE remote homology, fold holdout", "dataset_config": "remote_homology",
        "dataset_split": "fold_holdout", "metric_type": "accuracy", "metric_value": value,
    }  # fmt: skip
    return EvalResult(**{**of, **changes})


def test_results_are_added_and_the_text_stays(folder):
    before = ModelCard.load(folder / "README.md")
    new = [result(0.25), result(0.5, dataset_split="family_holdout", dataset_name="TAPE, family holdout")]
    model_card.add_results(folder, new)
    after = ModelCard.load(folder / "README.md")
    assert after.data.eval_results == [*before.data.eval_results, *new]
    assert after.text == before.text
    rest = [{k: v for k, v in card.data.to_dict().items() if k != "model-index"} for card in (before, after)]
    assert rest[0] == rest[1]


def test_a_result_takes_the_place_of_the_earlier_one(folder):
    model_card.add_results(folder, [result(0.25), result(0.75, metric_type="f1")])
    model_card.add_results(folder / "README.md", [result(0.3)])
    found = ModelCard.load(folder / "README.md").data.eval_results
    assert found[-2:] == [result(0.3), result(0.75, metric_type="f1")] and len(found) == 5


def test_a_card_without_results_gets_its_first(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# A card\n")
    model_card.add_results(tmp_path, [result("20.0 ± 1.2")])
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.eval_results == [result("20.0 ± 1.2")] and card.data.model_name == tmp_path.name
    assert card.text == "\n# A card\n" and card.data.license == "mit"


def test_a_number_of_another_library_is_a_number(folder):
    model_card.add_results(folder, [result(np.float64(0.25)), result(np.int64(3), metric_type="count")])
    assert [r.metric_value for r in ModelCard.load(folder / "README.md").data.eval_results[-2:]] == [0.25, 3]


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([result(math.inf)], "the accuracy on TAPE remote homology, fold holdout is inf"),
        ([result(np.float64("nan"))], "is nan"),
        ([result(0.1), result(0.2, dataset_name="Another", metric_type="f1")], "cannot hold the f1 on Another"),
    ],
)
def test_what_a_card_cannot_hold_is_refused_and_changes_nothing(folder, results, words):
    before = (folder / "README.md").read_text()
    with pytest.raises(ValueError, match=words):
        model_card.add_results(folder, results)
    assert (folder / "README.md").read_text() == before


def test_a_folder_without_a_card_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs a saved model card"):
        model_card.add_results(tmp_path, [result(0.1)])
