"""A whole comparison: the plan, the runs that are left, and the tables when all are done."""

import argparse
import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

from .. import durable
from ..recipe import Recipe, RecipeError
from . import plot
from .arms import check_arms, common_options
from .comparison_recipe import ComparisonRecipe, read_comparison
from .confirmation import check_not_spent, read_confirmation
from .folder import COSTS_FILE, PLAN_FILE, ComparisonFolder
from .held_out import ComparisonData, load_comparison_data
from .plan import Run, count_flops, make_plan, plan_table, seconds_of
from .running import Comparison, add_tasks, lacks_tasks, make_run, warm_up
from .step_costs import StepCosts, measure
from .study import build_study, merge_plan
from .tables import markdown, runs_csv
from .tasks import DownstreamTasks

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
        usage="%(prog)s recipe.yaml [--dry_run] [--output_dir DIR] [--data_dir DIR] [--option value ...]",
        description="Compare ways of pre-training. Started more than once, each process takes the next free run.",
    )
    parser.add_argument("recipe", help="YAML file of a comparison")
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="Print the plan with its cost, do nothing")
    parser.add_argument("--output_dir", help="In place of the recipe's")
    parser.add_argument("--data_dir", help="In place of the recipe's tasks.data_dir")
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
    recipe = read_comparison(args.recipe, args.output_dir, args.data_dir)
    recipes = check_arms(recipe, words)
    if recipe.plot:
        plot.check_available()
    elif args.plot is not None:
        raise RecipeError("--plot is given, but the recipe says plot: false")
    return recipe, recipes, load_comparison_data(next(iter(recipes.values())).data, recipe.held_out)


def dry_run(args: argparse.Namespace, words: list[str]) -> str:
    """The plan with its cost, as text. Costs that were not measured yet are measured for a moment; nothing is kept."""
    recipe, recipes, data = prepare(args, words)
    flops = count_flops(recipe, recipes, data)
    costs, done, how = None, set(), "measured when the runs began"
    if Path(recipe.output_dir).is_dir():
        folder = ComparisonFolder(recipe.output_dir)
        costs, done = _read_costs(folder, recipe), {run.name for run in folder.results()}
        check_not_spent(folder, make_plan(recipe, flops, costs).runs, recipe.held_out.spent)
    if costs is None:
        costs, how = measure(recipes, data, _TURNS_OF_A_DRY_RUN), f"of {_TURNS_OF_A_DRY_RUN} turns just now, roughly"
    plan = make_plan(recipe, flops, costs)
    left = [run for run in (*plan.warm_ups.values(), *plan.runs) if run.name not in done]
    to_do = sum(run.name not in done for run in plan.runs)
    lines = [
        plan_table(plan, flops, costs, done),
        "",
        f"{len(plan.runs)} runs, equal ones once, {to_do} to do; seconds {how}",
        f"training: about {_minutes(sum(seconds_of(run, costs) for run in left))}",
    ]
    if recipe.tasks is not None:
        evaluated = sum(run in plan.with_tasks for run in left)
        lines.append(
            f"downstream tasks: {', '.join(recipe.tasks.of)} for {evaluated} runs, "
            "whose time is known when the first of them is done"
        )
    return "\n".join(lines)


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
        costs = _costs(folder, recipe, recipes, data)
        plan = make_plan(recipe, flops, costs)
        common = common_options(recipe, words, next(iter(recipes.values())))
        merged = merge_plan(folder, recipe, recipes, common, data, plan)
        check_not_spent(folder, plan.runs, recipe.held_out.spent)
        folder.write(PLAN_FILE, merged)
    tasks = None if recipe.tasks is None else DownstreamTasks(recipe.tasks)
    comparison = Comparison(recipe, words, folder, data, flops, plan, tasks)
    logger.info("%s\n", plan_table(plan, flops, costs, {run.name for run in folder.results()}))
    baselines = {} if tasks is None else tasks.baselines(folder)
    for seed in plan.warm_ups:
        warm_up(comparison, seed)
    elsewhere = _make_runs(comparison, costs)
    if elsewhere:
        return Outcome(elsewhere=elsewhere)
    with folder.lock("tables"):
        study = build_study(
            recipe, merged, folder.results(), data, flops, costs, read_confirmation(comparison), baselines
        )
        return _write(args, recipe, folder, study)


def _read_costs(folder: ComparisonFolder, recipe: ComparisonRecipe) -> StepCosts | None:
    """What was measured before, if it is of all arms."""
    found = folder.read(COSTS_FILE)
    if found is None or not set(recipe.arms) <= set(found["turns"]):
        return None
    return StepCosts(**found)


def _costs(
    folder: ComparisonFolder, recipe: ComparisonRecipe, recipes: dict[str, Recipe], data: ComparisonData
) -> StepCosts:
    costs = _read_costs(folder, recipe)
    if costs is not None:
        return costs
    logger.info("measuring what an update costs: %d arms, %d turns", len(recipes), recipe.measured_turns)
    costs = measure(recipes, data, recipe.measured_turns)
    folder.write(COSTS_FILE, costs.as_dict())
    return costs


def _make_runs(comparison: Comparison, costs: StepCosts) -> int:
    """Make the runs that no other process is at; returns how many others are still at."""
    folder, plan = comparison.folder, comparison.plan
    for run in plan.runs:
        with folder.lock(run.name, wait=False) as ours:
            if not ours:
                continue
            if not folder.is_done(run):
                _say_progress(comparison, run, costs)
                make_run(comparison, run)
            elif lacks_tasks(comparison, run):
                add_tasks(comparison, run)
    return sum(not folder.is_done(run) for run in plan.runs)


def _say_progress(comparison: Comparison, run: Run, costs: StepCosts) -> None:
    plan, results = comparison.plan, comparison.folder.results()
    left = [other for other in plan.runs if other not in results]
    done = [result["tasks"] for result in results.values() if result.get("tasks")]
    of_tasks = sum(task["seconds"] for tasks in done for task in tasks.values()) / max(len(done), 1)

    def seconds(other: Run) -> float:
        return seconds_of(other, costs) + (of_tasks if other in plan.with_tasks else 0.0)

    logger.info(
        "[%d of %d] %s: about %s; all that is left: about %s of work%s",
        len(plan.runs) - len(left) + 1,
        len(plan.runs),
        run.name,
        _minutes(seconds(run)),
        _minutes(sum(map(seconds, left))),
        "" if done or not plan.with_tasks else ", and downstream tasks",
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
            durable.replace_text(path, text)
        files = [folder.path / STUDY_FILE, *written]
        if recipe.plot:
            plot.draw(study, folder.path / PLOT_FILE)
            files.append(folder.path / PLOT_FILE)
            if args.plot is not None:
                args.plot.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder.path / PLOT_FILE, args.plot)
                files.append(args.plot)
    except OSError as error:
        raise durable.WritingError(f"the tables could not be written ({error.strerror or error})") from error
    return Outcome(tables=tables, files=files)
