"""The options of several dataclasses together: read from a YAML file, a preset or a command line, by name."""

import argparse
import dataclasses
import functools
import inspect
import json
import os
import re
import sys
import typing
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from adversarial_mlm.utils import written_numbers
from adversarial_mlm.utils.options import Source, default_of, members_of, read_value, refuse, with_home

if TYPE_CHECKING:
    from transformers import HfArgumentParser

_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_NOTHING: tuple[Any, ...] = (None, "", "none", [])
_NOT_SAID = object()


class OptionSet:
    """The options of several dataclasses. A YAML file and a command line give them by name, without the dataclass.

    Each source is read into a dictionary of the options that it gives. The caller merges these dictionaries, the
    strongest one last, and builds the dataclasses.

    Args:
        *parts (`type`): The dataclasses. Every field must have a default.
        without (`Iterable[str]`, *optional*): Fields that are not options.
        helps (`Mapping[str, str]`, *optional*): Help texts of options whose fields have none.
        paths (`Iterable[str]`, *optional*): Options whose texts may be paths, in addition to those made by [`option`].
        other_names (`Mapping[str, str]`, *optional*): What an option is called elsewhere, for messages; see
            [`did_you_mean`].
    """

    def __init__(
        self,
        *parts: type,
        without: Iterable[str] = (),
        helps: Mapping[str, str] | None = None,
        paths: Iterable[str] = (),
        other_names: Mapping[str, str] | None = None,
    ):
        self.parts, self.helps, self.other_names = parts, helps or {}, other_names or {}
        self.fields = {field.name: field for part in parts for field in _fields_of(part) if field.name not in without}
        self.paths = {*paths, *(name for name, field in self.fields.items() if field.metadata.get("path"))}
        hints = {name: hint for part in parts for name, hint in typing.get_type_hints(part).items()}
        # `dict | str` means a mapping or its JSON for `*_kwargs`, but may also be a path for other options
        self.kinds = {name: dict | None if name.endswith("_kwargs") else hints[name] for name in self.fields}
        self._parser_of = functools.cache(self._build_parser)
        self.titles = {field.name: _title_of(part, field.name) for part in parts for field in _fields_of(part)}

    def default(self, name: str) -> Any:
        """Return the default of an option."""
        return default_of(self.fields[name])

    def read(self, content: Mapping[str, Any], source: Source) -> dict[str, Any]:
        """Read the options of a YAML file or a preset. A line without a value is skipped if the default is empty, too.

        Raises:
            RecipeError: If an option is unknown or its value does not fit.
        """
        for name in content:
            if name not in self.fields:
                source.refuse_unknown(str(name), str(name), self.fields, self.other_names)
        said = {}
        for name, value in content.items():
            if value is None or value == []:
                if self.default(name) not in _NOTHING:
                    source.refuse(name, "has no value: give one, or remove the line to use the default")
                continue
            self._check_texts(name, value, source)
            said[name] = self._read(name, value, source)
        return said

    def _check_texts(self, name: str, value: Any, source: Source) -> None:
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and _CONTROL_CHARACTER.search(item):
                source.refuse(name, "contains a line break or another control character: remove it")
            if isinstance(value, list) and isinstance(item, str) and item.startswith("--") and item[2:] in self.fields:
                source.refuse(name, f"contains {item!r}, which is an option: put it on a separate line")

    def _read(self, name: str, value: Any, source: Source) -> Any:
        kind, field = self.kinds[name], self.fields[name]
        if any(dataclasses.is_dataclass(member) for member in members_of(kind)):
            source.refuse(name, "cannot be set in a file or on a command line: remove it")
        takes_texts = str in members_of(kind) or not _takes_lists(kind)
        if isinstance(value, list) and len(value) == 1 and takes_texts:
            value = value[0]
        found = read_value(kind, value, source, name, field.metadata.get("choices"))
        found = with_home(found, source, name) if name in self.paths else found
        return _plain_mapping(found, source, name) if isinstance(found, Mapping) else found

    def parser(self, usage: str = "%(prog)s --option value", program: str | None = None) -> "HfArgumentParser":
        """Return a parser of the command line, built once for each usage and program. It leaves values as text.

        Args:
            usage (`str`, *optional*): The first line of its help.
            program (`str`, *optional*): The program's name; by default that of the script.
        """
        # a comparison reads words for every arm and run, and building takes much longer than reading
        return self._parser_of(usage, program or os.path.basename(sys.argv[0]))

    def _build_parser(self, usage: str, program: str) -> "HfArgumentParser":
        from transformers import HfArgumentParser

        groups: dict[str, list[tuple[str, Any, Any]]] = {}
        for name, field in self.fields.items():  # copies, because the parser changes the fields that it gets
            groups.setdefault(self.titles[name], []).append((name, self.kinds[name], self._copied(field)))
        options: list[Any] = [
            dataclasses.make_dataclass("Options", fields, namespace={"_argument_group_name": title})
            for title, fields in groups.items()
        ]
        parser = HfArgumentParser(options, prog=program, allow_abbrev=False, exit_on_error=False, usage=usage)
        for action in parser._actions:
            if action.dest in self.fields:
                if action.choices:
                    action.metavar = "{" + ",".join(map(str, action.choices)) + "}"
                # with types, argparse would report mistakes in other words than we do for a file
                action.type = action.choices = None
                if _takes_lists(self.kinds[action.dest]):  # also where a single text is another kind
                    action.nargs = "+"
        return parser

    def _copied(self, field: dataclasses.Field) -> Any:
        metadata = {"help": self.helps.get(field.name), **field.metadata}
        if metadata["help"]:  # argparse formats help texts: a percent sign that is meant must be doubled
            metadata["help"] = re.sub(r"%%|%(?!\()", "%%", metadata["help"])
        metadata.pop("path", None)  # the others are arguments of argparse
        return dataclasses.field(default=field.default, default_factory=field.default_factory, metadata=metadata)

    def read_words(self, words: Iterable[str], parser: "HfArgumentParser | None" = None) -> dict[str, Any]:
        """Read the options of a command line, in any order. If an option is given twice, the last value counts.

        Args:
            words (`Iterable[str]`): `--name value`, `--name=value`; booleans also `--name`, `--no_name`; `null`: none.
            parser (`HfArgumentParser`, *optional*): Result of [`parser`][OptionSet.parser].

        Raises:
            RecipeError: If an option is unknown or its value does not fit.
        """
        parser = parser or self.parser()
        nothing = argparse.Namespace(**dict.fromkeys(self.fields, _NOT_SAID))
        try:
            found, rest = parser.parse_known_args(list(words), nothing)
        except argparse.ArgumentError as error:
            refuse(f"{(error.argument_name or '').split('/')[0]}: {error.message}")
        if rest:
            self._refuse_word(rest[0])
        said = {name: value for name, value in vars(found).items() if value is not _NOT_SAID}
        return {name: self._read_said(name, written_numbers.with_null(value)) for name, value in said.items()}

    def _read_said(self, name: str, value: Any) -> Any:
        """Read a value of the command line, where `null` is the default of an option that is empty by default."""
        if value not in (None, [None]):
            return self._read(name, value, Source())
        if self.default(name) not in _NOTHING:
            Source().refuse(name, "has no value: give one, or leave the option out to use the default")
        return self.default(name)

    def _refuse_word(self, word: str) -> NoReturn:
        if not word.startswith("-"):
            refuse(f"'{word}' on the command line is not an option: write options as --name value")
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        Source().refuse_unknown(name, name, self.fields, self.other_names)

    def build(self, said: Mapping[str, Any]) -> list[Any]:
        """Build the dataclasses from options; the others keep their defaults."""
        return [
            part(**{field.name: said[field.name] for field in _fields_of(part) if field.name in said})
            for part in self.parts
        ]


def _title_of(part: type, name: str) -> str:
    """Return the first sentence about the class that a field comes from: a part, or a class that it extends."""
    first = [kind for kind in part.__mro__ if dataclasses.is_dataclass(kind) and name in kind.__annotations__][-1]
    sentence = re.split(r"[.:](?:\s|$)", inspect.getdoc(first) or first.__name__, maxsplit=1)[0]
    return re.sub(r"\[?`([^`]*)`\]?", r"\1", sentence)


def _takes_lists(kind: Any) -> bool:
    return any(typing.get_origin(member) is list for member in members_of(kind))


def _fields_of(part: type) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(typing.cast(Any, part)) if field.init]


def _plain_mapping(mapping: Mapping[str, Any], source: Source, key: str) -> dict[str, Any]:
    """Convert a mapping to plain values. It holds arguments of other libraries, whose types are not known here."""
    try:
        return written_numbers.with_numbers(json.loads(json.dumps(mapping)), key)
    except written_numbers.UnclearError as error:
        source.refuse(error.key, f"is {error}, which may be a boolean or a text: write true or false")
    except (TypeError, ValueError) as error:
        source.refuse(key, f"contains a value that JSON does not support ({error})")
