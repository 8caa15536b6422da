"""What the README and the pages of docs/ promise: examples that run, options that exist, links that lead somewhere."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys

import pytest

from adversarial_mlm.cli.main import COMMANDS
from adversarial_mlm.reports.summary import summary
from tests.helpers.snippets import python_blocks

ROOT_PAGES = ("README.md", "CONTRIBUTING.md")
PAGES = (
    *("README.md", "pretraining.md", "algorithm.md", "results.md", "other_models.md", "distributed.md", "design.md"),
    *(
        "huggingface.md",
        "paper.md",
        "health.md",
        "run_files.md",
        "decisions.md",
        "small_encoder.md",
        "presets.md",
        "hub.md",
    ),
)
OF_LAUNCHERS = {
    "help", "list", "multi_gpu", "cpu", "num_processes", "num_machines", "machine_rank", "main_process_ip",
    "config_file", "exclude",
}  # fmt: skip


@pytest.fixture
def read(repository):
    def page(name: str) -> str:
        return (repository / ("" if name in ROOT_PAGES else "docs") / name).read_text(encoding="utf-8")

    return page


@pytest.fixture
def run_example(repository, tmp_path):
    (tmp_path / "examples").symlink_to(repository / "examples")

    def run(code: str) -> None:
        (tmp_path / "example.py").write_text(code, encoding="utf-8")  # workers import the script
        result = subprocess.run(
            [sys.executable, "example.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(repository)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr[-2000:]

    return run


@pytest.mark.slow
def test_the_python_examples_run_one_after_the_other(read, run_example, tmp_path):
    blocks = python_blocks(read("pretraining.md"))
    assert len(blocks) == 2
    for code in blocks:
        run_example(code)
    assert (tmp_path / "my-model" / "noiser" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_examples_for_a_saved_run_work(read, run_example, tmp_path, save_encoder, make_noiser):
    (tmp_path / "runs").mkdir()
    os.rename(save_encoder("bert"), tmp_path / "runs" / "demo")
    make_noiser(view="blind").save_pretrained(tmp_path / "runs" / "demo" / "noiser")
    (use,) = python_blocks(read("README.md"))
    run_example(use)
    (frozen,) = [block for block in python_blocks(read("other_models.md")) if "frozen=True" in block]
    run_example(frozen)
    assert (tmp_path / "runs" / "stock" / "checkpoint-4" / "model.safetensors").exists()


def test_every_option_that_the_pages_name_exists(read):
    from adversarial_mlm.downstream.arguments import TapeArguments
    from adversarial_mlm.downstream.finetune import FinetuneSettings
    from adversarial_mlm.recipes.recipe import OPTIONS

    of_tasks = {field.name for part in (TapeArguments, FinetuneSettings) for field in dataclasses.fields(part)}
    known = set(OPTIONS.fields) | of_tasks | OF_LAUNCHERS
    named = {name: set(re.findall(r"--([a-z][a-z_0-9]*)", read(name))) for name in PAGES}
    assert not {name: options - known for name, options in named.items() if options - known}
    assert len(named["README.md"]) > 8


def test_the_readme_is_short(read):
    lines = read("README.md").splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120


def test_the_readme_shows_the_block_that_a_run_prints(read):
    shown = re.search(r"(?m)^Held-out proteins.*?\nPASSED.*?$", read("README.md"), flags=re.DOTALL)[0]
    figures = {}
    for name in ("families", "members"):
        of_set = {"loss": 2.7, "perplexity": 15.0, "accuracy": 0.1, "background_loss": 2.9, "mask_gap": 0.05}
        of_set |= {"adversarial_loss": 2.8, "random_loss": 2.6, "gap": 0.2}
        of_set |= {f"enrichment_{letter}": 1.2 for letter in "CYNDT"}
        figures |= {f"eval_{name}_{key}": value for key, value in of_set.items()}
    log = [{"residues_per_second": 9000.0, "seconds_noiser": 1.0, "seconds_encoder": 3.0}]
    printed = summary(figures, log, "runs/demo", "members", None, None, "Report      runs/demo/report.html")

    def shape(text: str) -> list[str]:
        lines = [line.strip() for line in text.strip().splitlines()]
        return [re.sub(r"[A-Z] (?=#×)", "", re.sub(r"\d[\d,.]*", "#", line)) for line in lines]

    assert shape(shown) == shape(printed)


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"(?m)^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere(repository):
    pages = [repository / name for name in (*ROOT_PAGES, "examples/data/README.md")]
    pages += (repository / "docs").glob("*.md")
    broken, links = [], 0
    for page in pages:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", target):
                continue
            links += 1
            path, _, anchor = target.partition("#")
            found = page.parent / path if path else page
            if not found.exists():
                broken.append((page.name, target))
            elif anchor and anchor not in anchors_of(found.read_text(encoding="utf-8")):
                broken.append((page.name, target))
    assert not broken and links > 20


def test_files_that_the_pages_name_exist(repository, read):
    path = re.compile(r"`((?:examples|tests|benchmarks|docs|adversarial_mlm|model_cards)/[\w./*-]*)`")
    pages = (*PAGES, "CONTRIBUTING.md", "releasing.md")
    named = {(name, found) for name in pages for found in path.findall(read(name))}
    missing = [(name, found) for name, found in sorted(named) if not list(repository.glob(found.rstrip("/")))]
    assert not missing and len(named) > 8


def test_the_answers_of_the_map_are_in_the_files_that_it_names(repository, read):
    page = read("design.md").split("## Which file answers my question?")[1].split("## Which folder may")[0]
    questions = re.findall(r"(?m)^\| .*\? \| `([\w/]+\.py)` \| (.*) \|$", page)
    objects = [(path, name) for name, path in re.findall(r"(?m)^\| (`\w+`) \| `([\w/]+\.py)` \|", page)]
    assert len(questions) >= 10 and len(objects) >= 5
    missing = []
    for path, names in questions + objects:
        code = (repository / "adversarial_mlm" / path).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            if not re.search(rf"(?m)^\s*(?:(?:def|class) {name}\b|{name}(?:: .*)? = )", code):
                missing.append((path, name))
    assert not missing


def test_the_map_has_a_line_for_every_folder(repository, read):
    folders = {path.parent.name for path in (repository / "adversarial_mlm").glob("*/__init__.py")}
    first_table = read("design.md").split("\n## ")[0]
    assert set(re.findall(r"(?m)^\| `(\w+)/` \|", first_table)) == folders


def test_the_page_of_the_commands_has_a_section_and_a_function_for_each(read):
    page = read("commands.md")
    rows = dict(re.findall(r"(?m)^\| \[`(\w+)`\]\(#\1\) \| .* \| `([\w.]+)` \|$", page))
    assert list(rows) == list(COMMANDS) == re.findall(r"(?m)^## (\w+)$", page)
    for name, function in rows.items():
        module, _, attribute = function.rpartition(".")
        assert callable(getattr(importlib.import_module(module), attribute)), name
        assert f"    adv-mlm {name} " in page.split(f"## {name}\n")[1].split("\n## ")[0], name
