"""Checks of the launch: several devices are supported with one process each, by DistributedDataParallel."""

import logging
import os

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, parse_flag_from_env
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils import is_torch_mps_available

logger = logging.getLogger(__name__)

_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
_NAMES = {
    DistributedType.FSDP: "FSDP",
    DistributedType.DEEPSPEED: "DeepSpeed",
    DistributedType.XLA: "PyTorch/XLA (TPUs)",
    DistributedType.MEGATRON_LM: "Megatron-LM",
}
_INSTEAD = (
    "start one process per GPU for DistributedDataParallel, for example with "
    "accelerate launch --multi_gpu --num_processes 4 -m adversarial_mlm train RECIPE"
)


def leave_mps(args: TrainingArguments) -> None:
    """Use the CPU in place of the MPS device, which has no float64; the choice is logged.

    Args:
        args (`TrainingArguments`): The arguments, before their device is set up; `use_cpu` may be set.
    """
    if is_torch_mps_available() and not torch.cuda.is_available() and not args.use_cpu:
        args.use_cpu = True
        logger.warning(
            "the CPU is used (use_cpu: true), because the MPS device of this machine has no float64, in which masks "
            "are drawn and losses are summed"
        )


def join_on_cpu(args: TrainingArguments) -> None:
    """Use the CPU where a launcher started several processes and there is no GPU; the choice is logged.

    Without `use_cpu`, accelerate would make a run of its own of each process, all in one folder.

    Args:
        args (`TrainingArguments`): The arguments, before their device is set up; `use_cpu` may be set.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and not torch.cuda.is_available() and not args.use_cpu:
        args.use_cpu = True
        if os.environ.get("LOCAL_RANK", "0") == "0":
            logger.warning("the CPU is used (use_cpu: true) by %d processes, because there is no GPU", processes)


def check_launcher() -> None:
    """Refuse what `accelerate launch` requests by environment variables, before it is set up.

    Raises:
        ValueError: If FSDP, DeepSpeed or Megatron-LM is requested.
    """
    for variable, kind in (
        ("ACCELERATE_USE_FSDP", DistributedType.FSDP),
        ("ACCELERATE_USE_DEEPSPEED", DistributedType.DEEPSPEED),
        ("ACCELERATE_USE_MEGATRON_LM", DistributedType.MEGATRON_LM),
    ):
        if parse_flag_from_env(variable):
            _refuse(f"{_NAMES[kind]} (requested by accelerate launch)")


def check_devices(model: PreTrainedModel, args: TrainingArguments) -> None:
    """Refuse a model that is split over devices, and one process with several GPUs, before anything is set up.

    Raises:
        ValueError: If there is one.
    """
    devices = set((getattr(model, "hf_device_map", None) or {}).values())
    if args.n_gpu > 1:
        _refuse(f"nn.DataParallel (one process sees {args.n_gpu} GPUs; with CUDA_VISIBLE_DEVICES=0 it sees one)")
    if (getattr(model, "_tp_size", None) or 1) > 1:
        _refuse("tensor parallelism (tp_plan)")
    if getattr(model, "is_distributed_loading_by_transformers", False):
        _refuse("a model that is sharded while it is loaded")
    if len(devices) > 1:
        _refuse(f"a model on {len(devices)} devices (device_map)")
    if args.parallelism_config is not None:
        _refuse("parallelism_config")


def check_accelerator(accelerator: Accelerator) -> None:
    """Refuse a kind of distributed training that only prepares one network, or that is not tested here.

    Raises:
        ValueError: If the accelerator was set up with one.
    """
    state, kind = accelerator.state, accelerator.distributed_type
    for plugin, name in (("fsdp_plugin", DistributedType.FSDP), ("deepspeed_plugin", DistributedType.DEEPSPEED)):
        if getattr(state, plugin, None) is not None:
            _refuse(_NAMES[name])
    if kind not in _SUPPORTED:
        _refuse(_NAMES.get(kind, f"distributed training of the kind {kind.value}"))
    if getattr(accelerator, "parallelism_config", None) is not None:
        _refuse("parallelism_config")


def _refuse(what: str) -> None:
    raise ValueError(f"{what} is not supported: {_INSTEAD}")
