import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adversarial_mlm.utils.option_sets import OptionSet
from adversarial_mlm.utils.options import documented, option
from tests.helpers.options_for_tests import FILE, Colour, Sizes, refusal


@dataclass
class Names:
    title: str = option("untitled", "What it is called.")
    words: list[str] = option([], "All of them.")
    numbers: list[float] = option([0.5], "Some.")
    colour: Colour | str = option("red", "Of it.")
    mode: str = option("fast", "How.", ("fast", "slow"))
    bold: bool = option(True, "Whether.")
    extra_kwargs: dict | str | None = option(None, "For others.")
    config: dict | str | None = option(None, "For others, or a path.")


OPTIONS = OptionSet(Sizes, Names, helps=documented(Sizes))


def test_sources_are_merged_and_the_rest_has_its_default():
    from_file = OPTIONS.read({"title": "a", "width": "4", "words": "b", "share": None, "colour": False}, FILE)
    said = OPTIONS.read_words(["--width", "5", "--no_bold", "--numbers", "1", "2e-1"])
    assert (from_file, said) == (
        {"title": "a", "width": 4, "words": ["b"], "colour": Colour.NO},
        {"width": 5, "bold": False, "numbers": [1.0, 0.2]},
    )
    sizes, names = OPTIONS.build({**from_file, **said})
    assert sizes == Sizes(width=5)
    assert names == Names("a", ["b"], [1.0, 0.2], Colour.NO, "fast", False)


def test_defaults_are_not_shared_between_instances():
    Names().words.append("a")
    assert Names().words == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"widht": 3}, "x.yaml: unknown option 'widht'; did you mean 'width'?"),
        ({7: 3}, "x.yaml: unknown option '7'"),
        ({"width": None}, "x.yaml: width has no value: give one, or remove the line to use the default"),
        ({"numbers": []}, "x.yaml: numbers has no value: give one, or remove the line to use the default"),
        ({"title": ["a", "b"]}, "x.yaml: title must be a text, got ['a', 'b']"),
        ({"title": "a\nb"}, "x.yaml: title contains a line break or another control character"),
        (
            {"words": ["a", "--width"]},
            "x.yaml: words contains '--width', which is an option: put it on a separate line",
        ),
        ({"mode": "flow"}, "x.yaml: mode must be one of fast, slow, got 'flow'; did you mean 'slow'?"),
        ({"extra_kwargs": "a.json"}, "x.yaml: extra_kwargs must be a mapping of names to values, got 'a.json'"),
        ({"extra_kwargs": {"a": {1, 2}}}, "x.yaml: extra_kwargs contains a value that JSON does not support"),
        ({"title": "hf_abcdefghijklmnopqrst\n"}, "x.yaml: title contains a line break"),
        ({"width": "hf_abcdefghijklmnopqrst"}, "x.yaml: width must be a whole number, got 'hf_...'"),
    ],
)
def test_a_mistake_in_a_flat_file_names_file_and_option(content, sentence):
    assert refusal(OPTIONS.read, content, FILE).startswith(sentence)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--widht", "3"], "unknown option 'widht' on the command line; did you mean 'width'?"),
        (["--wid", "3"], "unknown option 'wid' on the command line; did you mean 'width'?"),  # not abbreviated
        (["--width=a"], "--width must be a whole number, got 'a'"),
        (["--width"], "--width: expected one argument"),
        (["--numbers", "1", "b"], "--numbers[1] must be a number, got 'b'"),
        (["--numbers", "1,2"], "--numbers[0] must be a number, got '1,2': separate values by spaces"),
        (["--numbers", "40%"], "--numbers[0] must be a number, got '40%': write 0.4 for 40 %"),
        (["--colour", "bleu"], "--colour must be one of red, blue, no, got 'bleu'; did you mean 'blue'?"),
        (["--extra_kwargs", "{a}"], "--extra_kwargs must be a mapping in JSON"),
        (["--width", "null"], "--width has no value: give one, or leave the option out to use the default"),
        (["--mode=NULL"], "--mode has no value"),
        (["--numbers", "1", "null"], "--numbers[1] has no value"),
        (["stray"], "'stray' on the command line is not an option: write options as --name value"),
    ],
)
def test_a_mistake_on_the_command_line_names_the_option(words, sentence):
    assert refusal(OPTIONS.read_words, words).startswith(sentence)


def test_null_on_the_command_line_is_what_it_is_in_a_file():
    words = "--share null --words Null --extra_kwargs null --config NULL".split()
    assert OPTIONS.read_words(words) == {"share": None, "words": [], "extra_kwargs": None, "config": None}
    assert OPTIONS.read_words(["--words", "nullify", "--config", "none"]) == {"words": ["nullify"], "config": "none"}


def test_numbers_that_yaml_takes_for_texts_are_numbers_inside_lists_and_mappings_too():
    content = {"extra_kwargs": {"a": "1e-5", "b": {"c": ["2E+3", "x1", "-.5", "7"]}, "d": "true", "e": None, 1: "1-2"}}
    plain = {"a": 1e-5, "b": {"c": [2000.0, "x1", -0.5, 7]}, "d": True, "e": None, "1": "1-2"}
    assert OPTIONS.read(content, FILE) == {"extra_kwargs": plain}
    assert OPTIONS.read_words(["--extra_kwargs", '{"a": "1e-5"}']) == {"extra_kwargs": {"a": 1e-5}}
    assert OPTIONS.read({"config": "1e-5.json", "title": "1e-5"}, FILE) == {"config": "1e-5.json", "title": "1e-5"}


VALUES: dict[str, Any] = {
    "width": st.integers(1, 99),
    "share": st.floats(0, 1),
    "title": st.text("abc -=", min_size=1).filter(lambda text: not text.startswith("-")),
    "words": st.lists(st.sampled_from(["a", "b c", "1e-4", "x=y"]), min_size=1),
    "numbers": st.lists(st.floats(0, 1), min_size=1),
    "colour": st.sampled_from(["red", "blue", "no"]),
    "bold": st.booleans(),
}
SOME_OPTIONS = st.fixed_dictionaries({}, optional=VALUES)


def words_of(name: str, value: Any) -> list[str]:
    return [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SOME_OPTIONS, st.randoms(use_true_random=False))
def test_a_command_line_in_any_order_says_what_a_file_says(content, random):
    groups = [words_of(name, value) for name, value in content.items()]
    random.shuffle(groups)
    assert OPTIONS.read_words(sum(groups, [])) == OPTIONS.read(content, FILE)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SOME_OPTIONS)
def test_what_was_read_reads_the_same_again(content):
    parts = OPTIONS.build(OPTIONS.read(content, FILE))
    resolved = {name: value for part in parts for name, value in dataclasses.asdict(part).items()}
    assert OPTIONS.build(OPTIONS.read(resolved, FILE)) == parts


def test_of_an_option_that_is_said_twice_the_last_counts():
    assert OPTIONS.read_words(["--width", "1", "--width=2"]) == {"width": 2}
    assert OPTIONS.read_words(["--no_bold", "--bold"]) == {"bold": True}


def test_a_parser_shows_help_from_fields_and_docstrings_and_leaves_the_fields_alone(capsys):
    before = [(field.name, field.type) for part in (Sizes, Names) for field in dataclasses.fields(part)]
    with pytest.raises(SystemExit) as stop:
        OPTIONS.read_words(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "--width WIDTH Of the thing, in mm or 100 % of it. (default: 3)" in shown
    assert "--colour {red,blue,no} Of it. (default: red)" in shown
    assert [(field.name, field.type) for part in (Sizes, Names) for field in dataclasses.fields(part)] == before


def test_a_field_can_be_kept_from_being_an_option():
    assert "unknown option 'share'" in refusal(OptionSet(Sizes, without=("share",)).read_words, ["--share", "1"])
