"""What a person writes on the page: a protein, and positions in it. Every mistake becomes one sentence."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from adversarial_mlm.data.cleaning import clean_sequence, nucleotide_share
from adversarial_mlm.data.shards import MAX_NUCLEOTIDES
from adversarial_mlm.reports.drawing import MOST_RESIDUES
from adversarial_mlm.utils.errors import CorpusError, shorten

_LONGEST_TEXT = 1_000_000  # characters; a longer text is refused without reading it
_FEWEST_NUCLEOTIDES = 12  # a shorter text may be a peptide
_POSITION = re.compile(r"([0-9]{1,9})(?:\s*[-–]\s*([0-9]{1,9}))?")


@dataclass(frozen=True)
class Example:
    """A protein to choose on the page: its name, and its sequence."""

    name: str
    sequence: str


EXAMPLES = (
    Example(
        "Acyl carrier protein",
        "MAEVLEKVTKIIVDRLGVEESKVTLEASFKDDLGADSLDVVELVMELEDEFGVEISDDDAANINTVGDAVKYIEENA",
    ),
    Example(
        "Snake toxin",
        "MKTLLLTLVLVTIVCLDLGYTLTCLICPKKYCNQVHTCRNGENLCIKTFYEGNLLGKQFKRGCAATCPEARPREIVECCSRDKCNH",
    ),
    Example(
        "Sticholysin",
        "ALAGTIIAGASLTFQVLDKVLEELGKVSRKIAVGIDNESGGTWTALNAYFRSGTTDVILPEFVPNTKALLYSGRKDTGPVATGAVAAFAYYMSSGNTLGVMFSV"
        "PFDYNWYSNWWDVKIYSGKRRADQGMYEDLYYGNPYRGDNGWHEKNLGYGLRMKGIMTSAGEAKMQIKISR",
    ),
)
"""A0AJR1, C1IC49 and P07845 of UniProtKB/Swiss-Prot, from the demo (licence: recipes/proteins/README.md)."""


def read_protein(text: str) -> str:
    """Return the clean sequence of a protein that was pasted, with or without a FASTA header.

    Raises:
        CorpusError: If there is no protein, or more than one; if it looks like DNA or RNA, has no amino acids, or is
            too long for the page. The message is a sentence for the person who pasted it.
    """
    if not text or not text.strip():
        raise CorpusError("There is no protein yet: paste one in one-letter code, or choose an example.")
    if len(text) > _LONGEST_TEXT:
        raise CorpusError(f"The text has {len(text):,} characters, {_too_long()}")
    lines = text.strip().splitlines()
    headers = sum(line.lstrip().startswith(">") for line in lines)
    if headers > 1:
        raise CorpusError(f"The text has {headers:,} proteins, but the page shows one: paste one of them.")
    sequence_text = "\n".join(line for line in lines if not line.lstrip().startswith(">"))
    cleaned = clean_sequence(sequence_text)
    sequence = cleaned.sequence
    if not sequence:
        raise CorpusError("The text has no sequence: paste a protein in one-letter code, or choose an example.")
    known = len(sequence) - cleaned.unknown
    if 2 * known <= len(sequence):
        raise CorpusError(
            f"{shorten(sequence_text)} is no protein in one-letter code, such as MKTAYIAKQR: "
            f"{'none' if not known else f'only {known:,}'} of its {len(sequence):,} characters can be amino acids."
        )
    if len(sequence) >= _FEWEST_NUCLEOTIDES and nucleotide_share([("", sequence)], len(sequence)) > MAX_NUCLEOTIDES:
        raise CorpusError(
            "This looks like DNA or RNA, because nearly all letters are A, C, G, T, U or N: translate it, and paste "
            "the protein."
        )
    if len(sequence) > MOST_RESIDUES:
        raise CorpusError(f"The protein has {len(sequence):,} residues, {_too_long()}")
    return sequence


def _too_long() -> str:
    return (
        f"but the page takes at most {MOST_RESIDUES:,}: paste a part of it, or use the commands adv-mlm mask and "
        "adv-mlm score, which take any length."
    )


def read_positions(text: str, residues: int) -> list[int]:
    """Return positions that were written as `3, 10-15`, from 0 and in ascending order; none for an empty text.

    Args:
        text (`str`): Numbers and ranges from 1, separated by commas or blanks.
        residues (`int`): Length of the protein.

    Raises:
        CorpusError: If a part of the text is no position of the protein.
    """
    found: set[int] = set()
    for match in _POSITION.finditer(text):
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= last <= residues:
            raise CorpusError(f"{match.group()} is not in the protein, whose positions are 1 to {residues:,}.")
        found.update(range(first - 1, last))
    if _POSITION.sub("", text).strip(" ,;\n\t"):
        raise CorpusError(f"{shorten(text)} does not name positions: write numbers and ranges, such as 3, 10-15.")
    return sorted(found)


def write_positions(positions: Iterable[int]) -> str:
    """Return positions (from 0) as [`read_positions`] reads them, with neighbours as ranges: `3, 10-15`."""
    ranges: list[list[int]] = []
    for position in sorted(set(positions)):
        if ranges and position == ranges[-1][1] + 1:
            ranges[-1][1] = position
        else:
            ranges.append([position, position])
    return ", ".join(f"{first + 1}" if first == last else f"{first + 1}-{last + 1}" for first, last in ranges)
