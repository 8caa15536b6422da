"""Completion of commands, options and recipes in a shell, for the package `argcomplete`.

pip install 'adversarial-mlm[completion]'
eval "$(register-python-argcomplete adv-mlm)"
"""

import argparse
import importlib
import re
from collections.abc import Mapping, Sequence
from types import ModuleType

from adversarial_mlm.recipes.shipped import shipped_recipes
from adversarial_mlm.utils.extras import require


def complete(program: str, commands: Mapping[str, tuple[str, str]], words: Sequence[str]) -> None:
    """Write the completions of a command line, and end the process.

    Only the command that is being completed is imported, so the answer takes a fraction of a second. Rare options of
    `train`, `evaluate` and `compare` take some seconds, because they come from the classes that have them.

    Args:
        program (`str`): The program's name.
        commands (`Mapping[str, tuple[str, str]]`): See [`COMMANDS`][adversarial_mlm.cli.main.COMMANDS].
        words (`Sequence[str]`): The command line so far, without the program's name.

    Raises:
        MissingPackageError: If `argcomplete` is not installed.
    """
    argcomplete = require("argcomplete", "completion", "completion in a shell")
    argcomplete.autocomplete(build_parser(program, commands, words))


def build_parser(
    program: str, commands: Mapping[str, tuple[str, str]], words: Sequence[str]
) -> argparse.ArgumentParser:
    """Return a parser of all commands; only the one that the words begin with has its arguments."""
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument("--version", action="store_true")
    subparsers = parser.add_subparsers()
    for name, (module, line) in commands.items():
        subparser = subparsers.add_parser(name, help=line)
        if list(words[:1]) == [name]:
            command = importlib.import_module(module)
            command.add_arguments(subparser)
            _add_recipes(subparser, comparison=name == "compare")
            _add_other_options(subparser, command, words[-1])
    return parser


def _add_other_options(parser: argparse.ArgumentParser, command: ModuleType, word: str) -> None:
    """Add all options of an [`OptionSet`] if the word begins as none of the common ones; torch is then imported."""
    known = parser._option_string_actions
    if hasattr(command, "start") and word.startswith("--") and not any(name.startswith(word) for name in known):
        for name in re.findall(r"(?m)^  (--\w+)", command.whole_help(parser.prog)):
            if name not in known:
                parser.add_argument(name)


def _add_recipes(parser: argparse.ArgumentParser, comparison: bool) -> None:
    names = list(shipped_recipes(comparison))
    for action in parser._actions:
        if action.dest == "recipe":
            action.completer = lambda prefix, **_: names + _files(prefix)  # type: ignore[attr-defined]


def _files(prefix: str) -> list[str]:
    from argcomplete.completers import FilesCompleter

    return list(FilesCompleter(("yaml", "yml"))(prefix))
