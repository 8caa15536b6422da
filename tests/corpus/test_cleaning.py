import pytest

from adversarial_mlm.corpus import CleanedSequence, CleaningCounts, clean_sequence


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
    assert (counts + CleaningCounts(records_read=1)).records_read == 11
    assert counts.as_dict()["unknown_residues"] == 2
    summary = counts.summary()
    assert "\n" not in summary and "10 records read, 7 kept" in summary and "1 dropped as too short" in summary
    assert CleaningCounts(records_read=1000, records_kept=1000).summary() == "1,000 records read, 1,000 kept"
