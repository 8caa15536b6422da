"""Zero-shot scores of substitutions from a masked language model (Meier et al. 2021).

Let L(i, a) be the log-probability of residue a at position i of the wild type. A variant's score is
Σ L(i, new) − L(i, old) over its substitutions. *Masked* marginals mask position i only, *wild-type* marginals mask
nothing.
"""

from collections.abc import Container, Sequence
from string import ascii_uppercase

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.data.cleaning import check_sequences, clean_sequence
from adversarial_mlm.inference.frozen_encoder import check_max_length, default_max_length
from adversarial_mlm.inference.mutations import STOP
from adversarial_mlm.models.tokenization_protein import ByteTable
from adversarial_mlm.utils.errors import CorpusError, shorten

_BATCH_TOKENS = 4096

# why a variant has no score, besides STOP; each completes "3 records ..."
NO_SEQUENCE = "without a sequence"
GAP = "with a gap (- or .)"
OTHER_LENGTH = "with another length than the wild type"
AMBIGUOUS = "with a residue that is unknown or ambiguous (?, B, J, X or Z)"
NO_TOKEN = "with a residue that the tokenizer lacks"
_AMBIGUOUS = frozenset("?BJXZ")


@torch.no_grad()
def marginals(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    wild_type: str,
    positions: Sequence[int] | None = None,
    *,
    masked: bool = True,
    max_length: int | None = None,
    batch_tokens: int | None = None,
) -> np.ndarray:
    """Return the log-probabilities of all tokens at positions of a protein.

    If the protein is longer than `max_length`, each position is read within a window around it.

    Args:
        model (`PreTrainedModel`): A masked language model in evaluation mode, on its device.
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        wild_type (`str`): The protein.
        positions (`Sequence[int]`, *optional*): Positions from 0; by default all.
        masked (`bool`, defaults to `True`): Whether to mask each position in turn.
        max_length (`int`, *optional*): Largest number of tokens in a row; by default [`default_max_length`].
        batch_tokens (`int`, *optional*): Tokens in a batch; by default 4,096.

    Returns:
        `np.ndarray` of shape `(residues, vocab)`, float64; nan at other positions.

    Raises:
        ValueError: If there is no position, if the tokenizer has no mask or does not read one residue as one token, or
            if the model's output is not finite.
    """
    table = ByteTable.from_tokenizer(tokenizer)
    if masked and tokenizer.mask_token_id is None:
        raise ValueError("the tokenizer has no mask token: use marginals wild_type, or a masked language model")
    max_length = max_length or default_max_length(model, tokenizer)
    check_max_length(model, max_length)
    ids = table.encode(wild_type)
    read = np.arange(len(ids)) if positions is None else np.unique(np.asarray(positions, dtype=np.int64))
    if not len(read):
        raise ValueError("there is no position to read: the protein or positions is empty")
    room = max_length - len(table.prefix) - len(table.suffix)
    if room < 1:
        raise ValueError(
            f"max_length is {max_length}, which leaves no room for a residue next to the special tokens: use at least "
            f"{max_length - room + 1}"
        )
    window = min(room, len(ids))
    starts = np.clip(read - window // 2, 0, len(ids) - window)
    found: np.ndarray | None = None
    at_once = max(1, (batch_tokens or _BATCH_TOKENS) // (window + max_length - room))
    for begin in range(0, len(read), at_once):
        chosen, first = read[begin : begin + at_once], starts[begin : begin + at_once]
        if not masked:  # read equal windows once
            first, of_row = np.unique(first, return_inverse=True)
        rows = [np.concatenate([table.prefix, ids[start : start + window], table.suffix]) for start in first]
        batch = torch.from_numpy(np.stack(rows).astype(np.int64)).to(model.device)
        row = torch.arange(len(chosen)) if masked else torch.from_numpy(of_row)
        column = torch.from_numpy(chosen - first[row.numpy()] + len(table.prefix))
        if masked:
            batch[row, column] = tokenizer.mask_token_id
        logits = model(input_ids=batch, attention_mask=torch.ones_like(batch)).logits
        logs = torch.log_softmax(logits[row, column].double(), dim=-1).cpu().numpy()
        if np.isnan(logs).any():
            raise ValueError("the model's output is not finite: its weights may be damaged")
        if found is None:
            found = np.full((len(ids), logs.shape[-1]), np.nan)
        found[chosen] = logs
    assert found is not None  # there was a position
    return found


def substitutions(wild_type: str, sequence: str) -> list[tuple[int, str]] | None:
    """Return positions (from 0) and new residues of a variant; `None` if its length differs."""
    if len(sequence) != len(wild_type):
        return None
    return [(position, new) for position, (old, new) in enumerate(zip(wild_type, sequence, strict=True)) if old != new]


def check_wild_type(text: str) -> str:
    """Clean the sequence of a wild type: upper case, without white space and without the stop at its end.

    Raises:
        [`CorpusError`]: If it is empty, or has a gap, another stop or an unknown residue.
    """
    cleaned = clean_sequence(text)
    if not cleaned.sequence or cleaned.gaps or cleaned.unknown or _has_inner_stop(text):
        raise CorpusError(f"wild_type is {shorten(text)}, but must be a protein in one-letter code.")
    return cleaned.sequence


def letters_with_token(tokenizer: PreTrainedTokenizerBase) -> frozenset[str]:
    """Return the capital letters that a tokenizer has a token for."""
    table = ByteTable.from_tokenizer(tokenizer)
    return frozenset(letter for letter in ascii_uppercase if table.ids[ord(letter)] != tokenizer.unk_token_id)


def why_not_scored(wild_type: str, text: str, letters: Container[str] = ascii_uppercase) -> str | None:
    """Return the reason why a variant has no score, one of the reasons of this module; `None` if it has one.

    White space and a stop at the end are removed, as before training. Gaps are not, because that would shift residues.

    Args:
        wild_type (`str`): The protein, from [`check_wild_type`].
        text (`str`): The variant as found in a table.
        letters (`Container[str]`, *optional*): Residues that the tokenizer has, from [`letters_with_token`].
    """
    cleaned = clean_sequence(text)
    if cleaned.gaps:
        return GAP
    if _has_inner_stop(text) or (cleaned.stops and len(cleaned.sequence) != len(wild_type)):
        return STOP
    if not cleaned.sequence:
        return NO_SEQUENCE
    found = substitutions(wild_type, cleaned.sequence)
    if found is None:
        return OTHER_LENGTH
    concerned = {letter for position, new in found for letter in (wild_type[position], new)}
    if concerned & _AMBIGUOUS:
        return AMBIGUOUS
    return None if all(letter in letters for letter in concerned) else NO_TOKEN


def _has_inner_stop(text: str) -> bool:
    return "*" in text.strip().removesuffix("*")


def score_variants(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    wild_type: str,
    sequences: Sequence[str],
    *,
    masked: bool = True,
    max_length: int | None = None,
    batch_tokens: int | None = None,
) -> np.ndarray:
    """Score variants of a wild type. The arguments are those of [`marginals`].

    Returns:
        `np.ndarray` of shape `(variants,)`, float64; nan if [`why_not_scored`] gives a reason.

    Raises:
        ValueError: As [`check_wild_type`] and [`marginals`]; also if a sequence is not text.
    """
    wild_type = check_wild_type(wild_type)
    check_sequences(sequences)
    table, letters = ByteTable.from_tokenizer(tokenizer), letters_with_token(tokenizer)
    variants: list[list[tuple[int, str]] | None] = []
    for text in sequences:
        reason = why_not_scored(wild_type, text, letters)
        variants.append(substitutions(wild_type, clean_sequence(text).sequence) if reason is None else None)
    positions = sorted({position for variant in variants for position, _ in variant or ()})
    if not positions:
        return np.array([np.nan if variant is None else 0.0 for variant in variants])
    logs = marginals(
        model, tokenizer, wild_type, positions, masked=masked, max_length=max_length, batch_tokens=batch_tokens
    )
    of_wild_type = table.encode(wild_type)
    scores = np.full(len(variants), np.nan)
    for row, variant in enumerate(variants):
        if variant is not None:
            at = [position for position, _ in variant]
            new = table.encode("".join(letter for _, letter in variant))
            scores[row] = (logs[at, new] - logs[at, of_wild_type[at]]).sum()
    return scores
