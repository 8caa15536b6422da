"""Align variants of one protein into columns, without an alignment program."""

from collections.abc import Sequence

import numpy as np

from adversarial_mlm.models.tokenization_protein import STANDARD_RESIDUES

GAP = 0

_MOST_DIFFERENCE = 8
_NUMBERS = np.full(256, len(STANDARD_RESIDUES) + 1, dtype=np.uint8)  # the last number is for all other letters
_NUMBERS[list(STANDARD_RESIDUES.encode())] = np.arange(1, len(STANDARD_RESIDUES) + 1)
SYMBOLS = len(STANDARD_RESIDUES) + 2
"""Number of symbols: a gap, the 20 standard residues, and one for all others."""


def residue_numbers(sequence: str) -> np.ndarray:
    """Number the residues of a protein: 1 to 20 for the standard ones, 21 for all others."""
    return _NUMBERS[np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)]


def align_variants(train: Sequence[str], others: Sequence[Sequence[str]]) -> list[np.ndarray] | None:
    """Align proteins of nearly the same length into columns.

    If the proteins are similar (on average half of the residues are the most frequent ones of train), gaps are placed
    where they fit best. Otherwise they are at the end.

    Args:
        train (`Sequence[str]`): Proteins that define the most frequent residues.
        others (`Sequence[Sequence[str]]`): Further sets of proteins.

    Returns:
        `list[np.ndarray]`: For train and each of the others `(proteins, columns)`, with the numbers of
        [`residue_numbers`] and 0 for gaps; `None` if lengths differ by more than 8 residues.
    """
    sets = [train, *others]
    lengths = [len(sequence) for found in sets for sequence in found]
    longest = max(lengths)
    if longest - min(lengths) > _MOST_DIFFERENCE:
        return None
    tables = [_left_aligned(found, longest) for found in sets]
    whole = tables[0][(tables[0] != GAP).all(axis=1)]
    if not len(whole):
        return tables
    reference = np.array([np.bincount(column, minlength=SYMBOLS).argmax() for column in whole.T], dtype=np.uint8)
    if (whole == reference).mean() < 0.5:
        return tables
    for table in tables:
        for row in np.flatnonzero((table == GAP).any(axis=1)):
            table[row] = _place_gaps(table[row][table[row] != GAP], reference)
    return tables


def _left_aligned(sequences: Sequence[str], longest: int) -> np.ndarray:
    table = np.zeros((len(sequences), longest), dtype=np.uint8)
    for row, sequence in zip(table, sequences, strict=True):
        row[: len(sequence)] = residue_numbers(sequence)
    return table


def _place_gaps(residues: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Place residues in the columns of the reference, in order, with as many matches as possible."""
    gaps, length = len(reference) - len(residues), len(residues)
    # agreeing[g, i]: matches among the first i residues, each moved g columns to the right
    agreeing = np.stack(
        [np.concatenate([[0], np.cumsum(residues == reference[gap : gap + length])]) for gap in range(gaps + 1)]
    )
    before = agreeing[0]
    steps = []
    for gap in range(1, gaps + 1):
        gained = before - agreeing[gap]
        highest = np.maximum.accumulate(gained)
        # the last position up to i at which a gap costs nothing
        position = np.maximum.accumulate(np.where(gained == highest, np.arange(length + 1), 0))
        steps.append(position)
        before = agreeing[gap] + highest
    shifts, end = np.zeros(length, dtype=np.int64), length
    for position in reversed(steps):
        end = int(position[end])
        shifts[end:] += 1
    row = np.zeros(len(reference), dtype=np.uint8)
    row[np.arange(length) + shifts] = residues
    return row
