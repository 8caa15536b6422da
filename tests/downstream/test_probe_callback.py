import json

import pytest
import torch

from adversarial_mlm import AdversarialMLMTrainer, AdversarialMLMTrainingArguments, DataCollatorForAdversarialMLM
from adversarial_mlm.data import CorpusError
from adversarial_mlm.downstream.probe_callback import ProbeCallback
from adversarial_mlm.downstream.probes import ProbeSettings, probe
from adversarial_mlm.downstream.scoring import headline_score
from adversarial_mlm.downstream.tasks import load_task
from adversarial_mlm.recipes.recipe import parse_recipe


@pytest.fixture
def make_trainer(tmp_path, tokenizer, make_encoder, make_noiser, proteins):
    from datasets import Dataset

    def make(folder, steps=6):
        arguments = AdversarialMLMTrainingArguments(
            output_dir=str(tmp_path / folder), max_steps=steps, per_device_train_batch_size=4, learning_rate=1e-3,
            noiser_steps=1, encoder_steps=2, save_strategy="no", logging_steps=2, disable_tqdm=True, report_to=[],
            use_cpu=True,
        )  # fmt: skip
        return AdversarialMLMTrainer(
            model=make_encoder(hidden_dropout_prob=0.1),
            args=arguments,
            data_collator=DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser(), max_length=64),
            train_dataset=Dataset.from_dict({"sequence": proteins[:40]}),
            processing_class=tokenizer,
        )

    return make


def log_of(trainer):
    with open(f"{trainer.args.output_dir}/metrics.jsonl") as file:
        return [json.loads(line) for line in file]


def test_probes_are_logged_and_training_is_bitwise_the_same(make_trainer, learnable):
    folder = learnable(40, 20)
    plain = make_trainer("plain")
    plain.train()
    state = torch.get_rng_state()
    probed = make_trainer("probed")
    tasks = ["fluorescence", "secondary_structure"]
    probed.add_callback(ProbeCallback(probed, tasks, str(folder), every=2, max_records=30, max_length=64))
    probed.train()
    assert torch.equal(torch.get_rng_state(), state)
    for name, weights in plain.model.state_dict().items():
        assert torch.equal(weights, probed.model.state_dict()[name]), name
    for name, weights in plain.noiser.state_dict().items():
        assert torch.equal(weights, probed.noiser.state_dict()[name]), name
    entries = [entry for entry in log_of(probed) if "probe_seconds" in entry]
    assert [entry["step"] for entry in entries] == [2, 4, 6]
    assert all(-1 <= entry["probe_fluorescence_spearman"] <= 1 for entry in entries)
    losses = [[entry["loss"] for entry in log_of(trainer) if "loss" in entry] for trainer in (plain, probed)]
    assert losses[0] == losses[1] and len(losses[0]) == 3
    model = probed.model.eval()
    for task, metric in (("fluorescence", "spearman"), ("secondary_structure", "residue_accuracy")):
        data = load_task(task, folder, max_records=30)
        found = probe(data, model.bert, probed.processing_class, ProbeSettings(max_length=64)).predictions["valid"]
        wanted = headline_score(data.task.kind, found, data.splits["valid"]["label"][:])
        assert entries[-1][f"probe_{task}_{metric}"] == pytest.approx(wanted)


def test_modules_go_back_to_the_mode_that_each_was_in(make_trainer, learnable):
    trainer = make_trainer("run")
    callback = ProbeCallback(trainer, ["fluorescence"], str(learnable(20, 10)), max_records=20, max_length=64)
    trainer.model.train()
    trainer.model.bert.embeddings.eval()
    callback._figures()
    assert trainer.model.training and trainer.model.bert.encoder.training
    assert not trainer.model.bert.embeddings.training and not trainer.model.bert.embeddings.dropout.training


def test_probes_that_cannot_be_made_are_refused_before_training(make_trainer, learnable, tmp_path):
    trainer = make_trainer("run")
    with pytest.raises(CorpusError, match="stability needs the splits"):
        ProbeCallback(trainer, ["stability"], str(learnable(20, 10)))
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        ProbeCallback(trainer, ["fluorescence"], str(tmp_path), every=0)


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--probe_steps", "5"], "probe_steps is given, but there are no probe_tasks"),
        (["--probe_data_dir", "x"], "probe_data_dir is given, but there are no probe_tasks"),
        (["--probe_tasks", "stability"], "probe_tasks is given, but probe_data_dir is missing"),
        (["--probe_tasks", "stabilty", "--probe_data_dir", "x"], "probe_tasks names stabilty, but must be among"),
        (["--probe_tasks", "stability", "stability", "--probe_data_dir", "x"], "probe_tasks names a task twice"),
        (
            ["--probe_tasks", "stability", "--probe_data_dir", "x", "--probe_steps", "0"],
            "probe_steps must be at least 1",
        ),
    ],
)
def test_options_of_probes_that_contradict_each_other_are_refused(capsys, tmp_path, words, sentence):
    with pytest.raises(SystemExit) as stop:
        parse_recipe(["--train_data", "a.fasta", "--output_dir", str(tmp_path), *words])
    assert stop.value.code == 2 and sentence in capsys.readouterr().err
