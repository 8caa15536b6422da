import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from transformers import TrainerControl

from adversarial_mlm.utils import signals
from adversarial_mlm.utils.interrupts import SIGNALS, exit_status

ROOT = Path(__file__).parents[2]


def handlers():
    return [signal.getsignal(number) for number in SIGNALS]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = handlers()
    stop = signals.GracefulStop(timedelta(seconds=10))
    with stop.listening():
        assert handlers() != before
        stop.on_step_end(None, None, TrainerControl())
        assert stop.signal is None
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # as by a terminal and a launcher
        assert stop.signal is None, "the update goes on to its end"
        stop.on_step_end(None, None, TrainerControl())
        assert stop.signal == number
    assert handlers() == before


def test_a_signal_after_the_last_step_is_noted_too():
    stop = signals.GracefulStop(timedelta(seconds=10))
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signal == signal.SIGTERM


def test_the_handlers_come_back_after_a_failure():
    before = handlers()
    with pytest.raises(KeyError), signals.GracefulStop(timedelta(seconds=10)).listening():
        raise KeyError
    assert handlers() == before


def test_in_a_stopped_epoch_nothing_is_evaluated_or_saved_for_its_end():
    stop = signals.GracefulStop(timedelta(seconds=10))
    control = TrainerControl(should_log=True, should_evaluate=True, should_save=True)
    stop.on_epoch_end(None, None, control)
    assert control.should_save and control.should_evaluate and control.should_log
    stop.signal = signal.SIGTERM
    stop.on_epoch_end(None, None, control)
    assert not (control.should_save or control.should_evaluate or control.should_log)


def test_in_another_thread_nothing_is_handled():
    before, seen = handlers(), []

    def train():
        with signals.GracefulStop(timedelta(seconds=10)).listening():
            seen.append(handlers())

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_worker_survives_sigterm_during_training_and_ends_with_it_afterwards():
    def work(needed, ready):
        signals.spare_worker(needed, 0)
        ready.set()
        time.sleep(60)

    context = multiprocessing.get_context("fork")
    ready = context.Event()
    worker = context.Process(target=work, args=(signals.workers_needed(), ready), daemon=True)
    with signals.GracefulStop(timedelta(seconds=10)).listening():
        worker.start()
        assert ready.wait(10)
        worker.terminate()
        worker.join(0.3)
        assert worker.is_alive(), "the update needs its batches"
    worker.terminate()  # as Python does at exit, before it waits for the worker
    worker.join(10)
    assert worker.exitcode == exit_status(signal.SIGTERM)


def start(code: str, **variables) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.update({name: str(value) for name, value in variables.items()})
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


TWICE = """
import os, signal, time
from datetime import timedelta
from adversarial_mlm.utils.signals import GracefulStop
with GracefulStop(timedelta(seconds=10)).listening():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1.2)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here")
"""


@pytest.mark.slow
def test_a_second_signal_ends_the_process_at_once():
    process = start(TWICE)
    out, err = process.communicate(timeout=120)
    assert process.returncode == exit_status(signal.SIGTERM), err
    assert out == "" and err.split("\n") == [
        "", "SIGTERM: finishing the update, then saving; a second signal ends the program at once",
        "", "stopped at once by a second SIGTERM; complete checkpoints are kept", "",
    ]  # fmt: skip


# the second process gets the signal in its 5th step, and the first is ahead of it then
TOGETHER = """
import os, signal, time
from datetime import timedelta
from accelerate import PartialState
from adversarial_mlm.utils.signals import GracefulStop
rank = PartialState(cpu=True).process_index
assert PartialState().num_processes == 2
stop = GracefulStop(timedelta(seconds=60))
with stop.listening():
    for step in range(1, 50):
        if rank == 1:
            time.sleep(0.02)
            if step == 5:
                os.kill(os.getpid(), signal.SIGTERM)
        stop.on_step_end(None, None, None)
        if stop.signal is not None:
            break
print(step, stop.signal.name)
PartialState().destroy_process_group()
"""


@pytest.mark.slow
def test_all_processes_stop_after_the_same_step_whichever_got_the_signal():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    variables = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [start(TOGETHER, RANK=rank, LOCAL_RANK=rank, **variables) for rank in range(2)]
    said = [process.communicate(timeout=120) for process in started]
    assert [out for out, _ in said] == ["6 SIGTERM\n"] * 2, [err[-1000:] for _, err in said]
