from decimal import Decimal

import numpy as np
import pytest

from adversarial_mlm.downstream.labels import (
    read_class,
    read_mask,
    read_number,
    read_residue_classes,
    read_whole_number,
    read_words,
    sorted_classes,
)

MISSING = [None, "", " ", "NA", "nan", "NaN", "None", "null", "N/A", "#N/A", float("nan"), Decimal("sNaN"), [None]]


@pytest.mark.parametrize("value", [*MISSING, np.float32("nan"), b"NA", ["NA"], np.array([np.nan])])
def test_a_missing_value_is_no_number_no_class_and_no_label(value):
    assert read_number(value) is None and read_class(value) is None
    if not isinstance(value, list | np.ndarray):
        assert read_residue_classes(value, 5) is None and read_mask(value) is None
        assert read_residue_classes(["H", value, "C"], 3) == ["H", None, "C"]
        assert read_whole_number(value) is None and read_words(value) == ""


@pytest.mark.parametrize(
    "value",
    [0.5, "0.5", " 5e-1 ", b"0.5", Decimal("0.50"), np.float16(0.5), np.float64(0.5), [0.5], np.array([0.5]), "[0.5]"],
)
def test_a_number_is_read_in_every_type(value):
    assert read_number(value) == 0.5 and type(read_number(value)) is float


def test_whole_numbers_and_a_minus_sign_of_typography_are_numbers():
    assert [read_number(value) for value in (3, "3", Decimal(3), np.int8(3))] == [3.0] * 4
    assert read_number("\N{MINUS SIGN}1.5") == -1.5


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("0,5", "contains '0,5', but must contain a number with a decimal point, such as 0.5"),
        ("1,234.5", "with a decimal point, such as 0.5, and without commas"),
        ("1/2", "contains '1/2', but must contain a number"),
        ("1_2", "contains '1_2', but must contain a number"),
        ("5 %", "contains '5 %', but must contain a number"),
        (">100", "contains '>100', but must contain a number"),
        (True, "contains 'True', but must contain one number"),
        (np.True_, "contains 'True', but must contain one number"),
        (Decimal("Infinity"), "contains inf, but must contain a finite number"),
        (Decimal("1e60"), "contains 1e\\+60, but must contain a finite number of 32 bits"),
        (10**400, "must contain a number"),
        ("[0.5, 1]", "contains a list of 2 values"),
    ],
)
def test_what_is_no_number_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        read_number(value)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("0", [0, 0.0, "0", "0.0", " 0 ", "0.", "-0", Decimal("0.00"), np.int64(0), np.float32(0), b"0", [0], "[0]"]),
        ("12", [12, 12.0, "12", "+12", "12.000", Decimal(12)]),
        ("-3", [-3, -3.0, "-3", "-3.0"]),
        ("True", [True, "true", "TRUE", np.True_]),
        ("007", ["007"]),
        ("1.5", ["1.5"]),
        ("[NiFe] hydrogenase", ["[NiFe] hydrogenase "]),
        (None, [-100, "-100", -100.0, "-100.0", np.int16(-100)]),
    ],
)
def test_labels_that_mean_the_same_are_one_class(name, values):
    assert [read_class(value) for value in values] == [name] * len(values)
    assert read_residue_classes([value for value in values if not isinstance(value, list)], 20)[0] == name


@pytest.mark.parametrize("value", [0.5, Decimal("0.5"), float("inf"), Decimal("Infinity"), {"a": 1}, [[1]]])
def test_what_is_no_class_is_refused(value):
    with pytest.raises(ValueError, match=r"contains .*, but must contain the name or number of a class"):
        read_class(value)


def test_classes_of_equal_number_have_one_order():
    assert sorted_classes({"7", "07", "10", "007"}) == ["007", "07", "7", "10"]


@pytest.mark.parametrize(
    "value",
    [
        "HECC",
        "H E C C",
        "HE CC\n",
        "H,E,C,C",
        "H; E; C; C",
        ["H", "E", "C", "C "],
        np.array(["H", "E", "C", "C"]),
        np.array([b"H", b"E", b"C", b"C"]),
        '["H", "E", "C", "C"]',
        "['H', 'E', 'C', 'C']",
        "('H', 'E', 'C', 'C')",
        "['H' 'E'\n 'C' 'C']",
        "[H, E, C, C]",
    ],
)
def test_letters_of_residues_are_read_in_every_spelling(value):
    assert read_residue_classes(value, 4) == ["H", "E", "C", "C"]


@pytest.mark.parametrize(
    "value",
    [
        [1, -100, 0, 12],
        ["1", "-100", "0", "12"],
        [1.0, None, 0.0, 12.0],
        np.array([1, np.nan, 0, 12]),
        np.array([1, None, 0.0, np.int8(12)], dtype=object),
        [Decimal(1), Decimal(-100), Decimal("0.0"), Decimal(12)],
        "[1, -100, 0, 12]",
        "[1.0, NaN, 0.0, 12.0]",
        "[1, None, 0, 12]",
        "[1, , 0, 12]",
        "[1, nan, 0, 12,]",
        "[ 1.  nan  0. 12.]",
        "1 NA 0 12",
        "1;NA;0;12",
        '["1", "", "0.0", "12"]',
    ],
)
def test_numbers_of_residues_are_read_in_every_spelling(value):
    assert read_residue_classes(value, 4) == ["1", None, "0", "12"]


def test_the_number_of_residues_tells_names_from_blocks_of_letters():
    assert read_residue_classes("HH EC", 2) == ["HH", "EC"]
    assert read_residue_classes("HH EC", 4) == ["H", "H", "E", "C"]
    assert read_residue_classes("signal peptide, membrane, -100", 3) == ["signal peptide", "membrane", None]
    assert read_residue_classes("5',3'", 2) == ["5'", "3'"]


def test_names_that_mark_missing_labels_may_be_given():
    assert read_residue_classes([-1, "-1", -1.0, 1], 4, missing=("-1",)) == [None, None, None, "1"]
    assert read_residue_classes([-1, 1], 2) == ["-1", "1"]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "contains '7', but must contain a list"),
        ("[1, 2", "contains '.1, 2', which is not a list"),
        ("[[1, 2], [3, 4]]", "contains '.1, 2.', but must contain the name or number of a class"),
        ("[[1 2]\n [3 4]]", "which is not a list"),
        ("[0 1 ... 1 0]", "a list that was shortened with dots"),
        ("f(0, 1)", "which is not a list"),
        ("{0, 1}", "which is not a list"),
        ([{"a": 1}], "must contain the name or number of a class"),
    ],
)
def test_what_is_no_list_of_labels_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        read_residue_classes(value, 4)


@pytest.mark.parametrize(
    "value",
    [
        "101",
        "1 0 1",
        "10 1",
        "1,0,1",
        "1.0 0.0 1.0",
        "true false TRUE",
        [1, 0, 1],
        [1.0, 0.0, 1.0],
        [True, False, True],
        ["1", "0", "1.0"],
        [Decimal(1), Decimal("0.0"), Decimal(1)],
        np.array([1, 0, 1], np.float32),
        np.array([True, False, True]),
        "[1, 0, 1]",
        "[1.0,0.0,1.0]",
        "[true, false, true]",
        "[True, False, True]",
        "[ True False  True]",
        "[1 0 1]",
        "[1. 0. 1.]",
        "(1, 0, 1)",
        '["1", "0", "1"]',
        b"101",
    ],
)
def test_a_mask_is_read_in_every_spelling(value):
    mask = read_mask(value)
    assert mask.dtype == bool and mask.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("1x1", "'1x1'"),
        ([1, 2, 1], "'2'"),
        ([1, None], "'None'"),
        ("[1, 0.5]", "'0.5'"),
        ([1, -1], "'-1'"),
        ("[1, NaN]", "'nan'"),
        ([[1, 0]], "'.1, 0.'"),
    ],
)
def test_what_is_no_mask_is_refused_with_the_value(value, wrong):
    with pytest.raises(ValueError, match=f"contains {wrong}, but must contain only ones and zeros"):
        read_mask(value)


def test_a_mask_that_became_a_number_is_refused():
    with pytest.raises(ValueError, match="contains '110', but must contain a list of ones and zeros"):
        read_mask(110)


@pytest.mark.parametrize(("value", "text"), [("A1G", "A1G"), (["A1G", "M2K"], "A1G M2K"), (b"A1G", "A1G"), (5, "5")])
def test_words_may_be_a_list(value, text):
    assert read_words(value) == text


FOUR, TWO = ["0", None, "1", "2"], ["0", "1"]


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ('c(0, NA, 1, "2")', FOUR),
        ("c(0L, -100L, 1L, 2L)", FOUR),
        ("array([0, nan, 1, 2])", FOUR),
        ("array([0., nan, 1., 2.], dtype=float32)", FOUR),
        ("np.array([0, 1], dtype=int64)", TWO),
        ("tensor([0, 1])", TWO),
        ("array([0 1])", TWO),
        ("list(0, 1)", TWO),
        ("(0, 1)", TWO),
        ("(0. 1.)", TWO),
    ],
)
def test_a_list_as_r_numpy_or_pytorch_writes_it_has_no_class_with_a_bracket(text, classes):
    assert read_residue_classes(text, len(classes)) == classes


def test_a_mask_may_be_written_by_r():
    assert read_mask("c(TRUE, FALSE, TRUE)").tolist() == [True, False, True]


def test_the_last_residue_may_have_no_label_either():
    assert read_residue_classes("0;;1;", 4) == ["0", None, "1", None]
    assert read_residue_classes("0;1;", 2) == ["0", "1"]  # a separator at the end


def test_brackets_may_be_letters():
    assert read_residue_classes("((..))", 6) == read_residue_classes("( ( . . ) )", 6) == list("((..))")
