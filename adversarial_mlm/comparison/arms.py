"""The pre-training recipe of an arm, how the arm masks, and whether two arms may be compared."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from adversarial_mlm.comparison.recipe import WARM_UP, Arm, ComparisonRecipe
from adversarial_mlm.data.sources import file_shards
from adversarial_mlm.masking.mask_rate import MaskRate
from adversarial_mlm.masking.rules import SELECTIONS
from adversarial_mlm.recipes.recipe import OPTIONS, DataArguments, Recipe, build_recipe
from adversarial_mlm.utils import hashing
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.options import Source
from adversarial_mlm.utils.ramp import Ramp

_TOLERANCE = 1e-6

# options that the comparison sets itself
_SET_BY_THE_COMPARISON = (
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "seed", "max_steps", "num_train_epochs"),
    *("data_seed", "save_strategy", "save_total_limit", "save_only_model", "load_best_model_at_end"),
    *("metric_for_best_model", "background_gate", "push_to_hub", "streaming", "global_batch_size"),
    *("probe_tasks", "probe_data_dir", "probe_steps", "probe_max_records"),
)
PAIRING_OPTIONS = (
    *(item.name for item in dataclasses.fields(DataArguments)),
    *("encoder", "model_name_or_path", "model_revision", "trained_layers", "dropout"),
    *("peft", "lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "train_sampling_strategy"),
    *("dataloader_drop_last", "eval_mask_rate", "eval_mask_seed"),
)
"""Options that must be equal to pair two arms: proteins, batches, network and evaluation."""

# options on which `masks_of` depends
_MASK_OPTIONS = {
    *("preset", "masking", "selection", "learned_options", "mask_options"),
    *("adversarial_rate", "random_rate", "mask_rate", "mask_rate_curve", "adversarial_share"),
}

# options that do not change a run's result; proteins are compared by content
_NOT_OF_THE_RESULT = (
    *("output_dir", "cache_dir", "train_data", "validation_data", "cluster_table", "seed", "data_seed", "max_steps"),
    *("overwrite_output_dir", "merge_adapter", "run_name", "report_to", "disable_tqdm", "logging_dir"),
    *("log_level", "logging_first_step", "save_steps", "save_strategy", "save_total_limit", "eval_strategy"),
    *("eval_steps", "per_device_eval_batch_size", "dataloader_num_workers", "dataloader_pin_memory"),
)
# options that came after 0.1.0, with their defaults: comparisons that began without them can still be continued
_NEWER = {
    **{"quick_cpu_dropout": True, "eval_context_gap": False},
    **{"loss_weights": "uniform", "learnability_share": 0.5, "soft_targets": ["0"], "teacher_decay": 0.999},
    **{"mask_rate": [], "mask_rate_curve": "linear", "mask_weights": [], "mask_weights_column": "weights"},
    **{"peft": None, "lora_rank": None, "lora_alpha": None, "lora_dropout": None, "lora_target_modules": []},
}


def arm_recipe(
    recipe: ComparisonRecipe,
    arm: str,
    *,
    seed: int = 0,
    updates: int = 1,
    output_dir: str = "",
    start: str | None = None,
    words: list[str] | None = None,
) -> Recipe:
    """Build the pre-training recipe of one run.

    Args:
        recipe ([`ComparisonRecipe`]): The comparison.
        arm (`str`): The arm, or `WARM_UP`.
        seed (`int`, defaults to 0): Pre-training seed.
        updates (`int`, defaults to 1): Number of encoder updates; the learning-rate schedule covers exactly these.
        output_dir (`str`): The run's folder.
        start (`str`, *optional*): Folder of the encoder to start from. By default the options decide.
        words (`list[str]`, *optional*): Options on the command line, for all arms.

    Raises:
        RecipeError: If an option is not known, is out of range, or belongs to the comparison.
    """
    warm_up = recipe.warm_up if arm == WARM_UP else None
    of_arm = recipe.arms[arm].options if warm_up is None else warm_up.options
    where = f"{recipe.path} ({arm})"
    given = OPTIONS.read_words(words or [])
    for name in (*given, *recipe.common, *of_arm):
        if name in _SET_BY_THE_COMPARISON and name in given:
            raise RecipeError(f"--{name} is given, but {name} is set by the comparison itself: remove it")
        if name in _SET_BY_THE_COMPARISON:
            raise RecipeError(
                f"{where}: {name} is set by the comparison itself and cannot be an option of an arm: remove it"
            )
    often = {"save_steps": max(updates // 5, 1), "logging_steps": max(updates // 50, 1)}
    options = {**often, "report_to": "none", **recipe.common, **of_arm}
    options |= {"seed": seed, "max_steps": updates, "save_strategy": "steps", "save_total_limit": 1}
    if output_dir:
        options["output_dir"] = output_dir
    if start is not None:
        # these options name the start of the warm-up, not of this run
        for name in ("encoder", "model_name_or_path", "model_revision"):
            options.pop(name, None)
            given.pop(name, None)
        options["model_name_or_path"] = start
        # use other batches than the warm-up
        options["data_seed"] = 1_000_003 + seed
    return build_recipe(OPTIONS.read(options, Source(where)), given, where)


def common_options(recipe: ComparisonRecipe, words: list[str], resolved: Recipe) -> dict[str, Any]:
    """Return the options of all arms, including those of the command line, but without its folders and files.

    Args:
        recipe ([`ComparisonRecipe`]): The comparison.
        words (`list[str]`): The command line.
        resolved ([`Recipe`]): The pre-training recipe of any arm.
    """
    values = resolved.resolved()
    given = {name: values.get(name) for name in OPTIONS.read_words(words) if name not in _NOT_OF_THE_RESULT}
    return {**{name: value for name, value in recipe.common.items() if name != "cache_dir"}, **given}


def fingerprint(recipe: Recipe) -> str:
    """Hash the options that a run's result depends on, except seed and length, to 16 hexadecimal digits.

    Weights of residues count by the content of their files.
    """
    options = {
        name: value
        for name, value in recipe.resolved().items()
        if name not in _NOT_OF_THE_RESULT and not (name in _NEWER and value == _NEWER[name])
    }
    if options.get("mask_weights"):
        options["mask_weights"] = [hashing.file_checksum(shard.name) for shard in file_shards(options["mask_weights"])]
    return hashing.fingerprint(options, digits=16)


@dataclass(frozen=True)
class Masks:
    """How an arm masks.

    Attributes:
        rate (`float`, *optional*): Mask rate, with `mask_rate` its mean over updates and proteins; `None` if it is not
            known before training.
        mix (`tuple[float, float, float]`, *optional*): Corruption mix: shares of [MASK], keep and replace; `None` if
            it is not known before training.
        why_not (`str`): Why one of them is not known.
    """

    rate: float | None
    mix: tuple[float, float, float] | None
    why_not: str = ""

    def words(self) -> str:
        """Describe rate and mix, such as `20 % 80/10/10`."""
        rate = "?" if self.rate is None else f"{100 * self.rate:g}"
        mix = "learned" if self.mix is None else "/".join(f"{100 * share:.3g}" for share in self.mix)
        return f"{rate} % {mix}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"rate": self.rate, "mix": None if self.mix is None else list(self.mix), "words": self.words()}


def masks_of(recipe: Recipe) -> Masks:
    """Return mask rate and corruption mix of a recipe, over the noiser's and the random masks together."""
    masking = recipe.masking
    rate, shares = masking.adversarial_rate + masking.random_rate, masking.mask_options
    if len(shares) != 3 or not rate > 0:
        raise RecipeError(
            "mask_options must be three shares ([MASK], keep, replace), and adversarial_rate + random_rate must be "
            f"above 0; got {list(shares)} and {rate:g}"
        )
    if masking.mask_rate:
        mean = MaskRate(masking.mask_rate, masking.mask_rate_curve).mean()
        if mean is None:
            why = "its mask_rate changes after numbers of updates, which budgets set: write its steps in % of the run"
            return Masks(None, None, why)
        rate = mean
    mask, keep, replace = shares
    if not masking.chooses_positions:
        return Masks(rate, (mask, keep, replace))
    share = Ramp(recipe.training.adversarial_share, "adversarial_share").values
    if not SELECTIONS[masking.selection]:
        return Masks(None, None, f"selection: {masking.selection} uses an unknown part of the mask rate")
    if masking.learned_options:
        return Masks(rate, None, "its noiser chooses how to mask")
    if len(set(share)) > 1:
        return Masks(rate, None, "its adversarial_share changes, and with it the corruption mix")
    adversarial = share[0] * masking.adversarial_rate * rate / (masking.adversarial_rate + masking.random_rate)

    def of_both(own: int, at_random: float) -> float:
        return (adversarial * own + (rate - adversarial) * at_random) / rate

    return Masks(rate, (of_both(1, mask), of_both(0, keep), of_both(0, replace)))


def difference_of_masks(first: Masks, second: Masks) -> str:
    """Say in words how the masking of two arms differs; empty if they are matched."""
    for masks in (first, second):
        if masks.why_not:
            return masks.why_not
    differences = []
    if first.rate is None or second.rate is None or abs(first.rate - second.rate) > _TOLERANCE:
        differences.append("mask rate")
    if first.mix is None or second.mix is None or not _are_equal(first.mix, second.mix):
        differences.append("corruption mix")
    return f"in {' and '.join(differences)}" if differences else ""


def _are_equal(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return max(abs(a - b) for a, b in zip(first, second, strict=True)) <= _TOLERANCE


def check_arms(recipe: ComparisonRecipe, words: list[str] | None = None) -> dict[str, Recipe]:
    """Check that all arms can be paired, and that compared arms are matched or declared `unmatched`.

    Args:
        recipe ([`ComparisonRecipe`]): The comparison.
        words (`list[str]`, *optional*): Options on the command line, for all arms.

    Returns:
        `dict[str, Recipe]`: The pre-training recipe of each arm, for one update.

    Raises:
        RecipeError: If the check fails; the message names the arm.
    """
    resolved = {name: arm_recipe(recipe, name, words=words) for name in recipe.arms}
    if recipe.warm_up is not None:
        warm_up = arm_recipe(recipe, WARM_UP, words=words)
        _check_pairing(recipe, {next(iter(resolved)): next(iter(resolved.values())), WARM_UP: warm_up})
        if any(arm.model.trained_layers or arm.model.peft for arm in resolved.values()):
            raise RecipeError(
                f"{recipe.path}: warm_up trains the whole encoder and cannot be combined with trained_layers or peft: "
                "remove one of them"
            )
    _check_pairing(recipe, resolved)
    masks = {name: _masks_of_arm(recipe, name, of_arm) for name, of_arm in resolved.items()}
    for name, arm in recipe.arms.items():
        _check_budgets(recipe, name, resolved[name])
        if arm.against is None:
            continue
        own, others = masks[name], masks[arm.against]
        difference = difference_of_masks(own, others)
        if difference and not arm.unmatched:
            raise RecipeError(
                f"{recipe.path}: arm {name} ({own.words()}) and its partner {arm.against} ({others.words()}) are not "
                f"matched ({difference}), so the choice of positions is not their only difference. Choose another "
                "partner in against, or set unmatched: true, which marks the pair in every table"
            )
        if arm.unmatched and not difference and not _may_be_unmatched_by_search(recipe, arm, name):
            raise RecipeError(
                f"{recipe.path}: arm {name} has unmatched: true, but its masks match those of {arm.against}: remove it"
            )
    return resolved


def _may_be_unmatched_by_search(recipe: ComparisonRecipe, arm: Arm, name: str) -> bool:
    """Whether a search before the comparison can change the masks of an arm or of its partner."""
    if recipe.tune is None:
        return False
    searched = set(recipe.tune.options)  # the winning settings of the baseline are those of all arms
    for which in (name, arm.against):
        searched.update(recipe.tune.own.get(which, {}))
    return not searched.isdisjoint(_MASK_OPTIONS)


def _masks_of_arm(recipe: ComparisonRecipe, name: str, of_arm: Recipe) -> Masks:
    try:
        return masks_of(of_arm)
    except RecipeError as error:
        raise RecipeError(f"{recipe.path}: arm {name}: {error}") from error


def _check_budgets(recipe: ComparisonRecipe, name: str, of_arm: Recipe) -> None:
    """Refuse budgets that cannot be computed for an arm."""
    equal = {recipe.budgets[budget].equal: budget for budget in recipe.budgets_of(name)}
    share = Ramp(of_arm.training.adversarial_share, "adversarial_share").values
    if "seconds" in equal and of_arm.masking.chooses_positions and min(share) == 0 < max(share):
        raise RecipeError(
            f"{recipe.path}: arm {name} has an adversarial_share of 0 in some updates, which therefore cost less. "
            f"Budget {equal['seconds']} (equal: seconds) measures only a few updates: use equal: flops, which counts "
            "every one"
        )
    soft, weights = of_arm.training.soft_target_ramp().values, of_arm.training.loss_weights
    if "seconds" in equal and weights == "uniform" and min(soft) == 0 < max(soft) and _reaches_zero(of_arm):
        raise RecipeError(
            f"{recipe.path}: arm {name} has soft_targets of 0 in some updates, which therefore cost less. "
            f"Budget {equal['seconds']} (equal: seconds) measures only a few updates: use equal: flops"
        )
    partly = ("trained_layers", "peft")
    part = next((option for option in partly if getattr(of_arm.model, option) is not None), None)
    if "flops" in equal and part is not None:
        raise RecipeError(
            f"{recipe.path}: arm {name} has {part} {getattr(of_arm.model, part)}, but budget {equal['flops']} "
            "(equal: flops) counts encoders that are trained as a whole: use equal: updates or equal: seconds"
        )


def _reaches_zero(recipe: Recipe) -> bool:
    """Whether soft targets are 0 before the last update; only at its end is no update."""
    ramp = recipe.training.soft_target_ramp(1000)
    return any(ramp(step) == 0 for step in range(1000))


def _check_pairing(recipe: ComparisonRecipe, resolved: dict[str, Recipe]) -> None:
    (first, one), *others = resolved.items()
    wanted = _pairing_options(one)
    for name, other in others:
        for option, value in _pairing_options(other).items():
            if value != wanted[option]:
                raise RecipeError(
                    f"{recipe.path}: arm {name} has {option} {value}, but arm {first} has {wanted[option]}. Arms are "
                    "paired, so all need the same value: move it to common"
                )


def pairing_facts(recipe: Recipe) -> dict[str, Any]:
    """Return the options that all arms share and results depend on, including first weights, as plain values."""
    options = {name: value for name, value in _pairing_options(recipe).items() if name not in _NOT_OF_THE_RESULT}
    return json.loads(json.dumps(options, default=str))


def _pairing_options(recipe: Recipe) -> dict[str, Any]:
    parts = (recipe.data, recipe.model, recipe.training)
    found = {name: next(getattr(part, name) for part in parts if hasattr(part, name)) for name in PAIRING_OPTIONS}
    share = recipe.masking.trained_share
    if share != 1:  # of the proteins that it reads
        found["per_device_train_batch_size"] = round(share * found["per_device_train_batch_size"], 6)
    return found
