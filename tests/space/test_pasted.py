import random

import pytest

from adversarial_mlm.space.pasted import EXAMPLES, read_positions, read_protein, write_positions
from adversarial_mlm.utils.errors import CorpusError

PROTEIN = "MKTAYIAKQRQISFVKSHFSRQLEERLG"


@pytest.mark.parametrize(
    "text",
    [
        PROTEIN,
        f"  {PROTEIN.lower()}\n",
        f">sp|P1|ONE one protein\n{PROTEIN[:10]}\n{PROTEIN[10:]}\n",
        f"  1 {PROTEIN[:10]} {PROTEIN[10:20]}\n 21 {PROTEIN[20:]}*",
        f'"{PROTEIN}"',
    ],
)
def test_a_protein_is_read_however_it_was_pasted(text):
    assert read_protein(text) == PROTEIN


def test_unknown_characters_stay_if_most_are_amino_acids():
    assert read_protein(PROTEIN + "J1") == PROTEIN + "??"


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "There is no protein yet: paste one"),
        (" \n\t", "There is no protein yet: paste one"),
        (">only a header", "The text has no sequence"),
        ("NA", "The text has no sequence"),
        ("ACGTTGCAACGTNNACGTAA", "This looks like DNA or RNA"),
        (">x\nacguugcaacgu\nacguugcaacgu", "This looks like DNA or RNA"),
        ("123456", "'123456' is no protein in one-letter code, such as MKTAYIAKQR: none of its 6 characters"),
        ("12 34 56", "The text has no sequence"),
        ("M1234", "only 1 of its 5 characters"),
        ("<script>alert(1)</script>", "is no protein in one-letter code"),
        (f">a\n{PROTEIN}\n>b\n{PROTEIN}", "The text has 2 proteins, but the page shows one"),
        (PROTEIN[:20] * 2000, "The protein has 40,000 residues, but the page takes at most 2,000"),
        ("M" * 1_000_001, "The text has 1,000,001 characters, but the page takes at most 2,000"),
    ],
)
def test_anything_else_is_refused_in_one_sentence(text, sentence):
    with pytest.raises(CorpusError) as caught:
        read_protein(text)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_a_short_peptide_of_such_letters_is_no_dna():
    assert read_protein("GAGAGTC") == "GAGAGTC"


def test_the_longest_protein_of_the_page_is_read():
    assert len(read_protein(PROTEIN[:20] * 100)) == 2000


def test_the_examples_are_proteins_of_the_demo(proteins):
    assert len(EXAMPLES) == 3 and {example.sequence for example in EXAMPLES} <= set(proteins)
    assert all(read_protein(example.sequence) == example.sequence for example in EXAMPLES)


@pytest.mark.parametrize(
    "text, positions",
    [
        ("", []),
        ("3", [2]),
        ("3, 10-12", [2, 9, 10, 11]),
        ("12 3;3 - 4", [2, 3, 11]),
        ("1-2,2-3", [0, 1, 2]),
        ("28", [27]),
    ],
)
def test_positions_are_numbers_and_ranges(text, positions):
    assert read_positions(text, len(PROTEIN)) == positions


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("29", "29 is not in the protein, whose positions are 1 to 28"),
        ("0", "0 is not in the protein"),
        ("5-3", "5-3 is not in the protein"),
        ("M1", "'M1' does not name positions: write numbers and ranges, such as 3, 10-15"),
        ("-3", "'-3' does not name positions"),
        ("3.5", "'3.5' does not name positions"),
    ],
)
def test_other_positions_are_refused_in_one_sentence(text, sentence):
    with pytest.raises(CorpusError, match=sentence):
        read_positions(text, len(PROTEIN))


def test_positions_are_written_as_they_are_read():
    assert write_positions([]) == "" and write_positions([9, 2, 11, 10, 2]) == "3, 10-12"
    generator = random.Random(0)
    for _ in range(50):
        positions = sorted(generator.sample(range(28), generator.randrange(29)))
        assert read_positions(write_positions(positions), 28) == positions
