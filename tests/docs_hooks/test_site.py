"""The site is built without the network, has no dead link, and loads nothing from elsewhere."""

import json
import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("material", reason="the extra docs is not installed")


@pytest.fixture(scope="module")
def site(repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=repository,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


@pytest.mark.exhaustive
def test_pages_load_nothing_from_elsewhere(site):
    loaded = re.compile(
        r"<(?:script|img|iframe)\b[^>]*\bsrc=\"(https?:)?//|<link\b(?=[^>]*stylesheet)[^>]*href=\"(?:https?:)?//"
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    assert not [page.name for page in pages if loaded.search(page.read_text(encoding="utf-8"))]


@pytest.mark.exhaustive
def test_the_search_finds_a_page_and_an_option(site):
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    documents = json.loads(index.partition("=")[2].strip().rstrip(";"))["docs"]
    assert any(
        "holdout_families" in document["text"] and "options.html" in document["location"] for document in documents
    )
    assert not any(document["location"].startswith("source/") for document in documents)
