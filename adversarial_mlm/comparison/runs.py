"""One run of a comparison: pre-training, metrics, downstream tasks. A killed run resumes from its checkpoint."""

import dataclasses
import gc
import json
import logging
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from adversarial_mlm.comparison.arms import arm_recipe, fingerprint
from adversarial_mlm.comparison.folder import FIGURES_FILE, RESULT_FILE, ComparisonFolder, read_json, write_json
from adversarial_mlm.comparison.held_out import ComparisonData
from adversarial_mlm.comparison.plan import Flops, Plan, Run
from adversarial_mlm.comparison.recipe import UNTRAINED, WARM_UP, ComparisonRecipe
from adversarial_mlm.comparison.refit import HiddenResidues, figures_of_sets, hide_and_ask
from adversarial_mlm.comparison.tasks import TASKS_FOLDER, DownstreamTasks
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.models.tokenization_protein import save_tokenizer
from adversarial_mlm.recipes.recipe import Recipe
from adversarial_mlm.recipes.run import build_networks, pretrain
from adversarial_mlm.saving.checkpoint_store import CheckpointStore
from adversarial_mlm.saving.run_files import METRICS_FILE
from adversarial_mlm.saving.run_folder import RunFolder
from adversarial_mlm.training.evaluation import background_log_shares
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import CheckpointError, Interrupted, NonFiniteError, RecipeError
from adversarial_mlm.utils.hardware import on_device
from adversarial_mlm.utils.hashing import file_checksum
from adversarial_mlm.utils.locks import unlock_all_below
from adversarial_mlm.utils.options import required
from adversarial_mlm.utils.output_folders import listed

logger = logging.getLogger(__name__)

_DONE_FILE, _TENSORBOARD_FOLDER = "encoder-is-complete", "runs"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_LAST_ENTRIES = 10
_MASK_STATISTICS = (
    *("mask_rate", "share_mask", "share_keep", "share_replace", "entropy", "enrichment_max", "mask_gap", "gap"),
    *("adversarial_loss", "random_loss", "effective_sample_share", "noiser_cosine"),
)


@dataclasses.dataclass
class Comparison:
    """What all runs of a comparison share.

    Attributes:
        recipe ([`ComparisonRecipe`]): The recipe.
        words (`list[str]`): Command-line options, for all arms.
        folder ([`ComparisonFolder`]): Files and locks.
        data ([`ComparisonData`]): The proteins.
        flops (`dict[str, ArmFlops]`): FLOPs by arm.
        plan ([`Plan`]): The runs.
        tasks ([`DownstreamTasks`], *optional*): Downstream tasks.
    """

    recipe: ComparisonRecipe
    words: list[str]
    folder: ComparisonFolder
    data: ComparisonData
    flops: Flops
    plan: Plan
    tasks: DownstreamTasks | None = None


def make_run(comparison: Comparison, run: Run) -> dict[str, Any]:
    """Train an encoder, evaluate it on the selection part and on the downstream tasks.

    A run that diverged or that the collapse alarm stopped counts as complete.

    Returns:
        `dict`: The content of `result.json`.

    Raises:
        Interrupted: If a signal stopped the run; a later call resumes from its checkpoint.
        WritingError: If a result cannot be written.
    """
    folder = comparison.folder.of(run)
    _begin(comparison, run)
    if not (folder / FIGURES_FILE).exists():
        write_json(folder / FIGURES_FILE, _figures(comparison, run))
    result = read_json(folder / FIGURES_FILE)
    tasks = comparison.tasks if run in comparison.plan.with_tasks else None
    if tasks is not None and not result["metrics"]["diverged"]:
        result["tasks"] = tasks.evaluate(folder, folder, device_of(comparison))
    write_json(folder / RESULT_FILE, result)
    RunFolder(str(folder)).remove_checkpoints()  # keep the encoder only
    gc.collect()
    return result


def add_tasks(comparison: Comparison, run: Run) -> None:
    """Add missing downstream tasks to the result of a complete run."""
    folder = comparison.folder.of(run)
    result = read_json(folder / RESULT_FILE)
    found = required(comparison.tasks, "tasks").evaluate(folder, folder, device_of(comparison))
    write_json(folder / RESULT_FILE, {**result, "tasks": {**result.get("tasks", {}), **found}})


def lacks_tasks(comparison: Comparison, run: Run) -> bool:
    """Whether a complete run lacks a task of the recipe."""
    if run not in comparison.plan.with_tasks or not comparison.folder.is_done(run):
        return False
    return not has_tasks(read_json(comparison.folder.of(run) / RESULT_FILE), comparison.recipe)


def has_tasks(result: dict[str, Any] | None, recipe: ComparisonRecipe) -> bool:
    """Whether a result has all tasks of the recipe. A run that diverged needs none."""
    if result is None:
        return False
    wanted = set() if recipe.tasks is None else set(recipe.tasks.of)
    return result["metrics"]["diverged"] or wanted <= set(result.get("tasks", {}))


def seconds_of_tasks(results: dict[Run, dict[str, Any]]) -> float:
    """Return the mean seconds of the downstream tasks of a run; 0 if no run has any."""
    done = [result["tasks"] for result in results.values() if result.get("tasks")]
    return sum(task["seconds"] for tasks in done for task in tasks.values()) / max(len(done), 1)


def is_trained(folder: ComparisonFolder, run: Run) -> bool:
    """Whether the encoder of a run is complete, with or without evaluation."""
    return (folder.of(run) / _DONE_FILE).exists()


def device_of(comparison: Comparison) -> torch.device:
    """Return the device on which runs are trained."""
    return _recipe_of(comparison, Run(next(iter(comparison.recipe.arms)), 0, 1)).training.device


def _begin(comparison: Comparison, run: Run) -> None:
    """Record options, proteins and first weights of a run, and delete its folder if they have changed."""
    folder = comparison.folder.of(run)
    note = folder.with_name(f"{folder.name}.json")
    start = None if run.arm in (UNTRAINED, WARM_UP) else comparison.plan.warm_ups.get(run.seed)
    now = {
        "fingerprint": _fingerprint(comparison, run),
        "data": comparison.data.fingerprint,
        "first_weights": None if start is None else weights_checksum(comparison.folder.of(start)),
    }
    if note.exists() and read_json(note) == now:
        return
    if folder.exists():
        _remove(folder, note, run)
    write_json(note, now)


def _remove(folder: Path, note: Path, run: Run) -> None:
    """Remove what an earlier start of a run left.

    Raises:
        RecipeError: If the folder holds something else; the message names it.
    """
    others = RunFolder(str(folder)).strangers(
        (_DONE_FILE, FIGURES_FILE, RESULT_FILE, TASKS_FOLDER, _TENSORBOARD_FOLDER)
    )
    if others:
        raise RecipeError(
            f"{folder} has to be removed, because its run was started with other options, proteins or first weights, "
            f"but it contains files that no run wrote ({listed(others)}): move them"
        )
    logger.warning("%s was started with other options, proteins or first weights: it starts again", run.name)
    note.unlink(missing_ok=True)  # first: a killed removal must not leave a partial folder with a valid note
    unlock_all_below(str(folder))
    shutil.rmtree(folder)


def weights_checksum(folder: Path) -> str:
    """Return the SHA-256 of an encoder's weights; for sharded weights, of their index.

    Raises:
        RecipeError: If the weights are missing.
    """
    for name in _WEIGHTS:
        if (folder / name).exists():
            return file_checksum(folder / name)
    raise RecipeError(
        f"{folder} has no {_WEIGHTS[0]}, although its run is complete: delete the folder to repeat the run"
    )


def _fingerprint(comparison: Comparison, run: Run) -> str:
    """Return the fingerprint of the arm's options, as in `plan.json`."""
    arm = next(iter(comparison.recipe.arms)) if run.arm == UNTRAINED else run.arm
    return fingerprint(arm_recipe(comparison.recipe, arm, words=comparison.words))


def _figures(comparison: Comparison, run: Run) -> dict[str, Any]:
    if run.arm == UNTRAINED:
        recipe, facts = _save_untrained(comparison, run), {}
    else:
        recipe = _recipe_of(comparison, run)
        facts = _train(comparison, run, recipe)
    metrics = {
        "updates": run.updates,
        "flops": 0.0 if run.arm == UNTRAINED else comparison.flops[run.arm].of(facts["updates_done"]),
        "diverged": False,
        **facts,
    }
    if not metrics["diverged"]:
        encoder, collator = load_for_evaluation(str(comparison.folder.of(run)), recipe)
        hidden = ask(encoder, collator, comparison.data.selection, recipe)
        metrics |= figures_of_sets(hidden, log_shares_of(comparison.data, collator))
    return {
        "run": run.name,
        "arm": run.arm,
        "seed": run.seed,
        "fingerprint": _fingerprint(comparison, run),
        "data": comparison.data.fingerprint,
        "metrics": {name: _finite_or_none(value) for name, value in metrics.items()},
    }


def _finite_or_none(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _recipe_of(comparison: Comparison, run: Run) -> Recipe:
    start = None
    warm_up = comparison.plan.warm_ups.get(run.seed)
    if warm_up is not None and run != warm_up:
        start = str(comparison.folder.of(warm_up))
    return arm_recipe(
        comparison.recipe,
        run.arm,
        seed=run.seed,
        updates=run.updates,
        output_dir=str(comparison.folder.of(run)),
        start=start,
        words=comparison.words,
    )


def _save_untrained(comparison: Comparison, run: Run) -> Recipe:
    """Save the untrained weights that all arms of a seed start from; with a warm-up, those before it."""
    recipe = arm_recipe(comparison.recipe, next(iter(comparison.recipe.arms)), seed=run.seed, words=comparison.words)
    encoder, collator = build_networks(recipe)
    folder = comparison.folder.of(run)
    encoder.save_pretrained(folder)
    save_tokenizer(collator.tokenizer, folder, collator.sequence_encoder.max_length)
    atomic_files.share(folder)
    return recipe


def warm_up(comparison: Comparison, seed: int) -> None:
    """Make the encoder that all arms of a seed start from, if it is not complete."""
    run = comparison.plan.warm_ups[seed]
    with comparison.folder.lock(run.name):
        _begin(comparison, run)
        if not is_trained(comparison.folder, run):
            logger.info("warm-up of seed %d: %s", seed, count(run.updates, "update"))
        if _train(comparison, run, _recipe_of(comparison, run))["diverged"]:
            raise RecipeError(
                f"{comparison.recipe.path}: the warm-up of seed {seed} diverged, so the arms have no start: use a "
                "lower learning_rate in warm_up.options, and another output_dir"
            )


def _train(comparison: Comparison, run: Run, recipe: Recipe) -> dict[str, Any]:
    """Train from the newest checkpoint, unless the encoder is complete, and return facts about the training."""
    folder = comparison.folder.of(run)
    path = folder / _DONE_FILE
    if not path.exists():
        try:
            recipe.training.resume_from_checkpoint = CheckpointStore(str(folder)).latest()
        except CheckpointError:  # there is no complete checkpoint
            recipe.run.overwrite_output_dir = True
        facts, stopped = _facts_of_training(recipe, comparison.data)
        if facts is not None:
            write_json(path, facts)
        if stopped is not None:
            raise Interrupted(stopped)
    facts = read_json(path)
    return {**facts, **_seconds(folder)}


def _facts_of_training(recipe: Recipe, data: ComparisonData) -> tuple[dict[str, Any] | None, signal.Signals | None]:
    """Train, and return facts if training ended, and the signal that arrived, if any."""
    try:
        trainer = pretrain(recipe, data.for_a_run())
    except NonFiniteError as error:
        logger.warning("%s", error)
        steps = [entry["step"] for entry in _log(Path(recipe.output_dir)) if "loss" in entry]
        return {"diverged": True, "updates_done": max(steps, default=0)}, None
    if trainer.interrupted_by is not None and trainer.state.global_step < trainer.state.max_steps:
        return None, trainer.interrupted_by
    facts = {
        "diverged": False,
        "updates_done": trainer.state.global_step,
        "collapsed_at": trainer.collapsed_at,
        **_last_figures([entry for entry in trainer.state.log_history if "loss" in entry]),
    }
    return facts, trainer.interrupted_by


def _last_figures(entries: list[dict]) -> dict[str, float]:
    """Average mask statistics over the last log entries, and add up skipped updates."""
    found = {}
    for name in _MASK_STATISTICS:
        values = [entry[name] for entry in entries[-_LAST_ENTRIES:] if entry.get(name) is not None]
        if values:
            found[name] = math.fsum(values) / len(values)
    found["skipped_updates"] = sum(entry.get("skipped_updates", 0) for entry in entries)
    return found


def _log(folder: Path) -> list[dict[str, Any]]:
    path = folder / METRICS_FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _seconds(folder: Path) -> dict[str, float]:
    """Add up the seconds of all updates, including those before the run was killed."""
    total: dict[str, float] = {"seconds": 0.0, "seconds_noiser": 0.0}
    for entry in _log(folder):
        for name, value in entry.items():
            if name.startswith("seconds_") and value is not None:
                total["seconds"] += value
                if name == "seconds_noiser":
                    total["seconds_noiser"] += value
    return total


# ---- Evaluation ----


def load_for_evaluation(folder: str, recipe: Recipe) -> tuple[PreTrainedModel, DataCollatorForRandomMLM]:
    """Load an encoder onto the device of the run, with a collator for its tokenizer."""
    encoder, tokenizer = load_encoder(folder)
    collator = DataCollatorForRandomMLM(tokenizer, max_length=recipe.data.max_length)
    return on_device(encoder, recipe.training.device), collator


def ask(
    encoder: PreTrainedModel, collator: DataCollatorForRandomMLM, parts: dict, recipe: Recipe
) -> dict[str, HiddenResidues]:
    """Hide residues of each held-out set, the same for every run, and return the encoder's predictions."""
    args = recipe.training
    return {
        name: hide_and_ask(
            encoder,
            collator,
            part,
            mask_rate=args.eval_mask_rate,
            mask_seed=args.eval_mask_seed,
            batch_size=args.per_device_eval_batch_size,
        )
        for name, part in parts.items()
    }


def log_shares_of(data: ComparisonData, collator: DataCollatorForRandomMLM) -> torch.Tensor:
    """Return the background predictor of the training proteins, which is counted once for all runs."""
    encoder = collator.sequence_encoder
    key = (encoder.vocabulary, encoder.max_length, encoder.seed)
    if key not in data.log_shares:
        data.log_shares[key] = background_log_shares(data.proteins.train, encoder)
    return data.log_shares[key]
