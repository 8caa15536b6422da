"""The parser of a command: help of two lengths, and mistakes in one sentence."""

import argparse
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import NoReturn

from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.home import path_argument
from adversarial_mlm.utils.spelling import did_you_mean
from adversarial_mlm.utils.written_numbers import is_null, percent_hint

_HELP_WORDS = ("--help", "-h")
_UNFIT_NUMBER = re.compile(r"(\S+): invalid (int|float) value: '(.*)'")
_BUILT_IN_GROUPS = 2  # those of argparse: positional arguments and options

# what options are called in other commands and tools
_OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "model": ("model_name_or_path", "model_path", "model_name", "encoder", "checkpoint"),
    "fasta": ("input", "input_file", "fasta_file", "proteins", "sequences", "train_data", "data"),
    "protein": ("fasta", "fasta_file", "sequence", "input"),
    "mutants": ("mutation", "mutations", "variants", "dms"),
    "wild_type": ("wt",),
    "out": ("output", "output_file", "output_path", "output_dir"),
    "output_dir": ("out", "out_dir"),
    "batch_tokens": ("batch_size",),
    "device": ("cpu", "use_cpu", "gpu", "cuda"),
    "revision": ("model_revision",),
    "workers": ("num_workers", "num_proc", "jobs"),
}


class CommandParser(argparse.ArgumentParser):
    """A parser that shows the arguments of its groups on request, and raises mistakes.

    Args:
        program (`str`): The words that start the command, such as `adv-mlm embed`.
        purpose (`str`): One or two sentences.
        examples (`Sequence[str]`): Command lines.
        has_others (`bool`): Whether the command has other options, which this parser does not know.
    """

    def __init__(self, program: str, purpose: str, examples: Sequence[str], has_others: bool):
        lines = "\n".join(f"  {line}" for line in examples)
        super().__init__(
            prog=program,
            description=f"{purpose}\n\nexamples:\n{lines}",
            formatter_class=_Formatter,
            allow_abbrev=False,
            add_help=False,
        )
        self.has_others = has_others

    def help(self, whole: bool) -> str:
        """Return the help.

        Args:
            whole (`bool`): Whether to show the arguments of groups, too.
        """
        groups = self._action_groups if whole else self._action_groups[:_BUILT_IN_GROUPS]
        required = [action for action in self._actions if action.required and action.option_strings]
        formatter = self._get_formatter()
        positional = [action for action in self._actions if not action.option_strings]
        formatter.add_usage(None, [*positional, *required], [])
        usage = formatter.format_help().rstrip() + " [--option VALUE ...]\n\n"
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        for group in groups:
            formatter.start_section(group.title)
            formatter.add_text(group.description)
            formatter.add_arguments(group._group_actions)
            formatter.end_section()
        hidden = self.has_others or any(group._group_actions for group in self._action_groups[_BUILT_IN_GROUPS:])
        rest = f"\n{self.prog} --help all lists all options, in groups.\n" if hidden and not whole else ""
        return usage + formatter.format_help() + rest

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Read the words of a command line.

        Raises:
            RecipeError: If a word is not an argument, or if an argument is missing or has a value that does not fit.
        """
        for word in words:  # argparse would first complain of a required option that is missing, or misspelt
            if word.startswith("--") and word.partition("=")[0] not in self._option_string_actions:
                self._refuse_option(word)
        args, rest = self.parse_known_args(list(words))
        if rest and not rest[0].startswith("-"):
            self.error(f"'{rest[0]}' is not an option: write options as --name value")
        if rest:
            self._refuse_option(rest[0])
        return args

    def _get_values(self, action: argparse.Action, words: list[str]) -> object:
        """Read `null` as no value, for an option that has none unless it is given."""
        may_be_none = action.option_strings and action.default is None and not action.required
        if may_be_none and type(action) is argparse._StoreAction and len(words) == 1 and is_null(words[0]):
            return None
        return super()._get_values(action, words)

    def _refuse_option(self, word: str) -> NoReturn:
        name = word.lstrip("-").partition("=")[0]
        known = [text.lstrip("-") for text in self._option_string_actions]
        other_names = {other: own for own in known for other in _OTHER_NAMES.get(own, ())}
        self.error(f"unknown option '{name}'{did_you_mean(name, known, other_names)}")

    def error(self, message: str) -> NoReturn:
        """Raise a mistake in the command line."""
        message = message.removeprefix("argument ")
        unfit = _UNFIT_NUMBER.fullmatch(message)
        if unfit:
            option, kind, value = unfit.groups()
            needed = {"int": "a whole number", "float": "a number"}[kind]
            message = f"{option} must be {needed}, got '{value}'{percent_hint(value) if kind == 'float' else ''}"
        hint = "" if message.endswith("?") else f"; {self.prog} --help shows how to use it"
        raise RecipeError(message.rstrip(".") + hint)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **options):
        super().__init__(prog, max_help_position=34, **options)

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return {int: "N", float: "X", path_argument: "PATH"}.get(action.type, "TEXT")


def build_parser(module: ModuleType, program: str) -> CommandParser:
    """Return the parser of a command's module, see [`COMMANDS`][adversarial_mlm.cli.main.COMMANDS]."""
    purpose = (module.__doc__ or "").strip().split("\n\n")[0]
    parser = CommandParser(program, purpose, module.EXAMPLES, hasattr(module, "start"))
    module.add_arguments(parser)
    return parser


def asks_for_help(words: Sequence[str]) -> str:
    """Return `"all"` for `--help all`, `"short"` for `--help`, and an empty text if no help is asked for."""
    for index, word in enumerate(words):
        if word in _HELP_WORDS:
            return "all" if words[index + 1 : index + 2] == ["all"] else "short"
        if word == "--help=all":
            return "all"
    return ""


def overview(program: str, commands: Mapping[str, str]) -> str:
    """Return the help of the program: its commands, each with its line."""
    width = max(map(len, commands))
    lines = "\n".join(f"  {name:<{width}}  {line}" for name, line in commands.items())
    return (
        f"usage: {program} COMMAND [--option VALUE ...]\n\n"
        f"Pre-train protein language models against a trainable masker, and use them.\n\n"
        f"commands:\n{lines}\n\n"
        f"{program} COMMAND --help shows the options that people use, --help all lists all of them.\n"
        f"{program} --version prints the version.\n"
    )
