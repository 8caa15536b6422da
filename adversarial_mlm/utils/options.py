"""Options: read values into dataclasses, and check them against their annotations.

Every error message is one sentence that names the file or the command line, the option, its value and what is allowed.
"""

import dataclasses
import enum
import inspect
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar

from adversarial_mlm.utils import written_numbers
from adversarial_mlm.utils.errors import RecipeError, clip, redact
from adversarial_mlm.utils.home import expand_home
from adversarial_mlm.utils.spelling import did_you_mean, nearest

_LONGEST_MESSAGE = 1000
_TEXTS_OF_BOOLS = {
    **dict.fromkeys(("yes", "true", "on", "t", "y", "1"), True),
    **dict.fromkeys(("no", "false", "off", "f", "n", "0"), False),
}
_WORDS_OF_NO = ("no", "off", "false")
T = TypeVar("T")


def refuse(message: str) -> NoReturn:
    """Raise a [`RecipeError`]. Its message is in one line, at most 1,000 characters long, and without Hub tokens."""
    message = redact(" ".join(message.split()))  # a user may have put a token into the wrong line
    raise RecipeError(clip(message, _LONGEST_MESSAGE))


def required(value: T | None, name: str) -> T:
    """Return the value of an option that must be given.

    Raises:
        RecipeError: If it is `None`.
    """
    if value is None:
        raise RecipeError(f"{name} is missing")
    return value


def option(default: Any, help: str, choices: Iterable[str] | None = None, path: bool = False) -> Any:
    """Return a dataclass field with a default, a help text and, optionally, the values that are allowed.

    Args:
        default (`Any`): The default; a list is copied for every instance.
        help (`str`): Text for `--help`.
        choices (`Iterable[str]`, *optional*): Allowed values of a text; by default any.
        path (`bool`, *optional*, defaults to `False`): Whether its texts may be paths, in which `~` is expanded.
    """
    metadata: dict[str, Any] = {"help": help}
    if choices is not None:
        metadata["choices"] = choices
    if path:
        metadata["path"] = True
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def default_of(field: dataclasses.Field) -> Any:
    """Return the default of a field, or `dataclasses.MISSING`."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def defaults_of(kind: Any) -> dict[str, Any]:
    """Return the defaults of a dataclass or its instance by field, without fields that have none."""
    defaults = {field.name: default_of(field) for field in dataclasses.fields(kind)}
    return {name: default for name, default in defaults.items() if default is not dataclasses.MISSING}


def documented(kind: type) -> dict[str, str]:
    """Return help texts by name, from the entries ``name (`type`): text`` of a docstring."""
    entries = re.findall(r"^    (\w+) \(.*?\): (.*(?:\n {8}.*)*)", inspect.getdoc(kind) or "", flags=re.MULTILINE)
    return {name: " ".join(text.split()).replace("`", "").replace("%", "%%") for name, text in entries}


@dataclass(frozen=True)
class Source:
    """The origin of options, for messages.

    Args:
        path (`str`, *optional*, defaults to `""`): The file; empty for the command line.
    """

    path: str = ""

    def refuse(self, key: str, reason: str) -> NoReturn:
        """Raise an error about the value of an option."""
        refuse(f"{self.path}: {key} {reason}" if self.path else f"--{key} {reason}")

    def refuse_unknown(
        self, key: str, name: str, known: Iterable[str], other_names: Mapping[str, str] | None = None
    ) -> NoReturn:
        """Raise an error about an unknown option; `name` is the last part of the dotted `key`."""
        hint = did_you_mean(name, known, other_names)
        refuse(
            f"{self.path}: unknown option '{key}'{hint}"
            if self.path
            else f"unknown option '{key}' on the command line{hint}"
        )


# ---- One value ----


class _UnfitError(Exception):
    """A value does not fit a type."""


def _to_bool(value: Any) -> bool:
    try:
        return _TEXTS_OF_BOOLS[str(value).lower()]
    except KeyError:
        raise _UnfitError from None


def _to_int(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _UnfitError
    try:
        return written_numbers.whole_number(value) if isinstance(value, str) else int(value)
    except ValueError:
        raise _UnfitError from None


def _to_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _UnfitError
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise _UnfitError from None
    if math.isnan(number):
        raise _UnfitError
    return number


def _to_text(value: Any) -> str:
    if value is None or isinstance(value, Mapping | list | tuple | set | bytes):
        raise _UnfitError
    return written_numbers.as_written(value)


_PLAIN: dict[Any, tuple[Callable[[Any], Any], str]] = {
    bool: (_to_bool, "true or false"),
    int: (_to_int, "a whole number"),
    float: (_to_float, "a number"),
    str: (_to_text, "a text"),
}


def read_value(kind: Any, value: Any, source: Source, key: str, choices: Iterable[str] | None = None) -> Any:
    """Convert plain data to the type of an annotation.

    Numbers and booleans may be given as text, because YAML reads `1e-4` as text and a command line only has text. A
    single text may stand for a list of texts. The values of a mapping without type parameters are not converted.

    Args:
        kind (`type`): `bool`, `int`, `float`, `str`, an `Enum`, a `Literal`, a dataclass, a list or a mapping of
            these, or a union.
        value (`Any`): The value from YAML or a command line.
        source ([`Source`]): Origin of the value, for messages.
        key (`str`): Name of the option, for messages.
        choices (`Iterable[str]`, *optional*): Allowed texts; by default any.

    Raises:
        RecipeError: If the value does not fit.
    """
    members = members_of(kind)
    if value is None and type(None) in members:
        return None
    if value is None:
        source.refuse(key, "has no value: give one, or remove the option")
    if isinstance(value, Mapping | list):
        return _read_container(members, value, source, key)
    known = _choices(members) if choices is None else [str(name) for name in choices]
    if known:
        return _read_choice(members, known, value, source, key)
    if isinstance(value, str) and value.startswith("{") and any(_is_mapping(member) for member in members):
        return _read_container(members, _from_json(value, source, key), source, key)
    for member in (member for member in _PLAIN if member in members):  # text comes last, because it accepts everything
        try:
            return _PLAIN[member][0](value)
        except _UnfitError:
            continue
    if list[str] in members and not isinstance(value, bytes | set):
        return [written_numbers.as_written(value)]
    _refuse_unfit(members, value, source, key)


def members_of(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation itself as the only one."""
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _is_mapping(member: Any) -> bool:
    return member is dict or typing.get_origin(member) is dict


def _choices(members: tuple[Any, ...]) -> list[str]:
    """Return the texts of an enumeration or a `Literal`; empty if any text is allowed."""
    for member in members:
        if isinstance(member, type) and issubclass(member, enum.Enum):
            return [item.value for item in member]
        if typing.get_origin(member) is Literal and str not in members:
            return [str(item) for item in typing.get_args(member)]
    return []


def _read_choice(members: tuple[Any, ...], known: list[str], value: Any, source: Source, key: str) -> Any:
    value = value.value if isinstance(value, enum.Enum) else value
    text = written_numbers.as_written(value)
    if text not in known and text.lower() in _WORDS_OF_NO and "no" in known:
        text = "no"
    if text not in known:
        near = nearest(text, known)
        hint = f"; did you mean '{near}'?" if near else ""
        source.refuse(key, f"must be one of {', '.join(known)}, got {text!r}{hint}")
    for member in members:
        if isinstance(member, type) and issubclass(member, enum.Enum):
            return member(text)
    return text


def _read_container(members: tuple[Any, ...], value: Any, source: Source, key: str) -> Any:
    for member in members:
        inner = typing.get_args(member)
        if isinstance(value, list) and typing.get_origin(member) is list:
            return [read_value(inner[0], item, source, f"{key}[{index}]") for index, item in enumerate(value)]
        if isinstance(value, Mapping) and dataclasses.is_dataclass(member):
            return read_dataclass(typing.cast(type, member), value, source, key)
        if isinstance(value, Mapping) and _is_mapping(member):
            if not inner or inner[1] is Any:
                return value
            return {str(name): read_value(inner[1], item, source, f"{key}.{name}") for name, item in value.items()}
    _refuse_unfit(members, value, source, key)


def _from_json(text: str, source: Source, key: str) -> Mapping[str, Any]:
    try:
        return json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        source.refuse(key, f'must be a mapping in JSON, such as {{"name": 1}} ({error})')


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"'{name}' is given twice")
    return dict(pairs)


def _refuse_unfit(members: tuple[Any, ...], value: Any, source: Source, key: str) -> NoReturn:
    words = [words for member, (_, words) in _PLAIN.items() if member in members]
    if any(typing.get_origin(member) is list for member in members):
        words.append("a list")
    if any(_is_mapping(member) or dataclasses.is_dataclass(member) for member in members):
        words.append("a mapping of names to values")
    of_a_list = not source.path and key.endswith("]") and isinstance(value, str) and "," in value
    of_a_number = written_numbers.percent_hint(str(value)) if float in members else ""
    hint = ": separate values by spaces" if of_a_list else of_a_number
    source.refuse(key, f"must be {' or '.join(words)}, got {value!r}{hint}")


# ---- Nested options: a dataclass of mappings ----


def with_home(value: Any, source: Source, key: str) -> Any:
    """Expand `~` in a path or in a list of paths."""
    try:
        if isinstance(value, list):
            return [expand_home(item) for item in value]
        return expand_home(value) if isinstance(value, str) else value
    except RecipeError as error:
        source.refuse(key, str(error))


def read_dataclass(kind: type[T], content: Any, source: Source, key: str = "", **given: Any) -> T:
    """Build a dataclass from a mapping whose keys are its fields. Fields may be dataclasses themselves.

    Args:
        kind (`type`): The dataclass.
        content (`Any`): The mapping from YAML.
        source ([`Source`]): Origin of the mapping, for messages.
        key (`str`, *optional*, defaults to `""`): Key of the mapping in the file; empty for the whole file.
        **given: Values of fields that are not options.

    Raises:
        RecipeError: If `content` is not a mapping, or if a key is unknown, missing or has a value that does not fit.
    """
    if not isinstance(content, Mapping):
        source.refuse(key or "the file", "must be a mapping of names to values")
    known = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind)) if field.name not in given}
    prefix = f"{key}." if key else ""
    for name in content:
        if name not in known:
            source.refuse_unknown(f"{prefix}{name}", str(name), known)
    for name, field in known.items():
        if name not in content and default_of(field) is dataclasses.MISSING:
            source.refuse(f"{prefix}{name}", "is missing")
    hints = typing.get_type_hints(kind)
    values = {name: read_value(hints[name], value, source, f"{prefix}{name}") for name, value in content.items()}
    for name in [name for name in values if known[name].metadata.get("path")]:
        values[name] = with_home(values[name], source, f"{prefix}{name}")
    try:
        return kind(**values, **given)
    except ValueError as error:
        refuse(f"{source.path}: {key}: {error}" if key else f"{source.path}: {error}")


# ---- Flat options: those of several dataclasses under their names ----
