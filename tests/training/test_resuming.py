"""A trainer that resumes, with the same options or with others. What each option does is in `test_resumed_options`."""

import functools
import json
import logging
import os
import shutil

import datasets
import pytest
import torch

from adversarial_mlm import AdversarialMLMTrainer
from adversarial_mlm.saving import checkpoint_manifest, options_record
from adversarial_mlm.utils.errors import CheckpointError
from tests.helpers.trainer_helpers import build_trainer, largest_difference, log_of, parameters_of

SAVING = {"save_strategy": "steps", "save_steps": 2}


@pytest.fixture(scope="module")
def dataset(proteins):
    return datasets.Dataset.from_dict({"sequence": proteins[:400:10]})


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer, make_encoder, make_noiser, dataset):
    """The folder of a run of four updates on random masks, with checkpoints after two and four."""
    directory = tmp_path_factory.mktemp("base")
    trainer = build_trainer(directory, tokenizer, make_encoder, make_noiser, dataset, masking="random", **SAVING)
    trainer.train()
    return trainer.args.output_dir


@pytest.fixture
def make_trainer(tmp_path, tokenizer, make_encoder, make_noiser, dataset):
    return functools.partial(build_trainer, tmp_path, tokenizer, make_encoder, make_noiser, dataset, masking="random")


@pytest.fixture
def checkpoint(base, tmp_path):
    """A copy of the checkpoint after two updates, elsewhere."""
    return shutil.copytree(f"{base}/checkpoint-2", f"{tmp_path}/copy/checkpoint-2")


def figures(trainer, name):
    return [entry[name] for entry in log_of(trainer) if "loss" in entry]


# ---- learning rates ----


def test_the_same_options_give_the_same_rates_and_no_message(make_trainer, checkpoint, caplog):
    straight = make_trainer(folder="straight", logging_steps=1, warmup_steps=3)
    straight.train()
    stopped = make_trainer(folder="stopped", warmup_steps=3, **SAVING)
    stopped.train()
    with caplog.at_level(logging.INFO):
        resumed = make_trainer(folder="resumed", logging_steps=1, warmup_steps=3)
        resumed.train(resume_from_checkpoint=f"{stopped.args.output_dir}/checkpoint-2")
    assert figures(resumed, "learning_rate") == figures(straight, "learning_rate")[2:]
    assert largest_difference(parameters_of(straight), parameters_of(resumed)) == 0
    assert resumed.resumptions == []
    assert not [message for message in caplog.messages if "options" in message or "arguments" in message]


def test_the_first_update_after_the_checkpoint_has_the_new_rate(make_trainer, checkpoint, caplog):
    resumed = make_trainer(max_steps=6, learning_rate=1e-5, logging_steps=1)
    with caplog.at_level(logging.INFO):
        resumed.train(resume_from_checkpoint=checkpoint)
    assert figures(resumed, "learning_rate") == pytest.approx([1e-5 * (1 - step / 6) for step in range(2, 6)])
    (told,) = [message for message in caplog.messages if message.startswith("options that differ")]
    assert told.endswith("checkpoint-2: learning_rate 0.001 -> 1e-05, max_steps 4 -> 6")


def test_arguments_that_change_between_two_calls_count(make_trainer):
    trainer = make_trainer(lr_scheduler_type="constant", logging_steps=1, **SAVING)
    trainer.train()
    trainer.args.learning_rate = 1e-5
    trainer.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-2")
    assert figures(trainer, "learning_rate") == [1e-3, 1e-3, 1e-5, 1e-5]
    trainer.train()  # a new run
    assert trainer.resumptions == []


def test_a_schedule_that_is_passed_keeps_its_state(make_trainer):
    def own(model, rate, **kwargs):
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        return AdversarialMLMTrainer(model, optimizers=(optimizer, schedule), **kwargs)

    settings = {"folder": "own", "logging_steps": 1, **SAVING}
    make_trainer(cls=functools.partial(own, rate=1e-3), **settings).train()
    resumed = make_trainer(cls=functools.partial(own, rate=1e-1), **settings)
    resumed.train(resume_from_checkpoint=f"{resumed.args.output_dir}/checkpoint-2")
    assert figures(resumed, "learning_rate") == pytest.approx([1e-3, 5e-4, 2.5e-4, 1.25e-4])


def test_a_rate_that_is_part_of_the_checkpoint_stays(make_trainer):
    plateau = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 1}
    plateau |= {"lr_scheduler_kwargs": {"patience": 0, "threshold": 10.0}, "logging_steps": 1, "max_steps": 4}
    straight = make_trainer(folder="straight", **plateau)
    straight.train()
    stopped = make_trainer(folder="stopped", **plateau, **SAVING)
    stopped.train()
    last = f"{stopped.args.output_dir}/checkpoint-2"
    resumed = make_trainer(folder="resumed", **plateau)
    resumed.train(resume_from_checkpoint=last)
    rates = figures(straight, "learning_rate")
    assert figures(resumed, "learning_rate") == rates[2:] and rates[-1] < rates[0]
    with pytest.raises(CheckpointError, match=r"^learning_rate is 1e-05 and was 0.001: .* cannot change it"):
        make_trainer(folder="resumed", learning_rate=1e-5, **plateau).train(resume_from_checkpoint=last)


# ---- what else a checkpoint used to decide ----


def test_the_intervals_are_those_of_the_run(make_trainer, checkpoint, caplog):
    resumed = make_trainer(max_steps=8, logging_steps=3, save_strategy="steps", save_steps=5)
    with caplog.at_level(logging.INFO):
        resumed.train(resume_from_checkpoint=checkpoint)
    assert [entry["step"] for entry in log_of(resumed) if "loss" in entry] == [3, 6, 8]
    saved = sorted(name for name in os.listdir(resumed.args.output_dir) if name.startswith("checkpoint"))
    assert saved == ["checkpoint-5", "checkpoint-8"]
    assert "arguments do not match" not in caplog.text  # the stock warning
    state = json.load(open(f"{resumed.args.output_dir}/checkpoint-8/trainer_state.json"))
    assert (state["logging_steps"], state["save_steps"], state["train_batch_size"]) == (3, 5, 4)


def test_the_best_checkpoint_is_chosen_anew_after_another_evaluation(make_trainer, caplog, monkeypatch):
    settings = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "loss", **SAVING}
    first = make_trainer(load_best_model_at_end=True, **settings)
    monkeypatch.setattr(type(first), "_evaluate", lambda self, *args, **kwargs: {"eval_loss": 1.0})
    first.train()
    last = f"{first.args.output_dir}/checkpoint-4"

    def best_after(**changed):
        trainer = make_trainer(max_steps=6, load_best_model_at_end=True, **settings, **changed)
        monkeypatch.setattr(type(first), "_evaluate", lambda *args, **kwargs: {"eval_loss": 2.0})
        with monkeypatch.context() as patch:
            patch.setattr(type(first), "_determine_best_metric", lambda self, *args, **kwargs: False)
            trainer.train(resume_from_checkpoint=last)
        return trainer.state.best_metric

    assert best_after() == 1.0 and "chosen anew" not in caplog.text
    assert best_after(eval_mask_rate=0.3) is None
    assert "eval_mask_rate is 0.3 and was 0.15: figures from before and after cannot be compared" in caplog.text
    assert "the evaluation has changed, so the best checkpoint is chosen anew" in caplog.text


# ---- the position in the data ----


@pytest.mark.parametrize(
    ("changed", "moves"),
    [
        ({"per_device_train_batch_size": 8}, True),
        ({"gradient_accumulation_steps": 3}, True),
        ({"global_batch_size": 8}, True),
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, False),
        ({"per_device_train_batch_size": 2, "global_batch_size": 4}, False),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
def test_another_batch_that_moves_the_position_is_said(make_trainer, dataset, caplog, changed, moves, streams):
    data = {"data": dataset.to_iterable_dataset()} if streams else {}
    stopped = make_trainer(max_steps=2, **SAVING, **data)
    stopped.train()
    resumed = make_trainer(max_steps=3, **data, **changed)
    resumed.train(resume_from_checkpoint=f"{stopped.args.output_dir}/checkpoint-2")
    said = [message for message in caplog.messages if message.startswith("the checkpoint had read")]
    unit = "8 records of the stream" if streams else "0.2000 epochs"
    assert [unit in message for message in said] == [True] * moves
    records = resumed.args.per_device_train_batch_size * resumed.args.gradient_accumulation_steps * 2
    here = f"after {records} records" if streams else f"after {records / 40:.4f} epochs"
    assert all(here in message for message in said)
    assert changed.keys() <= resumed.resumptions[0].changes.keys() | {"gradient_accumulation_steps"}


def test_other_training_proteins_are_refused(make_trainer, dataset, checkpoint):
    for data, words in (
        (dataset.select(range(39)), r"\(39 records instead of 40\)"),
        (dataset.select(range(39, -1, -1)), "40 records as before, but other sequences or another order"),
        (dataset.to_iterable_dataset(), "only one reads a stream"),
    ):
        with pytest.raises(CheckpointError, match=f"{words}.* start a new run from its weights"):
            make_trainer(data=data).train(resume_from_checkpoint=checkpoint)


# ---- what a checkpoint tells ----


def test_a_checkpoint_tells_all_resumptions_with_changes(make_trainer, checkpoint):
    first = make_trainer(folder="first", max_steps=4, learning_rate=1e-4, logging_steps=7, **SAVING)
    first.train(resume_from_checkpoint=checkpoint)
    second = make_trainer(folder="second", max_steps=6, learning_rate=1e-4, weight_decay=0.5, **SAVING)
    second.train(resume_from_checkpoint=f"{first.args.output_dir}/checkpoint-4")
    record = options_record.read(f"{second.args.output_dir}/checkpoint-6")
    assert [str(resumption) for resumption in record.resumptions] == [
        "after update 2: learning_rate 0.001 -> 0.0001",
        "after update 4: weight_decay 0.01 -> 0.5, max_steps 4 -> 6",
    ]
    assert record.options["weight_decay"] == 0.5 and record.options["random_rate"] == 0.2
    assert record.data["train"]["records"] == 40 and record.processes == 1
    card = open(f"{second.args.output_dir}/checkpoint-6/README.md").read()
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in card.splitlines() if line[:3] == "| `"]
    assert ["learning_rate", "2", "0.001", "0.0001"] in rows and ["max_steps", "4", "4", "6"] in rows


def test_a_checkpoint_of_an_earlier_version_resumes(make_trainer, checkpoint, caplog):
    told = checkpoint_manifest.read(checkpoint)
    os.remove(f"{checkpoint}/options.json")
    del told["files"]["options.json"]
    with open(f"{checkpoint}/manifest.json", "w") as file:
        json.dump(told, file)
    resumed = make_trainer(max_steps=3, learning_rate=1e-5, lr_scheduler_type="constant", logging_steps=1)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert figures(resumed, "learning_rate") == [1e-5]
    assert "was written by an earlier version and only records the options of the trainer" in caplog.text
    with pytest.raises(CheckpointError, match="^seed is 1 and was 42, data_seed is 1 and was 42: "):
        make_trainer(seed=1).train(resume_from_checkpoint=checkpoint)


def test_a_change_that_no_update_would_follow_is_refused(make_trainer, base):
    last = f"{base}/checkpoint-4"
    with pytest.raises(
        CheckpointError, match="^learning_rate is 1e-05 .* has made all 4 updates; set max_steps above 4"
    ):
        make_trainer(learning_rate=1e-5).train(resume_from_checkpoint=last)
    with pytest.raises(CheckpointError, match="has made 4 updates, but the run has only 3: set max_steps"):
        make_trainer(max_steps=3).train(resume_from_checkpoint=last)
    with pytest.raises(CheckpointError, match="but the run has only 2: set max_steps"):
        make_trainer(max_steps=-1, num_train_epochs=0.2).train(resume_from_checkpoint=last)
    finished = make_trainer(logging_steps=3, eval_mask_rate=0.3)
    assert finished.train(resume_from_checkpoint=last).global_step == 4
