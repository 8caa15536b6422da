"""The solver of the closed forms, where it may stop when all rows are solved, and where it cannot ask the device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from adversarial_mlm.masking import budget_solver
from adversarial_mlm.masking.budget_solver import EXPONENTIAL, LOGISTIC, solve

LAWS = {"exponential": EXPONENTIAL, "logistic": LOGISTIC}


def cases(spread: float, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores, mask and budgets: none, one, a tenth, a half, all but one, all; in whole and in shorter rows."""
    budgets = [0, 1, length // 10, length // 2, length - 1, length]
    scores = spread * torch.randn(3 * len(budgets), length, generator=torch.Generator().manual_seed(length))
    mask = torch.ones(scores.shape, dtype=torch.bool)
    mask[len(budgets) : 2 * len(budgets), length // 2 + 1 :] = False
    return scores, mask, torch.tensor(3 * budgets)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 10.0, 30.0, 100.0, 1e3, 1e4, 1e6])
@pytest.mark.parametrize("length", [1, 2, 7, 300])
def test_the_fixed_steps_of_a_device_are_exact(law, spread, length):
    """Against float64 that is solved until it is right: within the last digits of float32, for any scores."""
    scores, mask, budget = cases(spread, length)
    exact, exact_slope = solve(scores.double(), mask, budget, law, may_stop=True)
    for dtype, error in ((torch.float32, 2 * torch.finfo(torch.float32).eps), (torch.float64, 1e-10)):
        values, slope = solve(scores.to(dtype), mask, budget, law, may_stop=False)
        assert values.dtype == slope.dtype == dtype
        assert (values.double() - exact).abs().max() <= error
        assert (slope.double() - exact_slope).abs().max() <= 10 * error
        target = torch.minimum(budget, mask.sum(dim=1)).double()
        assert ((values.double().sum(dim=1) - target).abs() <= 2 * error * target.clamp_min(1)).all()


def test_one_step_of_newton_less_would_not_do(monkeypatch):
    monkeypatch.setattr(
        budget_solver, "_NEWTON_STEPS", {dtype: steps - 1 for dtype, steps in budget_solver._NEWTON_STEPS.items()}
    )
    scores, mask, budget = cases(3.0, 300)
    exact, _ = solve(scores.double(), mask, budget, EXPONENTIAL, may_stop=True)
    values, _ = solve(scores, mask, budget, EXPONENTIAL, may_stop=False)
    assert (values.double() - exact).abs().max() > 4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_what_may_stop_is_solved(law):
    scores, mask, budget = cases(10.0, 300)
    values, slope = solve(scores, mask, budget, law, may_stop=True)
    target = torch.minimum(budget, mask.sum(dim=1)).double()
    assert torch.allclose(values.double().sum(dim=1), target, rtol=1e-6, atol=0)
    assert slope.isfinite().all() and not values[~mask].any()


def test_a_device_runs_few_operations():
    """There were 1,320 of them: 40 steps of 33."""
    run = []

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            run.append(function)
            return function(*args, **(kwargs or {}))

    scores, mask, budget = cases(1.0, 30)
    with Operations():
        solve(scores, mask, budget, EXPONENTIAL, may_stop=False)
    assert len(run) <= 110
