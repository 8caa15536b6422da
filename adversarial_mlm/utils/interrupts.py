"""SIGTERM and SIGINT end a program with one sentence and its exit status, also while it starts.

This module imports nothing that takes time, so a program can use it before its other imports.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from adversarial_mlm.utils.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)

ONE_AND_THE_SAME = 1.0
"""Seconds. A second signal within this time is the first one: launchers and terminals may both pass it on."""


def exit_status(number: int) -> int:
    """Return the exit status of a program that a signal stopped: 143 for SIGTERM, 130 for SIGINT."""
    return 128 + number


def signal_of(stop: KeyboardInterrupt) -> signal.Signals:
    """Return the signal that raised an error; SIGINT where Python itself or a library raised it."""
    return stop.signal if isinstance(stop, Interrupted) else signal.SIGINT


@contextlib.contextmanager
def handled(handler: Callable) -> Iterator[None]:
    """Call a function on SIGTERM and SIGINT. Outside of the main thread, where Python has no signals, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _heeded()}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


def _heeded() -> list[signal.Signals]:
    """The signals that are not ignored: a shell starts background jobs with SIGINT ignored, and this must stay so."""
    return [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raise [`Interrupted`] on SIGTERM and SIGINT. Training handles them differently, see [`GracefulStop`].

    A second signal, more than a second later, ends the process at once.
    """
    process = os.getpid()

    def handler(number: int, frame: object) -> None:
        if os.getpid() != process:
            _of_a_forked_process(number)
        elif not _received_at:
            _received_at.append(time.monotonic())
            raise Interrupted(number)
        else:
            _end(number)

    _received_at.clear()
    with handled(handler):
        yield


def end_at_once(program: str = "") -> None:
    """Let SIGTERM and SIGINT end this program at once, with one sentence and its exit status.

    For the time before the program does anything that takes care, such as its imports. [`raised`] and
    [`GracefulStop`] take over from there.

    Args:
        program (`str`, *optional*): Name of the program; by default that of the script.
    """
    process, name = os.getpid(), program or os.path.basename(sys.argv[0])

    def handler(number: int, frame: object) -> None:
        if os.getpid() != process:
            _of_a_forked_process(number)
        else:
            _end(number, f"{name}: stopped by {signal.Signals(number).name}\n")

    for number in _heeded():
        signal.signal(number, handler)


_received_at: list[float] = []  # when [`raised`] last raised an error


def _end(number: int, sentence: str = "") -> None:
    """End the process at once. A signal that [`raised`] has just raised an error for is ignored."""
    if _received_at and time.monotonic() - _received_at[-1] < ONE_AND_THE_SAME:
        return
    end(number, "" if _received_at else sentence)  # one sentence was printed already


def end(number: int, sentence: str) -> NoReturn:
    """End the process at once with the exit status of a signal.

    Args:
        number (`int`): The signal.
        sentence (`str`): Written to stderr first, with its line ends.
    """
    with contextlib.suppress(Exception):  # the signal may have come in the middle of a print
        sys.stdout.flush()
    os.write(2, sentence.encode())
    os._exit(exit_status(number))


def leave(status: int) -> int:
    """End this program after a signal, if threads are left that Python would wait for, such as those of an upload.

    Args:
        status (`int`): The exit status of the program.

    Returns:
        `int`: The status, if the program can end as usual.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if status not in map(exit_status, SIGNALS) or all(thread.daemon for thread in others):
        return status
    atexit._run_exitfuncs()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(status)


def _of_a_forked_process(number: int) -> None:
    """Handle a signal in a process that inherited a handler: its parent ends it after SIGINT, or by SIGTERM."""
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold SIGINT back while the context is open. Processes that are started in it never get it.

    A terminal sends SIGINT to all processes of a program. Workers that get it while they start end in a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
