"""What the noiser may see, and what its choice then gives away: every outcome of a small world, counted.

The world: proteins of six residues of two kinds, in a joint distribution in which neighbours depend on each other. A
noiser with random weights masks one of them, one more is masked at random, both by [MASK]. The loss-optimal encoder
knows the law of the masks; the true conditional distribution takes the residues that are seen and nothing else.
"""

import itertools
import math

import pytest
import torch

from adversarial_mlm import NoiserConfig, NoiserModel
from adversarial_mlm.masking.corruption import corrupt_batch
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.masking.rules import MaskingRules

LENGTH, CANDIDATES = 6, 3
WORLD = list(itertools.product("AL", repeat=LENGTH))
RULES = {"random_rate": 1 / 6, "adversarial_rate": 1 / 6, "learned_options": False, "mask_options": (1.0, 0.0, 0.0)}


@pytest.fixture(scope="module")
def probability() -> dict[tuple, float]:
    """Of each protein: an Ising chain whose ends and middle lean to one kind."""
    fields = [0.6, -0.3, 0.2, -0.8, 0.4, 0.1]

    def weight(protein) -> float:
        spins = [1 if letter == "A" else -1 for letter in protein]
        pairs = sum(a * b for a, b in zip(spins, spins[1:], strict=False))
        return math.exp(0.5 * pairs + sum(f * s for f, s in zip(fields, spins, strict=True)))

    total = sum(weight(protein) for protein in WORLD)
    return {protein: weight(protein) / total for protein in WORLD}


@pytest.fixture
def noiser_of(tokenizer):
    def make(view: str, seed: int = 0) -> NoiserModel:
        torch.manual_seed(seed)
        sizes = {"embedding_size": 8, "hidden_size": 16, "num_hidden_layers": 2}
        noiser = NoiserModel(NoiserConfig.from_tokenizer(tokenizer, view=view, **sizes)).double().eval()
        torch.nn.init.normal_(noiser.score.weight, std=10.0)
        return noiser

    return make


def shares(noiser: NoiserModel, tokenizer, protein, hidden=()) -> list[float]:
    """exp(any-mask score) at each residue, the noiser not seeing those in `hidden`."""
    text = "".join(protein)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    for place in hidden:
        ids[0, place + 1] = tokenizer.mask_token_id
    with torch.no_grad():
        return noiser(ids).any_mask_scores[0, 1:-1].exp().tolist()


def law_of_masks(noiser: NoiserModel, tokenizer, protein, weighted: bool = False) -> dict[tuple, list[float]]:
    """P(both masked residues, which of them the noiser chose | protein), and that times the weight ρ / q of each.

    One residue is masked by the noiser, in proportion to its share, and one more at random; of three candidates where
    the noiser is blind, and q is the probability of a mask given those.
    """
    law: dict = {}
    blind = noiser.config.view == "blind"
    sets = list(itertools.combinations(range(LENGTH), CANDIDATES)) if blind else [tuple(range(LENGTH))]
    for candidates in sets:
        given = shares(noiser, tokenizer, protein, candidates if blind else ())
        total = sum(given[i] for i in candidates)
        share = {i: given[i] / total for i in candidates}
        others = len(candidates) - 1
        weight = {i: 2 / len(candidates) / (p + (1 - p) / others) if weighted else 1.0 for i, p in share.items()}
        for chosen, other in itertools.permutations(candidates, 2):
            p = share[chosen] / others / len(sets)
            sums = law.setdefault((frozenset((chosen, other)), chosen), [0.0, {chosen: 0.0, other: 0.0}])
            sums[0] += p
            sums[1][chosen] += p * weight[chosen]
            sums[1][other] += p * weight[other]
    return law


def leak(probability, laws) -> float:
    """Mean KL from the true conditional of a masked residue to the loss-optimal prediction, in nats."""
    seen: dict = {}
    for protein, p in probability.items():
        for (masked, _), (happens, counts) in laws[protein].items():
            visible = tuple("?" if i in masked else letter for i, letter in enumerate(protein))
            for place in masked:
                joint = seen.setdefault((visible, place), {})
                sums = joint.setdefault(protein[place], [0.0, 0.0, 0.0])
                sums[0] += p * happens
                sums[1] += p * counts[place]  # what the loss makes of it
    for (visible, place), joint in seen.items():
        for protein, p in probability.items():
            if all(v in ("?", letter) for v, letter in zip(visible, protein, strict=True)):
                joint.setdefault(protein[place], [0.0, 0.0, 0.0])[2] += p
    divergence = 0.0
    for joint in seen.values():
        happens, counted, true = (sum(sums[k] for sums in joint.values()) for k in range(3))
        for sums in joint.values():
            divergence += happens * sums[2] / true * math.log((sums[2] / true) / (sums[1] / counted))
    return divergence / 2  # two masked residues in every protein


@pytest.fixture
def leak_of(noiser_of, tokenizer, probability):
    def measure(view: str, weighted: bool = False) -> float:
        noiser = noiser_of(view)
        return leak(probability, {p: law_of_masks(noiser, tokenizer, p, weighted) for p in WORLD})

    return measure


@pytest.mark.parametrize("weighted", [False, True])
def test_a_blind_choice_gives_nothing_away(leak_of, weighted):
    assert abs(leak_of("blind", weighted)) < 1e-12


@pytest.mark.parametrize(("view", "at_least"), [("full", 0.1), ("context", 0.01)])
def test_a_choice_by_what_is_hidden_gives_it_away(leak_of, view, at_least):
    assert leak_of(view) > at_least


@pytest.mark.parametrize(("view", "at_least"), [("full", 0.05), ("context", 0.005)])
def test_weights_of_single_positions_mend_a_part_of_it_only(leak_of, view, at_least):
    # what the other mask tells is not weighed
    assert at_least < leak_of(view, weighted=True) < 0.9 * leak_of(view)


@pytest.mark.parametrize("view", ["full", "context", "blind"])
def test_the_law_counted_here_is_that_of_the_code(noiser_of, tokenizer, vocabulary, view):
    noiser, protein, draws = noiser_of(view), tuple("ALLALA"), 20_000
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
        places = (int(chosen.nonzero()), int(other.nonzero()))
        counts[frozenset(places), places[0]] = counts.get((frozenset(places), places[0]), 0) + 1
    law = law_of_masks(noiser, tokenizer, protein)
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
