"""The laws of the samplers: every outcome counted in rows of up to eight positions, and the error of closed forms."""

import math

import numpy as np
import pytest
import torch

from adversarial_mlm.masking.keyed_random import ANY_MASK, ENCODER_PHASE, row_keys, uniform
from adversarial_mlm.masking.sampling import SAMPLERS, gumbel_topk_marginals, logistic_topk_marginals, topk_mask
from tests.helpers.plain_algorithms import inclusion, law_of_sets, successive_law_of_sets

SHORT_ROWS = [(4, 1), (5, 2), (7, 3), (8, 4), (8, 7)]
CLOSED = {"gumbel": gumbel_topk_marginals, "logistic": logistic_topk_marginals}


def scores_of(length: int, spread: float = 1.0, seed: int = 0) -> np.ndarray:
    return spread * np.random.default_rng(seed).normal(size=length)


@pytest.mark.parametrize(("length", "budget"), SHORT_ROWS)
def test_the_top_k_of_gumbel_keys_is_drawn_one_after_another_in_proportion_to_exp_scores(length, budget):
    scores = scores_of(length)
    counted, integrated = successive_law_of_sets(scores, budget), law_of_sets(scores, budget, "gumbel")
    assert counted.keys() == integrated.keys() and sum(counted.values()) == pytest.approx(1)
    assert max(abs(counted[chosen] - integrated[chosen]) for chosen in counted) < 1e-10
    of_position = [sum(p for chosen, p in counted.items() if i in chosen) for i in range(length)]
    np.testing.assert_allclose(inclusion(scores, budget, "gumbel"), of_position, atol=1e-10)


@pytest.mark.parametrize(("sampler", "law"), [("rss", "gumbel"), ("logistic_topk", "logistic")])
@pytest.mark.parametrize(("length", "budget"), [(5, 2), (8, 3)])
def test_drawn_sets_have_their_exact_probabilities(sampler, law, length, budget):
    draws, scores = 60_000, scores_of(length)
    keys = row_keys(0, ENCODER_PHASE, 0, torch.arange(draws))
    noise = SAMPLERS[sampler].noise(uniform(keys, ANY_MASK, length))
    mask = torch.ones(draws, length, dtype=torch.bool)
    chosen = topk_mask(torch.tensor(scores) + noise, mask, torch.full((draws,), budget))
    code = (chosen * 2 ** torch.arange(length)).sum(dim=1)
    counts = torch.bincount(code, minlength=2**length)
    exact = law_of_sets(scores, budget, law)
    observed = np.array([counts[sum(2**i for i in positions)].item() for positions in exact])
    expected = draws * np.array(list(exact.values()))
    assert observed.sum() == draws and expected.sum() == pytest.approx(draws)
    # chi-square: its mean is the degrees of freedom, and five deviations above it are not reached by chance
    freedom = len(exact) - 1
    assert ((observed - expected) ** 2 / expected).sum() < freedom + 5 * math.sqrt(2 * freedom)


def largest_errors(law: str, length: int, budget: int) -> list[float]:
    """Of a closed form in each of ten rows of scores of standard deviation 1.5."""
    mask, budgets = torch.ones(1, length, dtype=torch.bool), torch.tensor([budget])
    rows = [scores_of(length, spread=1.5, seed=seed) for seed in range(10)]
    closed = [CLOSED[law](torch.tensor(scores)[None], mask, budgets)[0].numpy() for scores in rows]
    exact = [inclusion(scores, budget, law) for scores in rows]
    return [np.abs(a - b).max().item() for a, b in zip(closed, exact, strict=True)]


@pytest.mark.parametrize(("length", "budget"), [(5, 1), (10, 2), (20, 4), (50, 10)])
def test_closed_forms_are_as_near_the_exact_probabilities_as_documented(repository, length, budget):
    errors = [largest_errors(law, length, budget) for law in CLOSED]
    cells = [f"{np.mean(found):.3f} ({max(found):.3f})" for found in errors]
    row = f"| {length}, {budget} | {cells[0]} | {cells[1]} |"
    assert row in (repository / "docs" / "algorithm.md").read_text(), row


@pytest.mark.parametrize("law", CLOSED)
def test_closed_forms_of_equal_scores_are_exact(law):
    mask = torch.ones(1, 7, dtype=torch.bool)
    closed = CLOSED[law](torch.zeros(1, 7, dtype=torch.float64), mask, torch.tensor([3]))[0].numpy()
    np.testing.assert_allclose(closed, inclusion(np.zeros(7), 3, law), atol=1e-9)
