"""The folder of a run: check that it is free, lock it, and find the checkpoint to resume from."""

from pathlib import Path

from adversarial_mlm.recipes.recipe import Recipe
from adversarial_mlm.saving.checkpoint_store import CheckpointStore, is_latest, named_checkpoint
from adversarial_mlm.saving.run_files import METRICS_FILE, RECIPE_FILE
from adversarial_mlm.saving.run_folder import RunFolder
from adversarial_mlm.utils import distributed
from adversarial_mlm.utils.errors import CheckpointError, RecipeError
from adversarial_mlm.utils.output_folders import listed, occupy


def check_output_dir(recipe: Recipe) -> str | None:
    """Check that the run's folder is free, lock it, and find the checkpoint to resume from. Process 0 does it for all.

    A folder is free if it is new or empty, or if it contains a run of this package that the recipe resumes or
    overwrites. The lock is held until the process ends.

    Returns:
        `str`: The checkpoint's folder, or `None` for a fresh run. `resume_from_checkpoint: latest` (or `true`) takes
        the newest complete checkpoint in `output_dir`.

    Raises:
        RecipeError: If the folder is not free, cannot be written to, or is used by another process. If the run would
            overwrite files that no run wrote. If the checkpoint is missing or damaged.
    """
    return distributed.on_main_process(lambda: _check_output_dir(recipe))


def _check_output_dir(recipe: Recipe) -> str | None:
    folder, wanted = recipe.output_dir, recipe.training.resume_from_checkpoint
    if not folder:
        raise RecipeError("output_dir is empty: give the folder of the run")
    checkpoint = _find_checkpoint(folder, wanted) if wanted else None
    resumes = checkpoint is not None and is_inside(checkpoint, folder)
    _check_content(folder, recipe.run.overwrite_output_dir, resumes)  # before the lock is written into it
    occupy(folder)
    _check_content(folder, recipe.run.overwrite_output_dir, resumes)  # another run may have ended in between
    return checkpoint


def _check_content(folder: str, overwrite: bool, resumes: bool) -> None:
    run = RunFolder(folder)
    if run.is_empty():
        return
    if not run.is_run():
        if resumes:  # the run of an older version without markers; its checkpoint has a manifest
            return
        raise RecipeError(
            f"output_dir {folder} contains files that no run of this package has marked as its own "
            f"({listed(run.others())}); they were not changed: choose another folder"
        )
    # a folder with only a recipe is from a run that was stopped at its start
    earlier = [name for name in (METRICS_FILE, "model.safetensors") if _has_content(Path(folder, name))]
    earlier += [path.name for path in sorted(Path(folder).glob("checkpoint-[0-9]*"))[:1]]
    if earlier and not overwrite and not resumes:
        raise RecipeError(
            f"output_dir {folder} contains another run ({', '.join(earlier)}): choose another folder, or set "
            "resume_from_checkpoint: latest or overwrite_output_dir: true"
        )
    # the recipe may have changed if a run is resumed, or was stopped at its start: a copy is kept
    may_change = (RECIPE_FILE,) if resumes or not earlier else ()
    others = [name for name in run.others(resumes) if name not in may_change]
    if others:
        raise RecipeError(
            f"output_dir {folder} contains files that its run did not write, or that were changed since "
            f"({listed(others)}), and this run would replace them: move them, or choose another folder"
        )


def _find_checkpoint(folder: str, wanted: str) -> str:
    try:
        return CheckpointStore(folder).latest() if is_latest(wanted) else named_checkpoint(wanted)
    except CheckpointError as error:
        raise RecipeError(f"resume_from_checkpoint is {wanted}, but {error}") from error


def is_inside(checkpoint: str, folder: str) -> bool:
    """Whether a checkpoint belongs to the run in this folder."""
    return Path(folder).resolve() in Path(checkpoint).resolve().parents


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
