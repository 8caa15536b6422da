import pytest

from adversarial_mlm.data import CleanedSequence, CleaningCounts, clean_sequence
from adversarial_mlm.data.cleaning import clean_rows, nucleotide_share
from adversarial_mlm.models.tokenization_protein import AMBIGUOUS_RESIDUES


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", CleanedSequence("")),
        ("ABCDEFGHIKLMNOPQRSTUVWXYZ", CleanedSequence("ABCDEFGHIKLMNOPQRSTUVWXYZ")),
        ("mkV", CleanedSequence("MKV", lower_case=True)),
        ("MKV*", CleanedSequence("MKV", stops=True)),
        ("M-K.V", CleanedSequence("MKV", gaps=True)),
        (" M\tK\u00a0V\r\n", CleanedSequence("MKV", whitespace=True)),
        ("MJK", CleanedSequence("M?K", unknown=1)),
        ("mjk", CleanedSequence("M?K", lower_case=True, unknown=1)),
        ("M7?\u00e9\u017fK", CleanedSequence("M????K", unknown=4)),  # a long s is not an S
        ("<mask>", CleanedSequence("?MASK?", lower_case=True, unknown=2)),
        ("*-. ", CleanedSequence("", stops=True, gaps=True, whitespace=True)),
        ("a *-J", CleanedSequence("A?", True, True, True, True, 1)),
    ],
)
def test_clean_sequence_table(text, expected):
    assert clean_sequence(text) == expected


def test_counts_add_and_are_readable(counts):
    assert (counts + CleaningCounts(records_read=1)).records_read == 12
    assert counts.as_dict()["unknown_residues"] == 14
    summary = counts.summary()
    assert "\n" not in summary and "11 records read, 7 kept" in summary and "1 dropped as too short" in summary
    assert CleaningCounts(records_read=1000, records_kept=1000).summary() == "1,000 records read, 1,000 kept"


@pytest.mark.parametrize("text", ["????????????", "123123123123", "JJJJJJJJJJJJ", "?-?*? 1"])
def test_a_sequence_of_unknown_residues_alone_is_dropped_and_counted(text):
    counts, dropped = CleaningCounts(), []
    assert not list(clean_rows([("a", text)], 0, counts, dropped))
    assert counts.records_read == counts.dropped_no_residues == 1 and dropped == [(1, "a")]


@pytest.mark.parametrize("letter", AMBIGUOUS_RESIDUES)
def test_rare_and_ambiguous_residues_are_residues(letter):
    assert list(clean_rows([("a", letter * 12)], 10, counts := CleaningCounts(), [])) == [("a", letter * 12, 12)]
    assert counts.records_kept == 1


def test_the_share_of_nucleotides_is_that_of_the_letters():
    assert nucleotide_share([("a", "acgtunACGTUN--..*12")], 100) == 1.0
    assert nucleotide_share([("a", "ACGT"), ("b", "MKVL")], 100) == 0.5
    assert nucleotide_share([("a", "ACGTMKVL")], 4) == 1.0 and nucleotide_share([("a", "???"), ("b", "")], 100) == 0.0
