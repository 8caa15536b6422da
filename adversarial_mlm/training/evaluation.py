"""Evaluate an encoder on masked residues: with random masks that all runs share, and with the noiser's masks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from adversarial_mlm.data.order import KeyedRecords, global_rows
from adversarial_mlm.masking.corruption import CorruptedBatch
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM, SequenceEncoder
from adversarial_mlm.masking.keyed_random import EVALUATION, row_keys
from adversarial_mlm.masking.losses import IGNORE_INDEX, token_losses
from adversarial_mlm.masking.statistics import statistics_for

_BACKGROUND_RECORDS = 10_000
_RECORDS_AT_ONCE = 1000
CONTEXT_RATES = (0.15, 0.5)
"""Mask rates that the context gap compares."""


@contextmanager
def in_evaluation_mode(*networks: nn.Module | None) -> Iterator[None]:
    """Put networks into evaluation mode, and each back into its own mode at the end."""
    modes = [(network, network.training) for network in networks if network is not None]
    for network, _ in modes:
        network.eval()
    yield
    for network, training in modes:
        network.train(training)


@torch.no_grad()
def evaluate_masks(
    encoder: nn.Module,
    collator: DataCollatorForRandomMLM,
    batches: Iterable[Mapping[str, torch.Tensor]],
    *,
    mask_rate: float,
    mask_seed: int,
    log_shares: torch.Tensor | None = None,
    context_gap: bool = False,
    reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Cross-entropy, perplexity and accuracy on masked residues.

    Args:
        encoder (`nn.Module`): The encoder, in evaluation mode.
        collator ([`DataCollatorForRandomMLM`] or [`DataCollatorForAdversarialMLM`]): Masks the batches. If it has a
            noiser that chooses positions, its masks are evaluated, too.
        batches (`Iterable[Mapping[str, torch.Tensor]]`): Output of the collator's CPU stage, on the device. `row`
            `(batch,)`, int64, is the index of each protein in the held-out set, and the key of its masks.
        mask_rate (`float`): Share of each protein's residues that is replaced by [MASK] at random.
        mask_seed (`int`): Seed of the masks.
        log_shares (`torch.Tensor` of shape `(vocab,)`, *optional*): See [`background_log_shares`].
        context_gap (`bool`, *optional*, defaults to `False`): Whether to compute the context gap, which needs two more
            forward passes of each batch.
        reduce (`Callable`, *optional*): Sums a tensor over all processes.
        device (`torch.device`, *optional*): Device of the batches.

    Returns:
        `dict[str, float]`: `loss` (mean cross-entropy in nats), `perplexity`, `accuracy`, `masked_residues` and
        `proteins`. With `log_shares` also `background_loss`, the cross-entropy of the background predictor on the same
        residues. With a noiser also the figures of its masks, see [`MaskingStatistics.figures`]. With `context_gap`
        also that: how much higher the cross-entropy of residues is if 50 % of the protein is hidden, and not 15 %.

    Raises:
        ValueError: If no residue can be masked.
    """
    statistics = statistics_for(collator, device)
    # one mask rate for all evaluations, so figures of different steps can be compared
    of_noiser = None if collator.rules.schedule is None else collator.rules.without_schedule()
    sums = torch.zeros(7, dtype=torch.float64, device=device)
    for batch in batches:
        keys = row_keys(mask_seed, EVALUATION, 0, batch["row"])
        sums[:5] += _sums(encoder, collator.hide_at_random(batch, keys, mask_rate), log_shares)
        if context_gap:
            sums[5:] += _context_sums(encoder, collator, batch, keys)
        if collator.chooses_positions:
            corrupted = collator.corrupt(batch, row_keys(mask_seed, EVALUATION, 1, batch["row"]), rules=of_noiser)
            losses = token_losses(_logits(encoder, corrupted), corrupted.labels)
            statistics.update(corrupted, losses, batch["input_ids"], batch["residue_mask"])
    loss, background, correct, masked, proteins, rise, compared = reduce(sums).tolist()
    if not masked:
        raise ValueError("the held-out set has no residue to mask")
    figures = {
        "loss": loss / masked,
        "perplexity": torch.tensor(loss / masked, dtype=torch.float64).exp().item(),  # inf, where math.exp raises
        "accuracy": correct / masked,
        "masked_residues": int(masked),
        "proteins": int(proteins),
    }
    if log_shares is not None:
        figures["background_loss"] = background / masked
    if context_gap and compared:
        figures["context_gap"] = rise / compared
    return {**figures, **statistics.figures(reduce)}


def _logits(encoder: nn.Module, corrupted: CorruptedBatch) -> torch.Tensor:
    return encoder(input_ids=corrupted.input_ids, attention_mask=corrupted.attention_mask).logits


def _sums(encoder: nn.Module, corrupted: CorruptedBatch, log_shares: torch.Tensor | None) -> torch.Tensor:
    logits = _logits(encoder, corrupted)
    masked = corrupted.labels != IGNORE_INDEX
    background = torch.zeros((), device=logits.device)
    if log_shares is not None:
        background = -log_shares[corrupted.labels[masked]].sum()
    sums = [
        token_losses(logits, corrupted.labels).double().sum(),
        background,
        ((logits.argmax(dim=-1) == corrupted.labels) & masked).sum(),
        masked.sum(),
        torch.tensor(len(masked), device=logits.device),
    ]
    return torch.stack([value.double() for value in sums])


def _context_sums(
    encoder: nn.Module, collator: DataCollatorForRandomMLM, batch: Mapping[str, torch.Tensor], keys: torch.Tensor
) -> torch.Tensor:
    """Rise of the cross-entropy, summed over the residues hidden at the lower rate, and their number.

    The masks of both rates use the same random numbers, so those of the lower rate are a random subset of the others.
    Comparing the same residues has the expectation of comparing all, with less noise.
    """
    few, many = (collator.hide_at_random(batch, keys, rate) for rate in CONTEXT_RATES)
    near, far = (token_losses(_logits(encoder, masks), few.labels).double().sum() for masks in (few, many))
    return torch.stack([far - near, (few.labels != IGNORE_INDEX).sum().double()])


def numbered_batches(loader: DataLoader, batch_size: int, world: int, rank: int) -> Iterator[dict[str, torch.Tensor]]:
    """Add `row` `(batch,)` to batches: the index of each protein in the held-out set, which is the key of its masks.

    Rows that only fill up the last batches of the processes are removed.

    Args:
        loader (`DataLoader`): The loader of this process.
        batch_size (`int`): Proteins per batch of one process.
        world (`int`): Number of processes.
        rank (`int`): Rank of this process.
    """
    # a stream has no such rows, see `HeldOutBatches`
    records = None if isinstance(loader.dataset, IterableDataset) else len(cast(Sized, loader.dataset))
    for step, batch in enumerate(loader):
        batch = {**batch, "row": global_rows(batch_size, len(batch["input_ids"]), step, world, rank)}
        if records is not None:
            real = batch["row"] < records
            batch = {name: tensor[real] for name, tensor in batch.items()}
        yield batch


def background_log_shares(dataset, sequence_encoder: SequenceEncoder) -> torch.Tensor:
    """Logarithm of each token's share of the residues in a dataset: the background predictor.

    Args:
        dataset: A dataset with `__len__` and a `sequence` column. In a large one, at least 10,000 evenly spaced
            records are counted.
        sequence_encoder ([`SequenceEncoder`]): Encodes and crops the records.

    Returns:
        `torch.Tensor` of shape `(vocab,)`, float64; minus infinity for tokens that are not residues.
    """
    counts = torch.zeros(sequence_encoder.vocabulary.vocab_size, dtype=torch.float64)
    # start at 1, because the loss of a residue that is not in the dataset would be infinite
    counts[list(sequence_encoder.vocabulary.residue_ids)] = 1
    records = KeyedRecords(dataset)
    keys = range(0, len(dataset), max(len(dataset) // _BACKGROUND_RECORDS, 1))
    for start in range(0, len(keys), _RECORDS_AT_ONCE):
        batch = sequence_encoder(records.__getitems__(list(keys[start : start + _RECORDS_AT_ONCE])))
        counts += torch.bincount(batch["input_ids"][batch["residue_mask"]], minlength=len(counts))
    return torch.log(counts / counts.sum())
