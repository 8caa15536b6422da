import numpy as np
import pytest

from adversarial_mlm.downstream.linear_heads import Rows, fit_discriminant, fit_ridge
from adversarial_mlm.utils.errors import AdversarialMLMError

LEFT_OUT = {"penalties_without_solution": 2}


@pytest.fixture
def numbers():
    generator = np.random.default_rng(0)
    matrix = generator.normal(size=(300, 12)) * generator.uniform(0.1, 5, 12) + 3
    target = matrix @ generator.normal(size=12) + generator.normal(size=300) * 4
    parts = {"train": slice(0, 150), "valid": slice(150, 220), "test": slice(220, 300)}
    return {s: matrix[p].astype(np.float32) for s, p in parts.items()}, {s: target[p] for s, p in parts.items()}


def rows_of(features):
    return {split: Rows.of(matrix) for split, matrix in features.items()}


@pytest.mark.parametrize("standardise", [True, False])
def test_ridge_is_that_of_scikit_learn(numbers, standardise):
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    features, target = numbers
    fit = fit_ridge(rows_of(features), target, standardise=standardise, penalties=[0.3])
    scaler = StandardScaler(with_std=standardise).fit(features["train"])
    model = Ridge(alpha=0.3 * 150).fit(scaler.transform(features["train"]), target["train"])
    for split, found in fit.predictions.items():
        np.testing.assert_allclose(found, model.predict(scaler.transform(features[split])), rtol=1e-4, atol=1e-3)


def test_the_penalty_is_the_best_one_on_validation_whatever_test_says(numbers):
    from scipy.stats import spearmanr

    features, target = numbers
    penalties = [1e-4, 1e-2, 1, 30, 1000]
    fit = fit_ridge(rows_of(features), target, penalties=penalties)
    scores = []
    for penalty in penalties:
        alone = fit_ridge(rows_of(features), target, penalties=[penalty])
        scores.append(spearmanr(alone.predictions["valid"], target["valid"]).statistic)
    assert fit.settings["penalty"] == penalties[int(np.argmax(scores))]
    assert fit.valid_score == pytest.approx(max(scores), abs=1e-6)
    other = fit_ridge(rows_of({**features, "test": features["test"] * 0}), target, penalties=penalties)
    assert other.settings == fit.settings


def test_columns_that_never_change_in_train_count_nothing(numbers):
    features, target = numbers
    wider = {
        split: np.concatenate([matrix, np.full((len(matrix), 1), 7.0)], axis=1) for split, matrix in features.items()
    }
    wider["test"][:, -1] = 1e6
    first, second = (fit_ridge(rows_of(x), target, penalties=[0.1]) for x in (features, wider))
    np.testing.assert_allclose(second.predictions["test"], first.predictions["test"], rtol=1e-5)


def test_blocks_of_rows_change_nothing(numbers):
    features, target = numbers

    def in_pieces(matrix):
        return Rows(len(matrix), matrix.shape[1], lambda: (matrix[i : i + 7] for i in range(0, len(matrix), 7)))

    whole = fit_ridge(rows_of(features), target)
    pieces = fit_ridge({split: in_pieces(matrix) for split, matrix in features.items()}, target)
    np.testing.assert_allclose(pieces.predictions["test"], whole.predictions["test"], rtol=1e-4)


@pytest.mark.parametrize("penalty", [1e-6, 1e-4])
def test_small_penalties_keep_their_digits(numbers, penalty):
    """Columns that nearly repeat others: sums in float32 would be wrong in the first digits of the weights."""
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    features, target = numbers
    generator = np.random.default_rng(2)
    features = {
        split: np.concatenate([matrix, matrix + 1e-3 * generator.normal(size=matrix.shape)], axis=1).astype(np.float32)
        for split, matrix in features.items()
    }
    fit = fit_ridge(rows_of(features), target, penalties=[penalty])
    scaler = StandardScaler().fit(features["train"].astype(np.float64))
    scaled = {split: scaler.transform(matrix.astype(np.float64)) for split, matrix in features.items()}
    model = Ridge(alpha=penalty * 150, solver="svd").fit(scaled["train"], target["train"])
    for split, found in fit.predictions.items():
        np.testing.assert_allclose(found, model.predict(scaled[split]), rtol=1e-7, atol=1e-7)


def test_penalties_without_a_solution_are_counted_and_said(numbers, classes, caplog):
    features, labels = numbers
    penalties = [-1e3, -1e2, 0.1, 1.0]
    fit = fit_ridge(rows_of(features), labels, penalties=penalties)
    assert fit.settings == {**fit_ridge(rows_of(features), labels, penalties=[0.1, 1.0]).settings, **LEFT_OUT}
    assert "ridge regression: 2 of 4 penalties have no solution because of rounding and are left out" in caplog.text
    features, labels = classes
    fit = fit_discriminant(rows_of(features), labels, 5, penalties=penalties)
    assert fit.settings == {
        **fit_discriminant(rows_of(features), labels, 5, penalties=[0.1, 1.0]).settings,
        **LEFT_OUT,
    }
    assert "linear discriminant: 2 of 4 penalties have no solution" in caplog.text


def test_without_any_solution_one_sentence_says_why(numbers, classes):
    for (features, labels), fit in (
        (numbers, lambda *args: fit_ridge(*args, penalties=[-1e3, -1e2])),
        (classes, lambda *args: fit_discriminant(*args, 5, penalties=[-1e3, -1e2])),
    ):
        with pytest.raises(
            AdversarialMLMError, match="has no solution for any of the penalties up to -100: give larger"
        ):
            fit(rows_of(features), labels)
        damaged = {**features, "train": np.full_like(features["train"], np.nan)}
        with pytest.raises(
            AdversarialMLMError, match="no solution, because the features of train are not finite: the"
        ):
            fit(rows_of(damaged), labels)


@pytest.fixture
def classes():
    generator = np.random.default_rng(1)
    centres = generator.normal(size=(5, 8)) * 1.2
    labels = generator.integers(5, size=600)
    matrix = (centres[labels] + generator.normal(size=(600, 8))).astype(np.float32)
    parts = {"train": slice(0, 300), "valid": slice(300, 400), "test": slice(400, 600)}
    return {s: matrix[p] for s, p in parts.items()}, {s: labels[p] for s, p in parts.items()}


def test_the_discriminant_without_penalty_is_that_of_scikit_learn(classes):
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    features, labels = classes
    fit = fit_discriminant(rows_of(features), labels, 5, penalties=[1e-9], shrinkages=[0.0])
    model = LinearDiscriminantAnalysis(solver="lsqr").fit(features["train"], labels["train"])
    for split, found in fit.predictions.items():
        np.testing.assert_array_equal(found, model.predict(features[split]))


def test_the_discriminant_is_as_good_as_logistic_regression(classes):
    from sklearn.linear_model import LogisticRegression

    features, labels = classes
    fit = fit_discriminant(rows_of(features), labels, 5)
    model = LogisticRegression(max_iter=1000).fit(features["train"], labels["train"])
    ours = (fit.predictions["test"] == labels["test"]).mean()
    assert ours >= model.score(features["test"], labels["test"]) - 0.03


def test_rows_that_do_not_count_and_classes_that_train_lacks_change_nothing(classes):
    features, labels = classes
    first = fit_discriminant(rows_of(features), labels, 5)
    extra = {**features, "train": np.concatenate([features["train"], features["train"][:50]])}
    masked = {**labels, "train": np.concatenate([labels["train"], np.full(50, -100)])}
    # the scale is of all rows, so that they are given to both
    scaled = fit_discriminant(rows_of(extra), masked, 7, penalties=[1e-6], shrinkages=[0.0])
    plain = fit_discriminant(rows_of(features), labels, 5, penalties=[1e-6], shrinkages=[0.0])
    np.testing.assert_array_equal(scaled.predictions["test"], plain.predictions["test"])
    assert set(first.predictions["test"]) <= set(range(5))


def test_fits_are_the_same_each_time(classes, numbers):
    for fit, (features, labels), more in ((fit_ridge, numbers, ()), (fit_discriminant, classes, (5,))):
        first, second = (fit(rows_of(features), labels, *more) for _ in range(2))
        np.testing.assert_array_equal(first.predictions["test"], second.predictions["test"])
