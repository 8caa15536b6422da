"""Random masks on independent positions: which residues, and what the encoder reads in their place."""

import functools

import torch

from adversarial_mlm.masking.keyed_random import RANDOM_OPTION, RANDOM_POSITION, RANDOM_RESIDUE, numbers_of
from adversarial_mlm.masking.losses import IGNORE_INDEX
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.masking.sampling import topk_mask
from adversarial_mlm.models.modeling_noiser import MASK, REPLACE
from adversarial_mlm.models.tokenization_protein import ResidueVocabulary

NOT_MASKED = -1
RANDOM_STREAMS = (RANDOM_POSITION, RANDOM_OPTION, RANDOM_RESIDUE)
"""Streams of [`keyed_random`] that random masks need, in the order of [`random_masks`]."""


def random_masks(
    input_ids: torch.Tensor,
    residues: torch.Tensor,
    budget: torch.Tensor,
    rows: torch.Tensor,
    counters: torch.Tensor,
    positions: torch.Tensor,
    option_ends: torch.Tensor,
    replacements: torch.Tensor,
    mask_token_id: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mask residues at random, on independent positions.

    It is a pure function of tensors on one device, so that it can be compiled into one graph. The compiled masks are
    bitwise the same: all is done in integers, or in float32 without a product to which something is added.

    Args:
        input_ids (`torch.Tensor` of shape `(batch, length)`, int64): The proteins.
        residues (`torch.Tensor` of shape `(batch, length)`, bool): Positions that may be masked.
        budget (`torch.Tensor` of shape `(batch,)`, int64): Number of masks in each row.
        rows (`torch.Tensor` of shape `(3, batch)`, int64): Keys of the streams for position, option and residue, see
            [`keyed_random.stream_keys`].
        counters (`torch.Tensor` of shape `(length,)`, int64): See [`keyed_random.counters`].
        positions (`torch.Tensor` of shape `(length,)`, int64): See [`sampling.ranks`].
        option_ends (`torch.Tensor` of shape `(2,)`, float32): Share of [MASK], and of [MASK] and keep.
        replacements (`torch.Tensor`, int64): Ids of the residues that may replace one.
        mask_token_id (`int`): Id of [MASK].

    Returns:
        Masked positions (bool), and `input_ids`, `option` and `labels` of [`CorruptedBatch`]; all `(batch, length)`.
    """
    of_position, of_option, of_residue = numbers_of(rows, counters).unbind()
    by_chance = topk_mask(of_position, residues, budget, finite=True, positions=positions)
    random_ids, option = random_corruption(input_ids, of_option, of_residue, option_ends, replacements, mask_token_id)
    return (
        by_chance,
        torch.where(by_chance, random_ids, input_ids),
        torch.where(by_chance, option, NOT_MASKED),
        torch.where(by_chance, input_ids, IGNORE_INDEX),
    )


def random_corruption(
    input_ids: torch.Tensor,
    of_option: torch.Tensor,
    of_residue: torch.Tensor,
    option_ends: torch.Tensor,
    replacements: torch.Tensor,
    mask_token_id: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token of a random mask at each position, and its option, from uniform numbers; `(batch, length)`."""
    option = torch.bucketize(of_option, option_ends, right=True)  # MASK, KEEP or REPLACE
    letter = (of_residue * len(replacements)).long().clamp_max(len(replacements) - 1)
    replaced = torch.where(option == REPLACE, replacements[letter], input_ids)
    return torch.where(option == MASK, mask_token_id, replaced), option


def corruption_mix(
    vocabulary: ResidueVocabulary, rules: MaskingRules, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return the ends of the options, the ids of replacements and that of [MASK], see [`random_masks`]."""
    mask_share, keep_share, _ = rules.mask_options
    ends = _option_ends(mask_share, mask_share + keep_share, device)
    return ends, replacement_ids_of(vocabulary, device), vocabulary.mask_token_id


@functools.cache
def replacement_ids_of(vocabulary: ResidueVocabulary, device: torch.device) -> torch.Tensor:
    """Return the ids of the residues that may replace one, on a device."""
    # cached, because copying to a GPU waits for it
    return torch.tensor(vocabulary.replacement_ids, device=device)


@functools.cache
def _option_ends(mask_share: float, both_shares: float, device: torch.device) -> torch.Tensor:
    return torch.tensor([mask_share, both_shares], device=device, dtype=torch.float32)
