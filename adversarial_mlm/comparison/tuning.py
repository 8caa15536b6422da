"""Search the settings of a baseline before a comparison, and those of other arms with as many trials.

The search is successive halving (Jamieson and Talwalkar 2016). Every trial of every rung has a complete learning-rate
schedule.
"""

import dataclasses
import itertools
import logging
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from adversarial_mlm.comparison.arms import PAIRING_OPTIONS, arm_recipe, difference_of_masks, fingerprint, masks_of
from adversarial_mlm.comparison.folder import RESULT_FILE, ComparisonFolder, read_json
from adversarial_mlm.comparison.held_out import ComparisonData
from adversarial_mlm.comparison.plan import Plan, Run, count_flops
from adversarial_mlm.comparison.recipe import Arm, Budget, ComparisonRecipe, Tune
from adversarial_mlm.comparison.runs import Comparison, make_run
from adversarial_mlm.recipes.recipe import OPTIONS, Recipe
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.options import required

logger = logging.getLogger(__name__)

TUNING_FILE, TUNING_FOLDER = "tuning.json", "tuning"


@dataclass(frozen=True)
class Trial:
    """One setting of one arm.

    Attributes:
        name (`str`): The arm and a number, such as `random_40-03`.
        options (`dict`): Its values of the options that are searched.
    """

    name: str
    options: dict[str, Any]


def trials_of(tune: Tune, arm: str) -> list[Trial]:
    """Return the trials of an arm: all combinations of its values, or a random choice of `tune.trials` of them.

    Args:
        tune ([`Tune`]): The search.
        arm (`str`): The baseline, or an arm of `tune.own`.
    """
    values = tune.values_of(arm)
    settings = [dict(zip(values, setting, strict=True)) for setting in itertools.product(*values.values())]
    if len(settings) > tune.number_of_trials:
        chosen = random.Random(f"{tune.seed} {arm}").sample(range(len(settings)), tune.number_of_trials)
        settings = [settings[index] for index in sorted(chosen)]
    return [Trial(f"{arm}-{index:02d}", setting) for index, setting in enumerate(settings)]


def rung_sizes(trials: int, rungs: int) -> list[int]:
    """Return how many trials each rung has: half as many as the rung before, rounded up."""
    sizes = [trials]
    while len(sizes) < rungs:
        sizes.append(math.ceil(sizes[-1] / 2))
    return sizes


def earlier_search(
    recipe: ComparisonRecipe, words: list[str], folder: ComparisonFolder, data: ComparisonData
) -> dict[str, Any]:
    """Return the content of `tuning.json`; without such a file, an empty `searches`.

    The arguments are those of [`tuned_recipe`].

    Raises:
        RecipeError: As [`tuned_recipe`].
    """
    earlier = folder.read(TUNING_FILE)
    if recipe.tune is None or earlier is None:
        return {"searches": {}}
    _check_unchanged(recipe, folder, earlier, _what_is_searched(recipe, words, data))
    return earlier


def cost_in_runs(tune: Tune) -> float:
    """Return the cost of the whole search, in runs of `tune.updates` updates."""
    sizes = rung_sizes(tune.number_of_trials, tune.rungs)
    of_an_arm = sum(size / 2 ** (tune.rungs - 1 - rung) for rung, size in enumerate(sizes))
    return (1 + len(tune.own)) * of_an_arm


def check_tune(recipe: ComparisonRecipe, words: list[str], data: ComparisonData) -> None:
    """Check before any work that every trial can be made.

    Args:
        recipe ([`ComparisonRecipe`]): The comparison; nothing is checked if it has no `tune`.
        words (`list[str]`): Options on the command line, for all arms.
        data ([`ComparisonData`]): The proteins.

    Raises:
        RecipeError: If not; the message names the option, or the arm and the number of the trial.
    """
    tune = recipe.tune
    if tune is None:
        return
    if tune.held_out_set not in data.selection:
        raise RecipeError(
            f"{recipe.path}: tune.held_out_set is {tune.held_out_set}, but the held-out sets are "
            f"{', '.join(data.selection)}"
        )
    given = OPTIONS.read_words(words)
    for arm in (tune.baseline, *tune.own):
        for name in tune.values_of(arm):
            if name in given:
                raise RecipeError(f"--{name} is given, but {recipe.path} searches it for {arm}: remove one of them")
            if arm != tune.baseline and name in PAIRING_OPTIONS:
                raise RecipeError(
                    f"{recipe.path}: tune.own.{arm}.{name} would unpair the arm from the others: search it for the "
                    "baseline, in tune.options"
                )
        _trial_arms(recipe, tune, arm, words)


def tuned_recipe(
    recipe: ComparisonRecipe, words: list[str], folder: ComparisonFolder, data: ComparisonData
) -> tuple[ComparisonRecipe, dict[str, Any]]:
    """Make the missing trials, and return the recipe with the settings that won.

    Several processes share the trials. A search that ended is not repeated.

    Args:
        recipe ([`ComparisonRecipe`]): The comparison; it has `tune`.
        words (`list[str]`): Options on the command line, for all arms.
        folder ([`ComparisonFolder`]): The comparison's folder, which is taken.
        data ([`ComparisonData`]): The proteins; the search uses the selection part only.

    Returns:
        The recipe with the winning settings in `common` and in the arms that have a search of their own, and the
        search as plain data, for `study.json`.

    Raises:
        RecipeError: If `tune` or the options of all arms differ from those of trials that ran.
        Interrupted: If a signal arrives; a later call goes on.
    """
    tune = required(recipe.tune, "tune")
    found = _begin(recipe, words, folder, data)
    for arm in (tune.baseline, *tune.own):
        if arm not in found["searches"]:
            comparison = _of_trials(with_winners(recipe, words, found), tune, arm, words, folder, data)
            search = _search(comparison, tune, arm, _rows(recipe, arm, words))
            with folder.lock("tuning"):
                found = required(folder.read(TUNING_FILE), TUNING_FILE)
                found["searches"][arm] = search
                folder.write(TUNING_FILE, found)
            logger.info("tuned %s: %s", arm, _in_words(search["winner"]))
    return with_winners(recipe, words, found), found


def with_winners(recipe: ComparisonRecipe, words: list[str], found: Mapping[str, Any]) -> ComparisonRecipe:
    """Return the recipe with the settings that won so far; the same recipe if there are none.

    The settings of the baseline go into `common`. Numbers of updates are adapted, so that as many proteins are read as
    before.

    Args:
        recipe ([`ComparisonRecipe`]): The comparison, as its file says.
        words (`list[str]`): Options on the command line, for all arms.
        found (`Mapping`): Content of `tuning.json`.
    """
    tune, searches = recipe.tune, found["searches"]
    if tune is None or tune.baseline not in searches:
        return recipe
    common = {**recipe.common, **searches[tune.baseline]["winner"]}
    tuned = dataclasses.replace(recipe, common=common)
    share = _rows(recipe, tune.baseline, words) / _rows(tuned, tune.baseline, words)
    arms = {
        name: dataclasses.replace(arm, options={**arm.options, **searches[name]["winner"]})
        if name != tune.baseline and name in searches
        else arm
        for name, arm in recipe.arms.items()
    }
    budgets = {name: _scaled(budget, share) for name, budget in recipe.budgets.items()}
    return _with_marks(dataclasses.replace(tuned, arms=arms, budgets=budgets), words)


def _with_marks(recipe: ComparisonRecipe, words: list[str]) -> ComparisonRecipe:
    """Mark arms that have other masks than their partner after the search, and unmark those that now match."""

    def marked(name: str, arm: Arm) -> Arm:
        if arm.against is None:
            return arm
        own, partners = (masks_of(arm_recipe(recipe, which, words=words)) for which in (name, arm.against))
        return dataclasses.replace(arm, unmatched=bool(difference_of_masks(own, partners)))

    return dataclasses.replace(recipe, arms={name: marked(name, arm) for name, arm in recipe.arms.items()})


def _scaled(budget: Budget, share: float) -> Budget:
    if budget.updates is None:
        return budget
    return dataclasses.replace(budget, updates=max(round(budget.updates * share), 1))


def _rows(recipe: ComparisonRecipe, arm: str, words: list[str]) -> int:
    """Proteins of an update."""
    args = arm_recipe(recipe, arm, words=words).training
    return args.per_device_train_batch_size * args.gradient_accumulation_steps


def _what_is_searched(recipe: ComparisonRecipe, words: list[str], data: ComparisonData) -> dict[str, Any]:
    tune = required(recipe.tune, "tune")
    return {
        "tune": dataclasses.asdict(tune),
        "common": dict(recipe.common),
        "arms": {name: recipe.arms[name].options for name in (tune.baseline, *tune.own)},
        "words": list(words),
        "data": data.fingerprint,
    }


def _begin(
    recipe: ComparisonRecipe, words: list[str], folder: ComparisonFolder, data: ComparisonData
) -> dict[str, Any]:
    """Write down what is searched; if there are earlier trials, check that they were made for the same search."""
    now = _what_is_searched(recipe, words, data)
    with folder.lock("tuning"):
        if folder.read(TUNING_FILE) is None:
            folder.write(TUNING_FILE, {**now, "searches": {}})
    earlier = required(folder.read(TUNING_FILE), TUNING_FILE)
    _check_unchanged(recipe, folder, earlier, now)
    return earlier


def _check_unchanged(recipe: ComparisonRecipe, folder: ComparisonFolder, earlier: dict, now: dict) -> None:
    changed = [name for name, value in now.items() if _plain(earlier.get(name)) != _plain(value)]
    if changed:
        raise RecipeError(
            f"{recipe.path}: {' and '.join(changed)} {verb(len(changed), 'differs', 'differ')} from those of the "
            f"trials in {folder.path / TUNING_FILE}: set the old values again, or choose another output_dir"
        )


def _plain(value: Any) -> Any:
    """A value as it is read back from JSON."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items() if item is not None and name != "cache_dir"}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


# ---- The search of one arm ----


def _search(comparison: Comparison, tune: Tune, arm: str, rows: int) -> dict[str, Any]:
    """Make the trials of an arm. `rows`: proteins of an update in the file; its numbers of updates refer to these."""
    recipe, trials = comparison.recipe, {trial.name: trial for trial in trials_of(tune, arm)}
    reported: dict[str, dict[str, Any]] = {
        name: {"name": name, "options": trial.options, "rungs": []} for name, trial in trials.items()
    }
    running, losses = list(trials), {}
    for rung, size in enumerate(rung_sizes(len(trials), tune.rungs)):
        running = running[:size]
        proteins = rows * tune.updates * 2.0 ** (rung + 1 - tune.rungs)
        planned = [
            Run(name, tune.seed, max(round(proteins / _rows(recipe, name, comparison.words)), 1)) for name in running
        ]
        logger.info("tuning %s, rung %d of %d: %s", arm, rung + 1, tune.rungs, count(size, "trial"))
        for run, metrics in _made(comparison, planned):
            loss = None if metrics["diverged"] else metrics[f"{tune.held_out_set}_loss"]
            losses[run.arm] = math.inf if loss is None else loss
            reported[run.arm]["rungs"].append({"updates": run.updates, "loss": loss})
        running.sort(key=losses.__getitem__)
    best = running[0]
    if math.isinf(losses[best]):
        raise RecipeError(f"{recipe.path}: every trial of {arm} diverged: try lower learning rates in tune")
    return {
        "winner": trials[best].options,
        "slope": _slope(reported[best]["rungs"]),
        "trials": list(reported.values()),
    }


def _of_trials(
    recipe: ComparisonRecipe,
    tune: Tune,
    arm: str,
    words: list[str],
    folder: ComparisonFolder,
    data: ComparisonData,
) -> Comparison:
    """Return a comparison whose arms are the trials, in a folder of its own."""
    inner = ComparisonFolder(str(folder.path / TUNING_FOLDER))
    of_trials, resolved = _trial_arms(recipe, tune, arm, words)
    of_trials = dataclasses.replace(of_trials, output_dir=str(inner.path))
    flops = count_flops(of_trials, resolved, data)
    return Comparison(of_trials, words, inner, data, flops, Plan({}, [], {}, set()))


def _trial_arms(
    recipe: ComparisonRecipe, tune: Tune, arm: str, words: list[str]
) -> tuple[ComparisonRecipe, dict[str, Recipe]]:
    """Return the comparison with an arm's trials as its arms, and the pre-training recipe of each."""
    own = recipe.arms[arm].options
    arms = {trial.name: Arm(options={**own, **trial.options}) for trial in trials_of(tune, arm)}
    of_trials = dataclasses.replace(recipe, arms=arms, budgets={}, tasks=None)
    return of_trials, {name: arm_recipe(of_trials, name, words=words) for name in arms}


def _made(comparison: Comparison, runs: list[Run]) -> Iterator[tuple[Run, Mapping[str, Any]]]:
    """Make the missing runs, wait for those of other processes, and yield all with their metrics."""
    folder = comparison.folder
    for wait in (False, True):
        for run in runs:
            if _is_made(comparison, run):
                continue
            with folder.lock(run.name, wait=wait) as ours:
                if ours and not _is_made(comparison, run):
                    make_run(comparison, run)
    for run in runs:
        yield run, read_json(folder.of(run) / RESULT_FILE)["metrics"]


def _is_made(comparison: Comparison, run: Run) -> bool:
    """Whether a trial is complete; one that was made with other options is not."""
    if not comparison.folder.is_done(run):
        return False
    made_with = read_json(comparison.folder.of(run) / RESULT_FILE)["fingerprint"]
    return made_with == fingerprint(arm_recipe(comparison.recipe, run.arm, words=comparison.words))


def _slope(rungs: list[dict[str, Any]]) -> float | None:
    """S = −dCE / d ln(updates), from the last two rungs; `None` if there are not two with a loss."""
    known = [rung for rung in rungs if rung["loss"] is not None]
    if len(known) < 2:
        return None
    before, last = known[-2:]
    return (before["loss"] - last["loss"]) / math.log(last["updates"] / before["updates"])


def _in_words(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())
