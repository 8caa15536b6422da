"""Read the substitutions of a variant, such as `A12G:L30F`, in the notations that tables of mutants use.

A variant that cannot be read has a reason instead. Reasons are phrases that complete "3 records ...", so that they can
be counted: `3 records with a stop (*)`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import shorten

EMPTY = "without a mutation"
STOP = "with a stop (*)"
DELETION = "with a deletion"
INSERTION = "with an insertion, a duplication or an extension"
FRAMESHIFT = "with a frameshift"
NUCLEOTIDES = "in a notation of nucleotides"
UNKNOWN = "in a notation that is not known"
REPEATED = "with two substitutions at one position"
OUTSIDE = "with a position outside of the wild type"
OTHER_RESIDUE = "with another old residue than the wild type"

_NAMES = "Ala Arg Asn Asp Cys Gln Glu Gly His Ile Leu Lys Met Phe Pro Ser Thr Trp Tyr Val Sec Pyl Asx Glx Xle Xaa"
_CODES = dict(zip(_NAMES.split(), "ARNDCQEGHILKMFPSTWYVUOBZJX", strict=True))
_STOPS = ("*", "Ter")
_WILD_TYPE = {"wt", "wildtype", "sy", "syn", "synonymous", "="}

_RESIDUE = "[A-Za-z]{3}|[A-Za-z]"
_SUBSTITUTION = re.compile(rf"({_RESIDUE})(-?[0-9]{{1,9}})({_RESIDUE}|[=*])")
# a hyphen separates only if it is neither a minus sign nor a deletion
_SEPARATOR = re.compile(r"[\s:;,/|&+_]+|(?<=[A-Za-z=*])-(?=(?:[pP]\.)?[A-Za-z]{1,3}-?[0-9])")
_REFERENCE = re.compile(r"([^\s:;,/|&+]+):(?=[pP]\.)")
_NUCLEOTIDES = re.compile(r"(?:^|[\s:;,\[(])[cgmnor]\.")
_TWO_ALLELES = re.compile(r"\][\s;,]*\[|\(;\)")
_BRACKETS = re.compile(r"[\[\](){}'\"]")
_LONGEST = 500  # characters in which a reason is looked for; the time grows with the square
# the order matters: "delins" contains "ins", and a frameshift may name a stop
_OTHERS = (
    (re.compile(r"[0-9].*fs|frameshift"), FRAMESHIFT),
    (re.compile(r"[0-9].*(?:ins|dup|ext)"), INSERTION),
    (re.compile(r"[0-9].*del|del.*[0-9]|[δ∆]|[0-9][-.](?:\W|$)"), DELETION),
    (re.compile(r"\*|[0-9](?:ter|stop)|(?:ter|stop)[0-9]|nonsense"), STOP),
)


class Substitution(NamedTuple):
    """A residue of the wild type, its position (counted from 1), and the residue that takes its place."""

    old: str
    position: int
    new: str

    def __str__(self) -> str:
        return f"{self.old}{self.position}{self.new}"


def parse_mutations(text: str, offset: int = 0) -> list[Substitution] | str:
    """Read the substitutions of a variant.

    Read are `A12G`, `p.A12G`, `Ala12Gly`, `p.(Ala12Gly)` and `A12=`, in any case, also after a reference
    (`NP_000050.2:p.Ala12Gly`) and in brackets. Several are separated by white space, a hyphen or one of `:;,/|&+_`.
    `WT`, `_wt`, `wild type`, `=`, `p.=` and `_sy` are the wild type.

    Args:
        text (`str`): The variant as found in a table.
        offset (`int`, defaults to 0): Number to subtract from every position. A table that counts the first residue of
            the wild type as 24 has the offset 23; one that counts from 0 has the offset -1.

    Returns:
        `list[Substitution]`, empty for the wild type; or `str`: why the variant cannot be read, one of the reasons of
        this module.
    """
    text = _without_reference(text.strip())
    word = re.sub(r"[\s_-]+", "", text).lower()
    if not word:
        return EMPTY
    if _BRACKETS.sub("", word.removeprefix("p.")) in _WILD_TYPE:
        return []
    if _NUCLEOTIDES.search(text):
        return NUCLEOTIDES
    if _TWO_ALLELES.search(text):
        return UNKNOWN
    found: dict[int, Substitution] = {}
    for part in filter(None, _SEPARATOR.split(_BRACKETS.sub("", text))):
        substitution = _parse_one(part, offset)
        if substitution is None:
            beginning = text[:_LONGEST].lower()
            return next((reason for pattern, reason in _OTHERS if pattern.search(beginning)), UNKNOWN)
        if found.setdefault(substitution.position, substitution) != substitution:
            return REPEATED
    return list(found.values()) or UNKNOWN


def _without_reference(text: str) -> str:
    """Remove the name of a protein at the beginning, such as `NP_000050.2:`, unless it is a substitution itself."""
    match = _REFERENCE.match(text)
    if match is None or any(_parse_one(part, 0) for part in _SEPARATOR.split(_BRACKETS.sub("", match[1]))):
        return text
    return text[match.end() :]


def _parse_one(text: str, offset: int) -> Substitution | None:
    match = _SUBSTITUTION.fullmatch(re.sub(r"^[pP]\.", "", text))
    if match is None:
        return None
    old = _one_letter(match[1])
    new = old if match[3] == "=" else _one_letter(match[3])
    return Substitution(old, int(match[2]) - offset, new) if old and new else None


def _one_letter(code: str) -> str | None:
    return code.upper() if len(code) == 1 and code not in _STOPS else _CODES.get(code.title())


def misfit(wild_type: str, substitutions: Iterable[Substitution]) -> tuple[str, str] | None:
    """Check that substitutions are those of a wild type.

    Returns:
        `None` if they are; else the reason ([`OUTSIDE`] or [`OTHER_RESIDUE`]), and what the wild type has instead, as
        the end of a sentence.
    """
    for old, position, _ in substitutions:
        if not 1 <= position <= len(wild_type):
            return OUTSIDE, f"the wild type has {count(len(wild_type), 'residue')}"
        if wild_type[position - 1] != old:
            return OTHER_RESIDUE, f"the wild type has {wild_type[position - 1]} at position {position}"
    return None


def apply_substitutions(wild_type: str, substitutions: Iterable[Substitution]) -> str:
    """Return the sequence of a variant.

    Raises:
        ValueError: If a substitution does not fit the wild type, see [`misfit`].
    """
    substitutions = list(substitutions)
    wrong = misfit(wild_type, substitutions)
    if wrong is not None:
        raise ValueError(f"{shorten(':'.join(map(str, substitutions)))} does not fit: {wrong[1]}")
    sequence = list(wild_type)
    for _, position, new in substitutions:
        sequence[position - 1] = new
    return "".join(sequence)


def likely_offset(wild_type: str, variants: Iterable[Sequence[Substitution]]) -> int | None:
    """Find the offset with which substitutions fit the wild type, to help a user who gave another one.

    Args:
        wild_type (`str`): The protein.
        variants (`Iterable[Sequence[Substitution]]`): Variants, some of which do not fit.

    Returns:
        `int`: what to subtract from the positions so that 90 % of the old residues are those of the wild type; `None`
        if no number or more than one does so, or if there are fewer than 3 positions.
    """
    pairs = {(old, position) for variant in variants for old, position, _ in variant}
    pairs = set(sorted(pairs, key=lambda pair: pair[1])[:1000])
    places: dict[str, list[int]] = {}
    for place, residue in enumerate(wild_type, start=1):
        places.setdefault(residue, []).append(place)
    fits = Counter(position - place for old, position in pairs for place in places.get(old, ()))
    (best, most), (_, next_best) = [*fits.most_common(2), (0, 0), (0, 0)][:2]
    return best if len(pairs) >= 3 and most >= 0.9 * len(pairs) and most > next_best else None
