"""A whole comparison: make the plan, make the missing runs, and write the report when all are complete."""

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import Any, NoReturn

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from adversarial_mlm.comparison import report_files, report_plot
from adversarial_mlm.comparison.arms import arm_recipe, check_arms, common_options, fingerprint
from adversarial_mlm.comparison.confirmation import check_not_spent, read_confirmation
from adversarial_mlm.comparison.folder import CONFIRMATION_FILE, COSTS_FILE, PLAN_FILE, ComparisonFolder
from adversarial_mlm.comparison.held_out import ComparisonData, load_comparison_data
from adversarial_mlm.comparison.meter import meter_table
from adversarial_mlm.comparison.plan import Plan, Run, count_flops, make_plan, plan_table, seconds_of
from adversarial_mlm.comparison.recipe import WARM_UP, ComparisonRecipe, Tasks, read_comparison
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
from adversarial_mlm.comparison.tuning import check_tune, cost_in_runs, earlier_search, tuned_recipe, with_winners
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.recipes.recipe import Recipe
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import MissingPackageError, RecipeError
from adversarial_mlm.utils.extras import require
from adversarial_mlm.utils.hardware import machine
from adversarial_mlm.utils.home import path_argument

logger = logging.getLogger(__name__)

_ROUNDS_OF_A_DRY_RUN = 2


@dataclasses.dataclass
class Outcome:
    """The state of a comparison.

    Attributes:
        tables (`str`): The report if all runs are complete; else empty.
        files (`list[Path]`): Files of the report.
        elsewhere (`int`): Number of runs that other processes are making.
    """

    tables: str = ""
    files: list[Path] = dataclasses.field(default_factory=list)
    elsewhere: int = 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.endswith("are required: recipe"):
            message = "no recipe is given: name a file, or a recipe of the package (--list lists them)"
        self.exit(2, f"{self.prog}: {message}\n")


def _path(text: str) -> Path:
    return Path(path_argument(text))


def parse_arguments(argv: list[str], program: str | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line; the second value holds the words that are pre-training options.

    Args:
        argv (`list[str]`): The command line without the program's name.
        program (`str`, *optional*): The program's name, for messages; by default that of the script.
    """
    return build_parser(program).parse_known_args(argv)


def build_parser(program: str | None = None) -> argparse.ArgumentParser:
    """Return a parser of the options that a comparison has in addition to those of pre-training."""
    parser = _Parser(
        prog=program,
        allow_abbrev=False,
        usage="%(prog)s recipe.yaml [--dry_run] [--selection_only] [--output_dir DIR] [--data_dir DIR] [--option ...]",
        description="Compare ways of pre-training. Start it several times to share the runs among processes.",
    )
    parser.add_argument(
        "recipe", type=path_argument, help="YAML file of a comparison, or the name of a recipe of the package"
    )
    parser.add_argument("--dry_run", "--dry-run", action="store_true", help="Print the plan with its cost and exit")
    parser.add_argument(
        "--meter",
        type=path_argument,
        metavar="MODEL",
        help="Measure by gradients at a trained encoder, without training, how much an update of each arm helps; exit",
    )
    parser.add_argument("--output_dir", type=path_argument, help="Replaces output_dir of the recipe")
    parser.add_argument("--data_dir", type=path_argument, help="Replaces tasks.data_dir of the recipe")
    parser.add_argument(
        "--selection_only",
        "--selection-only",
        action="store_true",
        help="Do not evaluate the confirmation part: arms, seeds and budgets can still be added",
    )
    parser.add_argument("--markdown", type=_path, help="Also write the report to this file")
    parser.add_argument("--json", type=_path, help="Also write study.json to this file")
    parser.add_argument("--plot", type=_path, help="Also write the plot to this file")
    return parser


def prepare(args: argparse.Namespace, words: list[str]) -> tuple[ComparisonRecipe, dict[str, Recipe], ComparisonData]:
    """Read the recipe and the proteins, and check everything before any work.

    Raises:
        RecipeError: If the recipe or an option is invalid.
        CorpusError: If data cannot be read.
    """
    _check_packages()
    recipe = read_comparison(args.recipe, args.output_dir, args.data_dir)
    recipes = check_arms(recipe, words)
    if recipe.plot:
        report_plot.check_available()
    elif args.plot is not None:
        raise RecipeError("--plot is given, but the recipe has plot: false: remove one of them")
    data = load_comparison_data(next(iter(recipes.values())).data, recipe.held_out)
    check_tune(recipe, words, data)
    return recipe, recipes, data


def _check_packages() -> None:
    """Check before hours of work that the packages for timing and statistics are installed."""
    try:
        for package in ("greenlet", "scipy"):
            require(package, "compare", "a comparison")
    except MissingPackageError as error:
        raise RecipeError(str(error)) from error


def dry_run(args: argparse.Namespace, words: list[str]) -> str:
    """Return the plan with its cost, as text. Missing costs are measured briefly; nothing is written.

    Raises:
        RecipeError: If the recipe or an option is invalid.
        CorpusError: If data cannot be read.
    """
    recipe, recipes, data = prepare(args, words)
    flops = count_flops(recipe, recipes, data)
    folder = ComparisonFolder(recipe.output_dir) if Path(recipe.output_dir).is_dir() else None
    before, results, searches = None, {}, {}
    if folder is not None:
        folder.check()
        found = earlier_search(recipe, words, folder, data)
        recipe, searches = with_winners(recipe, words, found), found["searches"]
        recipes = check_arms(recipe, words)
        flops = count_flops(recipe, recipes, data)
        _merged(folder, recipe, recipes, words, data, make_plan(recipe, flops, None))
        before, results = _read_costs(folder, data), folder.results()
    costs = _measured(before, recipe, recipes, data, _ROUNDS_OF_A_DRY_RUN)
    plan = make_plan(recipe, flops, costs)
    if folder is not None:
        _merged(folder, recipe, recipes, words, data, plan)
    left = [run for run in plan.runs if run not in results]
    warm_ups = [run for run in plan.warm_ups.values() if folder is None or not is_trained(folder, run)]
    how = "as measured before the first run" if costs is before else "measured just now, roughly"
    lines = [
        plan_table(plan, flops, costs, {run.name for run in results}),
        "",
        f"{count(len(plan.runs), 'different run')}, {len(left)} to do; minutes {how}",
        f"training: about {_minutes(sum(seconds_of(run, costs) for run in (*warm_ups, *left)))}"
        + (f", including {count(len(warm_ups), 'warm-up')}" if warm_ups else ""),
    ]
    if recipe.tasks is not None:
        lines.append(_tasks_that_are_left(recipe, recipe.tasks, plan, results))
    lines.extend(_tuning_that_is_left(recipe, searches))
    return "\n".join(lines)


def _tuning_that_is_left(recipe: ComparisonRecipe, searches: dict[str, Any]) -> list[str]:
    tune = recipe.tune
    if tune is None or len(searches) == 1 + len(tune.own):
        return []
    return [
        f"tuning first: as much as {cost_in_runs(tune):.1f} runs of {count(tune.updates, 'update')}, less what is "
        "done; the plan above has settings that are not tuned yet"
    ]


def meter(args: argparse.Namespace, words: list[str]) -> str:
    """Return the efficiency of the arms at the encoder `args.meter`, as text, see [`meter`]; nothing is written.

    Raises:
        RecipeError: If the recipe or an option is invalid.
        CheckpointError: If the encoder cannot be loaded.
        CorpusError: If data cannot be read.
    """
    _, recipes, data = prepare(args, words)
    encoder, tokenizer = load_encoder(args.meter, needs_head=True)
    step, max_steps = _place_in_run(Path(args.meter, TRAINER_STATE_NAME))
    return meter_table(recipes, data, encoder, tokenizer, step, max_steps)


def _place_in_run(path: Path) -> tuple[int, int]:
    """Steps that were made and steps of the run, from the state of a trainer; 0 and 1 if there is none."""
    if not path.is_file():
        return 0, 1
    state = TrainerState.load_from_json(str(path))
    return state.global_step, max(state.max_steps, 1)


def _tasks_that_are_left(
    recipe: ComparisonRecipe, wanted: Tasks, plan: Plan, results: dict[Run, dict[str, Any]]
) -> str:
    left = [run for run in plan.with_tasks if not has_tasks(results.get(run), recipe)]
    tasks = DownstreamTasks(wanted)
    for name in wanted.of if left else ():
        tasks.data(name)  # raises an error if files are missing
    seconds = seconds_of_tasks(results)
    when = f"about {_minutes(seconds)} each" if seconds else "time unknown until the first is complete"
    return f"downstream tasks: {', '.join(wanted.of)} for {count(len(left), 'run')}, {when}"


def compare(args: argparse.Namespace, words: list[str]) -> Outcome:
    """Make the missing runs of a comparison, and the report when all are complete.

    Several processes may work in one folder. Each takes the next free run, and the last one writes the report.

    Raises:
        RecipeError: If the recipe or an option is invalid, or if the report would replace a file that was changed.
        CorpusError: If data cannot be read.
        WritingError: If a result cannot be written.
        Interrupted: If a signal arrives; the same command continues the comparison.
    """
    recipe, recipes, data = prepare(args, words)
    folder = ComparisonFolder(recipe.output_dir)
    folder.take()
    copies = _copies(args)
    report_files.check(folder, copies)
    tuning = None
    if recipe.tune is not None:
        recipe, tuning = tuned_recipe(recipe, words, folder, data)
        recipes = check_arms(recipe, words)
    flops = count_flops(recipe, recipes, data)
    with folder.lock("plan"):  # other processes wait, which keeps the timing undisturbed
        _merged(folder, recipe, recipes, words, data, make_plan(recipe, flops, None))  # checks before timing
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
        if elsewhere:  # another process was started with a recipe that has more runs
            return Outcome(elsewhere=elsewhere)
        check_results(recipe, merged, results)
        confirmation = folder.read(CONFIRMATION_FILE) if args.selection_only else read_confirmation(comparison)
        study = build_study(recipe, merged, results, data, flops, costs, confirmation or {"runs": {}}, baselines)
        if tuning is not None:
            study["tuning"] = tuning
        return Outcome(*report_files.write(folder, study, recipe.plot, copies))


def _copies(args: argparse.Namespace) -> dict[str, Path]:
    names = {"markdown": report_files.TABLES_FILE, "json": report_files.STUDY_FILE, "plot": report_files.PLOT_FILE}
    return {name: getattr(args, option) for option, name in names.items() if getattr(args, option) is not None}


def _merged(
    folder: ComparisonFolder,
    recipe: ComparisonRecipe,
    recipes: dict[str, Recipe],
    words: list[str],
    data: ComparisonData,
    plan: Plan,
) -> dict[str, Any]:
    """Check the plan against earlier runs, and return the merged plan."""
    common = common_options(recipe, words, next(iter(recipes.values())))
    warm_up_options = None if recipe.warm_up is None else fingerprint(arm_recipe(recipe, WARM_UP, words=words))
    merged = merge_plan(folder, recipe, recipes, common, data, plan, warm_up_options)
    check_not_spent(folder, plan.runs, recipe.held_out.spent)
    return merged


def _read_costs(folder: ComparisonFolder, data: ComparisonData) -> StepCosts | None:
    """Return earlier costs, if they were measured with these proteins."""
    found = folder.read(COSTS_FILE)
    return None if found is None or found.get("data") != data.fingerprint else StepCosts(**found)


def _measured(
    before: StepCosts | None,
    recipe: ComparisonRecipe,
    recipes: dict[str, Recipe],
    data: ComparisonData,
    rounds: int,
) -> StepCosts:
    """Return earlier costs, and measure the arms that they lack."""
    had = {} if before is None else before.fingerprints
    known = [name for name, of_arm in recipes.items() if had.get(name) == fingerprint(of_arm)]
    missing = [name for name in recipes if name not in known]
    if before is not None and not missing:
        _warn_of_another_machine(before)
        return before
    logger.info("timing the updates of %s, %s", count(len(missing), "arm"), count(rounds, "round"))
    if before is None or not known:
        return measure(recipes, data, rounds)
    likes = [budget.like for budget in recipe.budgets.values() if budget.equal == "seconds" and budget.like in known]
    reference = [*likes, *known][0]
    to_measure = {name: recipes[name] for name in (reference, *missing)}
    return before.with_arms(measure(to_measure, data, rounds), reference)


def _warn_of_another_machine(costs: StepCosts) -> None:
    now = machine()
    if costs.machine.get("processor") != now["processor"] or costs.machine.get("gpu") != now.get("gpu"):
        logger.warning(
            "costs of updates were measured on %s, which is not this machine; budgets of equal seconds keep those "
            "costs",
            costs.machine.get("gpu") or costs.machine.get("processor"),
        )


def _make_runs(comparison: Comparison, costs: StepCosts) -> int:
    """Make the free runs; return the number of runs that other processes are making."""
    folder, plan = comparison.folder, comparison.plan
    made = True
    while made:  # again, for runs that another process has left incomplete
        made = False
        for run in plan.runs:
            if folder.is_done(run) and not lacks_tasks(comparison, run):
                continue
            with folder.lock(run.name, wait=False) as ours:
                if not ours:
                    continue
                made = True
                if not folder.is_done(run):
                    _log_progress(comparison, run, costs)
                    make_run(comparison, run)
                elif lacks_tasks(comparison, run):
                    add_tasks(comparison, run)
    return sum(not folder.is_done(run) or lacks_tasks(comparison, run) for run in plan.runs)


def _log_progress(comparison: Comparison, run: Run, costs: StepCosts) -> None:
    plan, results = comparison.plan, comparison.folder.results()
    left = [other for other in plan.runs if other not in results]
    of_tasks = seconds_of_tasks(results)

    def seconds(other: Run) -> float:
        return seconds_of(other, costs) + (of_tasks if other in plan.with_tasks else 0.0)

    logger.info(
        "[%d of %d] %s: about %s; everything left: about %s%s",
        len(plan.runs) - len(left) + 1,
        len(plan.runs),
        run.name,
        _minutes(seconds(run)),
        _minutes(sum(map(seconds, left))),
        "" if of_tasks or not plan.with_tasks else ", without downstream tasks",
    )


def _minutes(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
