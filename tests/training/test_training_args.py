import pytest

from adversarial_mlm import AdversarialMLMTrainingArguments


def make(tmp_path, **settings):
    return AdversarialMLMTrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True, **settings)


def test_the_defaults_are_the_papers(tmp_path):
    args = make(tmp_path)
    assert (args.noiser_steps, args.encoder_steps) == (10, 10)
    assert (args.learning_rate, args.noiser_learning_rate) == (1e-4, 1e-4)
    assert (args.weight_decay, args.noiser_weight_decay) == (0.01, 0.01)
    assert (args.max_grad_norm, args.noiser_max_grad_norm) == (1.0, 1.0)


@pytest.mark.parametrize(
    "settings",
    [
        {"noiser_steps": 0},
        {"encoder_steps": 0},
        {"noiser_learning_rate": -1.0},
        {"noiser_max_grad_norm": -1.0},
        {"eval_mask_rate": 1.0},
        {"train_sampling_strategy": "group_by_length"},
        {"label_smoothing_factor": 0.1},
        {"auto_find_batch_size": True},
        {"bf16_full_eval": True},
        {"deepspeed": "zero2.json"},
        {"fsdp": "full_shard"},
        {"accelerator_config": {"split_batches": True}},
        {"global_batch_size": 128, "gradient_accumulation_steps": 2},
        {"global_batch_size": ["128@0", "256@80%"]},
        {"global_batch_size": "plenty"},
        {"dataloader_in_order": False},
        {"noiser_update": "sometimes"},
        {"noiser_every": 0, "noiser_update": "reversal"},
        {"noiser_every": 2},
        {"noiser_reward": "credit", "noiser_update": "none"},
        {"noiser_steps": 5, "noiser_update": "reversal"},
        {"encoder_steps": 5, "noiser_update": "none"},
        {"noiser_learning_rate_factor": -1.0},
        {"noiser_learning_rate_factor": ["nan"]},
        {"reversal_strength": 0.5},
        {"shared_phase_counter": True, "noiser_update": "reversal"},
        {"encoder_dropout_in_noiser_phase": True, "noiser_update": "none"},
        {"unmasked_weight": 0.5},
        {"slow_encoder_decay": 0.5},
        {"noiser_reward": "lucre"},
        {"loss_scope": "some"},
        {"on_collapse": "panic"},
        {"adversarial_share": 1.5},
        {"adversarial_share": ["0@0", "2@9"]},
        {"reversal_strength": ["0@5", "1@5"], "noiser_update": "reversal"},
        {"importance_exponent": -1.0},
        {"unmasked_weight": -0.1, "loss_scope": "all"},
        {"slow_encoder_decay": 1.0, "noiser_reward": "reducible"},
        {"per_device_train_batch_size": 0},
        {"gradient_accumulation_steps": 0},
        {"dataloader_num_workers": -1},
        {"learning_rate": -1.0},
        {"max_grad_norm": -1.0},
        {"max_steps": 0},
        {"max_skipped_updates": -1},
        {"fp16": True},
        {"optim": "lomo"},
        {"optim": "galore_adamw_layerwise", "optim_target_modules": "all-linear"},
        {"torch_compile_mode": "reduce-overhead"},
        {"save_steps": 0, "save_strategy": "steps"},
        {
            "noiser_learning_rate_factor": ["0.5"],
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "eval_strategy": "steps",
        },
        {"hub_model_id": "me/it"},
        {"hub_strategy": "end"},
        {"hub_always_push": True},
        {"hub_revision": "trials"},
        {"hub_strategy": "checkpoint", "save_strategy": "no", "push_to_hub": True},
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path, settings):
    with pytest.raises(ValueError, match=next(iter(settings)).replace("accelerator_config", "split_batches")):
        make(tmp_path, **settings)


@pytest.mark.parametrize(("name", "value"), [("dispatch_batches", True), ("even_batches", False)])
def test_what_accelerate_cannot_do_with_ragged_batches_is_refused_by_name(tmp_path, name, value):
    with pytest.raises(ValueError, match=name):
        make(tmp_path, accelerator_config={name: value})


def test_the_accumulation_that_follows_from_the_global_batch_is_not_saved(tmp_path):
    args = make(tmp_path, global_batch_size=["128@0", "256@50"], max_steps=100)
    args.gradient_accumulation_steps = 2  # as the trainer sets it in the second stage
    assert args.to_dict()["gradient_accumulation_steps"] == 1


def test_a_plain_number_will_do_for_a_ramp_in_python(tmp_path):
    assert make(tmp_path, reversal_strength=0.5, noiser_update="reversal").reversal_strength == ["0.5"]
    assert make(tmp_path, reversal_strength=1.0).reversal_strength == ["1.0"]  # the default, said in another way


def test_checkpointed_activations_are_never_reentrant(tmp_path):
    args = make(tmp_path, activation_checkpointing=True, activation_checkpointing_kwargs={"every_n_layers": 2})
    assert args.activation_checkpointing_kwargs == {"every_n_layers": 2, "use_reentrant": False}
    for name in ("activation_checkpointing", "gradient_checkpointing"):
        with pytest.raises(ValueError, match="use_reentrant: true is not supported"):
            make(tmp_path, **{name: True, f"{name}_kwargs": {"use_reentrant": True}})


def test_batches_are_cut_by_length_unless_they_would_have_to_be_compiled_anew(tmp_path):
    plain, compiled, asked = (
        AdversarialMLMTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **options).overhead_of_a_chunk
        for options in ({}, {"torch_compile": True}, {"torch_compile": True, "chunk_overhead": 7})
    )
    assert plain == 256 and compiled > 512 * 512 and asked == 7
