"""SIGTERM and SIGINT during training: all processes finish the same step, save and end the run."""

import contextlib
import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from accelerate import PartialState
from transformers import TrainerCallback

from adversarial_mlm.utils.interrupts import ONE_AND_THE_SAME, end, exit_status, handled

_WORKERS_RESPITE = 600  # seconds


@functools.cache
def workers_needed() -> Any:
    """Return a byte that this process shares with its workers: 1 while training needs them, else 0."""
    return multiprocessing.RawValue("b", 0)


def spare_worker(needed: Any, worker: int) -> None:
    """Let a data loader's worker survive signals to its process group; used as `worker_init_fn`.

    Finishing the update needs the worker's batches. The worker ends when its loader stops it, when its parent process
    ends, or, if it hangs, ten minutes after a SIGTERM. Once training is over, SIGTERM ends it at once: Python sends it
    to workers that are left when the program ends, and waits for them.

    Args:
        needed (`ctypes.c_byte`): Result of [`workers_needed`] in the parent process.
        worker (`int`): Number of the worker; not used.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "SIGALRM"):
        return

    def on_sigterm(number, frame):
        if needed.value:
            signal.alarm(_WORKERS_RESPITE)
        else:
            os._exit(exit_status(number))

    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, on_sigterm)


class GracefulStop(TrainerCallback):
    """Records signals during training, and decides after which step all processes stop.

    A signal may reach only some processes, or reach them at different steps. So at the end of each step, every process
    sends its signal to the others over the CPU. It reads the result at the end of the next step. All processes stop
    after the same step, and none waits for a device. A second signal ends the process at once, with one sentence and
    the exit status of the signal.

    Attributes:
        signal (`signal.Signals`, *optional*): The signal that stops all processes.
    """

    def __init__(self, timeout: timedelta):
        self.signal: signal.Signals | None = None
        self._timeout = timeout
        self._received, self._received_at, self._process = 0, 0.0, os.getpid()
        self._group, self._told, self._work = None, None, None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals while the context is open."""
        distributed = PartialState().num_processes > 1
        if distributed:
            self._group = torch.distributed.new_group(backend="gloo", timeout=self._timeout)
        needed = workers_needed()
        needed.value = 1
        try:
            with handled(self._note):
                yield
                self._conclude()
        finally:
            needed.value = 0
        if distributed:
            torch.distributed.destroy_process_group(self._group)

    def _note(self, number: int, frame) -> None:
        if os.getpid() != self._process:  # a worker, before spare_worker ran
            return
        now = time.monotonic()
        if self._received:
            if now - self._received_at < ONE_AND_THE_SAME:
                return
            end(number, self._sentence(f"stopped at once by a second {_name(number)}; complete checkpoints are kept"))
        self._received, self._received_at = number, now
        # not logging or print, which the signal may have interrupted
        sentence = f"{_name(number)}: finishing the update, then saving; a second signal ends the program at once"
        os.write(2, self._sentence(sentence).encode())

    def _sentence(self, text: str) -> str:
        return f"\n{text}\n" if PartialState().is_local_main_process else ""

    @property
    def received(self) -> bool:
        """Whether this process has got a signal, also one that the others have not heard of yet."""
        return bool(self._received) or self.signal is not None

    def on_step_end(self, args, state, control, **kwargs):
        self._hear()
        if self.signal is None:
            self._tell()

    def on_epoch_end(self, args, state, control, **kwargs):
        if self.signal is not None:  # stopped in the middle of an epoch
            control.should_log = control.should_evaluate = control.should_save = False

    def _tell(self) -> None:
        if self._group is None:
            self._note_stop(self._received)
            return
        self._told = torch.tensor([self._received])
        self._work = torch.distributed.all_reduce(
            self._told, op=torch.distributed.ReduceOp.MAX, group=self._group, async_op=True
        )

    def _hear(self) -> None:
        if self._work is not None:
            self._work.wait()
            self._note_stop(int(self._told))
            self._work = None

    def _conclude(self) -> None:
        """Exchange signals that arrived after the last step."""
        self._hear()
        self._tell()
        self._hear()

    def _note_stop(self, number: int) -> None:
        if number and self.signal is None:
            self.signal = signal.Signals(number)


def _name(number: int) -> str:
    return signal.Signals(number).name
