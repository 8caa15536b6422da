"""Pages that show a file of the repository: a Python file by its functions, any other file as a whole."""

import ast
from pathlib import Path

_LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".sh": "bash", ".json": "json"}
_NO_SEARCH = "---\nsearch:\n  exclude: true\n---\n\n"
_FENCE = "````"


def definitions(code: str) -> dict[str, int]:
    """Return the functions, classes and methods of Python code, and the line of each, from 1.

    A method is named `Class.method`. Decorators belong to what they decorate.
    """
    found: dict[str, int] = {}
    for node in ast.parse(code).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found[node.name] = _first_line(node)
        if isinstance(node, ast.ClassDef):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {f"{node.name}.{item.name}": _first_line(item) for item in methods}
    return found


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def page(root: Path, path: str) -> str:
    """Return a page in Markdown that shows a file, or lists a folder.

    Args:
        root (`Path`): The repository.
        path (`str`): Path in it.
    """
    found = root / path
    if found.is_dir():
        names = sorted(item.name for item in found.iterdir() if not item.name.startswith((".", "__pycache__")))
        return f"{_NO_SEARCH}# {path}/\n\n" + "".join(f"- `{name}`\n" for name in names)
    text = found.read_text(encoding="utf-8")
    body = _by_function(text) if path.endswith(".py") else _block(text, _LANGUAGES.get(found.suffix, "text"), 1)
    return f"{_NO_SEARCH}# {path}\n\n{body}"


def _by_function(code: str) -> str:
    lines = code.splitlines()
    starts = sorted((line, name) for name, line in definitions(code).items())
    parts = [_block("\n".join(lines[: starts[0][0] - 1 if starts else len(lines)]), "python", 1)]
    for (line, name), end in zip(starts, [*(line for line, _ in starts[1:]), len(lines) + 1], strict=True):
        level = "###" if "." in name else "##"
        parts.append(
            f"{level} {name} {{ #{name} }}\n\n" + _block("\n".join(lines[line - 1 : end - 1]), "python", line)
        )
    return "\n".join(part for part in parts if part)


def _block(text: str, language: str, line: int) -> str:
    if not text.strip():
        return ""
    skipped = len(text) - len(text.lstrip("\n"))
    return f'{_FENCE}{language} linenums="{line + skipped}"\n{text.strip(chr(10))}\n{_FENCE}\n'
