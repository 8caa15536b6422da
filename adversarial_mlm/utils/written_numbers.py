"""Numbers and null as they are written in files and on command lines, read as YAML 1.2 does."""

import enum
import re
from typing import Any

_DECIMAL = re.compile(r"[-+]?(\d+(_\d+)*(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_WORDS_OF_NULL = ("null", "Null", "NULL")  # as in YAML, but for ~, which is the home folder
_PERCENTAGE = re.compile(r"(\d+\.?\d*|\.\d+)\s*%")
_HEXADECIMAL_OR_OCTAL = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")


class _WrittenInt(int):
    written: str


class _WrittenFloat(float):
    written: str


def whole_number(text: str) -> int:
    """Read a whole number such as `12`, `010` (ten), `1_000`, `0x1F` or `0o17`.

    Raises:
        ValueError: If the text is not one.
    """
    return int(text, 0 if _HEXADECIMAL_OR_OCTAL.fullmatch(text) else 10)


def number_or_text(text: str) -> int | float | str:
    """Return the number that a text is, or the text if it is none."""
    if _HEXADECIMAL_OR_OCTAL.fullmatch(text):
        return int(text, 0)
    if not _DECIMAL.fullmatch(text):
        return text
    return int(text) if text.lstrip("+-").replace("_", "").isdigit() else float(text)


def percent_hint(text: str) -> str:
    """Return the end of a sentence about a percentage where a share is needed; empty for any other text."""
    percentage = _PERCENTAGE.fullmatch(text)
    return f": write {float(percentage[1]) / 100:.12g} for {percentage[1]} %" if percentage else ""


def written_number(text: str) -> int | float:
    """Read a number of a YAML file. [`as_written`] gives back its text, for an option that is a text.

    Raises:
        ValueError: If the text is not a number.
    """
    found = number_or_text(text)
    if isinstance(found, str):
        found = float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    if str(found) == text:
        return found
    remembering = _WrittenInt(found) if isinstance(found, int) else _WrittenFloat(found)
    remembering.written = text
    return remembering


def as_written(value: Any) -> str:
    """Return a value as a text: a number of [`written_number`], a boolean and an enumeration as in YAML."""
    value = value.value if isinstance(value, enum.Enum) else value
    return str(value).lower() if isinstance(value, bool) else getattr(value, "written", str(value))


class UnclearError(Exception):
    """A text in a mapping that YAML 1.1 takes for a boolean; `key` is where it is."""

    def __init__(self, text: str, key: str):
        super().__init__(text)
        self.key = key


def with_numbers(value: Any, key: str) -> Any:
    """Convert texts in plain data that look like numbers or booleans, because files and JSON may have them as texts.

    Args:
        value (`Any`): A mapping, a list, or a single value.
        key (`str`): Name of the option that it belongs to.

    Raises:
        UnclearError: If a text is `yes`, `no`, `on` or `off`.
    """
    if isinstance(value, dict):
        return {name: with_numbers(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [with_numbers(item, f"{key}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    if value.lower() in ("yes", "no", "on", "off"):
        raise UnclearError(value, key)
    return value.lower() == "true" if value.lower() in ("true", "false") else number_or_text(value)


def is_null(word: Any) -> bool:
    """Return whether a word of a command line stands for no value."""
    return word in _WORDS_OF_NULL


def with_null(value: Any) -> Any:
    """Replace each word for null in a value of a command line, a word or a list of words, by `None`."""
    if isinstance(value, list):
        return [with_null(item) for item in value]
    return None if is_null(value) else value
