"""Messages about options that cannot be used: which option it is, and where it was given."""

import re
from collections.abc import Mapping
from typing import Any

from adversarial_mlm.utils.errors import AdversarialMLMError, one_line
from adversarial_mlm.utils.written_numbers import as_written

_MOST_LISTED = 5
_ENUM = re.compile(r"\b[A-Z][A-Za-z]*(?:Strategy|Type|Names)\.([A-Z_]+)\b")  # as Python shows the value of an option


def explained(error: Exception, given: Mapping[str, Any]) -> str:
    """Return the message of an error about options in one sentence that names one of them.

    Errors of this package name theirs. Those of a library are about an option with a value in the message, or about
    one of those that were given, which are listed if they are few.

    Args:
        error (`Exception`): The error.
        given (`Mapping[str, Any]`): Options that the error may be about, with their values.
    """
    text = one_line(error)
    if isinstance(error, AdversarialMLMError) or mentioned(text, given):
        return text
    given = {name: value for name, value in given.items() if not name.endswith("_token")}
    named = {name: value for name, value in given.items() if _occurs(value, text)}
    if not named and len(given) <= _MOST_LISTED:
        named = given
    values = ", ".join(f"{name}: {_plain(value)}" for name, value in named.items())
    return f"{values or 'the options'} cannot be used: {type(error).__name__}: {text}"


def _plain(value: Any) -> str:
    return ", ".join(map(as_written, value)) if isinstance(value, list | tuple) else as_written(value)


def _occurs(value: Any, text: str) -> bool:
    """Whether a value, or one of a list, is a word of a message."""
    items = map(as_written, value if isinstance(value, list | tuple) else [value])
    return any(item and re.search(rf"(?<!\w){re.escape(item)}(?!\w)", text, re.I) for item in items)


def mentioned(text: str, names: Mapping[str, Any]) -> list[str]:
    """Return the names of options in a message. A name that is also a word counts only where it is used as a name."""
    return [
        name
        for name in names
        if re.search(rf"\b{name}\b" if "_" in name else rf"^(--)?{name}\b|\b{name}: |'{name}'|--{name}\b", text)
    ]


def with_origin(text: str, from_file: Mapping[str, Any], said: Mapping[str, Any], path: str) -> str:
    """Say in a message where the options that it names were given.

    Args:
        text (`str`): The message.
        from_file (`Mapping[str, Any]`): Options of the file.
        said (`Mapping[str, Any]`): Options of the command line, which override the others.
        path (`str`): The file; empty if there is none.
    """
    text = _ENUM.sub(lambda match: match[1].lower(), text)
    on_line = mentioned(text, said)
    in_file = [name for name in mentioned(text, from_file) if name not in on_line] if path else []
    if on_line and in_file:
        return f"{text} ({' and '.join(on_line)} on the command line, {' and '.join(in_file)} in {path})"
    if on_line:
        return f"--{text}" if text.startswith(on_line[0]) else text
    return f"{path}: {text}" if path else text
