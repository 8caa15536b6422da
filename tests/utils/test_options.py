from dataclasses import dataclass, field
from typing import Literal

import pytest

from adversarial_mlm.utils.options import Source, read_dataclass, read_value
from tests.helpers.options_for_tests import FILE, Colour, Sizes, refusal


@dataclass
class Inner:
    name: str
    sizes: Sizes = field(default_factory=Sizes)


@dataclass
class Outer:
    path: str
    first: Inner
    others: dict[str, Inner] = field(default_factory=dict)
    listed: list[Inner] = field(default_factory=list)
    counts: list[int] | None = None
    verbatim: dict = field(default_factory=dict)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        *((int, value, 7) for value in (7, "7", " 7 ")),
        *((float, value, 1e-4) for value in (1e-4, "1e-4", "0.0001")),
        (float, 2, 2.0),
        (float, "inf", float("inf")),
        *((bool, value, True) for value in (True, 1, "yes", "True", "1")),
        *((bool, value, False) for value in (False, 0, "No", "false", "f")),
        (str, 3, "3"),
        (str, "1e-4", "1e-4"),
        (str, "", ""),
        (int | None, None, None),
        (float | None, "3e-1", 0.3),
        (list[str], "a", ["a"]),
        (list[str], 0.5, ["0.5"]),
        (list[float], ["1e-1", 2], [0.1, 2.0]),
        (list[int] | None, [], []),
        (dict[str, float], {"a": "1e-1", 2: 3}, {"a": 0.1, "2": 3.0}),
        (dict | str | None, {"a": "1e-1"}, {"a": "1e-1"}),
        (dict | str | None, '{"a": 1}', {"a": 1}),
        (dict | str | None, "a.json", "a.json"),
        (None | str | list[str], ["a", "b"], ["a", "b"]),
        (None | str | list[str], "a", "a"),
        (str | bool, "yes", True),
        (str | bool, "all", "all"),
        (Colour, "blue", Colour.BLUE),
        (Colour | str, "blue", Colour.BLUE),
        (Colour | str, Colour.BLUE, Colour.BLUE),
        (Colour | str, False, Colour.NO),
        (list[Colour], ["red"], [Colour.RED]),
        (Literal["a", "b"], "b", "b"),
        (str | None | Literal[False], "x", "x"),
    ],
)
def test_values_become_what_the_annotation_says(kind, value, expected):
    found = read_value(kind, value, FILE, "name")
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        (int, "many", "must be a whole number, got 'many'"),
        (int, 3.0, "must be a whole number, got 3.0"),
        (int, True, "must be a whole number, got True"),
        (float, "nan", "must be a number, got 'nan'"),
        (float, False, "must be a number, got False"),
        (float, 10**400, "must be a number, got 1000"),
        (bool, "perhaps", "must be true or false, got 'perhaps'"),
        (str, ["a"], "must be a text, got ['a']"),
        (str, None, "has no value"),
        (list[int], 3, "must be a list, got 3"),
        (list[int], ["a"], "[0] must be a whole number, got 'a'"),
        (dict, "a", "must be a mapping of names to values, got 'a'"),
        (dict | None, "{'a': 1}", "must be a mapping in JSON"),
        (Colour, "rde", "must be one of red, blue, no, got 'rde'; did you mean 'red'?"),
        (Literal["a", "b"], "c", "must be one of a, b, got 'c'"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(kind, value, reason):
    assert refusal(read_value, kind, value, FILE, "name").startswith(f"x.yaml: name{'' if '[0]' in reason else ' '}")
    assert reason in refusal(read_value, kind, value, FILE, "name")
    assert refusal(read_value, kind, value, Source(), "name").startswith("--name")


def test_nested_mappings_become_nested_dataclasses():
    content = {
        "first": {"name": 1},
        "others": {"a": {"name": "b", "sizes": {"width": "5", "share": "1e-2"}}},
        "listed": [{"name": "c"}],
        "counts": None,
        "verbatim": {"x": "1e-3"},
    }
    found = read_dataclass(Outer, content, FILE, path="x.yaml")
    assert found == Outer(
        "x.yaml", Inner("1"), {"a": Inner("b", Sizes(5, 0.01))}, [Inner("c")], verbatim={"x": "1e-3"}
    )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([], "x.yaml: the file must be a mapping of names to values"),
        ({}, "x.yaml: first is missing"),
        ({"first": {}}, "x.yaml: first.name is missing"),
        ({"frist": {}}, "x.yaml: unknown option 'frist'; did you mean 'first'?"),
        ({"first": {"name": "a", "szes": {}}}, "x.yaml: unknown option 'first.szes'; did you mean 'sizes'?"),
        (
            {"first": {"name": "a"}, "others": {"b": {"name": "c", "sizes": {"widht": 3}}}},
            "x.yaml: unknown option 'others.b.sizes.widht'; did you mean 'width'?",
        ),
        ({"first": {"name": "a", "qqq": 1}}, "x.yaml: unknown option 'first.qqq'; there are name, sizes"),
        ({"first": {"name": "a"}, "path": "y"}, "x.yaml: unknown option 'path'; there are first,"),
        ({"first": {"name": "a", "sizes": {"width": 0}}}, "x.yaml: first.sizes: width must be at least 1, got 0"),
        ({"first": {"name": "a"}, "listed": [{"name": []}]}, "x.yaml: listed[0].name must be a text, got []"),
        ({"first": {"name": "a"}, "counts": 3}, "x.yaml: counts must be a list, got 3"),
        ({"first": "a"}, "x.yaml: first must be a mapping of names to values, got 'a'"),
    ],
)
def test_a_mistake_in_a_nested_file_names_file_and_key(content, sentence):
    assert refusal(read_dataclass, Outer, content, FILE, path="x.yaml").startswith(sentence)
