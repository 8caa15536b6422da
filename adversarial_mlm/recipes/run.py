"""A pre-training run from a recipe: data, networks, training, and evaluation of the saved result."""

import copy
import itertools
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo
from transformers import BertForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase, set_seed
from transformers.trainer_utils import IntervalStrategy

from adversarial_mlm.downstream.probe_callback import ProbeCallback
from adversarial_mlm.masking.data_collator import DataCollatorForAdversarialMLM, DataCollatorForRandomMLM
from adversarial_mlm.masking.protein_collator import DataCollatorForChosenProteinsMLM
from adversarial_mlm.models import presets
from adversarial_mlm.models.adapters import add_lora, lora_settings
from adversarial_mlm.models.encoders import config_with_dropout, train_last_layers, with_dropout
from adversarial_mlm.models.loading import load_encoder, load_noiser
from adversarial_mlm.models.modeling_noiser import NoiserModel
from adversarial_mlm.models.tokenization_protein import ResidueVocabulary, build_protein_tokenizer
from adversarial_mlm.recipes.data import ProteinData, check_weights, count_short_proteins, load_data, weights_of
from adversarial_mlm.recipes.output_dir import check_output_dir, is_inside
from adversarial_mlm.recipes.recipe import ModelArguments, Recipe
from adversarial_mlm.recipes.refusals import explained
from adversarial_mlm.recipes.rehearsal import check_optimizer, rehearse, set_options
from adversarial_mlm.saving import model_card, options_record
from adversarial_mlm.saving.hub import PushResult
from adversarial_mlm.saving.options_record import Resumption
from adversarial_mlm.saving.run_files import (
    CARD_FACTS_FILE,
    CARD_FILE,
    DATA_FILE,
    METRICS_FILE,
    POLICY_PICTURE,
    RECIPE_FILE,
    REPORT_FILE,
    REPORT_PICTURE,
)
from adversarial_mlm.saving.run_folder import USUAL_FILES, RunFolder
from adversarial_mlm.training.checks import check_encoder
from adversarial_mlm.training.option_forms import check_trackers_installed
from adversarial_mlm.training.trainer import AdversarialMLMTrainer
from adversarial_mlm.utils import distributed
from adversarial_mlm.utils.errors import CheckpointError, PushError, RecipeError
from adversarial_mlm.utils.options import required

logger = logging.getLogger(__name__)

_CHANGED = "These are the options of the last start. When the run was resumed, options changed:"


def build_collator(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, noiser: NoiserModel | None = None
) -> DataCollatorForRandomMLM:
    """Build the collator of a recipe: with the noiser, or with masks without one at the sum of both rates."""
    masking = recipe.masking
    common: dict[str, Any] = {
        "max_length": recipe.data.max_length,
        "mask_options": masking.mask_options,
        "mask_rate": masking.mask_rate,
        "mask_rate_curve": masking.mask_rate_curve,
        "seed": recipe.training.seed,
    }
    if noiser is None:
        way = "random" if masking.has_noiser else masking.masking
        common |= {"masking": way, "span_length": masking.span_length, "mask_weights": weights_of(recipe)}
        return DataCollatorForRandomMLM(
            tokenizer, random_rate=masking.random_rate + masking.adversarial_rate, **common
        )
    if not masking.chooses_positions:
        return DataCollatorForChosenProteinsMLM(
            tokenizer,
            noiser=noiser,
            random_rate=masking.random_rate + masking.adversarial_rate,
            protein_share=masking.trained_share,
            **common,
        )
    names = ("adversarial_rate", "random_rate", "learned_options", "sampler", "selection", "gated", "temperature")
    chosen: dict[str, Any] = {name: getattr(masking, name) for name in (*names, "candidate_rate")}
    return DataCollatorForAdversarialMLM(tokenizer, noiser=noiser, **chosen, **common)


def build_networks(recipe: Recipe) -> tuple[PreTrainedModel, DataCollatorForRandomMLM]:
    """Build or load the encoder, and build the collator, with the noiser if the recipe has one.

    The weights of a new encoder depend on the seed only: runs with and without a noiser start from the same weights.

    Raises:
        RecipeError: If an option of the networks or masks is out of range, if two options contradict each other, or if
            a network cannot be loaded.
    """
    try:
        _check_networks(recipe)
        encoder, tokenizer = _build_encoder(recipe)
        noiser = None
        if recipe.masking.has_noiser:
            noiser = _build_noiser(recipe.model, ResidueVocabulary.from_tokenizer(tokenizer))
        collator = build_collator(recipe, tokenizer, noiser)
        check_encoder(encoder, collator)  # before reading the data, which takes long
        return encoder, collator
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _check_networks(recipe: Recipe) -> None:
    model = recipe.model
    if recipe.data.max_length < 3:
        raise RecipeError(
            f"max_length must be at least 3, for a residue between two special tokens, got {recipe.data.max_length}"
        )
    for size, of, loaded in (
        ("encoder", model.encoder, "model_name_or_path"),
        ("noiser", model.noiser, "noiser_name_or_path"),
    ):
        if of and getattr(model, loaded):
            raise RecipeError(f"{size} is {of}, the size of a new network, but {loaded} is also given: remove one")
    for name in ("model_revision", "trained_layers"):
        if getattr(model, name) is not None and not model.model_name_or_path:
            raise RecipeError(f"{name} is given, but only applies to model_name_or_path, which is missing: remove it")
    if model.noiser_name_or_path and not recipe.masking.has_noiser:
        raise RecipeError(
            f"noiser_name_or_path is given, but masking: {recipe.masking.masking} uses no noiser: remove one"
        )


def _build_encoder(recipe: Recipe) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, max_length = recipe.model, recipe.data.max_length
    set_seed(recipe.training.seed)  # also for a loaded encoder: a missing head gets random weights
    if model.model_name_or_path:
        lora = lora_settings(model)
        encoder, tokenizer = load_encoder(model.model_name_or_path, model.model_revision, needs_head=lora is not None)
        if model.dropout is not None:
            encoder = with_dropout(encoder, model.dropout)
        if model.trained_layers is not None:
            train_last_layers(encoder, model.trained_layers)
        if lora is not None:
            encoder = add_lora(encoder, lora, model.model_name_or_path, model.model_revision)
        return encoder, tokenizer
    tokenizer = build_protein_tokenizer(model_max_length=max_length)
    vocabulary = ResidueVocabulary.from_tokenizer(tokenizer)
    sizes = presets.encoder_config(
        model.encoder or presets.DEFAULT_ENCODER, vocabulary, max_position_embeddings=presets.positions(max_length)
    )
    if model.dropout is not None:
        sizes = config_with_dropout(sizes, model.dropout)
    return BertForMaskedLM(sizes), tokenizer


def _build_noiser(model: ModelArguments, vocabulary: ResidueVocabulary) -> NoiserModel:
    if not model.noiser_name_or_path:
        view, backbone = model.noiser_view or presets.DEFAULT_VIEW, model.noiser_backbone or presets.DEFAULT_BACKBONE
        size = model.noiser or presets.DEFAULT_NOISER
        return NoiserModel(presets.noiser_config(size, vocabulary, view=view, backbone=backbone))
    noiser = load_noiser(model.noiser_name_or_path)
    for option, has in (("noiser_view", noiser.config.view), ("noiser_backbone", noiser.config.backbone)):
        wanted = getattr(model, option)
        if wanted not in (None, has):
            raise RecipeError(
                f"{option} is {wanted}, but the noiser in {model.noiser_name_or_path} has {has}: remove {option}"
            )
    return noiser


def build_trainer(
    recipe: Recipe, data: ProteinData, encoder: PreTrainedModel, collator: DataCollatorForRandomMLM
) -> AdversarialMLMTrainer:
    """Build the trainer of a recipe.

    Raises:
        RecipeError: If the trainer does not support this machine or launcher, or if the run should be pushed to the
            Hub but cannot be.
    """
    check_optimizer(recipe.training, encoder)
    check_trackers_installed(recipe.training.report_to)
    try:
        trainer = AdversarialMLMTrainer(
            model=encoder,
            args=recipe.training,
            data_collator=collator,
            train_dataset=data.train,
            eval_dataset=data.held_out or None,
            processing_class=collator.tokenizer,
        )
    except MemoryError:
        raise
    except Exception as error:  # of libraries, too, such as a missing package
        raise RecipeError(explained(error, set_options(recipe.training))) from error
    trainer.run_facts.update(recipe=recipe, data=data.card_facts(), command=model_card.command_line(sys.argv))
    _add_probes(recipe, trainer)
    trainer.merge_adapter = recipe.model.merge_adapter
    if recipe.model.model_name_or_path:
        trainer.run_facts["base_model"] = recipe.model.model_name_or_path
    trainer.uploads.run_files = (METRICS_FILE, RECIPE_FILE, DATA_FILE, REPORT_FILE, REPORT_PICTURE, POLICY_PICTURE)
    return trainer


def _add_probes(recipe: Recipe, trainer: AdversarialMLMTrainer) -> None:
    probes = recipe.probe
    if probes.probe_tasks:
        trainer.add_callback(
            ProbeCallback(
                trainer,
                probes.probe_tasks,
                required(probes.probe_data_dir, "probe_data_dir"),
                every=probes.probe_steps or 1000,
                max_records=probes.probe_max_records or 1000,
                max_length=recipe.data.max_length,
            )
        )


def pretrain(
    recipe: Recipe,
    data: ProteinData | None = None,
    before_training: Callable[[AdversarialMLMTrainer], None] | None = None,
) -> AdversarialMLMTrainer:
    """Train as the recipe says, and save the result into `output_dir`.

    If a signal stops training (see `trainer.interrupted_by`), there is no result, but a checkpoint to resume from.

    Args:
        recipe ([`Recipe`]): The recipe.
        data ([`ProteinData`], *optional*): Proteins that were already read; by default those of the recipe.
        before_training (`Callable`, *optional*): Called with the trainer when everything was checked, for example to
            add callbacks.

    Raises:
        RecipeError: If the run cannot start, see [`check_output_dir`] and [`load_data`].
        CorpusError: If the data cannot be read.
        NonFiniteError: If too many updates were not finite (`max_skipped_updates`), or if the final weights are not.
        WritingError: If the result cannot be written.
    """
    args = recipe.training
    with distributed.fail_together(RecipeError, CheckpointError):
        checkpoint = check_output_dir(recipe)
        if checkpoint is not None:  # before reading the data, which takes long
            options_record.check(checkpoint, options_record.read(checkpoint).options, recipe.options())
        encoder, collator = build_networks(recipe)
    with distributed.fail_together(RecipeError), args.main_process_first(local=False, desc="reading the proteins"):
        data = load_data(recipe.data) if data is None else data
    with distributed.fail_together(RecipeError, CheckpointError):
        _check_evaluation(recipe, data)
        check_weights(data, weights_of(recipe))
        count_short_proteins(data, collator.rules, recipe.data.cache_dir)
        trainer = build_trainer(recipe, data, encoder, collator)
        if checkpoint is not None:
            trainer.check_checkpoint(checkpoint)  # before changing anything of an earlier run
        rehearse(trainer)
    distributed.on_main_process(lambda: _prepare_folder(recipe, data, checkpoint, trainer.resumptions))
    if before_training is not None:
        before_training(trainer)
    try:
        trainer.train(resume_from_checkpoint=checkpoint)
    except CheckpointError as error:
        raise RecipeError(str(error)) from error
    if trainer.interrupted_by is None or trainer.state.global_step >= trainer.state.max_steps:
        distributed.on_main_process(lambda: _save_result(recipe, trainer, data))
    return trainer


def _prepare_folder(
    recipe: Recipe, data: ProteinData, checkpoint: str | None, resumptions: Sequence[Resumption]
) -> None:
    folder = recipe.output_dir
    changed = [_CHANGED, *map(str, resumptions)] if resumptions else []
    try:
        run = RunFolder(folder)
        _keep_changed_recipe(run)
        if checkpoint is None or not is_inside(checkpoint, folder):
            run.clear()
        run.claim()
        recipe.save(folder, changed)
        run.note(RECIPE_FILE)
        data.save_facts(folder)
    except OSError as error:
        raise RecipeError(
            f"output_dir {folder} cannot be written to ({error.strerror or error}): choose another folder"
        ) from error


def _keep_changed_recipe(run: RunFolder) -> None:
    """Keep a copy of a recipe that somebody has changed since the run wrote it, because it is written anew."""
    path = Path(run.folder, RECIPE_FILE)
    if not run.is_changed(RECIPE_FILE):
        return
    names = (f"{path.stem}.edited{number or ''}{path.suffix}" for number in itertools.count())
    kept = next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))
    shutil.copy2(path, kept)
    logger.info("%s was changed since the run wrote it; your version is kept as %s", path, kept.name)


def _save_result(recipe: Recipe, trainer: AdversarialMLMTrainer, data: ProteinData) -> None:
    trainer.check_weights()
    run = RunFolder(recipe.output_dir)
    run.claim(USUAL_FILES)
    trainer.save_model(_internal_call=True)  # without a push, which comes after the evaluation
    trainer.save_state()
    if recipe.data.streaming:
        data.save_facts(recipe.output_dir)
        logger.info("%s: %s", data.corpus.source, data.corpus.counts.summary())
    run.seal(trainer.saved_files)


def interruption(trainer: AdversarialMLMTrainer, how: str = "run: adv-mlm train") -> str:
    """Return a sentence about a run that a signal stopped: after which step, and how to resume it.

    Args:
        trainer ([`AdversarialMLMTrainer`]): Result of [`pretrain`].
        how (`str`, *optional*): How the program is started, up to the recipe.

    Raises:
        ValueError: If no signal stopped the run.
    """
    state, folder = trainer.state, required(trainer.args.output_dir, "output_dir")
    if trainer.interrupted_by is None:
        raise ValueError("the run was not stopped by a signal")
    stopped = f"stopped by {trainer.interrupted_by.name} after step {state.global_step:,} of {state.max_steps:,}"
    if state.global_step >= state.max_steps:
        return f"{stopped}: training is complete; its result in {folder} was not evaluated"
    if trainer.last_checkpoint is None:
        return f"{stopped}; there is no checkpoint to resume from"
    words = [os.path.join(folder, RECIPE_FILE), "--resume_from_checkpoint"]
    if is_inside(trainer.last_checkpoint, folder):
        words.append("latest")
    else:  # nothing could be saved here, and this folder holds a log of the run
        words += [trainer.last_checkpoint, "--overwrite_output_dir", "true"]
    return f"{stopped}; to resume from {trainer.last_checkpoint}, {how} {shlex.join(words)}"


_BEST_BY = ("loss", "perplexity", "accuracy", "adversarial_loss", "random_loss")


def _check_evaluation(recipe: Recipe, data: ProteinData) -> None:
    gate, names = recipe.run.background_gate, ", ".join(data.held_out) or "none"
    if gate is not None and gate not in data.held_out:
        raise RecipeError(f"background_gate is {gate}, but the held-out sets are: {names}")
    if gate is not None and recipe.data.streaming:
        raise RecipeError(
            "background_gate needs the residue frequencies of the training data, which a stream does not know: set "
            "streaming: false, or remove background_gate"
        )
    if not data.held_out and recipe.training.eval_strategy != "no":
        raise RecipeError(
            f"eval_strategy is {IntervalStrategy(recipe.training.eval_strategy).value}, but no proteins are held out: "
            "set eval_strategy: no, or hold out proteins"
        )
    metric = recipe.training.metric_for_best_model
    if metric is not None and not data.held_out:
        raise RecipeError(
            f"metric_for_best_model is {metric}, but no proteins are held out: hold out proteins, or remove "
            "metric_for_best_model and load_best_model_at_end"
        )
    known = [f"{name}_{figure}" for name in data.held_out for figure in _BEST_BY]
    if metric is not None and metric.removeprefix("eval_") not in known:
        raise RecipeError(f"metric_for_best_model is {metric}, but must be one of {', '.join(known)}")


def evaluate_saved(
    recipe: Recipe, trainer: AdversarialMLMTrainer, before_card: Callable[[], None] | None = None
) -> dict[str, float]:
    """Load the saved networks of a run, and evaluate them.

    The metrics are appended to the run's `metrics.jsonl` and written into its card.

    Args:
        recipe ([`Recipe`]): The recipe.
        trainer ([`AdversarialMLMTrainer`]): Result of [`pretrain`].
        before_card (`Callable`, *optional*): Called on the first process between the evaluation and the writing of the
            card, which shows `mask_policy.png` or `report.png` if there is one.

    Returns:
        `dict[str, float]`: Metrics from `Trainer.evaluate`; empty if no proteins are held out.
    """
    folder = recipe.output_dir
    trainer.accelerator.wait_for_everyone()
    encoder, tokenizer = load_encoder(folder, keep_adapter=True)
    noiser = None if trainer.noiser is None else load_noiser(folder)
    args = copy.copy(recipe.training)
    args.report_to, args.push_to_hub = [], False
    evaluator = AdversarialMLMTrainer(
        model=encoder,
        args=args,
        data_collator=build_collator(recipe, tokenizer, noiser),
        train_dataset=trainer.train_dataset,
        eval_dataset=trainer.eval_dataset,
        processing_class=tokenizer,
    )
    evaluator.state, evaluator.run_facts = trainer.state, trainer.run_facts
    evaluator.resumptions = trainer.resumptions
    evaluator.loaded_best_step, evaluator.hub_model_id = trainer.loaded_best_step, trainer.hub_model_id
    figures = evaluator.evaluate() if trainer.eval_dataset is not None else {}
    if evaluator.is_world_process_zero():
        if before_card is not None:
            before_card()
        run = RunFolder(folder)
        run.claim((CARD_FILE, CARD_FACTS_FILE))  # a kill before they are sealed leaves files of the run, not of others
        facts = evaluator.card_facts()
        model_card.write(facts, folder, figures)
        model_card.save_facts(facts, folder, figures)
        run.seal(trainer.saved_files)
    return figures


def push_saved(trainer: AdversarialMLMTrainer) -> PushResult | None:
    """Push the saved run, with the card from [`evaluate_saved`].

    Returns:
        [`PushResult`]: The result, on the first process. `None` without `push_to_hub`, and on all other processes.
    """
    if not trainer.args.push_to_hub or not trainer.is_world_process_zero():
        return None
    result = PushResult(required(trainer.hub_model_id, "hub_model_id"), trainer.args.hub_revision)
    try:
        commit = trainer.push_output_dir()
        if isinstance(commit, CommitInfo):  # always true, because the call waits for the upload
            result.address = str(commit.repo_url)
    except PushError as error:
        result.failure = str(error)
    return result
