"""Decisions and failures that all processes of a run share."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch.distributed
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from adversarial_mlm.utils.errors import AdversarialMLMError

T = TypeVar("T")


def on_main_process(decide: Callable[[], T]) -> T:
    """Call a function on process 0, and return its result on all processes.

    Args:
        decide (`Callable`): A function without arguments.

    Raises:
        ValueError: On all processes, if process 0 raised one, such as an [`AdversarialMLMError`].
    """
    state = PartialState()
    outcome: list = [None, None]  # the result, the error
    if state.is_main_process:
        try:
            outcome[0] = decide()
        except ValueError as error:
            outcome[1] = error
    if state.num_processes > 1:
        outcome = broadcast_object_list(outcome)
    if outcome[1] is not None:
        _tell_once(outcome[1], state.process_index > 0)
        raise outcome[1]
    return outcome[0]


def is_main_process() -> bool:
    """Whether this is process 0, which writes and logs for all."""
    return PartialState().is_main_process


def gather(value: T) -> list[T]:
    """Return the values of all processes, on every process."""
    world = PartialState().num_processes
    values = [value] * world
    if world > 1:
        torch.distributed.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def fail_together(error_class: type[Exception], *as_this: type[Exception]) -> Iterator[None]:
    """Make all processes fail if one does; otherwise the others would wait for it forever.

    All processes must enter and leave the block. Inside, no process may wait for an operation that another may skip.

    Args:
        error_class (`type`): The error that is raised if another process failed.
        *as_this (`type`): Errors of this process that are also raised as `error_class`.

    Raises:
        Exception: The error of the block, or an `error_class` with the message of another process.
    """
    failure = None
    try:
        yield
    except as_this as error:
        failure = error_class(str(error))
        failure.__cause__ = error
    except Exception as error:
        failure = error
    sentences = gather_object([None if failure is None else str(failure) or type(failure).__name__])
    if failure is not None:
        _tell_once(failure, str(failure) in sentences[: PartialState().process_index])
        raise failure
    for process, sentence in enumerate(sentences):
        if sentence is not None:
            raise error_class(f"process {process} stopped: {sentence}")


def _tell_once(error: Exception, is_told: bool) -> None:
    if isinstance(error, AdversarialMLMError):
        error.told_elsewhere = is_told
