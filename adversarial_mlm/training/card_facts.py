"""The facts of a run for its model card."""

import functools
import platform
from collections.abc import Sequence, Sized
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import Dataset, IterableDataset
from transformers import PreTrainedModel, TrainerState

from adversarial_mlm.data.order import data_seed
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.models.modeling_noiser import NoiserModel
from adversarial_mlm.saving.model_card.architecture import describe_encoder
from adversarial_mlm.saving.model_card.facts import (
    CardFacts,
    DataFacts,
    EncoderFacts,
    EnvironmentFacts,
    InputFacts,
    NoiserFacts,
    OptimizationFacts,
    OptionChange,
    Points,
    RecipeFacts,
)
from adversarial_mlm.saving.model_card.text import changed_options, option_value, without_paths
from adversarial_mlm.saving.options_record import Resumption, first_value
from adversarial_mlm.training.batch_schedule import accumulation
from adversarial_mlm.training.rewards import REWARDS
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.utils.hardware import device_name
from adversarial_mlm.utils.ramp import Ramp
from adversarial_mlm.utils.version import __version__


class Described(Protocol):
    """What of a trainer the card describes; an [`AdversarialMLMTrainer`] has it."""

    args: AdversarialMLMTrainingArguments
    model: PreTrainedModel
    data_collator: DataCollatorForRandomMLM
    noiser: NoiserModel | None
    state: TrainerState
    run_facts: dict[str, Any]
    train_dataset: Any
    eval_dataset: Any
    hub_model_id: str | None
    loaded_best_step: int | None
    resumptions: list[Resumption]

    @property
    def collapsed_at(self) -> int | None:
        """Step of the first log entry that reports a collapse."""


_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers")


def card_facts(trainer: Described) -> CardFacts:
    """Read the facts for the model card from a trainer.

    Args:
        trainer ([`AdversarialMLMTrainer`]): The trainer. Its `run_facts` may contain `recipe` ([`Recipe`]), `data`
            (the content of `data.json`), `command` (the command that started the run) and `base_model` (folder or Hub
            name that training started from). Without a recipe, the name that the encoder was loaded from is used.
    """
    args, run, best = trainer.args, trainer.run_facts, trainer.loaded_best_step
    recipe = run.get("recipe")
    base_model = first_value(trainer.resumptions, "model_name_or_path") or run.get("base_model")
    encoder = describe_encoder(trainer.model, None if recipe is None else recipe.model.trained_layers)
    sequences, tokenizer = trainer.data_collator.sequence_encoder, trainer.data_collator.tokenizer
    name = (trainer.hub_model_id or Path(args.output_dir).name).rpartition("/")[2].strip(".")
    return CardFacts(
        name=name or "protein-encoder",
        hub_id=trainer.hub_model_id,
        step=trainer.state.global_step if best is None else best,
        best_by=None if best is None else args.metric_for_best_model,
        log_history=list(trainer.state.log_history),
        collapsed_at=trainer.collapsed_at,
        eval_mask_rate=args.eval_mask_rate,
        eval_mask_seed=args.eval_mask_seed,
        encoder=encoder,
        inputs=InputFacts(
            sequences.max_length, sequences.max_residues, sequences.table.spaced, mask_token=tokenizer.mask_token
        ),
        rules=trainer.data_collator.rules,
        optimization=_optimization(trainer),
        noiser=_noiser(trainer),
        data=_data(trainer),
        environment=_environment(trainer, encoder),
        options=_options(trainer),
        option_changes=_option_changes(trainer.resumptions),
        recipe=None if recipe is None else _recipe(recipe),
        base_model=str(base_model) if base_model else None,
        command=run.get("command"),
    )


def _optimization(trainer: Described) -> OptimizationFacts:
    args, max_steps = trainer.args, trainer.state.max_steps
    steps = [(0, args.gradient_accumulation_steps)]
    if args.batch_stages:
        stages = accumulation(args.batch_stages, "global_batch_size", args.train_batch_size, args.world_size)
        steps = [(stage.first_update, stage.size) for stage in stages]
    return OptimizationFacts(
        max_steps=max_steps,
        optimizer=option_value(args.optim),
        learning_rate=args.learning_rate,
        schedule=option_value(args.lr_scheduler_type),
        warmup_steps=args.get_warmup_steps(max_steps),
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        batch_size_per_process=args.train_batch_size,
        accumulation=tuple(steps),
        unmasked_weight=args.weight_of_unmasked,
        importance_exponent=args.importance_exponent,
        teacher=_teacher(args),
    )


def _teacher(args: AdversarialMLMTrainingArguments) -> str:
    if not args.teaches_encoder:
        return ""
    told = []
    if args.loss_weights == "learnability":
        told.append(f"residues weighted by learnability (share {args.learnability_share:g})")
    if max(args.soft_target_ramp().values) > 0:
        told.append(f"soft targets (share {' '.join(args.soft_targets)})")
    return f"{' and '.join(told)}, by the teacher: {_name_of_teacher(args)}"


def _name_of_teacher(args: AdversarialMLMTrainingArguments) -> str:
    if args.teacher == "ema":
        return f"a moving average of the encoder (decay {args.teacher_decay:g})"
    return f"`{without_paths(str(args.reference_model))}`"


def _noiser(trainer: Described) -> NoiserFacts | None:
    args, noiser = trainer.args, trainer.noiser
    if noiser is None:
        return None
    reward = REWARDS[args.noiser_reward]
    return NoiserFacts(
        config=noiser.config,
        parameters=noiser.num_parameters(),
        update=args.noiser_update,
        steps=args.noiser_steps,
        encoder_steps=args.encoder_steps,
        shared_phase_counter=args.shared_phase_counter,
        encoder_dropout=args.encoder_dropout_in_noiser_phase,
        every=args.noiser_every,
        reversal_strength=_points(args.reversal_strength),
        adversarial_share=_points(args.adversarial_share),
        reward=args.noiser_reward,
        reward_description=reward.description
        + (f" (decay {args.slow_encoder_decay:g})" if reward.has_slow_encoder else "")
        + (f", measured by the teacher: {_name_of_teacher(args)}" if reward.needs_teacher else ""),
        learning_rate=args.noiser_learning_rate,
        learning_rate_factor=_points(args.noiser_learning_rate_factor),
        weight_decay=args.noiser_weight_decay,
        max_grad_norm=args.noiser_max_grad_norm,
    )


def _points(words: Sequence[str]) -> Points:
    ramp = Ramp(words, "a ramp")
    return tuple(zip(map(int, ramp.steps), ramp.values, strict=True))


def _data(trainer: Described) -> DataFacts:
    train, held_out = trainer.train_dataset, trainer.eval_dataset
    if held_out is None:
        held_out = {}
    elif not isinstance(held_out, dict):
        held_out = {"validation": held_out}
    return DataFacts(
        streamed=isinstance(train, IterableDataset),
        proteins=_size(train),
        held_out={name: _size(dataset) for name, dataset in held_out.items()},
        counts=trainer.run_facts.get("data", {}),
    )


def _size(dataset: Dataset | None) -> int | None:
    return len(dataset) if isinstance(dataset, Sized) and not isinstance(dataset, IterableDataset) else None


def _environment(trainer: Described, encoder: EncoderFacts) -> EnvironmentFacts:
    args, recipe = trainer.args, trainer.run_facts.get("recipe")
    packages = (*_PACKAGES, "peft") if encoder.adapters else _PACKAGES
    seeds = {"seed": args.seed, "data_seed": data_seed(args)}
    if recipe is not None:
        seeds["holdout_seed"] = recipe.data.holdout_seed
    return EnvironmentFacts(
        versions={
            "Python": platform.python_version(),
            "adversarial-mlm": __version__,
            **{name: _version(name) for name in packages},
        },
        device=device_name(args.device),
        processes=args.world_size,
        mixed_precision=args.mixed_precision,
        launcher_sets_precision=args.mixed_precision != "no" and not (args.bf16 or args.fp16),
        seeds={**seeds, "eval_mask_seed": args.eval_mask_seed},
    )


@functools.cache  # a card is written at every checkpoint
def _version(package: str) -> str:
    return metadata.version(package)


def _options(trainer: Described) -> dict[str, str]:
    recipe = trainer.run_facts.get("recipe")
    parts = [] if recipe is None else [recipe.data, recipe.model, recipe.masking, recipe.run]
    return {name: value for part in (*parts, trainer.args) for name, value in changed_options(part).items()}


def _option_changes(resumptions: Sequence[Resumption]) -> tuple[OptionChange, ...]:
    def text(value: Any) -> str | None:
        return None if value is None else option_value(value)

    return tuple(
        OptionChange(name, one.step, text(before), text(after))
        for one in resumptions
        for name, (before, after) in one.changes.items()
    )


def _recipe(recipe: Any) -> RecipeFacts:
    data = recipe.data
    return RecipeFacts(
        train_data=tuple(data.train_data),
        streaming=data.streaming,
        min_length=data.min_length,
        cluster_table=data.cluster_table,
        holdout_families=data.holdout_families,
        holdout_members=data.holdout_members,
        holdout_random=data.holdout_random,
        data_license=data.data_license,
        model_license=recipe.model.model_license,
    )
