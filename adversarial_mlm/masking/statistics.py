"""Statistics of the masks and of the encoder's losses on them, from sums over batches."""

from collections.abc import Callable

import torch

from adversarial_mlm.masking.corruption import CorruptedBatch
from adversarial_mlm.models.modeling_noiser import KEEP, MASK, REPLACE
from adversarial_mlm.models.tokenization_protein import ResidueVocabulary

_SCALARS = 17
_MOST_MASKED = 5  # residues that `most_masked` names


class MaskingStatistics:
    """Sums over corrupted batches. They stay on the device until [`figures`][MaskingStatistics.figures] is called.

    Args:
        vocabulary ([`ResidueVocabulary`]): Vocabulary of the batches.
        adversarial (`bool`): Whether there is a noiser to report on.
        device (`torch.device`): Device of the batches.
    """

    def __init__(self, vocabulary: ResidueVocabulary, adversarial: bool, device: torch.device | str = "cpu"):
        self.vocabulary, self.adversarial = vocabulary, adversarial
        self.sums = torch.zeros(_SCALARS + 2 * vocabulary.vocab_size, dtype=torch.float64, device=device)

    def update(
        self, corrupted: CorruptedBatch, losses: torch.Tensor, true_ids: torch.Tensor, residues: torch.Tensor
    ) -> None:
        """Add a batch.

        Args:
            corrupted ([`CorruptedBatch`]): The encoder's input.
            losses (`torch.Tensor` of shape `(batch, length)`): Cross-entropy, at least of every masked residue.
            true_ids (`torch.Tensor` of shape `(batch, length)`): The proteins without masks.
            residues (`torch.Tensor` of shape `(batch, length)`, bool): Positions with a residue.
        """
        losses = losses.detach().double()
        entropy, importance = torch.zeros(len(true_ids), device=losses.device), torch.zeros_like(losses)
        if corrupted.choice is not None:
            entropy = corrupted.choice.entropy
            if corrupted.choice.importance is not None:
                importance = corrupted.choice.importance.double()
        hidden = corrupted.option == MASK
        reported = corrupted.adversarial if self.adversarial else corrupted.random
        scalars = [
            (losses * corrupted.adversarial).sum(),
            corrupted.adversarial.sum(),
            (losses * corrupted.random).sum(),
            corrupted.random.sum(),
            *((reported & (corrupted.option == option)).sum() for option in (MASK, KEEP, REPLACE)),
            entropy.double().sum(),
            (importance * corrupted.masked).sum(),
            (importance**2 * corrupted.masked).sum(),
            *((losses * (masks & hidden)).sum() for masks in (corrupted.adversarial, corrupted.random)),
            *((masks & hidden).sum() for masks in (corrupted.adversarial, corrupted.random)),
            *((residues.any(dim=1) & ~masks.any(dim=1)).sum() for masks in (corrupted.masked, corrupted.adversarial)),
            torch.full((), len(true_ids), device=losses.device),
        ]
        self.sums += torch.cat(
            [
                torch.stack([scalar.double() for scalar in scalars]),
                self._letter_counts(true_ids, residues),
                self._letter_counts(true_ids, reported),
            ]
        )

    def _letter_counts(self, ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        # index_add_, because bincount waits for the device
        counts = torch.zeros(self.vocabulary.vocab_size, dtype=torch.float64, device=ids.device)
        return counts.index_add_(0, ids.flatten(), where.flatten().double())

    def figures(self, reduce: Callable[[torch.Tensor], torch.Tensor] | None = None) -> dict[str, float]:
        """Return the statistics of everything added since the last call, and reset the sums.

        Args:
            reduce (`Callable`, *optional*): Sums a tensor over all processes.

        Returns:
            `dict[str, float]`: Empty if nothing was added. Otherwise:

            - `mask_rate`, and `residues`, the number of residues.
            - `share_mask`, `share_keep` and `share_replace`: corruption mix of the noiser's masks, or of the random
              masks if there is no noiser.
            - `rows_without_mask`: number of rows so short that their budget rounds to 0, if there are any.

            With a noiser also:

            - `adversarial_loss` and `random_loss`: mean cross-entropy of the residues masked by the noiser and at
              random, in nats; `gap`: their difference.
            - `mask_gap`: the same difference for residues replaced by [MASK] only. It compares the positions and is
              independent of the corruption mix.
            - `rows_without_adversarial_mask`: number of rows without any, if the noiser masked residues in others.
            - `entropy`: entropy of the noiser's distribution over positions; 1 is uniform.
            - `effective_sample_share`: effective number of masked residues when weighted to uniform masking, divided
              by their number.
            - `enrichment_A` etc.: share of a residue among the masked ones, divided by its share among all;
              `enrichment_max`: the largest of the standard residues.
        """
        # reduce even if this process added nothing, because the others wait for it
        sums = (self.sums if reduce is None else reduce(self.sums)).tolist()
        self.sums = torch.zeros_like(self.sums)
        adv_loss, adv_count, random_loss, random_count, masked, kept, replaced, entropy = sums[:8]
        importance, squared_importance, *hidden, without_mask, without_adversarial, rows = sums[8:_SCALARS]
        if not rows:
            return {}
        background = sums[_SCALARS : _SCALARS + self.vocabulary.vocab_size]
        chosen = sums[_SCALARS + self.vocabulary.vocab_size :]
        residues, reported = sum(background), max(masked + kept + replaced, 1.0)
        figures = {
            "mask_rate": (adv_count + random_count) / max(residues, 1.0),
            "share_mask": masked / reported,
            "share_keep": kept / reported,
            "share_replace": replaced / reported,
            "residues": residues,
        }
        if without_mask:
            figures["rows_without_mask"] = without_mask
        if not self.adversarial:
            return figures
        if adv_count:
            figures["adversarial_loss"] = adv_loss / adv_count
        if adv_count and without_adversarial:
            figures["rows_without_adversarial_mask"] = without_adversarial
        if random_count:
            figures["random_loss"] = random_loss / random_count
        if adv_count and random_count:
            figures["gap"] = figures["adversarial_loss"] - figures["random_loss"]
        if hidden[2] and hidden[3]:
            figures["mask_gap"] = hidden[0] / hidden[2] - hidden[1] / hidden[3]
        figures["entropy"] = entropy / max(rows, 1.0)
        if squared_importance:
            figures["effective_sample_share"] = importance**2 / squared_importance / (adv_count + random_count)
        return {**figures, **self._enrichment(background, chosen)}

    def _enrichment(self, background: list[float], chosen: list[float]) -> dict[str, float]:
        residues, reported = max(sum(background), 1.0), max(sum(chosen), 1.0)
        enrichment = {
            f"enrichment_{self.vocabulary.residue_letters[token]}": (chosen[token] / reported)
            / (background[token] / residues)
            for token in self.vocabulary.residue_ids
            if background[token]
        }
        standard = [
            enrichment[key]
            for token in self.vocabulary.replacement_ids
            if (key := f"enrichment_{self.vocabulary.residue_letters[token]}") in enrichment
        ]
        return {**enrichment, "enrichment_max": max(standard, default=0.0)}


def most_masked(figures: dict[str, float]) -> str:
    """Return the residues with the largest enrichment, such as `C 1.2×, Y 1.2×`.

    Args:
        figures (`dict[str, float]`): Statistics of one held-out set, with `enrichment_A` etc.
    """
    prefix = "enrichment_"
    enrichment = {key.removeprefix(prefix): value for key, value in figures.items() if key.startswith(prefix)}
    enrichment.pop("max", None)
    most = sorted(enrichment, key=lambda letter: enrichment[letter], reverse=True)[:_MOST_MASKED]
    return ", ".join(f"{letter} {enrichment[letter]:.1f}×" for letter in most)
