"""What all processes of a run have to decide, or to suffer, alike."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch.distributed
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

T = TypeVar("T")


def on_main_process(decide: Callable[[], T]) -> T:
    """Call a function on process 0, and have its result on all of them.

    Args:
        decide (`Callable`): Without arguments.

    Raises:
        ValueError: Such as [`AdversarialMLMError`]: on all processes, if process 0 raised it.
    """
    state = PartialState()
    outcome: list = [None, None]  # what was returned, what was raised
    if state.is_main_process:
        try:
            outcome[0] = decide()
        except ValueError as error:
            outcome[1] = error
    if state.num_processes > 1:
        outcome = broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def gather(value: T) -> list[T]:
    """The value that each process has, on all of them."""
    world = PartialState().num_processes
    values = [value] * world
    if world > 1:
        torch.distributed.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def fail_together(error_class: type[Exception], *said_by_it: type[Exception]) -> Iterator[None]:
    """Let all processes fail where one does, so that none waits for it in vain.

    All processes must enter and leave the block, which must not wait for the others unless by pairs of its own.

    Args:
        error_class (`type`): What is raised where another process failed.
        *said_by_it (`type`): Errors of this process that are raised as `error_class`, too.

    Raises:
        Exception: What was raised in the block, or an `error_class` that repeats what another process said.
    """
    failure = None
    try:
        yield
    except said_by_it as error:
        failure = error_class(str(error))
        failure.__cause__ = error
    except Exception as error:
        failure = error
    sentences = gather_object([None if failure is None else str(failure) or type(failure).__name__])
    if failure is not None:
        raise failure
    for process, sentence in enumerate(sentences):
        if sentence is not None:
            raise error_class(f"process {process} stopped: {sentence}")
