"""Whole trainers that take turns, a step each, so that whatever else the machine does falls on all of them."""

import time
from collections.abc import Callable, Sequence

import torch
from transformers import Trainer, TrainerCallback

from adversarial_mlm.utils import signals
from adversarial_mlm.utils.errors import Interrupted
from adversarial_mlm.utils.extras import require


class _Turns(TrainerCallback):
    """Hands over to whoever let the trainer go on, before the first step and after each; notes how long each took."""

    def __init__(self, to_the_others: Callable[[], object]):
        self.to_the_others = to_the_others
        self.seconds: list[float] = []

    def _hand_over(self) -> None:
        self.to_the_others()
        self.start = time.perf_counter()

    def on_train_begin(self, args, state, control, **kwargs):
        self._hand_over()

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)
        self._hand_over()


def train_interleaved(trainers: Sequence[Trainer]) -> list[list[float]]:
    """Train all of them at once, a step of one after a step of the other, all with the same `max_steps`.

    A step is everything from the end of the step before: data, the noiser's updates, the encoder's. All are in one
    thread: OpenMP gives every thread workers of its own, and lets all of them sleep between small products where there
    are more of them than cores, which makes a GRU three times as slow.

    Returns:
        `list[list[float]]`: Seconds of every step, for each trainer.

    Raises:
        RuntimeError: If a trainer failed.
        MissingPackageError: If greenlet is not installed.
        Interrupted: If SIGTERM or SIGINT came, after the step of the trainer that heard it.
    """
    greenlet = require("greenlet", "compare", "measuring what an update costs").greenlet
    turns = [_Turns(greenlet.getcurrent().switch) for _ in trainers]
    for trainer, turn in zip(trainers, turns, strict=True):
        trainer.add_callback(turn)
    runs = [greenlet(trainer.train) for trainer in trainers]
    # each trainer listens to signals from its start to its end, and so leaves behind what others had set up
    with signals.raised():
        try:
            while not all(run.dead for run in runs):
                for trainer, run in zip(trainers, runs, strict=True):
                    if not run.dead:
                        run.switch()
                        _look_for_a_signal(trainer)
        except Exception as error:
            raise RuntimeError("a trainer failed while it was measured") from error
        finally:  # where one failed, or a signal came, the others end where they are
            for run in reversed(runs):
                if not run.dead:
                    run.throw()
    return [turn.seconds for turn in turns]


def _look_for_a_signal(trainer: Trainer) -> None:
    stopped_by = getattr(trainer, "interrupted_by", None)  # a stock trainer lets signals through
    if stopped_by is not None:
        raise Interrupted(stopped_by)
