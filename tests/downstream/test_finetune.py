import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer
from transformers.utils import logging as transformers_logging

from adversarial_mlm.downstream import finetune as finetune_module
from adversarial_mlm.downstream.finetune import FinetuneSettings, finetune
from adversarial_mlm.downstream.finetune_results import FinetuneResult
from adversarial_mlm.downstream.modeling import HEADS, ProteinTaskModel, TaskModelConfig
from adversarial_mlm.downstream.scoring import headline_score
from adversarial_mlm.downstream.task_trainer import TaskTrainer, parameter_groups, predict
from adversarial_mlm.inference.batches import DataCollatorForTask
from adversarial_mlm.models.loading import load_backbone
from tests.helpers.exhaustive import exhaustive
from tests.helpers.finetune_helpers import same_predictions, settings

PAIRS = [(kind, head) for kind, heads in HEADS.items() for head in heads]
USUAL = [  # every kind of task, and every head
    ("regression", "attention"),
    ("regression", "cls"),
    ("classification", "mean"),
    ("token_classification", "conv"),
    ("token_classification", "linear"),
]


@pytest.fixture
def make_trainer(save_encoder, task, tmp_path):
    """A trainer and what it starts from."""

    def make(kind, options, encoder="bert", data=None, **overrides):
        data = data or task(kind)
        backbone = finetune_module._load(save_encoder(encoder, **overrides), None, False)
        start = finetune_module._prepare(data, backbone, options)
        train, valid = data.splits["train"], data.splits["valid"]
        return TaskTrainer(start.build_model(), options, start.collator, train, valid, str(tmp_path / "trainer"))

    return make


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "head"), [*USUAL, *(exhaustive(*pair) for pair in PAIRS if pair not in USUAL)])
def test_every_head_learns_what_the_residues_tell(save_encoder, task, tmp_path, kind, head):
    data = task(kind, train=400, others=100)
    options = settings(head=head, learning_rate=5e-3, max_epochs=40, patience=10, warmup_steps=20)
    result = finetune(data, save_encoder("bert", hidden_size=32), str(tmp_path / "out"), options)
    test = headline_score(kind, result.predictions["test"], data.splits["test"]["label"][:])
    assert result.validation_score > 0.9 and test > 0.85
    if kind == "regression":
        labels = np.array(data.splits["test"]["label"][:])
        assert np.abs(result.predictions["test"] - labels).mean() < 0.5 * labels.std()


@pytest.mark.parametrize("kind", list(HEADS))
def test_predictions_are_aligned_with_the_rows_of_every_split_but_train(save_encoder, task, tmp_path, kind):
    data = task(kind)
    result = finetune(data, save_encoder("bert"), str(tmp_path / "out"), settings())
    assert list(result.predictions) == ["valid", "test"]
    for split, found in result.predictions.items():
        labels = data.splits[split]["label"][:]
        assert len(found) == len(labels)
        if kind == "token_classification":
            assert [len(row) for row in found] == [len(row) for row in labels]
            assert all(row.dtype == np.int64 for row in found)
        else:
            assert found.dtype == (np.float64 if kind == "regression" else np.int64)
    score = headline_score(kind, result.predictions["valid"], data.splits["valid"]["label"][:])
    assert result.validation_score == score
    again = FinetuneResult.load(str(tmp_path / "out"))
    for field in dataclasses.fields(result):
        if field.name != "predictions":
            assert getattr(again, field.name) == getattr(result, field.name), field.name
    for split, found in result.predictions.items():
        assert same_predictions(again.predictions[split], found)


@pytest.mark.parametrize("encoder", ["prot_bert", "esm", "roberta", "modernbert"])
@pytest.mark.parametrize("kind", ["regression", "token_classification"])
def test_encoders_of_other_people_are_fine_tuned_too(save_encoder, task, tmp_path, encoder, kind):
    folder = save_encoder(encoder)
    out = str(tmp_path / "out")
    result = finetune(task(kind), folder, out, settings(encoder_learning_rate_decay=0.8))
    assert result.steps == 4 and len(result.history) == 2
    trained, before = ProteinTaskModel.from_pretrained(out).encoder, load_backbone(folder)[0]
    assert trained.state_dict().keys() == before.state_dict().keys()
    embeddings = [model.get_input_embeddings().weight for model in (trained, before)]
    assert not torch.equal(*embeddings) and torch.allclose(*embeddings, atol=0.2)


@pytest.mark.slow
def test_a_saved_model_predicts_the_same_in_another_process(interpreter, save_encoder, task, tmp_path):
    data, out = task(), tmp_path / "out"
    result = finetune(data, save_encoder("bert"), str(out), settings())
    (tmp_path / "proteins.json").write_text(json.dumps(data.splits["test"]["sequence"][:]))
    (tmp_path / "predict.py").write_text(
        "import json, sys, transformers, adversarial_mlm.downstream.modeling\n"
        "from adversarial_mlm.inference.batches import DataCollatorForTask\n"
        "from adversarial_mlm.downstream.task_trainer import predict\n"
        "model = transformers.AutoModel.from_pretrained(sys.argv[1])\n"
        "tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "collator = DataCollatorForTask(tokenizer, model.config.kind, model.config.max_length)\n"
        "print(json.dumps(predict(model, json.load(open(sys.argv[2])), collator, 7).tolist()))\n"
    )
    result_there = interpreter.run(tmp_path / "predict.py", out, tmp_path / "proteins.json")
    assert result_there.returncode == 0, result_there.stderr
    found = json.loads(result_there.stdout.splitlines()[-1])
    np.testing.assert_allclose(found, result.predictions["test"], rtol=1e-5)


def test_what_is_left_is_the_model_and_the_result_and_no_pickle(save_encoder, task, tmp_path, capfd):
    out = tmp_path / "out"
    verbosity = transformers_logging.get_verbosity()
    finetune(task("token_classification"), save_encoder("bert"), str(out), settings())
    assert sorted(path.name for path in out.iterdir()) == [
        ".output.json",
        "config.json",
        "model.safetensors",
        "predictions.npz",
        "result.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    with np.load(out / "predictions.npz", allow_pickle=False) as arrays:
        assert arrays["test"].ndim == 1
    config = json.loads((out / "config.json").read_text())
    assert str(tmp_path) not in (out / "config.json").read_text()
    assert config["id2label"] == {"0": "h", "1": "p"} and config["max_length"] == 512
    assert transformers_logging.get_verbosity() == verbosity
    assert "step" not in capfd.readouterr().out


def test_the_best_evaluation_is_kept_and_patience_ends_the_run(save_encoder, task, tmp_path):
    # a rate so high that the score goes up and down
    options = settings(learning_rate=0.05, max_epochs=60, patience=3, head="mean")
    result = finetune(task(), save_encoder("bert"), str(tmp_path / "out"), options)
    scores = [row["validation_score"] for row in result.history]
    assert 4 <= len(scores) < 60
    best = int(np.argmax(scores))
    assert len(scores) == best + 1 + 3
    assert result.best_step == result.history[best]["step"] and result.steps == result.history[-1]["step"]
    assert result.validation_score == pytest.approx(scores[best])
    assert scores[-1] < scores[best]
    assert all(math.isfinite(row["train_loss"]) for row in result.history)


@pytest.mark.parametrize(
    ("options", "steps", "evaluated"),
    [
        ({"max_epochs": 3}, 6, [2, 4, 6]),
        ({"max_epochs": 3, "max_steps": 5}, 5, [2, 4, 5]),
        ({"max_epochs": 2, "max_steps": 50}, 4, [2, 4]),
        ({"max_epochs": 3, "eval_steps": 4}, 6, [4, 6]),
        ({"batch_size": 8, "gradient_accumulation": 2, "max_epochs": 1}, 3, [3]),
    ],
)
def test_updates_and_evaluations_are_those_that_were_asked_for(
    save_encoder, task, tmp_path, options, steps, evaluated
):
    result = finetune(task(), save_encoder("bert"), str(tmp_path / "out"), settings(**options))
    assert result.steps == steps and [row["step"] for row in result.history] == evaluated


@pytest.mark.slow
def test_the_same_seed_gives_the_same_run_and_another_another(save_encoder, task, tmp_path):
    data, encoder = task("token_classification"), save_encoder("bert")
    options = settings(encoder_dropout=True, head_dropout=0.3)
    runs = [finetune(data, encoder, str(tmp_path / f"{n}"), options.replace({"seed": n // 2})) for n in range(3)]
    weights = [ProteinTaskModel.from_pretrained(str(tmp_path / f"{n}")).state_dict() for n in range(3)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert runs[0].history == runs[1].history and runs[0].fingerprint == runs[1].fingerprint
    assert not torch.equal(weights[0]["head.first.bias"], weights[2]["head.first.bias"])
    assert runs[0].fingerprint != runs[2].fingerprint


def test_from_scratch_has_the_same_head_and_an_encoder_that_knows_nothing(save_encoder, task):
    data, folder = task(), save_encoder("bert")
    trained, fresh = (
        finetune_module._prepare(data, finetune_module._load(folder, None, scratch), settings(seed=7))
        .build_model()
        .state_dict()
        for scratch in (False, True)
    )
    theirs = load_backbone(folder)[0].state_dict()
    for name in trained:
        if name.startswith("head."):
            assert torch.equal(trained[name], fresh[name])
        else:
            assert torch.equal(trained[name], theirs[name.removeprefix("encoder.")])
            assert trained[name].ndim < 2 or not torch.equal(trained[name], fresh[name])


def test_from_scratch_is_another_run_than_with_the_weights(save_encoder, task, tmp_path):
    data, folder = task(), save_encoder("bert")
    first = finetune(data, folder, str(tmp_path / "a"), settings(seed=7))
    second = finetune(data, folder, str(tmp_path / "b"), settings(seed=7), from_scratch=True)
    assert first.fingerprint != second.fingerprint and second.facts["from_scratch"]
    assert not same_predictions(first.predictions["test"], second.predictions["test"])


def test_a_frozen_encoder_is_saved_as_it_was(save_encoder, task, tmp_path):
    folder, out = save_encoder("bert"), str(tmp_path / "out")
    result = finetune(task(), folder, out, settings(frozen_encoder=True))
    saved, before = ProteinTaskModel.from_pretrained(out).encoder.state_dict(), load_backbone(folder)[0].state_dict()
    assert all(torch.equal(saved[name], before[name]) for name in before)
    heads = sum(p.numel() for p in ProteinTaskModel.from_pretrained(out).head.parameters())
    assert result.facts["trained_parameters"] == heads < result.facts["parameters"]


@pytest.mark.parametrize("encoder", ["bert", "esm", "modernbert"])
def test_learning_rates_fall_by_layer_and_every_parameter_is_in_one_group(save_encoder, encoder):
    backbone, _ = load_backbone(save_encoder(encoder))
    model = ProteinTaskModel(TaskModelConfig(encoder_config=backbone.config.to_dict()))
    options = FinetuneSettings(learning_rate=1.0, encoder_learning_rate_decay=0.5, weight_decay=0.1)
    groups = parameter_groups(model, options)
    of = {}
    for group in groups:
        for parameter in group["params"]:
            assert parameter not in of
            of[parameter] = group
    named = dict(model.named_parameters())
    assert set(of) == set(named.values())
    norms = {p for m in model.modules() if "Norm" in type(m).__name__ for p in m.parameters(recurse=False)}
    stem = "encoder.layers." if encoder == "modernbert" else "encoder.encoder.layer."
    for name, parameter in named.items():
        rate = 1.0
        if name.startswith(stem):
            rate = 0.5 ** (3 - int(name.removeprefix(stem).split(".")[0]))  # three layers, the last at 0.5
        elif name.startswith("encoder.embeddings."):
            rate = 0.5**4
        assert of[parameter]["lr"] == rate, name
        assert of[parameter]["weight_decay"] == (0.0 if parameter in norms or "bias" in name else 0.1), name


def test_the_rates_of_the_groups_are_what_the_optimizer_uses(make_trainer):
    trainer = make_trainer("regression", settings(encoder_learning_rate_decay=0.5, warmup_steps=2, max_epochs=2))
    trainer.train()
    rates = sorted({group["lr"] for group in trainer.optimizer.param_groups}, reverse=True)
    assert rates == pytest.approx([1e-2 * 0.5**depth for depth in range(5)])


def test_without_decay_by_layer_there_are_two_groups(make_trainer):
    groups = parameter_groups(make_trainer("regression", settings()).model, settings())
    assert sorted((group["lr"], group["weight_decay"]) for group in groups) == [(1e-2, 0.0), (1e-2, 0.01)]


class _StepOnce(Exception):
    pass


def gradients_of_the_first_update(trainer):
    def stop(*_):
        raise _StepOnce

    trainer.create_optimizer().register_step_pre_hook(stop)
    trainer.create_optimizer = lambda: trainer.optimizer
    with pytest.raises(_StepOnce):
        trainer.train()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", list(HEADS))
def test_accumulated_batches_give_the_gradient_of_one_large_batch(make_trainer, task, kind):
    # rows of unequal length: with means of means, residues of short proteins would count more
    data, gradients = task(kind, train=16, lengths=(3, 40)), []
    head = "linear" if kind == "token_classification" else "attention"
    for size, parts in ((16, 1), (4, 4)):
        options = settings(
            head=head,
            batch_size=size,
            gradient_accumulation=parts,
            length_bucketing=False,
            max_grad_norm=0.0,  # a clip would hide a wrong scale
        )
        gradients.append(gradients_of_the_first_update(make_trainer(kind, options, data=data)))
    assert gradients[0].keys() == gradients[1].keys() and "head" in " ".join(gradients[0])
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], atol=1e-6, rtol=1e-3)


def test_proteins_of_similar_length_are_read_together(make_trainer, task):
    data = task(train=256, lengths=(3, 60))
    padding = {}
    for bucketing in (True, False):
        trainer = make_trainer("regression", settings(length_bucketing=bucketing, batch_size=8), data=data)
        batches = list(trainer.get_train_dataloader())
        assert sum(len(batch["labels"]) for batch in batches) == 256
        padding[bucketing] = np.mean([1 - batch["attention_mask"].float().mean() for batch in batches])
    assert padding[True] < 0.15 < 0.3 < padding[False]


def test_predictions_do_not_depend_on_the_batch_size_or_the_order(make_trainer, task, tokenizer):
    data = task("token_classification", lengths=(3, 40))
    model = make_trainer("token_classification", settings(), data=data).model.eval()
    proteins = data.splits["train"]["sequence"][:]
    collator = DataCollatorForTask(tokenizer, "token_classification", 64)
    together, alone = predict(model, proteins, collator, 16), predict(model, proteins, collator, 1)
    assert same_predictions(together, alone)
    assert same_predictions(predict(model, proteins[::-1], collator, 16)[::-1], together)
    assert [len(row) for row in together] == [len(protein) for protein in proteins]


def test_a_run_that_diverges_ends_with_a_sentence(save_encoder, task, tmp_path):
    options = settings(learning_rate=1e30, warmup_steps=0, max_grad_norm=0.0)
    with pytest.raises(ValueError, match="not finite|the loss is nan in update .*: try a lower learning_rate"):
        finetune(task(), save_encoder("bert"), str(tmp_path / "out"), options)
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_score_that_is_not_defined_counts_as_the_worst(save_encoder, task, tmp_path, monkeypatch):
    data = task()
    data.splits["valid"] = Dataset.from_dict({**data.splits["valid"].to_dict(), "label": [1.0] * 12})
    result = finetune(data, save_encoder("bert"), str(tmp_path / "out"), settings(patience=2, max_epochs=9))
    assert math.isnan(result.validation_score) and math.isnan(FinetuneResult.load(tmp_path / "out").validation_score)
    assert [row["validation_score"] for row in result.history] == [-1.0] * 3 and result.best_step == 2


def test_proteins_that_are_cut_are_counted_and_said_once(save_encoder, task, tmp_path, caplog):
    data = task("token_classification", lengths=(6, 15))
    results = [
        finetune(data, save_encoder("bert"), str(tmp_path / f"{seed}"), settings(max_length=12, seed=seed))
        for seed in (0, 1)
    ]
    for split in ("train", "valid", "test"):
        lengths = np.array([len(sequence) for sequence in data.splits[split]["sequence"]])
        assert results[0].cut[split] == {
            "proteins": int((lengths > 10).sum()),
            "residues": int((lengths - 10).clip(0).sum()),
        }
    assert results[1].cut == results[0].cut
    assert all(len(row) <= 10 for row in results[0].predictions["test"])
    said = [record.message for record in caplog.records if "max_length is 12" in record.message]
    assert len(said) == 1 and f"{results[0].cut['train']['proteins']} of 40 in train" in said[0]


def test_nothing_is_said_where_nothing_is_cut(save_encoder, task, tmp_path, caplog):
    assert finetune(task(), save_encoder("bert"), str(tmp_path / "out"), settings()).cut == {}
    assert not [record for record in caplog.records if "max_length" in record.message]


def test_bfloat16_trains_and_the_saved_model_is_float32(save_encoder, task, tmp_path):
    out = str(tmp_path / "out")
    result = finetune(task("token_classification"), save_encoder("bert"), out, settings(bf16=True))
    assert ProteinTaskModel.from_pretrained(out).dtype == torch.float32
    assert all(math.isfinite(row["train_loss"]) for row in result.history)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
        ({"learning_rate": "1e-4"}, "learning_rate must be a number, got '1e-4'"),
        ({"learning_rate": math.nan}, "learning_rate must be a number, got nan"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"encoder_learning_rate_decay": 1.5}, r"encoder_learning_rate_decay must be above 0 and at most 1, got 1.5"),
        ({"frozen_encoder": 1}, "frozen_encoder must be true or false, got 1"),
        (
            {"frozen_encoder": True, "encoder_learning_rate_decay": 0.9},
            "with frozen_encoder the encoder is not trained",
        ),
        ({"head_dropout": 1.0}, r"head_dropout must be at least 0 and below 1, got 1.0"),
        ({"warmup_steps": -1}, "warmup_steps must be at least 0, got -1"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"seed": None}, "seed must be a whole number, got None"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        FinetuneSettings(**options)


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("regression", {"head": "conv"}, "head must be one of attention, mean, cls for regression, got 'conv'"),
        ("token_classification", {"head": "cls"}, "head must be one of conv, linear for token_classification"),
        ("regression", {"max_length": 600}, "max_length is 600, but the encoder has 512 positions"),
        ("regression", {"max_length": 2}, "max_length is 2, which leaves no room for a residue"),
    ],
)
def test_settings_that_do_not_suit_the_task_or_the_encoder_are_refused(
    save_encoder, task, tmp_path, kind, options, sentence
):
    with pytest.raises(ValueError, match=sentence):
        finetune(task(kind), save_encoder("bert"), str(tmp_path / "out"), settings(**options))
    assert not (tmp_path / "out").exists()


def test_the_default_length_is_what_a_small_encoder_can_take(save_encoder, task, tmp_path):
    encoder = save_encoder("bert", max_position_embeddings=20)
    assert finetune(task(), encoder, str(tmp_path / "out"), settings()).max_length == 20


def test_a_tokenizer_with_more_tokens_than_the_encoder_is_refused(save_encoder, task, tmp_path):
    folder = save_encoder("bert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["J"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="its encoder has 30 token embeddings, but its tokenizer has a token 30"):
        finetune(task(), folder, str(tmp_path / "out"), settings())
