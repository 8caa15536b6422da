"""Options about numbers, memory and compilation, and what this trainer makes of them."""

from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import nn
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

_COMPILE_MODES = (None, "default", "max-autotune-no-cudagraphs")


def check_precision(args: TrainingArguments) -> None:
    """Refuse what cannot be honoured, and set how activations are checkpointed.

    Args:
        args (`TrainingArguments`): Complete. Of `activation_checkpointing_kwargs` `use_reentrant` is set to `False`.

    Raises:
        ValueError: Naming the option.
    """
    if args.mixed_precision == "fp16" and args.device.type == "cpu":
        raise ValueError("fp16 is not supported on a CPU, where nothing scales the loss; use bf16")
    if args.mixed_precision not in ("no", "bf16", "fp16"):
        raise ValueError(f"mixed_precision {args.mixed_precision} is not supported; use bf16 or fp16")
    if args.optim in (OptimizerNames.LOMO, OptimizerNames.ADALOMO) or "layerwise" in args.optim:
        raise ValueError(
            f"optim {getattr(args.optim, 'value', args.optim)} is not supported: it moves the weights during the "
            "backward pass, before anything can be clipped or left out"
        )
    if args.torch_compile and args.torch_compile_mode not in _COMPILE_MODES:
        raise ValueError(
            f"torch_compile_mode {args.torch_compile_mode} is not supported: it records the work of one length, and "
            "batches have unequal ones; use default or max-autotune-no-cudagraphs"
        )
    if not args.activation_checkpointing:
        return
    given = args.activation_checkpointing_kwargs
    settings = given if isinstance(given, dict) else {}  # a string was read as JSON before
    if settings.get("use_reentrant"):
        raise ValueError(
            "use_reentrant: true is not supported: in the noiser's turn the encoder's parameters are frozen, and a "
            "reentrant checkpoint would give the noiser no gradient"
        )
    args.activation_checkpointing_kwargs = {**settings, "use_reentrant": False}


def compiled_as(accelerator: Accelerator, module: nn.Module) -> nn.Module:
    """A module compiled as `accelerator` compiles those that it prepares; the module itself where it does not."""
    plugin = accelerator.state.dynamo_plugin
    if plugin.backend == DynamoBackend.NO:
        return module
    return cast(nn.Module, torch.compile(module, **plugin.to_kwargs()))  # declared for functions


def not_compiled(module: nn.Module) -> nn.Module:
    """A module without `torch.compile` around it.

    For the noiser, whose GRU `torch.compile` cannot take in.
    """
    return getattr(module, "_orig_mod", module)
