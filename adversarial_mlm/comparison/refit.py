"""Cross-entropy of hidden residues, before and after refitting the encoder's output biases.

Masks that prefer some residues shift what an encoder expects at [MASK]. That shift does not make the encoder worse.
Refitting the output biases on other proteins removes it, and leaves what the encoder knows about contexts.
"""

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import PreTrainedModel

from adversarial_mlm.data.length_chunks import cut_by_length
from adversarial_mlm.data.order import KeyedRecords
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.masking.keyed_random import EVALUATION, row_keys
from adversarial_mlm.masking.losses import IGNORE_INDEX
from adversarial_mlm.utils.counts import count

_RIDGE = 1e-6  # a common shift of all biases, and the bias of an unused token, do not change the loss
_ROUNDS, _SMALL = 100, 1e-10


@dataclass
class HiddenResidues:
    """The encoder's predictions for residues that were hidden from it.

    Attributes:
        logits (`torch.Tensor` of shape `(residues, vocab)`): float64, on the CPU.
        labels (`torch.Tensor` of shape `(residues,)`): The true tokens.
        rows (`torch.Tensor` of shape `(residues,)`): Index of the protein of each residue.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor

    def loss(self, bias: torch.Tensor | None = None) -> float:
        """Return the mean cross-entropy in nats, with biases added to the logits."""
        return float(F.cross_entropy(self.logits if bias is None else self.logits + bias, self.labels))

    def accuracy(self) -> float:
        """Return the share of residues whose true token has the largest logit."""
        return float((self.logits.argmax(dim=-1) == self.labels).double().mean())

    def background_loss(self, log_shares: torch.Tensor) -> float:
        """Return the cross-entropy of the background predictor."""
        return float(-log_shares.cpu()[self.labels].mean())

    def part(self, chosen: torch.Tensor) -> "HiddenResidues":
        """Return a subset of the residues."""
        return HiddenResidues(self.logits[chosen], self.labels[chosen], self.rows[chosen])

    def refitted_loss(self) -> float:
        """Return the cross-entropy of each half of the proteins, with biases fitted on the other half."""
        first = self.rows % 2 == 0
        if first.all() or not first.any():
            return self.loss()
        halves = self.part(first), self.part(~first)
        losses = [own.loss(fit_bias(other)) * len(own.labels) for own, other in (halves, halves[::-1])]
        return sum(losses) / len(self.labels)


@torch.no_grad()
def hide_and_ask(
    encoder: PreTrainedModel,
    collator: DataCollatorForRandomMLM,
    dataset: Dataset,
    *,
    mask_rate: float,
    mask_seed: int,
    batch_size: int = 64,
) -> HiddenResidues:
    """Hide residues as the trainer's evaluation does, and return the encoder's predictions.

    Args:
        encoder (`PreTrainedModel`): The encoder, on its device.
        collator ([`DataCollatorForRandomMLM`]): A collator with the encoder's tokenizer.
        dataset (`Dataset`): Proteins, with the column `sequence`.
        mask_rate (`float`): Share of each protein's residues that are replaced by [MASK].
        mask_seed (`int`): Seed of the masks, and of the windows of long proteins.
        batch_size (`int`, defaults to 64): Proteins in a batch.

    Raises:
        ValueError: If no residue can be hidden.
    """
    encoder.eval()
    collator.sequence_encoder.seed = mask_seed
    found: list[tuple[torch.Tensor, ...]] = []
    records = KeyedRecords(dataset)
    for start in range(0, len(dataset), batch_size):
        keys = list(range(start, min(start + batch_size, len(dataset))))
        batch = {**collator(records.__getitems__(keys)), "row": torch.tensor(keys)}
        for chunk in cut_by_length(batch, 256):
            chunk = {name: tensor.to(encoder.device) for name, tensor in chunk.items()}
            corrupted = collator.hide_at_random(chunk, row_keys(mask_seed, EVALUATION, 0, chunk["row"]), mask_rate)
            logits = encoder(input_ids=corrupted.input_ids, attention_mask=corrupted.attention_mask).logits
            hidden = corrupted.labels != IGNORE_INDEX
            rows = chunk["row"][:, None].expand_as(hidden)
            found.append(
                tuple(tensor.cpu() for tensor in (logits[hidden].double(), corrupted.labels[hidden], rows[hidden]))
            )
    together = HiddenResidues(*(torch.cat(parts) for parts in zip(*found, strict=True)))
    if not len(together.labels):
        raise ValueError(
            f"no residue was hidden in {count(len(dataset), 'protein')} at a mask rate of {mask_rate}: "
            "raise eval_mask_rate or hold out more proteins"
        )
    return together


def fit_bias(hidden: HiddenResidues) -> torch.Tensor:
    """Fit output biases that minimise the cross-entropy: a convex problem, solved by Newton's method.

    Args:
        hidden ([`HiddenResidues`]): The residues to fit on.

    Returns:
        `torch.Tensor` of shape `(vocab,)`, float64, to be added to the logits.
    """
    logits, labels = hidden.logits, hidden.labels
    vocab, count = logits.shape[-1], len(labels)
    shares = torch.bincount(labels, minlength=vocab).double() / count
    bias = torch.zeros(vocab, dtype=torch.float64)

    def objective(bias: torch.Tensor) -> float:
        return hidden.loss(bias) + 0.5 * _RIDGE * float(bias @ bias)

    value = objective(bias)
    for _ in range(_ROUNDS):
        expected = torch.softmax(logits + bias, dim=-1)
        gradient = expected.mean(dim=0) - shares + _RIDGE * bias
        curvature = (
            torch.diag(expected.mean(dim=0)) - expected.T @ expected / count + _RIDGE * torch.eye(vocab).double()
        )
        step = torch.linalg.solve(curvature, gradient)
        if float(gradient @ step) < _SMALL:
            break
        scale = 1.0
        while scale > 1e-6 and objective(bias - scale * step) > value:
            scale /= 2
        bias = bias - scale * step
        value = objective(bias)
    return bias


def figures_of_sets(
    hidden: dict[str, HiddenResidues],
    log_shares: torch.Tensor,
    fitted_on: dict[str, HiddenResidues] | None = None,
) -> dict[str, float]:
    """Compute the metrics of each held-out set: loss, refitted loss, accuracy, background loss.

    Args:
        hidden (`dict[str, HiddenResidues]`): Predictions by held-out set.
        log_shares (`torch.Tensor` of shape `(vocab,)`): See [`evaluation.background_log_shares`].
        fitted_on (`dict[str, HiddenResidues]`, *optional*): Predictions to fit the biases on, by held-out set. By
            default each half of a set uses biases fitted on its other half.
    """
    figures = {}
    for name, part in hidden.items():
        figures[f"{name}_loss"] = part.loss()
        figures[f"{name}_refitted_loss"] = (
            part.refitted_loss() if fitted_on is None else part.loss(fit_bias(fitted_on[name]))
        )
        figures[f"{name}_accuracy"] = part.accuracy()
        figures[f"{name}_background_loss"] = part.background_loss(log_shares)
        figures[f"{name}_residues"] = len(part.labels)
        figures[f"{name}_proteins"] = int(np.unique(part.rows.numpy()).size)
    return figures
