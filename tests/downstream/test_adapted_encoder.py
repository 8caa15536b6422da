"""Fine-tuning with LoRA: only adapters and head move, and the result is a model like any other."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from adversarial_mlm.downstream.finetune import FinetuneSettings, finetune, grid_search
from adversarial_mlm.downstream.modeling import ProteinTaskModel
from adversarial_mlm.models.loading import load_backbone
from tests.helpers.exhaustive import exhaustive
from tests.helpers.finetune_helpers import settings

LORA = {"peft": "lora", "lora_rank": 2, "learning_rate": 1e-2, "warmup_steps": 0}


@pytest.mark.parametrize("kind", [exhaustive("esm"), "bert", exhaustive("modernbert")])
def test_only_adapters_and_head_move_and_they_are_saved_merged(save_encoder, task, tmp_path, kind):
    base, out = save_encoder(kind), str(tmp_path / "out")
    result = finetune(task(), base, out, settings(**LORA))
    model, before = ProteinTaskModel.from_pretrained(out), load_backbone(base)[0].state_dict()
    after = model.encoder.state_dict()
    assert after.keys() == before.keys()
    moved = {name.split(".")[-2] for name in before if not torch.equal(before[name], after[name])}
    assert moved <= {"query", "value", "Wqkv"} and moved
    own, _ = load_backbone(f"{out}/adapter")
    for name, weights in own.state_dict().items():
        torch.testing.assert_close(weights, after[name])
    whole, trained = result.facts["parameters"], result.facts["trained_parameters"]
    head = sum(parameter.numel() for parameter in model.head.parameters())
    assert whole - trained == sum(weights.numel() for weights in own.parameters()) and trained > head
    card = (tmp_path / "out" / "adapter" / "README.md").read_text()
    assert (
        f"Trained parameters: {trained:,} of {whole:,} (" in card
        and f"{trained - head:,} of them in the adapter" in card
    )
    assert "LoRA of rank 2 and alpha 4 on" in card and str(tmp_path) not in card
    again = finetune(task(), base, str(tmp_path / "again"), settings(**LORA))
    assert (again.predictions["test"] == result.predictions["test"]).all()


def test_a_stock_head_is_saved_with_the_adapter_in_it(save_encoder, task, tmp_path):
    data, out = task("classification"), str(tmp_path / "out")
    result = finetune(data, save_encoder("bert"), out, FinetuneSettings(head="hf", max_epochs=2, **LORA))
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(out).eval(),
        AutoTokenizer.from_pretrained(out),
    )
    rows = tokenizer(data.splits["test"]["sequence"][:], padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits.argmax(-1)
    assert (found.numpy() == result.predictions["test"]).all()
    before, _ = load_backbone(str(tmp_path / "bert"))
    name = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(model.bert.get_parameter(name), before.get_parameter(name))


def test_ranks_can_be_searched(save_encoder, task, tmp_path):
    base = settings(**{**LORA, "max_steps": 2})
    best, trials = grid_search(task(), save_encoder("bert"), str(tmp_path / "grid"), base, {"lora_rank": [1, 4]})
    assert best.lora_rank in (1, 4) and [trial["options"]["lora_rank"] for trial in trials] == [1, 4]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lora_rank": 4}, "lora_rank is given, but only has an effect with peft: lora"),
        ({"peft": "lora", "lora_rank": 0}, "lora_rank must be at least 1"),
        ({"peft": "lora", "frozen_encoder": True}, "frozen_encoder is set, but peft: lora"),
        ({"peft": "other"}, "peft must be lora, got 'other'"),
        ({"peft": "lora", "lora_target_modules": "query"}, "lora_target_modules must be a list of texts"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        FinetuneSettings(**options)


def test_an_adapter_is_not_put_on_top_of_another(save_encoder, task, tmp_path):
    finetune(task(), save_encoder("bert"), str(tmp_path / "out"), settings(**LORA))
    with pytest.raises(ValueError, match="is an adapter: merge it first"):
        finetune(task(), str(tmp_path / "out" / "adapter"), str(tmp_path / "more"), settings(**LORA))
