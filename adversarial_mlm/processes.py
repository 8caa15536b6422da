"""Decisions that all processes of a run have to make alike."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from .durable import WritingError

T = TypeVar("T")


def first_decides(decide: Callable[[], T]) -> T:
    """Call a function on process 0, and have its result on all of them.

    Args:
        decide (`Callable`): Without arguments.

    Raises:
        ValueError: Or [`WritingError`]: on all processes, if process 0 did.
    """
    state = PartialState()
    outcome = [None, None]
    if state.is_main_process:
        try:
            outcome[0] = decide()
        except (ValueError, WritingError) as error:
            outcome[1] = error
    if state.num_processes > 1:
        outcome = broadcast_object_list(outcome)
    result, error = outcome
    if error is not None:
        raise error
    return result


def gather(value: T) -> list[T]:
    """The value that each process has, on all of them."""
    world = PartialState().num_processes
    values = [value] * world
    if world > 1:
        torch.distributed.all_gather_object(values, value)
    return values
