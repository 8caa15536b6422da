import pytest

from adversarial_mlm.training.noiser_schedule import Alternation


def as_printed(noiser_steps: int, encoder_steps: int, iterations: int) -> list[str]:
    """Algorithm 5, line by line."""
    i, mode, played = 1, "noiser", []
    while i <= iterations:
        played.append(mode)
        if mode == "noiser":
            if i % noiser_steps == 0:
                mode = "encoder"
        elif i % encoder_steps == 0:
            mode = "noiser"
        i += 1
    return played


def as_scheduled(alternation: Alternation, steps: int) -> list[str]:
    played, updates = [], []
    for step in range(steps):
        before = alternation.noiser_updates_before(step)
        updates += before
        played += ["noiser"] * len(before) + ["encoder"]
    assert updates == list(range(len(updates)))  # each once, in order
    return played


@pytest.mark.parametrize(("noiser", "encoder"), [(10, 10), (3, 2), (1, 4), (5, 1)])
def test_each_phase_has_the_length_asked_for(noiser, encoder):
    cycle = ["noiser"] * noiser + ["encoder"] * encoder
    assert as_scheduled(Alternation(noiser, encoder), 3 * encoder) == 3 * cycle


@pytest.mark.parametrize(("noiser", "encoder"), [(10, 10), (10, 5), (5, 10), (3, 2), (4, 6), (7, 3), (1, 4)])
def test_the_shared_counter_is_that_of_the_printed_algorithm(noiser, encoder):
    ours = as_scheduled(Alternation(noiser, encoder, shared_counter=True), 40)
    assert ours == as_printed(noiser, encoder, len(ours))


@pytest.mark.parametrize("shared", [False, True])
def test_a_step_has_the_same_updates_however_one_comes_to_it(shared):
    walked = Alternation(7, 3, shared)
    in_order = [walked.noiser_updates_before(step) for step in range(50)]
    for step in (49, 7, 0, 30):
        assert Alternation(7, 3, shared).noiser_updates_before(step) == in_order[step]
        assert walked.noiser_updates_before(step) == in_order[step]
