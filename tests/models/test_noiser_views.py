"""What the noiser may see, and what its choice then reveals: every outcome of a small world, counted."""

import pytest
import torch

from adversarial_mlm.masking.corruption import corrupt_batch
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.masking.rules import MaskingRules
from benchmarks import leak
from benchmarks.leak import LENGTH, laws_of_masks, random_noiser

RULES = {"random_rate": 1 / 6, "adversarial_rate": 1 / 6, "learned_options": False, "mask_options": (1.0, 0.0, 0.0)}


@pytest.mark.parametrize("view", ["full", "context"])
def test_the_documented_leak_is_that_of_twenty_random_noisers(repository, view):
    assert leak.row(view) in (repository / "docs" / "algorithm.md").read_text()


def test_a_blind_choice_reveals_nothing():
    assert max(map(abs, leak.measure("blind", seed=0))) < 1e-12


def test_a_choice_of_proteins_reveals_nothing_if_the_masked_residues_are_hidden(repository):
    assert max(abs(leak.measure_choice("blind", seed)) for seed in range(3)) < 1e-12
    assert leak.row_of_choice("full") in (repository / "docs" / "algorithm.md").read_text()


@pytest.mark.parametrize(("view", "at_least"), [("full", 0.05), ("context", 0.005)])
def test_weights_of_single_positions_remove_a_part_of_the_leak_only(view, at_least):
    # what the other mask reveals has no weight
    plain, weighted = leak.measure(view, seed=0)
    assert at_least < weighted < 0.9 * plain


@pytest.mark.parametrize("view", ["full", "context", "blind"])
def test_the_law_counted_here_is_that_of_the_code(tokenizer, vocabulary, view):
    noiser, protein, draws = random_noiser(tokenizer, view), tuple("ALLALA"), 20_000
    ids = tokenizer("".join(protein), return_tensors="pt")["input_ids"].expand(draws, -1)
    residues = torch.zeros_like(ids, dtype=torch.bool)
    residues[:, 1:-1] = True
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "residue_mask": residues,
        "num_residues": torch.full((draws,), LENGTH),
    }
    rules = MaskingRules(blind=view == "blind", **RULES)
    with torch.no_grad():
        corrupted = corrupt_batch(batch, row_keys(0, ENCODER_PHASE, 0, torch.arange(draws)), vocabulary, rules, noiser)
    counts: dict = {}
    for chosen, other in zip(corrupted.adversarial[:, 1:-1], corrupted.random[:, 1:-1], strict=True):
        positions = (int(chosen.nonzero()), int(other.nonzero()))
        outcome = (frozenset(positions), positions[0])
        counts[outcome] = counts.get(outcome, 0) + 1
    law = laws_of_masks(noiser, tokenizer)[protein]
    assert sum(p for p, _ in law.values()) == pytest.approx(1.0)
    # total variation between 20,000 draws and their own law of thirty outcomes is about 0.015
    assert sum(abs(counts.get(key, 0) / draws - p) for key, (p, _) in law.items()) / 2 < 0.03


@pytest.mark.parametrize("view", ["full", "blind"])
def test_importance_weights_give_every_residue_its_expected_count(make_noiser, tokenizer, vocabulary, proteins, view):
    """Horvitz and Thompson: the expectation of Σ_{masked} v_i ρ / q_i is ρ Σ v_i, for any fixed values v."""
    from adversarial_mlm import DataCollatorForAdversarialMLM

    noiser = make_noiser(view=view)
    noiser.score.weight.data *= 5
    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=noiser, sampler="logistic_topk")
    one = collator([{"sequence": proteins[0]}])
    draws = 4000
    batch = {name: tensor.expand(draws, *tensor.shape[1:]) for name, tensor in one.items()}
    corrupted = collator.corrupt(batch, row_keys(0, ENCODER_PHASE, 0, torch.arange(draws)))
    residues = one["residue_mask"][0]
    counted = (corrupted.masked * corrupted.choice.importance).mean(dim=0)[residues]
    plain = corrupted.masked.float().mean(dim=0)[residues]
    rate = corrupted.masked.sum(dim=1).float().mean() / residues.sum()
    assert (plain - rate).abs().max() > 0.04  # the noiser has favourites
    # five standard errors of a share of 0.2 in 4,000 draws are 0.03
    assert (counted - rate).abs().max() < 0.03
    values = torch.randn(len(counted), generator=torch.Generator().manual_seed(0))
    error = (rate * (1 - rate) / draws) ** 0.5 * values.norm()
    assert ((counted - rate) @ values).abs() < 4 * error
