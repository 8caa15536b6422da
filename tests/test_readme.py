"""What README and the pages of docs/ promise: options, files and functions that exist, links that lead somewhere."""

import importlib
import re

import pytest

from adversarial_mlm.cli.command_parser import build_parser
from adversarial_mlm.cli.main import COMMANDS
from adversarial_mlm.downstream.arguments import OPTIONS as EVALUATE_OPTIONS
from adversarial_mlm.downstream.definitions import TASKS
from adversarial_mlm.downstream.results import PAPER
from adversarial_mlm.recipes.recipe import OPTIONS as TRAIN_OPTIONS
from adversarial_mlm.reports.summary import summary
from benchmarks.gpu import command as gpu_benchmark
from docs_hooks.links import in_repository, targets
from docs_hooks.sources import definitions
from tests.helpers.pages import pages

READERS_PAGES = [page for page in pages() if not page.startswith("model_cards/")]
OF_OTHER_PROGRAMS = {
    *("multi_gpu", "cpu", "num_processes", "num_machines", "machine_rank", "main_process_ip", "config_file"),
    *("help", "version", "list", "exclude", "index", "local", "no", "wheel", "signal", "requeue"),
}


@pytest.fixture
def read(repository):
    def page(name: str) -> str:
        path = repository / name if name == "README.md" else repository / "docs" / name
        return path.read_text(encoding="utf-8")

    return page


@pytest.fixture(scope="module")
def known_options() -> set[str]:
    """The options of all commands."""
    known = set(TRAIN_OPTIONS.fields) | set(EVALUATE_OPTIONS.fields)
    for module, _ in COMMANDS.values():
        actions = build_parser(importlib.import_module(module), "adv-mlm")._actions
        known |= {text.removeprefix("--") for action in actions for text in action.option_strings}
    return known | {text.removeprefix("--") for text in gpu_benchmark.build_parser()._option_string_actions}


@pytest.mark.parametrize("page", READERS_PAGES)
def test_every_option_that_a_page_names_exists(page, repository, known_options):
    text = (repository / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w-])--([a-z][a-z_0-9]*)", text))
    assert not named - known_options - OF_OTHER_PROGRAMS


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


@pytest.mark.parametrize("page", [*pages(), "CHANGELOG.md", "benchmarks/RESULTS.md"])
def test_links_lead_somewhere(page, repository):
    broken = []
    for target in targets((repository / page).read_text(encoding="utf-8")):
        found, anchor = repository / in_repository(page, target), target.partition("#")[2]
        names: set[str] = set()
        if found.exists() and anchor:
            text = found.read_text(encoding="utf-8")
            names = set(definitions(text)) if found.suffix == ".py" else anchors_of(text)
        if not found.exists() or (anchor and anchor not in names):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", READERS_PAGES)
def test_files_that_a_page_names_exist(page, repository):
    path = re.compile(r"`((?:examples|tests|benchmarks|docs|adversarial_mlm|model_cards)/[\w./*-]*)`")
    named = path.findall((repository / page).read_text(encoding="utf-8"))
    assert not [name for name in named if not list(repository.glob(name.rstrip("/")))]


def test_the_page_of_the_paper_has_its_tables(read):
    page = read("paper.md")
    for task in TASKS.values():
        sizes = [task.table_1[split] for split in ("train", "valid", task.headline)]
        assert " / ".join(f"{size:,}" for size in sizes) in page, task.name
        random, adversarial = PAPER[task.name, task.target, task.headline]
        assert f"| {random} | {adversarial} | `{task.name}` |" in page


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
