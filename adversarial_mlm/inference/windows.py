"""Overlapping windows over proteins that are longer than an encoder reads at once."""

from collections.abc import Sequence

import numpy as np

from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import RecipeError


def check_overlap(size: int, overlap: int | None) -> int:
    """Return the overlap of neighbouring windows, in residues.

    Args:
        size (`int`): Residues in a window.
        overlap (`int`, *optional*): Asked for; by default half a window.

    Raises:
        RecipeError: If it is negative, or not smaller than a window.
    """
    if overlap is None:
        return size // 2
    if not 0 <= overlap < size:
        raise RecipeError(f"overlap is {overlap}, but must be 0 to {size - 1}: a window has {count(size, 'residue')}")
    return overlap


def number_of_windows(length: int, size: int, overlap: int) -> int:
    """Return how many windows cover a protein; 0 for a protein without residues.

    Args:
        length (`int`): Residues in the protein.
        size (`int`): Residues in a window.
        overlap (`int`): Least number of residues that neighbouring windows share.
    """
    if length <= size:
        return min(length, 1)
    return -(-(length - overlap) // (size - overlap))


def window_starts(length: int, size: int, overlap: int) -> np.ndarray:
    """Return the first residue of each window over a protein, at nearly equal distances.

    The windows are as few as the overlap allows. All have `size` residues, but the only one of a shorter protein.

    Args:
        length (`int`), size (`int`), overlap (`int`): See [`number_of_windows`].

    Returns:
        `np.ndarray` of shape `(windows,)`, int64.
    """
    number = number_of_windows(length, size, overlap)
    # whole numbers, because a rounded distance might leave fewer residues to share
    return np.arange(number, dtype=np.int64) * max(length - size, 0) // max(number - 1, 1)


def windows_over(lengths: Sequence[int], size: int, overlap: int) -> np.ndarray:
    """Return the windows over several proteins, protein after protein.

    Args:
        lengths (`Sequence[int]`): Residues in each protein.
        size (`int`), overlap (`int`): See [`number_of_windows`].

    Returns:
        `np.ndarray` of shape `(windows, 3)`, int64: index of the protein, first residue, and end.
    """
    rows = [
        np.stack([np.full(len(starts), owner), starts, np.minimum(starts + size, length)], axis=1)
        for owner, length in enumerate(lengths)
        if len(starts := window_starts(length, size, overlap))
    ]
    return np.concatenate(rows) if rows else np.zeros((0, 3), dtype=np.int64)


def coverage(length: int, starts: np.ndarray, size: int) -> np.ndarray:
    """Return the number of windows over each residue of a protein: `(length,)`, int64."""
    steps = np.zeros(length + 1, dtype=np.int64)
    np.add.at(steps, starts, 1)
    np.add.at(steps, np.minimum(starts + size, length), -1)
    return steps[:-1].cumsum()
