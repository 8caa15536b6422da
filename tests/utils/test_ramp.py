import pytest

from adversarial_mlm.utils.ramp import Ramp


def test_a_ramp_is_constant_or_straight_between_its_points():
    assert [Ramp(["0.3"], "x")(step) for step in (0, 10_000)] == [0.3, 0.3]
    ramp = Ramp(["-1@10", "1@20", "0@40"], "x")
    assert [ramp(step) for step in (0, 10, 15, 20, 30, 40, 99)] == [-1, -1, 0, 1, 0.5, 0, 0]
    assert Ramp(["0@0 1@100"], "x")(50) == 0.5  # one line of YAML


@pytest.mark.parametrize("points", [["fast"], ["1@0", "2@0"], ["1@5", "2@3"], ["1@2@3"], [], ["1@0", "2"], ["1@0.5"]])
def test_what_is_no_ramp_is_refused_by_its_options_name(points):
    with pytest.raises(ValueError, match="adversarial_share must be one number, or value@step points"):
        Ramp(points, "adversarial_share")


def test_steps_may_be_shares_of_a_run_whose_length_is_known():
    ramp = Ramp(["0.7@0", "0@50%"], "x", max_steps=200)
    assert [ramp(step) for step in (0, 50, 100, 150)] == [0.7, 0.35, 0, 0]
    for points, length in ((["0.7@0", "0@50%"], None), (["0.7@5", "0@50%"], 200)):
        with pytest.raises(ValueError, match="x must be one number, or value@step points"):
            Ramp(points, "x", length)
