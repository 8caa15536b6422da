"""`--list`: the recipes of the package."""

import textwrap
from collections.abc import Sequence

from adversarial_mlm.recipes.shipped import shipped_recipes

WORD = "--list"


def asks_for_list(words: Sequence[str]) -> bool:
    """Whether `--list` is on the command line."""
    return WORD in words


def recipe_list(comparison: bool) -> str:
    """Return the recipes of the package, each with its sentence.

    Args:
        comparison (`bool`): Whether to list recipes of comparisons, or else those of single runs.
    """
    recipes = shipped_recipes(comparison)
    width = max(map(len, recipes)) + 2
    return "\n".join(
        textwrap.fill(
            sentence,
            width=100,
            initial_indent=f"{name:<{width}}",
            subsequent_indent=" " * width,
            break_on_hyphens=False,
        )
        for name, sentence in recipes.items()
    )
