"""Notations of mutants. `make fuzz` draws more of the random ones, see `tests/helpers/fuzzing.py`."""

import re

import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from adversarial_mlm.inference import mutations
from adversarial_mlm.inference.mutations import (
    DELETION,
    EMPTY,
    FRAMESHIFT,
    INSERTION,
    NUCLEOTIDES,
    OTHER_RESIDUE,
    OUTSIDE,
    REPEATED,
    STOP,
    UNKNOWN,
    Substitution,
    apply_substitutions,
    likely_offset,
    misfit,
    parse_mutations,
)
from tests.helpers.exhaustive import exhaustive
from tests.helpers.fuzzing import SEED, fuzz_settings

WILD_TYPE = "MKTAYIAKQRQISFVKSHFSRQLEERLG"
NAMES = dict(zip(mutations._CODES.values(), mutations._CODES, strict=True))


def parsed(text, offset=0):
    found = parse_mutations(text, offset)
    return found if isinstance(found, str) else [str(one) for one in found]


@pytest.mark.parametrize(
    "text",
    ["WT", "wt", "_wt", "wildtype", "Wild-Type", "wild type", "WILD_TYPE", "=", "p.=", "p.(=)", "_sy", "(WT)", " wt "],
)
def test_the_wild_type_has_no_substitution(text):
    assert parse_mutations(text) == []


@pytest.mark.parametrize(
    "text",
    [
        *("A4W", "a4w", " A4W ", "A04W", "p.A4W", "p.(A4W)", "(A4W)", "[A4W]", "['A4W']", "A4W;", "A4W:A4W"),
        *("Ala4Trp", "ala4trp", "ALA4TRP", "p.Ala4Trp", "P.Ala4Trp", "p.(Ala4Trp)", "p.[Ala4Trp]", "Ala4W", "A4Trp"),
        *("NP_000050.2:p.Ala4Trp", "refseq:p.A4W", "ENSP00000.1:p.(Ala4Trp)"),
    ],
)
def test_one_substitution_is_read_in_every_notation(text):
    assert parse_mutations(text) == [Substitution("A", 4, "W")]


@pytest.mark.parametrize("separator", [*":;,/|&+_ -\t\n", ", ", "; ", " + ", "__", " & ", ":p."])
def test_several_substitutions_are_read_with_every_separator(separator):
    assert parsed(separator.join(["A4W", "Q9R", "M1K"])) == ["A4W", "Q9R", "M1K"]


def test_a_substitution_is_no_reference_of_the_next_one():
    assert parsed("p.A4W:p.Q9R") == parsed("A4W:p.Q9R") == parsed("NP_1.2:p.A4W:p.Q9R") == ["A4W", "Q9R"]
    assert parsed("A4W_Q9R:p.M1K") == parsed("A4W;Q9R:p.M1K") == ["A4W", "Q9R", "M1K"]


def test_several_substitutions_are_read_in_brackets():
    assert parsed("NP_1.2:p.[Ala4Trp;Gln9Arg]") == parsed("['A4W', 'Q9R']") == parsed("A4W/Gln9Arg") == ["A4W", "Q9R"]


@pytest.mark.parametrize("text", ["R10=", "R10R", "Arg10=", "p.Arg10=", "p.(Arg10=)", "arg10arg"])
def test_a_synonymous_change_keeps_the_old_residue(text):
    assert parse_mutations(text) == [Substitution("R", 10, "R")]
    assert apply_substitutions(WILD_TYPE, parse_mutations(text)) == WILD_TYPE


@pytest.mark.parametrize(
    ("text", "offset", "found"),
    [
        ("A27W", 23, ["A4W"]),
        ("A3W", -1, ["A4W"]),
        ("S-2A:K3R", 0, ["S-2A", "K3R"]),
        ("A4W-S-2A", -3, ["A7W", "S1A"]),
    ],
)
def test_the_offset_is_subtracted_from_positions_which_may_be_negative(text, offset, found):
    assert parsed(text, offset) == found


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *((text, EMPTY) for text in ("", "  ", "-", "_")),
        *((text, STOP) for text in ("R10*", "R10Ter", "p.Arg10Ter", "r10stop", "*29Gln", "Ter29Gln", "A4W:R10*")),
        *(
            (text, DELETION)
            for text in ("R10del", "p.Lys23_Val25del", "K23-V25del", "10del", "delR10", "R10-", "R10.")
        ),
        *((text, DELETION) for text in ("\u0394R10", "R10\u2206", "A4W:R10del")),
        *(
            (text, INSERTION)
            for text in ("K2_T3insQS", "p.Lys2_Thr3insGlnSer", "R10dup", "R10delinsAG", "*29Glnext*17")
        ),
        *((text, FRAMESHIFT) for text in ("R10fs", "p.Arg10Glyfs*5", "Arg10ProfsTer23", "frameshift")),
        *((text, NUCLEOTIDES) for text in ("c.34G>T", "NM_000059.3:c.34G>T", "g.12A>C", "m.8993T>G", "n.[1A>C]")),
        *((text, REPEATED) for text in ("A4W:A4C", "A4A:A4W")),
        *(
            (text, UNKNOWN)
            for text in ("foo", "A", "12", "A12", "12G", "Foo1Ala", "NA", "p.?", "p.0", "p.Met1?", ":::")
        ),
        *((text, UNKNOWN) for text in ("EGFR:L858R", "A:K12G", "KA12G", "A12G/S", "A12>G", "A4W and Q9R", "WT:A4W")),
        *((text, UNKNOWN) for text in ("p.[Met1Ala];[Lys2Arg]", "p.[Met1Ala(;)Lys2Arg]", "external control")),
        *((text, UNKNOWN) for text in ("A" + "9" * 5000 + "G", "A\u0663G", "\u212a12G", "\u017f1A", "\ud800")),
    ],
)
def test_what_is_no_substitution_has_a_reason(text, reason):
    assert parse_mutations(text) == reason


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("A5W", OTHER_RESIDUE, "the wild type has Y at position 5"),
        ("A4W:K9R", OTHER_RESIDUE, "the wild type has Q at position 9"),
        ("A40W", OUTSIDE, "the wild type has 28 residues"),
        ("M0K", OUTSIDE, "the wild type has 28 residues"),
        exhaustive("M-1K", OUTSIDE, "the wild type has 28 residues"),
        exhaustive("X4W", OTHER_RESIDUE, "the wild type has A at position 4"),
    ],
)
def test_substitutions_of_another_wild_type_do_not_fit(text, reason, detail):
    found = parse_mutations(text)
    assert misfit(WILD_TYPE, found) == (reason, detail)
    with pytest.raises(ValueError, match=f"'{text}' does not fit: {detail}"):
        apply_substitutions(WILD_TYPE, found)


def test_substitutions_are_applied():
    assert apply_substitutions(WILD_TYPE, parse_mutations("m1w G28p")) == "W" + WILD_TYPE[1:-1] + "P"


def test_the_offset_of_a_table_is_found():
    for offset in (-1, 23, 1000):
        table = [[Substitution(old, place + offset, "W")] for place, old in enumerate(WILD_TYPE, start=1)]
        assert likely_offset(WILD_TYPE, table) == offset
        assert likely_offset(WILD_TYPE, table + [[Substitution("W", 7, "A")]]) == offset
    assert likely_offset(WILD_TYPE, table[:2]) is None, "too few"
    assert likely_offset("AAAAAA", [[Substitution("A", place, "W")] for place in (7, 8, 9)]) is None, "several fit"
    assert likely_offset(WILD_TYPE, [[Substitution("W", place, "A")] for place in range(20)]) is None
    assert likely_offset(WILD_TYPE, []) is None


RESIDUES = st.sampled_from("ACDEFGHIKLMNPQRSTVWYUOBZJX")
VARIANTS = st.lists(
    st.builds(Substitution, RESIDUES, st.integers(-99, 99_999), RESIDUES),
    max_size=6,
    unique_by=lambda one: one.position,
)


@st.composite
def written(draw, variant):
    """A variant in one of the notations of tables."""
    separator = draw(st.sampled_from([*":;,/|&+_ -", ", ", " + "]))
    # Python's own lists of texts would quote each, which is a notation as well
    around = draw(st.sampled_from(["{}", "({})", "[{}]", " {} ", "p.{}", "p.({})", "p.[{}]", "NP_1.2:p.{}", "['{}']"]))
    kind = draw(st.sampled_from(["one", "three", "mixed"]))
    cases = draw(st.sampled_from([str, str.lower, str.upper]))
    offset = draw(st.integers(-500, 500))

    def code(residue):
        three = kind == "three" or (kind == "mixed" and draw(st.booleans()))
        return cases(NAMES[residue] if three else residue)

    def part(old, position, new):
        return f"{code(old)}{position + offset}{'=' if new == old and draw(st.booleans()) else code(new)}"

    parts = [part(*one) for one in variant]
    if "p." not in around and draw(st.booleans()):
        parts = [f"p.{part}" for part in parts]
    return around.format(separator.join(parts) or draw(st.sampled_from(["WT", "=", "wild type"]))), offset


def test_every_variant_is_read_as_it_was_written_in_every_notation():
    @seed(SEED)
    @fuzz_settings(100)
    @given(VARIANTS.flatmap(lambda variant: st.tuples(st.just(variant), written(variant))))
    def run(drawn):
        variant, (text, offset) = drawn
        assert parse_mutations(text, offset) == variant, text

    run()


PIECES = ["A12G", "Met1", "p.", "c.", "del", "ins", "fs", "*", "=", "-", "_", ":", ";", "[", "]", "(", ")", "WT", " "]
PIECES += ["Ter", "ext", "\n", "\0", "\u0394", "\u0130", "\ud800", "9" * 40, "'", '"', "NP_1.2:", "NA", "10", "x"]
TEXTS = st.text(max_size=12) | st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
REASONS = {value for name, value in vars(mutations).items() if re.fullmatch("[A-Z]+(_[A-Z]+)?", name)}


def test_every_text_is_read_or_has_a_reason():
    @seed(SEED)
    @fuzz_settings(50)
    @given(TEXTS | st.tuples(TEXTS, st.integers(1, 1000)).map(lambda pair: pair[0] * pair[1]))
    def run(text):
        found = parse_mutations(text)
        if isinstance(found, str):
            assert found in REASONS
            return
        for old, position, new in found:
            assert old in NAMES and new in NAMES and isinstance(position, int)
        assert len({one.position for one in found}) == len(found)
        assert parse_mutations(":".join(map(str, found)) or "WT") == found
        assert misfit(WILD_TYPE, found) is not None or len(apply_substitutions(WILD_TYPE, found)) == len(WILD_TYPE)

    run()
