"""A whole comparison: the plan, the runs that are left, and the tables when all are done."""

import argparse
import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

from adversarial_mlm.comparison import report_plot
from adversarial_mlm.comparison.arms import arm_recipe, check_arms, common_options, fingerprint
from adversarial_mlm.comparison.confirmation import check_not_spent, read_confirmation
from adversarial_mlm.comparison.folder import CONFIRMATION_FILE, COSTS_FILE, PLAN_FILE, ComparisonFolder
from adversarial_mlm.comparison.held_out import ComparisonData, load_comparison_data
from adversarial_mlm.comparison.plan import Plan, Run, count_flops, make_plan, plan_table, seconds_of
from adversarial_mlm.comparison.recipe import WARM_UP, ComparisonRecipe, read_comparison
from adversarial_mlm.comparison.report_tables import markdown, runs_csv
from adversarial_mlm.comparison.runs import (
    Comparison,
    add_tasks,
    has_tasks,
    is_trained,
    lacks_tasks,
    make_run,
    seconds_of_tasks,
    warm_up,
)
from adversarial_mlm.comparison.step_costs import StepCosts, measure
from adversarial_mlm.comparison.study import build_study, check_results, merge_plan
from adversarial_mlm.comparison.tasks import BASELINES_FILE, DownstreamTasks
from adversarial_mlm.recipes.recipe import Recipe
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.errors import MissingPackageError, RecipeError, WritingError
from adversarial_mlm.utils.extras import require
from adversarial_mlm.utils.hardware import machine

logger = logging.getLogger(__name__)

STUDY_FILE, TABLES_FILE, RUNS_FILE, PLOT_FILE = "study.json", "study.md", "runs.csv", "study.png"
_TURNS_OF_A_DRY_RUN = 2


@dataclasses.dataclass
class Outcome:
    """How far a comparison is.

    Attributes:
        tables (`str`): The report, where all runs are done; else empty.
        elsewhere (`int`): Runs that other processes are at.
        files (`list[Path]`): What was written at the end.
    """

    tables: str = ""
    elsewhere: int = 0
    files: list[Path] = dataclasses.field(default_factory=list)


def parse_arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command line, and the words in it that are options of pre-training."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        usage="%(prog)s recipe.yaml [--dry_run] [--selection_only] [--output_dir DIR] [--data_dir DIR] [--option ...]",
        description="Compare ways of pre-training. Started more than once, each process takes the next free run.",
    )
    parser.add_argument("recipe", help="YAML file of a comparison")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="Print the plan with its cost, do nothing")
    parser.add_argument("--output_dir", help="In place of the recipe's")
    parser.add_argument("--data_dir", help="In place of the recipe's tasks.data_dir")
    parser.add_argument(
        "--selection_only",
        "--selection-only",
        action="store_true",
        help="Leave the confirmation part unread, so that arms, seeds and budgets can still be added",
    )
    parser.add_argument("--markdown", type=Path, help="Write the tables into this file, too")
    parser.add_argument("--json", type=Path, help="Write the plain results into this file, too")
    parser.add_argument("--plot", type=Path, help="Write the picture into this file, too")
    return parser.parse_known_args(argv)


def prepare(args: argparse.Namespace, words: list[str]) -> tuple[ComparisonRecipe, dict[str, Recipe], ComparisonData]:
    """Read the recipe and the proteins, and check all that can be checked before any work.

    Raises:
        RecipeError: If something cannot be done as asked.
        CorpusError: If data cannot be read.
    """
    _check_packages()
    recipe = read_comparison(args.recipe, args.output_dir, args.data_dir)
    recipes = check_arms(recipe, words)
    if recipe.plot:
        report_plot.check_available()
    elif args.plot is not None:
        raise RecipeError("--plot is given, but the recipe says plot: false")
    return recipe, recipes, load_comparison_data(next(iter(recipes.values())).data, recipe.held_out)


def _check_packages() -> None:
    """Make sure before hours of work that steps can be measured and differences told."""
    try:
        for package in ("greenlet", "scipy"):
            require(package, "compare", "a comparison")
    except MissingPackageError as error:
        raise RecipeError(str(error)) from error


def dry_run(args: argparse.Namespace, words: list[str]) -> str:
    """The plan with its cost, as text. Costs that were not measured yet are measured for a moment; nothing is kept.

    Raises:
        RecipeError: If something cannot be done as asked.
        CorpusError: If data cannot be read.
    """
    recipe, recipes, data = prepare(args, words)
    flops = count_flops(recipe, recipes, data)
    folder = ComparisonFolder(recipe.output_dir) if Path(recipe.output_dir).is_dir() else None
    before, results = None, {}
    if folder is not None:
        _merged(folder, recipe, recipes, words, data, make_plan(recipe, flops, None))
        before, results = _read_costs(folder, data), folder.results()
    costs = _measured(before, recipe, recipes, data, _TURNS_OF_A_DRY_RUN)
    plan = make_plan(recipe, flops, costs)
    if folder is not None:
        _merged(folder, recipe, recipes, words, data, plan)
    left = [run for run in plan.runs if run not in results]
    warm_ups = [run for run in plan.warm_ups.values() if folder is None or not is_trained(folder, run)]
    how = "measured when the runs began" if costs is before else "measured just now, roughly"
    lines = [
        plan_table(plan, flops, costs, {run.name for run in results}),
        "",
        f"{len(plan.runs)} runs, equal ones once, {len(left)} to do; seconds {how}",
        f"training: about {_minutes(sum(seconds_of(run, costs) for run in (*warm_ups, *left)))}"
        + (f", {len(warm_ups)} warm-ups included" if warm_ups else ""),
    ]
    if recipe.tasks is not None:
        lines.append(_tasks_that_are_left(recipe, plan, results))
    return "\n".join(lines)


def _tasks_that_are_left(recipe: ComparisonRecipe, plan: Plan, results: dict[Run, dict[str, Any]]) -> str:
    left = [run for run in plan.with_tasks if not has_tasks(results.get(run), recipe)]
    tasks = DownstreamTasks(recipe.tasks)
    for name in recipe.tasks.of if left else ():
        tasks.data(name)  # which says what is missing
    seconds = seconds_of_tasks(results)
    when = "whose time is known when the first of them is done" if not seconds else f"about {_minutes(seconds)} each"
    return f"downstream tasks: {', '.join(recipe.tasks.of)} for {len(left)} runs, {when}"


def compare(args: argparse.Namespace, words: list[str]) -> Outcome:
    """Make what is left of a comparison.

    Several processes may do so in one folder: each takes the next run that no other is at, and the last one makes the
    tables.

    Raises:
        RecipeError: If something cannot be done as asked.
        CorpusError: If data cannot be read.
        WritingError: If a result cannot be written.
        Interrupted: If a signal came; the same command goes on.
    """
    recipe, recipes, data = prepare(args, words)
    folder = ComparisonFolder(recipe.output_dir)
    flops = count_flops(recipe, recipes, data)
    with folder.lock("plan"):  # other processes wait, and so do not disturb what is measured
        _merged(folder, recipe, recipes, words, data, make_plan(recipe, flops, None))  # refuses before it measures
        before = _read_costs(folder, data)
        costs = _measured(before, recipe, recipes, data, recipe.measured_turns)
        plan = make_plan(recipe, flops, costs)
        plan_now = _merged(folder, recipe, recipes, words, data, plan)
        if costs is not before:
            folder.write(COSTS_FILE, costs.as_dict())
        folder.write(PLAN_FILE, plan_now)
    tasks = None if recipe.tasks is None else DownstreamTasks(recipe.tasks)
    comparison = Comparison(recipe, words, folder, data, flops, plan, tasks)
    logger.info("%s\n", plan_table(plan, flops, costs, {run.name for run in folder.results()}))
    baselines = folder.read(BASELINES_FILE) or {} if tasks is None else tasks.baselines(folder)
    for seed in plan.warm_ups:
        warm_up(comparison, seed)
    elsewhere = _make_runs(comparison, costs)
    if elsewhere:
        return Outcome(elsewhere=elsewhere)
    with folder.lock("tables"):
        merged, results = folder.read(PLAN_FILE), folder.results()
        elsewhere = sum(name not in {run.name for run in results} for name in merged["runs"])
        if elsewhere:  # of a recipe that grew, with which another process was started meanwhile
            return Outcome(elsewhere=elsewhere)
        check_results(recipe, merged, results)
        confirmation = folder.read(CONFIRMATION_FILE) if args.selection_only else read_confirmation(comparison)
        study = build_study(recipe, merged, results, data, flops, costs, confirmation or {"runs": {}}, baselines)
        return _write(args, recipe, folder, study)


def _merged(
    folder: ComparisonFolder,
    recipe: ComparisonRecipe,
    recipes: dict[str, Recipe],
    words: list[str],
    data: ComparisonData,
    plan: Plan,
) -> dict[str, Any]:
    """The plan with what ran before, after everything was checked that speaks against it."""
    common = common_options(recipe, words, next(iter(recipes.values())))
    warm_up_options = None if recipe.warm_up is None else fingerprint(arm_recipe(recipe, WARM_UP, words=words))
    merged = merge_plan(folder, recipe, recipes, common, data, plan, warm_up_options)
    check_not_spent(folder, plan.runs, recipe.held_out.spent)
    return merged


def _read_costs(folder: ComparisonFolder, data: ComparisonData) -> StepCosts | None:
    """What was measured before, with these proteins."""
    found = folder.read(COSTS_FILE)
    return None if found is None or found.get("data") != data.fingerprint else StepCosts(**found)


def _measured(
    before: StepCosts | None,
    recipe: ComparisonRecipe,
    recipes: dict[str, Recipe],
    data: ComparisonData,
    turns: int,
) -> StepCosts:
    """What was measured before where it is of all arms, else with those that were missing, or of all."""
    had = {} if before is None else before.fingerprints
    known = [name for name, of_arm in recipes.items() if had.get(name) == fingerprint(of_arm)]
    missing = [name for name in recipes if name not in known]
    if not missing:
        _say_another_machine(before)
        return before
    logger.info("measuring what an update costs: %d arms, %d turns", len(missing), turns)
    if not known:
        return measure(recipes, data, turns)
    likes = [budget.like for budget in recipe.budgets.values() if budget.equal == "seconds" and budget.like in known]
    reference = [*likes, *known][0]
    beside = {name: recipes[name] for name in (reference, *missing)}
    return before.with_arms(measure(beside, data, turns), reference)


def _say_another_machine(costs: StepCosts) -> None:
    now = machine()
    if costs.machine.get("processor") != now["processor"] or costs.machine.get("gpu") != now.get("gpu"):
        logger.warning(
            "costs of updates were measured on %s; this machine is another, and budgets of equal seconds stay those "
            "of that one",
            costs.machine.get("gpu") or costs.machine.get("processor"),
        )


def _make_runs(comparison: Comparison, costs: StepCosts) -> int:
    """Make the runs that no other process is at; returns how many others are still at."""
    folder, plan = comparison.folder, comparison.plan
    made = True
    while made:  # once more, for runs that another process was at and has left
        made = False
        for run in plan.runs:
            if folder.is_done(run) and not lacks_tasks(comparison, run):
                continue
            with folder.lock(run.name, wait=False) as ours:
                if not ours:
                    continue
                made = True
                if not folder.is_done(run):
                    _say_progress(comparison, run, costs)
                    make_run(comparison, run)
                elif lacks_tasks(comparison, run):
                    add_tasks(comparison, run)
    return sum(not folder.is_done(run) or lacks_tasks(comparison, run) for run in plan.runs)


def _say_progress(comparison: Comparison, run: Run, costs: StepCosts) -> None:
    plan, results = comparison.plan, comparison.folder.results()
    left = [other for other in plan.runs if other not in results]
    of_tasks = seconds_of_tasks(results)

    def seconds(other: Run) -> float:
        return seconds_of(other, costs) + (of_tasks if other in plan.with_tasks else 0.0)

    logger.info(
        "[%d of %d] %s: about %s; all that is left: about %s of work%s",
        len(plan.runs) - len(left) + 1,
        len(plan.runs),
        run.name,
        _minutes(seconds(run)),
        _minutes(sum(map(seconds, left))),
        "" if of_tasks or not plan.with_tasks else ", and downstream tasks",
    )


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _write(
    args: argparse.Namespace, recipe: ComparisonRecipe, folder: ComparisonFolder, study: dict[str, Any]
) -> Outcome:
    folder.write(STUDY_FILE, study)
    study = folder.read(STUDY_FILE)  # the tables are of what was written
    tables = markdown(study)
    written = {folder.path / TABLES_FILE: tables, folder.path / RUNS_FILE: runs_csv(study)}
    if args.markdown is not None:
        written[args.markdown] = tables
    if args.json is not None:
        written[args.json] = (folder.path / STUDY_FILE).read_text(encoding="utf-8")
    try:
        for path, text in written.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_files.replace_text(path, text)
        files = [folder.path / STUDY_FILE, *written]
        if recipe.plot:
            report_plot.draw(study, folder.path / PLOT_FILE)
            files.append(folder.path / PLOT_FILE)
            if args.plot is not None:
                args.plot.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder.path / PLOT_FILE, args.plot)
                files.append(args.plot)
    except OSError as error:
        raise WritingError(f"the tables could not be written ({error.strerror or error})") from error
    return Outcome(tables=tables, files=files)
