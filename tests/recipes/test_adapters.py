"""Pre-training of adapters from a recipe, and what its folder is good for."""

import sys

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForMaskedLM

from adversarial_mlm.models.loading import load_backbone, load_encoder
from adversarial_mlm.recipes.run import evaluate_saved, pretrain
from adversarial_mlm.saving import model_card
from adversarial_mlm.utils.errors import RecipeError
from tests.helpers.exhaustive import exhaustive

SAVING = {"save_strategy": "steps", "save_steps": 2}


@pytest.fixture
def lora(make_recipe, save_encoder):
    """A recipe that trains adapters of an encoder."""

    def lora(kind="bert", **changes):
        start = {"model_name_or_path": save_encoder(kind), "encoder": "", "background_gate": ""}
        start |= {"peft": "lora", "lora_rank": 2, "learning_rate": 0.05, "warmup_steps": 0}
        return make_recipe(**{**start, **changes})

    return lora


def logits(model):
    rows = torch.arange(6, 24).view(2, 9)
    with torch.no_grad():
        return model.eval()(input_ids=rows, attention_mask=torch.ones_like(rows))


def test_an_adapter_is_trained_evaluated_and_merged(lora, tmp_path):
    recipe = lora(max_steps=3, merge_adapter="true")
    trainer = pretrain(recipe)
    assert evaluate_saved(recipe, trainer)["eval_members_masked_residues"] > 100
    folder = tmp_path / "run"
    assert (folder / "adapter_model.safetensors").exists() and not (folder / "model.safetensors").exists()
    trained = logits(trainer.model).logits
    before, _ = load_encoder(recipe.model.model_name_or_path)
    assert not torch.allclose(trained, logits(before).logits, atol=1e-4)
    merged = AutoModelForMaskedLM.from_pretrained(folder / "merged")  # without peft
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    loaded, tokenizer = load_encoder(str(folder))
    for model in (merged, loaded):
        torch.testing.assert_close(logits(model).logits, trained, atol=1e-5, rtol=1e-4)
    assert tokenizer.model_max_length == recipe.data.max_length
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    backbone, _ = load_backbone(str(folder))
    torch.testing.assert_close(logits(backbone).last_hidden_state, logits(merged.bert).last_hidden_state)
    part = sum(parameter.numel() for parameter in trainer.model.parameters() if parameter.requires_grad)
    whole = sum(parameter.numel() for parameter in trainer.model.parameters())
    card = ModelCard.load(folder / "README.md").text
    before = (folder / "README.md").read_bytes()
    model_card.rewrite(folder)
    assert (folder / "README.md").read_bytes() == before
    assert f"{part:,} of {whole:,} ({100 * part / whole:.3g} %), those of the adapter" in card
    assert "LoRA of rank 2 and alpha 4 on `query`, `value`" in card


@pytest.mark.parametrize("kind", [exhaustive("esm"), exhaustive("roberta"), "modernbert"])
def test_each_kind_of_encoder_has_default_targets(lora, kind):
    trainer = pretrain(lora(kind, max_steps=1, eval_strategy="no"))
    moved = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert moved and all("lora_" in name for name in moved)
    loaded, _ = load_encoder(trainer.args.output_dir)
    torch.testing.assert_close(logits(loaded).logits, logits(trainer.model).logits, atol=1e-5, rtol=1e-4)


def test_a_resumed_run_has_the_same_adapter_as_one_that_was_not_stopped(lora, tmp_path):
    straight = pretrain(lora(max_steps=4, output_dir=tmp_path / "straight", eval_strategy="no", **SAVING))
    last = tmp_path / "straight" / "checkpoint-2"
    resumed = pretrain(lora(max_steps=4, eval_strategy="no", resume_from_checkpoint=last))
    for (name, ours), theirs in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_a_checkpoint_of_another_rank_is_refused(lora, tmp_path):
    pretrain(lora(max_steps=2, eval_strategy="no", **SAVING))
    with pytest.raises(RecipeError, match="^lora_rank is 3 and was 2"):
        pretrain(lora(max_steps=4, eval_strategy="no", lora_rank=3, resume_from_checkpoint="latest"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lora_rank": 0}, "lora_rank must be at least 1, got 0"),
        ({"lora_dropout": 1}, "lora_dropout must be at least 0 and below 1"),
        ({"lora_alpha": 0}, "lora_alpha must be above 0"),
        ({"peft": ""}, "lora_rank is given, but only has an effect with peft: lora"),
        ({"peft": "", "lora_rank": None, "merge_adapter": "true"}, "merge_adapter is true, but peft is not set"),
        ({"trained_layers": 1}, "remove trained_layers"),
        ({"model_name_or_path": ""}, "model_name_or_path is missing"),
        ({"peft": "dora"}, "peft must be lora, got 'dora'"),
    ],
)
def test_options_that_contradict_each_other_are_refused(lora, capsys, changes, sentence):
    with pytest.raises(SystemExit):
        lora(**changes)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lora_rank": 1000}, "lora_rank is 1000, but the smallest matrix"),
        ({"lora_target_modules": "qeury"}, "names 'qeury', but a BertForMaskedLM has no such linear module: choose"),
        ({"lora_target_modules": "LayerNorm"}, "has no such linear module"),
        ({"lora_target_modules": "decoder"}, "has no such linear module"),  # it has the weights of the embeddings
    ],
)
def test_targets_and_ranks_that_the_encoder_does_not_have_are_refused(lora, changes, sentence):
    with pytest.raises(RecipeError, match=sentence):
        pretrain(lora(**changes))


def test_without_peft_a_sentence_names_the_extra(lora, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(RecipeError, match=r'peft: lora needs the package peft: pip install "adversarial-mlm\[peft\]"'):
        pretrain(lora())
