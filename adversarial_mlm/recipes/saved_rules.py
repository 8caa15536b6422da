"""The masking rules with which the noiser of a saved model was trained, from the recipe next to it."""

import dataclasses
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from adversarial_mlm.masking.mask_rate import MaskRate
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.models.configuration_noiser import NoiserConfig
from adversarial_mlm.recipes.recipe import MaskingArguments
from adversarial_mlm.recipes.yaml_file import read_yaml
from adversarial_mlm.saving.run_files import RECIPE_FILE
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.options import Source, read_dataclass

_NOT_RULES = (
    *("preset", "masking", "mask_rate", "mask_rate_curve", "span_length", "mask_weights", "mask_weights_column"),
    "protein_share",
)
_RATES = ("adversarial_rate", "random_rate")


def saved_rules(
    name_or_path: str, config: NoiserConfig, revision: str | None = None, **given: Any
) -> tuple[MaskingRules, str]:
    """Return the rules of a noiser's training, and the file that they are from.

    If `mask_rate` was one rate, the rules have it, unless another rate is given. If it was a range or changed during
    the run, they have `adversarial_rate` and `random_rate` themselves, as in evaluation.

    Args:
        name_or_path (`str`): Folder or Hub name of the model. For a checkpoint, the recipe of its run is read.
        config ([`NoiserConfig`]): The noiser's, whose view decides about candidate sets.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        **given: Fields of [`MaskingRules`] that override the file's; `None` does not.

    Returns:
        [`MaskingRules`] and the path of the file; an empty path if there is none. The rules then are a recipe's
        defaults.

    Raises:
        RecipeError: If the recipe cannot be read, is that of a run without a noiser, or does not fit the noiser.
    """
    path = _recipe_file(name_or_path, revision)
    content = read_yaml(path) if path else {}
    names = {field.name for field in dataclasses.fields(MaskingArguments)}
    masking = read_dataclass(
        MaskingArguments, {name: value for name, value in content.items() if name in names}, Source(path)
    )
    if not masking.chooses_positions:
        had = "no noiser" if not masking.has_noiser else "a noiser that chooses no positions"
        raise RecipeError(f"{path}: masking is {masking.masking}, so this run had {had}")
    chosen = {name: value for name, value in dataclasses.asdict(masking).items() if name not in _NOT_RULES}
    chosen |= {name: value for name, value in given.items() if value is not None}
    try:
        if masking.mask_rate and all(given.get(name) is None for name in _RATES):
            rate = MaskRate(masking.mask_rate, masking.mask_rate_curve)
            chosen |= {"rate_schedule": masking.mask_rate} if rate.lowest == rate.highest else {}
        return MaskingRules(blind=config.view == "blind", **chosen).at(), path
    except ValueError as error:
        raise RecipeError(f"{path}: {error}" if path and not any(given.values()) else str(error)) from error


def _recipe_file(name_or_path: str, revision: str | None) -> str:
    folder = Path(name_or_path)
    if folder.is_dir():
        found = [path for path in (folder / RECIPE_FILE, folder.resolve().parent / RECIPE_FILE) if path.is_file()]
        of_run = folder.resolve().name.startswith("checkpoint-")
        return str(found[0]) if found and (found[0].parent == folder or of_run) else ""
    return cached_file(name_or_path, RECIPE_FILE, revision=revision, **_QUIETLY) or ""


_QUIETLY: dict[str, Any] = {
    "_raise_exceptions_for_missing_entries": False,
    "_raise_exceptions_for_connection_errors": False,
}
