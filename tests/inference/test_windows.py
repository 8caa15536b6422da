import numpy as np
import pytest

from adversarial_mlm.inference.windows import (
    check_overlap,
    coverage,
    number_of_windows,
    window_starts,
    windows_over,
)

SIZES = [(1, 0), (2, 0), (2, 1), (7, 0), (7, 3), (7, 6), (10, 5), (50, 25), (50, 49)]


@pytest.mark.parametrize("size, overlap", SIZES)
def test_as_few_windows_as_the_overlap_allows_cover_every_residue(size, overlap):
    for length in range(1, 4 * size + 3):
        starts = window_starts(length, size, overlap)
        ends = np.minimum(starts + size, length)
        assert len(starts) == number_of_windows(length, size, overlap)
        assert starts[0] == 0 and ends[-1] == length
        assert (ends - starts == min(size, length)).all()
        assert (ends[:-1] - starts[1:] >= overlap).all() and (np.diff(starts) > 0).all()
        assert len(starts) == 1 or (len(starts) - 1) * (size - overlap) + overlap < length  # one fewer is too few
        assert np.ptp(np.diff(starts)) <= 1 if len(starts) > 2 else True
        plain = [
            sum(start <= residue < end for start, end in zip(starts, ends, strict=True)) for residue in range(length)
        ]
        assert coverage(length, starts, size).tolist() == plain and min(plain) >= 1


def test_titin_has_68_windows_of_1022_residues():
    windows = windows_over([35_213], 1022, 511)
    assert len(windows) == 68 == number_of_windows(35_213, 1022, 511)
    assert coverage(35_213, windows[:, 1], 1022).max() == 3
    assert windows[0].tolist() == [0, 0, 1022] and windows[-1].tolist() == [0, 35_213 - 1022, 35_213]


def test_windows_name_their_protein_and_empty_proteins_have_none():
    assert windows_over([3, 0, 5], 4, 2).tolist() == [[0, 0, 3], [2, 0, 4], [2, 1, 5]]
    assert windows_over([], 4, 2).shape == (0, 3)


def test_the_overlap_is_half_a_window_unless_another_one_is_asked_for():
    assert check_overlap(1022, None) == 511 and check_overlap(1, None) == 0 and check_overlap(8, 0) == 0
    for overlap in (-1, 8):
        with pytest.raises(ValueError, match=f"overlap is {overlap}, but must be 0 to 7: a window has 8 residues"):
            check_overlap(8, overlap)
