"""Options for precision, memory and compilation: which are supported, and how networks are compiled."""

from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import nn
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

_COMPILE_MODES = (None, "default", "max-autotune-no-cudagraphs")


def check_precision(args: TrainingArguments) -> None:
    """Refuse options that are not supported, and choose activation checkpoints that are not reentrant.

    Args:
        args (`TrainingArguments`): The arguments. `use_reentrant` in `activation_checkpointing_kwargs` is set to
            `False`.

    Raises:
        ValueError: If an option is not supported. The message names it.
    """
    if args.mixed_precision == "fp16" and args.device.type == "cpu":
        raise ValueError("fp16 is not supported on a CPU, because it has no loss scaling: use bf16")
    if args.mixed_precision not in ("no", "bf16", "fp16"):
        raise ValueError(f"mixed_precision {args.mixed_precision} is not supported: use bf16 or fp16")
    if args.optim in (OptimizerNames.LOMO, OptimizerNames.ADALOMO) or "layerwise" in args.optim:
        raise ValueError(
            f"optim {getattr(args.optim, 'value', args.optim)} is not supported, because it updates weights before "
            "gradients are clipped and checked: use another one, such as adamw_torch_fused"
        )
    if args.torch_compile and args.torch_compile_mode not in _COMPILE_MODES:
        raise ValueError(
            f"torch_compile_mode {args.torch_compile_mode} is not supported, because its CUDA graphs need batches of "
            "equal lengths: use default or max-autotune-no-cudagraphs"
        )
    if not args.activation_checkpointing:
        return
    given = args.activation_checkpointing_kwargs
    settings = given if isinstance(given, dict) else {}  # a string was read as JSON before
    if settings.get("use_reentrant"):
        raise ValueError(
            "use_reentrant: true is not supported, because the noiser would get no gradient through reentrant "
            "checkpoints of a frozen encoder: leave it out"
        )
    args.activation_checkpointing_kwargs = {**settings, "use_reentrant": False}


def compiled_as(accelerator: Accelerator, module: nn.Module) -> nn.Module:
    """Compile a module as `accelerator` compiles others; the module itself if it does not compile."""
    plugin = accelerator.state.dynamo_plugin
    if plugin.backend == DynamoBackend.NO:
        return module
    return cast(nn.Module, torch.compile(module, **plugin.to_kwargs()))  # declared for functions


def not_compiled(module: nn.Module) -> nn.Module:
    """A module without `torch.compile` around it, for the noiser: `torch.compile` does not support its GRU."""
    return getattr(module, "_orig_mod", module)
