"""Arguments of [`AdversarialMLMTrainer`]."""

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, cast

from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SaveStrategy, SchedulerType

from adversarial_mlm.training.batch_schedule import BatchStage, read_stages
from adversarial_mlm.training.launch_checks import check_launcher, join_on_cpu, leave_mps
from adversarial_mlm.training.noiser_schedule import UPDATES
from adversarial_mlm.training.older_transformers import StockArguments
from adversarial_mlm.training.option_forms import check_forms
from adversarial_mlm.training.packed_attention import wants_packing
from adversarial_mlm.training.precision import check_precision, resolve_precision
from adversarial_mlm.training.rewards import REWARDS
from adversarial_mlm.training.teacher_options import TeacherOptions
from adversarial_mlm.training.unsupported_options import refuse_unsupported
from adversarial_mlm.utils.ramp import Ramp

_LOSS_SCOPES = ("masked", "all")
_ON_COLLAPSE = ("warn", "stop")


@dataclass
class AdversarialMLMTrainingArguments(TeacherOptions, StockArguments):
    """Arguments of [`AdversarialMLMTrainer`]: those of `TrainingArguments`, of [`TeacherOptions`], and of the noiser.

    A step is one update of the encoder. `max_steps`, `warmup_steps`, `logging_steps`, `eval_steps` and `save_steps`
    count steps. Updates of the noiser come between steps and are not counted.

    A *ramp* is an option that may change during training. It is one number, or `value@step` points that are joined by
    straight lines: `0@0 1@1000` rises from 0 to 1 during the first 1,000 steps and then stays 1.

    Args:
        global_batch_size (`list[str]`, *optional*): Sequences per update, over all processes. It sets
            `gradient_accumulation_steps`, which must be left out. One number, or `size@step` points such as
            `128@0 256@800000`; a step may be a share of `max_steps`, as in `128@0 256@80%`. The batches of both
            networks change size at these steps; the learning rate does not change. Each size must be a multiple of
            `per_device_train_batch_size` times the number of processes.
        noiser_update (`str`, *optional*, defaults to `"alternate"`): How the noiser is trained. `"alternate"`:
            `noiser_steps` updates of the noiser, then `encoder_steps` updates of the encoder, and so on (Algorithm 5).
            `"reversal"`: one forward and one backward pass train both networks. A gradient reversal between encoder
            and noiser changes the sign of the noiser's gradient. `"none"`: the noiser masks but is not trained.
        noiser_steps (`int`, *optional*, defaults to 10): With `noiser_update: alternate`: noiser updates per cycle
            (`n_noiser` of Algorithm 5).
        encoder_steps (`int`, *optional*, defaults to 10): With `noiser_update: alternate`: encoder updates per cycle
            (`n_encoder` of Algorithm 5).
        shared_phase_counter (`bool`, *optional*, defaults to `False`): With `noiser_update: alternate`: count the
            updates of both networks together, as Algorithm 5 is printed. A phase then ends when this count is a
            multiple of its length. This only differs if `noiser_steps` and `encoder_steps` differ.
        noiser_every (`int`, *optional*, defaults to 1): With `noiser_update: reversal`: train the noiser at every n-th
            step only.
        reversal_strength (ramp, *optional*, defaults to 1): With `noiser_update: reversal`: factor λ of the noiser's
            gradient. AdamW cancels a positive constant λ, except for clipping; it matters where λ changes. With a
            negative λ the noiser helps the encoder. On the command line, write a negative value as
            `--reversal_strength="-1@0 1@1000"`.
        adversarial_share (ramp from 0 to 1, *optional*, defaults to 1): Share of the `adversarial_rate` for which the
            noiser chooses the positions. The rest is chosen at random, so the mask rate does not change. While it is
            0, the noiser is neither run nor trained.
        noiser_reward (`str`, *optional*, defaults to `"loss"`): What the noiser maximises: `"loss"`, `"surprise"`,
            `"reducible"`, `"credit"`, `"predictor"` or `"learnability"`, see [`rewards`]. The last one is that of
            `masking: chosen_proteins`.
        slow_encoder_decay (`float`, *optional*, defaults to 0.99): With `noiser_reward: reducible`: decay of the
            moving average of the encoder's weights.
        encoder_dropout_in_noiser_phase (`bool`, *optional*, defaults to `False`): With `noiser_update: alternate`:
            keep the encoder's dropout while the noiser is trained. By default it is off: the noiser is trained against
            the encoder as at inference. With `reversal`, the shared pass has the encoder's dropout.
        loss_scope (`str`, *optional*, defaults to `"masked"`): Residues whose cross-entropy is in the loss, for both
            networks. `"masked"`: the masked residues, including those that keep their token. `"all"`: all residues, as
            Algorithm 4 is printed.
        unmasked_weight (`float`, *optional*, defaults to 1.0): With `loss_scope: all`: weight of a residue that is not
            masked. A masked one has the weight 1.
        importance_exponent (`float`, *optional*, defaults to 0.0): β of the importance weights (ρ / q_i)^β of masked
            residues. Here ρ is the mask rate, and q_i the probability that residue i is masked, by the noiser or at
            random. With 1, the expected loss is that of uniform masking if the loss of a residue does not depend on
            the other masks. With 0 there are no weights. No gradient passes through the weights.
        noiser_learning_rate (`float`, *optional*, defaults to 1e-4): Peak learning rate of the noiser. It follows the
            encoder's schedule at the encoder's step: with warm-up, it is 0 in the first cycle.
        noiser_learning_rate_factor (ramp, *optional*, defaults to 1): Factor of the noiser's learning rate, in
            addition to the schedule. `0@0 1@500` is a warm-up of the noiser alone.
        noiser_weight_decay (`float`, *optional*, defaults to 0.01): Weight decay of the noiser.
        noiser_max_grad_norm (`float`, *optional*, defaults to 1.0): Norm at which the noiser's gradient is clipped; 0
            for no clipping. For the encoder, use `max_grad_norm`.
        chunk_overhead (`int`, *optional*): Split a batch into chunks of proteins of similar length if each split saves
            more than this many tokens of padding. The result is the same, apart from rounding and the random numbers
            of dropout. Defaults to 256 on a CPU. On a GPU it defaults to the tokens that could be read while the host
            launches one more chunk, an estimate from the size of the encoder (3,100 for `tape-38m`). With
            `torch_compile`, the default is not to split, because every number of rows would be compiled anew. A number
            above the tokens of a batch never splits.
        tokens_per_micro_batch (`int`, *optional*): Cut the rows of an update into parts of at most so many tokens, and
            read one part at once. Padding counts where batches are padded. An update has the same proteins and result
            as without it, apart from rounding and the random numbers of dropout. By default, each micro-batch of
            `per_device_train_batch_size` rows is read on its own. On a GPU, use the largest number that fits into its
            memory, such as 65,536.
        packed_attention (`bool`, *optional*): Give the encoder all proteins of a batch in one row without padding;
            each protein attends only to itself. This needs a GPU (Ampere or later), an encoder with
            `attn_implementation` `sdpa`, and no `activation_checkpointing`. A check at the start compares its logits
            and gradients with those of padded rows. By default it is on where all this is given; otherwise the log
            says why not. Batches are then only split if `chunk_overhead` is given. Noiser, slow encoder and evaluation
            use padding.
        quick_cpu_dropout (`bool`, *optional*, defaults to `True`): On a CPU, draw dropout from 16 random bits per
            value. Steps are 1.2 times faster in fp32 and 1.6 times in bf16. It has no effect on other devices, with
            `torch_compile` or with `activation_checkpointing`.
        eval_mask_rate (`float`, *optional*, defaults to 0.15): Share of the residues that evaluation replaces by
            [MASK].
        eval_mask_seed (`int`, *optional*, defaults to 2021): Seed of evaluation: of its masks and of the windows of
            proteins that are too long. Runs with the same rate and seed are evaluated on the same residues.
        eval_context_gap (`bool`, *optional*, defaults to `False`): In evaluations, also compute the cross-entropy with
            50 % of a protein hidden minus that with 15 % hidden. It takes two more passes.
        collapse_margin (`float`, *optional*, defaults to 0.05): Rise of the loss on random masks (mean of three log
            entries) above its best, in nats. A collapse is reported if the rise is larger than this, and if
            `certain_enrichment` is above `collapse_enrichment`.
        collapse_enrichment (`float`, *optional*, defaults to 2.0): See `collapse_margin`. `certain_enrichment` says
            how many times as often as its share one residue is masked at least. A high value alone does no harm.
        on_collapse (`str`, *optional*, defaults to `"warn"`): What to do at a collapse: `"warn"`, or `"stop"` the run.
        max_skipped_updates (`int`, *optional*, defaults to 20): Updates with a loss or gradient that is not finite are
            skipped on all processes and counted. If the last n updates of a network were all skipped, the run stops
            at the next log entry. It lists the records of their batches in `nonfinite_records.json`. 0 for never. With
            `fp16`, up to 16 skipped updates in a row are normal: the scaler halves its scale from 65,536 until it
            fits.
        noiser_cosine_steps (`int`, *optional*, defaults to 100): Every n steps, compare the noiser's gradients on two
            halves of a batch and log their cosine (`noiser_cosine`). Near 0, the gradient is noise. 0 for never.

    Defaults that differ from `TrainingArguments`:

    - `learning_rate` is 1e-4 and `weight_decay` 0.01, as in the paper.
    - `bf16` and `tf32` are on where all GPUs have them (Ampere or later), and off elsewhere. What is switched on is
      logged. `bf16: false` and `tf32: false` switch them off.
    - `logging_nan_inf_filter` is `False`: the filter would wait for the device at every micro-batch.
    - `ddp_find_unused_parameters` and `ddp_broadcast_buffers` are `False`: all parameters are used, and no buffer
      changes.
    - `dispatch_batches` is `False`: every process reads its own part of a stream, because batches have unequal
      lengths.

    Options that work differently:

    - `remove_unused_columns` has no effect: the collator takes the columns that it needs.
    - `train_sampling_strategy: sequential` concerns the encoder. The noiser's batches are always shuffled.
    - `activation_checkpointing` and `torch_compile` concern the encoder, also while the noiser is trained. They do not
      change the noiser. Activation checkpoints are never reentrant. `torch_compile` also compiles random masks, which
      stay the same; the log says what is not compiled.

    Raises:
        ValueError: If a value is out of range, if options contradict each other, if an option is set that has no
            effect, or if this trainer does not support an option of `TrainingArguments`.
    """

    if TYPE_CHECKING:
        output_dir: str = ""  # `TrainingArguments` declares it as optional, but always has one

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of the encoder."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of the encoder."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave losses that are not finite out of the logged mean."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Passed to DistributedDataParallel."}
    )
    ddp_broadcast_buffers: bool | None = field(default=False, metadata={"help": "Passed to DistributedDataParallel."})
    bf16: bool | None = field(  # type: ignore[assignment]  # not set means: by the hardware
        default=None,
        metadata={"help": "Compute both networks in bfloat16 where that is safe; by default on GPUs that have it."},
    )
    tf32: bool | None = field(
        default=None, metadata={"help": "Use TF32 in float32 matrix products; by default on GPUs that have it."}
    )
    global_batch_size: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Sequences per update over all processes: a number, or size@step points such as 128@0 256@80%."
        },
    )
    noiser_update: str = field(
        default="alternate",
        metadata={
            "help": "How the noiser is trained: alternate, reversal (one backward pass for both networks) or none.",
            "choices": UPDATES,
        },
    )
    noiser_steps: int = field(default=10, metadata={"help": "alternate: noiser updates per cycle."})
    encoder_steps: int = field(default=10, metadata={"help": "alternate: encoder updates per cycle."})
    shared_phase_counter: bool = field(
        default=False,
        metadata={"help": "alternate: count the updates of both networks together, as Algorithm 5 is printed."},
    )
    noiser_every: int = field(default=1, metadata={"help": "reversal: train the noiser at every n-th step."})
    reversal_strength: list[str] = field(
        default_factory=lambda: ["1"],
        metadata={"help": "reversal: factor of the noiser's gradient, a number or value@step points."},
    )
    adversarial_share: list[str] = field(
        default_factory=lambda: ["1"],
        metadata={
            "help": "Share of adversarial_rate that the noiser chooses (rest: random), a number or value@step points."
        },
    )
    noiser_reward: str = field(
        default="loss",
        metadata={"help": f"What the noiser maximises: {', '.join(REWARDS)}.", "choices": tuple(REWARDS)},
    )
    slow_encoder_decay: float = field(
        default=0.99, metadata={"help": "noiser_reward reducible: decay of the moving average of the encoder."}
    )
    encoder_dropout_in_noiser_phase: bool = field(
        default=False, metadata={"help": "alternate: keep the encoder's dropout while the noiser is trained."}
    )
    loss_scope: str = field(
        default="masked", metadata={"help": "Residues in the loss: masked or all.", "choices": _LOSS_SCOPES}
    )
    unmasked_weight: float = field(
        default=1.0, metadata={"help": "loss_scope all: weight of residues that are not masked."}
    )
    importance_exponent: float = field(
        default=0.0, metadata={"help": "Exponent of the importance weights; 0 for no weights."}
    )
    noiser_learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of the noiser."})
    noiser_learning_rate_factor: list[str] = field(
        default_factory=lambda: ["1"],
        metadata={"help": "Factor of the noiser's learning rate, a number or value@step points."},
    )
    noiser_weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of the noiser."})
    noiser_max_grad_norm: float = field(
        default=1.0, metadata={"help": "Norm at which the noiser's gradient is clipped; 0 for no clipping."}
    )
    chunk_overhead: int | None = field(
        default=None,
        metadata={"help": "Split a batch by length if each split saves more than this many tokens of padding."},
    )
    tokens_per_micro_batch: int | None = field(
        default=None,
        metadata={"help": "Read so many tokens at once, cut from all rows of an update; by default, micro-batches."},
    )
    packed_attention: bool | None = field(
        default=None,
        metadata={
            "help": "Give the encoder all proteins of a batch in one row without padding; by default on GPUs that can."
        },
    )
    quick_cpu_dropout: bool = field(
        default=True, metadata={"help": "On a CPU, draw dropout from 16 random bits per value, which is faster."}
    )
    eval_mask_rate: float = field(default=0.15, metadata={"help": "Share of the residues that evaluation masks."})
    eval_mask_seed: int = field(default=2021, metadata={"help": "Seed of the masks of evaluation."})
    eval_context_gap: bool = field(
        default=False, metadata={"help": "Evaluate cross-entropy at 50 % masks minus that at 15 %; costs two passes."}
    )

    collapse_margin: float = field(
        default=0.05,
        metadata={
            "help": "Rise of the loss on random masks, in nats, that counts as a collapse; see collapse_enrichment."
        },
    )
    collapse_enrichment: float = field(
        default=2.0,
        metadata={"help": "A rise is a collapse only if a residue is masked this many times as often as its share."},
    )
    on_collapse: str = field(
        default="warn", metadata={"help": "What to do at a collapse: warn or stop.", "choices": _ON_COLLAPSE}
    )
    max_skipped_updates: int = field(
        default=20, metadata={"help": "Stop after this many skipped updates in a row (not finite); 0 for never."}
    )
    noiser_cosine_steps: int = field(
        default=100,
        metadata={"help": "Log the cosine of the noiser's gradients on two half batches every n steps; 0 for never."},
    )

    def __post_init__(self):
        for name in ("deepspeed", "fsdp"):  # before they are set up, which needs packages and processes
            if getattr(self, name):
                raise ValueError(
                    f"{name} is not supported, because it prepares one network only: use DistributedDataParallel "
                    "(accelerate launch or torchrun)"
                )
        check_launcher()
        check_forms(self)
        leave_mps(self)
        join_on_cpu(self)
        resolve_precision(self)
        super().__post_init__()
        self._check_game()
        self.check_teacher()
        for name in ("noiser_steps", "encoder_steps", "noiser_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in (
            *("noiser_learning_rate", "noiser_weight_decay", "noiser_max_grad_norm", "unmasked_weight"),
            *("importance_exponent", "collapse_margin", "collapse_enrichment", "noiser_cosine_steps"),
            "max_skipped_updates",
        ):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.eval_mask_rate < 1:
            raise ValueError(f"eval_mask_rate must be between 0 and 1, got {self.eval_mask_rate}")
        self._check_ranges()
        self._check_batch()
        check_precision(self)
        wants_packing(self, self.packed_attention)  # raises if it was asked for and cannot be
        refuse_unsupported(self, self.loading_config)
        if self.loading_config.dispatch_batches is None:
            # by accelerate's default, process 0 reads a stream for all, which needs batches of equal lengths
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
                raise ValueError(f"adversarial_share must be between 0 and 1, got {' '.join(self.adversarial_share)}")
        self._refuse_without_effect()
        if not 0 <= self.slow_encoder_decay < 1:
            raise ValueError(f"slow_encoder_decay must be at least 0 and below 1, got {self.slow_encoder_decay}")

    def _refuse_without_effect(self) -> None:
        """Refuse options that are set but have no effect with the other options."""
        defaults = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(self)}
        if self.noiser_update == "none" and self.noiser_reward != defaults["noiser_reward"]:
            raise ValueError(
                "noiser_reward only has an effect if the noiser is trained, but noiser_update is none: leave out one"
            )
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
                    f"{option} only has an effect with {of}: {value}, but {of} is {getattr(self, of)}: leave out "
                    f"{option}, or change {of}"
                )

    def _check_batch(self) -> None:
        if not isinstance(self.global_batch_size, (list, tuple)):  # a plain number, in Python
            self.global_batch_size = [str(self.global_batch_size)]
        if self.global_batch_size and self.gradient_accumulation_steps != 1:
            raise ValueError(
                "global_batch_size and gradient_accumulation_steps are both set: leave out one of them, or use "
                "gradient_accumulation_steps: 1"
            )
        _ = self.batch_stages  # raises if the sizes cannot be read

    @property
    def batch_stages(self) -> list[BatchStage]:
        """Sizes of the global batch; empty if `global_batch_size` is not set."""
        if not self.global_batch_size:
            return []
        return read_stages(self.global_batch_size, "global_batch_size", self.max_steps)

    def to_dict(self) -> dict:
        """Return all arguments as plain values, without an accumulation that `global_batch_size` sets."""
        values = {**super().to_dict(), "bf16": bool(self.bf16)}
        if self.global_batch_size:
            values["gradient_accumulation_steps"] = 1
        return values

    @property
    def loading_config(self) -> AcceleratorConfig:
        """`accelerator_config` as the object that `TrainingArguments` makes from it."""
        return cast(AcceleratorConfig, self.accelerator_config)

    @property
    def has_teacher(self) -> bool:
        """Whether a teacher is used in any update, of the encoder or of the noiser."""
        return self.teaches_encoder or REWARDS[self.noiser_reward].needs_teacher

    @property
    def overhead_of_a_chunk(self) -> int:
        """`chunk_overhead`, or its default for a CPU, see [`micro_batches.overhead_of_a_chunk`]."""
        if self.chunk_overhead is not None:
            return self.chunk_overhead
        if self.torch_compile:
            return 10**9
        return 256

    @property
    def weight_of_unmasked(self) -> float:
        """Weight in the loss of a residue that is not masked: 0 unless `loss_scope` is `all`."""
        return self.unmasked_weight if self.loss_scope == "all" else 0.0

    def _check_ranges(self) -> None:
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
            raise ValueError("max_steps is 0: use 1 or more, or -1 to train for num_train_epochs")
        if self.save_strategy == SaveStrategy.STEPS and self.save_steps <= 0:
            raise ValueError(f"save_steps must be above 0 with save_strategy: steps, got {self.save_steps}")
        factor = Ramp(self.noiser_learning_rate_factor, "noiser_learning_rate_factor")
        if factor.values != [1.0] and self.lr_scheduler_type == SchedulerType.REDUCE_ON_PLATEAU:
            raise ValueError(
                "noiser_learning_rate_factor cannot be combined with lr_scheduler_type: reduce_lr_on_plateau: leave "
                "out one of them"
            )
