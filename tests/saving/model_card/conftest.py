"""Cards of facts, of trainers and of whole runs, each checked for what holds of every card."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from huggingface_hub import ModelCard

from adversarial_mlm import AdversarialMLMTrainer, AdversarialMLMTrainingArguments, presets
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.recipes.recipe import parse_recipe
from adversarial_mlm.recipes.run import evaluate_saved, pretrain
from adversarial_mlm.saving import model_card
from adversarial_mlm.saving.model_card.architecture import describe_encoder
from adversarial_mlm.saving.model_card.facts import (
    CardFacts,
    DataFacts,
    EnvironmentFacts,
    InputFacts,
    NoiserFacts,
    OptimizationFacts,
)


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
    shown, details, end = re.split(r"<details>\n<summary>.*</summary>\n\n|\n\n</details>\n", card.text)
    assert shown.endswith("## Details\n\n") and details and not end
    return card


def pictures(text: str) -> list[str]:
    """The paths of the pictures in a card."""
    return re.findall(r"!\[[^]]+\]\(([^)]*)\)", text)


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
def make_facts(make_encoder):
    """Facts of a random run that was set up in Python, without a trainer."""

    def make(**changes) -> CardFacts:
        facts = CardFacts(
            name="my-model",
            hub_id=None,
            step=100,
            best_by=None,
            log_history=[],
            collapsed_at=None,
            eval_mask_rate=0.15,
            eval_mask_seed=2021,
            encoder=describe_encoder(make_encoder()),
            inputs=InputFacts(max_length=512, max_residues=510, spaced=False, mask_token="[MASK]"),
            rules=MaskingRules(random_rate=0.2),
            optimization=OptimizationFacts(
                max_steps=200,
                optimizer="adamw_torch_fused",
                learning_rate=1e-4,
                schedule="linear",
                warmup_steps=0,
                weight_decay=0.01,
                max_grad_norm=1.0,
                batch_size_per_process=8,
                accumulation=((0, 1),),
                unmasked_weight=0.0,
                importance_exponent=0.0,
            ),
            noiser=None,
            data=DataFacts(proteins=1000),
            environment=EnvironmentFacts(
                versions={"Python": "3.12.1", "adversarial-mlm": "0.1.0"},
                device="CPU",
                processes=1,
                mixed_precision="no",
                launcher_sets_precision=False,
                seeds={"seed": 42, "data_seed": 42},
            ),
        )
        return replace(facts, **changes)

    return make


@pytest.fixture
def make_noiser_facts(make_noiser):
    """Facts of a noiser that was trained as the defaults have it."""

    def make(view: str = "full", **changes) -> NoiserFacts:
        noiser = make_noiser(view=view)
        facts = NoiserFacts(
            config=noiser.config,
            parameters=noiser.num_parameters(),
            update="alternate",
            steps=10,
            encoder_steps=10,
            shared_phase_counter=False,
            encoder_dropout=False,
            every=1,
            reversal_strength=((0, 1.0),),
            adversarial_share=((0, 1.0),),
            reward="loss",
            reward_description="the loss",
            learning_rate=1e-4,
            learning_rate_factor=((0, 1.0),),
            weight_decay=0.01,
            max_grad_norm=1.0,
        )
        return replace(facts, **changes)

    return make


@pytest.fixture
def card_of(tmp_path):
    def card_of(made_from: AdversarialMLMTrainer | CardFacts) -> ModelCard:
        facts = made_from if isinstance(made_from, CardFacts) else made_from.card_facts()
        model_card.write(facts, tmp_path)
        assert not pictures((tmp_path / "README.md").read_text())  # there are none in the folder
        return check((tmp_path / "README.md").read_text())

    return card_of


@pytest.fixture
def make_recipe(repository, cache_dir, tmp_path, monkeypatch):
    """The demo in miniature."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setitem(presets.ENCODERS, "tiny", sizes)
    monkeypatch.chdir(repository)

    def make(**changes):
        settings = {
            "output_dir": tmp_path / "run",
            "cache_dir": cache_dir,
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
        folder = Path(recipe.training.output_dir)
        for card in folder.rglob("README.md"):
            check(card.read_text())
            assert all((card.parent / path).is_file() for path in pictures(card.read_text()))
        written = (folder / "README.md").read_text()
        model_card.rewrite(folder)
        assert (folder / "README.md").read_text() == written
        return folder

    return run
