"""What an update of every arm costs on this machine: all arms take turns, so that what else it does falls on all."""

import contextlib
import copy
import dataclasses
import itertools
import logging
import math
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from adversarial_mlm.comparison.arms import fingerprint
from adversarial_mlm.comparison.held_out import ComparisonData
from adversarial_mlm.comparison.interleaved_timing import train_interleaved
from adversarial_mlm.recipes.recipe import Recipe
from adversarial_mlm.recipes.run import build_networks, build_trainer
from adversarial_mlm.training.metrics_log import BriefPrinterCallback
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.hardware import machine
from adversarial_mlm.utils.statistics import median_interval

logger = logging.getLogger(__name__)

_TURNS_NOT_COUNTED = 1


@dataclass(frozen=True)
class StepCosts:
    """Seconds of every arm.

    Attributes:
        updates (`int`): Of the encoder, in a turn: as many as make whole cycles of every arm.
        turns (`dict[str, list[float]]`): By arm the seconds of each turn, all arms in the same turns.
        machine (`dict`): Where that was.
        data (`str`): Fingerprint of the proteins.
        fingerprints (`dict[str, str]`): By arm, of its options.
    """

    updates: int
    turns: dict[str, list[float]]
    machine: dict = dataclasses.field(default_factory=dict)
    data: str = ""
    fingerprints: dict[str, str] = dataclasses.field(default_factory=dict)

    def of(self, arm: str) -> float:
        """Seconds of an update: the median over turns."""
        return statistics.median(self.turns[arm]) / self.updates

    def ratio(self, arm: str, other: str) -> tuple[float, float, float]:
        """What an update of an arm costs, over one of another: median over turns, and the median's 95 % interval."""
        ratios = [own / theirs for own, theirs in zip(self.turns[arm], self.turns[other], strict=True)]
        return statistics.median(ratios), *median_interval(ratios)

    def updates_for(self, arm: str, like: str, updates: int, tolerance: float = 0.0) -> int:
        """How many updates of an arm take as long as so many of another.

        As many, where the interval of their ratio holds 1, so that no difference was measured, or where it is within
        the tolerance of 1.
        """
        ratio, low, high = self.ratio(arm, like)
        same = low <= 1 <= high or abs(ratio - 1) <= tolerance
        return updates if same else max(round(updates / ratio), 1)

    def with_arms(self, later: "StepCosts", reference: str) -> "StepCosts":
        """The same with arms that were measured later, beside an arm that both have.

        What was measured stays as it is, so that no plan changes. A new arm has, turn by turn, the reference's seconds
        times the ratio that was measured: the machine may have been another, or busier.

        Args:
            later ([`StepCosts`]): The new arms. If it has fewer turns they are repeated.
            reference (`str`): The arm that both have.
        """
        turns = dict(self.turns)
        for name, series in later.turns.items():
            if name != reference:
                ratios = [own / theirs for own, theirs in zip(series, later.turns[reference], strict=True)]
                turns[name] = [
                    ours * ratio for ours, ratio in zip(self.turns[reference], itertools.cycle(ratios), strict=False)
                ]
        fingerprints = {**self.fingerprints, **later.fingerprints, reference: self.fingerprints[reference]}
        return dataclasses.replace(self, turns=turns, fingerprints=fingerprints)

    def as_dict(self) -> dict:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def measure(recipes: dict[str, Recipe], data: ComparisonData, turns: int) -> StepCosts:
    """Train all arms for a short while, a step each in turn, in a folder that goes again.

    A step is everything: data, the noiser's updates, the encoder's.

    Args:
        recipes (`dict[str, Recipe]`): By arm.
        data ([`ComparisonData`]): The proteins.
        turns (`int`): That count; one more comes before them.

    Raises:
        RecipeError: If an arm cannot be trained.
    """
    fingerprints = {name: fingerprint(recipe) for name, recipe in recipes.items()}
    recipes = {name: _shortest_cycle(recipe) for name, recipe in recipes.items()}
    updates = math.lcm(*(_cycle(recipe) for recipe in recipes.values()))
    steps = updates * (turns + _TURNS_NOT_COUNTED)
    with tempfile.TemporaryDirectory(prefix="step-costs-") as folder, _quiet():
        trainers = []
        for recipe in recipes.values():
            args = recipe.training
            args.output_dir, args.max_steps, args.logging_steps = folder, steps, steps
            args.save_strategy = args.eval_strategy = "no"
            args.disable_tqdm, args.noiser_cosine_steps = True, 0
            trainer = build_trainer(recipe, data.for_a_run(), *build_networks(recipe))
            trainer.remove_callback(BriefPrinterCallback)
            trainers.append(trainer)
        try:
            seconds = train_interleaved(trainers)
        except RuntimeError as error:
            raise RecipeError(f"the cost of an update could not be measured: {error} ({error.__cause__})") from error
    first = updates * _TURNS_NOT_COUNTED
    found = {
        name: [sum(series[start : start + updates]) for start in range(first, steps, updates)]
        for name, series in zip(recipes, seconds, strict=True)
    }
    return StepCosts(updates, found, machine(), data.fingerprint, fingerprints)


def _shortest_cycle(recipe: Recipe) -> Recipe:
    """The same work for every update of the encoder, in a shorter cycle: 10:10 as 1:1."""
    training = copy.deepcopy(recipe.training)
    common = math.gcd(training.noiser_steps, training.encoder_steps)
    if training.noiser_update == "alternate" and _has_noiser(recipe):
        training.noiser_steps //= common
        training.encoder_steps //= common
    return dataclasses.replace(recipe, training=training)


def _cycle(recipe: Recipe) -> int:
    args = recipe.training
    if not _has_noiser(recipe) or args.noiser_update == "none":
        return 1
    return args.encoder_steps if args.noiser_update == "alternate" else args.noiser_every


def _has_noiser(recipe: Recipe) -> bool:
    return recipe.masking.masking == "adversarial"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep quiet what trainers say at their start, many times."""
    package = logging.getLogger("adversarial_mlm")
    before, package.level = package.level, logging.ERROR
    try:
        yield
    finally:
        package.level = before
