"""Weights of residues from tables."""

import json

import datasets
import numpy as np
import pytest

from adversarial_mlm.data.residue_weights import (
    ResidueWeights,
    as_weights,
    check_residue_weights,
    read_residue_weights,
)
from adversarial_mlm.utils.errors import CorpusError

LISTS = {"P1": [0.5, 1.0, 0.0], "P2": [2.0, 3.0]}


@pytest.fixture
def write(tmp_path):
    """The same weights in a file of each format."""

    def write(ending: str, lists=LISTS) -> str:
        path = tmp_path / f"w{ending}"
        if ending == ".parquet":
            datasets.Dataset.from_dict({"id": list(lists), "weights": list(lists.values())}).to_parquet(str(path))
        elif ending == ".jsonl":
            path.write_text("".join(json.dumps({"id": k, "weights": v}) + "\n" for k, v in lists.items()))
        elif ending == ".csv":
            path.write_text("id,weights\n" + "".join(f"{k},{' '.join(map(str, v))}\n" for k, v in lists.items()))
        else:
            path.write_text("id\tweights\n" + "".join(f"{k}\t{json.dumps(v)}\n" for k, v in lists.items()))
        return str(path)

    return write


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".csv", ".tsv"])
def test_all_formats_give_the_same_weights(write, ending):
    weights = read_residue_weights([write(ending)])
    assert len(weights) == 2 and weights.get("P3") is None
    assert weights.get("P1").tolist() == [0.5, 1.0, 0.0] and weights.get("P2").dtype == np.float32


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"id": "P1", "weights": [1, -0.5]}',
            "line 1: the list of 'P1' contains -0.5 at residue 2, but .* 0 or more",
        ),
        ('{"id": "P1", "weights": [1, NaN]}', "the list of 'P1' contains nan at residue 2"),
        ('{"id": "P1", "weights": [1, null]}', "the list of 'P1' contains nan at residue 2"),
        ('{"id": "P1", "weights": ["H", 1]}', "which is not a list of numbers"),
        ('{"id": "P1", "weights": [[1, 2]]}', "must have one number for each residue"),
        ('{"id": "P1", "weights": []}', "must have one number for each residue"),
        ('{"id": "P1", "weights": [0, 0]}', "must contain a weight above 0"),
        ('{"id": "P1", "conservation": [1]}', 'there is no column "weights" .mask_weights_column.'),
        (
            '{"id": "P1", "weights": [1]}\n{"id": "P1", "weights": [2]}',
            "line 2: 'P1' occurs twice, with different weights",
        ),
        ("", "there are no weights in it"),
    ],
)
def test_weights_that_cannot_be_used_are_named_with_file_and_record(tmp_path, content, message):
    path = tmp_path / "w.jsonl"
    path.write_text(content + "\n")
    with pytest.raises(CorpusError, match=message) as refusal:
        read_residue_weights([str(path)])
    assert str(path) in str(refusal.value)


def test_a_fasta_file_has_no_weights(tmp_path):
    (tmp_path / "w.fasta").write_text(">P1\nMKV\n")
    with pytest.raises(CorpusError, match="mask_weights must be a table .*, not FASTA"):
        read_residue_weights([str(tmp_path / "w.fasta")])


def test_numbers_may_be_a_text():
    assert as_weights("0.1; 2,3\t4").tolist() == pytest.approx([0.1, 2, 3, 4])
    with pytest.raises(CorpusError, match="contains .*HHEC.*, which is not a list of numbers"):
        as_weights("HHEC")


def test_proteins_without_weights_or_with_other_lengths_are_counted():
    proteins = {"id": ["P1", "P2", "P3", "P4"], "length": [3, 5, 7, 7]}
    corpus, weights = datasets.Dataset.from_dict(proteins), ResidueWeights(LISTS, "w.csv")
    with pytest.raises(CorpusError, match="w.csv: there are no weights for 2 of 4 training proteins, such as 'P3'"):
        check_residue_weights(corpus, weights)
    with pytest.raises(CorpusError, match="1 of 2 training proteins do not .*: 'P2' has 2 weights and 5 residues"):
        check_residue_weights(corpus.select(range(2)), weights)
    check_residue_weights(corpus.select(range(1)), weights)
