"""Ways of choosing the positions of random masks. All choose exactly the budget of every row.

| name | positions | probability of a residue in one update |
| --- | --- | --- |
| `random` | independent draws | k / n, all sets of k are equally likely |
| `span` | spans of neighbours | k / n |
| `stratified` | without a repetition until all residues of the protein had their turn | k / n, as for `random` |
| `weighted` | in proportion to weights w, without replacement | min(1, c w), nearly (Pareto sampling, Rosén 1997) |

k is the budget of a row and n the number of its residues. Every function works on a batch, and none waits for the
device.
"""

from collections.abc import Mapping

import torch

from adversarial_mlm.masking.keyed_random import (
    RANDOM_POSITION,
    SPAN_CUT,
    SPAN_FIRST,
    SPAN_ORDER,
    STRATUM_BODY,
    STRATUM_HEAD,
    WEIGHTED,
    subkeys,
    uniform,
)
from adversarial_mlm.masking.sampling import SAMPLERS, topk_mask
from adversarial_mlm.utils.errors import CorpusError

POSITIONS = ("random", "span", "stratified", "weighted")
SPAN_LENGTH = 3.0
"""Mean length of spans, if `span_length` is not given."""

PASS, RECORD_KEY, WEIGHTS = "pass", "record_key", "mask_weights"
"""Keys of a batch: the epoch of each row `(batch,)` and a key of its record `(batch,)`, both int64, for `stratified`;
the weights of the residues `(batch, length)`, float32, for `weighted`."""

_PARETO = SAMPLERS["logistic_topk"]


def choose_positions(
    positions: str,
    batch: Mapping[str, torch.Tensor],
    keys: torch.Tensor,
    residues: torch.Tensor,
    budget: torch.Tensor,
    span_length: float = SPAN_LENGTH,
) -> torch.Tensor:
    """Choose the budget of every row.

    Args:
        positions (`str`): One of `POSITIONS`.
        batch (`Mapping[str, torch.Tensor]`): For `stratified` with `PASS` and `RECORD_KEY`, for `weighted` with
            `WEIGHTS`.
        keys (`torch.Tensor` of shape `(batch,)`, int64): Keys of the rows' noise.
        residues (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): Number of positions to choose.
        span_length (`float`, *optional*): With `span`: mean length of the spans.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, bool.

    Raises:
        CorpusError: If the batch lacks what the choice needs.
    """
    if positions == "span":
        return span_mask(keys, residues, budget, span_length)
    if positions == "stratified":
        if RECORD_KEY not in batch:
            raise CorpusError(
                "masking: stratified needs the record and the epoch of every protein: use AdversarialMLMTrainer with "
                "a dataset that is no stream, or give examples with `record` and `epoch`"
            )
        return stratified_mask(batch[RECORD_KEY], batch[PASS], residues, budget)
    if positions == "weighted":
        if WEIGHTS not in batch:
            raise CorpusError(
                "masking: weighted needs the weights of every protein: give mask_weights, or examples with a list "
                f"`{WEIGHTS}`"
            )
        return weighted_mask(keys, batch[WEIGHTS], residues, budget)
    return topk_mask(uniform(keys, RANDOM_POSITION, residues.shape[1]), residues, budget)


def span_mask(
    keys: torch.Tensor, residues: torch.Tensor, budget: torch.Tensor, mean_length: float = SPAN_LENGTH
) -> torch.Tensor:
    """Choose spans of neighbouring residues in random order until the budget is spent; the last one is cut short.

    The residues of a row are a ring that is cut before each residue with probability 1 / `mean_length`. The pieces
    are the spans. Because the law does not change if the ring turns, every residue is chosen with the same
    probability. A span over the ends of a protein gives two shorter ones. Spans that touch join, so runs of masked
    residues are longer than `mean_length` at high rates.

    Args:
        keys (`torch.Tensor` of shape `(batch,)`, int64): Keys of the rows' noise.
        residues (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): Number of positions to choose.
        mean_length (`float`, *optional*, defaults to 3): Mean length of the spans, at least 1.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, bool.
    """
    length = residues.shape[1]
    count = residues.sum(dim=1, keepdim=True)
    rank = residues.cumsum(dim=1) - 1
    begins = (uniform(keys, SPAN_CUT, length) < 1 / mean_length) & residues
    # a ring without a cut begins at a random residue
    first = (uniform(keys, SPAN_FIRST, 1).double() * count).long().minimum(count - 1)
    begins = torch.where(begins.any(dim=1, keepdim=True), begins, residues & (rank == first))
    column = torch.arange(length, device=residues.device).expand_as(rank)
    start = torch.where(begins, column, -1).cummax(dim=1).values
    start = torch.where(start < 0, start[:, -1:], start).clamp_min(0)  # the last span goes on at the beginning
    offset = (rank - rank.gather(1, start)) % count.clamp_min(1)
    order = uniform(keys, SPAN_ORDER, length).gather(1, start)
    # orders differ by 2^-23 at least, so spans stay together and are chosen from their beginning
    return topk_mask(order.double() - offset * 2.0**-40, residues, budget)


def stratified_mask(
    record_keys: torch.Tensor, passes: torch.Tensor, residues: torch.Tensor, budget: torch.Tensor
) -> torch.Tensor:
    """Choose residues so that after any number of passes over a protein, all were chosen equally often, or once more.

    Passes 0, 1, 2 … of a protein share out its residues: no residue is chosen again before all others were. Each such
    cycle has another random order. Where a pass is in two cycles, it takes the last residues of one and the first of
    the next. These are chosen by keys of the two cycles alone, so every pass is a function of its number. If more than
    half of the residues are masked, those that are not masked are shared out instead.

    Every single pass is a uniform draw of `budget` residues, as with `random`. The number of residues and the budget
    of a protein must be the same in all passes, otherwise counts can differ by more.

    Args:
        record_keys (`torch.Tensor` of shape `(batch,)`, int64): A key of each row's record.
        passes (`torch.Tensor` of shape `(batch,)`, int64): Number of the pass over the record, from 0.
        residues (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): Number of positions to choose.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, bool.
    """
    count = residues.sum(dim=1)
    few = torch.minimum(budget, count - budget)
    chosen = _share_of_pass(record_keys, passes, residues, count.clamp_min(1), few.clamp_min(1))
    chosen = chosen & (few > 0)[:, None]
    return torch.where((budget > few)[:, None], residues & ~chosen, chosen)


def _share_of_pass(
    record_keys: torch.Tensor, passes: torch.Tensor, residues: torch.Tensor, n: torch.Tensor, k: torch.Tensor
) -> torch.Tensor:
    """The k of n residues of a pass, k at most n / 2: a part of its cycle, or the end of one and the head of the next.

    A cycle is: its head (the residues that the pass over its beginning still needs), its body, and its tail.
    """
    length, begin = residues.shape[1], passes * k
    cycle = begin // n
    head, tail_size, next_head = (-cycle * n) % k, ((cycle + 1) * n) % k, (-(cycle + 1) * n) % k
    own, following = subkeys(record_keys, cycle), subkeys(record_keys, cycle + 1)
    first = topk_mask(uniform(own, STRATUM_HEAD, length), residues, head)
    first_of_next = topk_mask(uniform(following, STRATUM_HEAD, length), residues, next_head)
    order = uniform(own, STRATUM_BODY, length)
    tail = topk_mask(order, residues & ~first & ~first_of_next, tail_size)
    body = residues & ~first & ~tail
    offset = begin - cycle * n
    before = ((offset - head) // k).clamp_min(0) * k
    inside = topk_mask(order, body, before + k) & ~topk_mask(order, body, before)
    return torch.where((offset + k > n)[:, None], tail | first_of_next, inside)


def weighted_mask(
    keys: torch.Tensor, weights: torch.Tensor, residues: torch.Tensor, budget: torch.Tensor
) -> torch.Tensor:
    """Choose residues in proportion to weights, without replacement, by Pareto sampling.

    The probability of a residue is nearly that of [`inclusion_probabilities`]. For ten residues it differs by about
    0.01, and by up to 0.07 if one of them has most of the weight; for a hundred, with a budget of ten or more, by less
    than 0.001.

    Args:
        keys (`torch.Tensor` of shape `(batch,)`, int64): Keys of the rows' noise.
        weights (`torch.Tensor` of shape `(batch, length)`): Weights, 0 or more.
        residues (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): Number of positions to choose.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, bool.
    """
    return weighted_choice(uniform(keys, WEIGHTED, residues.shape[1]), weights, residues, budget)


def weighted_choice(
    draws: torch.Tensor, weights: torch.Tensor, residues: torch.Tensor, budget: torch.Tensor
) -> torch.Tensor:
    """As [`weighted_mask`], with uniform numbers `(batch, length)` in place of keys."""
    wanted = inclusion_probabilities(weights, residues, budget)
    return topk_mask(torch.logit(wanted) + _PARETO.noise(draws), residues, budget)


def inclusion_probabilities(weights: torch.Tensor, residues: torch.Tensor, budget: torch.Tensor) -> torch.Tensor:
    """Return min(1, c w) with the c of each row for which the sum is the budget.

    If a row has no more positive weights than its budget, these residues have probability 1, and the others share the
    rest equally.

    Args:
        weights (`torch.Tensor` of shape `(batch, length)`): Weights, 0 or more.
        residues (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be chosen.
        budget (`torch.Tensor` of shape `(batch,)`, int64): Sum of each row.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, float64; 0 where `residues` is false.
    """
    w = torch.where(residues, weights.double(), 0)
    k = torch.minimum(budget, residues.sum(dim=1))[:, None].double()
    ordered = w.sort(dim=1, descending=True).values
    rest = ordered.flip(1).cumsum(dim=1).flip(1)  # the sum from each position on
    left = k - torch.arange(w.shape[1], device=w.device)
    # the first residue, from the largest weight on, that need not be capped at 1
    fits = (left * ordered <= rest) | (left <= 0)
    capped = fits.int().argmax(dim=1, keepdim=True)
    scale = (k - capped).clamp_min(0) / rest.gather(1, capped).clamp_min(torch.finfo(torch.float64).tiny)
    positive = w > 0
    number = positive.sum(dim=1, keepdim=True)
    others = (residues & ~positive).sum(dim=1, keepdim=True)
    filled = torch.where(positive, 1.0, (k - number).clamp_min(0) / others.clamp_min(1))
    return torch.where(residues, torch.where(number > k, (w * scale).clamp_max(1), filled), 0)
