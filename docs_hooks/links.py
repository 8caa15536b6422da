"""Links of Markdown files: where they lead in the repository, and what they become on the site.

A page is known by its path in the repository, such as `docs/scoring.md`, and by its address on the site, such as
`scoring.md`. The links in a file are those that work on GitHub.
"""

import posixpath
import re
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = "docs/"
FRONT_PAGE = "README.md"
SOURCES = "source/"

_AS_THEY_ARE = (".md", ".png", ".svg", ".json", ".ipynb")

_LINK = re.compile(r"(\]\()([^)\s]+)(\))|(<(?:img|a)\b[^>]*?\b(?:src|href)=\")([^\"]+)(\")")
_NAMED_BY_FILE = re.compile(r"\[([\w./]+\.md)\]\(([\w./#-]+)\)")
_CODE = re.compile(r"(?ms)^(```|~~~).*?^\1[ \t]*$|(?<!`)(`+)(?!`).+?(?<!`)\2(?!`)")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:|//")


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Apply `change` to the parts of a Markdown text that are not code."""
    parts, start = [], 0
    for code in _CODE.finditer(text):
        parts += [change(text[start : code.start()]), code[0]]
        start = code.end()
    return "".join(parts) + change(text[start:])


def targets(text: str) -> list[str]:
    """Return the targets of the links and pictures in a Markdown text, without those that have a scheme."""
    found: list[str] = []

    def collect(prose: str) -> str:
        found.extend(match[2] or match[5] for match in _LINK.finditer(prose))
        return prose

    outside_code(text, collect)
    return [target for target in found if not _SCHEME.match(target)]


def in_repository(page: str, target: str) -> str:
    """Return the path in the repository to which a link leads.

    Args:
        page (`str`): Path of the file with the link, such as `docs/scoring.md`.
        target (`str`): The link, such as `../CONTRIBUTING.md#set-up`.

    Raises:
        ValueError: If the link leads out of the repository.
    """
    path = target.partition("#")[0]
    if not path:
        return page
    found = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
    if found.startswith(("../", "/")) or found == "..":
        raise ValueError(f"{page}: the link {target} leads out of the repository")
    return found


def on_site(path: str) -> str:
    """Return the address on the site, as a source file of it, for a path in the repository.

    Markdown, pictures, data and notebooks keep their paths, apart from `docs/`. Other files and folders become pages
    that show them.
    """
    if path == FRONT_PAGE:
        return "index.md"
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    if path.endswith(_AS_THEY_ARE):
        return path
    return f"{SOURCES}{path}.md"


def of_repository(address: str) -> str:
    """Return the path in the repository of an address on the site."""
    if address == "index.md":
        return FRONT_PAGE
    if address.startswith(SOURCES):
        return address.removeprefix(SOURCES).removesuffix(".md")
    return address if (ROOT / address).is_file() and not (ROOT / DOCS / address).is_file() else DOCS + address


def for_site(text: str, address: str, titles: Mapping[str, str] | None = None) -> str:
    """Return a Markdown text with the links that work on the site.

    Args:
        text (`str`): The text, with links that work in the repository.
        address (`str`): Address of its page on the site.
        titles (`Mapping[str, str]`, *optional*): Titles of pages by their addresses. A link that is named by its file,
            such as `[docs/hub.md](docs/hub.md)`, is named by the title instead.

    Raises:
        ValueError: If a link leads out of the repository.
    """
    page, folder = of_repository(address), posixpath.dirname(address)

    def rewritten(target: str) -> str:
        if _SCHEME.match(target) or target.startswith("#"):
            return target
        _, mark, anchor = target.partition("#")
        to = on_site(in_repository(page, target))
        return posixpath.relpath(to, folder or ".") + mark + anchor

    def change(match: re.Match) -> str:
        before, target, after = match.group(1, 2, 3) if match[1] else match.group(4, 5, 6)
        return before + rewritten(target) + after

    def named(match: re.Match) -> str:
        title = (titles or {}).get(on_site(in_repository(page, match[2])))
        return f"[*{title}*]({match[2]})" if title and match[2].partition("#")[0].endswith(match[1]) else match[0]

    return outside_code(text, lambda prose: _LINK.sub(change, _NAMED_BY_FILE.sub(named, prose)))
