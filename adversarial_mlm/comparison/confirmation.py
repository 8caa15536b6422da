"""The confirmation part of the held-out proteins: evaluated once, at the end, for all runs together."""

import logging
from typing import Any

from adversarial_mlm.comparison.arms import arm_recipe
from adversarial_mlm.comparison.folder import CONFIRMATION_FILE, ComparisonFolder
from adversarial_mlm.comparison.plan import Run
from adversarial_mlm.comparison.recipe import UNTRAINED
from adversarial_mlm.comparison.refit import figures_of_sets
from adversarial_mlm.comparison.runs import Comparison, ask, load_for_evaluation, log_shares_of, weights_checksum
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import RecipeError

logger = logging.getLogger(__name__)


def check_not_spent(folder: ComparisonFolder, runs: list[Run], spent: bool) -> None:
    """Check, before any work, that all planned runs may be evaluated on the confirmation part together.

    Args:
        folder ([`ComparisonFolder`]): The comparison's folder.
        runs (`list[Run]`): All runs of the plan.
        spent (`bool`): `held_out.spent` of the recipe: whether new runs are reported without confirmation.

    Raises:
        RecipeError: If the confirmation part was evaluated before some runs were planned and `spent` is `False`; or if
            `spent` is `True` and the part was not evaluated yet.
    """
    earlier = folder.read(CONFIRMATION_FILE)
    if earlier is None:
        if spent:
            raise RecipeError("held_out.spent is true, but the confirmation part was not evaluated yet: remove it")
        return
    # untrained encoders are not an arm; they are added together with downstream tasks
    new = [run.name for run in runs if run.name not in earlier["runs"] and run.arm != UNTRAINED]
    if new and not spent:
        raise RecipeError(
            f"the confirmation part was already evaluated for {count(len(earlier['runs']), 'run')}. The recipe adds "
            f"{count(len(new), 'run')} (such as {new[0]}), whose choice its results may have guided. Set "
            "held_out.spent: true to report "
            "the new runs on the selection part only, or repeat all runs in another output_dir with another "
            "holdout_seed"
        )


def read_confirmation(comparison: Comparison) -> dict[str, Any]:
    """Evaluate all complete runs on the confirmation part once, and write the result.

    Biases are refitted on the selection part. The result is written after the last run: if the process is killed
    before, the confirmation part counts as not evaluated. A second call returns the first result.

    Returns:
        `dict`: `runs` (name → `weights`, the checksum of the evaluated weights, and `figures`; empty for a run that
        diverged) and `data`, the fingerprint of the proteins.

    Raises:
        RecipeError: If the weights of a run have changed since they were evaluated.
        WritingError: If the result cannot be written.
    """
    folder = comparison.folder
    results = folder.results()
    earlier = folder.read(CONFIRMATION_FILE)
    if earlier is not None:
        _check_weights(folder, earlier["runs"])
        return earlier
    # a run that diverged is listed, but has no weights to evaluate
    found: dict[str, dict[str, Any]] = {run.name: {"weights": None, "figures": {}} for run in results}
    complete = [run for run, result in results.items() if not result["metrics"]["diverged"]]
    for number, run in enumerate(complete, 1):
        logger.info("confirmation: %d of %d, %s", number, len(complete), run.name)
        found[run.name] = {"weights": weights_checksum(folder.of(run)), "figures": _figures(comparison, run)}
    content = {"data": comparison.data.fingerprint, "runs": found}
    folder.write(CONFIRMATION_FILE, content)
    return content


def _figures(comparison: Comparison, run: Run) -> dict[str, float]:
    # windows, masks and device are the same for all arms
    recipe = arm_recipe(comparison.recipe, next(iter(comparison.recipe.arms)), words=comparison.words)
    encoder, collator = load_for_evaluation(str(comparison.folder.of(run)), recipe)
    fitted_on = ask(encoder, collator, comparison.data.selection, recipe)
    hidden = ask(encoder, collator, comparison.data.confirmation, recipe)
    return figures_of_sets(hidden, log_shares_of(comparison.data, collator), fitted_on)


def _check_weights(folder: ComparisonFolder, runs: dict[str, Any]) -> None:
    for name, earlier in runs.items():
        if earlier["weights"] and weights_checksum(folder.of(Run.of_name(name))) != earlier["weights"]:
            raise RecipeError(
                f"the weights in {folder.of(Run.of_name(name))} have changed since the confirmation part was "
                "evaluated: restore them, or repeat the comparison in another output_dir with another holdout_seed"
            )
