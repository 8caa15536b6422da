import pytest

from adversarial_mlm.utils.tables import markdown_table, text_table

ROWS = [("a", "1.5", ""), ("a long name", "12", "x|y")]


def test_text_table():
    assert text_table(("name", "n", "note"), ROWS) == (
        "name         n    note\n"
        "-----------  ---  ----\n"
        "a            1.5\n"
        "a long name  12   x|y"
    )  # fmt: skip
    assert text_table(("name", "n"), [("a", "1")], rule=False) == "name  n\na     1"
    assert text_table(("name", "n"), []) == "name  n\n----  -"


def test_markdown_table():
    assert markdown_table(("name", "n", "note"), ROWS) == (
        "| name | n | note |\n"
        "| --- | --- | --- |\n"
        "| a | 1.5 |  |\n"
        "| a long name | 12 | x\\|y |"
    )  # fmt: skip


def test_padded_markdown_table_with_numbers():
    assert markdown_table(("name", "n", "note"), ROWS, padded=True, numbers=True) == (
        "| name        |   n | note |\n"
        "| ----------- | --: | ---: |\n"
        "| a           | 1.5 |      |\n"
        "| a long name |  12 | x\\|y |"
    )  # fmt: skip
    assert markdown_table(("a", "b"), [("1", "2")], padded=True) == "| a   | b   |\n| --- | --- |\n| 1   | 2   |"


def test_a_cell_stays_on_its_line():
    assert markdown_table(("a",), [("one\n two",)]) == "| a |\n| --- |\n| one two |"


@pytest.mark.parametrize("render", [text_table, markdown_table])
def test_a_row_of_another_length_is_refused(render):
    with pytest.raises(ValueError):
        render(("a", "b"), [("1",)])
