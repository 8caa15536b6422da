import pytest

from adversarial_mlm.utils.counts import count, verb


@pytest.mark.parametrize(
    ("number", "words", "text"),
    [
        (0, ("protein",), "0 proteins"),
        (1, ("protein",), "1 protein"),
        (2000, ("training record",), "2,000 training records"),
        (1, ("process", "processes"), "1 process"),
        (3, ("process", "processes"), "3 processes"),
    ],
)
def test_a_noun_fits_its_number(number, words, text):
    assert count(number, *words) == text


def test_a_verb_fits_its_number():
    assert [verb(number, "has", "have") for number in (0, 1, 2)] == ["have", "has", "have"]
