"""What options of a recipe are called in other tools, and in earlier versions of transformers."""

_BOTH_RATES = "the mask rate is the sum of adversarial_rate and random_rate (masking: random makes all masks random)"
_TOKENIZER = "an encoder's own tokenizer is used, that of model_name_or_path"
_SIZES = "the size of a new encoder is set by encoder (tape-38m, tape-92m, small or tiny)"
_NO_CODE = "code that comes with a model or dataset is never run"
_LINES = "train_data has one protein in each record; text files without a format are not read"

OTHER_NAMES = {
    # data
    **dict.fromkeys(("train_file", "train_files", "training_file", "train_data_file", "train_path"), "train_data"),
    **dict.fromkeys(
        ("data", "data_path", "data_file", "data_files", "data_dir", "dataset", "dataset_name"), "train_data"
    ),
    **dict.fromkeys(("fasta", "fasta_file", "input", "input_file", "corpus", "train_dataset"), "train_data"),
    **dict.fromkeys(("validation_file", "valid_file", "val_file", "eval_file", "eval_data_file"), "validation_data"),
    **dict.fromkeys(
        ("val_data", "valid_data", "eval_data", "dev_data", "test_data", "eval_dataset"), "validation_data"
    ),
    **dict.fromkeys(("dataset_config_name", "config_name_of_dataset", "subset"), "dataset_config"),
    "split": "dataset_split",
    **dict.fromkeys(("text_column", "text_column_name", "column", "seq_column", "sequence_col"), "sequence_column"),
    **dict.fromkeys(("validation_split_percentage", "validation_split", "val_split", "holdout"), "holdout_random"),
    **dict.fromkeys(("max_eval_samples", "eval_samples", "max_val_samples"), "max_eval_records"),
    **dict.fromkeys(("clusters", "cluster_file", "clusters_file", "cluster_tsv"), "cluster_table"),
    **dict.fromkeys(("max_seq_length", "max_seq_len", "max_len", "block_size", "model_max_length"), "max_length"),
    **dict.fromkeys(("sequence_length", "seq_length", "seq_len", "context_length"), "max_length"),
    "min_len": "min_length",
    **dict.fromkeys(("line_by_line", "pad_to_max_length", "whole_word_mask"), _LINES),
    **dict.fromkeys(
        ("overwrite_cache", "preprocessing_num_workers"),
        "data are read into cache_dir once, or prepared by adv-mlm prepare --workers",
    ),
    # networks
    **dict.fromkeys(
        ("model", "model_path", "model_name", "pretrained", "checkpoint", "init_from"), "model_name_or_path"
    ),
    **dict.fromkeys(("revision", "model_version"), "model_revision"),
    **dict.fromkeys(("tokenizer", "tokenizer_name", "tokenizer_path", "use_fast_tokenizer"), _TOKENIZER),
    **dict.fromkeys(("model_type", "config_name", "config_overrides", "hidden_size", "num_hidden_layers"), _SIZES),
    **dict.fromkeys(("num_layers", "n_layers", "num_attention_heads", "num_heads", "vocab_size"), _SIZES),
    **dict.fromkeys(("model_size", "encoder_size", "size"), "encoder"),
    **dict.fromkeys(("noiser_size", "masker", "masker_size"), "noiser"),
    **dict.fromkeys(("noiser_path", "masker_path"), "noiser_name_or_path"),
    **dict.fromkeys(("trust_remote_code",), _NO_CODE),
    **dict.fromkeys(
        ("encoder_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_dropout", "dropout_prob"),
        "dropout",
    ),
    **dict.fromkeys(("use_peft", "peft_type", "use_lora", "lora", "adapter"), "peft"),
    **dict.fromkeys(("lora_r", "r", "rank"), "lora_rank"),
    **dict.fromkeys(("target_modules", "lora_targets"), "lora_target_modules"),
    **dict.fromkeys(("merge_lora", "merge_and_unload"), "merge_adapter"),
    **dict.fromkeys(("freeze_layers", "unfrozen_layers", "num_trained_layers"), "trained_layers"),
    # masks
    **dict.fromkeys(("mlm_probability", "mlm_prob", "masked_lm_prob", "mask_prob", "mask_probability"), _BOTH_RATES),
    **dict.fromkeys(("masking_rate", "mask_ratio", "masking_ratio"), "mask_rate"),
    "mask_rate_schedule": "mask_rate",
    **dict.fromkeys(("masking_strategy", "mask_strategy"), "masking"),
    "mask_token_prob": "mask_options",
    **dict.fromkeys(("noiser_rate", "adversarial_mask_rate"), "adversarial_rate"),
    **dict.fromkeys(("random_mask_rate",), "random_rate"),
    **dict.fromkeys(("tau", "gumbel_temperature"), "temperature"),
    # batches and length of the run
    **dict.fromkeys(
        ("batch_size", "train_batch_size", "per_gpu_train_batch_size", "bs"), "per_device_train_batch_size"
    ),
    **dict.fromkeys(("micro_batch_size", "per_gpu_batch_size", "mbs"), "per_device_train_batch_size"),
    **dict.fromkeys(("eval_batch_size", "per_gpu_eval_batch_size", "val_batch_size"), "per_device_eval_batch_size"),
    **dict.fromkeys(("total_batch_size", "effective_batch_size"), "global_batch_size"),
    **dict.fromkeys(
        (
            "gradient_accumulation",
            "grad_accum",
            "grad_accumulation_steps",
            "accumulation_steps",
            "accumulate_grad_batches",
        ),
        "gradient_accumulation_steps",
    ),
    **dict.fromkeys(("epochs", "num_epochs", "n_epochs", "max_epochs", "train_epochs"), "num_train_epochs"),
    **dict.fromkeys(
        ("steps", "num_steps", "train_steps", "total_steps", "max_updates", "num_train_steps"), "max_steps"
    ),
    **dict.fromkeys(("workers", "num_workers", "n_workers"), "dataloader_num_workers"),
    "group_by_length": "batches are cut by length by themselves (chunk_overhead)",
    # optimizer and schedule
    **dict.fromkeys(("lr", "learn_rate", "peak_lr", "max_lr"), "learning_rate"),
    **dict.fromkeys(("noiser_lr", "masker_lr"), "noiser_learning_rate"),
    **dict.fromkeys(("wd", "decay"), "weight_decay"),
    **dict.fromkeys(("optimizer", "optimiser", "optimizer_type"), "optim"),
    **dict.fromkeys(("optimizer_kwargs", "optim_kwargs", "optimizer_args"), "optim_args"),
    **dict.fromkeys(("beta1", "adam_beta_1"), "adam_beta1"),
    **dict.fromkeys(("beta2", "adam_beta_2"), "adam_beta2"),
    **dict.fromkeys(("eps", "adam_eps", "epsilon"), "adam_epsilon"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "schedule", "lr_schedule", "scheduler_type"), "lr_scheduler_type"),
    **dict.fromkeys(("scheduler_kwargs", "lr_scheduler_args"), "lr_scheduler_kwargs"),
    **dict.fromkeys(("warmup", "num_warmup_steps", "warmup_updates"), "warmup_steps"),
    **dict.fromkeys(("warmup_ratio", "warmup_proportion"), "warmup_steps takes a share, too, such as 0.1"),
    **dict.fromkeys(("grad_clip", "clip_grad", "clip_grad_norm", "gradient_clip_val", "max_norm"), "max_grad_norm"),
    # device and precision
    **dict.fromkeys(("no_cuda", "cpu", "cpu_only"), "use_cpu"),
    **dict.fromkeys(
        ("cuda", "gpu", "gpus", "device", "use_cuda", "use_gpu"),
        "a GPU is used where there is one, unless use_cpu is true; accelerate launch starts several processes",
    ),
    **dict.fromkeys(("precision", "mixed_precision", "torch_dtype", "dtype", "amp"), "set bf16: true or fp16: true"),
    **dict.fromkeys(
        ("half", "fp16_opt_level", "fp16_backend", "half_precision_backend"), "set bf16: true or fp16: true"
    ),
    **dict.fromkeys(("compile", "torchdynamo"), "torch_compile"),
    **dict.fromkeys(
        ("checkpoint_activations", "activation_checkpoint", "grad_checkpointing"), "activation_checkpointing"
    ),
    # evaluation, saving and the log
    "evaluation_strategy": "eval_strategy",
    **dict.fromkeys(("eval_every", "eval_interval", "evaluate_every", "val_check_interval"), "eval_steps"),
    **dict.fromkeys(("save_every", "save_interval", "checkpoint_every", "checkpointing_steps"), "save_steps"),
    **dict.fromkeys(("log_every", "log_interval", "log_steps", "print_every"), "logging_steps"),
    **dict.fromkeys(("keep_last", "max_checkpoints", "save_total"), "save_total_limit"),
    **dict.fromkeys(("output", "out", "out_dir", "save_dir", "checkpoint_dir", "result_dir"), "output_dir"),
    "logging_dir": "the log is in output_dir; TensorBoard's folder is set by the variable TENSORBOARD_LOGGING_DIR",
    "save_safetensors": "weights are always saved as safetensors",
    **dict.fromkeys(("overwrite", "force"), "overwrite_output_dir"),
    **dict.fromkeys(("resume", "resume_from", "continue_from", "restart"), "resume_from_checkpoint"),
    **dict.fromkeys(("wandb", "use_wandb", "tracker", "logger"), "report_to"),
    **dict.fromkeys(("name", "exp_name", "experiment_name", "wandb_run_name"), "run_name"),
    **dict.fromkeys(("wandb_project", "project_name"), "project"),
    **dict.fromkeys(("random_seed", "rng_seed"), "seed"),
    **dict.fromkeys(("use_auth_token", "token", "push_to_hub_token"), "hub_token"),
    **dict.fromkeys(("push_to_hub_model_id", "repo_id", "hub_repo"), "hub_model_id"),
    **dict.fromkeys(("license", "licence"), "model_license"),
}
"""Options by these names, or a sentence where no option has the same effect; see [`did_you_mean`]."""
