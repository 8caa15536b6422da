"""Recipes that go by name."""

import itertools
import re

import pytest

from adversarial_mlm.comparison.recipe import read_comparison
from adversarial_mlm.recipes.recipe import OPTIONS
from adversarial_mlm.recipes.shipped import FOLDER, PROTEINS, read_recipe, shipped_recipes, with_instructions
from adversarial_mlm.recipes.yaml_file import read_yaml
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.options import Source

SINGLE = {"demo", "evotune", "family_study", "oracle_tuned", "pretrain", "quick", "tape-38m"}
COMPARISONS = {
    *("compare_broad", "compare_falling", "compare_proteins", "compare_small", "compare_stability", "compare_tuned"),
}


def test_the_recipes_of_the_package_have_a_sentence_each():
    assert shipped_recipes(comparison=False).keys() == SINGLE
    assert shipped_recipes(comparison=True).keys() == COMPARISONS
    for sentence in [*shipped_recipes(False).values(), *shipped_recipes(True).values()]:
        assert 20 < len(sentence) < 150 and "\n" not in sentence


@pytest.mark.parametrize("name", sorted(SINGLE))
def test_every_recipe_has_known_options_and_its_folder_is_below_the_current_one(name):
    options = OPTIONS.read(read_recipe(name), Source(name))
    assert options["output_dir"] == f"runs/{name}"


@pytest.mark.parametrize("name", sorted(COMPARISONS))
def test_comparisons_go_by_name_too(name):
    assert read_comparison(name).output_dir == f"runs/{name}"


def test_the_demos_proteins_are_found_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    demo = read_recipe("demo")
    assert demo["train_data"] == [str(PROTEINS / "demo.fasta")] and (PROTEINS / "demo.fasta").is_file()
    assert demo["cluster_table"] == str(PROTEINS / "demo_clusters.tsv")
    other = tmp_path / "examples" / "data"
    other.mkdir(parents=True)
    (other / "demo.fasta").write_text(">mine\nMKTAYIAKQR\n")  # another file of this name is not the demo's
    assert read_recipe("demo")["train_data"] == [str(PROTEINS / "demo.fasta")]


def test_in_a_clone_the_recipe_by_name_is_the_one_by_path(repository, monkeypatch):
    monkeypatch.chdir(repository)
    assert read_recipe("demo") == read_yaml("examples/recipes/demo.yaml")
    assert (repository / "examples" / "recipes").resolve() == FOLDER.resolve()


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("deno", "there is no file 'deno', and the package has no recipe of this name; there are demo, .*'demo'\\?"),
        ("mine", "there are demo, evotune, family_study, oracle_tuned, pretrain, quick, tape-38m$"),
        ("compare_small", "it with `adv-mlm compare compare_small`"),
        ("demo.yaml", "cannot read the recipe demo.yaml: No such file"),
        ("./demo", "cannot read the recipe ./demo: No such file"),
        ("~/demo", "cannot read the recipe ~/demo: No such file"),
        (
            "a.fasta.gz",
            "a.fasta.gz is a file of proteins and not a recipe: write `adv-mlm train quick --train_data a.f",
        ),
        ("a.csv", "a.csv is a file of proteins and not a recipe"),
        ("", "there is no file '', and the package has no recipe of this name"),
    ],
)
def test_a_word_that_is_no_recipe_is_refused(word, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=sentence):
        read_recipe(word)


def test_a_file_comes_before_a_name_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert read_recipe("demo")["encoder"] == "tiny"
    (tmp_path / "demo").rmdir()
    (tmp_path / "demo").write_text("seed: 3")
    assert read_recipe("demo") == {"seed": 3}


def head_of(path) -> str:
    """The comment at the top of a recipe."""
    return "\n".join(itertools.takewhile(lambda line: line.startswith("#"), path.read_text().split("\n")))


def heads_of(path) -> str:
    """That comment, with those of the recipes that it refers to."""
    return "\n".join(map(head_of, {path, *(FOLDER / name for name in re.findall(r"\w+\.yaml", head_of(path)))}))


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_if_a_file_of_a_recipe_is_missing_the_message_says_where_the_recipe_tells_how_to_make_it(
    path, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    content = read_recipe(path.stem, comparison=path.stem in COMPARISONS)
    of_data = {**content, **content.get("common", {})}
    for file in filter(None, (*of_data.get("train_data", []), of_data.get("cluster_table"))):
        if str(PROTEINS) in file:
            continue
        message = f"{file}: there is no such file."
        where = f"there is no such file. The comment at the top of {path} says how to make the files of this recipe"
        assert with_instructions(message, path.stem).endswith(where)
        assert with_instructions(message, str(path)).endswith(where)
        assert file.rpartition("/")[0] in heads_of(path)
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
        assert with_instructions(message, path.stem) == message  # it is there


@pytest.mark.parametrize("word", ["family_study", "mine.yaml", "nothing", "--train_data"])
def test_other_messages_and_recipes_get_no_such_sentence(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("train_data: [runs/cut/proteins.fasta]")
    message = "runs/family_study cannot be written" if word == "family_study" else "runs/cut/proteins.fasta is missing"
    assert with_instructions(message, word) == message
