"""From a batch of proteins and the noiser's scores to a corrupted batch: Algorithms 2 and 3 of the paper.

Two kinds of masks share every protein: the noiser's (adversarial) and random ones, on disjoint residues, with exact
numbers of both in every row. The symbols of McDermott et al. (2021): `p_mask_overall` is the relaxed choice of
positions (`soft`), `mask_ANY` its hard form (`chosen`), `M` the choice of how to mask (`option`), `x̃` the result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .keyed_noise import ANY_MASK, MASK_OPTION, RANDOM_OPTION, RANDOM_POSITION, RANDOM_RESIDUE, gumbel, uniform
from .losses import IGNORE_INDEX
from .modeling_noiser import KEEP, MASK, REPLACE, NoiserOutput
from .sampling import exact_budget, rss, topk_mask
from .tokenization_protein import ResidueVocabulary

NOT_MASKED = -1


@dataclass
class NoisedBatch:
    """A corrupted batch.

    Attributes:
        input_ids (`torch.Tensor` of shape `(batch, length)`, int64): What the encoder reads.
        attention_mask (`torch.Tensor` of shape `(batch, length)`): 0 at padding.
        labels (`torch.Tensor` of shape `(batch, length)`, int64): The true token where a residue is masked in any way
            (a kept one included), -100 elsewhere.
        adversarial (`torch.Tensor` of shape `(batch, length)`, bool): Residues that the noiser masked.
        random (`torch.Tensor` of shape `(batch, length)`, bool): Residues masked at random; never both.
        option (`torch.Tensor` of shape `(batch, length)`, int64): `MASK`, `KEEP` or `REPLACE` where masked, -1
            elsewhere.
        one_hot (`torch.Tensor` of shape `(batch, length, vocab)`, *optional*): `input_ids` as one-hot vectors through
            which a gradient reaches the noiser's scores; only where that was asked for.
        entropy (`torch.Tensor` of shape `(batch,)`, *optional*): Entropy of the noiser's softmax over the residues of
            a row, divided by the logarithm of their number: 1 where it has no preference, 0 where it has one victim.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    adversarial: torch.Tensor
    random: torch.Tensor
    option: torch.Tensor
    one_hot: torch.Tensor | None = None
    entropy: torch.Tensor | None = None


def adversarial_and_random_budgets(
    num_residues: torch.Tensor, adversarial_rate: float, random_rate: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact numbers of adversarial and of random masks in each row.

    Their sum is the rounded sum of the rates, so that a run without a noiser and with `random_rate` equal to that sum
    masks just as many residues of every protein.

    Args:
        num_residues (`torch.Tensor` of shape `(batch,)`, int64): Residues that may be masked.
        adversarial_rate (`float`): Share for the noiser.
        random_rate (`float`): Share for random masks.

    Returns:
        Two `torch.Tensor` of shape `(batch,)`, int64.
    """
    total = exact_budget(num_residues, adversarial_rate + random_rate)
    adversarial = torch.minimum(exact_budget(num_residues, adversarial_rate), total)
    return adversarial, total - adversarial


def noise_batch(
    batch: Mapping[str, torch.Tensor],
    keys: torch.Tensor,
    vocabulary: ResidueVocabulary,
    *,
    random_rate: float,
    mask_options: Sequence[float] = (0.8, 0.1, 0.1),
    adversarial_rate: float = 0.0,
    scores: NoiserOutput | None = None,
    learned_options: bool = True,
    temperature: float = 1.0,
    differentiable: bool = False,
) -> NoisedBatch:
    """Corrupt a batch, with the noiser's choices where `scores` are given and random ones beside them.

    Args:
        batch (`Mapping[str, torch.Tensor]`): `input_ids`, `attention_mask`, `residue_mask` (bool, where a residue
            stands), each `(batch, length)`, and `num_residues` `(batch,)`.
        keys (`torch.Tensor` of shape `(batch,)`, int64): Keys of the rows' noise, see [`keyed_noise.row_keys`].
        vocabulary ([`ResidueVocabulary`]): What a residue, a replacement and [MASK] are.
        random_rate (`float`): Share of the residues masked at random.
        mask_options (`Sequence[float]`, *optional*, defaults to `(0.8, 0.1, 0.1)`): Shares of [MASK], keep and replace
            among the random masks. A replacement is drawn from the standard residues.
        adversarial_rate (`float`, *optional*, defaults to 0.0): Share of the residues masked by the noiser.
        scores ([`NoiserOutput`], *optional*): Needed where `adversarial_rate` is above 0.
        learned_options (`bool`, *optional*, defaults to `True`): Whether the noiser also chooses how to mask. With
            `False` it only writes [MASK] (Algorithm 3 with `p_mask_type = None`).
        temperature (`float`, *optional*, defaults to 1.0): Of both relaxations.
        differentiable (`bool`, *optional*, defaults to `False`): Whether to return `one_hot` with its straight-through
            gradient. Without it no relaxation is computed.

    Returns:
        [`NoisedBatch`]
    """
    input_ids, residues = batch["input_ids"], batch["residue_mask"]
    length = input_ids.shape[1]
    adversarial_budget, random_budget = adversarial_and_random_budgets(
        batch["num_residues"], adversarial_rate if scores is not None else 0.0, random_rate
    )

    chosen = torch.zeros_like(residues)
    if scores is not None:
        any_mask_noise = gumbel(keys, ANY_MASK, length)
        chosen = topk_mask(scores.any_mask_scores.detach() + any_mask_noise, residues, adversarial_budget)
    by_chance = topk_mask(uniform(keys, RANDOM_POSITION, length), residues & ~chosen, random_budget)

    random_ids, random_option = _random_corruption(input_ids, keys, vocabulary, mask_options)
    noised_ids = torch.where(by_chance, random_ids, input_ids)
    option = torch.where(by_chance, random_option, NOT_MASKED)
    one_hot = entropy = None
    if scores is not None:
        noisy_options = None
        if learned_options:
            noise = gumbel(keys, MASK_OPTION, length, scores.option_scores.shape[-1])
            noisy_options = scores.option_scores + noise  # (batch, length, 2 + replacements)
        adversarial_ids, adversarial_option = _chosen_corruption(input_ids, noisy_options, vocabulary)
        if differentiable:
            soft = rss(
                scores.any_mask_scores,
                residues,
                adversarial_budget,
                any_mask_noise,
                temperature,
                # no row can hold more; the exact maximum would have to be read back from the device
                max_budget=int(exact_budget(torch.tensor(length), adversarial_rate)),
            )
            one_hot = _straight_through(input_ids, noised_ids, chosen, soft, noisy_options, temperature, vocabulary)
        noised_ids = torch.where(chosen, adversarial_ids, noised_ids)
        option = torch.where(chosen, adversarial_option, option)
        entropy = _relative_entropy(scores.any_mask_scores.detach(), residues)
    return NoisedBatch(
        input_ids=noised_ids,
        attention_mask=batch["attention_mask"],
        labels=torch.where(chosen | by_chance, input_ids, IGNORE_INDEX),
        adversarial=chosen,
        random=by_chance,
        option=option,
        one_hot=one_hot,
        entropy=entropy,
    )


def _random_corruption(
    input_ids: torch.Tensor, keys: torch.Tensor, vocabulary: ResidueVocabulary, mask_options: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a random mask would put at each position, and which option that is; both `(batch, length)`."""
    length = input_ids.shape[1]
    draw = uniform(keys, RANDOM_OPTION, length)
    mask_share, keep_share, _ = mask_options
    option = torch.where(draw < mask_share, MASK, torch.where(draw < mask_share + keep_share, KEEP, REPLACE))
    replacements = torch.tensor(vocabulary.replacement_ids, device=input_ids.device)
    letter = (uniform(keys, RANDOM_RESIDUE, length) * len(replacements)).long().clamp_max(len(replacements) - 1)
    replaced = torch.where(option == REPLACE, replacements[letter], input_ids)
    return torch.where(option == MASK, vocabulary.mask_token_id, replaced), option


def _chosen_corruption(
    input_ids: torch.Tensor, noisy_options: torch.Tensor | None, vocabulary: ResidueVocabulary
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the noiser would put at each position, and which option that is; both `(batch, length)`."""
    if noisy_options is None:
        return torch.full_like(input_ids, vocabulary.mask_token_id), torch.full_like(input_ids, MASK)
    winner = noisy_options.detach().argmax(dim=-1)
    replacements = torch.tensor(vocabulary.replacement_ids, device=input_ids.device)
    replaced = torch.where(winner == KEEP, input_ids, replacements[(winner - REPLACE).clamp_min(0)])
    ids = torch.where(winner == MASK, vocabulary.mask_token_id, replaced)
    return ids, winner.clamp_max(REPLACE)


def _straight_through(
    input_ids: torch.Tensor,
    base_ids: torch.Tensor,
    chosen: torch.Tensor,
    soft: torch.Tensor,
    noisy_options: torch.Tensor | None,
    temperature: float,
    vocabulary: ResidueVocabulary,
) -> torch.Tensor:
    """Algorithm 3: hard values, and the gradient of the relaxed ones, `(batch, length, vocab)`.

    `base_ids` is the protein with its random masks: what stands at a position if the noiser leaves it alone. As
    printed the algorithm gives the any-mask score no gradient; the text asks for one ("the gradient of the output
    hardsample is equal to the gradient of its source probability"), and that is done here.
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
            masked = masked + choice[..., REPLACE:] @ one_hots[list(vocabulary.replacement_ids)]
        return (1 - mask_any) * base + mask_any * masked


def _relative_entropy(scores: torch.Tensor, residues: torch.Tensor) -> torch.Tensor:
    log_p = torch.log_softmax(scores.masked_fill(~residues, torch.finfo(scores.dtype).min), dim=-1)
    entropy = -(log_p.exp() * log_p).masked_fill(~residues, 0.0).sum(dim=-1)
    return entropy / torch.log(residues.sum(dim=-1).clamp_min(2).to(entropy.dtype))
