"""Cards of trainers and of whole runs, each checked for what holds of every card."""

import re
import sys
from pathlib import Path

import datasets
import pytest
from huggingface_hub import ModelCard

from adversarial_mlm import AdversarialMLMTrainer, AdversarialMLMTrainingArguments, presets
from adversarial_mlm.recipes.recipe import parse_recipe
from adversarial_mlm.recipes.run import evaluate_saved, pretrain
from adversarial_mlm.saving import model_card


def check(text: str) -> ModelCard:
    """What holds of every card: it can be parsed and written again, and a person can read it."""
    card = ModelCard(text)
    assert str(card) == text
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    assert not re.search(r"\bNone\b|\n\n\n|[ \t]\n", card.text)
    assert not re.search(r"\n#[^\n]*\n+(#|$)", re.sub(r"```.*?```", "code", card.text, flags=re.DOTALL))  # sections
    tables = re.findall(r"(?:^\|.*\|\n)+", card.text, flags=re.MULTILINE)
    assert tables
    for table in tables:
        assert len({len(line) for line in table.splitlines()}) == 1, table
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1, table
    assert not re.search(r"""(^|[\s"'=,(\[`])(/[\w.]|~/|[A-Z]:\\)""", card.text)  # an absolute path
    assert len(re.findall(r"```python", card.text)) == 3
    return card


@pytest.fixture
def make_trainer(make_encoder, tmp_path):
    """An untrained trainer with a log of one evaluation; keywords starting with `eval_` are its figures."""

    def make(collator, encoder=None, held_out: bool = True, step: int = 0, **settings) -> AdversarialMLMTrainer:
        data = datasets.Dataset.from_dict({"sequence": ["ACDEFGHIKLMNPQRSTVWY"] * 4})
        figures = {name: value for name, value in settings.items() if name.startswith("eval_")}
        figures = {name: figures[name] for name in figures if name not in ("eval_mask_rate", "eval_mask_seed")}
        args = {name: value for name, value in settings.items() if name not in figures}
        args = {"output_dir": str(tmp_path / "my-model"), "use_cpu": True, "report_to": [], **args}
        trainer = AdversarialMLMTrainer(
            make_encoder() if encoder is None else encoder,
            AdversarialMLMTrainingArguments(**args),
            collator,
            train_dataset=data,
            eval_dataset=data if held_out else None,
        )
        trainer.state.log_history.append({"step": step, **figures})
        return trainer

    return make


@pytest.fixture
def card_of(tmp_path):
    def card_of(trainer) -> ModelCard:
        model_card.write(trainer, str(tmp_path))
        return check((tmp_path / "README.md").read_text())

    return card_of


@pytest.fixture
def make_recipe(repository, tmp_path, monkeypatch):
    """The demo in miniature."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setitem(presets.ENCODERS, "tiny", sizes)
    monkeypatch.chdir(repository)

    def make(**changes):
        settings = {
            "output_dir": tmp_path / "run",
            "cache_dir": tmp_path / "cache",
            **{"max_steps": 4, "encoder_steps": 2, "noiser_steps": 1, "eval_steps": 2, "logging_steps": 2},
            **{"max_eval_records": 60, "per_device_train_batch_size": 4, "disable_tqdm": True, "use_cpu": True},
            **changes,
        }
        words = ["examples/recipes/demo.yaml"]
        for name, value in settings.items():
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
        monkeypatch.setattr(sys, "argv", [str(repository / "examples" / "run_adv_mlm.py"), *words])
        return parse_recipe(words)

    return make


@pytest.fixture
def run(make_recipe):
    """Runs a recipe as the script does; gives the run's folder."""

    def run(**changes) -> Path:
        recipe = make_recipe(**changes)
        evaluate_saved(recipe, pretrain(recipe))
        for card in Path(recipe.training.output_dir).rglob("README.md"):
            check(card.read_text())
        return Path(recipe.training.output_dir)

    return run
