"""How well an encoder recovers hidden residues: under masks that every run shares, and under the noiser's."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized

import torch
from torch import nn
from torch.utils.data import DataLoader

from adversarial_mlm.data.order import KeyedRecords, global_rows
from adversarial_mlm.masking.corruption import CorruptedBatch
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM, SequenceEncoder
from adversarial_mlm.masking.keyed_random import EVALUATION, row_keys
from adversarial_mlm.masking.losses import IGNORE_INDEX, token_losses
from adversarial_mlm.masking.statistics import MaskingStatistics

_BACKGROUND_RECORDS = 10_000
_RECORDS_AT_ONCE = 1000


@torch.no_grad()
def evaluate_masks(
    encoder: nn.Module,
    collator: DataCollatorForRandomMLM,
    batches: Iterable[Mapping[str, torch.Tensor]],
    *,
    mask_rate: float,
    mask_seed: int,
    log_shares: torch.Tensor | None = None,
    reduce: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums,
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Cross-entropy, perplexity and accuracy on hidden residues.

    Args:
        encoder (`nn.Module`): The encoder, in evaluation mode.
        collator ([`DataCollatorForRandomMLM`] or [`DataCollatorForAdversarialMLM`]): Says what a residue is, and how
            the noiser masks, where there is one.
        batches (`Iterable[Mapping[str, torch.Tensor]]`): Of the collator's CPU stage, on the device, each with `row`
            `(batch,)`, int64: the place of each protein in the held-out set, which keys its masks.
        mask_rate (`float`): Share of each protein's residues that is hidden by [MASK], at random.
        mask_seed (`int`): Of the masks.
        log_shares (`torch.Tensor` of shape `(vocab,)`, *optional*): See [`background_log_shares`].
        reduce (`Callable`, *optional*): Sums a tensor over all processes.
        device (`torch.device`, *optional*): Of the batches.

    Returns:
        `dict[str, float]`: `loss` (mean cross-entropy, nats), `perplexity`, `accuracy`, `masked_residues`, `proteins`;
        with `log_shares` `background_loss`, the cross-entropy on the same residues of a predictor that only knows how
        frequent each residue is; with a noiser what [`MaskingStatistics.figures`] reports of its masks.

    Raises:
        ValueError: If there is no residue to hide.
    """
    statistics = MaskingStatistics(collator.vocabulary, collator.noiser is not None, device)
    sums = torch.zeros(5, dtype=torch.float64, device=device)
    for batch in batches:
        corrupted = collator.hide_at_random(batch, row_keys(mask_seed, EVALUATION, 0, batch["row"]), mask_rate)
        sums += _sums(encoder, corrupted, log_shares)
        if collator.noiser is not None:
            corrupted = collator.corrupt(batch, row_keys(mask_seed, EVALUATION, 1, batch["row"]))
            losses = token_losses(_logits(encoder, corrupted), corrupted.labels)
            statistics.update(corrupted, losses, batch["input_ids"], batch["residue_mask"])
    loss, background, correct, masked, proteins = reduce(sums).tolist()
    if not masked:
        raise ValueError("evaluation found no residue to hide")
    figures = {
        "loss": loss / masked,
        "perplexity": torch.tensor(loss / masked, dtype=torch.float64).exp().item(),  # inf, where math.exp raises
        "accuracy": correct / masked,
        "masked_residues": int(masked),
        "proteins": int(proteins),
    }
    if log_shares is not None:
        figures["background_loss"] = background / masked
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


def numbered_batches(loader: DataLoader, batch_size: int, world: int, rank: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches with `row` `(batch,)`, the index of each protein in the held-out set, which keys its masks.

    Rows that pad the last round of processes are left out.

    Args:
        loader (`DataLoader`): Of this process.
        batch_size (`int`): Of one process.
        world (`int`): Number of processes.
        rank (`int`): Number of this one.
    """
    records = len(loader.dataset) if isinstance(loader.dataset, Sized) else None  # None for a stream
    for step, batch in enumerate(loader):
        batch = {**batch, "row": global_rows(batch_size, len(batch["input_ids"]), step, world, rank)}
        if records is not None:
            real = batch["row"] < records
            batch = {name: tensor[real] for name, tensor in batch.items()}
        yield batch


def background_log_shares(dataset, sequence_encoder: SequenceEncoder) -> torch.Tensor:
    """Logarithm of each token's share among the residues of a dataset: the background predictor.

    Args:
        dataset: With `__len__` and a `sequence` column; of a large one 10,000 records, evenly spaced, are counted.
        sequence_encoder ([`SequenceEncoder`]): Encodes and crops the records.

    Returns:
        `torch.Tensor` of shape `(vocab,)`, float64; minus infinity for what is no residue.
    """
    counts = torch.zeros(sequence_encoder.vocabulary.vocab_size, dtype=torch.float64)
    # one of each, so that a residue that the dataset never showed has no infinite surprise
    counts[list(sequence_encoder.vocabulary.residue_ids)] = 1
    records = KeyedRecords(dataset)
    keys = range(0, len(dataset), max(len(dataset) // _BACKGROUND_RECORDS, 1))
    for start in range(0, len(keys), _RECORDS_AT_ONCE):
        batch = sequence_encoder(records.__getitems__(list(keys[start : start + _RECORDS_AT_ONCE])))
        counts += torch.bincount(batch["input_ids"][batch["residue_mask"]], minlength=len(counts))
    return torch.log(counts / counts.sum())
