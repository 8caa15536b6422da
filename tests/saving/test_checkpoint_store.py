import os
import shutil

import pytest

from adversarial_mlm.saving import checkpoint_manifest
from adversarial_mlm.saving.checkpoint_store import CheckpointStore, step_of


class Killed(BaseException):
    """What stands for a kill: nothing handles it."""


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    return str(folder)


def save(run, step, content="x"):
    """Save as the trainer does; returns why that failed, if it did."""

    def fill(folder):
        for name in ("model.safetensors", "optimizer.pt"):
            with open(os.path.join(folder, name), "w") as file:
                file.write(content)

    return CheckpointStore(run).write(step, fill, processes=1)


def names(run):
    return [os.path.basename(folder) for folder in CheckpointStore(run).all()]


def content_of(folder):
    with open(os.path.join(folder, "model.safetensors")) as file:
        return file.read()


def kill_at(monkeypatch, call: int) -> None:
    """Have the call-th of all operations on the disk be the last."""
    calls = []

    def counted(operation):
        def count(*args, **kwargs):
            calls.append(operation)
            if len(calls) == call:
                raise Killed
            return operation(*args, **kwargs)

        return count

    for name in ("fsync", "rename", "unlink", "rmdir", "makedirs"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


def test_weights_in_a_checkpoint_can_be_read_by_those_who_can_read_its_other_files(run):
    def fill(folder):
        for name in ("model.safetensors", "trainer_state.json"):
            with open(os.path.join(folder, name), "w"):
                pass
        os.chmod(os.path.join(folder, "model.safetensors"), 0o600)  # as safetensors 0.8 leaves it

    assert CheckpointStore(run).write(2, fill, processes=1) is None
    folder = CheckpointStore(run).folder_of(2)
    modes = {os.stat(os.path.join(folder, name)).st_mode for name in os.listdir(folder)}
    assert len(modes) == 1


@pytest.mark.parametrize("step", [4, 6], ids=["a new one", "one that takes another's place"])
def test_a_kill_at_any_moment_leaves_a_complete_checkpoint(run, monkeypatch, step):
    kills = 0
    for call in range(1, 60):
        shutil.rmtree(run)
        os.mkdir(run)
        for earlier in (2, 6):
            save(run, earlier, content="old")
        with monkeypatch.context() as patch:
            kill_at(patch, call)
            try:
                save(run, step, content="new")
                CheckpointStore(run).rotate(1, None)
            except Killed:
                kills += 1
            else:
                break
        newest, passed_over = CheckpointStore(run).newest_complete()
        assert newest is not None and passed_over == []
        assert (os.path.basename(newest), content_of(newest)) in (
            ("checkpoint-6", "old"),
            (f"checkpoint-{step}", "new"),
        )
        CheckpointStore(run).remove_left_over()
        for folder in CheckpointStore(run).all():
            checkpoint_manifest.verify(folder)
        assert sorted(os.listdir(run)) == sorted(names(run))
    assert kills > 10
    assert names(run) == [f"checkpoint-{step}"]


def test_the_limit_keeps_the_newest_and_the_best(run):
    for step in (2, 4, 6, 8, 10):
        save(run, step)
    CheckpointStore(run).rotate(None, None)
    CheckpointStore(run).rotate(0, None)
    assert len(names(run)) == 5
    CheckpointStore(run).rotate(3, os.path.join(run, "checkpoint-4"))
    assert names(run) == ["checkpoint-4", "checkpoint-8", "checkpoint-10"]
    CheckpointStore(run).rotate(1, os.path.join(run, "checkpoint-4"))
    assert names(run) == ["checkpoint-4", "checkpoint-10"]


def test_an_incomplete_checkpoint_neither_counts_nor_goes(run):
    save(run, 2)
    os.mkdir(os.path.join(run, "checkpoint-9"))
    CheckpointStore(run).rotate(1, None)
    assert names(run) == ["checkpoint-2", "checkpoint-9"]


def test_after_going_back_the_newest_is_the_one_that_was_made_last(run):
    for step in (2, 4, 6):
        save(run, step)
    save(run, 4, content="of the second pass")
    newest, passed_over = CheckpointStore(run).newest_complete()
    assert content_of(newest) == "of the second pass" and passed_over == []
    CheckpointStore(run).rotate(1, None)
    assert names(run) == ["checkpoint-4"]


def test_what_is_passed_over_is_said_with_its_reason(run):
    for step in (2, 4, 6):
        save(run, step)
    with open(os.path.join(run, "checkpoint-6", "optimizer.pt"), "w"):
        pass
    os.mkdir(os.path.join(run, "checkpoint-8"))
    os.mkdir(os.path.join(run, "checkpoint-1"))
    newest, passed_over = CheckpointStore(run).newest_complete()
    assert os.path.basename(newest) == "checkpoint-4"
    assert len(passed_over) == 2
    assert "checkpoint-6 has a damaged optimizer.pt (0 bytes instead of 1)" in passed_over[0]
    assert "checkpoint-8 has no manifest.json" in passed_over[1]


def test_a_name_that_cannot_be_taken_leaves_the_earlier_one(run, monkeypatch):
    save(run, 4, content="old")

    def no_room(source, target, _real=os.rename):
        if source.endswith(".incomplete"):
            raise OSError(28, "No space left on device")
        _real(source, target)

    monkeypatch.setattr(os, "rename", no_room)
    assert "No space left on device" in save(run, 4, content="new")
    assert names(run) == ["checkpoint-4"] and content_of(os.path.join(run, "checkpoint-4")) == "old"


def test_there_may_be_none(run):
    assert CheckpointStore(run).newest_complete() == (None, [])
    assert CheckpointStore(os.path.join(run, "nowhere")).newest_complete() == (None, [])


def test_a_mistake_in_filling_a_checkpoint_is_raised_and_leaves_no_checkpoint(run):
    def fill(folder):
        raise KeyError("of the program")

    with pytest.raises(KeyError, match="of the program"):
        CheckpointStore(run).write(2, fill, processes=1)
    assert names(run) == []
    assert CheckpointStore(run).remove_left_over() == ["checkpoint-2"]


def test_the_best_checkpoint_is_there_or_being_written(run):
    store = CheckpointStore(run)
    save(run, 2)
    assert store.will_have(2, being_written=4) and store.will_have(4, being_written=4)
    assert not store.will_have(3, being_written=4)


def test_a_name_that_is_no_checkpoints_has_no_step():
    assert step_of("runs/x/checkpoint-12") == 12
    with pytest.raises(ValueError, match="runs/x is not called checkpoint-N"):
        step_of("runs/x")
