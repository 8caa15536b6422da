"""Which options may change when a run resumes, and what a change means.

[`RULES`] is the one table: every option of a recipe is in it once. The page docs/resuming.md shows it.
"""

import enum
from dataclasses import dataclass

from adversarial_mlm.utils.tables import markdown_table


class Effect(enum.Enum):
    """What happens to an option whose value changes when a run resumes."""

    TAKES_EFFECT = "takes effect"
    WARNS = "takes effect, with a warning"
    SAME_DATA = "refused if the training proteins change"
    REFUSED = "refused"
    UNLISTED = "takes effect, not listed in the card"  # because it does not concern the trained weights


@dataclass(frozen=True)
class Rule:
    """What a change of some options means.

    Attributes:
        effect: What happens.
        options: Names of the options.
        meaning: A sentence for the documentation, without a full stop. The warning about a change contains it, too.
        trains: Whether the options only have an effect on further updates.
    """

    effect: Effect
    options: tuple[str, ...]
    meaning: str
    trains: bool = False


OF_POSITIONS = ("span_length", "mask_weights", "mask_weights_column")
"""Options of ways of choosing positions without a noiser."""

MASKS = (
    *("adversarial_rate", "random_rate", "mask_options", "learned_options", "sampler", "selection", "gated"),
    *("temperature", "candidate_rate", "adversarial_share", "mask_rate", "mask_rate_curve", "protein_share"),
    *OF_POSITIONS,
)
"""Options that change what is masked."""

BATCHES = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "global_batch_size"),
    "dataloader_drop_last",
)
"""Options that change which records an update reads."""

HELD_OUT_PROTEINS = ("validation_data", "max_eval_records")
"""Options that change which proteins are held out, but not which of the others are trained on."""

_EVALUATION_MASKS = ("eval_mask_rate", "eval_mask_seed")
_BEST = ("metric_for_best_model", "greater_is_better")

EVALUATION = (*HELD_OUT_PROTEINS, *_EVALUATION_MASKS, *_BEST)
"""Options after whose change the best checkpoint so far cannot be compared with later ones."""

RULES = (
    # ---- training ----
    Rule(
        Effect.TAKES_EFFECT,
        (
            *("learning_rate", "noiser_learning_rate", "weight_decay", "noiser_weight_decay"),
            *("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "noiser_max_grad_norm"),
        ),
        "the new value counts from the first update after the checkpoint; the optimizer keeps its moments",
        trains=True,
    ),
    Rule(
        Effect.TAKES_EFFECT,
        (
            *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "max_steps", "num_train_epochs"),
            "noiser_learning_rate_factor",
        ),
        "the schedule is computed anew for the whole run, and the run continues at its step in it",
        trains=True,
    ),
    Rule(
        Effect.TAKES_EFFECT,
        MASKS,
        "the new masks begin after the checkpoint, and so does the loss on random masks that the collapse alarm "
        "compares with",
        trains=True,
    ),
    Rule(
        Effect.TAKES_EFFECT,
        ("loss_scope", "unmasked_weight", "importance_exponent", "neftune_noise_alpha"),
        "the new loss begins after the checkpoint",
        trains=True,
    ),
    Rule(
        Effect.TAKES_EFFECT,
        (
            *("noiser_update", "noiser_every", "reversal_strength", "noiser_reward", "slow_encoder_decay"),
            "encoder_dropout_in_noiser_phase",
        ),
        "the noiser is trained in the new way after the checkpoint; `value@step` points count from the start of the "
        "run; a change to `noiser_reward: reducible` is refused, because the checkpoint has no slow encoder",
        trains=True,
    ),
    Rule(
        Effect.TAKES_EFFECT,
        (*("loss_weights", "learnability_share", "soft_targets", "teacher", "reference_model", "teacher_decay"),),
        "the new loss begins after the checkpoint; a change to `teacher: ema` is refused, because the checkpoint has "
        "no moving average",
        trains=True,
    ),
    Rule(
        Effect.TAKES_EFFECT,
        ("max_length",),
        "later windows have the new length; refused if it changes the number of positions of a new encoder",
        trains=True,
    ),
    Rule(
        Effect.TAKES_EFFECT,
        (
            *("bf16", "tf32", "use_cpu", "torch_compile", "torch_compile_backend", "torch_compile_mode"),
            *("activation_checkpointing", "activation_checkpointing_kwargs", "gradient_checkpointing"),
            *("gradient_checkpointing_kwargs", "chunk_overhead", "tokens_per_micro_batch"),
            *("packed_attention", "quick_cpu_dropout"),
        ),
        "updates are computed in the new way; rounding and the random numbers of dropout may differ",
        trains=True,
    ),
    # ---- the position in the data ----
    Rule(
        Effect.WARNS,
        BATCHES,
        "the position in the data is that of a run that had these options from its start, so records may be read "
        "twice or left out; there is no warning if an update has the same records as before",
        trains=True,
    ),
    Rule(
        Effect.WARNS,
        ("noiser_steps", "encoder_steps", "shared_phase_counter"),
        "the noiser's updates are numbered as if the run had this cycle from its start, so its batches and its noise "
        "may be repeated or left out",
        trains=True,
    ),
    Rule(
        Effect.SAME_DATA,
        (
            *("train_data", "sequence_column", "id_column", "dataset_split", "dataset_config", "min_length"),
            *("allow_nucleotides", "cluster_table", "holdout_families", "holdout_members", "holdout_random"),
            "holdout_seed",
        ),
        "a position has no meaning in other data, but the files may be elsewhere; the records of a stream cannot be "
        "compared, so there is a warning instead",
    ),
    # ---- what cannot change ----
    Rule(
        Effect.REFUSED,
        ("seed", "data_seed", "train_sampling_strategy", "streaming"),
        "the order of the data, the masks and the windows follow from it",
    ),
    Rule(
        Effect.REFUSED,
        (
            *("masking", "encoder", "noiser", "noiser_view", "noiser_backbone", "trained_layers", "dropout"),
            *("peft", "lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules"),
        ),
        "the networks of the checkpoint have this form, or its masks were chosen in this way",
    ),
    Rule(
        Effect.REFUSED,
        ("optim", "optim_args", "optim_target_modules", "fp16"),
        "the states of optimizer and loss scaler in the checkpoint have this form",
    ),
    # ---- evaluation, and where the run started ----
    Rule(
        Effect.WARNS,
        ("model_name_or_path", "model_revision", "noiser_name_or_path"),
        "the weights are those of the checkpoint; this option only gives the form of the network, and the card names "
        "the model that the run started from",
    ),
    Rule(
        Effect.WARNS,
        HELD_OUT_PROTEINS,
        "later evaluations use other proteins, and the best checkpoint is chosen anew; there is no warning if the "
        "proteins are the same; refused if proteins leave or join the training set",
    ),
    Rule(
        Effect.WARNS,
        _EVALUATION_MASKS,
        "figures from before and after cannot be compared; the best checkpoint is chosen anew",
    ),
    Rule(
        Effect.UNLISTED,
        _BEST,
        "the best checkpoint is chosen anew",
    ),
    Rule(
        Effect.UNLISTED,
        (
            *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "per_device_eval_batch_size"),
            *("eval_accumulation_steps", "background_gate", "probe_tasks", "probe_data_dir", "probe_steps"),
            *("probe_max_records", "noiser_cosine_steps", "eval_context_gap"),
        ),
        "later evaluations follow the new value",
    ),
    # ---- saving, logging, the machine ----
    Rule(
        Effect.UNLISTED,
        (
            *("save_strategy", "save_steps", "save_total_limit", "save_only_model", "load_best_model_at_end"),
            *("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push"),
            *("hub_revision", "data_license", "model_license", "merge_adapter"),
        ),
        "later saves and pushes follow the new value",
    ),
    Rule(
        Effect.UNLISTED,
        (
            *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_level"),
            *("log_level_replica", "log_on_each_node", "disable_tqdm", "report_to", "run_name", "project"),
            *("trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "include_num_input_tokens_seen"),
            *("skip_memory_metrics", "report"),
        ),
        "the later log and report follow the new value",
    ),
    Rule(
        Effect.UNLISTED,
        ("collapse_margin", "collapse_enrichment", "on_collapse", "max_skipped_updates"),
        "the later alarms and limits follow the new value",
    ),
    Rule(
        Effect.UNLISTED,
        (
            *("dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"),
            *("dataloader_prefetch_factor", "dataloader_multiprocessing_context", "cache_dir", "accelerator_config"),
            *("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph"),
            *("ddp_backend", "ddp_timeout", "local_rank", "torch_empty_cache_steps", "full_determinism"),
        ),
        "how processes and workers share the work does not change which records an update reads",
    ),
    Rule(
        Effect.UNLISTED,
        (
            *("output_dir", "overwrite_output_dir", "resume_from_checkpoint"),
            "restore_callback_states_from_checkpoint",
        ),
        "it concerns this start of the run",
    ),
    Rule(Effect.UNLISTED, ("preset",), "the options that it sets are compared one by one"),
    Rule(
        Effect.UNLISTED,
        (
            *("remove_unused_columns", "label_names", "length_column_name", "include_for_metrics"),
            *("batch_eval_metrics", "prediction_loss_only", "eval_do_concat_batches", "eval_use_gather_object"),
            *("use_cache", "average_tokens_across_devices", "do_train", "do_eval", "do_predict"),
        ),
        "it has no effect in any run",
    ),
    Rule(
        Effect.UNLISTED,
        (
            *("deepspeed", "fsdp", "fsdp_config", "parallelism_config", "auto_find_batch_size", "save_on_each_node"),
            *("label_smoothing_factor", "bf16_full_eval", "fp16_full_eval", "dataloader_in_order"),
            *("enable_jit_checkpoint", "ignore_data_skip", "use_liger_kernel", "liger_kernel_config", "debug"),
        ),
        "another value than the default is refused in every run, or has no effect",
    ),
)

_UNKNOWN = Rule(Effect.WARNS, (), "it is not known whether it has an effect on a run that resumes")
_RULE_OF = {name: rule for rule in RULES for name in rule.options}


def known_options() -> list[str]:
    """Names of all options in the table, in its order."""
    return [name for rule in RULES for name in rule.options]


def rule_of(option: str) -> Rule:
    """The rule of an option; one that warns if a later version of a library added the option."""
    return _RULE_OF.get(option, _UNKNOWN)


def documentation() -> str:
    """The table of docs/resuming.md, in Markdown."""
    rows = [(", ".join(f"`{name}`" for name in rule.options), rule.effect.value, rule.meaning) for rule in RULES]
    return markdown_table(("option", "if it changes", "meaning"), rows)
