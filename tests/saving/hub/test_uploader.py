"""`HubUploader`, built without a trainer and without a Hub."""

import logging
import os
import signal
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
from transformers import TrainingArguments

from adversarial_mlm.saving import hub
from adversarial_mlm.saving.hub import HubUploader
from adversarial_mlm.utils import interrupts
from adversarial_mlm.utils.errors import Interrupted, PushError


class Client:
    """Stands for the Hub: keeps what is committed; `fault` is raised in its place."""

    def __init__(self):
        self.commits, self.futures, self.fault = [], [], None

    def create_commit(self, repo_id, operations, commit_message, token, revision):
        if self.fault is not None:
            raise self.fault
        self.commits.append((commit_message, sorted(operation.path_in_repo for operation in operations)))
        return SimpleNamespace(repo_url=f"https://hub/{repo_id}")

    def run_as_future(self, function, *args):
        future = Future()
        self.futures.append((future, function, args))
        return future

    def work(self):
        """Do what the background thread would."""
        while self.futures:
            future, function, args = self.futures.pop(0)
            future.set_result(function(*args))


@pytest.fixture
def client(monkeypatch):
    client = Client()
    monkeypatch.setattr(hub, "hf_api", lambda: client)
    return client


@pytest.fixture
def make(tmp_path, client):
    def make(**settings):
        for name in ("config.json", "model.safetensors", "optimizer.pt", "manifest.json"):
            (tmp_path / name).write_text("x")
        uploader = HubUploader(
            TrainingArguments(output_dir=str(tmp_path), use_cpu=True, push_to_hub=False, **settings)
        )
        uploader.repo_id = "me/it"
        return uploader

    return make


def test_a_push_is_one_commit_of_the_model_without_what_only_resuming_needs(make, client, tmp_path):
    make().push_output_dir("End of training")
    assert client.commits == [("End of training", ["config.json", "model.safetensors"])]
    assert not list(tmp_path.glob(f"{hub.SNAPSHOT_PREFIX}*"))


def test_a_save_during_a_push_is_skipped_and_counted(make, client, tmp_path, caplog):
    uploader = make()
    assert uploader.push_checkpoint(str(tmp_path), 2, "step 2")
    assert not uploader.push_checkpoint(str(tmp_path), 4, "step 4")
    client.work()
    with caplog.at_level(logging.INFO):
        uploader.finish()
    assert uploader.counts == {"sent": 1, "failed": 0, "skipped": 1}
    assert [message for message, _ in client.commits] == ["step 2"]
    assert "1 was pushed, 0 failed, and 1 was skipped" in caplog.messages[-1]


def test_only_the_first_failure_is_warned_of_and_all_are_counted(make, client, tmp_path, caplog):
    uploader, client.fault = make(), OSError("no route with hf_abcdefghijklmnopqrstuvw")
    with caplog.at_level(logging.WARNING):
        for step in (2, 4):
            uploader.push_checkpoint(str(tmp_path), step, f"step {step}")
            client.work()
    assert uploader.counts["failed"] == 2
    (message,) = caplog.messages
    assert "step 2 was not pushed: OSError: no route with hf_..." in message


def test_the_strategy_end_pushes_nothing_during_training(make, client, tmp_path):
    uploader = make(hub_strategy="end")
    assert not uploader.push_checkpoint(str(tmp_path), 2, "step 2")
    assert client.futures == [] and uploader.counts == {"sent": 0, "failed": 0, "skipped": 0}


def test_a_checkpoint_goes_along_where_that_is_asked_for(make, client, tmp_path):
    make(hub_strategy="checkpoint").push_checkpoint(str(tmp_path), 2, "step 2")
    client.work()
    ((_, files),) = client.commits
    assert "last-checkpoint/optimizer.pt" in files and "optimizer.pt" not in files


def test_a_push_that_fails_at_the_end_is_raised_in_one_sentence(make, client):
    uploader, client.fault = make(), OSError("gone")
    with pytest.raises(PushError, match="OSError: gone"):
        uploader.push_output_dir("End of training")


class Clock:
    """Stands for time: every look at a push takes two seconds."""

    def __init__(self):
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def look(self, jobs, timeout):
        self.seconds += 2
        return SimpleNamespace(not_done=[job for job in jobs if not job.done()])


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(hub, "wait", clock.look)
    monkeypatch.setattr(hub, "time", clock)
    return clock


def test_after_a_signal_a_stalled_push_gets_ten_seconds_and_is_given_up(make, client, clock, tmp_path, caplog):
    uploader = make(hub_always_push=True)
    for step in (2, 4):
        uploader.push_checkpoint(str(tmp_path), step, f"step {step}")
    with caplog.at_level(logging.INFO):
        uploader.finish(is_stopped=lambda: clock.seconds > 6)
    assert caplog.messages == [
        "push_to_hub: waiting for the push of step 4",
        "push_to_hub: after the signal, the push of step 4 gets 10 s more; a second signal ends the program at once",
        "push_to_hub: the push of step 4 was not complete after 10 s and is given up; the files of the run are "
        "complete, and a resumed run pushes again",
    ]
    assert 16 <= clock.seconds <= 20
    assert all(future.cancelled() for future, *_ in client.futures) and not list(tmp_path.glob(".push-to-hub-*"))


def test_what_becomes_of_a_push_that_was_given_up_is_not_told(make, client, clock, tmp_path, caplog):
    uploader = make()
    uploader.push_checkpoint(str(tmp_path), 2, "step 2")
    ((future, send, job),) = client.futures
    future.set_running_or_notify_cancel()  # the upload has begun, so it cannot be cancelled
    uploader.finish(is_stopped=lambda: True)
    caplog.set_level(logging.INFO)
    caplog.clear()
    for client.fault in (OSError("gone"), None):
        send(*job)
    assert caplog.messages == []


def test_without_a_signal_a_slow_push_is_waited_for(make, client, clock, tmp_path):
    uploader = make()
    uploader.push_checkpoint(str(tmp_path), 2, "step 2")
    look = clock.look

    def look_until_it_is_done(jobs, timeout):
        if clock.seconds > 1000:
            client.work()
        return look(jobs, timeout)

    hub.wait = look_until_it_is_done  # `clock` puts it back
    uploader.finish()
    assert uploader.counts["sent"] == 1


def test_a_signal_ends_the_wait_for_a_push_at_once_and_leaves_no_copy(make, client, tmp_path, monkeypatch):
    goes_on = threading.Event()
    monkeypatch.setattr(hub, "send", lambda *job: (os.kill(os.getpid(), signal.SIGINT), goes_on.wait(20)))
    began = time.monotonic()
    with pytest.raises(Interrupted), interrupts.raised():
        make().push_output_dir("last")
    goes_on.set()
    assert time.monotonic() - began < 10 and not list(tmp_path.glob(".push-to-hub-*"))
