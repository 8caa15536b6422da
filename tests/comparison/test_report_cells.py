import pytest

from adversarial_mlm.comparison.report_cells import difference_cell


@pytest.mark.parametrize(
    ("p", "cell"),
    [(0.06, "p 0.06)"), (0.04, "p 0.04)*"), (0.0051, "p 0.01)*"), (0.004, "p < 0.01)*"), (1e-18, "p < 0.01)*")],
)
def test_a_small_p_is_never_written_as_zero(p, cell):
    row = {"metric": "random_loss", "mean": 0.05, "low": 0.01, "high": 0.09, "adjusted_p": p, "without_partner": []}
    assert difference_cell(row) == f"+0.050 (+0.010 to +0.090; {cell}"
