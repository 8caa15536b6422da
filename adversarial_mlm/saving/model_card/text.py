"""Formatting for the card: tables, numbers, options, paths, the command line."""

import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from adversarial_mlm.utils.tables import markdown_table

# options about folders, logs and the machine, which do not describe the model
_OF_THE_MACHINE = {
    *("output_dir", "overwrite_output_dir", "cache_dir", "logging_dir", "run_name", "report_to", "disable_tqdm"),
    *("resume_from_checkpoint", "local_rank", "dataloader_pin_memory", "accelerator_config", "trackio_space_id"),
}

_ABSOLUTE_PATH = re.compile(
    r"""(?:^|(?<=[\s"'=,(\[]))(?:~[^/\\\s]*[/\\]|[A-Za-z]:[/\\]|[/\\]{1,2}(?=[^\s/\\]))[^"',\n]*"""
)


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = False) -> str:
    """A Markdown table with columns that are also aligned in the source.

    Args:
        headers (`Sequence[str]`): Header of each column.
        rows (`Sequence[Sequence[str]]`): The cells.
        numbers (`bool`, *optional*, defaults to `False`): Whether to align all columns but the first to the right.
    """
    return markdown_table(headers, rows, padded=True, numbers=numbers)


def percent(share: float) -> str:
    """A share as a percentage: `15 %` for 0.15."""
    return f"{100 * share:g} %"


def without_paths(text: str) -> str:
    """Replace each absolute path in a text by its last part; keep relative paths."""

    def last_part(match: re.Match) -> str:
        return re.split(r"[/\\]", match[0].rstrip("/\\ "))[-1] or "/"

    return _ABSOLUTE_PATH.sub(last_part, text)


def command_line(argv: Sequence[str]) -> str | None:
    """The command that repeats a run, without tokens, absolute paths and `--resume_from_checkpoint`.

    Args:
        argv (`Sequence[str]`): `sys.argv`.

    Returns:
        `str`, or `None` if neither a script nor `adv-mlm` was started.
    """
    program = Path(argv[0])
    if program.stem == "adv-mlm" or program.parts[-2:] == ("adversarial_mlm", "__main__.py"):
        words = ["-m", "adversarial_mlm"]
    elif program.suffix == ".py":
        words = [without_paths(argv[0])]
    else:
        return None
    leave_out, hide = False, False
    for word in argv[1:]:
        option, equals, _ = word.partition("=")
        is_option = option.startswith("--")
        secret = is_option and option.endswith("token")
        if is_option:
            leave_out = option.replace("-", "_") == "__resume_from_checkpoint"
        if not leave_out:
            words.append("..." if hide else f"{option}=..." if secret and equals else without_paths(word))
        leave_out, hide = leave_out and not equals and is_option, secret and not equals
    return shlex.join(words)


def changed_options(part: Any) -> dict[str, str]:
    """The options of a dataclass that differ from their defaults, as text, without those about the machine.

    Args:
        part (dataclass instance): Such as [`AdversarialMLMTrainingArguments`].
    """
    changed = {}
    for item in fields(part):
        default = item.default if item.default_factory is MISSING else item.default_factory()
        value = getattr(part, item.name, default)
        unset = default in (None, "") and (value is False or value == [])  # what the arguments make of None and ""
        hidden = item.name in _OF_THE_MACHINE or item.name.endswith("_token") or not item.init
        if value != default and not unset and not hidden:
            changed[item.name] = option_value(value)
    return changed


def option_value(value: Any) -> str:
    """The value of an option as it is written on the command line."""
    value = getattr(value, "value", value)  # of an enum
    if isinstance(value, list | tuple):
        return " ".join(map(option_value, value))
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict | bool):
        value = json.dumps(value, default=str)
    return without_paths(str(value))


def is_hub_name(name: str) -> bool:
    """Whether a name has the form of one on the Hub, `name` or `owner/name`, and is not a path on this disk."""
    return re.fullmatch(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*", name) is not None and not os.path.exists(name)
