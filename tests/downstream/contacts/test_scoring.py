import numpy as np
import pytest

from adversarial_mlm.downstream.contacts.scoring import METRICS, chance_precisions, pairs_of, precisions

LIMITS = {"short": (6, 11), "medium": (12, 23), "long": (24, 10**9)}
DIVISORS = {"L": 1, "L2": 2, "L5": 5}


def by_plain_loops(scores, labels, counted):
    """The definition: of the pairs in a range that count, the share of contacts among the first L / k."""
    found = {}
    for name, (least, most) in LIMITS.items():
        pairs = []
        length = scores.shape[0]
        for i in range(length):
            for j in range(i + 1, length):
                if least <= j - i <= most and labels[i, j] >= 0:
                    pairs.append((-scores[i, j], i, j, labels[i, j]))
        pairs.sort()
        for share, divisor in DIVISORS.items():
            top = pairs[: max(1, counted // divisor)]
            found[f"{name}_precision_{share}"] = sum(label for *_, label in top) / len(top) if top else np.nan
    return found


@pytest.mark.parametrize("length", [8, 23, 41, 90])
def test_precision_is_that_of_plain_loops(length):
    generator = np.random.default_rng(length)
    scores = generator.integers(5, size=(length, length)) / 5  # with ties
    labels = (generator.random((length, length)) < 0.2).astype(int)
    known = generator.random(length) < 0.9
    labels[~known] = labels[:, ~known] = -1
    pairs = pairs_of(length)
    found = precisions(scores[pairs], labels[pairs], length, int(known.sum()))
    wanted = by_plain_loops(scores, labels, int(known.sum()))
    np.testing.assert_array_equal(found, [wanted[name] for name in METRICS])


def test_ranges_begin_at_6_12_and_24_residues():
    first, second = pairs_of(60)
    assert (second - first).min() == 6
    for separation, name in ((6, "short"), (11, "short"), (12, "medium"), (23, "medium"), (24, "long"), (59, "long")):
        labels = np.where(second - first == separation, 1, 0)
        found = dict(zip(METRICS, precisions(labels.astype(float), labels, 60, 60), strict=True))
        assert [n for n, value in found.items() if value > 0] == [f"{name}_precision_{s}" for s in ("L", "L2", "L5")]


def test_pairs_that_do_not_count_are_not_among_the_first():
    first, second = pairs_of(30)
    labels = np.zeros(len(first), dtype=int)
    hidden = second - first < 12
    labels[hidden] = -1
    found = dict(zip(METRICS, precisions(np.where(hidden, 9.0, -first), labels, 30, 30), strict=True))
    assert np.isnan(found["short_precision_L"]) and found["medium_precision_L"] == 0


def test_scores_that_are_all_equal_have_no_precision():
    first, _ = pairs_of(40)
    assert np.isnan(precisions(np.zeros(len(first)), np.ones(len(first), dtype=int), 40, 40)).all()


def test_chance_is_the_mean_precision_of_random_orders():
    generator = np.random.default_rng(0)
    first, _ = pairs_of(50)
    labels = generator.integers(-1, 2, size=len(first))
    drawn = [precisions(generator.random(len(first)), labels, 50, 50) for _ in range(400)]
    np.testing.assert_allclose(chance_precisions(labels, 50), np.mean(drawn, axis=0), atol=0.02)
