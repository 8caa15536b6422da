"""Cleaning of sequences, and the counts of what it did."""

import dataclasses
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import CorpusError, shorten

# Part of every cache fingerprint. Raise it when the same input gives other rows or counts.
CLEANING_VERSION = 4

# All capital letters except J, which is no residue in the tokenizer's alphabet.
_RESIDUES = "ABCDEFGHIKLMNOPQRSTUVWXYZ"
_RESIDUE_BYTES = _RESIDUES.encode()
_UNKNOWN = "?"
_NUCLEOTIDES = b"ACGTUNacgtun"
_NOT_A_LETTER = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"))
_NOT_A_RESIDUE = re.compile(f"[^{_RESIDUES}]")
_LOWER_CASE = re.compile("[a-z]")
_WHITESPACE = re.compile(r"\s")
_TO_REMOVE = re.compile(r"[\s*.\-]+")
# A number that white space separates from the residues: of a line or position, as in GenBank.
_NUMBER = re.compile(r"(?<=\s)[0-9]+|[0-9]+(?=\s)")
# A text with these characters is no sequence, and its letters are no residues.
_NOT_IN_SEQUENCES = re.compile(r"""[\[\](){}"',;]""")
_LIST_ITEM = re.compile(r"""'([^']*)'|"([^"]*)"|([^\s,'"]+)""")
# `str.upper` would turn some letters outside ASCII into residues (a long s into S).
_ASCII_UPPER = {ord(letter): letter.upper() for letter in "abcdefghijklmnopqrstuvwxyz"}

# How R, pandas, Excel and SQL write a value that is missing, in lower case.
_MISSING_VALUES = frozenset(
    ("", "na", "nan", "n/a", "n.a.", "none", "null", "<na>", "(null)", "(none)", "\\n")
    + ("#n/a", "#na", "#n/a n/a", "#null!", "#value!", "#ref!", "#name?", "#div/0!", "#num!")
    + ("-nan", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan")
)
_LONGEST_MISSING_VALUE = max(map(len, _MISSING_VALUES))


def is_missing(text: str) -> bool:
    """Whether a text is empty, or how R, pandas, Excel or SQL write a missing value: `NA`, `nan`, `None`, `#N/A`, ...

    Upper and lower case count the same, and so do blanks around the text.
    """
    return text.strip().lower() in _MISSING_VALUES or text.strip() == "NaT"


def sequence_text(value: Any) -> str:
    """Return the text of a sequence as a table holds it.

    Args:
        value: Text, bytes, a list or array of letters, a list of one text; empty if it is `None` or nan.

    Raises:
        ValueError: If it is something else; the message completes the sentence 'column "..." ...'.
    """
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if hasattr(value, "tolist"):  # an array
        return sequence_text(value.tolist())
    items = value if isinstance(value, list | tuple) else [value]
    texts = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in items]
    if not all(isinstance(text, str) for text in texts) or (len(texts) > 1 and any(len(text) > 1 for text in texts)):
        found = shorten(str(value)[:200])
        raise ValueError(f"contains {found}, but must contain a sequence: text, or a list of letters")
    return "".join(texts)


def check_sequences(sequences: Iterable[Any]) -> None:
    """Check that sequences from Python are text.

    Raises:
        [`CorpusError`]: If one is not, or if they are a single text; the message names the index.
    """
    if isinstance(sequences, str):
        raise CorpusError("sequences must be a list of texts, but is one text: put it into a list.")
    for index, sequence in enumerate(sequences):
        if not isinstance(sequence, str):
            raise CorpusError(f"sequence {index:,} is {shorten(str(sequence)[:200])}, but must be text.")


@dataclass
class CleaningCounts:
    """Counts of what cleaning did to a corpus, in records, except for `unknown_residues`.

    Attributes:
        records_read (`int`, defaults to 0): records found in the source.
        records_kept (`int`, defaults to 0): records in the corpus.
        lower_case (`int`, defaults to 0): records in which letters were upper-cased.
        stops_removed (`int`, defaults to 0): records from which `*` was removed.
        gaps_removed (`int`, defaults to 0): records from which `-` or `.` was removed.
        whitespace_removed (`int`, defaults to 0): records with white space inside the sequence (line ends of a FASTA
            file do not count).
        numbers_removed (`int`, defaults to 0): records with numbers of lines or positions.
        unknown_residues (`int`, defaults to 0): *residues* that were replaced by `?`.
        records_with_unknown (`int`, defaults to 0): records with such residues.
        dropped_empty (`int`, defaults to 0): records dropped because the sequence was empty, or a missing value such
            as `NA`.
        dropped_no_residues (`int`, defaults to 0): records dropped because all residues were unknown, or because the
            text is no sequence (it contains brackets, quotation marks, commas or semicolons).
        dropped_too_short (`int`, defaults to 0): records dropped because they had fewer than
            `min_length` residues.
    """

    records_read: int = 0
    records_kept: int = 0
    lower_case: int = 0
    stops_removed: int = 0
    gaps_removed: int = 0
    whitespace_removed: int = 0
    numbers_removed: int = 0
    unknown_residues: int = 0
    records_with_unknown: int = 0
    dropped_empty: int = 0
    dropped_no_residues: int = 0
    dropped_too_short: int = 0

    @property
    def without_residues(self) -> int:
        """Records dropped because they have no sequence, or no known residue."""
        return self.dropped_empty + self.dropped_no_residues

    def add(self, cleaned: "CleanedSequence") -> None:
        """Count what was changed in one sequence."""
        self.lower_case += cleaned.lower_case
        self.stops_removed += cleaned.stops
        self.gaps_removed += cleaned.gaps
        self.whitespace_removed += cleaned.whitespace
        self.numbers_removed += cleaned.numbers
        self.unknown_residues += cleaned.unknown
        self.records_with_unknown += cleaned.unknown > 0

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name, in the order of the attributes."""
        return dataclasses.asdict(self)

    def summary(self) -> str:
        """Return one readable line, without counts that are zero, except records read and kept."""
        text = f"{count(self.records_read, 'record')} read, {self.records_kept:,} kept"
        remarks = [
            (self.dropped_empty, "dropped as empty"),
            (self.dropped_no_residues, "dropped as without residues"),
            (self.dropped_too_short, "dropped as too short"),
            (self.lower_case, "upper-cased"),
            (self.stops_removed, "with stops (*) removed"),
            (self.gaps_removed, "with gaps (- or .) removed"),
            (self.whitespace_removed, "with white space removed"),
            (self.numbers_removed, "with numbers of positions removed"),
            (self.records_with_unknown, f"with unknown residues ({count(self.unknown_residues, 'residue')})"),
        ]
        parts = [f"{number:,} {remark}" for number, remark in remarks if number]
        return f"{text}; {', '.join(parts)}" if parts else text

    def __add__(self, other: "CleaningCounts") -> "CleaningCounts":
        return CleaningCounts(**{name: number + getattr(other, name) for name, number in vars(self).items()})


class CleanedSequence(NamedTuple):
    """A clean sequence, flags for what was changed, and the number of `unknown` residues."""

    sequence: str
    lower_case: bool = False
    stops: bool = False
    gaps: bool = False
    whitespace: bool = False
    unknown: int = 0
    numbers: bool = False


def clean_sequence(text: str) -> CleanedSequence:
    """Clean one protein sequence.

    Letters are upper-cased. White space, `*` (stops), `-` and `.` (gaps) are removed, and so are numbers next to white
    space (of lines or positions). `J` and every other character that is not a capital letter become `?`, which the
    tokenizer reads as its unknown token.

    A missing value such as `NA` gives an empty sequence (see [`is_missing`]). A list of letters as Python writes it
    (`['M', 'K']`) gives these letters. Any other text with brackets, quotation marks, commas or semicolons is no
    sequence, and each of its characters becomes `?`. Quotation marks around the whole text do not count.

    Args:
        text (`str`): the sequence as found in the source.

    Returns:
        [`CleanedSequence`]: the sequence, possibly empty, and what was changed.

    Raises:
        [`CorpusError`]: if the sequence is not text.
    """
    try:
        # `translate` is several times faster than a regular expression. `isascii` comes first, because not every
        # string can be encoded.
        if text.isascii() and not text.encode().translate(None, _RESIDUE_BYTES):
            return CleanedSequence("" if len(text) <= _LONGEST_MISSING_VALUE and is_missing(text) else text)
    except AttributeError:
        pass  # not text
    if not isinstance(text, str):
        raise CorpusError(f"a sequence must be text, but is {shorten(str(text)[:200])}.")
    if len(text) <= _LONGEST_MISSING_VALUE + 2 and is_missing(text):
        return CleanedSequence("")
    if _NOT_IN_SEQUENCES.search(text):
        letters = _without_enclosure(text)
        if letters is None:
            return CleanedSequence(_UNKNOWN * len(text), unknown=len(text))
        return clean_sequence(letters)
    without_numbers = _NUMBER.sub("", text)
    sequence = _TO_REMOVE.sub("", without_numbers).translate(_ASCII_UPPER)
    sequence, unknown = _NOT_A_RESIDUE.subn(_UNKNOWN, sequence)
    return CleanedSequence(
        sequence,
        lower_case=_LOWER_CASE.search(text) is not None,
        stops="*" in text,
        gaps="-" in text or "." in text,
        whitespace=_WHITESPACE.search(text) is not None,
        unknown=unknown,
        numbers=len(without_numbers) < len(text),
    )


def _without_enclosure(text: str) -> str | None:
    """Return the letters of a list that was written as text, or a text in quotation marks; `None` for other texts."""
    text = text.strip()
    if text[:2] in ("b'", 'b"'):  # bytes as Python writes them
        text = text[1:]
    inside = text[1:-1]
    if text[:1] + text[-1:] in ("[]", "()"):
        found = ["".join(groups) for groups in _LIST_ITEM.findall(inside)]
        if len(found) > 1 and any(len(letter) != 1 for letter in found):
            return None
        inside = "".join(found)
    elif text[:1] not in ("'", '"') or text[-1:] != text[:1]:
        return None
    return None if _NOT_IN_SEQUENCES.search(inside) else inside


def clean_rows(
    rows: Iterable[tuple[str, str]], min_length: int, counts: CleaningCounts, dropped: list[tuple[int, str]]
) -> Iterator[tuple[str, str, int]]:
    """Yield (id, clean sequence, residues) of the records to keep, and update `counts`.

    The first record without residues is appended to `dropped` as (number among the records in `counts`, id).
    """
    for identifier, text in rows:
        cleaned = clean_sequence(text)
        length = len(cleaned.sequence)
        counts.records_read += 1
        if cleaned.sequence is not text:
            counts.add(cleaned)
        if length == cleaned.unknown:
            counts.dropped_empty += length == 0
            counts.dropped_no_residues += length > 0
            if not dropped:
                dropped.append((counts.records_read, identifier))
        elif length < min_length:
            counts.dropped_too_short += 1
        else:
            counts.records_kept += 1
            yield identifier, cleaned.sequence, length


def nucleotide_share(rows: Iterable[tuple[str, str]], max_letters: int) -> float:
    """Return the share of letters that are A, C, G, T, U or N in either case.

    Args:
        rows (iterable of `tuple[str, str]`): (id, sequence as found); read until `max_letters` are seen.
        max_letters (`int`): number of characters to look at.

    Returns:
        `float`: from 0 to 1; 0 if there are no letters.
    """
    nucleotides = letters = seen = 0
    for _, text in rows:
        found = text[: max_letters - seen].encode("ascii", "ignore").translate(None, _NOT_A_LETTER)
        letters += len(found)
        nucleotides += len(found) - len(found.translate(None, _NUCLEOTIDES))
        seen += len(text)
        if seen >= max_letters:
            break
    return nucleotides / letters if letters else 0.0
