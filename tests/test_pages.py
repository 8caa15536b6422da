"""Every command and snippet of the pages runs, or says why it is not run and is parsed."""

import dataclasses
import importlib
import shutil

import pytest

from adversarial_mlm.cli.main import COMMANDS
from tests.helpers.pages import Block, blocks, check, pages
from tests.helpers.reader import make_runs, run, write_files

ELSEWHERE = dict.fromkeys(("docs/huggingface.md", "docs/other_libraries.md"), "tests/test_huggingface_page.py")
"""Pages whose snippets another test runs."""

CARD = "PATH-OR-NAME-OF-THIS-MODEL"
BY_DEFAULT = ("README.md", "docs/your_proteins.md")


def to_run(page: str) -> list[Block]:
    if page in ELSEWHERE:
        return []
    is_card = page.startswith("model_cards/")  # the command of a card repeats a whole run
    found = [block for block in blocks(page) if block.reason is None and block.language != "yaml"]
    return [block for block in found if not is_card or block.language == "python"]


@pytest.mark.parametrize("page", pages())
def test_every_command_and_snippet_can_be_parsed(page):
    mistakes = []
    for block in blocks(page):
        try:
            check(block)
        except (Exception, SystemExit) as error:
            mistakes.append(f"{block}: {str(error) or type(error).__name__}")
    assert not mistakes


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_the_examples_of_the_help_can_be_parsed(name):
    examples = importlib.import_module(COMMANDS[name][0]).EXAMPLES
    assert examples and all("adv-mlm" in example or "adversarial_mlm" in example for example in examples)
    for example in examples:
        check(Block(f"adv-mlm {name} --help", 1, "", example + "\n", None))


def test_the_blocks_of_a_page_are_found(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "Text.\n\n    adv-mlm --version  # a command\n\n"
        "<!-- not run: needs\na GPU -->\n\n    adv-mlm train demo \\\n        --seed 1\n\n"
        "```text\noutput\n```\n\n<!-- not run: an example -->\n\n```python\nimport os\n```\n"
        "- item\n    adv-mlm is no block here\n\nLast.\n"
    )
    monkeypatch.setattr("tests.helpers.pages.ROOT", tmp_path)
    found = [(block.line, block.language, block.text, block.reason) for block in blocks("page.md")]
    assert found == [
        (3, "", "adv-mlm --version  # a command\n", None),
        (8, "", "adv-mlm train demo \\\n    --seed 1\n", "needs a GPU"),
        (18, "python", "import os\n", "an example"),
    ]


@pytest.mark.parametrize(
    ("language", "text", "mistake"),
    [
        ("", "adv-mlm trian demo", "no command trian"),
        ("", "adv-mlm train dmeo", "dmeo"),
        ("", "adv-mlm train demo --lerning_rate 1", "lerning_rate"),
        ("", "adv-mlm embed --model M --fasta F", "--out"),
        ("", "accelerate launch --num_processes 2 -m adversarial_mlm train demo --nosier tiny", "nosier"),
        ("", "adv-mlm train demo 'unfinished", "unexpected EOF"),
        ("", "make tset", "tset"),
        ("", "pip install '.[plots]'", "plots"),
        ("", "python -m benchmarks sped", "sped"),
        ("", "Held-out proteins, residues hidden at random:", "fence of `text`"),
        ("bash", "frobnicate --all", "not a known program"),
        ("python", "from adversarial_mlm import embed_protein", "embed_protein"),
        ("python", "print(", "was never closed"),
        ("yaml", "lerning_rate: 1", "lerning_rate"),
        ("rust", "fn main() {}", "nothing checks"),
    ],
)
def test_a_block_that_cannot_run_is_found(language, text, mistake, capsys):
    with pytest.raises((Exception, SystemExit)) as error:
        check(Block("page.md", 1, language, text + "\n", None))
    assert mistake in str(error.value) + capsys.readouterr().err


@pytest.fixture(scope="module")
def readers_folder(tmp_path_factory):
    """A folder with everything that the pages name."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_files(folder)
        make_runs(folder)
    return folder


def _cases() -> list:
    marks = {True: pytest.mark.slow, False: pytest.mark.exhaustive}
    return [pytest.param(page, marks=marks[page in BY_DEFAULT]) for page in pages() if to_run(page)]


@pytest.mark.parametrize("page", _cases())
def test_the_commands_and_snippets_of_a_page_run(page, readers_folder, tmp_path, monkeypatch):
    folder = tmp_path / "reader"
    shutil.copytree(readers_folder, folder, symlinks=True)
    monkeypatch.chdir(folder)
    names: dict = {"__name__": "__main__"}
    for block in to_run(page):
        done = run(dataclasses.replace(block, text=block.text.replace(CARD, "runs/demo")), names)
        assert done, f"{block} has nothing to run"
