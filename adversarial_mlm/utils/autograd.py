"""Backward passes of our own autograd functions."""

import functools
from collections.abc import Callable
from typing import Any

import torch


def differentiable_once(subject: str, remedy: str = "") -> Callable[[Callable], Callable]:
    """Return a decorator for the `backward` of a `torch.autograd.Function` that has no second derivative.

    PyTorch's `once_differentiable` raises only if the incoming gradient has a graph. Otherwise it returns a constant,
    and a gradient penalty is silently 0. This decorator raises wherever a graph of the gradient is requested.

    Args:
        subject (`str`): What is differentiated, as the beginning of the message.
        remedy (`str`, *optional*): What to do instead, as the end of the message.

    Raises:
        RuntimeError: In the backward pass, with `create_graph=True`.
    """

    def decorate(backward: Callable) -> Callable:
        @functools.wraps(backward)
        def checked(ctx: Any, *gradients: torch.Tensor) -> Any:
            if torch.is_grad_enabled():  # in a backward pass: with create_graph=True
                reason = f"{subject} has no second derivative, but create_graph=True asks for one"
                raise RuntimeError(f"{reason}: {remedy}" if remedy else reason)
            return backward(ctx, *gradients)

        return checked

    return decorate
