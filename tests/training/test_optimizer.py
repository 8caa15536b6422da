"""Hyperparameters and learning rates of an optimizer into which a checkpoint was loaded."""

import copy

import pytest
import torch
from transformers import get_scheduler
from transformers.trainer_utils import SchedulerType

from adversarial_mlm.training.optimizer import hyperparameters, scale_schedule, set_hyperparameters

STATEFUL = {SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY}
KWARGS = {
    SchedulerType.COSINE_WITH_MIN_LR: {"min_lr": 1e-4},
    SchedulerType.COSINE_WARMUP_WITH_MIN_LR: {"min_lr": 1e-4},
    SchedulerType.WARMUP_STABLE_DECAY: {"num_decay_steps": 3},
}


def make(kind, rate=3e-3, **settings):
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = torch.optim.AdamW([{"params": [p]} for p in parameters], lr=rate, **settings)
    values = hyperparameters(optimizer)
    schedule = get_scheduler(kind, optimizer, 3, 11, KWARGS.get(kind))
    if kind not in STATEFUL:
        scale_schedule(schedule, [1], lambda step: 0.1 * step)
    return optimizer, schedule, values


def load(kind, steps=5, **settings):
    """A fresh optimizer and schedule, with the states after some steps and the fresh ones' own hyperparameters."""
    trained, schedule, _ = make(kind)
    for _ in range(steps):
        trained.step()
        schedule.step(*([1.0] if kind in STATEFUL else []))
    optimizer, fresh, values = make(kind, **settings)
    optimizer.load_state_dict(copy.deepcopy(trained.state_dict()))
    fresh.load_state_dict(copy.deepcopy(schedule.state_dict()))
    loaded = copy.deepcopy(optimizer.param_groups), fresh.get_last_lr()
    set_hyperparameters(optimizer, fresh, values)
    return optimizer, fresh, loaded


@pytest.mark.parametrize("kind", list(SchedulerType), ids=lambda kind: kind.value)
def test_the_same_options_change_no_bit(kind):
    optimizer, schedule, (groups, rates) = load(kind)
    for group, before in zip(optimizer.param_groups, groups, strict=True):
        assert {**group, "params": 0} == {**before, "params": 0}
    assert schedule.get_last_lr() == rates


def test_other_options_count_at_the_step_of_the_checkpoint():
    optimizer, schedule, _ = load("linear", rate=1.0, weight_decay=0.5, betas=(0.5, 0.6), eps=0.1)
    rate = 1 - (5 - 3) / (11 - 3)
    assert schedule.get_last_lr() == [group["lr"] for group in optimizer.param_groups] == [rate, rate * 0.5]
    assert all(group["weight_decay"] == 0.5 and group["eps"] == 0.1 for group in optimizer.param_groups)
    assert all(group["betas"] == (0.5, 0.6) for group in optimizer.param_groups)
    schedule.step()
    assert schedule.get_last_lr()[0] == 1 - (6 - 3) / (11 - 3)


@pytest.mark.parametrize("kind", sorted(STATEFUL), ids=lambda kind: kind.value)
def test_a_rate_that_is_a_state_stays(kind):
    optimizer, _, (groups, _) = load(kind, rate=1.0, weight_decay=0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [group["lr"] for group in groups]
    assert optimizer.param_groups[0]["weight_decay"] == 0.5 and optimizer.param_groups[0]["lr"] < 1.0


def test_a_rate_on_a_device_stays_there():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=torch.tensor(0.5), capturable=True)
    values = hyperparameters(optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    tensor = optimizer.param_groups[0]["lr"]
    optimizer.step()
    schedule.last_epoch = 2
    set_hyperparameters(optimizer, schedule, values)
    assert optimizer.param_groups[0]["lr"] is tensor and tensor == 0.125
    schedule.step()
    assert tensor == 0.0625
