import json

import pytest

from adversarial_mlm import AdversarialMLMTrainingArguments


@pytest.fixture
def make(tmp_path):
    return lambda **options: AdversarialMLMTrainingArguments(
        **{"output_dir": str(tmp_path / "run"), "use_cpu": True, "report_to": "none", **options}
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"optim_args": "foo"}, "optim_args must have the form name=value,name=value, got 'foo'"),
        ({"optim": "sgd", "optim_args": "momentum=0.9,nesterov"}, "optim_args must have the form name=value"),
        ({"optim": "sgd", "optim_args": "momentum=0.9=1"}, "optim_args must have the form name=value"),
        ({"optim_args": "fused=true"}, "optim_args is fused=true, but optim: adamw_torch.* does not use it"),
        ({"report_to": "wandbb"}, "report_to must be none, all or among .*, got 'wandbb'; did you mean 'wandb'"),
        ({"report_to": ["trackio", "foo"]}, "report_to must be none, all or among .*, got 'foo'$"),
        ({"accelerator_config": "nowhere.json"}, "accelerator_config is nowhere.json, which cannot be read .No such"),
        ({"accelerator_config": "{1"}, "accelerator_config is {1, which is not JSON"),
        ({"accelerator_config": {"even_batch": True}}, "has no option 'even_batch'; did you mean 'even_batches'"),
        ({"accelerator_config": {"even_batches": "no"}}, "accelerator_config.even_batches must be true or false"),
        ({"logging_steps": float("inf")}, "logging_steps must be finite, got inf"),
        ({"save_steps": float("inf")}, "save_steps must be finite, got inf"),
        ({"seed": -1}, "seed must be between 0 and 4,294,967,295, got -1"),
        ({"data_seed": 2**63}, "data_seed must be between 0 and 9,223,372,036,854,775,807, got 9223372036854775808"),
        ({"eval_mask_seed": -1}, "eval_mask_seed must be between 0 and"),
        ({"chunk_overhead": -1}, "chunk_overhead must be between 0 and"),
        ({"dataloader_num_workers": 1, "dataloader_prefetch_factor": 0}, "prefetch_factor must be at least 1"),
        ({"debug": "underflow_overflow"}, "debug is not supported"),
        ({"use_liger_kernel": True}, "use_liger_kernel is not supported"),
        ({"activation_checkpointing_kwargs": {"early": True}}, "no option 'early'; there are use_reentrant"),
        ({"activation_checkpointing_kwargs": {"offload": 1}}, "kwargs.offload must be true or false, got 1"),
        ({"neftune_noise_alpha": -1.0}, "neftune_noise_alpha must be at least 0 and finite, got -1.0"),
    ],
)  # fmt: skip
def test_an_option_of_a_wrong_form_is_refused_by_name(make, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(**options)


def test_forms_that_are_right_are_taken(make, tmp_path):
    assert make(optim="sgd", optim_args="momentum=0.9, nesterov = true").optim_args == "momentum=0.9, nesterov = true"
    assert make(report_to=["tensorboard", "wandb"]).report_to == ["tensorboard", "wandb"]
    assert make(report_to="none").report_to == [] == make(report_to=["none"]).report_to
    assert make(accelerator_config={"non_blocking": True}).loading_config.non_blocking
    (tmp_path / "a.json").write_text(json.dumps({"gradient_accumulation_kwargs": None, "non_blocking": True}))
    assert make(accelerator_config=str(tmp_path / "a.json")).loading_config.non_blocking
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(ValueError, match="a.json, which does not hold a JSON object"):
        make(accelerator_config=str(tmp_path / "a.json"))
