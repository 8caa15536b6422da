"""`~` in the options of all commands."""

import argparse
import importlib
import re
import runpy
from pathlib import Path

import pytest

from adversarial_mlm.cli.command_parser import build_parser
from adversarial_mlm.cli.main import COMMANDS
from adversarial_mlm.comparison import compare
from adversarial_mlm.comparison.recipe import ComparisonRecipe, Tasks, read_comparison
from adversarial_mlm.downstream.arguments import OPTIONS as OF_TASKS
from adversarial_mlm.downstream.command_line import parse_arguments
from adversarial_mlm.recipes.data import load_data
from adversarial_mlm.recipes.recipe import OPTIONS as OF_RECIPES
from adversarial_mlm.recipes.recipe import parse_recipe
from adversarial_mlm.utils.errors import CorpusError, RecipeError
from adversarial_mlm.utils.home import expand_home
from adversarial_mlm.utils.options import Source

CALLED_LIKE_A_PATH = re.compile(
    r"(.*_)?(dir|file|path|data|table|checkpoint|recipe|source|proteins|clusters|markdown|json|plot)|"
    r"model|fasta|out|mutants|wild_type|figure|protein|run"
)
NO_PATHS = {"restore_callback_states_from_checkpoint", "wild_type"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return str(tmp_path)


def texts(options) -> list[str]:
    return [
        name
        for name, kind in options.kinds.items()
        if "str" in str(kind) and not options.fields[name].metadata.get("choices")
    ]


@pytest.mark.parametrize("options", [OF_RECIPES, OF_TASKS])
def test_every_option_that_is_a_path_is_expanded_wherever_it_is_said(options, home):
    paths = {name for name in texts(options) if CALLED_LIKE_A_PATH.fullmatch(name)} - NO_PATHS
    assert paths <= options.paths
    for name in options.paths:
        found = options.read({name: "~/x"}, Source("mine.yaml"))[name]
        assert found in (f"{home}/x", [f"{home}/x"]), name
        assert options.read_words([f"--{name}=~/x"])[name] == found
        with pytest.raises(
            RecipeError, match=f"--{name} ~nobody-here/x begins with ~, but there is no user 'nobody-here'"
        ):
            options.read_words([f"--{name}=~nobody-here/x"])
    for name in {"run_name", "hub_model_id", "data_license"} if options is OF_RECIPES else {"target", "wild_type"}:
        assert options.read_words([f"--{name}=~/x"])[name] == "~/x"


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parsers of the commands and scripts whose options are not those of a recipe or an evaluation."""
    modules = {name: importlib.import_module(module) for name, (module, _) in COMMANDS.items()}
    found = {name: build_parser(module, name) for name, module in modules.items() if not hasattr(module, "start")}
    script = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "make_family_cut.py"))
    return {**found, "compare": compare.build_parser(), "make_family_cut": script["build_parser"]()}


def test_so_is_every_argument_of_the_other_commands(home):
    for command, parser in parsers().items():
        paths = [action for action in parser._actions if CALLED_LIKE_A_PATH.fullmatch(action.dest)]
        assert paths, command
        for action in paths:
            assert str(action.type("~/x")) == f"{home}/x", (command, action.dest)
            with pytest.raises((argparse.ArgumentTypeError, RecipeError), match="there is no user 'nobody-here'"):
                action.type("~nobody-here/x")


def test_so_are_the_folders_in_the_file_of_a_comparison(home, tmp_path):
    (tmp_path / "compare.yaml").write_text(
        "corpus: x\noutput_dir: ~/study\nseeds: [0]\ncommon: {train_data: ~/a.fasta}\narms: {a: {options: {}}}\n"
        "budgets: {u: {equal: updates, updates: 1}}\ntasks: {data_dir: ~/tape, of: {stability: {}}}\n"
    )
    recipe = read_comparison("~/compare.yaml")
    assert (recipe.output_dir, recipe.tasks.data_dir) == (f"{home}/study", f"{home}/tape")
    for kind in (ComparisonRecipe, Tasks):
        assert all(
            kind.__dataclass_fields__[name].metadata
            for name in ("output_dir", "data_dir")
            if name in kind.__dataclass_fields__
        )


def test_so_are_a_recipe_itself_its_named_sets_and_the_options_of_an_evaluation(home, tmp_path):
    (tmp_path / "mine.yaml").write_text("train_data: ~/a.fasta\nvalidation_data: near=~/b.fasta\nuse_cpu: true\n")
    (tmp_path / "a.fasta").write_text(">a\nMKVLAAGIVGLC\n")
    recipe = parse_recipe(["~/mine.yaml", "--output_dir=~/run", "--cache_dir=~/cache"])
    assert recipe.output_dir == f"{home}/run"
    with pytest.raises(CorpusError, match=f"{home}/b.fasta: there is no such file"):
        load_data(recipe.data)
    args, _ = parse_arguments(
        ["--mode=baselines", "--task=regression", "--train_file=~/t.csv", "--target=~/y", "--output_dir=~/out"]
    )
    assert (args.train_file, args.target, args.output_dir) == (f"{home}/t.csv", "~/y", f"{home}/out")


def test_only_a_leading_tilde_is_expanded_and_a_file_of_that_name_is_itself(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expand_home("a/~/b") == "a/~/b" and expand_home("./~") == "./~" and expand_home("~") == home
    assert expand_home("$HOME/x") == "$HOME/x" and expand_home("facebook/esm2") == "facebook/esm2"
    (tmp_path / "~kept-here").mkdir()
    assert expand_home("~kept-here") == "~kept-here"
