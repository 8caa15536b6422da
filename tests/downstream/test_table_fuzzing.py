"""Random values and tables through the readers of tasks. `make fuzz` draws more, see `tests/helpers/fuzzing.py`."""

import csv
import json
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from adversarial_mlm.data.cleaning import is_missing
from adversarial_mlm.downstream.labels import (
    read_class,
    read_mask,
    read_number,
    read_residue_classes,
    read_sequence,
    read_text,
    read_whole_number,
    read_words,
)
from adversarial_mlm.downstream.tasks import load_own_task, own_task
from adversarial_mlm.utils.errors import CorpusError
from tests.helpers.fuzzing import SEED, fuzz_settings

MISSING = ["", " ", "NA", "nan", "NaN", "None", "null", "N/A", "#N/A"]
SCALARS = st.one_of(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.decimals()
    | st.text(max_size=8)
    | st.binary(max_size=4),
    st.sampled_from(
        [*MISSING, "-100", -100, "0,5", "1_0", "[1]", "[", "[1 0]", "(1, 0)", "9" * 5000, "\ud800", "a b"]
    ),
    st.builds(np.float32, st.floats(width=32)) | st.builds(np.int64, st.integers(-9, 9)) | st.builds(np.bool_),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=3), inner, max_size=2)
        | st.lists(inner, max_size=4).map(str)
        | st.lists(st.floats(width=32) | st.integers(-3, 3), max_size=5).map(np.array)
    ),
    max_leaves=8,
)


def test_every_value_is_read_or_refused_in_one_sentence():
    @seed(SEED)
    @fuzz_settings(60)
    @given(VALUES, st.integers(0, 6))
    def run(value, residues):
        readers = {
            read_number: float,
            read_class: str,
            lambda item: read_residue_classes(item, residues): list,
            read_mask: np.ndarray,
            read_sequence: str,
            read_text: str,
            read_whole_number: int,
            read_words: str,
        }
        for read, kind in readers.items():
            try:
                found = read(value)
            except ValueError as error:
                assert str(error).startswith("contains "), error
                str(error).encode()
                continue
            assert found is None or type(found) is kind
        try:
            classes = read_residue_classes(value, residues) or []
            name = read_class(value)
        except ValueError:
            return
        for found in (name, *classes):
            assert found is None or not (is_missing(found) or found == "-100")

    run()


LETTERS = "ACDEFGHIKLMNPQRSTVWY"
SEQUENCES = st.text(LETTERS, min_size=3, max_size=9)
ODD_LABELS = st.sampled_from([*MISSING, "-100", "-100.0"])
LABELS = {
    "regression": st.integers(-9, 9).map(str) | st.floats(-9, 9).map(str),
    "classification": st.sampled_from(["0", "1", "0.0", " 1 ", "2", "2."]),
}
SPELLINGS = [
    "".join,
    " ".join,
    ",".join,
    json.dumps,
    lambda labels: str(labels),
    lambda labels: "[" + " ".join(labels) + "]",
    lambda labels: "[" + ", ".join(labels) + "]",
]


@st.composite
def tables(draw, kind):
    """A table as texts, with its rows that have a label in the plainest spelling."""
    rows, plain = [], []
    for index in range(draw(st.integers(12, 20))):
        # distinct and with both classes, so that every split can be made
        sequence = "M" + LETTERS[index] + draw(SEQUENCES)
        missing = draw(st.integers(0, 5)) == 0
        if kind == "token_classification":
            labels = [draw(st.sampled_from("HEC")) for _ in sequence]
            text, label = draw(st.sampled_from(SPELLINGS))(labels), "".join(labels)
        else:
            text = label = draw(LABELS[kind])
        odd = ODD_LABELS if kind == "classification" else st.sampled_from(MISSING)
        written = draw(st.sampled_from([sequence, sequence.lower(), " ".join(sequence), str(list(sequence))]))
        rows.append({"id": f"p{index}", "sequence": written, "label": draw(odd) if missing else text})
        if not missing:
            plain.append({"id": f"p{index}", "sequence": sequence, "label": label})
    return rows, plain


def write(path, rows):
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(
                file, ["id", "sequence", "label"], delimiter="\t" if path.suffix == ".tsv" else ","
            )
            writer.writeheader()
            writer.writerows(rows)
    return path


def outcome(task, path):
    try:
        return load_own_task(task, path)
    except CorpusError as error:
        assert "\n" not in str(error)
        return str(error)


@pytest.mark.parametrize("kind", ["regression", "classification", "token_classification"])
def test_spelling_and_format_change_nothing_and_missing_labels_are_counted(tmp_path, kind):
    task, number = own_task(kind, "label"), iter(range(1 << 62))

    @seed(SEED)
    @fuzz_settings(8)
    @given(tables(kind), st.sampled_from([".csv", ".tsv", ".json"]))
    def run(drawn, ending):
        rows, plain = drawn
        folder = tmp_path / str(next(number))
        folder.mkdir()
        found = outcome(task, write(folder / f"a{ending}", rows))
        wanted = outcome(task, write(folder / "b.csv", plain)) if plain else "no record has a label"
        if isinstance(found, str) or isinstance(wanted, str):  # such as too few sequences, or one class
            assert type(found) is type(wanted)
            return
        assert found.facts["fingerprints"] == wanted.facts["fingerprints"] and found.classes == wanted.classes
        assert sum(found.facts["rows"].values()) == len(plain)
        left_out = len(rows) - len(plain)
        assert found.facts["left_out"] == ({"train": {"without a label": left_out}} if left_out else {})

    run()


def test_decimals_are_the_numbers_that_they_write():
    @seed(SEED)
    @fuzz_settings(30)
    @given(st.decimals(-1000, 1000, allow_nan=False, places=4))
    def run(number):
        assert read_number(number) == read_number(str(number)) == float(number)
        whole = Decimal(int(number))
        name = str(int(whole)) if whole != -100 else None
        assert read_class(whole) == read_class(str(whole)) == read_class(float(whole)) == name

    run()
