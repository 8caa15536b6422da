"""Trainers for tests, and what the tests look at."""

import json

import torch
from transformers import TrainerCallback

from adversarial_mlm import (
    AdversarialMLMTrainer,
    AdversarialMLMTrainingArguments,
    DataCollatorForAdversarialMLM,
    DataCollatorForRandomMLM,
)


def build_trainer(
    directory,
    tokenizer,
    make_encoder,
    make_noiser,
    dataset,
    masking="adversarial",
    folder="run",
    dropout=0.0,
    double=False,
    data=None,
    collator=None,
    cls=None,
    noiser_config=None,
    masking_rules=None,
    max_length=32,
    **settings,
):
    """A trainer of tiny networks that writes into `directory / folder`; `masking="random"` has no noiser.

    Args:
        dataset: Held-out set, and training set unless there is other `data`.
        max_length: Of the rows, in tokens. Longer rows take longer, above all where the noiser is a GRU.
        settings: Training arguments that differ from those of a run of four updates.
    """
    encoder = make_encoder(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
    noiser = make_noiser(hidden_dropout_prob=dropout, **(noiser_config or {}))
    if double:
        encoder, noiser = encoder.double(), noiser.double()
    if collator is None:
        if masking == "adversarial":
            rules = {"max_length": max_length, **(masking_rules or {})}
            collator = DataCollatorForAdversarialMLM(tokenizer, noiser=noiser, **rules)
        else:
            rules = {"random_rate": 0.2, "max_length": max_length, **(masking_rules or {})}
            collator = DataCollatorForRandomMLM(tokenizer, **rules)
    arguments = {
        "output_dir": str(directory / folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "noiser_learning_rate": 1e-3,
        "save_strategy": "no",
        "logging_steps": 2,
        "disable_tqdm": True,
        "report_to": [],
        "use_cpu": True,
        **settings,
    }
    if settings.get("noiser_update", "alternate") == "alternate":
        arguments = {"noiser_steps": 2, "encoder_steps": 2, **arguments}
    return (cls or AdversarialMLMTrainer)(
        model=encoder,
        args=AdversarialMLMTrainingArguments(**arguments),
        data_collator=collator,
        train_dataset=dataset if data is None else data,
        eval_dataset=dataset,
        processing_class=tokenizer,
    )


def parameters_of(trainer) -> dict[str, torch.Tensor]:
    networks = {"encoder": trainer.model, "noiser": trainer.noiser}
    return {
        f"{network}.{name}": value.detach().clone()
        for network, module in networks.items()
        if module is not None
        for name, value in module.named_parameters()
    }


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def log_of(trainer) -> list[dict]:
    with open(f"{trainer.args.output_dir}/metrics.jsonl") as file:
        return [json.loads(line) for line in file]


class StopAfter(TrainerCallback):
    """Saves a checkpoint after some steps, and stops the run after the last of them."""

    def __init__(self, *steps: int):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save = control.should_save or state.global_step in self.steps
        control.should_training_stop = state.global_step >= max(self.steps)


def check_resumption(make_trainer, stops: tuple[int, ...], compare=lambda straight, resumed: None, **settings) -> None:
    """Check that a run resumed from each of some checkpoints is bitwise the run that never stopped.

    Args:
        make_trainer: Makes a trainer from `folder` and `settings`.
        stops: Steps after which the stopped run has a checkpoint; it ends after the last of them.
        compare: Called with the straight and each resumed trainer.
        settings: Of all runs.
    """
    straight = make_trainer(folder="straight", **settings)
    straight.train()
    stopped = make_trainer(folder="stopped", **settings)
    stopped.add_callback(StopAfter(*stops))
    stopped.train()
    for stop in sorted(stops, reverse=True):
        resumed = make_trainer(folder="stopped", **settings)
        newest = stop == max(stops)
        resumed.train(resume_from_checkpoint=newest or f"{stopped.args.output_dir}/checkpoint-{stop}")
        assert resumed.state.global_step == straight.state.global_step
        assert largest_difference(parameters_of(straight), parameters_of(resumed)) == 0, stop
        logged = [entry["step"] for entry in log_of(resumed) if "loss" in entry]
        assert logged == sorted(set(logged))
        compare(straight, resumed)
