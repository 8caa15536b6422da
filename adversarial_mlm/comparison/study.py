"""What is planned and what came out, as plain data: `plan.json` grows with the recipe, `study.json` has it all."""

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
    """What the recipe plans, with all that an earlier state of it planned and that ran: nothing that ran is left out.

    Args:
        folder ([`ComparisonFolder`]): Of the comparison.
        recipe ([`ComparisonRecipe`]): The recipe.
        recipes (`dict[str, Recipe]`): By arm.
        common (`dict`): Options of all arms, see [`common_options`].
        data ([`ComparisonData`]): The proteins.
        plan ([`Plan`]): What the recipe plans.
        warm_up (`str`, *optional*): The fingerprint of the warm-up's options.

    Returns:
        `dict`: `data`, `arms` (name → what is told about it), `entries` (budget → arm → updates, seeds), `runs` (the
        names of those that the recipe plans).

    Raises:
        RecipeError: If an arm, a budget or the proteins have changed under the same name since they were used.
    """
    earlier = folder.read(PLAN_FILE)
    tasks = {} if recipe.tasks is None else recipe.tasks.of
    now = {
        "data": data.fingerprint,
        "common": common,
        "tasks": {name: dataclasses.asdict(options) for name, options in tasks.items()},
        "task_budgets": [] if recipe.tasks is None else recipe.tasks.budgets or list(recipe.budgets),
        "task_dtype": None if recipe.tasks is None else recipe.tasks.dtype,
        "held_out": {"confirmation_share": recipe.held_out.confirmation_share, "seed": recipe.held_out.split_seed},
        "pairing": pairing_facts(next(iter(recipes.values()))),
        "warm_up": None if warm_up is None else {**dataclasses.asdict(recipe.warm_up), "fingerprint": warm_up},
        "arms": {name: _told_of(recipe, recipes, name) for name in recipe.arms},
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
    begun = folder.begun()  # by another process, or before a kill
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
        return  # only begun, and then planned with another length
    kept["seeds"] = list(dict.fromkeys([*kept["seeds"], *seeds]))


def _told_of(recipe: ComparisonRecipe, recipes: dict[str, Recipe], name: str) -> dict[str, Any]:
    arm, masks = recipe.arms[name], masks_of(recipes[name])
    told = {
        "fingerprint": fingerprint(recipes[name]),
        "options": arm.options,
        "against": arm.against,
        "unmatched": arm.unmatched,
        "masks": masks.as_dict(),
        "removed": False,
    }
    if arm.unmatched:
        told["difference"] = difference_of_masks(masks, masks_of(recipes[arm.against]))
    return told


def _check_unchanged(recipe: ComparisonRecipe, earlier: dict, now: dict, ran: set[Run]) -> None:
    said = f"{recipe.path}: "
    for key, words in (
        ("held_out", "held_out divides the proteins in another way"),
        ("data", "the proteins are others"),
        ("pairing", "encoder, batch, lengths or evaluation are others"),
        ("warm_up", "warm_up is another"),
    ):
        if earlier.get(key, now[key]) != now[key]:
            raise RecipeError(f"{said}{words} than those of the runs in output_dir; choose another output_dir")
    dtype = earlier.get("task_dtype")
    if dtype and now["task_dtype"] and dtype != now["task_dtype"]:
        raise RecipeError(f"{said}tasks.dtype is {now['task_dtype']}, and was {dtype} for the runs in output_dir")
    for name, options in now["tasks"].items():
        if earlier["tasks"].get(name, options) != options:
            raise RecipeError(f"{said}task {name} has other options than it had for the runs in output_dir")
    for name, arm in now["arms"].items():
        before = earlier["arms"].get(name)
        if before and before["fingerprint"] != arm["fingerprint"] and any(run.arm == name for run in ran):
            raise RecipeError(
                f"{said}arm {name} has other options than its runs in output_dir had; give it another name, as what "
                "ran is reported"
            )
    for budget, arms in now["entries"].items():
        for arm, entry in arms.items():
            before = earlier["entries"].get(budget, {}).get(arm)
            if before is None or before["updates"] == entry["updates"]:
                continue
            if any((run.arm, run.updates) == (arm, before["updates"]) for run in ran):
                raise RecipeError(
                    f"{said}budget {budget} gives arm {arm} {entry['updates']:,} updates, and gave it "
                    f"{before['updates']:,} when it ran; give the budget another name, as what ran is reported"
                )


def check_results(recipe: ComparisonRecipe, plan: dict[str, Any], results: dict[Run, dict[str, Any]]) -> None:
    """Make sure that complete runs are of the options and proteins that the plan tells of them.

    Two processes that were started with different recipes may have made runs side by side.

    Raises:
        RecipeError: If not; the sentence names the run.
    """
    for run, result in results.items():
        told = plan["arms"].get(run.arm)
        if run.arm == UNTRAINED or told is None:
            continue
        if (result["fingerprint"], result["data"]) != (told["fingerprint"], plan["data"]):
            raise RecipeError(
                f"{recipe.path}: the run {run.name} was made with other options or proteins than the recipe's; give "
                "the arm another name, as what ran is reported"
            )


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
    """All results as plain data, from which every table is made.

    Args:
        recipe ([`ComparisonRecipe`]): The recipe.
        plan (`dict`): As from [`merge_plan`].
        results (`dict[Run, dict]`): Of the complete runs.
        data ([`ComparisonData`]): The proteins.
        flops (`dict[str, ArmFlops]`): Of the recipe's arms.
        costs ([`StepCosts`], *optional*): As measured.
        confirmation (`dict`): As from [`read_confirmation`].
        baselines (`dict`): As from [`DownstreamTasks.baselines`].
    """
    arms = []
    for budget, entries in plan["entries"].items():
        for arm, entry in entries.items():
            told = plan["arms"][arm]
            runs = [Run(arm, seed, entry["updates"]) for seed in entry["seeds"]]
            if not any(run in results for run in runs):
                continue  # begun, and taken out of the recipe before it was complete
            of_arm = {
                "name": arm,
                "corpus": recipe.corpus,
                "budget": budget,
                "updates": entry["updates"],
                **{name: value for name, value in told.items() if name != "fingerprint"},
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
