"""Facts about the machine, and a function to move a network to a device."""

import os
import platform
from typing import TypeVar

import torch

from adversarial_mlm.utils.counts import count

Network = TypeVar("Network", bound=torch.nn.Module)


def on_device(network: Network, device: torch.device | str) -> Network:
    """Move a network to a device, and return it. Type checkers cannot read `PreTrainedModel.to`, but this."""
    return network.to(device)


def device_for(use_cpu: bool = False) -> torch.device:
    """Return the first GPU, or the CPU if there is no GPU or `use_cpu` is set."""
    return torch.device("cuda" if torch.cuda.is_available() and not use_cpu else "cpu")


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device without waiting for what the device still has to do.

    A copy from ordinary memory to a GPU may wait, so the tensor is copied to pinned memory first.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def has_fast_bf16(device: torch.device | str) -> bool:
    """Whether a device multiplies bfloat16 faster than float32: GPUs from Ampere on, CPUs with AMX or AVX512-BF16."""
    device = torch.device(device)
    if device.type == "cuda":
        return bool(torch.version.hip) or torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def auto_bf16(device: torch.device | str) -> bool:
    """Whether to compute in bfloat16 if the user has not said so: on GPUs that have it.

    On CPUs always in float32, so that results do not depend on the CPU.
    """
    return torch.device(device).type == "cuda" and has_fast_bf16(device)


def machine() -> dict:
    """Return processor, cores, threads, GPU and versions, to report next to measurements."""
    facts = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def device_name(device: torch.device) -> str:
    """Return the name of the GPU, or of the CPU with its cores and threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    cores, threads = count(os.cpu_count() or 1, "core"), count(torch.get_num_threads(), "thread")
    return f"CPU {_processor()} ({cores}, {threads})"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
