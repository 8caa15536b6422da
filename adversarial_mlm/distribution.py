"""Which ways of using several devices a run supports: a process for each, with DistributedDataParallel."""

from accelerate.utils import DistributedType
from transformers import Trainer

_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
_NAMES = {
    DistributedType.FSDP: "FSDP",
    DistributedType.DEEPSPEED: "DeepSpeed",
    DistributedType.XLA: "PyTorch/XLA (TPUs)",
    DistributedType.MEGATRON_LM: "Megatron-LM",
}
_INSTEAD = (
    "start one process for each GPU, as examples/accelerate_configs/one_machine.yaml does; both networks are then "
    "trained with DistributedDataParallel"
)


def check_distribution(trainer: Trainer) -> None:
    """Refuse what prepares one network only, or cuts a network into parts.

    Args:
        trainer (`Trainer`): Whose accelerator is set up.

    Raises:
        ValueError: Naming it, and what to use in its place.
    """
    refused = _refused(trainer)
    if refused is not None:
        raise ValueError(f"{refused} is not supported: {_INSTEAD}")


def _refused(trainer: Trainer) -> str | None:
    kind, devices = trainer.accelerator.distributed_type, getattr(trainer.model, "hf_device_map", None) or {}
    if trainer.args.n_gpu > 1:
        return (
            f"nn.DataParallel ({trainer.args.n_gpu} GPUs are visible to one process; CUDA_VISIBLE_DEVICES=0 shows one)"
        )
    if trainer.is_deepspeed_enabled:
        return _NAMES[DistributedType.DEEPSPEED]
    if trainer.is_fsdp_enabled:
        return _NAMES[DistributedType.FSDP]
    if kind not in _SUPPORTED:
        return _NAMES.get(kind, f"distributed training of the kind {kind.value}")
    if trainer.get_tp_size() > 1 or trainer.is_distributed_loading_by_transformers:
        return "tensor parallelism, or a model that is sharded as it is loaded,"
    if getattr(trainer.accelerator, "parallelism_config", None) is not None:
        return "parallelism_config"
    if len(set(devices.values())) > 1:
        return "a model that is spread over several devices (device_map)"
    return None
