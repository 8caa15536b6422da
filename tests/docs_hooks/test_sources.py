"""Pages that show the code, one heading for each function."""

from docs_hooks.sources import definitions, page

CODE = '''"""Doc."""

import os

LIMIT: int = 3


@cached
def first(x):
    return x


class Second:
    size = 1

    def go(self):
        return os.sep
'''


def test_functions_and_methods_are_found_with_their_decorators():
    assert definitions(CODE) == {"first": 8, "Second": 13, "Second.go": 16}


def test_a_page_shows_every_line_once_under_the_name_of_its_function(tmp_path):
    (tmp_path / "code.py").write_text(CODE)
    text = page(tmp_path, "code.py")
    assert "# code.py\n" in text and "## first { #first }" in text and "### Second.go { #Second.go }" in text
    assert '````python linenums="8"\n@cached\ndef first(x):' in text
    shown = [
        line
        for line in text.splitlines()
        if line.strip() and not line.startswith(("#", "````", "---", "search", "  ex"))
    ]
    assert shown == [line for line in CODE.splitlines() if line.strip()]


def test_other_files_are_shown_whole_and_folders_as_lists(tmp_path):
    (tmp_path / "a.yaml").write_text("x: 1\n")
    assert '````yaml linenums="1"\nx: 1\n````' in page(tmp_path, "a.yaml")
    assert "- `a.yaml`" in page(tmp_path, ".")
