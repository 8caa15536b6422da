"""The draw of the proteins of an update: how many, how often each, and what it does not depend on."""

import pytest
import torch

from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.masking.positions import inclusion_probabilities
from adversarial_mlm.masking.protein_choice import choose_proteins

LEARNABLE = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.2, 0.1, 0.5, 0.2, 0.3, 0.7], dtype=torch.float64)


def keys_of(update, rows=10):
    return row_keys(5, ENCODER_PHASE, update, torch.arange(rows))


def test_a_protein_is_chosen_in_proportion_to_what_can_be_learned_from_it():
    draws = torch.stack([choose_proteins(keys_of(update), LEARNABLE, 4) for update in range(4000)])
    assert (draws.sum(dim=1) == 4).all()
    wanted = inclusion_probabilities(LEARNABLE[None], torch.ones(1, 10, dtype=torch.bool), torch.tensor([4]))[0]
    assert wanted.tolist() == pytest.approx((4 * LEARNABLE / LEARNABLE.sum()).tolist())
    # Pareto sampling: exact to about 0.01 for ten rows
    assert (draws.double().mean(dim=0) - wanted).abs().max() < 0.03


def test_the_order_of_the_rows_and_the_unit_do_not_matter():
    order = torch.tensor([3, 9, 0, 1, 7, 5, 2, 8, 6, 4])
    for update in range(50):
        chosen = choose_proteins(keys_of(update), LEARNABLE, 5)
        assert torch.equal(choose_proteins(keys_of(update)[order], LEARNABLE[order], 5), chosen[order])
        assert torch.equal(choose_proteins(keys_of(update), 1024 * LEARNABLE, 5), chosen)


def test_equal_prospects_give_a_uniform_draw():
    draws = torch.stack([choose_proteins(keys_of(update), torch.ones(10), 3) for update in range(4000)])
    assert (draws.double().mean(dim=0) - 0.3).abs().max() < 4.5 * (0.3 * 0.7 / 4000) ** 0.5


def test_one_from_which_much_can_be_learned_is_always_chosen_and_a_filler_only_if_all_are():
    learnable = torch.tensor([1.0, 1.0, 90.0, 1.0, 0.0, 1.0])
    for update in range(200):
        chosen = choose_proteins(keys_of(update, 6), learnable, 3)
        assert chosen[2] and not chosen[4] and chosen.sum() == 3
    assert choose_proteins(keys_of(0, 6), learnable, 6).all()
