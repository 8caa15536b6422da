"""Recipes that are part of the package and go by name, such as `demo`, with their proteins."""

import os
import re
from pathlib import Path
from typing import Any

from adversarial_mlm.recipes.yaml_file import read_yaml
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.spelling import did_you_mean

FOLDER = Path(__file__).with_name("files")
PROTEINS = Path(__file__).with_name("proteins")

_PROTEINS_IN_A_CLONE = "examples/data/"
_PROTEINS = re.compile(r"\.(fasta|fa|faa|fas|fsa|csv|tsv|parquet)(\.(gz|bz2|xz|lzma|zst|lz4|zip))?$")


def shipped_recipes(comparison: bool) -> dict[str, str]:
    """Return the recipes of the package: name → the first sentence of the file.

    Args:
        comparison (`bool`): Whether to return recipes of comparisons, or else those of single runs.
    """
    return {
        path.stem: _first_sentence(path)
        for path in sorted(FOLDER.glob("*.yaml"))
        if ("arms" in read_yaml(str(path))) == comparison
    }


def _first_sentence(path: Path) -> str:
    head: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        head.append(line.removeprefix("# "))
    return " ".join(head).partition(". ")[0].rstrip(".")


def read_recipe(word: str, comparison: bool = False) -> dict[str, Any]:
    """Read a YAML file, or a recipe of the package by its name.

    A name is a word that is neither a file nor a path, and has no ending. Paths in a recipe are relative to the
    current folder. Only the proteins of the package are found from everywhere.

    Args:
        word (`str`): Path of a file, or name of a recipe.
        comparison (`bool`, *optional*, defaults to `False`): Whether it is the recipe of a comparison.

    Raises:
        RecipeError: If there is no such file or recipe, or if it cannot be read.
    """
    if _PROTEINS.search(word.lower()):
        remedy = "name it in one, as train_data" if comparison else f"write `adv-mlm train quick --train_data {word}`"
        raise RecipeError(f"{word} is a file of proteins and not a recipe: {remedy}")
    if not _is_name(word):
        return read_yaml(word)
    names = shipped_recipes(comparison)
    if word in names:
        content = read_yaml(str(FOLDER / f"{word}.yaml"))
        return {option: _with_proteins(value) for option, value in content.items()}
    if word in shipped_recipes(not comparison):
        kind, command = ("a single run", "train") if comparison else ("a comparison", "compare")
        raise RecipeError(f"{word} is the recipe of {kind}: start it with `adv-mlm {command} {word}`")
    hint = did_you_mean(word, names)
    listed = "" if hint.startswith("; there are") else f"; there are {', '.join(names)}"
    raise RecipeError(f"there is no file '{word}', and the package has no recipe of this name{listed}{hint}")


def _is_name(word: str) -> bool:
    has_separator = any(separator in word for separator in {os.sep, os.altsep or os.sep, "/"})
    return not (has_separator or word.startswith("~") or Path(word).suffix or os.path.isfile(word))


def _with_proteins(value: Any) -> Any:
    """Replace paths below `examples/data/` by those of the package; in a clone they are the same files, and stay."""
    if isinstance(value, list):
        return [_with_proteins(item) for item in value]
    if not (isinstance(value, str) and value.startswith(_PROTEINS_IN_A_CLONE)):
        return value
    path = PROTEINS / value.removeprefix(_PROTEINS_IN_A_CLONE)
    return value if os.path.exists(value) and os.path.samefile(value, path) else str(path)
