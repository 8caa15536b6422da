import numpy as np
import pytest

from adversarial_mlm.data import CleanedSequence, CleaningCounts, CorpusError, clean_sequence
from adversarial_mlm.data.cleaning import check_sequences, clean_rows, is_missing, nucleotide_share, sequence_text
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
        (" 1 mk\n 61 VL ", CleanedSequence("MKVL", lower_case=True, whitespace=True, numbers=True)),
        ("MK 60VL120 ", CleanedSequence("MKVL", whitespace=True, numbers=True)),
        ("M1K V", CleanedSequence("M?KV", whitespace=True, unknown=1)),
        ("['M', 'k']", CleanedSequence("MK", lower_case=True)),
        ('["M","K"]', CleanedSequence("MK")),
        ("['M' 'K'\n 'V']", CleanedSequence("MKV")),
        ("('M', '-', 'K')", CleanedSequence("MK", gaps=True)),
        ("[M, K]", CleanedSequence("MK")),
        ("['MKV']", CleanedSequence("MKV")),
        ("b'MKV'", CleanedSequence("MKV")),
        (' "MKV"\n', CleanedSequence("MKV")),
        ("['M' 'K' ... 'V']", CleanedSequence("?" * 17, unknown=17)),
        ("[]", CleanedSequence("")),
        ("M,K", CleanedSequence("???", unknown=3)),
        ("M(ox)K", CleanedSequence("??????", unknown=6)),
        ('"MKV', CleanedSequence("????", unknown=4)),
        ("Myoglobin; MKV", CleanedSequence("?" * 14, unknown=14)),
    ],
)
def test_clean_sequence_table(text, expected):
    assert clean_sequence(text) == expected


MISSING = [
    "",
    " ",
    "NA",
    "nan",
    "NaN",
    "None",
    "none",
    "NONE",
    "NULL",
    "null",
    "N/A",
    "n/a",
    "<NA>",
    "#N/A",
    "#VALUE!",
]
MISSING += ["NaT", "-nan", "\\N", " NA\n", "#N/A N/A", "(null)"]


@pytest.mark.parametrize("text", MISSING)
def test_a_missing_value_is_an_empty_sequence(text):
    assert is_missing(text) and clean_sequence(text) == CleanedSequence("")
    counts, dropped = CleaningCounts(), []
    assert not list(clean_rows([("a", text)], 0, counts, dropped)) and dropped == [(1, "a")]
    assert counts == CleaningCounts(records_read=1, dropped_empty=1)


def test_short_peptides_are_not_missing_values():
    for text in ("NAT", "NAA", "NANA", "MNA", "NU", "N", "-", "."):
        assert not is_missing(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("M K", "M K"),
        (None, ""),
        (float("nan"), ""),
        (np.float32("nan"), ""),
        (b"MKV", "MKV"),
        (["M", "K"], "MK"),
        (("M", "K"), "MK"),
        ([b"M", b"K"], "MK"),
        (np.array(["M", "K"]), "MK"),
        (["MKV"], "MKV"),
        ([], ""),
        (np.str_("MKV"), "MKV"),
    ],
)
def test_a_sequence_of_a_table_as_text(value, text):
    assert sequence_text(value) == text


@pytest.mark.parametrize(
    "value", [17, 1.5, True, {"0": "M"}, ["MKV", "LAA"], ["M", None], [1, 2], np.array([1.0, 2.0])]
)
def test_other_values_are_no_sequence(value):
    with pytest.raises(ValueError, match="^contains .*, but must contain a sequence"):
        sequence_text(value)


@pytest.mark.parametrize("value", [None, 17, float("nan"), b"MKV", ["M"]])
def test_a_sequence_from_python_that_is_not_text_is_refused(value):
    with pytest.raises(CorpusError, match="must be text, but is "):
        clean_sequence(value)
    with pytest.raises(CorpusError, match="sequence 1 is .* must be text"):
        check_sequences(["MKV", value])


def test_one_text_is_not_a_list_of_sequences():
    with pytest.raises(CorpusError, match="put it into a list"):
        check_sequences("MKV")


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
