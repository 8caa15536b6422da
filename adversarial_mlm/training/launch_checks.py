"""Which ways of using several devices a run supports: a process for each, with DistributedDataParallel."""

from accelerate import Accelerator
from accelerate.utils import DistributedType, parse_flag_from_env
from transformers import PreTrainedModel, TrainingArguments

_SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
_NAMES = {
    DistributedType.FSDP: "FSDP",
    DistributedType.DEEPSPEED: "DeepSpeed",
    DistributedType.XLA: "PyTorch/XLA (TPUs)",
    DistributedType.MEGATRON_LM: "Megatron-LM",
}
_INSTEAD = (
    "start one process for each GPU, as with examples/accelerate_configs/one_machine.yaml; both networks are then "
    "trained with DistributedDataParallel"
)


def check_launcher() -> None:
    """Refuse what a launcher or its configuration asks for by an environment variable, before it is set up.

    Raises:
        ValueError: Naming it, and what to use in its place.
    """
    for variable, kind in (
        ("ACCELERATE_USE_FSDP", DistributedType.FSDP),
        ("ACCELERATE_USE_DEEPSPEED", DistributedType.DEEPSPEED),
        ("ACCELERATE_USE_MEGATRON_LM", DistributedType.MEGATRON_LM),
    ):
        if parse_flag_from_env(variable):
            _refuse(f"{_NAMES[kind]} (asked for at accelerate launch)")


def check_devices(model: PreTrainedModel, args: TrainingArguments) -> None:
    """Refuse a network that is cut into parts, and one process with several GPUs. Nothing is set up yet.

    Raises:
        ValueError: Naming it, and what to use in its place.
    """
    devices = set((getattr(model, "hf_device_map", None) or {}).values())
    if args.n_gpu > 1:
        _refuse(f"nn.DataParallel ({args.n_gpu} GPUs are visible to one process; CUDA_VISIBLE_DEVICES=0 shows one)")
    if (getattr(model, "_tp_size", None) or 1) > 1:
        _refuse("tensor parallelism (tp_plan)")
    if getattr(model, "is_distributed_loading_by_transformers", False):
        _refuse("a model that is sharded as it is loaded")
    if len(devices) > 1:
        _refuse(f"a model that is spread over {len(devices)} devices (device_map)")
    if args.parallelism_config is not None:
        _refuse("parallelism_config")


def check_accelerator(accelerator: Accelerator) -> None:
    """Refuse what has been set up all the same, prepares one network only, or is not tested here.

    Raises:
        ValueError: Naming it, and what to use in its place.
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
