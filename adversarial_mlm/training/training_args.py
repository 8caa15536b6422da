"""Arguments of [`AdversarialMLMTrainer`]."""

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, cast

from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import HubStrategy, SaveStrategy, SchedulerType

from adversarial_mlm.training.batch_schedule import BatchStage, read_stages
from adversarial_mlm.training.launch_checks import check_launcher
from adversarial_mlm.training.noiser_schedule import UPDATES
from adversarial_mlm.training.packed_attention import check_packing
from adversarial_mlm.training.precision import check_precision
from adversarial_mlm.training.rewards import REWARDS
from adversarial_mlm.utils.ramp import Ramp

_LOSS_SCOPES = ("masked", "all")
_ON_COLLAPSE = ("warn", "stop")


@dataclass
class AdversarialMLMTrainingArguments(TrainingArguments):
    """`TrainingArguments` with the options of adversarial training.

    All step counts (`max_steps`, `warmup_steps`, `logging_steps`, `eval_steps`, `save_steps`) count updates of the
    *encoder*; the noiser's updates happen between them.

    Defaults that differ from `TrainingArguments`: `learning_rate` 1e-4 and `weight_decay` 0.01 (the paper's),
    `logging_nan_inf_filter` `False` (it would wait for the device at every micro-batch and hide what it filters),
    `ddp_find_unused_parameters` `False` (every parameter of the network being updated is used),
    `ddp_broadcast_buffers` `False` (no buffer changes in training), and streams are read by every process
    (`dispatch_batches` `False`; batches have unequal lengths). `remove_unused_columns` has no effect: the collator
    takes what it needs. `train_sampling_strategy: sequential` applies to the encoder's batches; the noiser's are
    always shuffled.

    `activation_checkpointing` and `torch_compile` apply to the encoder only, in its own updates and in the noiser's.
    Activation checkpointing is never reentrant.

    A *ramp* is one number, or `value@step` points with straight lines between them, in encoder updates: `0@0 1@1000`
    rises from 0 to 1 over the first thousand.

    Args:
        global_batch_size (`list[str]`, *optional*): Sequences of one update on all processes together, in place of
            `gradient_accumulation_steps`, which follows from it: one number, or `size@step` points such as
            `128@0 256@800000` or, in shares of `max_steps`, `128@0 256@80%`. At each point the size changes for both
            networks; learning rate and data continue. It must be a multiple of `per_device_train_batch_size` times
            the number of processes.
        noiser_update (`str`, *optional*, defaults to `"alternate"`): `"alternate"`: `noiser_steps` updates of the
            noiser, then `encoder_steps` of the encoder (Algorithm 5). `"reversal"`: one forward and one backward pass
            serve both networks; a gradient reversal flips the sign before the noiser. `"none"`: the noiser chooses
            masks, but is not trained.
        noiser_steps (`int`, *optional*, defaults to 10): Updates of the noiser in one cycle (`n_noiser` of Algorithm
            5).
        encoder_steps (`int`, *optional*, defaults to 10): Updates of the encoder in one cycle (`n_encoder`).
        shared_phase_counter (`bool`, *optional*, defaults to `False`): One counter for the updates of both networks;
            a phase ends at multiples of its length, as printed in Algorithm 5. It makes a difference only if the two
            lengths differ.
        noiser_every (`int`, *optional*, defaults to 1): With `reversal`: update the noiser at every n-th encoder
            update.
        reversal_strength (ramp, *optional*, defaults to 1): λ of the gradient reversal. AdamW cancels a positive
            constant λ, except for clipping; it matters where λ changes. With a negative λ the noiser helps the
            encoder. On the command line write a negative one as `--reversal_strength="-1@0 1@1000"`.
        adversarial_share (ramp from 0 to 1, *optional*, defaults to 1): Share of the noiser's masks that it
            chooses; the rest are random. While it is 0 the noiser is neither run nor trained.
        noiser_reward (`str`, *optional*, defaults to `"loss"`): What the noiser maximises, see `training.rewards`:
            `"loss"`, `"surprise"`, `"reducible"`, `"credit"` or `"predictor"`.
        slow_encoder_decay (`float`, *optional*, defaults to 0.99): With `reducible`: decay of the moving average
            of the encoder.
        encoder_dropout_in_noiser_phase (`bool`, *optional*, defaults to `False`): With `alternate`: whether the
            encoder uses its dropout in the noiser's updates. By default it is off: the noiser is trained against the
            encoder as at inference. With `reversal` both networks share one pass, which has the encoder's dropout.
        loss_scope (`str`, *optional*, defaults to `"masked"`): Residues whose cross-entropy is the loss, in both
            phases: `"masked"` residues, kept ones included, or `"all"` (Algorithm 4 as printed).
        unmasked_weight (`float`, *optional*, defaults to 1.0): With `all`: weight of a residue that is not masked.
        importance_exponent (`float`, *optional*, defaults to 0.0): β of the weights (ρ / q_i)^β of masked residues,
            with q_i the probability that residue i is masked, at random or by the noiser, and ρ the mask rate. With
            1 the loss has the expectation of uniform masking for values that do not depend on the other masks. The
            weights carry no gradient.
        noiser_learning_rate (`float`, *optional*, defaults to 1e-4): Peak learning rate of the noiser. It follows the
            shape of the encoder's schedule, at the encoder's step: with a warm-up the first cycle has the rate 0.
        noiser_learning_rate_factor (ramp, *optional*, defaults to 1): Multiplies the noiser's learning rate;
            `0@0 1@500` is a warm-up.
        noiser_weight_decay (`float`, *optional*, defaults to 0.01): Weight decay of the noiser.
        noiser_max_grad_norm (`float`, *optional*, defaults to 1.0): Largest norm of the noiser's gradient, which is
            clipped above it; the encoder's is `max_grad_norm`. 0 means no clipping.
        chunk_overhead (`int`, *optional*): A batch is read in chunks of proteins of similar length, each as wide as
            its longest. It is cut only if each further chunk saves more padding tokens than this number. The update
            is the same, except for rounding and the random numbers of dropout. By default 256 on a CPU, and 4,096
            elsewhere (an estimate). A number above the tokens of a batch never cuts. With `torch_compile` the default
            is not to cut, because each new number of rows would be compiled.
        packed_attention (`bool`, *optional*, defaults to `False`): The encoder reads all proteins of a batch in one
            row without padding, and each protein attends to itself only. For GPUs (Ampere and later), and for
            encoders with `attn_implementation` `sdpa` whose logits stay the same, which is checked at the start.
            Batches are then cut only if `chunk_overhead` is given. The noiser, `reducible`'s slow encoder and
            evaluation read padded rows.
        quick_cpu_dropout (`bool`, *optional*, defaults to `True`): On a CPU, draw dropout from 16 random bits per
            value. A step is faster (1.2 times in fp32, 1.6 times in bf16). Without effect on other devices, with
            `torch_compile` and with `activation_checkpointing`.
        eval_mask_rate (`float`, *optional*, defaults to 0.15): Share of the residues hidden in evaluation, all by
            [MASK]. Every run with the same `eval_mask_seed` hides the same residues.
        eval_mask_seed (`int`, *optional*, defaults to 2021): Seed of the masks in evaluation, random and adversarial,
            and of the windows of proteins that are too long.
        collapse_margin (`float`, *optional*, defaults to 0.05): The collapse alarm is raised if the loss on random
            masks (mean of three log entries) is this far above its best, in nats, while `enrichment_max` exceeds
            `collapse_enrichment`.
        collapse_enrichment (`float`, *optional*, defaults to 2.0): Threshold for `enrichment_max` in the collapse
            alarm. A high enrichment alone does no harm.
        on_collapse (`str`, *optional*, defaults to `"warn"`): `"warn"` or `"stop"`.
        max_skipped_updates (`int`, *optional*, defaults to 20): An update whose loss or gradient is not finite is
            skipped on all processes, and counted. If at a log entry a network's last n updates were all skipped, the
            run stops, and `nonfinite_records.json` names the records of their batches. 0 never stops. With `fp16` the
            scaler may skip about 16 updates at the start, while its scale falls from 65,536.
        noiser_cosine_steps (`int`, *optional*, defaults to 100): Every n updates of the encoder, compare the noiser's
            gradients on two halves of a batch (`noiser_cosine` in the log): near 0 they are noise. 0 for never.

    Raises:
        ValueError: If a count is not positive, a rate is out of range, or an option of `TrainingArguments` is set
            that this trainer does not support.
    """

    if TYPE_CHECKING:
        output_dir: str = ""  # `TrainingArguments` declares it as optional, but always has one

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of the encoder."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of the encoder."})
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Replace non-finite losses in the log."})
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Passed to DistributedDataParallel."}
    )
    ddp_broadcast_buffers: bool | None = field(default=False, metadata={"help": "Passed to DistributedDataParallel."})
    global_batch_size: list[str] = field(
        default_factory=list,
        metadata={"help": "Sequences of an update on all processes: a number or size@step points; sets accumulation."},
    )
    noiser_update: str = field(
        default="alternate", metadata={"help": "alternate, reversal or none.", "choices": UPDATES}
    )
    noiser_steps: int = field(default=10, metadata={"help": "Updates of the noiser in one cycle."})
    encoder_steps: int = field(default=10, metadata={"help": "Updates of the encoder in one cycle."})
    shared_phase_counter: bool = field(default=False, metadata={"help": "Count both phases together, as printed."})
    noiser_every: int = field(default=1, metadata={"help": "reversal: encoder updates to one of the noiser."})
    reversal_strength: list[str] = field(
        default_factory=lambda: ["1"], metadata={"help": "Lambda of the reversal: a number or value@step points."}
    )
    adversarial_share: list[str] = field(
        default_factory=lambda: ["1"],
        metadata={
            "help": "Share of its masks that the noiser has, the rest is random: a number or value@step points."
        },
    )
    noiser_reward: str = field(
        default="loss",
        metadata={"help": f"What the noiser maximises: {', '.join(REWARDS)}.", "choices": tuple(REWARDS)},
    )
    slow_encoder_decay: float = field(default=0.99, metadata={"help": "reducible: of the encoder's moving average."})
    encoder_dropout_in_noiser_phase: bool = field(
        default=False, metadata={"help": "alternate: keep the encoder's dropout while the noiser is trained."}
    )
    loss_scope: str = field(
        default="masked", metadata={"help": "Whose loss counts: masked residues or all.", "choices": _LOSS_SCOPES}
    )
    unmasked_weight: float = field(default=1.0, metadata={"help": "loss_scope all: weight of unmasked residues."})
    importance_exponent: float = field(default=0.0, metadata={"help": "Beta of the importance weights; 0 for none."})
    noiser_learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of the noiser."})
    noiser_learning_rate_factor: list[str] = field(
        default_factory=lambda: ["1"], metadata={"help": "Multiplies it: a number or value@step points."}
    )
    noiser_weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of the noiser."})
    noiser_max_grad_norm: float = field(default=1.0, metadata={"help": "Clip of the noiser's gradient; 0 for none."})
    chunk_overhead: int | None = field(
        default=None, metadata={"help": "Cut batches by length where it saves so many tokens a chunk."}
    )
    packed_attention: bool = field(default=False, metadata={"help": "GPUs: read a batch as one row without padding."})
    quick_cpu_dropout: bool = field(
        default=True, metadata={"help": "On a CPU, draw dropout from 16 random bits a value, which is faster."}
    )
    eval_mask_rate: float = field(default=0.15, metadata={"help": "Share of the residues hidden in evaluation."})
    eval_mask_seed: int = field(default=2021, metadata={"help": "Seed of evaluation's masks."})

    collapse_margin: float = field(default=0.05, metadata={"help": "Rise of the random loss that rings the alarm."})
    collapse_enrichment: float = field(default=2.0, metadata={"help": "Enrichment that must go with it."})
    on_collapse: str = field(default="warn", metadata={"help": "warn or stop.", "choices": _ON_COLLAPSE})
    max_skipped_updates: int = field(
        default=20, metadata={"help": "Stop after so many updates in a row that are not finite; 0 for never."}
    )
    noiser_cosine_steps: int = field(default=100, metadata={"help": "How often to compare half batches; 0 for never."})

    def __post_init__(self):
        if self.deepspeed or self.fsdp:  # before they are set up, which needs packages and processes
            raise ValueError("deepspeed and fsdp are not supported, as they prepare one network only; use DDP instead")
        check_launcher()
        super().__post_init__()
        self._check_game()
        for name in ("noiser_steps", "encoder_steps", "noiser_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in (
            *("noiser_learning_rate", "noiser_weight_decay", "noiser_max_grad_norm", "unmasked_weight"),
            *("importance_exponent", "collapse_margin", "collapse_enrichment", "noiser_cosine_steps"),
            *("max_skipped_updates", "chunk_overhead"),
        ):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.eval_mask_rate < 1:
            raise ValueError(f"eval_mask_rate must lie between 0 and 1, got {self.eval_mask_rate}")
        self._refuse_what_is_out_of_range()
        self._check_batch()
        self._refuse_what_cannot_be_honoured()
        if self.loading_config.dispatch_batches is None:
            # accelerate's own default for a stream lets the first process read for all, which batches of unequal
            # lengths do not allow
            self.loading_config.dispatch_batches = False

    def _check_game(self) -> None:
        for name, known in (
            ("noiser_update", UPDATES),
            ("noiser_reward", REWARDS),
            ("loss_scope", _LOSS_SCOPES),
            ("on_collapse", _ON_COLLAPSE),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'")
        for name in ("reversal_strength", "adversarial_share", "noiser_learning_rate_factor"):
            if not isinstance(getattr(self, name), (list, tuple)):  # a plain number, in Python
                setattr(self, name, [str(getattr(self, name))])
            ramp = Ramp(getattr(self, name), name)
            if name == "noiser_learning_rate_factor" and min(ramp.values) < 0:
                raise ValueError(f"{name} must not be negative, got {' '.join(self.noiser_learning_rate_factor)}")
            if name == "adversarial_share" and not 0 <= min(ramp.values) <= max(ramp.values) <= 1:
                raise ValueError(f"adversarial_share must lie between 0 and 1, got {' '.join(self.adversarial_share)}")
        self._refuse_what_has_no_effect()
        if not 0 <= self.slow_encoder_decay < 1:
            raise ValueError(f"slow_encoder_decay must lie in [0, 1), got {self.slow_encoder_decay}")

    def _refuse_what_has_no_effect(self) -> None:
        """An option that is set, and belongs to a game other than the one that is played."""
        defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(self)}
        if self.noiser_update == "none" and self.noiser_reward != defaults["noiser_reward"]:
            raise ValueError("noiser_reward is set, but with noiser_update: none the noiser is not trained")
        with_slow_encoder = [name for name, reward in REWARDS.items() if reward.has_slow_encoder]
        for option, of, value in (
            ("noiser_every", "noiser_update", "reversal"),
            ("reversal_strength", "noiser_update", "reversal"),
            ("noiser_steps", "noiser_update", "alternate"),
            ("encoder_steps", "noiser_update", "alternate"),
            ("shared_phase_counter", "noiser_update", "alternate"),
            ("encoder_dropout_in_noiser_phase", "noiser_update", "alternate"),
            ("unmasked_weight", "loss_scope", "all"),
            *(("slow_encoder_decay", "noiser_reward", name) for name in with_slow_encoder),
        ):
            given = getattr(self, option)
            if option == "reversal_strength" and Ramp(given, option).values == [1.0]:
                continue  # "1", "1.0" and 1@0 are the same
            if given != defaults[option] and getattr(self, of) != value:
                raise ValueError(
                    f"{option} is set, but has an effect with {of}: {value} only, not {getattr(self, of)}"
                )

    def _check_batch(self) -> None:
        if not isinstance(self.global_batch_size, (list, tuple)):  # a plain number, in Python
            self.global_batch_size = [str(self.global_batch_size)]
        if self.global_batch_size and self.gradient_accumulation_steps != 1:
            raise ValueError("global_batch_size and gradient_accumulation_steps are both set; leave one out")
        _ = self.batch_stages  # which refuses what makes no sense

    @property
    def batch_stages(self) -> list[BatchStage]:
        """Sizes of the global batch; empty where `global_batch_size` is not set."""
        if not self.global_batch_size:
            return []
        return read_stages(self.global_batch_size, "global_batch_size", self.max_steps)

    def to_dict(self) -> dict:
        """All arguments as plain values, without an accumulation that follows from `global_batch_size`."""
        values = super().to_dict()
        if self.global_batch_size:
            values["gradient_accumulation_steps"] = 1
        return values

    @property
    def loading_config(self) -> AcceleratorConfig:
        """`accelerator_config`, which is built by now from what was given."""
        return cast(AcceleratorConfig, self.accelerator_config)

    @property
    def overhead_of_a_chunk(self) -> int:
        """`chunk_overhead`, or its default."""
        if self.chunk_overhead is not None:
            return self.chunk_overhead
        if self.torch_compile:
            return 10**9
        return 256 if self.device.type == "cpu" else 4096

    @property
    def weight_of_unmasked(self) -> float:
        """What a residue that is not masked counts in the loss: 0 unless `loss_scope` is `all`."""
        return self.unmasked_weight if self.loss_scope == "all" else 0.0

    def _refuse_what_is_out_of_range(self) -> None:
        for name, least in (
            ("per_device_train_batch_size", 1),
            ("per_device_eval_batch_size", 1),
            ("gradient_accumulation_steps", 1),
            ("dataloader_num_workers", 0),
            ("learning_rate", 0),
            ("weight_decay", 0),
            ("max_grad_norm", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("learning_rate", "weight_decay", "noiser_learning_rate", "noiser_weight_decay"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {getattr(self, name)}")
        if self.max_steps < 0 and not 0 < self.num_train_epochs < math.inf:
            raise ValueError(
                f"num_train_epochs must be above 0 and finite, got {self.num_train_epochs}; or set max_steps"
            )
        if self.max_steps == 0:
            raise ValueError("max_steps is 0, so that nothing would be trained; -1 leaves the end to num_train_epochs")
        if self.save_strategy == SaveStrategy.STEPS and self.save_steps <= 0:
            raise ValueError(f"save_strategy is steps, and save_steps must be above 0, got {self.save_steps}")
        factor = Ramp(self.noiser_learning_rate_factor, "noiser_learning_rate_factor")
        if factor.values != [1.0] and self.lr_scheduler_type == SchedulerType.REDUCE_ON_PLATEAU:
            raise ValueError("noiser_learning_rate_factor does not go with lr_scheduler_type reduce_lr_on_plateau")

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
        check_precision(self)
        if self.packed_attention:
            check_packing(self)
        if not self.dataloader_in_order:
            raise ValueError("dataloader_in_order: false is not supported: a run could not be repeated")
        if self.auto_find_batch_size:
            raise ValueError("auto_find_batch_size is not supported: it would change the batches of both networks")
        if self.enable_jit_checkpoint:
            raise ValueError(
                "enable_jit_checkpoint is not supported: it writes checkpoints in place and in the middle of an "
                "update; SIGTERM and SIGINT are heeded without it"
            )
        if self.save_on_each_node:
            raise ValueError("save_on_each_node is not supported: process 0 alone writes checkpoints")
        self._refuse_what_nothing_pushes()
        if self.loading_config.split_batches:
            raise ValueError("split_batches is not supported: per_device_train_batch_size counts one process")
        if self.loading_config.dispatch_batches:
            raise ValueError("dispatch_batches is not supported: batches of unequal lengths cannot be sent around")
        if not self.loading_config.even_batches:
            raise ValueError(
                "even_batches: false is not supported: a process without a batch would hold up the others"
            )

    def _refuse_what_nothing_pushes(self) -> None:
        """Options about the Hub in a run that pushes nothing to it, or not what they ask for."""
        if self.push_to_hub:
            if self.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
                if self.save_strategy == SaveStrategy.NO:
                    raise ValueError(
                        f"hub_strategy: {HubStrategy(self.hub_strategy).value} needs checkpoints; set save_strategy"
                    )
            return
        defaults = {f.name: f.default for f in fields(self)}
        for name in ("hub_model_id", "hub_strategy", "hub_always_push", "hub_revision"):
            if getattr(self, name) != defaults[name]:
                raise ValueError(f"{name} is set, but has an effect with push_to_hub: true only")
