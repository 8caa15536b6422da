"""Options for precision, memory and compilation: which are supported, and how networks are compiled."""

import logging
import os
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import nn
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames
from transformers.utils.import_utils import enable_tf32

from adversarial_mlm.utils.hardware import auto_bf16, has_fast_bf16

logger = logging.getLogger(__name__)

_COMPILE_MODES = (None, "default", "max-autotune-no-cudagraphs")


def resolve_precision(args: TrainingArguments) -> None:
    """Switch on bf16 and tf32 where they are left to the hardware (`None`) and all visible GPUs have them.

    It logs what it switches on. bf16 stays off if fp16 is on, or if `accelerate launch` sets a mixed precision. On a
    CPU nothing is changed. Call it before transformers reads the arguments.

    Args:
        args (`TrainingArguments`): The arguments. `bf16` is set to `True` where it is switched on.
    """
    if args.use_cpu or not torch.cuda.is_available():
        return
    if not all(auto_bf16(f"cuda:{index}") for index in range(torch.cuda.device_count())):
        return
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if args.bf16 is None and not args.fp16 and launched == "no":
        args.bf16 = True
        logger.info("bf16 is on, because the GPU has it: bf16: false switches it off")
    if args.tf32 is None:  # not set in the arguments, so that a run may resume on a CPU
        enable_tf32(True)
        logger.info("tf32 is on, because the GPU has it: tf32: false switches it off")


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
    if args.mixed_precision == "bf16" and args.device.type == "cpu" and not has_fast_bf16("cpu"):
        logger.warning(
            "bf16 is on, but this CPU has neither AMX nor AVX512-BF16, so it is about 8 times slower than "
            "float32: use bf16: false"
        )
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


def autocast_dtype(args: TrainingArguments) -> torch.dtype | None:
    """The dtype in which matrix products are computed; `None` if in that of the weights."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(args.mixed_precision)


def compiled_as(accelerator: Accelerator, module: nn.Module) -> nn.Module:
    """Compile a module as `accelerator` compiles others; the module itself if it does not compile."""
    plugin = accelerator.state.dynamo_plugin
    if plugin.backend == DynamoBackend.NO:
        return module
    return cast(nn.Module, torch.compile(module, **plugin.to_kwargs()))  # declared for functions


def not_compiled(module: nn.Module) -> nn.Module:
    """A module without `torch.compile` around it, for the noiser: `torch.compile` does not support its GRU."""
    return getattr(module, "_orig_mod", module)
