"""Tables of all options of a command, made from its parser: name, default, help text."""

import argparse
import importlib
from typing import Any

from adversarial_mlm.cli.command_parser import build_parser
from adversarial_mlm.cli.main import COMMANDS, PROGRAM
from adversarial_mlm.utils.option_sets import OptionSet
from adversarial_mlm.utils.options import default_of
from adversarial_mlm.utils.tables import markdown_table

_HEADERS = ("option", "default", "meaning")
OTHERS = "others"
"""Stands for all commands but `train`."""

_STOCK = "Configuration class for controlling all aspects of model training with the Trainer"
_TITLES = {
    _STOCK: "Options of transformers' own trainer",
    "Arguments of AdversarialMLMTrainer": "When and how the two networks are trained",
}
"""Titles of the site for those that are made from docstrings."""


def tables(command: str, level: int = 2) -> str:
    """Return the options of a command in Markdown, a table for each group.

    Args:
        command (`str`): A name of [`COMMANDS`][adversarial_mlm.cli.main.COMMANDS], or [`OTHERS`].
        level (`int`, *optional*, defaults to 2): Level of the headings of groups; of those of commands for [`OTHERS`].
    """
    if command == OTHERS:
        heading = "#" * level
        return "\n\n".join(f"{heading} {name}\n\n{tables(name, level + 1)}" for name in COMMANDS if name != "train")
    options = _option_set(command)
    groups = _of_parser(command) if options is None else _of_options(options)
    return "\n\n".join(f"{'#' * level} {title}\n\n{markdown_table(_HEADERS, rows)}" for title, rows in groups.items())


def _option_set(command: str) -> OptionSet | None:
    """The options of a command that reads them by an [`OptionSet`]; imported here, because that loads torch."""
    module = {"train": "recipes.recipe", "evaluate": "downstream.arguments"}.get(command)
    return importlib.import_module(f"adversarial_mlm.{module}").OPTIONS if module else None


def _of_options(options: OptionSet) -> dict[str, list[tuple[str, str, str]]]:
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for name, field in options.fields.items():
        title = options.titles[name]
        text = field.metadata.get("help") or options.helps.get(name) or ""
        row = (f"`{name}`", _shown(default_of(field)), _sentence(text))
        groups.setdefault(_TITLES.get(title, title), []).append(row)
    return {title: groups[title] for title in sorted(groups, key=lambda title: title == _TITLES[_STOCK])}


def _of_parser(command: str) -> dict[str, list[tuple[str, str, str]]]:
    parser = build_parser(importlib.import_module(COMMANDS[command][0]), f"{PROGRAM} {command}")
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for group in parser._action_groups:
        for action in group._group_actions:
            title = "Options that people use" if group.title in ("positional arguments", "options") else group.title
            groups.setdefault(_sentence(title or ""), []).append(_row(action))
    return groups


def _row(action: argparse.Action) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{(action.metavar or action.dest)}`"
    return names, _shown(action.default), _sentence(action.help or "")


def _shown(value: Any) -> str:
    if value is None or value is argparse.SUPPRESS or value == [] or value == "":
        return ""
    value = getattr(value, "value", value)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return "`" + (" ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)) + "`"


def _sentence(text: str) -> str:
    text = " ".join(text.split()).replace("%%", "%")
    return text[:1].upper() + text[1:]
