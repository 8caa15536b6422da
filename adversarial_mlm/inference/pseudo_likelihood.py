"""Pseudo-log-likelihood and pseudo-perplexity of proteins under a masked language model.

The pseudo-log-likelihood (PLL) of a protein is Σ log p(residue i | the protein with position i masked), in nats
(Salazar et al. 2020). Its pseudo-perplexity is exp(−PLL / residues): 1 for a certain encoder, 20 for one that guesses
among the standard residues.

The exact PLL runs the encoder once for each residue. The *one-pass* approximation reads the protein without masks, as
Brandes et al. (2023) do. It is much cheaper, but the encoder sees the residue that it predicts, so the values cannot
be compared with exact ones.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.data.cleaning import check_sequences
from adversarial_mlm.inference.batches import DataCollatorForTask
from adversarial_mlm.inference.frozen_encoder import batches_by_length
from adversarial_mlm.inference.position_windows import PositionReader
from adversarial_mlm.inference.variant_effects import AMBIGUOUS_RESIDUES, letters_with_token
from adversarial_mlm.inference.windows import window_starts

_PROTEINS_AT_ONCE = 256  # proteins among which those of similar length share a batch
_BATCHES_AT_ONCE = 4  # with masks: more positions than this many batches hold do not wait for further proteins


class PseudoLikelihood(NamedTuple):
    """The score of a protein.

    Attributes:
        residues (`int`): Residues that count.
        pll (`float`): Pseudo-log-likelihood in nats; 0 without residues.
        left_out (`int`): Residues that do not count, because they are unknown or ambiguous (`?`, `B`, `J`, `X`, `Z`)
            or because the tokenizer has no token for them.
    """

    residues: int
    pll: float
    left_out: int = 0

    @property
    def pseudo_perplexity(self) -> float:
        """exp(−PLL / residues); nan without residues."""
        if not self.residues:
            return math.nan
        mean = -self.pll / self.residues
        return math.exp(mean) if mean < 700 else math.inf


def pseudo_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Iterable[str],
    *,
    one_pass: bool = False,
    max_length: int | None = None,
    batch_tokens: int | None = None,
) -> Iterator[PseudoLikelihood]:
    """Yield the score of each protein, in the order given. Memory does not grow with the number of proteins.

    A residue of a protein that is longer than `max_length` is read in a window around it. With `one_pass`
    neighbouring windows share three quarters of their residues, and a residue is read where it is nearest to the
    middle.

    Args:
        model (`PreTrainedModel`): A masked language model in evaluation mode, on its device.
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        sequences (`Iterable[str]`): Clean proteins (see [`clean_sequence`]); an empty one has no residues.
        one_pass (`bool`, defaults to `False`): Whether to compute the approximation without masks.
        max_length (`int`, *optional*): Largest number of tokens in a row; by default [`default_max_length`].
        batch_tokens (`int`, *optional*): Tokens in a batch; by default 4,096 on a CPU and 65,536
            elsewhere.

    Raises:
        ValueError: If a sequence is not text, if the tokenizer has no mask or does not read one residue as one token,
            if `max_length` is out of range, or if the model's output is not a number.
    """
    if isinstance(sequences, str):
        check_sequences(sequences)
    if not one_pass and tokenizer.mask_token_id is None:
        raise ValueError("the tokenizer has no mask token: use one_pass, or a masked language model")
    reader = PositionReader(model, tokenizer, max_length, batch_tokens)
    counted = letters_with_token(tokenizer) - AMBIGUOUS_RESIDUES
    if one_pass:
        collator = DataCollatorForTask(tokenizer, "regression", reader.max_length)
        yield from _one_pass(reader, collator, iter(sequences), counted)
        return
    for some in _enough_for_batches(reader, sequences):
        positions = [_counted_positions(sequence, counted) for sequence in some]
        sums = _masked_sums(reader, tokenizer.pad_token_id or 0, some, positions)  # padding is not attended to
        for sequence, of_protein, total in zip(some, positions, sums.tolist(), strict=True):
            yield PseudoLikelihood(len(of_protein), total, len(sequence) - len(of_protein))


def _counted_positions(sequence: str, counted: frozenset[str]) -> np.ndarray:
    return np.array([index for index, letter in enumerate(sequence) if letter in counted], dtype=np.int64)


def _enough_for_batches(reader: PositionReader, sequences: Iterable[str]) -> Iterator[list[str]]:
    """Yield proteins in groups whose positions fill several batches, so that short proteins share them."""
    some: list[str] = []
    tokens = 0
    for sequence in sequences:
        check_sequences([sequence])
        some.append(sequence)
        tokens += len(sequence) * (reader.width(len(sequence)) + reader.special)
        if tokens >= _BATCHES_AT_ONCE * reader.batch_tokens or len(some) == _PROTEINS_AT_ONCE:
            yield some
            some, tokens = [], 0
    if some:
        yield some


@torch.no_grad()
def _masked_sums(
    reader: PositionReader, padding: int, sequences: Sequence[str], positions: Sequence[np.ndarray]
) -> np.ndarray:
    """Return Σ log p(residue) over positions of each protein, each read with this position masked: `(proteins,)`.

    Windows of several widths share a batch, with padding.
    """
    encoded = [reader.table.encode(sequence) for sequence in sequences]
    widths = np.array([reader.width(len(ids)) + reader.special for ids in encoded])
    owners = np.repeat(np.arange(len(sequences)), [len(of_protein) for of_protein in positions])
    sums = np.zeros(len(sequences))
    if not len(owners):
        return sums
    at = np.concatenate(positions)
    for rows in batches_by_length(widths[owners], reader.batch_tokens):
        of_rows, places = [encoded[owner] for owner in owners[rows]], at[rows]
        starts = np.array([reader.starts(place, len(ids)) for place, ids in zip(places, of_rows, strict=True)])
        batch, mask = reader.padded_batch(zip(of_rows, starts.tolist(), strict=True), padding)
        row, column = np.arange(len(rows)), reader.column(places, starts)
        batch[row, column] = reader.mask_token_id
        logs = reader.read(batch, row, column, mask)
        true = np.array([ids[place] for ids, place in zip(of_rows, places, strict=True)])
        np.add.at(sums, owners[rows], logs[row, true])
    return sums


@torch.no_grad()
def _one_pass(
    reader: PositionReader, collator: DataCollatorForTask, sequences: Iterator[str], counted: frozenset[str]
) -> Iterator[PseudoLikelihood]:
    while some := list(islice(sequences, _PROTEINS_AT_ONCE)):
        check_sequences(some)
        positions = [_counted_positions(sequence, counted) for sequence in some]
        sums = _one_pass_sums(reader, collator, some, positions)
        for sequence, of_protein, total in zip(some, positions, sums.tolist(), strict=True):
            yield PseudoLikelihood(len(of_protein), total, len(sequence) - len(of_protein))


def _one_pass_sums(
    reader: PositionReader, collator: DataCollatorForTask, sequences: Sequence[str], positions: Sequence[np.ndarray]
) -> np.ndarray:
    """Return Σ log p(residue) over positions of each protein, read without masks: `(proteins,)`."""
    windows = []  # protein, start, positions that are read in this window
    for owner, of_protein in enumerate(positions):
        starts = _nearest_starts(of_protein, len(sequences[owner]), reader.room)
        windows += [(owner, int(start), of_protein[starts == start]) for start in np.unique(starts)]
    sums = np.zeros(len(sequences))
    lengths = np.array([min(reader.room, len(sequences[owner])) + reader.special for owner, _, _ in windows])
    for rows in batches_by_length(lengths, reader.batch_tokens):
        examples = [
            {"sequence": sequences[owner][start : start + reader.room]}
            for owner, start, _ in map(windows.__getitem__, rows)
        ]
        batch = collator(examples)
        counts = [len(windows[row][2]) for row in rows]
        row = np.repeat(np.arange(len(rows)), counts)
        column = np.concatenate([reader.column(windows[index][2], windows[index][1]) for index in rows])
        logs = reader.read(
            batch["input_ids"].to(reader.model.device), row, column, batch["attention_mask"].to(reader.model.device)
        )
        of_true = logs[np.arange(len(row)), batch["input_ids"].numpy()[row, column]]
        owners = np.array([windows[index][0] for index in rows])
        np.add.at(sums, owners[row], of_true)
    return sums


def _nearest_starts(positions: np.ndarray, residues: int, room: int) -> np.ndarray:
    """Return the start of the window whose middle is nearest to each position."""
    starts = window_starts(residues, room, room * 3 // 4)
    middles = starts + (min(room, residues) - 1) / 2
    return starts[np.abs(positions[:, None] - middles).argmin(axis=1)] if len(positions) else positions
