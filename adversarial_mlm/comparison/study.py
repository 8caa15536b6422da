"""Plan and results as plain data: `plan.json`, which grows with the recipe, and `study.json` with all results."""

import dataclasses
from typing import Any

from adversarial_mlm.comparison.arms import difference_of_masks, fingerprint, masks_of, pairing_facts
from adversarial_mlm.comparison.differences import differences, gains
from adversarial_mlm.comparison.folder import PLAN_FILE, ComparisonFolder
from adversarial_mlm.comparison.held_out import ComparisonData
from adversarial_mlm.comparison.plan import Flops, Plan, Run
from adversarial_mlm.comparison.recipe import UNTRAINED, ComparisonRecipe
from adversarial_mlm.comparison.step_costs import StepCosts
from adversarial_mlm.recipes.recipe import Recipe
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import RecipeError

_FORMAT = 1


def merge_plan(
    folder: ComparisonFolder,
    recipe: ComparisonRecipe,
    recipes: dict[str, Recipe],
    common: dict[str, Any],
    data: ComparisonData,
    plan: Plan,
    warm_up: str | None,
) -> dict[str, Any]:
    """Merge the recipe's plan with earlier plans, and keep everything that ran.

    Args:
        folder ([`ComparisonFolder`]): The comparison's folder.
        recipe ([`ComparisonRecipe`]): The recipe.
        recipes (`dict[str, Recipe]`): Pre-training recipe of each arm.
        common (`dict`): Options of all arms, see [`common_options`].
        data ([`ComparisonData`]): The proteins.
        plan ([`Plan`]): The recipe's plan.
        warm_up (`str`, *optional*): Fingerprint of the warm-up's options.

    Returns:
        `dict`: `data`, `arms` (name → description), `entries` (budget → arm → updates, seeds), `runs` (names of the
        runs that the recipe plans).

    Raises:
        RecipeError: If an arm, a budget or the proteins changed after runs used them under the same name.
    """
    earlier = folder.read(PLAN_FILE)
    tasks = {} if recipe.tasks is None else recipe.tasks.of
    now: dict[str, Any] = {
        "data": data.fingerprint,
        "common": common,
        "tasks": {name: dataclasses.asdict(options) for name, options in tasks.items()},
        "task_budgets": [] if recipe.tasks is None else recipe.tasks.budgets or list(recipe.budgets),
        "task_dtype": None if recipe.tasks is None else recipe.tasks.dtype,
        "held_out": {"confirmation_share": recipe.held_out.confirmation_share, "seed": recipe.held_out.split_seed},
        "pairing": pairing_facts(next(iter(recipes.values()))),
        "warm_up": None
        if warm_up is None or recipe.warm_up is None
        else {**dataclasses.asdict(recipe.warm_up), "fingerprint": warm_up},
        "arms": {name: _description_of(recipe, recipes, name) for name in recipe.arms},
        "budgets": {name: _without_none(dataclasses.asdict(budget)) for name, budget in recipe.budgets.items()},
        "entries": {
            budget: {arm: {"updates": updates, "seeds": list(recipe.seeds_of(arm))} for arm, updates in arms.items()}
            for budget, arms in plan.updates.items()
        },
        "runs": [run.name for run in plan.runs],
    }
    if earlier is None:
        return now
    results = folder.results()
    ran = {run for run in results if run.arm != UNTRAINED}
    begun = folder.begun()  # by another process, or before this one was killed
    if results:
        _check_unchanged(recipe, earlier, now, ran)
        now["tasks"] = {**earlier["tasks"], **now["tasks"]}
        now["task_budgets"] = list(dict.fromkeys([*now["task_budgets"], *earlier.get("task_budgets", [])]))
        now["task_dtype"] = now["task_dtype"] or earlier.get("task_dtype")
        check_results(recipe, now, results)
    for name, arm in earlier["arms"].items():
        if name not in now["arms"] and any(run.arm == name for run in begun):
            now["arms"][name] = {**arm, "removed": True}
    for budget, arms in earlier["entries"].items():
        for arm, entry in arms.items():
            _keep_what_ran(now, earlier, budget, arm, entry, begun)
    return now


def _keep_what_ran(now: dict, earlier: dict, budget: str, arm: str, entry: dict, begun: set[Run]) -> None:
    seeds = [seed for seed in entry["seeds"] if Run(arm, seed, entry["updates"]) in begun]
    if not seeds:
        return
    now["budgets"].setdefault(budget, earlier["budgets"][budget])
    kept = now["entries"].setdefault(budget, {}).setdefault(arm, {"updates": entry["updates"], "seeds": []})
    if kept["updates"] != entry["updates"]:
        return  # only begun, and planned with another length since
    kept["seeds"] = list(dict.fromkeys([*kept["seeds"], *seeds]))


def _description_of(recipe: ComparisonRecipe, recipes: dict[str, Recipe], name: str) -> dict[str, Any]:
    arm, masks = recipe.arms[name], masks_of(recipes[name])
    description = {
        "fingerprint": fingerprint(recipes[name]),
        "options": arm.options,
        "against": arm.against,
        "unmatched": arm.unmatched,
        "masks": masks.as_dict(),
        "removed": False,
    }
    if arm.unmatched and arm.against is not None:
        description["difference"] = difference_of_masks(masks, masks_of(recipes[arm.against]))
    return description


def _check_unchanged(recipe: ComparisonRecipe, earlier: dict, now: dict, ran: set[Run]) -> None:
    prefix = f"{recipe.path}: "
    for key, words in (
        ("held_out", f"held_out {now['held_out']} differs from {earlier.get('held_out')}"),
        ("data", "the proteins differ from those"),
        ("pairing", f"the values of {_changed(earlier.get('pairing', {}), now['pairing'])} differ from those"),
        ("warm_up", "warm_up differs from that"),
    ):
        if earlier.get(key, now[key]) != now[key]:
            raise RecipeError(
                f"{prefix}{words} of the runs in output_dir {recipe.output_dir}: choose another output_dir"
            )
    dtype = earlier.get("task_dtype")
    if dtype and now["task_dtype"] and dtype != now["task_dtype"]:
        raise RecipeError(
            f"{prefix}tasks.dtype is {now['task_dtype']}, but was {dtype} for the runs in output_dir "
            f"{recipe.output_dir}: set it back, or choose another output_dir"
        )
    for name, options in now["tasks"].items():
        if earlier["tasks"].get(name, options) != options:
            raise RecipeError(
                f"{prefix}task {name} has other options ({options}) than for the runs in output_dir "
                f"{recipe.output_dir} ({earlier['tasks'][name]}): set them back, or choose another output_dir"
            )
    for name, arm in now["arms"].items():
        before = earlier["arms"].get(name)
        if before and before["fingerprint"] != arm["fingerprint"] and any(run.arm == name for run in ran):
            raise RecipeError(
                f"{prefix}arm {name} has other options than its runs in output_dir {recipe.output_dir}: give it "
                "another name, because runs that were made are always reported"
            )
    for budget, arms in now["entries"].items():
        for arm, entry in arms.items():
            before = earlier["entries"].get(budget, {}).get(arm)
            if before is None or before["updates"] == entry["updates"]:
                continue
            if any((run.arm, run.updates) == (arm, before["updates"]) for run in ran):
                raise RecipeError(
                    f"{prefix}budget {budget} gives arm {arm} {count(entry['updates'], 'update')}, but gave it "
                    f"{before['updates']:,} when it ran: give the budget another name, because runs that were made "
                    "are always reported"
                )


def check_results(recipe: ComparisonRecipe, plan: dict[str, Any], results: dict[Run, dict[str, Any]]) -> None:
    """Check that complete runs used the options and proteins of the plan.

    They may not if two processes were started with different recipes in the same folder.

    Raises:
        RecipeError: If a run used others; the message names it.
    """
    for run, result in results.items():
        planned = plan["arms"].get(run.arm)
        if run.arm == UNTRAINED or planned is None:
            continue
        if (result["fingerprint"], result["data"]) != (planned["fingerprint"], plan["data"]):
            raise RecipeError(
                f"{recipe.path}: the run {run.name} was made with other options or proteins than the recipe's: give "
                "the arm another name, because runs that were made are always reported"
            )


def _changed(earlier: dict[str, Any], now: dict[str, Any]) -> str:
    """Name the options whose values differ."""
    return ", ".join(name for name, value in now.items() if earlier.get(name) != value)


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def build_study(
    recipe: ComparisonRecipe,
    plan: dict[str, Any],
    results: dict[Run, dict[str, Any]],
    data: ComparisonData,
    flops: Flops,
    costs: StepCosts | None,
    confirmation: dict[str, Any],
    baselines: dict[str, Any],
) -> dict[str, Any]:
    """Collect all results as plain data, from which every table is made.

    Args:
        recipe ([`ComparisonRecipe`]): The recipe.
        plan (`dict`): Result of [`merge_plan`].
        results (`dict[Run, dict]`): Results of the complete runs.
        data ([`ComparisonData`]): The proteins.
        flops (`dict[str, ArmFlops]`): FLOPs of the recipe's arms.
        costs ([`StepCosts`], *optional*): Measured costs.
        confirmation (`dict`): Result of [`read_confirmation`].
        baselines (`dict`): Result of [`DownstreamTasks.baselines`].
    """
    arms = []
    for budget, entries in plan["entries"].items():
        for arm, entry in entries.items():
            description = plan["arms"][arm]
            runs = [Run(arm, seed, entry["updates"]) for seed in entry["seeds"]]
            if not any(run in results for run in runs):
                continue  # begun, but removed from the recipe before it was complete
            of_arm = {
                "name": arm,
                "corpus": recipe.corpus,
                "budget": budget,
                "updates": entry["updates"],
                **{name: value for name, value in description.items() if name != "fingerprint"},
                "seeds": [_of_seed(run, results, confirmation) for run in runs if run in results],
            }
            if arm in flops:
                of_arm["flops_of_an_update"] = flops[arm].as_dict()
            if costs is not None and arm in costs.turns:
                of_arm["seconds_of_an_update"] = costs.of(arm)
            arms.append(of_arm)
    untrained = [run for run in results if run.arm == UNTRAINED]
    study = {
        "format": _FORMAT,
        "corpus": recipe.corpus,
        "common": plan["common"],
        "proteins": data.sizes(),
        "divided_by_family": data.by_family,
        "proteins_fingerprint": data.fingerprint,
        "held_out": plan["held_out"],
        "machine": {} if costs is None else costs.machine,
        "warm_up": plan["warm_up"],
        "budgets": plan["budgets"],
        "arms": arms,
        "untrained": [_of_seed(run, results, confirmation) for run in untrained],
        "tasks": baselines,
        "task_budgets": plan["task_budgets"],
    }
    return {**study, "differences": differences(study), "gains": gains(study)}


def _of_seed(run: Run, results: dict[Run, dict[str, Any]], confirmation: dict[str, Any]) -> dict[str, Any]:
    result = results[run]
    metrics = dict(result["metrics"])
    for task, methods in result.get("tasks", {}).items():
        for method in ("probe", "finetune"):
            for split, figure in methods.get(method, {}).get("figures", {}).items():
                metrics[f"{method}/{task}/{split}"] = figure["value"]
                if "by_seed" in figure:
                    metrics[f"{method}/{task}/{split}/by_seed"] = figure["by_seed"]
    read = confirmation["runs"].get(run.name, {"figures": {}})
    metrics |= {f"confirmation_{name}": value for name, value in read["figures"].items()}
    return {"seed": run.seed, "metrics": metrics}
