import math

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.optimization import Adafactor

from adversarial_mlm.masking.data_collator import RECORDS
from adversarial_mlm.training.update_guard import ENCODER, NOISER, UpdateGuard, leave_out_step, spoil_gradient

OPTIMIZERS = {
    "fused AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adafactor": lambda p: Adafactor(p),
}


class HostReads(TorchDispatchMode):
    """Counts what waits for a device."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += "_local_scalar_dense" in str(function)
        return function(*args, **(kwargs or {}))


def run(make_optimizer, gradients: list) -> tuple[torch.Tensor, dict]:
    """Updates with these gradients, left out where they are nan; nothing at all where they are `None`."""
    parameter = nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3))
    optimizer = make_optimizer([parameter])
    for gradient in gradients:
        if gradient is not None:
            parameter.grad = torch.full_like(parameter, gradient)
            leave_out_step(optimizer, torch.tensor(math.isnan(gradient)))
            optimizer.step()
    return parameter.detach(), optimizer.state[parameter]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_that_is_left_out_leaves_no_trace(name):
    left, state = run(OPTIMIZERS[name], [0.5, math.nan, math.nan, 0.3, math.nan])
    without, expected = run(OPTIMIZERS[name], [0.5, None, None, 0.3, None])
    assert torch.equal(left, without)
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        assert value is state[key] is None or torch.equal(torch.as_tensor(state[key]), torch.as_tensor(value))


def test_only_the_fused_optimizer_reads_the_flag_on_the_device():
    for name, reads in (("fused AdamW", 0), ("AdamW", 1)):
        parameter = nn.Parameter(torch.ones(3))
        optimizer = OPTIMIZERS[name]([parameter])
        parameter.grad = torch.ones(3)
        with HostReads() as host:
            leave_out_step(optimizer, torch.tensor(True))
        assert host.count == reads
        with HostReads() as host:
            optimizer.step()
        assert host.count == 0 and torch.equal(parameter, torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_finite_loss_and_its_gradient_stay_what_they_are(dtype):
    x = torch.rand(5, dtype=dtype, requires_grad=True)
    (plain,) = torch.autograd.grad((x**3).sum(), x)
    loss = spoil_gradient((x**3).sum())
    assert loss.dtype == dtype and torch.equal(loss, (x**3).sum())
    assert torch.equal(torch.autograd.grad(loss, x)[0], plain)


def test_an_infinite_loss_has_no_finite_gradient():
    logits = torch.tensor([[0.0, -math.inf]], requires_grad=True)
    label = torch.tensor([1])
    loss = nn.functional.cross_entropy(logits, label)
    assert math.isinf(loss.item()) and torch.isfinite(torch.autograd.grad(loss, logits, retain_graph=True)[0]).all()
    assert torch.isnan(torch.autograd.grad(spoil_gradient(loss), logits)[0]).all()


def norm(value: float) -> torch.Tensor:
    return torch.tensor(value)


def test_updates_are_counted_from_one_look_to_the_next():
    guard = UpdateGuard(limit=9)
    for value in (1.0, math.nan, math.inf, 2.0):
        assert guard.check({ENCODER: norm(value)}).item() == (not math.isfinite(value))
    guard.check({NOISER: norm(1.0)})
    assert guard.look() == {ENCODER: (4, 2), NOISER: (1, 0)}
    guard.check({ENCODER: norm(-math.inf)})
    assert guard.look() == {ENCODER: (1, 1)} and guard.totals == [3, 0] and guard.too_many is None


def test_networks_that_move_together_are_held_back_together():
    guard = UpdateGuard(limit=9)
    assert guard.check({ENCODER: norm(1.0), NOISER: norm(math.nan)}).item()
    assert guard.look() == {ENCODER: (1, 1), NOISER: (1, 1)}


def test_the_limit_is_of_updates_in_a_row_of_one_network():
    guard = UpdateGuard(limit=3)
    for value in (math.nan, math.nan, 1.0, math.nan, math.nan):
        guard.check({ENCODER: norm(value)})
        guard.check({NOISER: norm(1.0)})
    guard.look()
    assert guard.too_many is None
    guard.check({ENCODER: norm(math.nan)})
    guard.look()
    assert guard.too_many == ENCODER
    endless = UpdateGuard(limit=0)
    for _ in range(50):
        endless.check({NOISER: norm(math.nan)})
    endless.look()
    assert endless.too_many is None and endless.totals == [0, 50]


def test_the_latest_batches_are_remembered_by_name_and_go_on_without_the_names():
    guard = UpdateGuard(limit=2)
    for update in range(4):
        batches = [{"input_ids": update, RECORDS: [update, 10 + update]}, {"input_ids": update, RECORDS: ["a"]}]
        assert guard.record(ENCODER, update, batches) == [{"input_ids": update}] * 2
    assert guard.batches_of(ENCODER) == [(2, [2, 12, "a"]), (3, [3, 13, "a"])]
    assert guard.batches_of(NOISER) == []


def test_nothing_but_a_look_waits_for_the_device():
    guard = UpdateGuard(limit=2)
    with HostReads() as host:
        for value in (norm(1.0), norm(math.nan)):
            guard.check({ENCODER: value, NOISER: value})
    assert host.count == 0
