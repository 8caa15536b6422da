"""Arguments of [`AdversarialMLMTrainer`]."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class AdversarialMLMTrainingArguments(TrainingArguments):
    """`TrainingArguments` with those of the game.

    All step counts (`max_steps`, `warmup_steps`, `logging_steps`, `eval_steps`, `save_steps`) count updates of the
    *encoder*; the noiser's updates happen between them.

    Defaults that differ from `TrainingArguments`: `learning_rate` 1e-4 and `weight_decay` 0.01 (the paper's),
    `logging_nan_inf_filter` `False` (it would wait for the device at every micro-batch and hide what it filters),
    `ddp_find_unused_parameters` `False` (every parameter of the network in turn is used), and streams are read by
    every process (`dispatch_batches` `False`; batches have unequal lengths). `remove_unused_columns` has no effect:
    the collator takes what it needs. `train_sampling_strategy: sequential` is about the encoder's batches; the
    noiser's are always shuffled.

    Args:
        noiser_steps (`int`, *optional*, defaults to 10): Updates of the noiser in one cycle (`n_noiser` of Algorithm
            5).
        encoder_steps (`int`, *optional*, defaults to 10): Updates of the encoder in one cycle (`n_encoder`).
        noiser_learning_rate (`float`, *optional*, defaults to 1e-4): Peak learning rate of the noiser. It follows the
            shape of the encoder's schedule by the encoder's step: with a warm-up the first cycle has the rate 0.
        noiser_weight_decay (`float`, *optional*, defaults to 0.01): Of the noiser.
        noiser_max_grad_norm (`float`, *optional*, defaults to 1.0): Clip of the noiser's gradient; the encoder's is
            `max_grad_norm`. 0 means no clip.
        eval_mask_rate (`float`, *optional*, defaults to 0.15): Share of the residues hidden in evaluation, all by
            [MASK], the same residues in every run with the same `eval_mask_seed`.
        eval_mask_seed (`int`, *optional*, defaults to 2021): Of evaluation's masks, random and adversarial, and of the
            windows of proteins that are too long.

    Raises:
        ValueError: If a count is not positive, a rate is out of range, or an option of `TrainingArguments` is asked
            for that this trainer cannot honour.
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of the encoder."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of the encoder."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Replace non-finite losses in the log."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Passed to DistributedDataParallel."}
    )
    noiser_steps: int = field(default=10, metadata={"help": "Updates of the noiser in one cycle."})
    encoder_steps: int = field(default=10, metadata={"help": "Updates of the encoder in one cycle."})
    noiser_learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of the noiser."})
    noiser_weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of the noiser."})
    noiser_max_grad_norm: float = field(default=1.0, metadata={"help": "Clip of the noiser's gradient; 0 for none."})
    eval_mask_rate: float = field(default=0.15, metadata={"help": "Share of the residues hidden in evaluation."})
    eval_mask_seed: int = field(default=2021, metadata={"help": "Seed of evaluation's masks."})

    def __post_init__(self):
        if self.deepspeed or self.fsdp:  # before they are set up, which needs packages and processes
            raise ValueError("deepspeed and fsdp are not supported, as they prepare one network only; use DDP instead")
        super().__post_init__()
        for name in ("noiser_steps", "encoder_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("noiser_learning_rate", "noiser_weight_decay", "noiser_max_grad_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.eval_mask_rate < 1:
            raise ValueError(f"eval_mask_rate must lie between 0 and 1, got {self.eval_mask_rate}")
        self._refuse_what_cannot_be_honoured()
        if self.accelerator_config.dispatch_batches is None:
            # accelerate's own default for a stream lets the first process read for all, which batches of unequal
            # lengths do not allow
            self.accelerator_config.dispatch_batches = False

    def _refuse_what_cannot_be_honoured(self) -> None:
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"train_sampling_strategy '{self.train_sampling_strategy}' is not supported; use random or sequential"
            )
        if self.label_smoothing_factor:
            raise ValueError("label_smoothing_factor is not supported: the loss is plain cross-entropy")
        for name in ("fp16_full_eval", "bf16_full_eval"):
            if getattr(self, name):
                raise ValueError(f"{name} is not supported; use {name.split('_')[0]} for training and evaluation")
        if not self.dataloader_in_order:
            raise ValueError("dataloader_in_order: false is not supported: a run could not be repeated")
        if self.auto_find_batch_size:
            raise ValueError("auto_find_batch_size is not supported: it would change the batches of both networks")
        if self.accelerator_config.split_batches:
            raise ValueError("split_batches is not supported: per_device_train_batch_size counts one process")
