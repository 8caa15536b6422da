"""The runs of a comparison: every arm under every budget with every seed; equal runs are made once."""

from dataclasses import dataclass

import torch

from adversarial_mlm.comparison.flops import ArmFlops, Tokens
from adversarial_mlm.comparison.held_out import ComparisonData
from adversarial_mlm.comparison.recipe import UNTRAINED, WARM_UP, Budget, ComparisonRecipe
from adversarial_mlm.comparison.step_costs import StepCosts
from adversarial_mlm.data import count_lengths
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.recipes.recipe import Recipe
from adversarial_mlm.recipes.run import build_networks
from adversarial_mlm.utils.options import required
from adversarial_mlm.utils.tables import text_table

Flops = dict[str, ArmFlops]


@dataclass(frozen=True)
class Run:
    """One encoder: an arm, a seed and a number of updates.

    Attributes:
        arm (`str`): An arm of the recipe, or `UNTRAINED` (no updates), or `WARM_UP`.
        seed (`int`): Pre-training seed.
        updates (`int`): Number of encoder updates.
    """

    arm: str
    seed: int
    updates: int

    @property
    def name(self) -> str:
        """Return the name, which is also the folder, such as `paper/seed-0/600-updates`."""
        return f"{self.arm}/seed-{self.seed}/{self.updates}-updates"

    @classmethod
    def of_name(cls, name: str) -> "Run":
        """Return the run with this name."""
        arm, seed, updates = name.split("/")
        return cls(arm, int(seed.removeprefix("seed-")), int(updates.removesuffix("-updates")))


@dataclass(frozen=True)
class Plan:
    """The runs of a comparison.

    Attributes:
        updates (`dict[str, dict[str, int]]`): Budget → arm → number of encoder updates.
        runs (`list[Run]`): All runs in the order in which they are made, without warm-ups.
        warm_ups (`dict[int, Run]`): Warm-up by seed.
        with_tasks (`set[Run]`): Runs that are evaluated on downstream tasks.
    """

    updates: dict[str, dict[str, int]]
    runs: list[Run]
    warm_ups: dict[int, Run]
    with_tasks: set[Run]

    def budgets_of(self, run: Run) -> list[str]:
        """Return the budgets that a run belongs to."""
        return [name for name, arms in self.updates.items() if arms.get(run.arm) == run.updates]


def count_flops(recipe: ComparisonRecipe, recipes: dict[str, Recipe], data: ComparisonData) -> Flops:
    """Count the FLOPs of an update of every arm, from the lengths of the training proteins.

    Args:
        recipe ([`ComparisonRecipe`]): The comparison.
        recipes (`dict[str, Recipe]`): Result of [`check_arms`].
        data ([`ComparisonData`]): The proteins.
    """
    found = {}
    for name, of_arm in recipes.items():
        with torch.random.fork_rng(devices=[]):
            encoder, collator = build_networks(of_arm)
        args, table = of_arm.training, collator.sequence_encoder.table
        rows = args.per_device_train_batch_size * args.gradient_accumulation_steps
        lengths, records = count_lengths(data.proteins.train, of_arm.data.cache_dir)
        special = len(table.prefix) + len(table.suffix)
        tokens = Tokens.of(lengths, records, rows, of_arm.data.max_length, special)
        teacher = None if args.reference_model is None else load_encoder(args.reference_model)[0]
        found[name] = ArmFlops(of_arm, encoder, collator.noiser, tokens, teacher)
    return found


def make_plan(recipe: ComparisonRecipe, flops: Flops, costs: StepCosts | None) -> Plan:
    """Plan all runs of a comparison.

    Args:
        recipe ([`ComparisonRecipe`]): The comparison.
        flops (`dict[str, ArmFlops]`): Result of [`count_flops`].
        costs ([`StepCosts`], *optional*): Measured costs. Without them, budgets of equal seconds are left out.
    """
    updates = {
        name: {arm: _updates(budget, arm, flops, costs) for arm in recipe.arms if name in recipe.budgets_of(arm)}
        for name, budget in recipe.budgets.items()
        if budget.equal != "seconds" or costs is not None
    }
    with_tasks = [] if recipe.tasks is None else (recipe.tasks.budgets or list(recipe.budgets))
    runs: dict[Run, None] = {}
    evaluated: set[Run] = set()
    if recipe.tasks is not None:
        runs = dict.fromkeys(Run(UNTRAINED, seed, 0) for seed in _all_seeds(recipe))
        evaluated.update(runs)
    for budget, arms in updates.items():
        # all arms of a seed before the next seed, to complete pairs early
        for seed in _all_seeds(recipe):
            for arm, number in arms.items():
                if seed in recipe.seeds_of(arm):
                    runs[Run(arm, seed, number)] = None
                    if budget in with_tasks:
                        evaluated.add(Run(arm, seed, number))
    warm_ups = {}
    if recipe.warm_up is not None:
        warm_ups = {seed: Run(WARM_UP, seed, recipe.warm_up.updates) for seed in _all_seeds(recipe)}
    return Plan(updates, list(runs), warm_ups, evaluated)


def _updates(budget: Budget, arm: str, flops: Flops, costs: StepCosts | None) -> int:
    if budget.equal == "flops" and budget.flops is not None:
        return flops[arm].updates_for(budget.flops)
    if budget.equal == "seconds" and budget.seconds is not None:
        return max(round(budget.seconds / required(costs, "the cost of an update").of(arm)), 1)
    updates = required(budget.updates, "updates of a budget")
    if budget.equal == "updates":
        return updates
    like = required(budget.like, "like of a budget")
    if budget.equal == "flops":
        return flops[arm].updates_for(flops[like].of(updates))
    return required(costs, "the cost of an update").updates_for(arm, like, updates, budget.share_that_is_equal)


def _all_seeds(recipe: ComparisonRecipe) -> list[int]:
    return list(dict.fromkeys(seed for arm in recipe.arms for seed in recipe.seeds_of(arm)))


def seconds_of(run: Run, costs: StepCosts) -> float:
    """Estimate the training time of a run. A warm-up counts as the cheapest arm."""
    if run.updates == 0:
        return 0.0
    cost = min(map(costs.of, costs.turns)) if run.arm == WARM_UP else costs.of(run.arm)
    return cost * run.updates


def plan_table(plan: Plan, flops: Flops, costs: StepCosts | None, done: set[str]) -> str:
    """Format the plan as a text table: cost and progress of every arm under every budget.

    Args:
        plan ([`Plan`]): The plan.
        flops (`dict[str, ArmFlops]`): FLOPs by arm.
        costs ([`StepCosts`], *optional*): Measured costs.
        done (`set[str]`): Names of the complete runs.
    """
    header = ("budget", "arm", "updates", "TFLOP a run", "min a run", "runs", "of them done")
    rows: list[tuple[str, ...]] = []
    for budget, arms in plan.updates.items():
        for arm, updates in arms.items():
            runs = [run for run in plan.runs if (run.arm, run.updates) == (arm, updates)]
            seconds = None if costs is None else seconds_of(runs[0], costs)
            rows.append(
                (
                    budget,
                    arm,
                    f"{updates:,}",
                    f"{flops[arm].of(updates) / 1e12:,.3g}",
                    "?" if seconds is None else f"{seconds / 60:,.1f}",
                    str(len(runs)),
                    str(sum(run.name in done for run in runs)),
                )
            )
    return text_table(header, rows, rule=False)
