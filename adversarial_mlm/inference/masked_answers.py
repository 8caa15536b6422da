"""What an encoder answers at masked residues of a protein: probabilities of residues, entropy, loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.inference.position_windows import PositionReader
from adversarial_mlm.models.tokenization_protein import STANDARD_RESIDUES, ResidueVocabulary


@dataclass(frozen=True)
class MaskedAnswers:
    """The encoder's answers at some positions of a protein.

    Attributes:
        positions (`np.ndarray` of shape `(positions,)`): The positions, from 0, in ascending order.
        answers (`np.ndarray` of shape `(positions, 20)`): Probabilities of the standard residues, in the order of
            `STANDARD_RESIDUES`.
        entropy (`np.ndarray` of shape `(positions,)`): Their entropy in nats, at most ln 20 = 3.0.
        loss (`np.ndarray` of shape `(positions,)`): Cross-entropy at the protein's residue, in nats; nan if unknown.
    """

    positions: np.ndarray
    answers: np.ndarray
    entropy: np.ndarray
    loss: np.ndarray


@torch.no_grad()
def answers_if_masked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequence: str,
    positions: Sequence[int],
    *,
    max_length: int | None = None,
    batch_tokens: int | None = None,
) -> MaskedAnswers:
    """Return the encoder's answers at positions that are all masked by [MASK] at once.

    If the protein is longer than `max_length`, each position is read within a window around it.

    Args:
        model (`PreTrainedModel`): A masked language model in evaluation mode, on its device.
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        sequence (`str`): The clean protein.
        positions (`Sequence[int]`): The positions, from 0; repeated ones count once.
        max_length (`int`, *optional*): Largest number of tokens in a row; by default [`default_max_length`].
        batch_tokens (`int`, *optional*): Tokens in a batch; by default 4,096 on a CPU and 65,536 elsewhere.

    Raises:
        ValueError: If there is no position or one is outside of the protein, if the tokenizer has no mask or does not
            read one residue as one token, or if the model's output is not finite.
    """
    read = np.unique(np.asarray(positions, dtype=np.int64))
    if not len(read) or read[0] < 0 or read[-1] >= len(sequence):
        raise ValueError(f"positions must be from 0 to {len(sequence) - 1}, and at least one, got {list(positions)}")
    vocabulary = ResidueVocabulary.from_tokenizer(tokenizer)
    reader = PositionReader(model, tokenizer, max_length, batch_tokens)
    ids = reader.table.encode(sequence)
    masked, at_once = ids.copy(), reader.at_once(len(ids))
    masked[read] = vocabulary.mask_token_id
    logs = np.concatenate(
        [reader.read_visible(masked, read[begin : begin + at_once]) for begin in range(0, len(read), at_once)]
    )
    answers, entropy = standard_answers(logs, vocabulary)
    known = np.isin(ids[read], vocabulary.residue_ids)
    loss = np.where(known, -logs[np.arange(len(read)), ids[read]], np.nan)
    return MaskedAnswers(read, answers, entropy, loss)


def standard_answers(logs: np.ndarray, vocabulary: ResidueVocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities among the standard residues `(positions, 20)`, and their entropy `(positions,)`.

    Args:
        logs (`np.ndarray` of shape `(positions, vocab)`): Log-probabilities of all tokens.
        vocabulary ([`ResidueVocabulary`]): The tokenizer's residues.
    """
    of_standard = logs[:, list(vocabulary.replacement_ids)]
    of_standard = of_standard - np.logaddexp.reduce(of_standard, axis=1, keepdims=True)
    answers = np.exp(of_standard)
    return answers, -(answers * of_standard).sum(axis=1)


def top_residues(answers: np.ndarray, number: int = 3) -> list[tuple[str, float]]:
    """Return the most probable standard residues of one position, and their probabilities.

    Args:
        answers (`np.ndarray` of shape `(20,)`): Probabilities in the order of `STANDARD_RESIDUES`.
        number (`int`, defaults to 3): How many.
    """
    order = np.argsort(-answers, kind="stable")[:number]
    return [(STANDARD_RESIDUES[index], float(answers[index])) for index in order]
