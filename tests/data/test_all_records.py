import json

import pytest

from adversarial_mlm.data import CorpusError, prepare_corpus
from adversarial_mlm.data.all_records import AllRecords, ProteinRecord, protein_record

FASTA = ">a one\nMKT\nAY\n>b\nmkt*\n>a again\nMKTAY\n>c\n\n>d\nJJ\n>sp|P1|X\nMK-J\n>e\nNA\n"
RECORDS = [
    ("a", "MKTAY", ""),
    ("b", "MKT", ""),
    ("a", "MKTAY", ""),
    ("c", "", "empty sequence"),
    ("d", "", "no known residue"),
    ("P1", "MK?", ""),
    ("e", "", "missing value"),
]


def test_every_record_comes_in_its_order_with_a_reason_if_it_has_no_residues(tmp_path):
    (tmp_path / "a.fasta").write_text(FASTA)
    records = AllRecords(tmp_path / "a.fasta")
    assert list(records) == [ProteinRecord(*record) for record in RECORDS] == list(records)  # twice


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_tables_give_the_same_as_fasta(tmp_path, ending):
    rows = [{"name": "x", "seq": "MKT"}, {"name": "x", "seq": None}, {"name": "y", "seq": "mk t"}]
    path = tmp_path / f"a.{ending}"
    lines = [json.dumps(row) for row in rows] if ending == "jsonl" else ["name,seq", "x,MKT", "x,", "y,mk t"]
    path.write_text("\n".join(lines))
    found = list(AllRecords([path], sequence_column="seq", id_column="name"))
    assert found == [("x", "MKT", ""), ("x", "", "empty sequence"), ("y", "MKT", "")]


def test_a_prepared_folder_gives_its_rows(tmp_path):
    (tmp_path / "a.fasta").write_text(FASTA)
    prepare_corpus([str(tmp_path / "a.fasta")], str(tmp_path / "folder"), min_length=4, workers=1)
    assert [record.id for record in AllRecords(str(tmp_path / "folder"))] == ["a", "a"]


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "a.fasta: the file is empty"),
        (">dna\n" + "ACGT" * 30, "a.fasta: these seem to be nucleotides"),
        ("MKT", "a.fasta: not a FASTA file"),
    ],
)
def test_files_without_proteins_are_refused_at_once(tmp_path, text, words):
    (tmp_path / "a.fasta").write_text(text)
    with pytest.raises(CorpusError, match=words):
        AllRecords(tmp_path / "a.fasta")
    if "dna" in text:
        assert len(list(AllRecords(tmp_path / "a.fasta", allow_nucleotides=True))) == 1


def test_a_sequence_that_is_not_text_is_refused():
    with pytest.raises(CorpusError, match="a sequence must be text"):
        protein_record("a", None)
