"""Strict reading of a recipe's YAML file.

YAML 1.1, which PyYAML reads, takes `on` and `no` for booleans, `010` for 8, `1:30` for 90, `1_000` for 1,000, and
dates for dates, but `1e-5` for a text. YAML 1.2 does not. Here, whatever the two read differently is the text that was
written. An option that is a number then reads its text as YAML 1.2 does, or is refused by name.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from adversarial_mlm.utils.home import expand_home
from adversarial_mlm.utils.options import refuse
from adversarial_mlm.utils.written_numbers import written_number


def read_yaml(path: str) -> dict[str, Any]:
    """Read the options of a YAML file. The names of options are texts.

    Raises:
        RecipeError: If the file cannot be read or contains no options. The message names the file and, if known, the
            line.
    """
    reason, content = None, None
    try:
        content = _load_yaml(Path(expand_home(path)).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        reason = error.strerror
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 text (byte 0x{error.object[error.start]:02X} at {error.start:,}): save it as UTF-8"
    except RecursionError:
        reason = "it is nested too deeply"
    except (yaml.YAMLError, ValueError) as error:
        reason = _yaml_reason(error)
    if reason:
        refuse(f"cannot read the recipe {path}: {reason}")
    if not isinstance(content, dict):
        refuse(f"the recipe {path} must consist of lines such as `option: value`")
    return content


class _Loader(yaml.SafeLoader):
    """Numbers, booleans and null that both versions of YAML read in the same way; all else is text."""

    yaml_implicit_resolvers: dict[str, Any] = {}

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct an object. An error of any class, which PyYAML raises for dates and tags, gets the line."""
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:
            raise yaml.constructor.ConstructorError(
                None, None, f"a value does not fit its tag ({error})", node.start_mark
            ) from error

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Construct a number that remembers how it was written."""
        return written_number(self.construct_scalar(node))


_INTEGER = r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+"
_FLOAT = r"[-+]?[0-9]+\.[0-9]*(?:[eE][-+][0-9]+)?|\.[0-9]+(?:[eE][-+][0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
for _tag, _pattern, _first in (
    ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", _INTEGER, "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)


def _load_yaml(text: str) -> Any:
    """Read one YAML document. Unlike PyYAML, refuse repeated keys and aliases of lists and mappings."""
    loader = _Loader(text)
    node = loader.get_single_node()
    if node is None:
        return None
    nodes, seen = [node], set()
    while nodes:
        node_here = nodes.pop()
        if isinstance(node_here, yaml.ScalarNode):
            continue
        if id(node_here) in seen:
            raise ValueError(
                f"line {node_here.start_mark.line + 1}: aliases of lists and mappings are not supported: repeat them"
            )
        seen.add(id(node_here))
        lines: dict[str, int] = {}
        for child in node_here.value:
            nodes.extend(child if isinstance(child, tuple) else [child])
            if isinstance(child, tuple) and isinstance(child[0], yaml.ScalarNode):
                _check_key(child[0], lines)
    return loader.construct_document(node)


def _check_key(node: yaml.ScalarNode, lines: dict[str, int]) -> None:
    """Make a key the text that was written, and check that it is new; `lines` holds the earlier ones."""
    key, line = node.value, node.start_mark.line + 1
    if key in lines:
        raise ValueError(f"the option '{key}' is given twice, in lines {lines[key]} and {line}: remove one")
    lines[key] = line
    node.tag = "tag:yaml.org,2002:str"


def _yaml_reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        hint = ": use spaces instead of tabs" if "'\\t'" in str(error.problem) else ""
        if error.context == "while scanning a simple key" and error.context_mark is not None:
            # PyYAML finds the mistake only where the next line begins
            return f"line {error.context_mark.line + 1}: write `option: value`, with a colon and a space"
        return f"line {error.problem_mark.line + 1}: {error.problem}{hint}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"it contains the character U+{error.character:04X}, which YAML does not allow"
    return str(error)
