"""Whole trainers that take turns, a step each, so that whatever else the machine does falls on all of them."""

import threading
import time
from collections.abc import Sequence

import torch
from transformers import Trainer, TrainerCallback


class _Turns(TrainerCallback):
    """Lets one step pass at a time, and notes how long it took."""

    def __init__(self, own: threading.Event, following: threading.Event, stop: threading.Event):
        self.own, self.following, self.stop, self.seconds = own, following, stop, []

    def _wait(self) -> None:
        self.own.wait()
        self.own.clear()
        self.start = time.perf_counter()

    def on_train_begin(self, args, state, control, **kwargs):
        self._wait()

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)
        self.following.set()
        if state.global_step < args.max_steps and not self.stop.is_set():
            self._wait()
        control.should_training_stop |= self.stop.is_set()


def train_in_turns(trainers: Sequence[Trainer]) -> list[list[float]]:
    """Train each in a thread of its own, a step of one after a step of the other, all with the same `max_steps`.

    A step is everything from the end of the step before: data, the noiser's updates, the encoder's.

    Returns:
        `list[list[float]]`: Seconds of every step, for each trainer.

    Raises:
        RuntimeError: If a trainer failed.
    """
    events, stop = [threading.Event() for _ in trainers], threading.Event()
    turns = [_Turns(own, following, stop) for own, following in zip(events, events[1:] + events[:1], strict=True)]
    failures: list[BaseException] = []

    def end() -> None:
        stop.set()
        for event in events:
            event.set()

    def train(trainer: Trainer, turn: _Turns, finished: threading.Event) -> None:
        trainer.add_callback(turn)
        try:
            trainer.train()
        except BaseException as error:
            failures.append(error)
            end()
        finally:
            finished.set()

    finished = [threading.Event() for _ in trainers]
    threads = [
        threading.Thread(target=train, args=of_one, daemon=True)
        for of_one in zip(trainers, turns, finished, strict=True)
    ]
    for thread in threads:
        thread.start()
    events[0].set()
    try:
        for event in finished:  # a join that a signal interrupts takes its thread for gone, up to Python 3.12
            event.wait()
    finally:  # after a signal let all end their step: a process cannot end well in the midst of them
        if not all(event.is_set() for event in finished):
            end()
        for thread in threads:
            thread.join()
    if failures:
        raise RuntimeError("a trainer failed while it was measured") from failures[0]
    return [turn.seconds for turn in turns]
