"""Zero-shot scores of substitutions from a masked language model (Meier et al. 2021).

Let L(i, a) be the log-probability of residue a at position i of the wild type. A variant's score is
Σ L(i, new) − L(i, old) over its substitutions. *Masked* marginals mask position i only, *wild-type* marginals mask
nothing.
"""

import re
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.inference.embeddings import check_max_length, default_max_length
from adversarial_mlm.models.tokenization_protein import ByteTable
from adversarial_mlm.utils.errors import shorten

_BATCH_TOKENS = 4096
_SUBSTITUTION = re.compile(r"([A-Z])([0-9]+)([A-Z])")


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


def apply_mutations(wild_type: str, text: str) -> str:
    """Return the sequence of a variant such as `A12G:L30F` (old residue, position from 1, new residue).

    An empty text gives the wild type.

    Raises:
        ValueError: If a part has another form, or the wild type has another residue at the position; the message is
            the end of a sentence.
    """
    sequence = list(wild_type)
    for part in filter(None, re.split(r"[:;,\s]+", text.strip())):
        match = _SUBSTITUTION.fullmatch(part.upper())
        if match is None:
            raise ValueError(f"contains {shorten(part)}, which is not a substitution such as A12G")
        old, position, new = match[1], int(match[2]), match[3]
        if not 1 <= position <= len(wild_type):
            raise ValueError(f"contains {part}, but the wild type has {len(wild_type)} residues")
        if wild_type[position - 1] != old:
            raise ValueError(
                f"contains {part}, but the wild type has {wild_type[position - 1]} at position {position}"
            )
        if sequence[position - 1] != old:
            raise ValueError(f"contains two substitutions at position {position}")
        sequence[position - 1] = new
    return "".join(sequence)


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
        `np.ndarray` of shape `(variants,)`, float64; nan if the length differs from the wild type's, or a residue has
        no token.
    """
    variants = [substitutions(wild_type, sequence) for sequence in sequences]
    positions = sorted({position for variant in variants for position, _ in variant or ()})
    if not positions:
        return np.array([np.nan if variant is None else 0.0 for variant in variants])
    logs = marginals(
        model, tokenizer, wild_type, positions, masked=masked, max_length=max_length, batch_tokens=batch_tokens
    )
    table = ByteTable.from_tokenizer(tokenizer)
    ids = {letter: int(table.encode(letter)[0]) for letter in {*wild_type, *"".join(sequences)}}
    scores = np.full(len(variants), np.nan)
    for row, variant in enumerate(variants):
        if variant is None:
            continue
        pairs = [(position, ids[new], ids[wild_type[position]]) for position, new in variant]
        if all(tokenizer.unk_token_id not in pair[1:] for pair in pairs):
            scores[row] = sum(logs[position, new] - logs[position, old] for position, new, old in pairs)
    return scores
