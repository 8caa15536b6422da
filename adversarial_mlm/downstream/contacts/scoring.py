"""Precision of predicted contacts at L, L/2 and L/5, for pairs at short, medium and long range."""

from collections.abc import Iterator

import numpy as np

LEAST_SEPARATION = 6
"""Pairs of residues that are nearer in the sequence do not count."""

RANGES = {"short": (6, 12), "medium": (12, 24), "long": (24, None)}
"""Ranges: name → least separation, and the first one beyond it, as in CASP (6–11, 12–23, 24 and more)."""

SHARES = {"L": 1, "L2": 2, "L5": 5}
"""Numbers of predictions that count: name → what the number of residues is divided by."""

METRICS = tuple(f"{name}_precision_{share}" for name in RANGES for share in SHARES)
"""Names of the metrics, such as `long_precision_L5`, in the order of [`precisions`]."""

HEADLINE = "long_precision_L"


def pairs_of(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first and the second residue of all pairs that may count, in the order of `np.triu_indices`."""
    return np.triu_indices(length, LEAST_SEPARATION)


def precisions(scores: np.ndarray, labels: np.ndarray, length: int, counted: int) -> np.ndarray:
    """Return the precision of the pairs with the highest scores in each range.

    Of equal scores, the pair of the residues that come first is taken.

    Args:
        scores (`np.ndarray` of shape `(pairs,)`): Predictions for [`pairs_of`] a protein; higher means a contact.
        labels (`np.ndarray` of shape `(pairs,)`): 1 for a contact, 0 for none, -1 for a pair that does not count.
        length (`int`): Residues in the protein.
        counted (`int`): L: residues with a known place.

    Returns:
        `np.ndarray` of shape `(metrics,)`: for each of [`METRICS`] the share of contacts among the ⌊L / k⌋ pairs of
        the highest score. These are at least one pair, and all pairs if there are fewer. The share is nan if there is
        no pair in the range, or if all have the same score.
    """
    found = np.full(len(METRICS), np.nan)
    for row, wanted in enumerate(_in_ranges(labels, length)):
        of_range, hits = scores[wanted], labels[wanted]
        if len(hits) and (of_range[0] != of_range).any():
            ordered = hits[np.argsort(-of_range, kind="stable")]
            for column, part in enumerate(SHARES.values()):
                found[row * len(SHARES) + column] = ordered[: max(1, counted // part)].mean()
    return found


def chance_precisions(labels: np.ndarray, length: int) -> np.ndarray:
    """Return the expected [`precisions`] of a random order: the share of contacts among the pairs of each range."""
    shares = [labels[wanted].mean() if wanted.any() else np.nan for wanted in _in_ranges(labels, length)]
    return np.repeat(shares, len(SHARES))


def _in_ranges(labels: np.ndarray, length: int) -> Iterator[np.ndarray]:
    """Yield which pairs are in each range and count."""
    first, second = pairs_of(length)
    separation = second - first
    for least, beyond in RANGES.values():
        yield (labels >= 0) & (separation >= least) & (separation < (beyond or length))
