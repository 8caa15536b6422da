"""Options for precision, memory and compilation: which are supported, and how networks are compiled."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import nn
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from adversarial_mlm.utils.hardware import auto_bf16, has_fast_bf16

logger = logging.getLogger(__name__)

_COMPILE_MODES = (None, "default", "max-autotune-no-cudagraphs")


def resolve_precision(args: TrainingArguments) -> None:
    """Switch on bf16 where it is left to the hardware (`None`) and all visible GPUs have it; log this, and TF32.

    bf16 stays off if fp16 is on, or if `accelerate launch` sets a mixed precision. On a CPU nothing is changed. Call
    it before transformers reads the arguments. TF32 follows when the run begins, see [`apply_tf32`].

    Args:
        args (`TrainingArguments`): The arguments. `bf16` is set to `True` where it is switched on.
    """
    if not _on_gpus_with_bf16(args):
        return
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if args.bf16 is None and not args.fp16 and launched == "no":
        args.bf16 = True
        logger.info("bf16 is on, because the GPU has it: bf16: false switches it off")
    if args.tf32 is None:  # not set in the arguments, so that a run may resume on a CPU
        logger.info("tf32 is on, because the GPU has it: tf32: false switches it off")


def _on_gpus_with_bf16(args: TrainingArguments) -> bool:
    """Whether a run may use GPUs, and all that are visible have bf16 and TF32 (Ampere or later)."""
    if args.use_cpu or not torch.cuda.is_available():
        return False
    return all(auto_bf16(f"cuda:{index}") for index in range(torch.cuda.device_count()))


def uses_tf32(args: TrainingArguments) -> bool | None:
    """Whether a run of this package computes float32 matrix products in TF32.

    Args:
        args (`TrainingArguments`): The arguments.

    Returns:
        `bool`: What the option `tf32` says. Without it, `True` if all visible GPUs have TF32, and otherwise `None`:
        PyTorch's settings are left as they are.
    """
    if args.tf32 is not None:
        return args.tf32
    return True if _on_gpus_with_bf16(args) else None


def apply_tf32(args: TrainingArguments) -> None:
    """Give a run the TF32 setting that it asks for, see [`uses_tf32`].

    PyTorch has one setting for the whole process, and transformers changes it once in each direction only. So a
    trainer calls this whenever it begins to compute.

    Args:
        args (`TrainingArguments`): The arguments.
    """
    wanted = uses_tf32(args)
    if wanted is not None:
        set_tf32(wanted)


def set_tf32(enable: bool) -> None:
    """Switch TF32 on or off in float32 matrix products, convolutions and recurrent networks.

    PyTorch has older and newer settings. If they contradict each other, reading the older ones fails, and the
    compiler reads them. So all are set.

    Args:
        enable (`bool`): Whether to use TF32.
    """
    torch.set_float32_matmul_precision("high" if enable else "highest")
    torch.backends.cudnn.allow_tf32 = enable
    if hasattr(torch.backends, "fp32_precision"):  # from PyTorch 2.9 on
        torch.backends.fp32_precision = "tf32" if enable else "ieee"


def tf32_is_on() -> bool:
    """Whether PyTorch is set to TF32 in float32 matrix products."""
    if hasattr(torch.backends, "fp32_precision"):
        return torch.backends.cuda.matmul.fp32_precision == "tf32"
    return torch.backends.cuda.matmul.allow_tf32


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Float32 matrix products are exact in here, whatever the run uses."""
    was_on = tf32_is_on()
    if was_on:
        set_tf32(False)
    try:
        yield
    finally:
        if was_on:
            set_tf32(True)


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
