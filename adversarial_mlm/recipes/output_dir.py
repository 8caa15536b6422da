"""The folder of a run: whether it is free, which checkpoint the run goes on from, and what an earlier one left."""

import os
import shutil
import tempfile
from pathlib import Path

from adversarial_mlm.recipes.recipe import Recipe
from adversarial_mlm.saving.checkpoint_store import CheckpointStore, is_latest, named_checkpoint
from adversarial_mlm.saving.hub import SNAPSHOT_PREFIX
from adversarial_mlm.saving.run_files import (
    ARGUMENTS_FILE,
    CARD_FILE,
    DATA_FILE,
    METRICS_FILE,
    NOISER_FOLDER,
    RECIPE_FILE,
    RECORDS_FILE,
)
from adversarial_mlm.utils import atomic_files, distributed
from adversarial_mlm.utils.errors import CheckpointError, RecipeError

_WRITTEN_BY_A_RUN = (
    *(METRICS_FILE, RECIPE_FILE, DATA_FILE, ARGUMENTS_FILE, "trainer_state.json", CARD_FILE),
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", RECORDS_FILE),
    *(f"{NOISER_FOLDER}/config.json", f"{NOISER_FOLDER}/model.safetensors"),
)
_FOLDERS_OF_A_RUN = (
    "checkpoint-[0-9]*",
    ".checkpoint-[0-9]*",
    f"{SNAPSHOT_PREFIX}*",
    f"{atomic_files.UNFINISHED_FILES}*",
)


def check_output_dir(recipe: Recipe) -> str | None:
    """Make sure that the run's folder is free, and find the checkpoint to resume from; process 0 does it for all.

    Returns:
        `str`, the checkpoint's folder, or `None` for a fresh run. `resume_from_checkpoint: latest` (or `true`) takes
        the newest complete checkpoint in `output_dir`.

    Raises:
        RecipeError: If the folder holds another run and the recipe says neither to resume nor to overwrite it, if it
            cannot be written to, if there is nothing to resume from, or if that is damaged.
    """
    return distributed.on_main_process(lambda: _check_output_dir(recipe))


def _check_output_dir(recipe: Recipe) -> str | None:
    folder, wanted = recipe.output_dir, recipe.training.resume_from_checkpoint
    checkpoint = _find_checkpoint(folder, wanted) if wanted else None
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RecipeError(f"output_dir {folder} cannot be written to ({error.strerror or error})") from error
    if checkpoint and is_inside(checkpoint, folder):
        return checkpoint
    # a recipe alone is left by a start that was refused
    earlier = [name for name in (METRICS_FILE, "model.safetensors") if _has_content(Path(folder, name))]
    earlier += [path.name for path in sorted(Path(folder).glob("checkpoint-[0-9]*"))[:1]]
    if earlier and not recipe.run.overwrite_output_dir:
        raise RecipeError(
            f"output_dir {folder} holds another run ({', '.join(earlier)}); choose another folder, or set "
            "resume_from_checkpoint: latest, or overwrite_output_dir: true"
        )
    return checkpoint


def _find_checkpoint(folder: str, wanted: str) -> str:
    try:
        return CheckpointStore(folder).latest() if is_latest(wanted) else named_checkpoint(wanted)
    except CheckpointError as error:
        raise RecipeError(f"resume_from_checkpoint is {wanted}, but {error}") from error


def is_inside(checkpoint: str, folder: str) -> bool:
    """Whether a checkpoint is one of the run in this folder."""
    return Path(folder).resolve() in Path(checkpoint).resolve().parents


def clear(folder: str) -> None:
    """Remove what an earlier run left in its folder, and nothing else."""
    for pattern in _FOLDERS_OF_A_RUN:
        for path in Path(folder).glob(pattern):
            shutil.rmtree(path)
    for name in _WRITTEN_BY_A_RUN:
        Path(folder, name).unlink(missing_ok=True)
    noiser = Path(folder, NOISER_FOLDER)
    if noiser.is_dir() and not any(noiser.iterdir()):
        noiser.rmdir()


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
