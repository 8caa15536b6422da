"""What a noiser does with one protein, residue by residue, and how hard each residue is for the encoder."""

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.data.cleaning import clean_sequence
from adversarial_mlm.inference.frozen_encoder import default_batch_tokens, default_max_length
from adversarial_mlm.inference.masked_answers import standard_answers
from adversarial_mlm.inference.reads import Progress, Reads
from adversarial_mlm.inference.variant_effects import marginals
from adversarial_mlm.masking.corruption import corrupt_batch
from adversarial_mlm.masking.data_collator import SequenceEncoder
from adversarial_mlm.masking.keyed_random import CANDIDATE, EVALUATION, row_keys, uniform
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.masking.sampling import SAMPLERS, topk_mask
from adversarial_mlm.models.modeling_noiser import KEEP, MASK, REPLACE, NoiserModel
from adversarial_mlm.models.tokenization_protein import ResidueVocabulary
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import CorpusError, shorten

CORRUPTIONS = ("[MASK]", "keep", "replace")


@dataclass(frozen=True)
class MaskView:
    """One value for each residue of a protein. Arrays have the shape `(residues,)`, unless stated otherwise.

    Attributes:
        sequence (`str`): The protein.
        probability (`np.ndarray`): Probability that the noiser masks the residue; 0 for unknown residues. Random masks
            come in addition.
        corruption (`np.ndarray` of shape `(residues, 3)`): If it does, the shares of [MASK], keep and replace.
        replacement (`str`): The residue by which the noiser replaces most often; a space if it never replaces.
        loss (`np.ndarray`): Cross-entropy of the encoder if the residue alone is [MASK], in nats; nan if unknown.
        entropy (`np.ndarray`): Entropy of the encoder's answer there over the 20 standard residues, in nats. It is low
            where the encoder is sure, as at conserved residues, and at most ln 20 = 3.0.
        answer (`str`): The standard residue that the encoder finds most probable there.
        answers (`np.ndarray` of shape `(residues, 20)`): Probabilities of the standard residues there, in the order of
            `STANDARD_RESIDUES`.
        budget (`int`): Residues that the noiser masks in this protein. With `selection: threshold` at most as many.
        method (`str`): How `probability` was computed, in words.
        draws (`int`): Draws that were averaged; 1 if there is nothing to average.
        candidates (`int`): Residues in a candidate set; all residues that can be masked, unless the noiser is `blind`.
        parts (`int`): Parts into which the noiser read the protein, because it is longer than `max_length`.
    """

    sequence: str
    probability: np.ndarray
    corruption: np.ndarray
    replacement: str
    loss: np.ndarray
    entropy: np.ndarray
    answer: str
    answers: np.ndarray
    budget: int
    method: str
    draws: int
    candidates: int
    parts: int

    @property
    def favourite(self) -> list[str]:
        """The most frequent corruption of each residue: `[MASK]`, `keep`, or `replace by A`."""
        most = self.corruption.argmax(axis=1)
        return [
            CORRUPTIONS[index] if index < REPLACE else f"replace by {letter}"
            for index, letter in zip(most, self.replacement, strict=True)
        ]


@torch.no_grad()
def view_masks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    noiser: NoiserModel,
    rules: MaskingRules,
    sequence: str,
    *,
    draws: int = 32,
    seed: int = 0,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
) -> MaskView:
    """Compute for each residue of a protein how a noiser masks it, and how hard it is for the encoder.

    A protein that is longer than `max_length` is cut into nearly equal parts, each with its own budget, as crops have
    in training. The encoder reads a window around each residue.

    Args:
        model (`PreTrainedModel`): The encoder, a masked language model in evaluation mode, on its device.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        noiser ([`NoiserModel`]): The noiser, in evaluation mode, on the encoder's device.
        rules ([`MaskingRules`]): The rules of the noiser's training. `blind` must be that of its view.
        sequence (`str`): The protein.
        draws (`int`, defaults to 32): What to average over: candidate sets of a `blind` noiser, or draws of a sampler
            without a closed form.
        seed (`int`, defaults to 0): Seed of the draws.
        max_length (`int`, *optional*): Largest number of tokens in a row; by default [`default_max_length`].
        batch_tokens (`int`, *optional*): Tokens in a batch; by default 4,096 on a CPU and 65,536
            elsewhere.
        progress (`Progress`, *optional*): Called after each batch with the reads that are done, and with the number of
            all: one of the encoder for each residue, and one of the noiser for each draw of each part.

    Raises:
        ValueError: If the protein has no residue that can be masked, if an option is out of range, or if noiser, rules
            and tokenizer do not fit together.
    """
    vocabulary = checked_vocabulary(noiser, rules, tokenizer, draws)
    text, sequence = sequence, clean_sequence(sequence).sequence
    max_length = max_length or default_max_length(model, tokenizer)
    encoder = SequenceEncoder(tokenizer, max_length)
    if not np.isin(encoder.table.encode(sequence), vocabulary.residue_ids).any():
        raise CorpusError(f"the protein {shorten(text)} has no residue that can be masked.")
    parts = equal_parts(sequence, encoder.max_residues)
    averaged = draws if rules.blind or not has_closed_form(rules) else 1
    batches = [{name: tensor.to(noiser.device) for name, tensor in encoder([{"sequence": p}]).items()} for p in parts]
    tokens = batch_tokens or default_batch_tokens(noiser.device)
    inside = slice(len(encoder.table.prefix), -len(encoder.table.suffix) or None)
    reads = Reads(len(sequence) + averaged * len(parts), progress)
    masks = [
        tuple(
            of_positions[inside]
            for of_positions in _masks_of_part(noiser, rules, vocabulary, batch, keys, tokens, reads)
        )
        for batch, keys in zip(batches, _keys_of_parts(seed, len(parts), averaged, noiser.device), strict=True)
    ]
    lengths = torch.stack([batch["num_residues"][0] for batch in batches])
    shares = np.concatenate([of_part for _, of_part in masks])
    replacements = shares[:, REPLACE:]
    letters = [vocabulary.residue_letters[token] for token in vocabulary.replacement_ids]
    logs = marginals(model, tokenizer, sequence, max_length=max_length, batch_tokens=batch_tokens, on_batch=reads.add)
    answers, entropy = standard_answers(logs, vocabulary)
    ids = encoder.table.encode(sequence)
    known = np.isin(ids, vocabulary.residue_ids)
    return MaskView(
        sequence=sequence,
        probability=np.concatenate([of_part for of_part, _ in masks]),
        corruption=np.column_stack([shares[:, MASK], shares[:, KEEP], replacements.sum(axis=1)]),
        replacement="".join(letters[row.argmax()] if row.any() else " " for row in replacements),
        loss=np.where(known, -logs[np.arange(len(ids)), ids], np.nan),
        entropy=entropy,
        answer="".join(letters[index] for index in answers.argmax(axis=1)),
        answers=answers,
        budget=int(rules.budgets(lengths)[0].sum()),
        method=method_in_words(rules, averaged),
        draws=averaged,
        candidates=int((rules.candidate_budget(lengths) if rules.blind else lengths).sum()),
        parts=len(parts),
    )


def equal_parts(sequence: str, longest: int) -> list[str]:
    """Cut a protein into nearly equal parts of at most `longest` residues, as few as there can be."""
    edges = np.linspace(0, len(sequence), -(-len(sequence) // longest) + 1).round().astype(int)
    return [sequence[start:stop] for start, stop in zip(edges[:-1], edges[1:], strict=True)]


def _keys_of_parts(seed: int, parts: int, averaged: int, device: torch.device) -> list[torch.Tensor]:
    """Return the keys of the random numbers of each part: `(averaged,)`."""
    draws = torch.arange(averaged, device=device)
    return [row_keys(seed, EVALUATION, number, draws) for number in range(parts)]


def _masks_of_part(
    noiser: NoiserModel,
    rules: MaskingRules,
    vocabulary: ResidueVocabulary,
    batch: dict[str, torch.Tensor],
    keys: torch.Tensor,
    batch_tokens: int,
    reads: Reads,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean probability of each token of a part `(length,)`, and the shares of the options."""
    average = _average_closed_form if has_closed_form(rules) else _average_of_draws
    rows = max(1, batch_tokens // batch["input_ids"].shape[1])
    return average(noiser, rules, vocabulary, batch, keys, rows, reads)


def has_closed_form(rules: MaskingRules) -> bool:
    """Whether the probability of a mask, given the candidate set, has a closed form.

    It has one for every sampler whose hard choice is the largest of score + noise. That includes `rss`, except with
    `selection: threshold` or at a temperature below 0.3.
    """
    return rules.spends_budget and rules.keeps_order


def method_in_words(rules: MaskingRules, draws: int) -> str:
    """Describe how the probability of a mask is computed."""
    if not has_closed_form(rules):
        sets = ", each with another candidate set" if rules.blind else ""
        return f"share of {count(draws, 'draw')} of {rules.sampler} ({rules.selection}){sets}"
    closed = "gumbel_topk" if rules.has_relaxation else rules.sampler
    words = f"closed form of {closed}"
    if closed != rules.sampler:
        words += f", which makes the same hard choices as {rules.sampler}"
    return f"{words}; mean over {count(draws, 'candidate set')}" if rules.blind else words


def checked_vocabulary(
    noiser: NoiserModel, rules: MaskingRules, tokenizer: PreTrainedTokenizerBase, draws: int
) -> ResidueVocabulary:
    """Return the vocabulary of a tokenizer, for a noiser whose masks are to be drawn.

    Raises:
        ValueError: If `draws` is below 1, if the rules give the noiser no masks, or if noiser and tokenizer do not fit
            together.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    if not rules.adversarial_rate:
        raise ValueError("adversarial_rate is 0, so the noiser masks nothing: give the rate of its training")
    vocabulary = ResidueVocabulary.from_tokenizer(tokenizer)
    noiser.config.check_vocabulary(vocabulary)
    return vocabulary


def _average_closed_form(
    noiser: NoiserModel,
    rules: MaskingRules,
    vocabulary: ResidueVocabulary,
    batch: dict[str, torch.Tensor],
    keys: torch.Tensor,
    rows: int,
    reads: Reads,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean probability of each position `(length,)`, and the shares of the options `(length, 2 + n)`.

    The mean of a position is over the candidate sets that contain it, times the share of candidates. The result is
    scaled to the budget, from which this mean differs by noise.
    """
    residues = batch["residue_mask"][0]
    budget = rules.budgets(batch["num_residues"])[0]
    candidates = _balanced_candidates(rules, batch, keys) if rules.blind else batch["residue_mask"]
    sums = torch.zeros(residues.shape, dtype=torch.float64, device=residues.device)
    options = None
    for begin in range(0, len(candidates), rows):
        some = candidates[begin : begin + rows]
        scores = noiser(
            input_ids=torch.where(some & rules.blind, vocabulary.mask_token_id, batch["input_ids"]),
            attention_mask=batch["attention_mask"].expand(len(some), -1),
        )
        given = SAMPLERS[rules.sampler].marginals(scores.any_mask_scores.double(), some, budget.expand(len(some)))
        sums += given.sum(dim=0)
        of_options = _option_shares(rules, scores.option_scores)
        weighted = (of_options * given[..., None]).sum(dim=0)
        options = weighted if options is None else options + weighted
        reads.add(len(some))
    counts = candidates.sum(dim=0).clamp_min(1)
    mean = torch.where(residues, sums / counts, 0)
    mean *= budget / mean.sum().clamp_min(torch.finfo(mean.dtype).tiny)
    assert options is not None  # there is at least one row
    shares = options / options.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(mean.dtype).tiny)
    return mean.cpu().numpy(), shares.cpu().numpy()


def _option_shares(rules: MaskingRules, option_scores: torch.Tensor) -> torch.Tensor:
    """Return the probability of each option: `(batch, length, 2 + replacements)`, float64."""
    if rules.learned_options:
        return torch.softmax(option_scores.double(), dim=-1)  # the largest of score + Gumbel noise
    shares = torch.zeros_like(option_scores, dtype=torch.float64)
    shares[..., MASK] = 1
    return shares


def _balanced_candidates(rules: MaskingRules, batch: dict[str, torch.Tensor], keys: torch.Tensor) -> torch.Tensor:
    """Draw candidate sets in which all residues occur equally often, up to one: `(draws, length)`, bool.

    Each set takes the residues that occurred least so far, in random order. So each one is uniform, as in training.
    """
    residues, wanted = batch["residue_mask"], rules.candidate_budget(batch["num_residues"])
    used, sets = torch.zeros(residues.shape[1], device=residues.device), []
    for noise in uniform(keys, CANDIDATE, residues.shape[1]):
        chosen = topk_mask((noise - used)[None], residues, wanted)[0]
        used += chosen
        sets.append(chosen)
    return torch.stack(sets)


def _average_of_draws(
    noiser: NoiserModel,
    rules: MaskingRules,
    vocabulary: ResidueVocabulary,
    batch: dict[str, torch.Tensor],
    keys: torch.Tensor,
    rows: int,
    reads: Reads,
) -> tuple[np.ndarray, np.ndarray]:
    """As [`_average_closed_form`], from masks as in training."""
    length = batch["input_ids"].shape[1]
    residues = batch["residue_mask"]
    counts = torch.zeros(length, dtype=torch.float64, device=keys.device)
    weights, options = torch.zeros_like(counts), None
    for begin in range(0, len(keys), rows):
        some = keys[begin : begin + rows]
        repeated = {name: tensor.expand(len(some), *tensor.shape[1:]) for name, tensor in batch.items()}
        corrupted = corrupt_batch(repeated, some, vocabulary, rules, noiser)
        counts += corrupted.adversarial.sum(dim=0)
        assert corrupted.choice is not None  # there is a noiser
        could = residues.expand(len(some), -1)
        if rules.blind:  # the candidates of `corrupt_batch`
            could = topk_mask(
                uniform(some, CANDIDATE, length), could, rules.candidate_budget(repeated["num_residues"])
            )
        weights += could.sum(dim=0)
        shares = (_option_shares(rules, corrupted.choice.scores.option_scores) * could[..., None]).sum(dim=0)
        options = shares if options is None else options + shares
        reads.add(len(some))
    assert options is not None  # there is at least one row
    return (counts / len(keys)).cpu().numpy(), (options / weights.clamp_min(1)[:, None]).cpu().numpy()
