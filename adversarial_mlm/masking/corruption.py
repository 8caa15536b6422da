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
    counters,
    gumbel,
    stream_keys,
    uniforms,
)
from adversarial_mlm.masking.losses import IGNORE_INDEX
from adversarial_mlm.masking.positions import choose_positions
from adversarial_mlm.masking.random_masks import (
    NOT_MASKED,
    RANDOM_STREAMS,
    corruption_mix,
    random_corruption,
    random_masks,
    replacement_ids_of,
)
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.masking.sampling import SAMPLERS, exact_budget, ranks, threshold_mask, topk_mask
from adversarial_mlm.models.modeling_noiser import KEEP, MASK, REPLACE, NoiserOutput
from adversarial_mlm.models.tokenization_protein import ResidueVocabulary
from adversarial_mlm.utils.hardware import sent


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

    @functools.cached_property
    def masked(self) -> torch.Tensor:
        """Residues masked in any way, `(batch, length)`, bool."""
        return self.adversarial | self.random


@dataclass
class NoiserChoice:
    """A noiser's choice. The tensors have a graph if the batch was corrupted with one.

    What is computed from the scores (`probabilities`, `importance`, `entropy`) is computed when it is first read.

    Attributes:
        scores ([`NoiserOutput`]): Output of the noiser.
        candidates (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be masked.
        numbers (`torch.Tensor` of shape `(3, batch)`, int64): Numbers of the noiser's masks, of random masks and of
            candidates in each row. They may be on the host.
        rules ([`MaskingRules`]): Numbers and kinds of masks.
        soft (`torch.Tensor` of shape `(batch, length)`, *optional*): The relaxed choice for the straight-through
            gradient, if `one_hot` was requested.
        winner (`torch.Tensor` of shape `(batch, length)`, int64, *optional*): Index of the winning option score at
            each position, if the noiser chooses how to mask.
    """

    scores: NoiserOutput
    candidates: torch.Tensor
    numbers: torch.Tensor
    rules: MaskingRules
    soft: torch.Tensor | None = None
    winner: torch.Tensor | None = None

    @functools.cached_property
    def budget(self) -> torch.Tensor:
        """Number of the noiser's masks in each row, on the device, `(batch,)`."""
        return sent(self.numbers[0], self.candidates.device)

    @functools.cached_property
    def probabilities(self) -> torch.Tensor:
        """Closed-form probability that the noiser masks each position, given the candidate set, `(batch, length)`.

        It does not apply to `selection: threshold`.
        """
        with torch.enable_grad():  # whoever reads it first may be without
            marginals = SAMPLERS[self.rules.sampler].marginals
            return marginals(self.scores.any_mask_scores, self.candidates, self.budget)

    @functools.cached_property
    def importance(self) -> torch.Tensor | None:
        """ρ / q_i of the mixture of both kinds of masks, without a gradient, `(batch, length)`.

        It is 1 outside of the candidate set, and `None` with `selection: threshold`, whose probabilities have no
        closed form.
        """
        if not self.rules.spends_budget:
            return None
        return _importance(self.probabilities.detach(), self.candidates, self.numbers)

    @functools.cached_property
    def log_learnable(self) -> torch.Tensor:
        """Mean any-mask score of the candidates of each row, `(batch,)`; 0 in a row without candidates.

        With `masking: chosen_proteins`, it is the logarithm of what the noiser predicts can be learned from the row.
        """
        scores = torch.where(self.candidates, self.scores.any_mask_scores, 0).sum(dim=1)
        return scores / sent(self.numbers[2], scores.device).clamp_min(1)

    @functools.cached_property
    def entropy(self) -> torch.Tensor:
        """Entropy of the softmax over the candidates of a row, divided by the logarithm of their number, `(batch,)`.

        It is 1 without any preference, and 0 if one position has all probability.
        """
        return _relative_entropy(self.scores.any_mask_scores.detach(), self.candidates, self.numbers[2])


def corrupt_batch(
    batch: Mapping[str, torch.Tensor],
    keys: torch.Tensor,
    vocabulary: ResidueVocabulary,
    rules: MaskingRules,
    noiser: Callable[..., NoiserOutput] | None = None,
    one_hot: bool = False,
    mask_at_random: Callable[..., tuple[torch.Tensor, ...]] | None = None,
) -> CorruptedBatch:
    """Corrupt a batch with the noiser's masks, if there is a noiser, and with random masks.

    Args:
        batch (`Mapping[str, torch.Tensor]`): `input_ids`, `attention_mask` and `residue_mask` (bool, true at
            residues), each `(batch, length)`, and `num_residues` `(batch,)`, which may be on the host. Some ways of
            choosing positions need more, see [`positions.choose_positions`].
        keys (`torch.Tensor` of shape `(batch,)`, int64): Keys of the rows' noise, see [`keyed_random.row_keys`]; they
            may be on the host.
        vocabulary ([`ResidueVocabulary`]): Residues, replacements and the mask token.
        rules ([`MaskingRules`]): Numbers and kinds of masks.
        noiser (`Callable`, *optional*): A [`NoiserModel`], possibly wrapped. It is not called if `adversarial_rate` is
            0.
        one_hot (`bool`, *optional*, defaults to `False`): Whether to return `one_hot` with its straight-through
            gradient. Otherwise `rss` is only computed if the hard choice needs it.
        mask_at_random (`Callable`, *optional*): In place of [`random_masks`], such as a compiled one. It is called
            where there is no noiser and the rules choose positions by independent draws.

    Returns:
        [`CorruptedBatch`]
    """
    input_ids = batch["input_ids"]
    noiser = noiser if rules.adversarial_rate else None
    if noiser is None and rules.positions == "random":
        return _masked_at_random(batch, keys, vocabulary, rules, mask_at_random or random_masks)
    draws = _draws(batch, keys, rules, noiser is not None)
    choice, chosen, by_chance = _choose_positions(batch, keys, draws, vocabulary, rules, noiser, one_hot)
    random_ids, random_option = random_corruption(
        input_ids, draws[RANDOM_OPTION], draws[RANDOM_RESIDUE], *corruption_mix(vocabulary, rules, input_ids.device)
    )
    noised_ids = torch.where(by_chance, random_ids, input_ids)
    option = torch.where(by_chance, random_option, NOT_MASKED)
    one_hots = None
    if choice is not None:
        noisy_options = _noisy_options(choice, keys)
        if one_hot:
            assert choice.soft is not None  # it was asked for
            one_hots = _straight_through(
                input_ids, noised_ids, chosen, choice.soft, noisy_options, rules.temperature, vocabulary
            )
        if noisy_options is None:
            noised_ids = noised_ids.masked_fill(chosen, vocabulary.mask_token_id)
            option = option.masked_fill(chosen, MASK)
        else:
            adversarial_ids, choice.winner = _chosen_corruption(input_ids, noisy_options, vocabulary)
            noised_ids = torch.where(chosen, adversarial_ids, noised_ids)
            option = torch.where(chosen, choice.winner.clamp_max(REPLACE), option)
    masked = by_chance if choice is None else chosen | by_chance
    corrupted = CorruptedBatch(
        input_ids=noised_ids,
        attention_mask=batch["attention_mask"],
        labels=torch.where(masked, input_ids, IGNORE_INDEX),
        adversarial=chosen,
        random=by_chance,
        option=option,
        one_hot=one_hots,
        choice=choice,
    )
    corrupted.masked = masked
    return corrupted


def _masked_at_random(
    batch: Mapping[str, torch.Tensor],
    keys: torch.Tensor,
    vocabulary: ResidueVocabulary,
    rules: MaskingRules,
    mask_at_random: Callable[..., tuple[torch.Tensor, ...]],
) -> CorruptedBatch:
    """Corrupt a batch with random masks on independent positions."""
    input_ids = batch["input_ids"]
    length, device = input_ids.shape[1], input_ids.device
    by_chance, noised_ids, option, labels = mask_at_random(
        input_ids,
        batch["residue_mask"],
        sent(rules.total_budget(batch["num_residues"], keys), device),
        stream_keys(keys, RANDOM_STREAMS, device),
        counters(length, device),
        ranks(length, device),
        *corruption_mix(vocabulary, rules, device),
    )
    corrupted = CorruptedBatch(
        input_ids=noised_ids,
        attention_mask=batch["attention_mask"],
        labels=labels,
        adversarial=torch.zeros_like(by_chance),
        random=by_chance,
        option=option,
    )
    corrupted.masked = by_chance
    return corrupted


def _draws(
    batch: Mapping[str, torch.Tensor], keys: torch.Tensor, rules: MaskingRules, has_noiser: bool
) -> dict[int, torch.Tensor]:
    """Uniform numbers `(batch, length)` of each stream that the rules need, drawn at once."""
    streams = list(RANDOM_STREAMS)
    if has_noiser:
        streams += [ANY_MASK, CANDIDATE] if rules.blind else [ANY_MASK]
    input_ids = batch["input_ids"]
    return uniforms(keys, streams, input_ids.shape[1], input_ids.device)


def _choose_positions(
    batch: Mapping[str, torch.Tensor],
    keys: torch.Tensor,
    draws: dict[int, torch.Tensor],
    vocabulary: ResidueVocabulary,
    rules: MaskingRules,
    noiser: Callable[..., NoiserOutput] | None,
    relaxed: bool,
) -> tuple[NoiserChoice | None, torch.Tensor, torch.Tensor]:
    """Return the noiser's choice, if there is one, its positions, and the random ones, `(batch, length)`, bool."""
    input_ids, residues, num_residues = batch["input_ids"], batch["residue_mask"], batch["num_residues"]
    device = input_ids.device
    choice, free = None, residues
    if noiser is None:
        random_budget = sent(rules.total_budget(num_residues, keys), device)
        chosen = torch.zeros_like(residues)
    else:
        size = rules.candidate_budget(num_residues, keys) if rules.blind else num_residues
        numbers = torch.stack([*rules.budgets(num_residues, keys), size])
        budget, random_budget, candidate_budget = sent(numbers, device).unbind()
        candidates, seen = residues, input_ids
        if rules.blind:
            candidates = topk_mask(draws[CANDIDATE], residues, candidate_budget, finite=True)
            seen = torch.where(candidates, vocabulary.mask_token_id, input_ids)
        scores = noiser(input_ids=seen, attention_mask=batch["attention_mask"])
        choice = NoiserChoice(scores, candidates, numbers, rules)
        choice.budget = budget
        chosen = _choose(choice, draws[ANY_MASK], relaxed=relaxed)
        free = candidates ^ chosen
    if rules.positions == "random":
        return choice, chosen, topk_mask(draws[RANDOM_POSITION], free, random_budget, finite=True)
    on_device = sent(keys, device)
    by_chance = choose_positions(rules.positions, batch, on_device, free, random_budget, rules.mean_span_length)
    return choice, chosen, by_chance


def _noisy_options(choice: NoiserChoice, keys: torch.Tensor) -> torch.Tensor | None:
    """Noisy scores of the options, `(batch, length, 2 + replacements)`; `None` if the noiser does not choose them."""
    if not choice.rules.learned_options:
        return None
    scores = choice.scores.option_scores
    length, kinds = scores.shape[1:]
    return scores + gumbel(sent(keys, scores.device), MASK_OPTION, length, kinds)


def _choose(choice: NoiserChoice, draws: torch.Tensor, relaxed: bool) -> torch.Tensor:
    """Return the noiser's positions, `(batch, length)`, bool; their relaxed choice becomes `choice.soft` if needed.

    `draws` are uniform numbers, `(batch, length)`.
    """
    any_mask, candidates, rules = choice.scores.any_mask_scores, choice.candidates, choice.rules
    length, sampler = candidates.shape[1], SAMPLERS[rules.sampler]
    noise = sampler.noise(draws)
    if sampler.relaxation is not None and (relaxed or not rules.spends_budget):
        # upper bound for all rows; reading the exact maximum would wait for the device
        bound = int(exact_budget(torch.tensor(length), rules.adversarial_rate))
        choice.soft = sampler.relaxation(
            any_mask, candidates, choice.budget, noise, rules.temperature, max_budget=bound, gated=rules.gated
        )
    elif relaxed:
        choice.soft = choice.probabilities
    if rules.spends_budget:
        return topk_mask(any_mask.detach() + noise, candidates, choice.budget)
    assert choice.soft is not None  # MaskingRules refuses a sampler without a relaxation here
    return threshold_mask(choice.soft.detach(), candidates)


def _importance(probabilities: torch.Tensor, candidates: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Return ρ / q_i: q_i = π_i + (1 − π_i) k_random / (n − k_adversarial), ρ = (k_adversarial + k_random) / n."""
    budget, random_budget, positions = numbers[0], numbers[1], numbers[2].to(probabilities.dtype)
    by_chance = random_budget / (positions - budget).clamp_min(1)
    rate = (budget + random_budget) / positions.clamp_min(1)
    by_chance, rate = sent(torch.stack([by_chance, rate])[..., None], probabilities.device).unbind()
    masked = torch.addcmul(probabilities, 1 - probabilities, by_chance)
    return torch.where(candidates & (masked > 0), rate / masked, 1)


def _chosen_corruption(
    input_ids: torch.Tensor, noisy_options: torch.Tensor, vocabulary: ResidueVocabulary
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token of the noiser's mask at each position, and the index of its option; both `(batch, length)`."""
    winner = noisy_options.detach().argmax(dim=-1)
    replacements = replacement_ids_of(vocabulary, input_ids.device)
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
            masked = masked.index_add(-1, replacement_ids_of(vocabulary, device), choice[..., REPLACE:])
        return (1 - mask_any) * base + mask_any * masked


def _relative_entropy(scores: torch.Tensor, residues: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Entropy of the softmax over `residues`, of which a row has `numbers` `(batch,)`; it may be on the host."""
    least = torch.finfo(scores.dtype).min
    p = torch.softmax(torch.where(residues, scores, least), dim=-1)
    entropy = (torch.special.entr(p) * residues).sum(dim=-1)
    return entropy / sent(torch.log(numbers.clamp_min(2).to(entropy.dtype)), scores.device)
