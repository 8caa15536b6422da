import dataclasses

import numpy as np
import pytest
import torch

from adversarial_mlm.inference.mask_view import view_masks
from adversarial_mlm.inference.variant_effects import marginals
from adversarial_mlm.masking.corruption import corrupt_batch
from adversarial_mlm.masking.data_collator import SequenceEncoder
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.models.modeling_noiser import KEEP, MASK, REPLACE
from adversarial_mlm.models.tokenization_protein import STANDARD_RESIDUES
from adversarial_mlm.utils.errors import CorpusError

PROTEIN = "MKTAYIAKQRQISFVKSHFSRQLEERLGAXWC"
DRAWS = 4000
RULES = {
    "full": MaskingRules(0.1, adversarial_rate=0.2, sampler="gumbel_topk", learned_options=False),
    "context": MaskingRules(0.1, adversarial_rate=0.2, sampler="logistic_topk"),
    "rss": MaskingRules(0.1, adversarial_rate=0.2),
    "threshold": MaskingRules(0.1, adversarial_rate=0.2, selection="threshold"),
    "blind": MaskingRules(0.1, adversarial_rate=0.2, sampler="gumbel_topk", blind=True),
    "blind rss": MaskingRules(0.1, adversarial_rate=0.2, blind=True, learned_options=False),
    "blind threshold": MaskingRules(0.1, adversarial_rate=0.2, selection="threshold", blind=True),
}


@pytest.fixture
def networks(make_encoder, make_noiser):
    def make(name):
        noiser = make_noiser(view=name.split()[0] if name.split()[0] in ("blind", "context") else "full").eval()
        torch.nn.init.normal_(noiser.score.weight, std=0.7)
        return make_encoder().eval(), noiser

    return make


@torch.no_grad()
def brute_force(noiser, rules, tokenizer, vocabulary, sequence):
    """Shares of draws, as in training, in which each residue is masked, and in which each option is used."""
    batch = SequenceEncoder(tokenizer)([{"sequence": sequence}] * DRAWS)
    keys = torch.arange(DRAWS) * 7919 + 12345
    corrupted = corrupt_batch(batch, keys, vocabulary, rules, noiser)
    inside = slice(1, 1 + len(sequence))
    options = [(corrupted.adversarial & (corrupted.option == option))[:, inside] for option in (MASK, KEEP, REPLACE)]
    return corrupted.adversarial[:, inside].double().mean(dim=0).numpy(), [
        option.double().mean(dim=0).numpy() for option in options
    ]


@pytest.mark.parametrize("name", RULES)
def test_probabilities_are_the_shares_of_many_draws(networks, tokenizer, vocabulary, name):
    model, noiser = networks(name)
    rules = RULES[name]
    found = view_masks(model, tokenizer, noiser, rules, PROTEIN, draws=400)
    share, options = brute_force(noiser, rules, tokenizer, vocabulary, PROTEIN)
    # a closed form is an approximation in so short a protein
    np.testing.assert_allclose(found.probability, share, atol=0.08)
    assert np.abs(found.probability - share).mean() < 0.02
    assert found.probability.max() > 2 * found.probability.min() >= 0
    for column, option in enumerate(options):
        np.testing.assert_allclose(found.corruption[:, column] * found.probability, option, atol=0.08)
    if rules.learned_options:
        assert (found.corruption > 0.02).all()
    else:
        assert found.favourite == ["[MASK]"] * len(PROTEIN)


@pytest.mark.parametrize("name", ["full", "context", "rss", "blind", "blind rss"])
@pytest.mark.parametrize("draws", [1, 5])
def test_probabilities_sum_to_the_budget(networks, tokenizer, name, draws):
    model, noiser = networks(name)
    found = view_masks(model, tokenizer, noiser, RULES[name], PROTEIN, draws=draws)
    assert found.budget == 6 and found.probability.sum() == pytest.approx(6, abs=1e-6)
    assert (found.probability >= 0).all() and (found.probability <= 1).all()
    assert found.draws == (draws if "blind" in name else 1)


def test_the_method_says_what_was_averaged(networks, tokenizer):
    words = {
        "full": "closed form of gumbel_topk",
        "rss": "closed form of gumbel_topk, which makes the same hard choices as rss",
        "threshold": "share of 3 draws of rss (threshold)",
        "blind": "closed form of gumbel_topk; mean over 3 candidate sets",
        "blind threshold": "share of 3 draws of rss (threshold), each with another candidate set",
    }
    for name, method in words.items():
        model, noiser = networks(name)
        assert view_masks(model, tokenizer, noiser, RULES[name], PROTEIN, draws=3).method == method


def test_candidate_sets_contain_all_residues_equally_often(networks, tokenizer):
    """So few sets give every residue a value: 32 residues, 16 of which are candidates."""
    model, noiser = networks("blind")
    torch.nn.init.zeros_(noiser.score.weight)  # a noiser without any preference
    found = view_masks(model, tokenizer, noiser, RULES["blind"], PROTEIN, draws=2)
    assert found.candidates == 16
    np.testing.assert_allclose(found.probability, 6 / 32, atol=1e-6)


def test_the_seed_decides_about_candidate_sets(networks, tokenizer):
    model, noiser = networks("blind")
    first, again, other = (
        view_masks(model, tokenizer, noiser, RULES["blind"], PROTEIN, draws=2, seed=seed).probability
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again) and not np.allclose(first, other)


def test_loss_entropy_and_answer_are_those_of_the_encoder_at_a_mask(networks, tokenizer, vocabulary):
    model, noiser = networks("full")
    found = view_masks(model, tokenizer, noiser, RULES["full"], PROTEIN)
    logs = torch.from_numpy(marginals(model, tokenizer, PROTEIN))
    ids = tokenizer(PROTEIN, return_tensors="pt")["input_ids"][0, 1:-1]
    np.testing.assert_allclose(found.loss, -logs[torch.arange(len(ids)), ids], atol=1e-9)
    standard = torch.softmax(logs[:, list(vocabulary.replacement_ids)], dim=-1)
    np.testing.assert_allclose(found.entropy, torch.distributions.Categorical(standard).entropy(), atol=1e-6)
    assert found.answer == "".join(STANDARD_RESIDUES[index] for index in standard.argmax(dim=-1))


def test_a_noiser_that_replaces_has_a_favourite_residue(networks, tokenizer, vocabulary):
    model, noiser = networks("rss")
    with torch.no_grad():
        noiser.score.weight.zero_()
        noiser.score.bias[1 + REPLACE + STANDARD_RESIDUES.index("W")] = 20
    found = view_masks(model, tokenizer, noiser, RULES["rss"], PROTEIN)
    assert found.favourite == ["replace by W"] * len(PROTEIN)
    np.testing.assert_allclose(found.corruption[:, 2], 1, atol=1e-3)


def test_a_long_protein_is_read_in_parts_with_their_own_budgets(networks, tokenizer):
    model, noiser = networks("full")
    whole = view_masks(model, tokenizer, noiser, RULES["full"], PROTEIN, max_length=18)
    halves = [
        view_masks(model, tokenizer, noiser, RULES["full"], half).probability for half in (PROTEIN[:16], PROTEIN[16:])
    ]
    assert whole.parts == 2 and whole.budget == 6
    np.testing.assert_allclose(whole.probability, np.concatenate(halves), atol=1e-6)


def test_an_unknown_residue_is_never_masked_and_has_no_loss(networks, tokenizer):
    model, noiser = networks("blind")
    found = view_masks(model, tokenizer, noiser, RULES["blind"], "mk?" + PROTEIN)
    assert found.sequence == "MK?" + PROTEIN
    assert found.probability[2] == 0 and np.isnan(found.loss[2]) and (found.probability[3:] > 0).all()


def test_input_that_cannot_be_shown_is_refused(networks, tokenizer):
    model, noiser = networks("full")
    for sequence in ("", "???", "--"):
        with pytest.raises(CorpusError, match="has no residue that can be masked"):
            view_masks(model, tokenizer, noiser, RULES["full"], sequence)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        view_masks(model, tokenizer, noiser, RULES["full"], PROTEIN, draws=0)
    without = dataclasses.replace(RULES["full"], adversarial_rate=0.0)
    with pytest.raises(ValueError, match="adversarial_rate is 0"):
        view_masks(model, tokenizer, noiser, without, PROTEIN)
