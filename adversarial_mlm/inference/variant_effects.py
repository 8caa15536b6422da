"""Zero-shot scores of substitutions from a masked language model (Meier et al. 2021).

Let L(i, a) be the log-probability of residue a at position i. A variant's score is Σ L(i, new) − L(i, old) over its
substitutions. *Masked* marginals read the wild type with position i masked, *wild-type* marginals read it without
masks, and *mutant* marginals read the variant without masks.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.data.cleaning import check_sequences, clean_sequence
from adversarial_mlm.inference.mutations import STOP
from adversarial_mlm.inference.position_windows import PositionReader
from adversarial_mlm.models.tokenization_protein import ByteTable
from adversarial_mlm.utils.errors import CorpusError, shorten

MARGINALS = ("masked", "wild_type", "mutant")

# why a variant has no score, besides STOP; each completes "3 records ..."
NO_SEQUENCE = "without a sequence"
GAP = "with a gap (- or .)"
OTHER_LENGTH = "with another length than the wild type"
AMBIGUOUS = "with a residue that is unknown or ambiguous (?, B, J, X or Z)"
NO_TOKEN = "with a residue that the tokenizer lacks"
AMBIGUOUS_RESIDUES = frozenset("?BJXZ")


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
    on_batch: Callable[[int], Any] = lambda reads: None,
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
        batch_tokens (`int`, *optional*): Tokens in a batch; by default 4,096 on a CPU and 65,536
            elsewhere.
        on_batch (`Callable`, *optional*): Called after each batch with the positions that were read in it.

    Returns:
        `np.ndarray` of shape `(residues, vocab)`, float64; nan at other positions.

    Raises:
        ValueError: If there is no position, if the tokenizer has no mask or does not read one residue as one token, or
            if the model's output is not finite.
    """
    if masked and tokenizer.mask_token_id is None:
        raise ValueError("the tokenizer has no mask token: use marginals wild_type, or a masked language model")
    reader = PositionReader(model, tokenizer, max_length, batch_tokens)
    ids = reader.table.encode(wild_type)
    read = np.arange(len(ids)) if positions is None else np.unique(np.asarray(positions, dtype=np.int64))
    if not len(read):
        raise ValueError("there is no position to read: the protein or positions is empty")
    found: np.ndarray | None = None
    at_once = reader.at_once(len(ids))
    for begin in range(0, len(read), at_once):
        chosen = read[begin : begin + at_once]
        logs = reader.read_masked(ids, chosen) if masked else reader.read_visible(ids, chosen)
        if found is None:
            found = np.full((len(ids), logs.shape[-1]), np.nan)
        found[chosen] = logs
        on_batch(len(chosen))
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
    return why_residues_not_scored(
        [letter for position, new in found for letter in (wild_type[position], new)], letters
    )


def why_sequence_not_scored(text: str, letters: Container[str] = ascii_uppercase) -> str | None:
    """Return the reason why a variant of any length has no pseudo-likelihood; `None` if it has one.

    Args: as of [`why_not_scored`].
    """
    cleaned = clean_sequence(text)
    if cleaned.gaps:
        return GAP
    if _has_inner_stop(text):
        return STOP
    return why_residues_not_scored(cleaned.sequence, letters) if cleaned.sequence else NO_SEQUENCE


def why_residues_not_scored(residues: Iterable[str], letters: Container[str]) -> str | None:
    """Return the reason why a substitution between residues has no score; `None` if it has one.

    Args:
        residues (`Iterable[str]`): Old and new residues.
        letters (`Container[str]`): Residues that the tokenizer has, from [`letters_with_token`].
    """
    concerned = set(residues)
    if concerned & AMBIGUOUS_RESIDUES:
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
    marginals_of: str = "masked",
    max_length: int | None = None,
    batch_tokens: int | None = None,
) -> np.ndarray:
    """Score variants of a wild type. The arguments are those of [`score_substitutions`].

    Returns:
        `np.ndarray` of shape `(variants,)`, float64; nan if [`why_not_scored`] gives a reason.

    Raises:
        ValueError: As [`check_wild_type`] and [`score_substitutions`]; also if a sequence is not text.
    """
    wild_type = check_wild_type(wild_type)
    check_sequences(sequences)
    letters = letters_with_token(tokenizer)
    variants: list[list[tuple[int, str]] | None] = []
    for text in sequences:
        reason = why_not_scored(wild_type, text, letters)
        variants.append(substitutions(wild_type, clean_sequence(text).sequence) if reason is None else None)
    return score_substitutions(
        model,
        tokenizer,
        wild_type,
        variants,
        marginals_of=marginals_of,
        max_length=max_length,
        batch_tokens=batch_tokens,
    )


def number_of_reads(variants: Sequence[Sequence[tuple[int, str]] | None], marginals_of: str = "masked") -> int:
    """Return how many positions, or with mutant marginals variants, [`score_substitutions`] reads."""
    if marginals_of == "mutant":
        return sum(bool(variant) for variant in variants)
    return len({position for variant in variants for position, _ in variant or ()})


def score_substitutions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    wild_type: str,
    variants: Sequence[Sequence[tuple[int, str]] | None],
    *,
    marginals_of: str = "masked",
    max_length: int | None = None,
    batch_tokens: int | None = None,
    on_batch: Callable[[int], Any] = lambda reads: None,
) -> np.ndarray:
    """Score variants that are given by their substitutions.

    Args:
        model (`PreTrainedModel`): A masked language model in evaluation mode, on its device.
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        wild_type (`str`): The protein, from [`check_wild_type`].
        variants (`Sequence[Sequence[tuple[int, str]]]`): Positions (from 0) and new residues of each variant; `None`
            for one without a score.
        marginals_of (`str`, defaults to `"masked"`): `"masked"`, `"wild_type"` or `"mutant"`. The last runs the
            model once for each variant.
        max_length (`int`, *optional*): As for [`marginals`].
        batch_tokens (`int`, *optional*): As for [`marginals`].
        on_batch (`Callable`, *optional*): Called after each batch with the part of [`number_of_reads`] in it.

    Returns:
        `np.ndarray` of shape `(variants,)`, float64; nan for `None`, and 0 without substitutions.

    Raises:
        ValueError: As [`marginals`], and if `marginals_of` is unknown.
    """
    if marginals_of not in MARGINALS:
        raise ValueError(f"marginals must be one of {', '.join(MARGINALS)}, got '{marginals_of}'")
    scores = np.array([np.nan if variant is None else 0.0 for variant in variants])
    rows = [row for row, variant in enumerate(variants) if variant]
    if not rows:
        return scores
    reader = PositionReader(model, tokenizer, max_length, batch_tokens)
    of_wild_type = reader.table.encode(wild_type)
    ordered = [sorted(variants[row] or ()) for row in rows]
    positions = [np.array([position for position, _ in variant]) for variant in ordered]
    new = [reader.table.encode("".join(letter for _, letter in variant)) for variant in ordered]
    if marginals_of == "mutant":
        found = _mutant_marginals(reader, of_wild_type, positions, new, on_batch)
    else:
        logs = marginals(
            model,
            tokenizer,
            wild_type,
            np.unique(np.concatenate(positions)).tolist(),
            masked=marginals_of == "masked",
            max_length=max_length,
            batch_tokens=batch_tokens,
            on_batch=on_batch,
        )
        found = (logs[at] for at in positions)
    for row, at, to, logs_at in zip(rows, positions, new, found, strict=True):
        of_variant = np.arange(len(at))
        scores[row] = (logs_at[of_variant, to] - logs_at[of_variant, of_wild_type[at]]).sum()
    return scores


@torch.no_grad()
def _mutant_marginals(
    reader: PositionReader,
    wild_type: np.ndarray,
    positions: Sequence[np.ndarray],
    new: Sequence[np.ndarray],
    on_batch: Callable[[int], Any],
) -> Iterator[np.ndarray]:
    """Yield the log-probabilities at the substitutions of each variant, read in the variant: `(substitutions, vocab)`.

    A variant of a long protein is read in a window around each substitution. The positions of a variant ascend.
    """
    at_once = reader.at_once(len(wild_type))
    for begin in range(0, len(positions), at_once):
        windows: list[tuple[np.ndarray, int]] = []
        row, column, counts = [], [], []
        for at, to in zip(positions[begin : begin + at_once], new[begin : begin + at_once], strict=True):
            variant = wild_type.copy()
            variant[at] = to
            starts, of_start = np.unique(reader.starts(at, len(variant)), return_inverse=True)
            row.append(len(windows) + of_start)
            column.append(reader.column(at, starts[of_start]))
            counts.append(len(at))
            windows.extend((variant, start) for start in starts)
        logs = _read_in_parts(reader, windows, np.concatenate(row), np.concatenate(column), at_once)
        on_batch(len(counts))
        yield from np.split(logs, np.cumsum(counts)[:-1])


def _read_in_parts(
    reader: PositionReader,
    windows: Sequence[tuple[np.ndarray, int]],
    row: np.ndarray,
    column: np.ndarray,
    at_once: int,
) -> np.ndarray:
    """Read positions of many windows, `at_once` windows at a time; `row` ascends."""
    parts = []
    for begin in range(0, len(windows), at_once):
        inside = slice(*np.searchsorted(row, (begin, begin + at_once)))
        batch = reader.batch(windows[begin : begin + at_once])
        parts.append(reader.read(batch, row[inside] - begin, column[inside]))
    return np.concatenate(parts)
