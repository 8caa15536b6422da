import errno
import json
import logging
import os
import signal
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from adversarial_mlm.models.loading import CheckpointError
from adversarial_mlm.saving import checkpoint_manifest, hub, model_card, resume
from adversarial_mlm.saving.checkpoint_store import CheckpointStore
from adversarial_mlm.training.callbacks import MetricsLog
from adversarial_mlm.utils import atomic_files
from tests.helpers.exhaustive import exhaustive
from tests.helpers.trainer_helpers import largest_difference, log_of, parameters_of

SAVING = {"save_strategy": "steps", "save_steps": 2, "dropout": 0.1}


def folders(trainer):
    return [os.path.basename(folder) for folder in CheckpointStore(trainer.args.output_dir).all()]


def damage(trainer, step, name="model.safetensors"):
    with open(f"{trainer.args.output_dir}/checkpoint-{step}/{name}", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))


class SignalAt(TrainerCallback):
    """A signal in the middle of a step."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            os.kill(os.getpid(), self.number)


# ---- saving ----


def test_every_checkpoint_is_complete_and_nothing_else_is_left(make_trainer):
    trainer = make_trainer(max_steps=6, save_total_limit=2, **SAVING)
    trainer.train()
    assert folders(trainer) == ["checkpoint-4", "checkpoint-6"]
    told = [checkpoint_manifest.verify(f"{trainer.args.output_dir}/{name}") for name in folders(trainer)]
    assert [(one["step"], one["number"], one["processes"]) for one in told] == [(4, 2, 1), (6, 3, 1)]
    expected = {"model.safetensors", "noiser/model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
    assert expected | {"trainer_state.json", "README.md", "training_args.json"} <= set(told[0]["files"])
    assert [name for name in os.listdir(trainer.args.output_dir) if name.startswith(".")] == []
    assert trainer.last_checkpoint.endswith("checkpoint-6") and trainer.failed_saves == 0


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (torch, "save"),
        (CheckpointStore, "_publish"),
        exhaustive(checkpoint_manifest, "write"),
        exhaustive(model_card, "write"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_a_save_that_fails_is_counted_and_said_and_the_next_tries_again(
    make_trainer, monkeypatch, caplog, module, name
):
    straight = make_trainer(folder="straight", max_steps=6, dropout=0.1)
    straight.train()

    class FullAtStep4(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            monkeypatch.undo()
            if state.global_step == 4:
                monkeypatch.setattr(module, name, full)

    trainer = make_trainer(max_steps=6, **SAVING)
    trainer.add_callback(FullAtStep4())
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert folders(trainer) == ["checkpoint-2", "checkpoint-6"] and trainer.failed_saves == 1
    said = [record.message for record in caplog.records if "checkpoint-4 could not be written" in record.message]
    assert len(said) == 1 and "No space left on device" in said[0] and "checkpoint-2 is kept" in said[0]
    assert [name for name in os.listdir(trainer.args.output_dir) if name.startswith(".")] == []
    assert largest_difference(parameters_of(straight), parameters_of(trainer)) == 0


def test_a_mistake_of_the_program_is_no_full_disk(make_trainer, monkeypatch):
    def wrong(*args, **kwargs):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch, "save", wrong)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        make_trainer(max_steps=2, **SAVING).train()


def test_a_result_that_cannot_be_written_is_said_and_the_earlier_one_stays(make_trainer, monkeypatch):
    trainer = make_trainer()
    trainer.save_model()
    before = {name: open(f"{trainer.args.output_dir}/{name}", "rb").read() for name in ("config.json", "README.md")}
    monkeypatch.setattr(model_card, "write", full)
    with pytest.raises(atomic_files.WritingError, match="run could not be written: No space left on device"):
        trainer.save_model()
    assert before == {name: open(f"{trainer.args.output_dir}/{name}", "rb").read() for name in before}
    assert [name for name in os.listdir(trainer.args.output_dir) if name.startswith(".")] == []


def test_the_log_waits_for_room(make_trainer, monkeypatch, caplog):
    trainer = make_trainer()
    file = next(c for c in trainer.callback_handler.callbacks if isinstance(c, MetricsLog)).file
    os.makedirs(trainer.args.output_dir, exist_ok=True)
    file.append({"step": 1})
    real, path = open, file.path

    def no_room(name, mode="r", **kwargs):
        if name == path and mode == "a":
            full()
        return real(name, mode, **kwargs)

    monkeypatch.setattr("builtins.open", no_room)
    file.append({"step": 2})
    file.append({"step": 3})
    monkeypatch.undo()
    file.append({"step": 4})
    assert [entry["step"] for entry in log_of(trainer)] == [1, 2, 3, 4]
    assert len([record for record in caplog.records if "its entries are kept" in record.message]) == 1


def test_the_best_and_the_newest_stay_with_a_limit_of_one(make_trainer, monkeypatch):
    def losses_of(self, *args, **kwargs):
        metrics = {"eval_loss": {2: 3.0, 4: 1.0, 6: 2.0, 8: 2.5}[self.state.global_step]}
        self.log(metrics)
        return metrics

    trainer = make_trainer(
        max_steps=8,
        eval_strategy="steps",
        eval_steps=2,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        **SAVING,
    )
    monkeypatch.setattr(type(trainer), "_evaluate", lambda self, *args, **kwargs: losses_of(self))
    trainer.train()
    assert folders(trainer) == ["checkpoint-4", "checkpoint-8"]
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4") and trainer.loaded_best_step == 4


# ---- going on ----


def test_the_newest_complete_checkpoint_is_taken_and_what_is_passed_over_is_said(make_trainer, caplog):
    straight = make_trainer(folder="straight", max_steps=8, **SAVING)
    straight.train()
    killed = make_trainer(max_steps=8, **SAVING)
    killed.train()
    damage(killed, 8)
    os.rename(f"{killed.args.output_dir}/checkpoint-6", f"{killed.args.output_dir}/.checkpoint-6.incomplete")
    resumed = make_trainer(max_steps=8, **SAVING)
    with caplog.at_level(logging.INFO):
        resumed.train(resume_from_checkpoint=True)
    said = [record.message for record in caplog.records]
    assert any("skipped" in line and "checkpoint-8 has a damaged model.safetensors" in line for line in said)
    assert any("the save of checkpoint-6 was interrupted" in line for line in said)
    assert any("resuming from" in line and "checkpoint-4" in line for line in said)
    assert largest_difference(parameters_of(straight), parameters_of(resumed)) == 0
    assert folders(resumed) == ["checkpoint-2", "checkpoint-4", "checkpoint-6", "checkpoint-8"]
    for name in folders(resumed):
        checkpoint_manifest.verify(f"{resumed.args.output_dir}/{name}")


def test_a_damaged_checkpoint_that_is_named_is_refused_with_the_file(make_trainer):
    trainer = make_trainer(**SAVING)
    trainer.train()
    damage(trainer, 2, "noiser/model.safetensors")
    folder = f"{trainer.args.output_dir}/checkpoint-2"
    with pytest.raises(CheckpointError, match="checkpoint-2 has a damaged noiser/model.safetensors"):
        make_trainer().train(resume_from_checkpoint=folder)


def test_a_checkpoint_without_a_manifest_is_taken_by_its_name_only(make_trainer, caplog):
    straight = make_trainer(folder="straight", dropout=0.1)
    straight.train()
    trainer = make_trainer(**SAVING)
    trainer.train()
    for step in (2, 4):
        os.remove(f"{trainer.args.output_dir}/checkpoint-{step}/manifest.json")
    with pytest.raises(CheckpointError, match="no complete checkpoint in .*checkpoint-4 has no manifest.json"):
        make_trainer(dropout=0.1).train(resume_from_checkpoint="latest")
    resumed = make_trainer(dropout=0.1)
    resumed.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-2")
    assert any("it cannot be checked whether it is complete" in record.message for record in caplog.records)
    assert largest_difference(parameters_of(straight), parameters_of(resumed)) == 0


def test_where_there_is_nothing_to_go_on_from_that_is_said(make_trainer):
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        make_trainer().train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointError, match="there is no folder nowhere"):
        make_trainer().train(resume_from_checkpoint="nowhere")


def test_a_finished_run_makes_no_more_updates(make_trainer):
    trainer = make_trainer(max_steps=7, save_strategy="steps", save_steps=7)
    trainer.train()
    again = make_trainer(max_steps=7)
    assert again.train(resume_from_checkpoint=True).global_step == 7
    assert largest_difference(parameters_of(trainer), parameters_of(again)) == 0


def test_another_number_of_processes_is_said(make_trainer, caplog):
    trainer = make_trainer(**SAVING)
    trainer.train()
    path = f"{trainer.args.output_dir}/checkpoint-4/manifest.json"
    told = json.load(open(path))
    with open(path, "w") as file:
        json.dump({**told, "processes": 2}, file)
    make_trainer(max_steps=6).train(resume_from_checkpoint=True)
    assert any("written by 2 processes and this run has 1" in record.message for record in caplog.records)


def test_the_weights_are_read_once(make_trainer, monkeypatch):
    trainer = make_trainer(**SAVING)
    trainer.train()
    read, real = [], resume.read_weights
    monkeypatch.setattr(resume, "read_weights", lambda folder, model: read.append(folder) or real(folder, model))
    resumed = make_trainer(max_steps=6)
    checkpoint = f"{trainer.args.output_dir}/checkpoint-4"
    resumed.check_checkpoint(checkpoint)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert read == [checkpoint, f"{checkpoint}/noiser"]


# ---- stopping ----


@pytest.mark.parametrize("strategy", ["no", "best", exhaustive("steps"), exhaustive("epoch")])
def test_a_signal_stops_after_the_update_with_a_checkpoint_and_the_run_goes_on_bitwise(make_trainer, strategy):
    settings = {"max_steps": 9, "dropout": 0.1, "save_strategy": strategy, "save_steps": 2}
    if strategy == "best":
        settings |= {"metric_for_best_model": "loss", "eval_strategy": "steps", "eval_steps": 3}
    straight = make_trainer(folder="straight", **settings)
    straight.train()
    assert straight.interrupted_by is None
    before = signal.getsignal(signal.SIGTERM)
    stopped = make_trainer(**settings)
    stopped.add_callback(SignalAt(5, signal.SIGTERM))
    assert stopped.train().global_step == 5
    assert stopped.interrupted_by == signal.SIGTERM and signal.getsignal(signal.SIGTERM) is before
    assert stopped.last_checkpoint.endswith("checkpoint-5")
    checkpoint_manifest.verify(stopped.last_checkpoint)
    control = json.load(open(f"{stopped.last_checkpoint}/trainer_state.json"))["stateful_callbacks"]["TrainerControl"]
    assert control["args"]["should_training_stop"] is False
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint="latest")
    assert resumed.interrupted_by is None and resumed.state.global_step == 9
    assert largest_difference(parameters_of(straight), parameters_of(resumed)) == 0


class StalledHub:
    """Stands for a Hub whose uploads never end."""

    def run_as_future(self, function, *args):
        future = Future()
        future.set_running_or_notify_cancel()
        return future


def with_stalled_pushes(trainer, monkeypatch):
    monkeypatch.setattr(hub, "hf_api", StalledHub)
    monkeypatch.setattr(hub, "WAIT_AFTER_SIGNAL", 0.3)
    trainer.args.push_to_hub, trainer.uploads.repo_id = True, "me/it"
    return trainer


def test_a_signal_does_not_wait_for_a_stalled_push(make_trainer, monkeypatch, caplog):
    caplog.set_level("INFO")
    trainer = with_stalled_pushes(make_trainer(max_steps=9, **SAVING), monkeypatch)
    trainer.add_callback(SignalAt(5, signal.SIGTERM))
    trainer.train()
    assert trainer.interrupted_by == signal.SIGTERM
    checkpoint_manifest.verify(trainer.last_checkpoint)
    assert "after the signal, the push of step 2 gets 0.3 s more" in caplog.text
    assert "the push of step 2 was not complete after 0.3 s and is given up" in caplog.text
    assert not list(Path(trainer.args.output_dir).glob(".push-to-hub-*"))


def test_a_signal_while_a_complete_run_waits_for_its_pushes_ends_the_wait(make_trainer, monkeypatch):
    trainer = with_stalled_pushes(make_trainer(max_steps=2, **SAVING), monkeypatch)
    wait, looks = hub.wait, []

    def wait_and_press(*args, **kwargs):
        if not looks:
            os.kill(os.getpid(), signal.SIGINT)
        looks.append(args)
        return wait(*args, **kwargs)

    monkeypatch.setattr(hub, "wait", wait_and_press)
    assert trainer.train().global_step == 2
    assert trainer.interrupted_by == signal.SIGINT and trainer.uploads.counts["failed"] == 0


def test_a_run_with_a_limit_of_one_keeps_what_it_was_stopped_with(make_trainer, monkeypatch):
    settings = {"max_steps": 9, "save_total_limit": 1, "load_best_model_at_end": True, **SAVING}
    trainer = make_trainer(eval_strategy="steps", eval_steps=2, metric_for_best_model="loss", **settings)
    trainer.add_callback(SignalAt(5, signal.SIGINT))
    monkeypatch.setattr(
        type(trainer), "_evaluate", lambda self, *args, **kwargs: {"eval_loss": float(self.state.global_step)}
    )
    trainer.train()
    assert trainer.interrupted_by == signal.SIGINT and folders(trainer) == ["checkpoint-2", "checkpoint-5"]
