"""Recipes that are part of the package and go by name, such as `demo`, with their proteins."""

import os
import re
from collections.abc import Iterator
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


def with_instructions(message: str, word: str) -> str:
    """Add to the message of an error where a recipe of the package says how to make a file that is missing.

    Args:
        message (`str`): The message.
        word (`str`): Path or name of the recipe.

    Returns:
        `str`: The message alone, if the recipe is not of the package, or if the message is not about a file or folder
        that the recipe names and that does not exist.
    """
    path = FOLDER / f"{word}.yaml" if _is_name(word) else Path(word)
    if not path.is_file() or path.resolve().parent != FOLDER.resolve():
        return message
    content = {option: value for option, value in read_yaml(str(path)).items() if option != "output_dir"}
    missing = (text for text in _texts(content) if "/" in text and not os.path.exists(text))
    if not any(text in message for text in missing):
        return message
    return f"{message.rstrip('.')}. The comment at the top of {path} says how to make the files of this recipe"


def _texts(value: Any) -> Iterator[str]:
    """All texts in the content of a YAML file."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)


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
