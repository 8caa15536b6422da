"""ProteinGym's metrics and averages, against scikit-learn and against its definitions written as plain loops."""

import math

import numpy as np
import pytest

from adversarial_mlm.downstream.proteingym.metrics import METRICS, assay_figures, average, ndcg_of_top, recall_of_top

NAN = float("nan")


def assay(variants=101, digits=1, seed=0):
    """Scores, labels and bins with many ties."""
    generator = np.random.default_rng(seed)
    labels = generator.normal(size=variants).round(digits)
    scores = (labels + 2 * generator.normal(size=variants)).round(digits)
    return scores, labels, (labels > 0.3).astype(float)


def plain_ndcg(scores, labels):
    gains = (labels - min(labels)) / (max(labels) - min(labels))
    top = len(scores) // 10

    def gain(order):
        return sum(gains[row] / math.log2(rank + 1) for rank, row in enumerate(order[:top], start=1))

    return gain(np.argsort(-scores)) / gain(np.argsort(-gains))


@pytest.mark.parametrize("variants", [30, 101])
def test_metrics_of_tied_values_are_those_of_scikit_learn_and_of_plain_loops(variants):
    metrics = pytest.importorskip("sklearn.metrics")
    scores, labels, bins = assay(variants)
    found = assay_figures(scores, labels, bins)
    assert list(found) == list(METRICS)
    assert found["auc"] == pytest.approx(metrics.roc_auc_score(bins, scores))
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(bins, scores >= np.median(scores)))
    assert found["ndcg"] == pytest.approx(plain_ndcg(scores, labels))
    best = {row for row in range(variants) if labels[row] >= np.percentile(labels, 90)}
    chosen = {row for row in range(variants) if scores[row] >= np.percentile(scores, 90)}
    assert found["top_recall"] == pytest.approx(len(best & chosen) / len(best))
    assert found["spearman"] == pytest.approx(pytest.importorskip("scipy.stats").spearmanr(scores, labels).statistic)


def test_variants_without_a_score_or_a_label_do_not_count():
    scores, labels, bins = assay(60)
    whole = assay_figures(scores, labels, bins)
    more = np.concatenate([scores, [5.0, NAN, -5.0]])
    found = assay_figures(more, np.concatenate([labels, [NAN, 1.0, NAN]]), np.concatenate([bins, [NAN, 1.0, NAN]]))
    assert found == whole
    only_bins = assay_figures(scores, np.full(60, NAN), bins)
    assert only_bins["auc"] == whole["auc"] and only_bins["mcc"] == whole["mcc"]
    assert all(math.isnan(only_bins[name]) for name in ("spearman", "ndcg", "top_recall"))


def test_undefined_metrics_are_what_the_benchmark_makes_of_them():
    scores, labels, _ = assay(40)
    one_class = assay_figures(scores, labels, np.ones(40))
    assert math.isnan(one_class["auc"]) and one_class["mcc"] == 0
    assert ndcg_of_top(scores[:9], labels[:9]) == 0  # a tenth of nine variants is none
    assert math.isnan(ndcg_of_top(scores, np.ones(40)))
    assert recall_of_top(scores, np.ones(40)) == pytest.approx((scores >= np.percentile(scores, 90)).mean())
    assert all(math.isnan(value) for value in assay_figures(*np.full((3, 5), NAN)).values())


def test_averages_are_over_proteins_within_a_function_and_then_over_functions():
    found = average(
        [0.5, 0.3, 0.2, NAN, 0.1004, 0.9], ["P1", "P1", "P2", "P3", "P1", "P4"], ["a", "a", "a", "a", "b", "c"]
    )
    # 0.1004 counts as 0.100, and an assay without the metric does not count
    assert found.by_function == pytest.approx({"a": (0.4 + 0.2) / 2, "b": 0.1, "c": 0.9})
    assert found.value == pytest.approx((0.3 + 0.1 + 0.9) / 3)
    assert found.proteins == {"a": 2, "b": 1, "c": 1}
    assert found.low == pytest.approx((0.2 + 0.1 + 0.9) / 3) and found.high == pytest.approx((0.4 + 0.1 + 0.9) / 3)


def test_an_average_without_several_proteins_has_no_interval():
    single = average([0.5, 0.3], ["P1", "P1"], ["a", "a"])
    assert single.value == 0.4 and math.isnan(single.low) and math.isnan(single.high)
    assert math.isnan(average([0.5, 0.3], ["P1", "P2"], ["a", "a"], bootstrap_samples=0).low)
    nothing = average([NAN], ["P1"], ["a"])
    assert math.isnan(nothing.value) and nothing.by_function == {}
