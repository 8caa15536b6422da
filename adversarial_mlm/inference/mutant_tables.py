"""Scores of the mutants in a table, and of all single substitutions of a protein."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.inference.mutations import Substitution, misfit, parse_mutations
from adversarial_mlm.inference.reads import Progress, Reads
from adversarial_mlm.inference.variant_effects import (
    check_wild_type,
    letters_with_token,
    number_of_reads,
    score_substitutions,
    why_residues_not_scored,
)
from adversarial_mlm.models.tokenization_protein import STANDARD_RESIDUES
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.tables import cell

NO_WILD_TYPE = "without a usable wild type"
NOT_FINITE = "with a score that is not finite"

SATURATION_COLUMNS = ("position", "wild_type", *STANDARD_RESIDUES)
"""Columns of the table of all substitutions."""


class MutantScore(NamedTuple):
    """The score of a mutant, or why there is none.

    Attributes:
        score (`float`, *optional*): Sum of log-odds over the substitutions, in nats; 0 for the wild type.
        reason (`str`): Why there is no score, a phrase that completes "3 records ...", or empty.
        detail (`str`): What the wild type has instead, if this is why.
    """

    score: float | None
    reason: str = ""
    detail: str = ""

    @property
    def explanation(self) -> str:
        """Reason and detail in one phrase; empty if there is a score."""
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


def score_mutants(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    wild_types: str | Sequence[str],
    mutants: Sequence[str],
    *,
    marginals: str = "masked",
    offset: int = 0,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> list[MutantScore]:
    """Score mutants in the notations of [`parse_mutations`], such as `A12T:G15S`.

    Args:
        model (`PreTrainedModel`): A masked language model in evaluation mode, on its device.
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        wild_types (`str` or `Sequence[str]`): The protein, or one for each mutant.
        mutants (`Sequence[str]`): The mutants.
        marginals (`str`, defaults to `"masked"`): `"masked"`, `"wild_type"` or `"mutant"`, see [`variant_effects`].
        offset (`int`, defaults to 0): Number to subtract from every position.
        max_length (`int`, *optional*): Largest number of tokens in a row; positions of a longer protein are read in a
            window around each.
        batch_tokens (`int`, *optional*): Tokens in a batch.
        progress (`Progress`, *optional*): Called after each batch with the positions (with mutant marginals: the
            mutants) that were read, and with the number of all.

    Returns:
        `list[MutantScore]`, one for each mutant, in their order.

    Raises:
        ValueError: If the only wild type cannot be used, if there is not one for each mutant, or as
            [`score_substitutions`].
    """
    if isinstance(wild_types, str):
        wild_types = [check_wild_type(wild_types)] * len(mutants)
    elif len(wild_types) != len(mutants):
        raise ValueError(
            f"{count(len(wild_types), 'wild type')} cannot be used for {count(len(mutants), 'mutant')}: give "
            "one for each"
        )
    letters = letters_with_token(tokenizer)
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(wild_types):
        rows_of.setdefault(text, []).append(row)
    found: list[MutantScore] = [MutantScore(None, NO_WILD_TYPE)] * len(mutants)
    jobs = []  # wild type, rows, what each row says, its substitutions
    for text, rows in rows_of.items():
        try:
            wild_type = check_wild_type(text)
        except ValueError:
            continue
        read = [_read_mutant(wild_type, mutants[row], offset, letters) for row in rows]
        variants = [None if isinstance(one, MutantScore) else [(at - 1, new) for _, at, new in one] for one in read]
        jobs.append((wild_type, rows, read, variants))
    reads = Reads(sum(number_of_reads(variants, marginals) for *_, variants in jobs), progress)
    for wild_type, rows, read, variants in jobs:
        scores = score_substitutions(
            model,
            tokenizer,
            wild_type,
            variants,
            marginals_of=marginals,
            max_length=max_length,
            batch_tokens=batch_tokens,
            on_batch=reads.add,
        )
        for row, one, score in zip(rows, read, scores.tolist(), strict=True):
            if isinstance(one, MutantScore):
                found[row] = one
            else:
                found[row] = MutantScore(score) if np.isfinite(score) else MutantScore(None, NOT_FINITE)
    return found


def _read_mutant(wild_type: str, text: str, offset: int, letters: frozenset[str]) -> list[Substitution] | MutantScore:
    """Return the substitutions of a mutant that can be scored, or why it cannot."""
    found = parse_mutations(text, offset)
    if isinstance(found, str):
        return MutantScore(None, found)
    wrong = misfit(wild_type, found)
    if wrong is not None:
        return MutantScore(None, *wrong)
    changed = [substitution for substitution in found if substitution.new != substitution.old]
    reason = why_residues_not_scored([residue for old, _, new in changed for residue in (old, new)], letters)
    return changed if reason is None else MutantScore(None, reason)


def saturation_matrix(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    wild_type: str,
    *,
    marginals: str = "masked",
    max_length: int | None = None,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Score all single substitutions of a protein by standard residues.

    Args: as of [`score_mutants`]. With `marginals="mutant"` the model runs 19 times for each residue.

    Returns:
        `np.ndarray` of shape `(residues, 20)`, float64, with columns in the order of `STANDARD_RESIDUES`: 0 at the
        residue of the wild type, and nan where this residue is ambiguous or unknown to the tokenizer.

    Raises:
        ValueError: As [`check_wild_type`] and [`score_substitutions`].
    """
    wild_type = check_wild_type(wild_type)
    letters = letters_with_token(tokenizer)
    variants: list[list[tuple[int, str]] | None] = []
    for position in range(len(wild_type)):
        for new in STANDARD_RESIDUES:
            known = why_residues_not_scored([wild_type[position], new], letters) is None
            variants.append([(position, new)] if known and new != wild_type[position] else [] if known else None)
    scores = score_substitutions(
        model,
        tokenizer,
        wild_type,
        variants,
        marginals_of=marginals,
        max_length=max_length,
        batch_tokens=batch_tokens,
        on_batch=Reads(number_of_reads(variants, marginals), progress).add,
    )
    return scores.reshape(len(wild_type), len(STANDARD_RESIDUES))


def saturation_rows(wild_type: str, matrix: np.ndarray, first: int = 1) -> Iterator[list[int | str]]:
    """Yield the rows of the table of all substitutions, with the columns `SATURATION_COLUMNS`; empty without a score.

    Args:
        wild_type (`str`): The clean protein.
        matrix (`np.ndarray` of shape `(residues, 20)`): Result of [`saturation_matrix`].
        first (`int`, defaults to 1): Number of the first position.
    """
    for position, (residue, row) in enumerate(zip(wild_type, matrix.tolist(), strict=True), start=first):
        yield [position, residue, *(cell(value) for value in row)]
