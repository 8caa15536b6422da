from types import SimpleNamespace

from adversarial_mlm.training.collapse import (
    collapse_figures,
    collapse_message,
    has_collapsed,
    random_loss_above_best,
)


def test_a_rise_is_measured_from_the_best_on_means_of_three():
    assert random_loss_above_best([]) == random_loss_above_best([2.9, 2.8]) == 0
    assert random_loss_above_best([3.0, 2.9, 2.8, 2.7]) == 0
    falling_then_rising = [3.0, 2.7, 2.7, 2.7, 2.9, 3.0, 3.1]
    assert abs(random_loss_above_best(falling_then_rising) - 0.3) < 1e-12


def test_one_bad_entry_is_no_rise_to_speak_of():
    assert random_loss_above_best([2.7] * 10 + [2.95]) < 0.1


def test_only_a_rise_together_with_an_obsession_is_a_collapse():
    assert has_collapsed(0.2, 4.0, margin=0.1, enrichment=2.0)
    assert not has_collapsed(0.2, 1.2, margin=0.1, enrichment=2.0)  # a rate too high, perhaps, but not the noiser
    assert not has_collapsed(0.0, 8.0, margin=0.1, enrichment=2.0)  # one-sided, and harmless so far


def test_losses_on_other_masks_are_not_compared():
    args = SimpleNamespace(collapse_margin=0.05, collapse_enrichment=2.0)
    history = [{"step": step, "random_loss": 2.0 if step <= 4 else 2.9} for step in range(1, 8)]
    entry = {"random_loss": 2.9, "enrichment_max": 3.4, "certain_enrichment": 3.0}
    assert collapse_figures(entry, history, args)["collapse"] == 1
    resumed = collapse_figures(entry, history, args, since=4)  # with more masks, which are harder
    assert resumed == {"random_loss_above_best": 0.0, "collapse": 0.0}


def test_what_chance_does_in_an_entry_of_few_proteins_is_no_obsession():
    args = SimpleNamespace(collapse_margin=0.05, collapse_enrichment=2.0)
    history = [{"step": step, "random_loss": 2.0} for step in range(1, 5)]
    entry = {"random_loss": 2.9, "enrichment_max": 5.0, "certain_enrichment": 0.4}
    assert collapse_figures(entry, history, args)["collapse"] == 0


def test_the_message_names_the_options_that_help():
    message = collapse_message(120, 0.25, 4.2, "full")
    for word in ("step 120", "0.25", "4.2", "noiser_learning_rate", "noiser_view: blind", "importance_exponent"):
        assert word in message
    assert "noiser_view" not in collapse_message(120, 0.25, 4.2, "blind")
