"""The cards of real runs in `model_cards/`, and the page that lists them."""

import re

import pytest
from huggingface_hub import ModelCard

from adversarial_mlm import DataCollatorForAdversarialMLM
from tests.saving.model_card.conftest import check, pictures


@pytest.fixture
def folder(repository):
    return repository / "model_cards"


def parts(card: ModelCard) -> list[str]:
    return re.findall(r"^(##.*|\*\*[^*]*\*\*|- licence of [^:]*)", card.text, flags=re.MULTILINE)


def test_every_card_is_one_that_a_run_writes_and_has_its_pictures(folder):
    cards = sorted(folder.glob("*/README.md"))
    assert cards
    for path in cards:
        card = check(path.read_text(encoding="utf-8"))
        assert pictures(card.text) and all((path.parent / name).is_file() for name in pictures(card.text))
        assert sorted(file.name for file in path.parent.iterdir()) == sorted(["README.md", *pictures(card.text)])
        assert card.data.model_name == path.parent.name


def test_the_demos_card_has_the_parts_that_a_card_has_now(folder, tokenizer, make_noiser, make_trainer, card_of):
    demo = ModelCard.load(folder / "demo" / "README.md")
    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser())
    figures = {"eval_loss": 2.5, "eval_perplexity": 12.18, "eval_accuracy": 0.2, "eval_adversarial_loss": 2.6}
    trainer = make_trainer(collator, **figures)
    trainer.run_facts["command"] = "-m adversarial_mlm train demo"
    assert parts(demo) == parts(card_of(trainer)) and len(parts(demo)) > 12
    assert {result.dataset_config for result in demo.data.eval_results} == {"families", "members"}
    assert "CC BY 4.0" in demo.text and "\nadv-mlm train demo\n" in demo.text


def test_the_page_lists_everything_in_the_folder(folder):
    page = (folder / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)\)", page)
    assert all((folder / link).exists() for link in links)
    there = {path.name for path in folder.iterdir()} - {"README.md"}
    assert there <= {link.split("/")[0] for link in links}
