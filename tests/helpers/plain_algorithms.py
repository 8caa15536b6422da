"""Algorithms 1 and 3 of the paper as they are printed, for autograd, and the exact laws of short rows."""

import itertools

import numpy as np
import torch
from torch.nn import functional as F


def plain_rss(
    scores: torch.Tensor, mask: torch.Tensor, budget: torch.Tensor, noise: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Algorithm 1, where every row stops at its own budget."""
    keys, soft, spent = scores + noise, torch.zeros_like(scores), torch.zeros_like(scores)
    for draw in range(int(budget.max())):
        keys = keys + torch.log((1 - spent).clamp_min(1e-18))
        spent = torch.softmax((keys / temperature).masked_fill(~mask, -1e30), dim=-1)
        soft = soft + spent * (draw < budget)[:, None]
    return soft * mask


def printed_straight_through(
    x: torch.Tensor,
    overall: torch.Tensor,
    options: torch.Tensor | None,
    mask_id: int,
    replacement_ids: tuple[int, ...],
    mask_any: torch.Tensor | None = None,
) -> torch.Tensor:
    """Algorithm 3: `overall` is `p_mask_overall`, `options` is `p_mask_type`; `mask_any` replaces the threshold."""
    if mask_any is None:
        mask_any = torch.where(overall > 0.5, 1, 0)
    mask_token = F.one_hot(torch.tensor(mask_id), x.shape[-1])
    if options is None:
        masked = mask_token + (overall - overall.detach())[..., None]
    else:
        choice = F.one_hot(options.argmax(dim=-1), options.shape[-1]) + options - options.detach()
        masked = choice[..., :1] * mask_token + choice[..., 1:2] * x
        replaced = torch.zeros_like(masked)
        replaced[..., list(replacement_ids)] = choice[..., 2:]
        masked = masked + replaced
    return (1 - mask_any)[..., None] * x + mask_any[..., None] * masked


def _integrand(scores: np.ndarray, law: str) -> tuple[np.ndarray, np.ndarray]:
    """F_i and f_i dx of each key at nodes of a quadrature, `(length, nodes)`; `law` is `gumbel` or `logistic`."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    u = (nodes + 1) / 2
    shifted = 2 * np.log(u / (1 - u)) + scores.mean() - scores[:, None]
    if law == "gumbel":
        below = np.exp(-np.exp(-shifted))
        density = np.exp(-shifted) * below
    else:
        below = 1 / (1 + np.exp(-shifted))
        density = below * (1 - below)
    return below, density * weights / (u * (1 - u))


def law_of_sets(scores: np.ndarray, budget: int, law: str) -> dict[tuple[int, ...], float]:
    """Probability of each set that the `budget` largest of score + noise can be.

    The least chosen key is integrated over: P(S) = Σ_{j∈S} ∫ f_j Π_{i∈S, i≠j} (1 − F_i) Π_{i∉S} F_i.
    """
    below, density = _integrand(scores, law)
    found = {}
    for chosen in itertools.combinations(range(len(scores)), budget):
        rest = below[[i for i in range(len(scores)) if i not in chosen]].prod(axis=0)
        above = [(1 - below[[i for i in chosen if i != j]]).prod(axis=0) for j in chosen]
        found[chosen] = float((density[list(chosen)] * above * rest).sum())
    return found


def inclusion(scores: np.ndarray, budget: int, law: str) -> np.ndarray:
    """Probability that each position is among the `budget` largest of score + noise, `(length,)`.

    π_i = ∫ f_i P(fewer than `budget` of the others are larger), for rows in which sets are too many to count.
    """
    below, density = _integrand(scores, law)
    length = len(scores)
    larger = np.zeros((length, budget, below.shape[1]))  # of each position: P(so many of the others are larger)
    larger[:, 0] = 1
    for j in range(length):
        others = np.arange(length) != j
        stay = larger[others] * below[j]
        stay[:, 1:] += larger[others, :-1] * (1 - below[j])
        larger[others] = stay
    return (density * larger.sum(axis=1)).sum(axis=1)


def successive_law_of_sets(scores: np.ndarray, budget: int) -> dict[tuple[int, ...], float]:
    """Probability of each set when positions are drawn one after another in proportion to exp(score)."""
    weights = np.exp(scores)
    found: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(range(len(scores)), budget):
        probability, left = 1.0, weights.sum()
        for i in order:
            probability *= weights[i] / left
            left -= weights[i]
        chosen = tuple(sorted(order))
        found[chosen] = found.get(chosen, 0.0) + probability
    return found
