"""Time several trainers fairly: they run interleaved, one step each, so other load on the machine affects all."""

import time
from collections.abc import Callable, Sequence

import torch
from transformers import Trainer, TrainerCallback

from adversarial_mlm.training.precision import set_tf32, tf32_is_on, uses_tf32
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.utils import interrupts
from adversarial_mlm.utils.errors import Interrupted
from adversarial_mlm.utils.extras import require


class _StepTimer(TrainerCallback):
    """Time each step, and switch to the other trainers before the first step and after each."""

    def __init__(self, switch: Callable[[], object]):
        self.switch = switch
        self.seconds: list[float] = []

    def _pause(self) -> None:
        self.switch()
        self.start = time.perf_counter()

    def on_train_begin(self, args, state, control, **kwargs):
        self._pause()

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)
        self._pause()


def train_interleaved(trainers: Sequence[Trainer]) -> list[list[float]]:
    """Train several trainers together, one step each in turn, and time every step.

    A step is everything since the end of the previous one: data, noiser updates, encoder update. All trainers need the
    same `max_steps`. They share one thread, because OpenMP workers of several threads would compete for the cores and
    make a GRU three times as slow. Each step is computed with the `tf32` of its own trainer; a stock trainer without
    this option keeps the setting that PyTorch has at the start.

    Returns:
        `list[list[float]]`: Seconds of every step, for each trainer.

    Raises:
        RuntimeError: If a trainer fails.
        MissingPackageError: If greenlet is not installed.
        Interrupted: If SIGTERM or SIGINT arrives, after the step of the trainer that received it.
    """
    greenlet = require("greenlet", "compare", "timing the updates of a comparison").greenlet
    timers = [_StepTimer(greenlet.getcurrent().switch) for _ in trainers]
    for trainer, timer in zip(trainers, timers, strict=True):
        trainer.add_callback(timer)
    runs = [greenlet(trainer.train) for trainer in trainers]
    settings = [_tf32_of(trainer) for trainer in trainers]
    at_start = tf32_is_on()
    is_set = any(setting is not None for setting in settings)
    # each trainer installs its own signal handlers and leaves behind those of the others
    with interrupts.raised():
        try:
            while not all(run.dead for run in runs):
                for trainer, run, tf32 in zip(trainers, runs, settings, strict=True):
                    if not run.dead:
                        if is_set:
                            set_tf32(at_start if tf32 is None else tf32)
                        run.switch()
                        _raise_if_interrupted(trainer)
        except Exception as error:
            raise RuntimeError("a trainer failed while its updates were timed") from error
        finally:  # end the other trainers after a failure or a signal
            for run in reversed(runs):
                if not run.dead:
                    run.throw()
    return [timer.seconds for timer in timers]


def _tf32_of(trainer: Trainer) -> bool | None:
    ours = isinstance(trainer.args, AdversarialMLMTrainingArguments)
    return uses_tf32(trainer.args) if ours else trainer.args.tf32


def _raise_if_interrupted(trainer: Trainer) -> None:
    stopped_by = getattr(trainer, "interrupted_by", None)  # a stock Trainer does not catch signals
    if stopped_by is not None:
        raise Interrupted(stopped_by)
