"""One run of a comparison: pre-training, its figures, its downstream tasks. A kill costs what came after a save."""

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
from adversarial_mlm.comparison.tasks import DownstreamTasks
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.recipes.recipe import Recipe
from adversarial_mlm.recipes.run import build_networks, pretrain
from adversarial_mlm.saving.checkpoint_store import all_in
from adversarial_mlm.saving.run_files import METRICS_FILE
from adversarial_mlm.training.checkpointing import latest_checkpoint
from adversarial_mlm.training.evaluation import background_log_shares
from adversarial_mlm.utils.errors import CheckpointError, Interrupted, NonFiniteError, RecipeError
from adversarial_mlm.utils.hashing import file_checksum

logger = logging.getLogger(__name__)

_DONE_FILE = "encoder-is-complete"
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_LAST_ENTRIES = 10
_OF_THE_MASKS = (
    *("mask_rate", "share_mask", "share_keep", "share_replace", "entropy", "enrichment_max", "mask_gap", "gap"),
    *("adversarial_loss", "random_loss", "effective_sample_share", "noiser_cosine"),
)


@dataclasses.dataclass
class Comparison:
    """What all runs of a comparison share.

    Attributes:
        recipe ([`ComparisonRecipe`]): The recipe.
        words (`list[str]`): Options on the command line, for all arms.
        folder ([`ComparisonFolder`]): Its files.
        data ([`ComparisonData`]): The proteins.
        flops (`dict[str, ArmFlops]`): What updates cost.
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
    """Train, evaluate on the selection part, and do the downstream tasks.

    A run whose updates were no longer finite, or that the alarm stopped, has a result, too.

    Returns:
        `dict`: What is then in `result.json`.

    Raises:
        Interrupted: If a signal stopped it; there is a checkpoint to go on from.
        WritingError: If a result cannot be written.
    """
    folder = comparison.folder.of(run)
    _begin(comparison, run)
    if not (folder / FIGURES_FILE).exists():
        write_json(folder / FIGURES_FILE, _figures(comparison, run))
    result = read_json(folder / FIGURES_FILE)
    if run in comparison.plan.with_tasks and not result["metrics"]["diverged"]:
        result["tasks"] = comparison.tasks.evaluate(folder, folder, device_of(comparison))
    write_json(folder / RESULT_FILE, result)
    for checkpoint in all_in(str(folder)):  # the encoder stays; what was needed to go on goes
        shutil.rmtree(checkpoint, ignore_errors=True)
    gc.collect()
    return result


def add_tasks(comparison: Comparison, run: Run) -> None:
    """Do downstream tasks of a run that was complete without them; what it has of others stays."""
    folder = comparison.folder.of(run)
    result = read_json(folder / RESULT_FILE)
    found = comparison.tasks.evaluate(folder, folder, device_of(comparison))
    write_json(folder / RESULT_FILE, {**result, "tasks": {**result.get("tasks", {}), **found}})


def lacks_tasks(comparison: Comparison, run: Run) -> bool:
    """Whether a run that is complete has not all the tasks that the recipe now asks for."""
    if run not in comparison.plan.with_tasks or not comparison.folder.is_done(run):
        return False
    return not has_tasks(read_json(comparison.folder.of(run) / RESULT_FILE), comparison.recipe)


def has_tasks(result: dict[str, Any] | None, recipe: ComparisonRecipe) -> bool:
    """Whether a run's result has all the tasks of the recipe; a run that diverged has none to come."""
    if result is None:
        return False
    return result["metrics"]["diverged"] or set(recipe.tasks.of) <= set(result.get("tasks", {}))


def seconds_of_tasks(results: dict[Run, dict[str, Any]]) -> float:
    """What the downstream tasks of a run take, in the mean of those that have them; 0 where none has."""
    done = [result["tasks"] for result in results.values() if result.get("tasks")]
    return sum(task["seconds"] for tasks in done for task in tasks.values()) / max(len(done), 1)


def is_trained(folder: ComparisonFolder, run: Run) -> bool:
    """Whether the encoder of a run is complete, whatever else it still lacks."""
    return (folder.of(run) / _DONE_FILE).exists()


def device_of(comparison: Comparison) -> torch.device:
    """Where the runs are trained."""
    return _recipe_of(comparison, Run(next(iter(comparison.recipe.arms)), 0, 1)).training.device


def _begin(comparison: Comparison, run: Run) -> None:
    """Note what a run is of; what an earlier start of other options, proteins or first weights left is removed."""
    folder = comparison.folder.of(run)
    note = folder.with_name(f"{folder.name}.json")
    warm_up = comparison.plan.warm_ups.get(run.seed)
    forked = warm_up is not None and run.arm not in (UNTRAINED, WARM_UP)
    now = {
        "fingerprint": _fingerprint(comparison, run),
        "data": comparison.data.fingerprint,
        "first_weights": weights_checksum(comparison.folder.of(warm_up)) if forked else None,
    }
    if note.exists() and read_json(note) == now:
        return
    if folder.exists():
        logger.warning("%s is not known to be of these options, proteins and first weights; it is made anew", run.name)
        note.unlink(missing_ok=True)  # first, so that a kill leaves no half of a folder with a note
        shutil.rmtree(folder)
    write_json(note, now)


def weights_checksum(folder: Path) -> str:
    """SHA-256 of an encoder's weights (of large ones, of the list of their files).

    Raises:
        RecipeError: If they are gone.
    """
    for name in _WEIGHTS:
        if (folder / name).exists():
            return file_checksum(folder / name)
    raise RecipeError(
        f"{folder} has no {_WEIGHTS[0]}, although its run is complete; remove the folder to make it again"
    )


def _fingerprint(comparison: Comparison, run: Run) -> str:
    """Of the options of its arm, as `plan.json` has it."""
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
        "metrics": {name: _plain(value) for name, value in metrics.items()},
    }


def _plain(value: Any) -> Any:
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
    """The weights that all arms of a seed start from; with a warm-up, those before it."""
    recipe = arm_recipe(comparison.recipe, next(iter(comparison.recipe.arms)), seed=run.seed, words=comparison.words)
    encoder, collator = build_networks(recipe)
    folder = comparison.folder.of(run)
    encoder.save_pretrained(folder)
    collator.tokenizer.save_pretrained(folder)
    return recipe


def warm_up(comparison: Comparison, seed: int) -> None:
    """Make sure that the checkpoint is there that all arms of a seed start from."""
    run = comparison.plan.warm_ups[seed]
    with comparison.folder.lock(run.name):
        _begin(comparison, run)
        if not is_trained(comparison.folder, run):
            logger.info("warm-up of seed %d: %d updates", seed, run.updates)
        if _train(comparison, run, _recipe_of(comparison, run))["diverged"]:
            raise RecipeError(
                f"{comparison.recipe.path}: the warm-up of seed {seed} diverged, so that there is nothing to start "
                "from; a lower learning_rate in warm_up.options may help, in another output_dir"
            )


def _train(comparison: Comparison, run: Run, recipe: Recipe) -> dict[str, Any]:
    """Train from the newest checkpoint on, if the encoder is not complete, and say how it went."""
    folder = comparison.folder.of(run)
    path = folder / _DONE_FILE
    if not path.exists():
        try:
            recipe.training.resume_from_checkpoint = latest_checkpoint(str(folder))
        except CheckpointError:  # none yet, or none that is whole
            recipe.run.overwrite_output_dir = True
        facts, stopped = _facts_of_training(recipe, comparison.data)
        if facts is not None:
            write_json(path, facts)
        if stopped is not None:
            raise Interrupted(stopped)
    facts = read_json(path)
    return {**facts, **_seconds(folder)}


def _facts_of_training(recipe: Recipe, data: ComparisonData) -> tuple[dict[str, Any] | None, signal.Signals | None]:
    """How training went, if it came to its end, and the signal that stopped it or came with its end."""
    try:
        trainer = pretrain(recipe, data.for_a_run())
    except NonFiniteError as error:
        logger.warning("%s", error)
        steps = [entry["step"] for entry in _log(Path(recipe.training.output_dir)) if "loss" in entry]
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
    """How the masks were at the end: means over the last entries of the log."""
    found = {}
    for name in _OF_THE_MASKS:
        values = [entry[name] for entry in entries[-_LAST_ENTRIES:] if entry.get(name) is not None]
        if values:
            found[name] = math.fsum(values) / len(values)
    found["skipped_updates"] = sum(entry.get("skipped_updates", 0) for entry in entries)
    return found


def _log(folder: Path) -> list[dict[str, Any]]:
    path = folder / METRICS_FILE
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _seconds(folder: Path) -> dict[str, float]:
    """How long the updates took, those before a kill included."""
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
    """An encoder as it was saved, on the device of the run, and a collator for its tokenizer."""
    encoder, tokenizer = load_encoder(folder)
    collator = DataCollatorForRandomMLM(tokenizer, max_length=recipe.data.max_length)
    return encoder.to(recipe.training.device), collator


def ask(
    encoder: PreTrainedModel, collator: DataCollatorForRandomMLM, parts: dict, recipe: Recipe
) -> dict[str, HiddenResidues]:
    """Hide residues of each held-out set, the same ones for every run, and keep what the encoder says."""
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
    """The background predictor of the training proteins."""
    return background_log_shares(data.proteins.train, collator.sequence_encoder)
