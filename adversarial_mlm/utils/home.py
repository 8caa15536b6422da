"""`~` at the beginning of a path, which a shell only expands where a word begins with it, so not in `--option=~/x`."""

import argparse
import os

from adversarial_mlm.utils.errors import RecipeError


def expand_home(path: str) -> str:
    """Return a path with `~` or `~user` replaced by the home folder, as shells do.

    Args:
        path (`str`): Any path or pattern, also the name of a model or dataset on the Hub. Variables such as `$HOME`
            are left as they are.

    Raises:
        RecipeError: If the home folder is unknown, and there is no file or folder of this name.
    """
    expanded = os.path.expanduser(path)
    if path.startswith("~") and expanded == path and not os.path.lexists(path):
        user = path.partition("/")[0].removeprefix("~")
        reason = f"there is no user {user!r}" if user else "the home folder is unknown"
        raise RecipeError(f"{path} begins with ~, but {reason}: write ./{path} for a name that begins with it")
    return expanded


def path_argument(path: str) -> str:
    """Return [`expand_home`] of a path; the `type` of an argument of `argparse`."""
    try:
        return expand_home(path)
    except RecipeError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
