"""Folders of adapters, as `peft` writes them and damaged ones."""

import json
import os
import shutil
import sys
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from adversarial_mlm.models.loading import CheckpointError, load_backbone, load_encoder


@pytest.fixture
def adapter(save_encoder, tmp_path):
    """The folder of an adapter that somebody has made with `peft`, and the encoder with it."""

    def adapter(kind="bert", of_backbone=False, **options):
        base = save_encoder(kind)
        model, _ = load_encoder(base)
        options = {"r": 2, "target_modules": ["query", "value"], "init_lora_weights": False, **options}
        adapted = peft.get_peft_model(model.base_model if of_backbone else model, peft.LoraConfig(**options))
        adapted.peft_config["default"].base_model_name_or_path = base
        adapted.save_pretrained(tmp_path / "adapter")
        return str(tmp_path / "adapter"), model.eval()

    return adapter


def same(model, other):
    rows = torch.arange(6, 24).view(2, 9)
    with torch.no_grad():
        found, expected = (network(input_ids=rows)[0] for network in (model.eval(), other.eval()))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target_modules": "all-linear", "use_rslora": True},
        {"target_modules": r".*\.query", "rank_pattern": {"layer.0.attention.self.query": 3}},
        {"use_dora": True, "modules_to_save": ["transform"]},
    ],
)
def test_an_adapter_is_merged_into_its_encoder(adapter, options):
    folder, expected = adapter(**options)
    model, tokenizer = load_encoder(folder)
    same(model, expected)
    assert tokenizer.mask_token and not any("lora" in name for name, _ in model.named_parameters())
    same(load_backbone(folder)[0], expected.base_model)
    kept, _ = load_encoder(folder, keep_adapter=True)
    same(kept, expected)
    assert 0 < sum(parameter.requires_grad for parameter in kept.parameters()) < len(list(kept.parameters()))


def test_an_adapter_of_an_encoder_without_its_head_is_read_too(adapter):
    folder, expected = adapter(of_backbone=True)
    encoder, _ = load_encoder(folder)
    assert not any("lora" in name for name, _ in encoder.named_parameters())
    same(encoder, expected)
    same(load_backbone(folder)[0], expected.base_model)


def test_from_scratch_only_the_form_of_the_encoder_is_used(adapter):
    folder, expected = adapter()
    fresh, _ = load_backbone(folder, from_scratch=True)
    assert fresh.config.hidden_size == expected.config.hidden_size
    assert not torch.equal(fresh.embeddings.word_embeddings.weight, expected.bert.embeddings.word_embeddings.weight)


def change(folder, **values):
    path = Path(folder, "adapter_config.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def change_weights(folder, change):
    path = Path(folder, "adapter_model.safetensors")
    save_file(change(load_file(path)), path)


def with_pickled_weights(folder):
    os.remove(Path(folder, "adapter_model.safetensors"))
    torch.save({}, Path(folder, "adapter_model.bin"))


NAME = "base_model.model.bert.encoder.layer.0.attention.self.query.lora_A.weight"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: Path(folder, "adapter_config.json").write_text("{"), "a damaged adapter_config.json"),
        (lambda folder: Path(folder, "adapter_config.json").write_text("[]"), "a damaged adapter_config.json"),
        (lambda folder: change(folder, peft_type="IA3"), "of the kind IA3; only LoRA is supported"),
        (lambda folder: change(folder, base_model_name_or_path=None), "names no base model"),
        (
            lambda folder: shutil.rmtree(Path(folder).parent / "bert"),
            r"whose base model .*bert is missing or cannot be used \(.*there is no such folder\)",
        ),
        (lambda folder: change(folder, base_model_name_or_path="some/one"), "whose base model some/one is missing"),
        (lambda folder: change(folder, base_model_name_or_path=folder), "which is an adapter itself"),
        (with_pickled_weights, "without adapter_model.safetensors; pickled weights are not read"),
        (
            lambda folder: Path(folder, "adapter_model.safetensors").write_bytes(b"1234567890"),
            "a damaged adapter_model.safetensors",
        ),
        (lambda folder: change(folder, r=3), "do not have the rank"),
        (lambda folder: change(folder, r=1), f"does not fit: {NAME} is 2×16, not 1×16"),
        (lambda folder: change(folder, r=10**12), "do not have the rank"),
        (lambda folder: change(folder, r="2"), "do not have the rank"),
        (lambda folder: change(folder, target_modules=["key"]), "does not fit: it lacks the tensor"),
        (lambda folder: change(folder, target_modules=["nothing"]), "cannot be used|does not fit|but Target"),
        (lambda folder: change(folder, target_modules=5), "an adapter"),
        (lambda folder: change(folder, megatron_config={"a": 1}), "megatron_config, which is not supported"),
        (lambda folder: change(folder, init_lora_weights="pissa"), "that changes its base model"),
        (
            lambda folder: change_weights(folder, lambda all: {n: t for n, t in all.items() if n != NAME}),
            f"does not fit: it lacks the tensor {NAME}",
        ),
        (
            lambda folder: change_weights(folder, lambda all: {**all, "more": torch.zeros(1)}),
            "does not fit: it also has the tensor more",
        ),
    ],
)
@pytest.mark.parametrize("load", [load_encoder, load_backbone])
def test_a_damaged_adapter_is_refused_in_one_sentence(adapter, damage, sentence, load):
    folder, _ = adapter()
    damage(folder)
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        load(folder)
    assert str(refusal.value).startswith(f"model_name_or_path is {folder}, an adapter")
    assert "\n" not in str(refusal.value)


def test_without_peft_a_sentence_names_the_extra(adapter, monkeypatch):
    folder, _ = adapter()
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(CheckpointError, match=r'needs the package peft: pip install "adversarial-mlm\[peft\]"'):
        load_encoder(folder)
