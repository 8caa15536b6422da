"""Read and check the YAML file of a comparison. Every error message names the file and the key."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NoReturn

from adversarial_mlm.downstream.definitions import TASKS
from adversarial_mlm.downstream.finetune_settings import FinetuneSettings
from adversarial_mlm.downstream.modeling import check_head
from adversarial_mlm.inference.frozen_encoder import DTYPES
from adversarial_mlm.recipes.shipped import read_recipe
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.options import Source, read_dataclass

UNTRAINED, WARM_UP = "untrained", "warm_up"
EQUAL = ("updates", "flops", "seconds")
HELD_OUT_SETS = ("members", "families", "sample")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Arm:
    """One configuration in a comparison.

    Attributes:
        options (`dict`): Options of a pre-training recipe. They override the common ones, and both override a preset.
        against (`str`, *optional*): The arm to compare with.
        unmatched (`bool`, defaults to `False`): Whether the two may differ in mask rate or corruption mix.
        seeds (`list[int]`, *optional*): Seeds of this arm; by default all.
        budgets (`list[str]`, *optional*): Budgets of this arm; by default all.
    """

    options: dict
    against: str | None = None
    unmatched: bool = False
    seeds: list[int] | None = None
    budgets: list[str] | None = None


@dataclass(frozen=True)
class Budget:
    """The quantity that all arms get the same amount of.

    Attributes:
        equal (`str`): `updates`, `flops` or `seconds`.
        updates (`int`, *optional*): Number of encoder updates, of every arm or of the arm `like`.
        like (`str`, *optional*): The arm whose FLOPs or seconds in `updates` updates are the amount.
        flops (`float`, *optional*): The amount in FLOPs.
        seconds (`float`, *optional*): The amount in seconds.
        tolerance (`float`, *optional*): With `equal: seconds` and `like`, arms whose cost of an update differs by less
            than this share from that of `like` get the same number of updates; by default 0.02.
    """

    equal: str
    updates: int | None = None
    like: str | None = None
    flops: float | None = None
    seconds: float | None = None
    tolerance: float | None = None

    @property
    def share_that_is_equal(self) -> float:
        """Return `tolerance`, or its default."""
        return 0.02 if self.tolerance is None else self.tolerance


@dataclass(frozen=True)
class WarmUp:
    """Common pre-training that all arms of a seed start from.

    Attributes:
        updates (`int`): Number of encoder updates.
        options (`dict`, defaults to none): Options of a pre-training recipe, which override the common ones.
    """

    updates: int
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Tune:
    """A search of settings before the comparison, by successive halving on the selection part.

    Attributes:
        baseline (`str`): The arm whose best settings all arms get.
        options (`dict[str, list]`): Options of pre-training → values. Every combination is a trial.
        updates (`int`): Updates of a trial in the last rung, with the batch size of the file. Trials with another
            batch size read as many proteins.
        own (`dict[str, dict[str, list]]`, defaults to none): Arms with a search of their own, of as many trials, after
            that of the baseline.
        trials (`int`, *optional*): Number of trials of each search, a random choice of the combinations; by default
            all combinations of `options`.
        rungs (`int`, defaults to 3): Rungs of halving. Each has half the trials and twice the updates of that before.
        seed (`int`, defaults to 1000): Seed of all trials, and of the random choice. It must not be one of the arms'.
        held_out_set (`str`, defaults to `"members"`): Held-out set whose cross-entropy decides: `members`, `families`
            or `sample`.
    """

    baseline: str
    options: dict
    updates: int
    own: dict = field(default_factory=dict)
    trials: int | None = None
    rungs: int = 3
    seed: int = 1000
    held_out_set: str = "members"

    def values_of(self, arm: str) -> dict[str, list]:
        """Return the options and values that are searched for an arm."""
        return self.options if arm == self.baseline else self.own[arm]

    def combinations(self, arm: str) -> int:
        """Return how many combinations of values an arm has."""
        return math.prod(len(values) for values in self.values_of(arm).values())

    @property
    def number_of_trials(self) -> int:
        """Return the number of trials of each search."""
        return self.combinations(self.baseline) if self.trials is None else self.trials


@dataclass(frozen=True)
class HeldOut:
    """How the held-out proteins are divided.

    Attributes:
        confirmation_share (`float`, defaults to 0.5): Share of each held-out set in the confirmation part.
        split_seed (`int`, defaults to 0): Seed of the division, which keeps clusters whole.
        spent (`bool`, defaults to `False`): Whether runs made after the evaluation of the confirmation part are
            reported without it.
    """

    confirmation_share: float = 0.5
    split_seed: int = 0
    spent: bool = False


@dataclass(frozen=True)
class TaskOptions:
    """Options of one downstream task.

    Attributes:
        file_prefix (`str`, *optional*): Another prefix of its file names.
        target (`str`, *optional*): Another column as the target.
        max_records (`int`, *optional*): Maximum number of records of each split.
        max_train_residues (`int`, defaults to 200,000): Maximum number of training residues of a probe.
        finetune (`dict`, *optional*): Also fine-tune, with `seeds` and options of [`FinetuneSettings`].
    """

    file_prefix: str | None = None
    target: str | None = None
    max_records: int | None = None
    max_train_residues: int = 200_000
    finetune: dict | None = None

    @property
    def finetune_seeds(self) -> list[int]:
        """Return the seeds of fine-tuning; an empty list without fine-tuning."""
        return [] if self.finetune is None else list(self.finetune.get("seeds", [0]))

    def finetune_settings(self, path: str = "comparison", key: str = "finetune") -> FinetuneSettings:
        """Return the options of fine-tuning.

        Args:
            path (`str`, *optional*, defaults to `"comparison"`): Name of the file, for messages.
            key (`str`, *optional*, defaults to `"finetune"`): Key in the file, for messages.

        Raises:
            RecipeError: If an option is unknown or has an invalid value.
        """
        options = {name: value for name, value in (self.finetune or {}).items() if name != "seeds"}
        return read_dataclass(FinetuneSettings, options, Source(path), key)


@dataclass(frozen=True)
class Tasks:
    """The downstream tasks.

    Attributes:
        data_dir (`str`): The folder with their data.
        of (`dict[str, TaskOptions]`): Options by task.
        budgets (`list[str]`, *optional*): Budgets whose runs are evaluated; by default all.
        dtype (`str`, defaults to `"float32"`): Precision of a probe's features, the same for all runs on whatever
            device: `float32`, or `bfloat16`, which is faster on GPUs that have it and slower on most CPUs.
    """

    data_dir: str = field(metadata={"path": True})
    of: dict[str, TaskOptions]
    budgets: list[str] | None = None
    dtype: str = "float32"


@dataclass(frozen=True)
class ComparisonRecipe:
    """A whole comparison.

    Attributes:
        path (`str`): The YAML file.
        corpus (`str`): Description of the proteins, for the report.
        output_dir (`str`): The folder of the comparison.
        seeds (`list[int]`): Pre-training seeds, by which runs of different arms are paired.
        common (`dict`): Options of a pre-training recipe, for all arms.
        arms (`dict[str, Arm]`): Arms by name.
        budgets (`dict[str, Budget]`): Budgets by name.
        tune ([`Tune`], *optional*): Search of settings before the comparison; by default none.
        warm_up ([`WarmUp`], *optional*): Common pre-training of all arms of a seed; by default none.
        held_out ([`HeldOut`]): How held-out proteins are divided.
        tasks ([`Tasks`], *optional*): Downstream tasks; by default none.
        measured_turns (`int`, defaults to 20): Rounds of all arms in which the cost of an update is measured.
        plot (`bool`, defaults to `True`): Whether to draw `study.png`, which needs matplotlib.
    """

    path: str
    corpus: str
    output_dir: str = field(metadata={"path": True})
    seeds: list[int]
    common: dict
    arms: dict[str, Arm]
    budgets: dict[str, Budget]
    tune: Tune | None = None
    warm_up: WarmUp | None = None
    held_out: HeldOut = HeldOut()
    tasks: Tasks | None = None
    measured_turns: int = 20
    plot: bool = True

    def seeds_of(self, arm: str) -> list[int]:
        """Return the seeds of an arm."""
        own = self.arms[arm].seeds
        return self.seeds if own is None else own

    def budgets_of(self, arm: str) -> list[str]:
        """Return the budgets of an arm."""
        own = self.arms[arm].budgets
        return list(self.budgets) if own is None else own


def read_comparison(path: str, output_dir: str | None = None, data_dir: str | None = None) -> ComparisonRecipe:
    """Read the file of a comparison.

    Args:
        path (`str`): The YAML file, or the name of a recipe of the package.
        output_dir (`str`, *optional*): Replaces that of the file.
        data_dir (`str`, *optional*): Replaces `tasks.data_dir` of the file.

    Raises:
        RecipeError: If the file cannot be read, or a key is unknown, missing or has an invalid value.
    """
    content = read_recipe(path, comparison=True)
    if output_dir is not None:
        content["output_dir"] = output_dir
    if data_dir is not None:
        if not isinstance(content.get("tasks"), dict):
            raise RecipeError(f"--data_dir is given, but {path} has no tasks: remove it")
        content["tasks"]["data_dir"] = data_dir
    recipe = read_dataclass(ComparisonRecipe, content, Source(path), path=path)
    _check(recipe)
    return recipe


# ---- Checks ----


def _check(recipe: ComparisonRecipe) -> None:
    for what, mapping in (("arms", recipe.arms), ("budgets", recipe.budgets)):
        if not mapping:
            _refuse(recipe, f"{what} is empty: give at least one")
        for name in mapping:
            if not _NAME.fullmatch(name) or name in (UNTRAINED, WARM_UP):
                _refuse(
                    recipe,
                    f"{what}.{name} is not a valid name: use letters, digits, _, - and ., but not {UNTRAINED} or "
                    f"{WARM_UP}",
                )
    _check_seeds(recipe, "seeds", recipe.seeds)
    for name, budget in recipe.budgets.items():
        _check_budget(recipe, name, budget)
    for name, arm in recipe.arms.items():
        _check_arm(recipe, name, arm)
    if recipe.tune is not None:
        _check_tune(recipe, recipe.tune)
    if recipe.warm_up is not None and recipe.warm_up.updates < 1:
        _refuse(recipe, f"warm_up.updates must be at least 1, got {recipe.warm_up.updates}")
    if not 0 < recipe.held_out.confirmation_share < 1:
        _refuse(
            recipe, f"held_out.confirmation_share must be between 0 and 1, got {recipe.held_out.confirmation_share}"
        )
    if recipe.measured_turns < 1:
        _refuse(recipe, f"measured_turns must be at least 1, got {recipe.measured_turns}")
    if recipe.tasks is not None:
        _check_tasks(recipe, recipe.tasks)


def _check_seeds(recipe: ComparisonRecipe, key: str, seeds: list[int]) -> None:
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        _refuse(recipe, f"{key} must be one or more different whole numbers of at least 0, got {seeds}")


def _check_names(recipe: ComparisonRecipe, key: str, names: list[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            _refuse(recipe, f"{key}: there is no '{name}'; choose from {', '.join(known)}")


def _check_budget(recipe: ComparisonRecipe, name: str, budget: Budget) -> None:
    key = f"budgets.{name}"
    _check_names(recipe, f"{key}.equal", [budget.equal], EQUAL)
    given = {item: getattr(budget, item) for item in (*EQUAL, "like") if getattr(budget, item) is not None}
    if budget.equal == "updates":
        if set(given) != {"updates"}:
            _refuse(
                recipe, f"{key} has equal: updates and needs the key updates only, got {', '.join(given) or 'none'}"
            )
    elif set(given) not in ({budget.equal}, {"like", "updates"}):
        _refuse(
            recipe,
            f"{key} has equal: {budget.equal} and needs either {budget.equal}, or like and updates, got "
            f"{', '.join(given) or 'none'}",
        )
    for item, value in given.items():
        if item != "like" and not 0 < value < math.inf:
            _refuse(recipe, f"{key}.{item} must be a finite number above 0, got {value}")
    if budget.tolerance is not None and (budget.equal != "seconds" or budget.like is None):
        _refuse(recipe, f"{key}.tolerance only has an effect with equal: seconds and like: remove it")
    if not 0 <= budget.share_that_is_equal < 1:
        _refuse(recipe, f"{key}.tolerance must be at least 0 and less than 1, got {budget.tolerance}")
    if budget.like is not None:
        _check_names(recipe, f"{key}.like", [budget.like], recipe.arms)


def _check_arm(recipe: ComparisonRecipe, name: str, arm: Arm) -> None:
    key = f"arms.{name}"
    if arm.seeds is not None:
        _check_seeds(recipe, f"{key}.seeds", arm.seeds)
    _check_names(recipe, f"{key}.budgets", arm.budgets or [], recipe.budgets)
    if arm.against is None:
        if arm.unmatched:
            _refuse(recipe, f"{key}.unmatched is set, but the arm has no partner: remove it, or set against")
        return
    _check_names(recipe, f"{key}.against", [arm.against], recipe.arms)
    if arm.against == name:
        _refuse(recipe, f"{key}.against names the arm itself: name another arm")
    for what, own, others in (
        ("seed", recipe.seeds_of(name), recipe.seeds_of(arm.against)),
        ("budget", recipe.budgets_of(name), recipe.budgets_of(arm.against)),
    ):
        missing = [item for item in own if item not in others]
        if missing:
            _refuse(
                recipe,
                f"{key} has the {what} {missing[0]}, but its partner {arm.against} does not: add it there or "
                "remove it",
            )


def _check_tune(recipe: ComparisonRecipe, tune: Tune) -> None:
    if recipe.warm_up is not None:
        _refuse(recipe, "tune and warm_up cannot be combined: remove one of them")
    _check_names(recipe, "tune.baseline", [tune.baseline], recipe.arms)
    _check_search(recipe, tune, tune.baseline)
    _check_names(recipe, "tune.own", list(tune.own), recipe.arms)
    _check_names(recipe, "tune.held_out_set", [tune.held_out_set], HELD_OUT_SETS)
    if tune.baseline in tune.own:
        _refuse(recipe, f"tune.own names the baseline {tune.baseline}, whose search is tune.options: remove it there")
    for key, value in (("updates", tune.updates), ("rungs", tune.rungs), ("trials", tune.number_of_trials)):
        if value < 1:
            _refuse(recipe, f"tune.{key} must be at least 1, got {value}")
    if tune.rungs > 1 and tune.number_of_trials < 2 ** (tune.rungs - 1):
        _refuse(
            recipe,
            f"tune.rungs {tune.rungs} halve the trials {tune.rungs - 1} times, but there are {tune.number_of_trials}: "
            "use fewer rungs or more trials",
        )
    if any(tune.seed in recipe.seeds_of(arm) for arm in recipe.arms):
        _refuse(recipe, f"tune.seed {tune.seed} is also a seed of an arm, which would be tuned to it: choose another")
    for arm in tune.own:
        _check_search(recipe, tune, arm)


def _check_search(recipe: ComparisonRecipe, tune: Tune, arm: str) -> None:
    key = "tune.options" if arm == tune.baseline else f"tune.own.{arm}"
    values = tune.values_of(arm)
    if not isinstance(values, dict) or not values:
        _refuse(recipe, f"{key} must be a mapping of options to lists of values, got {values!r}")
    for name, choices in values.items():
        if not isinstance(choices, list) or not choices:
            _refuse(recipe, f"{key}.{name} must be a list of values, got {choices!r}")
        if arm == tune.baseline and name in recipe.arms[arm].options:
            _refuse(recipe, f"{key}.{name} is also an option of arm {arm}, which would override it: remove it there")
    if tune.combinations(arm) < tune.number_of_trials:
        _refuse(
            recipe,
            f"{key} has {count(tune.combinations(arm), 'combination')} of values, but a search has "
            f"{count(tune.number_of_trials, 'trial')}, for each arm the same number: add values, or set tune.trials",
        )


def _check_tasks(recipe: ComparisonRecipe, tasks: Tasks) -> None:
    if not tasks.of:
        _refuse(recipe, "tasks.of is empty: name at least one task")
    _check_names(recipe, "tasks.of", list(tasks.of), TASKS)
    _check_names(recipe, "tasks.budgets", tasks.budgets or [], recipe.budgets)
    _check_names(recipe, "tasks.dtype", [tasks.dtype], DTYPES)
    for name, options in tasks.of.items():
        key = f"tasks.of.{name}"
        for item in ("max_records", "max_train_residues"):
            value = getattr(options, item)
            if value is not None and value < 1:
                _refuse(recipe, f"{key}.{item} must be at least 1, got {value}")
        if options.finetune is None:
            continue
        seeds = options.finetune.get("seeds", [0])
        if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
            _refuse(recipe, f"{key}.finetune.seeds must be a list of whole numbers, got {seeds!r}")
        _check_seeds(recipe, f"{key}.finetune.seeds", seeds)
        if "seed" in options.finetune:
            _refuse(recipe, f"{key}.finetune.seed is not an option here: use seeds, a list")
        settings = options.finetune_settings(recipe.path, f"{key}.finetune")
        try:
            if settings.head is not None:
                check_head(TASKS[name].kind, settings.head)
        except ValueError as error:
            _refuse(recipe, f"{key}.finetune: {error}")


def _refuse(recipe: ComparisonRecipe, sentence: str) -> NoReturn:
    raise RecipeError(f"{recipe.path}: {sentence}")
