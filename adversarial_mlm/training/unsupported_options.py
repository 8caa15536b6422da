"""Options of `TrainingArguments` that this trainer does not support."""

import dataclasses

from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import HubStrategy, SaveStrategy


def refuse_unsupported(args: TrainingArguments, loading: AcceleratorConfig) -> None:
    """Refuse options of `TrainingArguments` that this trainer does not support, or that have no effect.

    Args:
        args (`TrainingArguments`): The arguments.
        loading (`AcceleratorConfig`): Their `accelerator_config`.

    Raises:
        ValueError: If there is one. The message names it.
    """
    if args.train_sampling_strategy not in ("random", "sequential"):
        raise ValueError(
            f"train_sampling_strategy '{args.train_sampling_strategy}' is not supported: use random or sequential"
        )
    if args.label_smoothing_factor:
        raise ValueError("label_smoothing_factor is not supported, because the loss is plain cross-entropy: use 0")
    for name in ("fp16_full_eval", "bf16_full_eval"):
        if getattr(args, name):
            raise ValueError(f"{name} is not supported: use {name.split('_')[0]}, for training and evaluation")
    if not args.dataloader_in_order:
        raise ValueError("dataloader_in_order: false is not supported, because runs could not be repeated: use true")
    if args.auto_find_batch_size:
        raise ValueError(
            "auto_find_batch_size is not supported, because it would change the batches of a run: set "
            "per_device_train_batch_size"
        )
    if args.enable_jit_checkpoint:
        raise ValueError(
            "enable_jit_checkpoint is not supported and not needed: at SIGTERM or SIGINT a run saves a checkpoint "
            "and stops"
        )
    if args.save_on_each_node:
        raise ValueError("save_on_each_node is not supported, because only process 0 writes checkpoints")
    _check_hub(args)
    if loading.split_batches:
        raise ValueError("split_batches is not supported: set per_device_train_batch_size, the batch of one process")
    if loading.dispatch_batches:
        raise ValueError("dispatch_batches is not supported, because batches have unequal lengths: use false")
    if not loading.even_batches:
        raise ValueError(
            "even_batches: false is not supported, because the other processes would wait for one without a "
            "batch: use true"
        )


def _check_hub(args: TrainingArguments) -> None:
    """Refuse options of the Hub that have no effect in this run."""
    if args.push_to_hub:
        if args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            if args.save_strategy == SaveStrategy.NO:
                raise ValueError(
                    f"hub_strategy: {HubStrategy(args.hub_strategy).value} needs checkpoints, but save_strategy "
                    "is no: use steps, epoch or best"
                )
        return
    defaults = {f.name: f.default for f in dataclasses.fields(args)}
    for name in ("hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"):
        if getattr(args, name) != defaults[name]:
            raise ValueError(f"{name} only has an effect with push_to_hub: true: leave it out, or set push_to_hub")
