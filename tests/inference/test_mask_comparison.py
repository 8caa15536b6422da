import dataclasses

import numpy as np
import pytest
import torch

from adversarial_mlm.inference.mask_comparison import compare_masks
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.models.modeling_noiser import KEEP, MASK, REPLACE
from adversarial_mlm.utils.errors import CorpusError

PROTEIN = "MKTAYIAKQRQISFVKSHFSRQLEERLGAXWC"
BLIND = MaskingRules(0.1, adversarial_rate=0.2, sampler="gumbel_topk", blind=True, learned_options=False)


@pytest.fixture
def networks(make_encoder, make_noiser):
    def make(view="blind"):
        return make_encoder().eval(), make_noiser(view=view).eval()

    return make


def test_both_kinds_have_the_same_budget_in_every_draw(networks, tokenizer):
    model, noiser = networks()
    found = compare_masks(model, tokenizer, noiser, BLIND, PROTEIN, draws=5)
    assert (found.budget, found.of_noiser, found.only_mask, found.sequence) == (10, 6, True, PROTEIN)
    for kind, by_noiser in ((found.random, 0), (found.learned, 6)):
        assert kind.masked.shape == (5, 32) and kind.masked.sum(axis=1).tolist() == [10] * 5
        assert kind.by_noiser.sum(axis=1).tolist() == [by_noiser] * 5
        assert set(kind.option[kind.masked]) == {MASK} and set(kind.option[~kind.masked]) == {-1}
        assert (np.isfinite(kind.loss) == kind.masked).all()
    assert not np.array_equal(found.random.masked, found.learned.masked)


def test_a_loss_is_that_of_the_encoder_at_the_masks_of_its_draw(networks, tokenizer):
    model, noiser = networks()
    found = compare_masks(model, tokenizer, noiser, BLIND, PROTEIN, draws=2).learned
    ids = tokenizer(PROTEIN, return_tensors="pt")["input_ids"]
    masked = torch.from_numpy(np.pad(found.masked[1], 1))
    with torch.no_grad():
        logits = model(input_ids=torch.where(masked, tokenizer.mask_token_id, ids)).logits
    losses = -torch.log_softmax(logits[0].double(), dim=-1)[torch.arange(ids.shape[1]), ids[0]]
    np.testing.assert_allclose(found.loss[1][found.masked[1]], losses[masked], rtol=1e-5)
    assert found.means[1] == pytest.approx(losses[masked].mean().item(), rel=1e-5)


def test_the_seed_decides_about_the_masks(networks, tokenizer):
    model, noiser = networks()
    first, again, other = (
        compare_masks(model, tokenizer, noiser, BLIND, PROTEIN, draws=3, seed=seed, batch_tokens=tokens)
        for seed, tokens in ((0, None), (0, 1), (1, None))
    )
    for kind in ("random", "learned"):
        assert np.array_equal(getattr(first, kind).masked, getattr(again, kind).masked)
        assert not np.array_equal(getattr(first, kind).masked, getattr(other, kind).masked)


def test_a_noiser_that_chooses_how_to_mask_is_compared_with_the_mix_of_its_training(networks, tokenizer):
    model, noiser = networks("full")
    rules = MaskingRules(0.2, (0.0, 0.5, 0.5), adversarial_rate=0.2)
    found = compare_masks(model, tokenizer, noiser, rules, PROTEIN, draws=20)
    assert not found.only_mask and set(found.random.option[found.random.masked]) == {KEEP, REPLACE}
    assert set(found.learned.option[found.learned.by_noiser]) == {MASK, KEEP, REPLACE}
    at_mask = np.where(found.learned.option == MASK, found.learned.loss, np.nan)
    np.testing.assert_allclose(
        found.learned.means_at_mask, [np.nanmean(row) if np.isfinite(row).any() else np.nan for row in at_mask]
    )
    assert np.isnan(found.random.means_at_mask).all()


def test_a_long_protein_is_cut_into_parts_with_their_own_budgets(networks, tokenizer):
    model, noiser = networks()
    found = compare_masks(model, tokenizer, noiser, BLIND, PROTEIN, draws=4, max_length=18)
    assert found.budget == 10 and (found.learned.masked[:, :16].sum(axis=1) == 5).all()
    assert found.learned.masked.shape == (4, 32)


def test_proteins_and_options_that_cannot_be_compared_are_refused(networks, tokenizer):
    model, noiser = networks()
    for sequence in ("", "M", "???"):
        with pytest.raises(CorpusError, match="too few residues for a mask of the noiser"):
            compare_masks(model, tokenizer, noiser, BLIND, sequence)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        compare_masks(model, tokenizer, noiser, BLIND, PROTEIN, draws=0)
    without = dataclasses.replace(BLIND, adversarial_rate=0.0)
    with pytest.raises(ValueError, match="adversarial_rate is 0"):
        compare_masks(model, tokenizer, noiser, without, PROTEIN)
