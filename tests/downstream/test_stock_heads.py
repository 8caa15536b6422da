import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from adversarial_mlm.downstream.finetune import finetune
from adversarial_mlm.downstream.modeling import TaskModelConfig
from adversarial_mlm.downstream.stock_heads import StockHeadModel
from adversarial_mlm.inference.batches import DataCollatorForTask
from adversarial_mlm.models.loading import load_backbone
from tests.helpers.exhaustive import exhaustive
from tests.helpers.finetune_helpers import QUICK

PROTEINS = ["MKTAYIAKQRQISFVKSH", "GAVLK", "MKTAYIAKQRQ"]
KINDS = ["regression", "classification", "token_classification"]
CLASSES = {"token_classification": "AutoModelForTokenClassification"}

SETTINGS = QUICK.replace({"head": "hf", "head_size": 512, "head_dropout": None, "max_epochs": 1})

ELSEWHERE = """
import json, sys
import torch, transformers

found = {}
for folder, kind in json.loads(sys.argv[1]):
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        found[folder] = [model(**tokenizer(text, return_tensors="pt")).logits[0].tolist() for text in sys.argv[2:]]
    found[folder] = [found[folder], model.config.problem_type, model.config.id2label, tokenizer.model_max_length]
assert not any(name.startswith("adversarial_mlm") for name in sys.modules)
print(json.dumps(found))
"""


def build(backbone, kind, **options):
    config = TaskModelConfig(
        encoder_config=backbone.config.to_dict(), kind=kind, head="hf", num_labels=1 if kind == "regression" else 3
    )
    for name, value in options.items():
        setattr(config, name, value)
    model = StockHeadModel(config)
    model.load_encoder(backbone.state_dict())
    return model.eval()


@pytest.mark.exhaustive
def test_a_fine_tuned_model_gives_the_same_logits_in_an_interpreter_without_this_package(
    save_encoder, task, tmp_path, repository
):
    folders, wanted = [], {}
    for kind in KINDS:
        data, folder = task(kind), str(tmp_path / kind)
        result = finetune(data, save_encoder("bert"), folder, SETTINGS)
        folders.append((folder, CLASSES.get(kind, "AutoModelForSequenceClassification")))
        wanted[folder] = kind, data, result
    texts = [wanted[folder][1].splits["test"]["sequence"][0] for folder, _ in folders]
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, json.dumps(folders), *texts],
        capture_output=True, text=True, cwd=tmp_path, check=True,
    )  # fmt: skip
    found = json.loads(run.stdout.splitlines()[-1])
    for number, (folder, _) in enumerate(folders):
        (logits, problem, names, longest), (kind, data, result) = found[folder], wanted[folder]
        theirs, ours = np.array(logits[number]), result.predictions["test"][0]
        assert longest == result.max_length
        if kind == "regression":
            assert theirs[0] == pytest.approx(ours, rel=1e-5) and problem == "regression"
            assert 30 < ours < 60  # in the task's units, 40 to 50
        else:
            assert np.array_equal(theirs.argmax(-1) if kind == "classification" else theirs[1:-1].argmax(-1), ours)
            assert list(names.values()) == data.classes


@pytest.mark.parametrize(
    "encoder", ["bert", "esm", *(exhaustive(name) for name in ("prot_bert", "roberta", "modernbert"))]
)
@pytest.mark.parametrize("kind", ["regression", "token_classification"])
def test_logits_are_the_same_after_saving_and_loading(save_encoder, tmp_path, encoder, kind):
    backbone, tokenizer = load_backbone(save_encoder(encoder, initializer_range=0.3))
    torch.manual_seed(0)
    model = build(backbone, kind, label_mean=45.0, label_std=3.0)
    batch = DataCollatorForTask(tokenizer, kind, 60)([{"sequence": protein} for protein in PROTEINS])
    with torch.no_grad():
        before = model(**batch).logits
        model.save_pretrained(tmp_path / "out")
        after = StockHeadModel.of_folder(str(tmp_path / "out"), model.config).eval()(**batch).logits
        plain = model.stock(batch["input_ids"], batch["attention_mask"]).logits
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-4)
    if kind == "regression":
        torch.testing.assert_close(before, plain[:, 0] * 3 + 45)  # saving has left the model as it was
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == backbone.config.model_type


def test_the_encoder_has_the_given_weights_and_is_trained_with_the_head(save_encoder):
    backbone, tokenizer = load_backbone(save_encoder("bert"))
    model = build(backbone, "classification")
    for name, weight in backbone.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], weight)
    collator = DataCollatorForTask(tokenizer, "classification", 60)
    batch = collator([{"sequence": protein, "label": 1} for protein in PROTEINS])
    model(**batch).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert len(list(model.parameters())) == len(list(model.stock.parameters()))


def test_what_transformers_has_no_head_for_is_refused():
    config = TaskModelConfig(encoder_config={"model_type": "siglip_vision_model"}, kind="regression", head="hf")
    with pytest.raises(ValueError, match="no model ForSequenceClassification for encoders of the type siglip"):
        StockHeadModel(config)


def test_sizes_of_another_head_are_refused():
    with pytest.raises(ValueError, match="head_size or head_dropout is set, but has no effect with head hf"):
        QUICK.replace({"head": "hf"})


def test_more_tokens_than_positions_are_refused_in_one_sentence(save_encoder):
    backbone, tokenizer = load_backbone(save_encoder("bert", max_position_embeddings=10))
    batch = DataCollatorForTask(tokenizer, "regression", 60)([{"sequence": "MKTAYIAKQR"}])
    with pytest.raises(ValueError, match="a row has 12 tokens, but the encoder has 10 positions: cut it"):
        build(backbone, "regression")(**batch)
