"""Corrupt a batch of proteins: Algorithms 2 and 3 of the paper.

Every protein has masks of the noiser (adversarial) and random masks, on different residues, with exact numbers of both
in every row. Symbols of McDermott et al. (2021): `p_mask_overall` is the relaxed choice of positions (`soft`),
`mask_ANY` its hard form (`chosen`), `M` the choice of how to mask (`option`), `x̃` the result.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from adversarial_mlm.masking.keyed_random import (
    ANY_MASK,
    CANDIDATE,
    MASK_OPTION,
    RANDOM_OPTION,
    RANDOM_POSITION,
    RANDOM_RESIDUE,
    gumbel,
    uniform,
)
from adversarial_mlm.masking.losses import IGNORE_INDEX
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.masking.sampling import SAMPLERS, exact_budget, threshold_mask, topk_mask
from adversarial_mlm.models.modeling_noiser import KEEP, MASK, REPLACE, NoiserOutput
from adversarial_mlm.models.tokenization_protein import ResidueVocabulary

NOT_MASKED = -1


@dataclass
class CorruptedBatch:
    """A corrupted batch.

    Attributes:
        input_ids (`torch.Tensor` of shape `(batch, length)`, int64): The encoder's input.
        attention_mask (`torch.Tensor` of shape `(batch, length)`): 0 at padding.
        labels (`torch.Tensor` of shape `(batch, length)`, int64): The true token of every masked residue, also of kept
            ones; -100 elsewhere.
        adversarial (`torch.Tensor` of shape `(batch, length)`, bool): Residues that the noiser masked.
        random (`torch.Tensor` of shape `(batch, length)`, bool): Residues masked at random; never both.
        option (`torch.Tensor` of shape `(batch, length)`, int64): `MASK`, `KEEP` or `REPLACE` at masked residues; -1
            elsewhere.
        one_hot (`torch.Tensor` of shape `(batch, length, vocab)`, *optional*): `input_ids` as one-hot vectors that
            pass a gradient to the noiser's scores, if requested.
        choice ([`NoiserChoice`], *optional*): The noiser's choice, if there is a noiser.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    adversarial: torch.Tensor
    random: torch.Tensor
    option: torch.Tensor
    one_hot: torch.Tensor | None = None
    choice: "NoiserChoice | None" = None

    @property
    def masked(self) -> torch.Tensor:
        """Residues masked in any way, `(batch, length)`, bool."""
        return self.adversarial | self.random


@dataclass
class NoiserChoice:
    """A noiser's choice. The tensors have a graph if the batch was corrupted with one.

    Attributes:
        scores ([`NoiserOutput`]): Output of the noiser.
        winner (`torch.Tensor` of shape `(batch, length)`, int64, *optional*): Index of the winning option score at
            each position, if the noiser chooses how to mask.
        probabilities (`torch.Tensor` of shape `(batch, length)`): Closed-form probability that the noiser masks each
            position, given the candidate set. It does not apply to `selection: threshold`.
        soft (`torch.Tensor` of shape `(batch, length)`, *optional*): The relaxed choice for the straight-through
            gradient, if `one_hot` was requested.
        importance (`torch.Tensor` of shape `(batch, length)`, *optional*): ρ / q_i of the mixture of both kinds of
            masks, without a gradient; 1 outside of the candidate set. `None` with `selection: threshold`, whose
            probabilities have no closed form.
        entropy (`torch.Tensor` of shape `(batch,)`): Entropy of the noiser's softmax over the candidate set of a row,
            divided by the logarithm of its size: 1 without any preference, 0 if one position has all probability.
    """

    scores: NoiserOutput
    winner: torch.Tensor | None
    probabilities: torch.Tensor
    soft: torch.Tensor | None
    importance: torch.Tensor | None
    entropy: torch.Tensor


def corrupt_batch(
    batch: Mapping[str, torch.Tensor],
    keys: torch.Tensor,
    vocabulary: ResidueVocabulary,
    rules: MaskingRules,
    noiser: Callable[..., NoiserOutput] | None = None,
    one_hot: bool = False,
) -> CorruptedBatch:
    """Corrupt a batch with the noiser's masks, if there is a noiser, and with random masks.

    Args:
        batch (`Mapping[str, torch.Tensor]`): `input_ids`, `attention_mask` and `residue_mask` (bool, true at
            residues), each `(batch, length)`, and `num_residues` `(batch,)`.
        keys (`torch.Tensor` of shape `(batch,)`, int64): Keys of the rows' noise, see [`keyed_random.row_keys`].
        vocabulary ([`ResidueVocabulary`]): Residues, replacements and the mask token.
        rules ([`MaskingRules`]): Numbers and kinds of masks.
        noiser (`Callable`, *optional*): A [`NoiserModel`], possibly wrapped. It is not called if `adversarial_rate` is
            0.
        one_hot (`bool`, *optional*, defaults to `False`): Whether to return `one_hot` with its straight-through
            gradient. Otherwise `rss` is only computed if the hard choice needs it.

    Returns:
        [`CorruptedBatch`]
    """
    input_ids, residues = batch["input_ids"], batch["residue_mask"]
    length = input_ids.shape[1]
    if not rules.adversarial_rate:
        noiser = None
    budget, random_budget = rules.budgets(batch["num_residues"])
    if noiser is None:
        budget, random_budget = torch.zeros_like(budget), budget + random_budget
    candidates = residues
    if noiser is not None and rules.blind:
        wanted = rules.candidate_budget(batch["num_residues"])
        candidates = topk_mask(uniform(keys, CANDIDATE, length), residues, wanted)

    chosen = torch.zeros_like(residues)
    if noiser is not None:
        seen = torch.where(candidates, vocabulary.mask_token_id, input_ids) if rules.blind else input_ids
        scores = noiser(input_ids=seen, attention_mask=batch["attention_mask"])
        chosen, soft, probabilities = _choose(scores, keys, candidates, budget, rules, relaxed=one_hot)
    by_chance = topk_mask(uniform(keys, RANDOM_POSITION, length), candidates & ~chosen, random_budget)

    random_ids, random_option = _random_corruption(input_ids, keys, vocabulary, rules)
    noised_ids = torch.where(by_chance, random_ids, input_ids)
    option = torch.where(by_chance, random_option, NOT_MASKED)
    one_hots = choice = None
    if noiser is not None:
        noisy_options = None
        if rules.learned_options:
            noise = gumbel(keys, MASK_OPTION, length, scores.option_scores.shape[-1])
            noisy_options = scores.option_scores + noise  # (batch, length, 2 + replacements)
        adversarial_ids, winner = _chosen_corruption(input_ids, noisy_options, vocabulary)
        if one_hot:
            assert soft is not None  # it was asked for
            one_hots = _straight_through(
                input_ids, noised_ids, chosen, soft, noisy_options, rules.temperature, vocabulary
            )
        noised_ids = torch.where(chosen, adversarial_ids, noised_ids)
        option = torch.where(chosen, winner.clamp_max(REPLACE), option)
        choice = NoiserChoice(
            scores=scores,
            winner=winner if rules.learned_options else None,
            probabilities=probabilities,
            soft=soft,
            importance=_importance(probabilities.detach(), candidates, budget, random_budget)
            if rules.spends_budget
            else None,
            entropy=_relative_entropy(scores.any_mask_scores.detach(), candidates),
        )
    return CorruptedBatch(
        input_ids=noised_ids,
        attention_mask=batch["attention_mask"],
        labels=torch.where(chosen | by_chance, input_ids, IGNORE_INDEX),
        adversarial=chosen,
        random=by_chance,
        option=option,
        one_hot=one_hots,
        choice=choice,
    )


def _choose(
    scores: NoiserOutput,
    keys: torch.Tensor,
    candidates: torch.Tensor,
    budget: torch.Tensor,
    rules: MaskingRules,
    relaxed: bool,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Return the noiser's positions: hard, relaxed (if requested or needed), and their closed-form probabilities."""
    any_mask, length = scores.any_mask_scores, candidates.shape[1]
    sampler = SAMPLERS[rules.sampler]
    noise = sampler.noise(keys, ANY_MASK, length)
    probabilities = sampler.marginals(any_mask, candidates, budget)
    soft = None
    if sampler.relaxation is not None and (relaxed or not rules.spends_budget):
        # upper bound for all rows; reading the exact maximum would wait for the device
        bound = int(exact_budget(torch.tensor(length), rules.adversarial_rate))
        soft = sampler.relaxation(
            any_mask, candidates, budget, noise, rules.temperature, max_budget=bound, gated=rules.gated
        )
    elif relaxed:
        soft = probabilities
    if rules.spends_budget:
        return topk_mask(any_mask.detach() + noise, candidates, budget), soft, probabilities
    assert soft is not None  # MaskingRules refuses a sampler without a relaxation here
    return threshold_mask(soft.detach(), candidates), soft, probabilities


def _importance(
    probabilities: torch.Tensor, candidates: torch.Tensor, budget: torch.Tensor, random_budget: torch.Tensor
) -> torch.Tensor:
    """Return ρ / q_i: q_i = π_i + (1 − π_i) k_random / (n − k_adversarial), ρ = (k_adversarial + k_random) / n."""
    positions = candidates.sum(dim=-1).to(probabilities.dtype)
    by_chance = random_budget / (positions - budget).clamp_min(1)
    masked = probabilities + (1 - probabilities) * by_chance[:, None]
    rate = (budget + random_budget) / positions.clamp_min(1)
    return torch.where(candidates & (masked > 0), rate[:, None] / masked, 1)


@functools.cache
def _replacement_ids(vocabulary: ResidueVocabulary, device: torch.device) -> torch.Tensor:
    # cached, because copying to a GPU waits for it
    return torch.tensor(vocabulary.replacement_ids, device=device)


def _random_corruption(
    input_ids: torch.Tensor, keys: torch.Tensor, vocabulary: ResidueVocabulary, rules: MaskingRules
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token of a random mask at each position, and its option; both `(batch, length)`."""
    length = input_ids.shape[1]
    draw = uniform(keys, RANDOM_OPTION, length)
    mask_share, keep_share, _ = rules.mask_options
    option = torch.where(draw < mask_share, MASK, torch.where(draw < mask_share + keep_share, KEEP, REPLACE))
    replacements = _replacement_ids(vocabulary, input_ids.device)
    letter = (uniform(keys, RANDOM_RESIDUE, length) * len(replacements)).long().clamp_max(len(replacements) - 1)
    replaced = torch.where(option == REPLACE, replacements[letter], input_ids)
    return torch.where(option == MASK, vocabulary.mask_token_id, replaced), option


def _chosen_corruption(
    input_ids: torch.Tensor, noisy_options: torch.Tensor | None, vocabulary: ResidueVocabulary
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token of the noiser's mask at each position, and its option; both `(batch, length)`."""
    if noisy_options is None:
        return torch.full_like(input_ids, vocabulary.mask_token_id), torch.full_like(input_ids, MASK)
    winner = noisy_options.detach().argmax(dim=-1)
    replacements = _replacement_ids(vocabulary, input_ids.device)
    replaced = torch.where(winner == KEEP, input_ids, replacements[(winner - REPLACE).clamp_min(0)])
    return torch.where(winner == MASK, vocabulary.mask_token_id, replaced), winner


def _straight_through(
    input_ids: torch.Tensor,
    base_ids: torch.Tensor,
    chosen: torch.Tensor,
    soft: torch.Tensor,
    noisy_options: torch.Tensor | None,
    temperature: float,
    vocabulary: ResidueVocabulary,
) -> torch.Tensor:
    """Algorithm 3: return hard values with the gradient of the relaxed values, `(batch, length, vocab)`.

    `base_ids` is the protein with its random masks: the tokens at positions that the noiser does not mask.

    The gradient of the any-mask score follows the paper's text, which "simply sets the gradient of the output
    hardsample to be equal to the gradient of its source probability". The pseudocode differs (docs/algorithm.md).
    """
    dtype, device = soft.dtype, soft.device
    one_hots = torch.eye(vocabulary.vocab_size, dtype=dtype, device=device)
    original, base = one_hots[input_ids], one_hots[base_ids]  # (batch, length, vocab)
    mask_token = one_hots[vocabulary.mask_token_id]
    with torch.autocast(device.type, enabled=False):
        mask_any = (chosen.to(dtype) + soft - soft.detach())[..., None]
        if noisy_options is None:
            masked = mask_token
        else:
            probabilities = torch.softmax(noisy_options.to(dtype) / temperature, dim=-1)
            hard = F.one_hot(noisy_options.argmax(dim=-1), noisy_options.shape[-1]).to(dtype)
            choice = hard + probabilities - probabilities.detach()  # (batch, length, 2 + replacements)
            masked = choice[..., MASK, None] * mask_token + choice[..., KEEP, None] * original
            # not a matrix product, whose precision depends on settings such as tf32
            masked = masked.index_add(-1, _replacement_ids(vocabulary, device), choice[..., REPLACE:])
        return (1 - mask_any) * base + mask_any * masked


def _relative_entropy(scores: torch.Tensor, residues: torch.Tensor) -> torch.Tensor:
    least = torch.finfo(scores.dtype).min
    log_p = torch.log_softmax(scores.masked_fill(~residues, least), dim=-1).clamp_min(least)
    entropy = -(log_p.exp() * log_p).masked_fill(~residues, 0.0).sum(dim=-1)
    return entropy / torch.log(residues.sum(dim=-1).clamp_min(2).to(entropy.dtype))
