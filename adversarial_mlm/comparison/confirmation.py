"""The confirmation part of the held-out proteins: read once, at the end, for all runs at once."""

import logging
from typing import Any

from adversarial_mlm.comparison.arms import arm_recipe
from adversarial_mlm.comparison.folder import CONFIRMATION_FILE, ComparisonFolder
from adversarial_mlm.comparison.plan import Run
from adversarial_mlm.comparison.recipe import UNTRAINED
from adversarial_mlm.comparison.refit import figures_of_sets
from adversarial_mlm.comparison.runs import Comparison, ask, load_for_evaluation, log_shares_of, weights_checksum
from adversarial_mlm.utils.errors import RecipeError

logger = logging.getLogger(__name__)


def check_not_spent(folder: ComparisonFolder, runs: list[Run], spent: bool) -> None:
    """Make sure, before any work, that all runs can be read together.

    Args:
        folder ([`ComparisonFolder`]): Of the comparison.
        runs (`list[Run]`): All of the plan.
        spent (`bool`): Whether the recipe says that some go without.

    Raises:
        RecipeError: If the confirmation part was read, there are runs that were not there then, and the recipe does
            not say so; or if it says so and the part was not read.
    """
    earlier = folder.read(CONFIRMATION_FILE)
    if earlier is None:
        if spent:
            raise RecipeError("held_out.spent is true, but the confirmation part was not read yet: leave it out")
        return
    # fresh weights are no arm, and come when tasks are added
    new = [run.name for run in runs if run.name not in earlier["runs"] and run.arm != UNTRAINED]
    if new and not spent:
        raise RecipeError(
            f"the confirmation part was read once, for {len(earlier['runs'])} runs, and {len(new)} runs of the recipe "
            f"were not among them (such as {new[0]}); whoever has seen its figures cannot be surprised by it again: "
            "say held_out.spent: true to report the new runs on the selection part alone, or make all runs anew in "
            "another output_dir with another holdout_seed"
        )


def read_confirmation(comparison: Comparison) -> dict[str, Any]:
    """Evaluate all complete runs on the confirmation part, if that was not done before, and write what came out.

    Biases are refitted on the selection part. Nothing is written before all runs are read, so that a kill leaves the
    part untouched.

    Returns:
        `dict`: `runs` (name → `weights`, the checksum of what was evaluated, and `figures`; of a run that diverged
        neither) and `data`, the fingerprint of the proteins.

    Raises:
        RecipeError: If the weights of a run are not those that were evaluated.
        WritingError: If the figures cannot be written.
    """
    folder = comparison.folder
    results = folder.results()
    earlier = folder.read(CONFIRMATION_FILE)
    if earlier is not None:
        _check_weights(folder, earlier["runs"])
        return earlier
    # a run that diverged was there, too, and left nothing to evaluate
    found = {run.name: {"weights": None, "figures": {}} for run in results}
    complete = [run for run, result in results.items() if not result["metrics"]["diverged"]]
    for number, run in enumerate(complete, 1):
        logger.info("confirmation: %d of %d, %s", number, len(complete), run.name)
        found[run.name] = {"weights": weights_checksum(folder.of(run)), "figures": _figures(comparison, run)}
    content = {"data": comparison.data.fingerprint, "runs": found}
    folder.write(CONFIRMATION_FILE, content)
    return content


def _figures(comparison: Comparison, run: Run) -> dict[str, float]:
    # all arms share what is needed of the recipe here: windows, masks and device
    recipe = arm_recipe(comparison.recipe, next(iter(comparison.recipe.arms)), words=comparison.words)
    encoder, collator = load_for_evaluation(str(comparison.folder.of(run)), recipe)
    fitted_on = ask(encoder, collator, comparison.data.selection, recipe)
    hidden = ask(encoder, collator, comparison.data.confirmation, recipe)
    return figures_of_sets(hidden, log_shares_of(comparison.data, collator), fitted_on)


def _check_weights(folder: ComparisonFolder, runs: dict[str, Any]) -> None:
    for name, earlier in runs.items():
        if earlier["weights"] and weights_checksum(folder.of(Run.of_name(name))) != earlier["weights"]:
            raise RecipeError(
                f"the weights in {folder.of(Run.of_name(name))} are not those that the confirmation part was read for"
            )
