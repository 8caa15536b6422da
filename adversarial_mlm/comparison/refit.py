"""How well an encoder recovers hidden residues, also with output biases that were fitted anew.

Masks that prefer some residues shift what an encoder expects behind [MASK]. A shifted prior is not a worse encoder:
with the biases of its output refitted on other proteins what is left is what it knows of contexts.
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

_RIDGE = 1e-6  # all biases together are free, as is that of a token that no protein has
_ROUNDS, _SMALL = 100, 1e-10


@dataclass
class HiddenResidues:
    """What an encoder says of residues that were hidden from it.

    Attributes:
        logits (`torch.Tensor` of shape `(residues, vocab)`): float64, on the CPU.
        labels (`torch.Tensor` of shape `(residues,)`): What stood there.
        rows (`torch.Tensor` of shape `(residues,)`): The protein that each belongs to.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor

    def loss(self, bias: torch.Tensor | None = None) -> float:
        """Mean cross-entropy in nats, with biases added to the logits."""
        return float(F.cross_entropy(self.logits if bias is None else self.logits + bias, self.labels))

    def accuracy(self) -> float:
        """Share of the residues that the encoder thinks the likeliest."""
        return float((self.logits.argmax(dim=-1) == self.labels).double().mean())

    def background_loss(self, log_shares: torch.Tensor) -> float:
        """Cross-entropy of a predictor that only knows how frequent each residue is."""
        return float(-log_shares.cpu()[self.labels].mean())

    def part(self, chosen: torch.Tensor) -> "HiddenResidues":
        """Some of the residues."""
        return HiddenResidues(self.logits[chosen], self.labels[chosen], self.rows[chosen])

    def refitted_loss(self) -> float:
        """Cross-entropy of each half of the proteins with biases that were fitted on the other half."""
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
    """Hide residues as the trainer's evaluation does, and keep what the encoder says.

    Args:
        encoder (`PreTrainedModel`): The encoder, on its device.
        collator ([`DataCollatorForRandomMLM`]): Of its tokenizer.
        dataset (`Dataset`): Proteins, with the column `sequence`.
        mask_rate (`float`): Share of each protein's residues that is hidden by [MASK].
        mask_seed (`int`): Of the masks, and of the windows of long proteins.
        batch_size (`int`, defaults to 64): Proteins that are read together.

    Raises:
        ValueError: If there is no residue to hide.
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
        raise ValueError("evaluation found no residue to hide")
    return together


def fit_bias(hidden: HiddenResidues) -> torch.Tensor:
    """The biases with which the cross-entropy is least: a convex problem, solved by Newton's method.

    Args:
        hidden ([`HiddenResidues`]): To fit them on.

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
    """By held-out set: cross-entropy, the same with refitted biases, accuracy, and that of the background.

    Args:
        hidden (`dict[str, HiddenResidues]`): By held-out set.
        log_shares (`torch.Tensor` of shape `(vocab,)`): See [`evaluation.background_log_shares`].
        fitted_on (`dict[str, HiddenResidues]`, *optional*): What biases are fitted on; by default each half of a set's
            proteins has those of the other half.
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
