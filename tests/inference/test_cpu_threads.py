"""Batches on several CPU cores give what a loop over them gives."""

import threading
import time

import pytest
import torch
from torch import nn

from adversarial_mlm.inference.cpu_threads import map_batches, with_shared_weights


@pytest.fixture(autouse=True)
def _three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


class _Noting(nn.Module):
    """Keeps a note during a call, as modules do that store a table of positions."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.note = None

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.note = batch.shape[0]
        time.sleep(0.01)
        return self.linear(batch)[: self.note]


def test_results_come_in_the_order_of_the_batches_and_equal_those_of_a_loop():
    module = _Noting()
    batches = [torch.randn(rows, 4) for rows in (5, 1, 3, 2, 4, 1, 2)]
    with torch.no_grad():
        expected = [module(batch) for batch in batches]
    found = list(map_batches(lambda own, batch: own(batch).detach(), module, batches))
    assert [len(batch) for batch in found] == [5, 1, 3, 2, 4, 1, 2]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_every_thread_computes_on_one_core_and_the_caller_keeps_its_number():
    seen = list(
        map_batches(lambda _, __: (threading.current_thread().name, torch.get_num_threads()), _Noting(), range(9))
    )
    assert {number for _, number in seen} == {1}
    assert threading.current_thread().name not in {name for name, _ in seen}
    assert torch.get_num_threads() == 3


def test_two_batches_share_the_cores_and_a_single_one_gets_all():
    threads = [list(map_batches(lambda _, __: torch.get_num_threads(), _Noting(), range(number))) for number in (1, 2)]
    assert threads == [[3], [1, 1]]


def test_no_more_batches_are_ahead_of_the_caller_than_there_are_threads_and_one_more():
    begun = []
    results = map_batches(lambda _, batch: begun.append(batch), _Noting(), range(50))
    next(results)
    time.sleep(0.1)
    assert len(begun) <= 1 + 3 + 1
    results.close()
    time.sleep(0.1)
    assert len(begun) < 10 and torch.get_num_threads() == 3


def test_an_error_of_a_batch_is_that_of_the_caller():
    def fail(_: nn.Module, batch: int) -> int:
        if batch == 2:
            raise ValueError("the third batch is bad")
        return batch

    results = map_batches(fail, _Noting(), range(50))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="the third batch is bad"):
        next(results)
    assert torch.get_num_threads() == 3


def test_a_copy_has_the_weights_themselves_but_its_own_attributes():
    module = _Noting()
    own = with_shared_weights(module)
    own.note = 7
    assert module.note is None
    assert own.linear.weight is module.linear.weight and own.linear is not module.linear
