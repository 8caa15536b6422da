"""One optimizer and one schedule for both networks: the noiser has its own parameter groups.

A parameter without a gradient is skipped entirely and keeps its own step count, so this equals two optimizers.
"""

from collections.abc import Callable, Collection

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


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
            f"a {type(scheduler).__name__} cannot be scaled, because it is not a function of the step alone"
        )
    for index in groups:
        group = scheduler.optimizer.param_groups[index]
        scheduler.lr_lambdas[index] = _product(scheduler.lr_lambdas[index], factor)
        group["lr"] = scheduler.base_lrs[index] * scheduler.lr_lambdas[index](scheduler.last_epoch)


def _product(shape: Callable[[int], float], factor: Callable[[int], float]) -> Callable[[int], float]:
    return lambda step: shape(step) * factor(step)
