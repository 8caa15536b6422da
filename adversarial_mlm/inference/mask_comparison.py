"""The same protein under a noiser's masks and under random masks of the same budget."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.data.cleaning import clean_sequence
from adversarial_mlm.inference.frozen_encoder import check_max_length, default_batch_tokens, default_max_length
from adversarial_mlm.inference.mask_view import checked_vocabulary, equal_parts
from adversarial_mlm.masking.corruption import corrupt_batch
from adversarial_mlm.masking.data_collator import SequenceEncoder
from adversarial_mlm.masking.keyed_random import EVALUATION, row_keys
from adversarial_mlm.masking.losses import token_losses
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.models.modeling_noiser import MASK, NoiserModel
from adversarial_mlm.models.tokenization_protein import ResidueVocabulary
from adversarial_mlm.utils.errors import CorpusError, shorten

_ONLY_MASK = (1.0, 0.0, 0.0)


@dataclass(frozen=True)
class DrawnMasks:
    """Masks of one kind on a protein. Arrays have the shape `(draws, residues)`.

    Attributes:
        masked (`np.ndarray`, bool): Residues that are masked in any way.
        by_noiser (`np.ndarray`, bool): Those that the noiser masked.
        option (`np.ndarray`, int64): `MASK`, `KEEP` or `REPLACE` at masked residues; -1 elsewhere.
        loss (`np.ndarray`): Cross-entropy of the encoder at masked residues, in nats; nan elsewhere.
    """

    masked: np.ndarray
    by_noiser: np.ndarray
    option: np.ndarray
    loss: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """Mean loss of each draw over its masked residues: `(draws,)`."""
        return np.nanmean(self.loss, axis=1)

    @property
    def means_at_mask(self) -> np.ndarray:
        """Mean loss of each draw over the residues that are [MASK]: `(draws,)`; nan for a draw without one."""
        at_mask = np.where(self.option == MASK, self.loss, 0).sum(axis=1)
        return at_mask / np.where((self.option == MASK).any(axis=1), (self.option == MASK).sum(axis=1), np.nan)


@dataclass(frozen=True)
class MaskComparison:
    """The same protein under two kinds of masks, with the same number of masked residues in each draw.

    Attributes:
        sequence (`str`): The protein.
        random ([`DrawnMasks`]): All masks at random.
        learned ([`DrawnMasks`]): The noiser's masks, and random ones in addition as in its training.
        budget (`int`): Masked residues in each draw, of both kinds. With `selection: threshold`, learned masks may be
            fewer.
        of_noiser (`int`): How many of them the noiser may choose.
        only_mask (`bool`): Whether all masks are [MASK], so that the two kinds differ in positions only. Otherwise the
            noiser also chooses how to mask, and the random masks have the corruption mix of the training.
    """

    sequence: str
    random: DrawnMasks
    learned: DrawnMasks
    budget: int
    of_noiser: int
    only_mask: bool


@torch.no_grad()
def compare_masks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    noiser: NoiserModel,
    rules: MaskingRules,
    sequence: str,
    *,
    draws: int = 16,
    seed: int = 0,
    max_length: int | None = None,
    batch_tokens: int | None = None,
) -> MaskComparison:
    """Mask a protein at random and by a noiser, and compute the encoder's loss at every masked residue.

    Both kinds have the same budget and the same random numbers. If the noiser only uses [MASK], so do the random
    masks. A protein that is longer than `max_length` is cut into nearly equal parts, as in [`view_masks`].

    Args:
        model (`PreTrainedModel`): The encoder, a masked language model in evaluation mode, on its device.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        noiser ([`NoiserModel`]): The noiser, in evaluation mode, on the encoder's device.
        rules ([`MaskingRules`]): The rules of the noiser's training.
        sequence (`str`): The protein.
        draws (`int`, defaults to 16): Draws of each kind.
        seed (`int`, defaults to 0): Seed of the draws.
        max_length (`int`, *optional*): Largest number of tokens in a row; by default [`default_max_length`].
        batch_tokens (`int`, *optional*): Tokens in a batch; by default 4,096 on a CPU and 65,536 elsewhere.

    Raises:
        ValueError: If the protein has too few residues for a mask, if an option is out of range, or if noiser, rules
            and tokenizer do not fit together.
    """
    vocabulary = checked_vocabulary(noiser, rules, tokenizer, draws)
    max_length = max_length or default_max_length(model, tokenizer)
    check_max_length(model, max_length)
    if not rules.learned_options:
        rules = dataclasses.replace(rules, mask_options=_ONLY_MASK)
    encoder = SequenceEncoder(tokenizer, max_length)
    text, sequence = sequence, clean_sequence(sequence).sequence
    inside = slice(len(encoder.table.prefix), -len(encoder.table.suffix) or None)
    kinds: dict[str, list[tuple[torch.Tensor, ...]]] = {"random": [], "learned": []}
    budget = of_noiser = 0
    rows = max(1, (batch_tokens or default_batch_tokens(model.device)) // max_length)
    for number, part in enumerate(equal_parts(sequence, encoder.max_residues) if sequence else []):
        batch = {name: tensor.to(model.device) for name, tensor in encoder([{"sequence": part}]).items()}
        keys = row_keys(seed, EVALUATION, number, torch.arange(draws, device=model.device))
        adversarial, at_random = rules.budgets(batch["num_residues"])
        budget, of_noiser = budget + int(adversarial + at_random), of_noiser + int(adversarial)
        for kind, masker in (("random", None), ("learned", noiser)):
            drawn = _draw(model, vocabulary, rules, batch, keys, masker, rows)
            kinds[kind].append(tuple(tensor[:, inside] for tensor in drawn))
    if not of_noiser:
        raise CorpusError(f"the protein {shorten(text)} has too few residues for a mask of the noiser.")
    random, learned = (
        DrawnMasks(*(torch.cat(tensors, dim=1).cpu().numpy() for tensors in zip(*parts, strict=True)))
        for parts in kinds.values()
    )
    return MaskComparison(sequence, random, learned, budget, of_noiser, not rules.learned_options)


def _draw(
    model: PreTrainedModel,
    vocabulary: ResidueVocabulary,
    rules: MaskingRules,
    batch: dict[str, torch.Tensor],
    keys: torch.Tensor,
    noiser: NoiserModel | None,
    rows: int,
) -> tuple[torch.Tensor, ...]:
    """Return the masks of a part of a protein, who made them and how, and the losses; each `(draws, length)`.

    Args:
        rows (`int`): Draws in a batch.
    """
    found = []
    for some in keys.split(rows):
        repeated = {name: tensor.expand(len(some), *tensor.shape[1:]) for name, tensor in batch.items()}
        corrupted = corrupt_batch(repeated, some, vocabulary, rules, noiser)
        logits = model(input_ids=corrupted.input_ids, attention_mask=corrupted.attention_mask).logits
        losses = token_losses(logits, corrupted.labels).double().masked_fill(~corrupted.masked, torch.nan)
        found.append((corrupted.masked, corrupted.adversarial, corrupted.option, losses))
    return tuple(torch.cat(tensors) for tensors in zip(*found, strict=True))
