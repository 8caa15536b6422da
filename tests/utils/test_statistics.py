import math
import sys

import pytest

from adversarial_mlm.utils.extras import MissingPackageError
from adversarial_mlm.utils.statistics import holm, median_interval, paired_difference, t_p_value, t_quantile


def test_the_interval_of_a_median_is_of_order_statistics():
    assert median_interval([5, 1, 3]) == (1, 5)
    # of nine values the second and the eighth hold the median with 96 %, the third and the seventh with 82 %
    assert median_interval(range(9)) == (1, 7)


@pytest.mark.parametrize(
    "freedom, quantile", [(1, 12.706205), (2, 4.302653), (3, 3.182446), (9, 2.262157), (30, 2.042272)]
)
def test_quantiles_of_t_are_those_of_the_tables(freedom, quantile):
    assert t_quantile(0.95, freedom) == pytest.approx(quantile, abs=1e-6)


@pytest.mark.parametrize(
    "t, freedom, p_value",
    [(0.0, 3, 1.0), (1.0, 1, 0.5), (-1.0, 1, 0.5), (4.302653, 2, 0.05), (1.0, 4, 0.373901), (2.042272, 30, 0.05)],
)
def test_p_values_of_t_are_those_of_the_tables(t, freedom, p_value):
    assert t_p_value(t, freedom) == pytest.approx(p_value, abs=1e-6)


def test_a_small_p_value_keeps_its_digits():
    # 2 · P(T > t) = 1 − t / √(2 + t²) with 2 degrees of freedom, which is near 1 / t² for a large t
    assert t_p_value(1e9, 2) == pytest.approx(1e-18, rel=1e-6)


def test_without_scipy_one_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.delitem(sys.modules, "scipy.stats", raising=False)
    message = r"^Student's t distribution needs .* scipy, .*: pip install 'adversarial-mlm\[compare\]'$"
    with pytest.raises(MissingPackageError, match=message):
        paired_difference([1.0, 2.0, 4.0], [0.0, 2.0, 2.0])
    assert paired_difference([2.0], [1.5]).mean == 0.5  # a single pair needs no distribution


def test_a_paired_difference_has_the_interval_of_students_t():
    found = paired_difference([1.0, 2.0, 4.0], [0.0, 2.0, 2.0])  # differences 1, 0, 2: mean 1, deviation 1
    reach = 4.302653 / math.sqrt(3)
    assert (found.mean, found.pairs) == (1.0, 3)
    assert (found.low, found.high) == pytest.approx((1 - reach, 1 + reach), abs=1e-6)
    assert found.p_value == pytest.approx(0.225403, abs=1e-6)  # P(|T| > 1.7320508) with 2 degrees of freedom


def test_one_pair_has_a_difference_and_no_interval():
    found = paired_difference([2.0], [1.5])
    assert found.mean == 0.5 and all(math.isnan(value) for value in (found.low, found.high, found.p_value))


@pytest.mark.parametrize("first", [[3.0, 3.0], [4.0, 4.0], [0.1 + 0.2 + 3.0, 3.3]])
def test_differences_without_any_spread_tell_nothing_of_chance(first):
    found = paired_difference(first, [3.0, 3.0])
    assert found.mean == pytest.approx(first[0] - 3.0)
    assert all(math.isnan(value) for value in (found.low, found.high, found.p_value))


def test_what_has_no_partner_is_refused():
    with pytest.raises(ValueError, match="must have the same number of values, at least one, got"):
        paired_difference([1.0], [])


def test_holm_multiplies_the_smallest_by_all_and_never_lets_a_larger_one_pass_it():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_comparisons_without_a_p_value_do_not_count_for_the_others():
    first, none = holm([0.02, math.nan])
    assert first == 0.02 and math.isnan(none)
