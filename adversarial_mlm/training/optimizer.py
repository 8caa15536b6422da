"""One optimizer and one schedule for both networks: the noiser has its own parameter groups.

A parameter without a gradient is skipped entirely and keeps its own step count, so this equals two optimizers.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainerCallback

# the entries of a parameter group that come from options; the others may be state
_HYPERPARAMETERS = ("weight_decay", "betas", "eps")


def holds(optimizer: torch.optim.Optimizer, network: nn.Module) -> bool:
    """Whether an optimizer holds all parameters of a network."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return all(id(parameter) in held for parameter in network.parameters())


def add_groups(
    optimizer: torch.optim.Optimizer,
    network: nn.Module,
    decayed: Collection[str],
    learning_rate: float,
    weight_decay: float,
) -> None:
    """Add a network's parameters to an optimizer, in a group with weight decay and one without.

    Args:
        optimizer (`torch.optim.Optimizer`): An optimizer of PyTorch, not wrapped by accelerate.
        network (`nn.Module`): The noiser.
        decayed (`Collection[str]`): Names of the parameters with weight decay.
        learning_rate (`float`): Peak learning rate.
        weight_decay (`float`): Weight decay of the first group.
    """
    for decay in (True, False):
        parameters = [p for name, p in network.named_parameters() if (name in decayed) == decay]
        group = {"params": parameters, "lr": learning_rate, "weight_decay": weight_decay if decay else 0.0}
        optimizer.add_param_group(group)


def groups_of(optimizer: torch.optim.Optimizer, network: nn.Module) -> list[int]:
    """Indices of the groups that hold parameters of a network."""
    own = {id(parameter) for parameter in network.parameters()}
    return [i for i, group in enumerate(optimizer.param_groups) if any(id(p) in own for p in group["params"])]


def scale_schedule(scheduler: LRScheduler, groups: Collection[int], factor: Callable[[int], float]) -> None:
    """Multiply the learning-rate schedule of some groups by a function of the step.

    Args:
        scheduler (`LRScheduler`): The schedule of all groups.
        groups (`Collection[int]`): Indices of the groups.
        factor (`Callable[[int], float]`): From the step to the factor.

    Raises:
        ValueError: If the schedule is not a `LambdaLR`.
    """
    if not isinstance(scheduler, LambdaLR):
        raise ValueError(
            "noiser_learning_rate_factor cannot be combined with a schedule that is not a function of the step, such "
            f"as {type(scheduler).__name__}"
        )
    for index in groups:
        group = scheduler.optimizer.param_groups[index]
        scheduler.lr_lambdas[index] = _product(scheduler.lr_lambdas[index], factor)
        group["lr"] = scheduler.base_lrs[index] * scheduler.lr_lambdas[index](scheduler.last_epoch)


def _product(shape: Callable[[int], float], factor: Callable[[int], float]) -> Callable[[int], float]:
    return lambda step: shape(step) * factor(step)


def hyperparameters(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What options set in the parameter groups of an optimizer: its peak learning rate, weight decay, betas and eps.

    Args:
        optimizer (`torch.optim.Optimizer`): Before a checkpoint is loaded into it.

    Returns:
        `list[dict]`: For each group, its values by the names that PyTorch uses; `initial_lr` is the peak rate.
    """
    values = []
    for group in optimizer.param_groups:
        peak = group.get("initial_lr", group["lr"])
        peak = peak.clone() if isinstance(peak, torch.Tensor) else peak  # schedules change a tensor in place
        values.append({"initial_lr": peak, **{name: group[name] for name in _HYPERPARAMETERS if name in group}})
    return values


def set_hyperparameters(
    optimizer: torch.optim.Optimizer, scheduler: LRScheduler, values: Sequence[dict[str, Any]]
) -> None:
    """Put values back into an optimizer, and compute its learning rates anew, after a checkpoint was loaded.

    PyTorch loads the values that the checkpoint was made with. A schedule that is not a function of the step, such as
    `reduce_lr_on_plateau`, keeps the learning rates of the checkpoint.

    Args:
        optimizer (`torch.optim.Optimizer`): The optimizer, with the state of the checkpoint.
        scheduler (`LRScheduler`): Its schedule, with the state of the checkpoint.
        values (`Sequence[dict]`): From [`hyperparameters`].
    """
    is_function_of_step = isinstance(scheduler, LambdaLR)
    for group, own in zip(optimizer.param_groups, values, strict=True):
        group.update({name: value for name, value in own.items() if name != "initial_lr" or is_function_of_step})
    if not isinstance(scheduler, LambdaLR):
        return
    scheduler.base_lrs = [own["initial_lr"] for own in values]
    rates = [
        base * shape(scheduler.last_epoch)
        for base, shape in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], torch.Tensor):  # compiled optimizers keep the tensor
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
    scheduler._last_lr = rates  # which `get_last_lr` returns


class LearningRateOf(TrainerCallback):
    """Notes the learning rate with which a network is updated. After the update it is already that of the next one.

    Args:
        network (`nn.Module`): The noiser.

    Attributes:
        latest (`float`): Learning rate of the latest update; nan before the first one.
    """

    def __init__(self, network: nn.Module):
        self.network = network
        self.latest: float | torch.Tensor = math.nan

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        rate = optimizer.param_groups[groups_of(optimizer, self.network)[0]]["lr"]
        # a schedule changes a tensor in place
        self.latest = rate.clone() if isinstance(rate, torch.Tensor) else rate
