"""Strict reading of a recipe's YAML file."""

from pathlib import Path
from typing import Any

import yaml

from adversarial_mlm.utils.options import refuse


def read_yaml(path: str) -> dict[str, Any]:
    """Read the options of a YAML file.

    Raises:
        RecipeError: If the file cannot be read or contains no options. The message names the file and, if known, the
            line.
    """
    reason = None
    try:
        content = _load_yaml(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError as error:
        reason = error.strerror
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 text (byte 0x{error.object[error.start]:02X} at {error.start:,}): save it as UTF-8"
    except RecursionError:
        reason = "it is nested too deeply"
    except Exception as error:  # PyYAML raises errors of any class for dates, numbers and tags
        reason = _yaml_reason(error)
    if reason:
        refuse(f"cannot read the recipe {path}: {reason}")
    if not isinstance(content, dict):
        refuse(f"the recipe {path} must consist of lines such as `option: value`")
    return content


def _load_yaml(text: str) -> Any:
    """Read one YAML document. Unlike PyYAML, refuse repeated keys and aliases of lists and mappings."""
    loader = yaml.SafeLoader(text)
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
                key, line = child[0].value, child[0].start_mark.line + 1
                if key in lines:
                    raise ValueError(
                        f"the option '{key}' is given twice, in lines {lines[key]} and {line}: remove one"
                    )
                lines[key] = line
    return loader.construct_document(node)


def _yaml_reason(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        hint = ": indent with spaces" if "'\\t'" in str(error.problem) else ""
        return f"line {error.problem_mark.line + 1}: {error.problem}{hint}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"it contains the character U+{error.character:04X}, which YAML does not allow"
    return str(error) if isinstance(error, ValueError) else f"a value does not fit its tag ({error})"
