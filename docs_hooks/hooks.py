"""Hooks of `mkdocs`: pages for files outside of docs/, links that work on the site, and tables from the code.

docs/ is written for GitHub. The site adds README.md as its front page, the other Markdown files to which pages link,
and a page with the code of each other file to which they link. `<!-- options: NAME -->` in a page stands for the
options of a command.
"""

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parents[1]))  # mkdocs loads this file by its path

from docs_hooks import links, options, sources  # noqa: E402

_LOG = get_plugin_logger("docs_hooks")
_OPTIONS = re.compile(r"<!-- options: (\w+) -->")
_TYPE = re.compile(r"<code>([^<]*`[^<]*)</code>")
_MARKS = re.compile(r"[`*]|\[(?=`)|(?<=`)\]")
_BRACKETS = re.compile(r"\[(<code>[^<]+</code>)\](?!\()")
_ALONE = "---\nhide:\n  - navigation\n---\n\n"  # the front page has no neighbours
_ALWAYS = (links.FRONT_PAGE, "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/RESULTS.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside of docs/ that are in the navigation, or that a page links to."""
    waiting = [links.DOCS + file.src_uri for file in files.documentation_pages()]
    waiting += [
        *_ALWAYS,
        *(path.relative_to(links.ROOT).as_posix() for path in links.ROOT.glob("model_cards/**/*.md")),
    ]
    seen: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        if not path.startswith(links.DOCS):
            _add(files, path, config)
        if path.endswith(".md") and (links.ROOT / path).is_file():
            text = (links.ROOT / path).read_text(encoding="utf-8")
            waiting += [_leads_to(path, target) for target in links.targets(text)]
    return files


def _leads_to(page: str, target: str) -> str:
    try:
        return links.in_repository(page, target)
    except ValueError as error:
        _LOG.warning(str(error))
        return page


def _add(files: Files, path: str, config: MkDocsConfig) -> None:
    address, found = links.on_site(path), links.ROOT / path
    if not found.exists():  # the page that links to it gets a warning of mkdocs
        return
    if address.startswith(links.SOURCES):
        file = File.generated(config, address, content=sources.page(links.ROOT, path))
    elif address != path:
        file = File.generated(config, address, content=_ALONE + found.read_text(encoding="utf-8"))
    else:
        file = File(path, str(links.ROOT), config.site_dir, config.use_directory_urls)
    file.inclusion = InclusionLevel.NOT_IN_NAV  # the navigation may have it, and need not
    files.append(file)


def _titles(nav: list | dict) -> dict[str, str]:
    """The titles in the navigation by the addresses of the pages."""
    found: dict[str, str] = {}
    for title, item in (pair for part in nav for pair in part.items()) if isinstance(nav, list) else nav.items():
        found |= {item: title} if isinstance(item, str) else _titles(item)
    return found


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Take the marks of Markdown out of the types in docstrings, which mkdocstrings shows as they are."""
    if not page.file.src_uri.startswith("api_"):
        return html
    html = _TYPE.sub(lambda found: f"<code>{_MARKS.sub('', found[1])}</code>", html)
    return _BRACKETS.sub(r"\1", html)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write the tables of options, and the links that work on the site."""
    address = page.file.src_uri
    if address.startswith(links.SOURCES):
        return markdown
    markdown = markdown.replace("<details>", '<details markdown="1">')
    if _OPTIONS.search(markdown):  # a search for an option finds its row first
        page.meta["search"] = {"boost": 4}
    markdown = _OPTIONS.sub(lambda found: options.tables(found[1]), markdown)
    try:
        return links.for_site(markdown, address, _titles(config.nav))
    except ValueError as error:
        _LOG.warning(str(error))
        return markdown
