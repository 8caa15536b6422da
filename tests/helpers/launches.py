"""Counts what a device would have to launch in an update, on a machine that has none.

Counted are PyTorch's operators on tensors that would be on the device: no views, and no memory that is only
allocated. What CPUs do in another way than GPUs is replaced: dropout and the norm of many gradients are one operator
each there, a GRU is one for each layer and direction, and the solver of the closed forms makes a fixed number of
steps. Use encoders without dropout of the attention: with it, attention is one operator on a GPU, but not on a CPU.
"""

import contextlib

import torch
from torch.nn.utils import clip_grad
from transformers import Trainer

from adversarial_mlm.masking import budget_solver
from adversarial_mlm.training import noiser_game
from tests.helpers.host_waits import waits_between

_FIRST = 2  # by then, optimizers have their state and the learning rate is not 0


def as_on_a_device(monkeypatch) -> None:
    """Replace what a CPU does in another way than a GPU."""
    solve = budget_solver.solve
    monkeypatch.setattr(budget_solver, "solve", lambda *args, may_stop: solve(*args, may_stop=False))
    monkeypatch.setattr(noiser_game, "QuickDropout", contextlib.nullcontext)
    monkeypatch.setattr(torch.nn.GRU, "forward", _one_operator_each_way)
    monkeypatch.setattr(clip_grad, "_device_has_foreach_support", lambda device: True)
    monkeypatch.setattr(
        torch.nn.functional,
        "dropout",
        lambda input, p=0.5, training=True, inplace=False: (
            torch.native_dropout(input, p, training)[0] if training and p else input
        ),
    )


def _one_operator_each_way(gru: torch.nn.GRU, hidden: torch.Tensor) -> tuple[torch.Tensor, None]:
    """In place of a GRU: something of its shape, with a gradient for its weights."""
    return torch.nn.functional.linear(hidden, gru.weight_ih_l0[: gru.hidden_size]), None


def launches_of(trainer: Trainer, updates: int = 2) -> float:
    """Operators per update of a run, after its first updates."""
    return waits_between(trainer, _FIRST, _FIRST + updates).launches.total() / updates
