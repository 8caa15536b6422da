"""Measure the seconds of an update of every arm on this machine, with all arms interleaved."""

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

_WARM_UP_ROUNDS = 1


@dataclass(frozen=True)
class StepCosts:
    """Measured seconds of every arm.

    Attributes:
        updates (`int`): Encoder updates in a round: the smallest number of whole noiser-encoder cycles of every arm.
        turns (`dict[str, list[float]]`): By arm, the seconds of each round. All arms are timed in the same rounds.
        machine (`dict`): The machine that was measured.
        data (`str`): Fingerprint of the proteins.
        fingerprints (`dict[str, str]`): By arm, the fingerprint of its options.
    """

    updates: int
    turns: dict[str, list[float]]
    machine: dict = dataclasses.field(default_factory=dict)
    data: str = ""
    fingerprints: dict[str, str] = dataclasses.field(default_factory=dict)

    def of(self, arm: str) -> float:
        """Return the seconds of an update: the median over rounds."""
        return statistics.median(self.turns[arm]) / self.updates

    def ratio(self, arm: str, other: str) -> tuple[float, float, float]:
        """Return the cost of an update relative to another arm: median over rounds, and its 95 % interval."""
        ratios = [own / theirs for own, theirs in zip(self.turns[arm], self.turns[other], strict=True)]
        return statistics.median(ratios), *median_interval(ratios)

    def updates_for(self, arm: str, like: str, updates: int, tolerance: float = 0.0) -> int:
        """Return how many updates of `arm` take as long as `updates` of `like`.

        Both get the same number if the 95 % interval of their ratio contains 1, or if the ratio is within `tolerance`
        of 1.
        """
        ratio, low, high = self.ratio(arm, like)
        same = low <= 1 <= high or abs(ratio - 1) <= tolerance
        return updates if same else max(round(updates / ratio), 1)

    def with_arms(self, later: "StepCosts", reference: str) -> "StepCosts":
        """Return these costs with arms added that were measured later.

        Earlier costs stay unchanged, and with them the plan. The machine may differ or be busier by now. So a new arm
        gets, in each round, the seconds of the reference times the measured ratio.

        Args:
            later ([`StepCosts`]): Costs of the new arms and the reference. Its rounds are repeated if there are fewer.
            reference (`str`): An arm that both measurements contain.
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
        """Return plain values for JSON."""
        return dataclasses.asdict(self)


def measure(recipes: dict[str, Recipe], data: ComparisonData, rounds: int) -> StepCosts:
    """Time the updates of all arms: train them interleaved for a short while, in a temporary folder.

    A step includes data loading, noiser updates and the encoder update.

    Args:
        recipes (`dict[str, Recipe]`): Pre-training recipe of each arm.
        data ([`ComparisonData`]): The proteins.
        rounds (`int`): Rounds that count. One more comes first, as a warm-up.

    Raises:
        RecipeError: If an arm cannot be trained.
    """
    fingerprints = {name: fingerprint(recipe) for name, recipe in recipes.items()}
    recipes = {name: _shortest_cycle(recipe) for name, recipe in recipes.items()}
    updates = math.lcm(*(_cycle(recipe) for recipe in recipes.values()))
    steps = updates * (rounds + _WARM_UP_ROUNDS)
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
            raise RecipeError(f"the updates of the arms could not be timed: {error} ({error.__cause__})") from error
    first = updates * _WARM_UP_ROUNDS
    found = {
        name: [sum(series[start : start + updates]) for start in range(first, steps, updates)]
        for name, series in zip(recipes, seconds, strict=True)
    }
    return StepCosts(updates, found, machine(), data.fingerprint, fingerprints)


def _shortest_cycle(recipe: Recipe) -> Recipe:
    """Shorten the noiser-encoder cycle without changing the work per encoder update: 10:10 becomes 1:1."""
    training = copy.deepcopy(recipe.training)
    common = math.gcd(training.noiser_steps, training.encoder_steps)
    if training.noiser_update == "alternate" and recipe.masking.has_noiser:
        training.noiser_steps //= common
        training.encoder_steps //= common
    return dataclasses.replace(recipe, training=training)


def _cycle(recipe: Recipe) -> int:
    args = recipe.training
    if not recipe.masking.has_noiser or args.noiser_update == "none":
        return 1
    return args.encoder_steps if args.noiser_update == "alternate" else args.noiser_every


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the start-up messages of the trainers."""
    package = logging.getLogger("adversarial_mlm")
    before, package.level = package.level, logging.ERROR
    try:
        yield
    finally:
        package.level = before
