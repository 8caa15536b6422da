import itertools
import os
import subprocess
import sys
import time

import evaluate
import numpy as np
import pytest
import scipy.stats

from adversarial_mlm.downstream.metrics import (
    BrightAndDark,
    HomologyAccuracy,
    MeanSquaredError,
    ResidueAccuracy,
    SequenceAccuracy,
    SpearmanCorrelation,
)
from adversarial_mlm.utils import statistics


@pytest.fixture
def regression():
    """Correlated values, with ties on both sides."""
    generator = np.random.default_rng(3)
    references = generator.normal(size=300).round(1)
    return (references + generator.normal(size=300)).round(1), references


class TestSpearman:
    def test_equals_scipy_with_ties(self, regression):
        assert statistics.spearman(*regression) == pytest.approx(scipy.stats.spearmanr(*regression)[0], abs=1e-12)

    def test_only_the_order_counts(self, regression):
        predictions, references = regression
        assert statistics.spearman(np.exp(predictions), references) == statistics.spearman(predictions, references)
        assert statistics.spearman(references, references) == pytest.approx(1.0)
        assert statistics.spearman(-references, references) == pytest.approx(-1.0)

    def test_infinity_is_the_largest_value(self):
        assert statistics.spearman([1.0, 2.0, np.inf], [1.0, 2.0, 3.0]) == pytest.approx(1.0)

    @pytest.mark.parametrize(
        ("predictions", "references"),
        [
            ([2.0, 2.0, 2.0], [1.0, 2.0, 3.0]),
            ([1.0, 2.0], [5.0, 5.0]),
            ([1.0], [1.0]),
            ([], []),
            ([1.0, np.nan], [1, 2]),
        ],
    )
    def test_undefined_is_nan(self, predictions, references):
        assert np.isnan(statistics.spearman(predictions, references))


@pytest.mark.parametrize("metric", [statistics.spearman, statistics.mean_squared_error, statistics.accuracy])
def test_a_weight_is_a_number_of_copies(metric, regression):
    generator = np.random.default_rng(0)
    first, second = regression
    if metric is statistics.accuracy:
        second = generator.integers(1, 9, size=len(second)).astype(float)
    weights = generator.integers(0, 4, size=(5, len(first)))
    expected = [metric(np.repeat(first, times), np.repeat(second, times)) for times in weights]
    np.testing.assert_allclose(metric(first, second, weights=weights), expected, rtol=1e-10)
    assert metric(first, second, weights=weights[0]) == pytest.approx(expected[0])


def test_columns_of_different_length_are_refused():
    with pytest.raises(ValueError, match="same length"):
        statistics.spearman([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="weights must have one value for each of the 3 rows, got 2"):
        statistics.mean_squared_error([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], weights=[1, 1])


class TestBootstrap:
    @pytest.mark.parametrize(
        ("metric", "by_scipy"),
        [
            (statistics.spearman, lambda a, b: scipy.stats.spearmanr(a, b)[0]),
            (statistics.mean_squared_error, lambda a, b: np.mean((a - b) ** 2)),
        ],
    )
    def test_agrees_with_scipy(self, metric, by_scipy, regression):
        found = statistics.bootstrap_interval(metric, *regression, samples=4000)
        expected = scipy.stats.bootstrap(
            regression,
            by_scipy,
            paired=True,
            vectorized=False,
            n_resamples=2000,
            method="percentile",
            random_state=np.random.default_rng(1),
        ).confidence_interval
        width = expected.high - expected.low
        # The ends of two bootstraps of this size differ by about 3 % of the width.
        assert found == pytest.approx((expected.low, expected.high), abs=0.12 * width)

    @pytest.mark.parametrize("grouped", [False, True])
    def test_is_the_interval_of_resamples_that_are_built_row_by_row(self, regression, grouped):
        predictions, references = (column[:60] for column in regression)
        groups = np.arange(60) // 3 if grouped else np.arange(60)
        found = statistics.bootstrap_interval(
            statistics.spearman,
            predictions,
            references,
            groups=groups if grouped else None,
            samples=101,
            seed=7,
            level=0.9,
        )
        generator, values, number = np.random.default_rng(7), [], len(set(groups))
        for drawn in generator.integers(number, size=(101, number)):
            rows = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
            values.append(scipy.stats.spearmanr(predictions[rows], references[rows])[0])
        values.sort()
        assert found == pytest.approx((values[5], values[95]), abs=1e-12)  # 5 % of 101 on either side

    def test_covers_the_truth_as_often_as_it_says(self):
        generator = np.random.default_rng(5)
        inside = 0
        trials, rows = 600, 80
        for trial in range(trials):
            errors = generator.normal(size=rows)
            # The mean of the squared errors is 1 in truth; `right` by `total` is a mean here.
            low, high = statistics.bootstrap_interval(
                statistics.accuracy, errors + 4.0, np.ones(rows), samples=400, seed=trial, level=0.9
            )
            inside += low <= 4.0 <= high
        # A percentile interval of 80 values falls short by less than 2 points; four standard errors are 5 points.
        assert 0.83 < inside / trials < 0.95

    def test_the_width_is_that_of_theory(self):
        errors = np.random.default_rng(0).normal(size=1000)
        low, high = statistics.bootstrap_interval(statistics.accuracy, errors, np.ones(1000), samples=5000)
        assert high - low == pytest.approx(2 * 1.96 * errors.std() / np.sqrt(1000), rel=0.06)

    def test_depends_on_the_seed_alone(self, regression, monkeypatch):
        interval = statistics.bootstrap_interval(statistics.spearman, *regression, seed=1, samples=50)
        assert interval == statistics.bootstrap_interval(statistics.spearman, *regression, seed=1, samples=50)
        assert interval != statistics.bootstrap_interval(statistics.spearman, *regression, seed=2, samples=50)
        monkeypatch.setattr(statistics, "_WEIGHTS_AT_ONCE", 700)
        chunked = statistics.bootstrap_interval(statistics.spearman, *regression, seed=1, samples=50)
        assert chunked == pytest.approx(interval)

    def test_groups_are_drawn_together(self):
        """Copies of a protein in one group add no certainty; as rows of their own they would."""
        values = np.random.default_rng(0).normal(size=60)
        copies, groups = np.repeat(values, 10), np.repeat(np.arange(60), 10)
        plain = statistics.bootstrap_interval(statistics.accuracy, values, np.ones(60))
        grouped = statistics.bootstrap_interval(statistics.accuracy, copies, np.ones(600), groups=groups)
        loose = statistics.bootstrap_interval(statistics.accuracy, copies, np.ones(600))
        assert grouped == pytest.approx(plain)
        assert loose[1] - loose[0] < 0.5 * (grouped[1] - grouped[0])

    def test_is_nan_where_nothing_can_be_said(self):
        one = statistics.bootstrap_interval(statistics.accuracy, np.ones(1), np.ones(1))
        one_group = statistics.bootstrap_interval(statistics.accuracy, np.ones(9), np.ones(9), groups=["a"] * 9)
        constant = statistics.bootstrap_interval(statistics.spearman, np.ones(9), np.arange(9.0))
        # Of two rows, half of the resamples hold one twice.
        two = statistics.bootstrap_interval(statistics.spearman, np.arange(2.0), np.arange(2.0))
        assert np.isnan([*one, *one_group, *constant, *two]).all()

    def test_bad_options_are_refused(self):
        with pytest.raises(ValueError, match="samples"):
            statistics.bootstrap_interval(statistics.accuracy, np.ones(3), np.ones(3), samples=0)
        with pytest.raises(ValueError, match="level"):
            statistics.bootstrap_interval(statistics.accuracy, np.ones(3), np.ones(3), level=95)
        with pytest.raises(ValueError, match="same number of rows"):
            statistics.bootstrap_interval(statistics.accuracy, np.ones(3), np.ones(3), groups=["a", "b"])


@pytest.mark.slow
def test_a_thousand_resamples_of_the_largest_test_take_seconds():
    generator = np.random.default_rng(0)
    references = generator.normal(size=27217).round(2)
    started = time.perf_counter()
    low, high = statistics.bootstrap_interval(
        statistics.spearman, references + generator.normal(size=27217), references
    )
    assert time.perf_counter() - started < 30.0, "took 2 s on one free core"
    assert 0.01 < high - low < 0.03


class TestRegressionMetrics:
    def test_values(self, regression):
        predictions, references = regression
        assert SpearmanCorrelation().compute(predictions=predictions, references=references) == {
            "spearman": pytest.approx(scipy.stats.spearmanr(predictions, references)[0])
        }
        assert MeanSquaredError().compute(predictions=[1.0, 2.0, 4.0], references=[1.0, 0.0, 1.0]) == {
            "mse": pytest.approx(13 / 3)
        }

    def test_bright_is_above_two(self):
        references = [1.0, 2.0, 2.0001, 3.0, 4.0, 1.5]
        predictions = [1.0, 3.0, 5.0, 4.0, 3.0, 1.5]
        figures = BrightAndDark().compute(predictions=predictions, references=references)
        assert figures == {
            "bright_spearman": pytest.approx(-1.0),
            "bright_mse": pytest.approx((2.9999**2 + 1 + 1) / 3),
            "bright_proteins": 3,
            "dark_spearman": pytest.approx(1.0),
            "dark_mse": pytest.approx(1 / 3),
            "dark_proteins": 3,
        }

    def test_intervals_are_those_of_the_subset_and_its_groups(self, regression):
        predictions, references = regression
        groups = np.arange(300) // 3
        figures = BrightAndDark().compute(
            predictions=predictions,
            references=references + 2.0,
            bootstrap_samples=200,
            bootstrap_seed=4,
            groups=groups,
        )
        dark = references <= 0.0
        expected = statistics.bootstrap_interval(
            statistics.spearman, predictions[dark], references[dark], groups=groups[dark], samples=200, seed=4
        )
        assert (figures["dark_spearman_low"], figures["dark_spearman_high"]) == pytest.approx(expected)


class TestAccuracies:
    def test_of_proteins(self):
        figures = SequenceAccuracy().compute(predictions=[0, 1, 2, 5], references=[0, 2, 2, -1])
        assert figures == {"sequence_accuracy": 0.5}

    def test_a_class_that_train_never_saw_is_never_right(self):
        assert SequenceAccuracy().compute(predictions=[-1], references=[-1]) == {"sequence_accuracy": 0.0}
        assert ResidueAccuracy().compute(predictions=[[-1, 1]], references=[[-1, 1]])["residue_accuracy"] == 0.5

    def test_of_folds_by_level(self):
        figures = HomologyAccuracy().compute(
            predictions=[0, 1, 2, 3, 4],
            references=[0, 0, 2, 3, -1],
            levels=["fold", "fold", "family", "family", "family"],
        )
        assert figures == {
            "fold_accuracy": 0.5,
            "fold_proteins": 2,
            "family_accuracy": pytest.approx(2 / 3),
            "family_proteins": 3,
        }
        with pytest.raises(ValueError, match="levels must be fold, superfamily, family, got 'class'"):
            HomologyAccuracy().compute(predictions=[0], references=[0], levels=["class"])

    def test_of_residues_by_hand(self):
        figures = ResidueAccuracy().compute(
            predictions=[[0, 1, 2], [2], [1, 1]], references=[[0, -100, 1], [2], [-100, -100]]
        )
        assert figures == {"residue_accuracy": pytest.approx(2 / 3), "scored_residues": 3}

    def test_of_residues_in_padded_batches_equals_one_flat_comparison(self):
        generator = np.random.default_rng(0)
        predictions = generator.integers(3, size=(40, 50))
        references = generator.integers(3, size=(40, 50))
        references[generator.random((40, 50)) < 0.3] = -100
        metric = ResidueAccuracy()
        for start in range(0, 40, 7):
            metric.add_batch(predictions=predictions[start : start + 7], references=references[start : start + 7])
        scored = references != -100
        figures = metric.compute()
        assert figures["residue_accuracy"] == pytest.approx((predictions == references)[scored].mean())
        assert figures["scored_residues"] == scored.sum()

    def test_residues_are_resampled_with_their_protein(self):
        predictions = [[1] * 50 if row % 2 else [0] * 50 for row in range(40)]
        references = [[0] * 50] * 40
        figures = ResidueAccuracy().compute(predictions=predictions, references=references, bootstrap_samples=2000)
        # 40 proteins that are right or wrong as a whole: a binomial with p = 0.5 and n = 40
        expected = scipy.stats.binom.ppf([0.025, 0.975], 40, 0.5) / 40
        found = figures["residue_accuracy_low"], figures["residue_accuracy_high"]
        assert found == pytest.approx(expected, abs=0.026)

    def test_rows_of_different_length_are_refused(self):
        with pytest.raises(ValueError, match="protein 2 has 1 prediction for 2 residues"):
            ResidueAccuracy().compute(predictions=[[1], [1]], references=[[1], [1, 2]])


METRICS = [SpearmanCorrelation, MeanSquaredError, BrightAndDark, SequenceAccuracy, ResidueAccuracy]


class TestUseWithEvaluate:
    @pytest.mark.parametrize("metric", METRICS)
    def test_without_data_figures_are_nan_and_counts_zero(self, metric):
        figures = metric().compute(predictions=[], references=[])
        assert all(value == 0 if isinstance(value, int) else np.isnan(value) for value in figures.values())

    @pytest.mark.parametrize("metric", METRICS)
    def test_compute_before_add_is_refused(self, metric):
        with pytest.raises(ValueError, match="compute was called without any prediction"):
            metric().compute()

    @pytest.mark.parametrize("metric", METRICS[:4])
    def test_missing_predictions_are_refused(self, metric):
        with pytest.raises(ValueError, match=r"predictions \(1\) and references \(2\)"):
            metric().compute(predictions=[1], references=[1, 2])

    def test_a_metric_forgets_what_it_has_computed(self):
        metric = SequenceAccuracy()
        assert metric.compute(predictions=[1], references=[1])["sequence_accuracy"] == 1.0
        assert metric.compute(predictions=[1], references=[0])["sequence_accuracy"] == 0.0

    def test_combined_metrics_share_their_batches_and_options(self, regression):
        predictions, references = regression
        combined = evaluate.combine([SpearmanCorrelation(), MeanSquaredError(), BrightAndDark()])
        for rows in np.split(np.arange(300), 3):
            combined.add_batch(predictions=predictions[rows], references=references[rows])
        figures = combined.compute(bootstrap_samples=30)
        assert figures["spearman"] == pytest.approx(scipy.stats.spearmanr(predictions, references)[0])
        assert figures["mse"] == pytest.approx(np.mean((predictions - references) ** 2))
        assert figures["mse_low"] < figures["mse"] < figures["mse_high"]
        assert figures["bright_proteins"] + figures["dark_proteins"] == 300

    def test_combined_accuracies_take_the_columns_they_need(self):
        combined = evaluate.combine([SequenceAccuracy(), HomologyAccuracy()])
        combined.add_batch(predictions=[1, 2], references=[1, 1], levels=["fold", "family"])
        assert combined.compute() == {
            "sequence_accuracy": 0.5,
            "fold_accuracy": 1.0,
            "fold_proteins": 1,
            "family_accuracy": 0.0,
            "family_proteins": 1,
        }

    def test_numpy_s_random_state_is_left_alone(self):
        np.random.seed(7)
        expected = np.random.random()
        np.random.seed(7)
        SequenceAccuracy().compute(predictions=[1, 0], references=[1, 1], bootstrap_samples=10)
        assert np.random.random() == expected

    def test_nothing_is_written(self, tmp_path):
        for folder in (tmp_path / "new", tmp_path / "file"):
            (tmp_path / "file").write_text("")
            metric = SequenceAccuracy(cache_dir=str(folder))
            assert metric.compute(predictions=[1], references=[1]) == {"sequence_accuracy": 1.0}
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_metrics_that_gather_over_processes_use_a_common_folder(self, tmp_path):
        options = {"num_process": 2, "experiment_id": "test", "cache_dir": str(tmp_path)}
        with pytest.raises(ValueError, match="keep_in_memory"):
            SequenceAccuracy(process_id=0, keep_in_memory=True, **options)
        assert SequenceAccuracy(process_id=0, **options).keep_in_memory is False
        assert list(tmp_path.iterdir())


SCRIPT = """
from adversarial_mlm import SpearmanCorrelation, ResidueAccuracy
figures = SpearmanCorrelation().compute(predictions=[1.0, 2.0, 3.0], references=[1.0, 2.0, 4.0])
figures |= ResidueAccuracy().compute(predictions=[[1, 2]], references=[[1, -100]])
print(figures)
"""


def start_script(home):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", SCRIPT], env={**os.environ, "HF_HOME": str(home)}, **pipes)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_metrics_need_no_cache_folder_and_processes_do_not_disturb_each_other(tmp_path):
    home = tmp_path / "a file where the cache folder should be"
    home.write_text("")
    for process in [start_script(home) for _ in range(2)]:
        output, errors = process.communicate(timeout=120)
        assert "'spearman': 1.0, 'residue_accuracy': 1.0, 'scored_residues': 1" in output, errors
    assert home.read_text() == ""


def test_the_package_does_not_import_evaluate_before_a_metric_is_asked_for():
    modules = ["adversarial_mlm", "adversarial_mlm.utils.statistics", "adversarial_mlm.downstream.tasks"]
    code = f"import sys, {', '.join(modules)}; print('evaluate' in sys.modules, 'lmdb' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False False", result.stderr


def test_every_metric_describes_its_inputs_and_options():
    for metric, word in itertools.product([*METRICS, HomologyAccuracy], ["predictions", "references", "bootstrap"]):
        assert word in metric().inputs_description
