"""Statistics of the masks and of the encoder's losses on them, from sums over batches."""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch

from adversarial_mlm.masking.corruption import CorruptedBatch
from adversarial_mlm.models.modeling_noiser import KEEP, MASK, REPLACE
from adversarial_mlm.models.tokenization_protein import ResidueVocabulary

_SCALARS = 18
POSITION_BINS = 20  # from the N-terminus to the C-terminus, of equal length
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
        sizes = [_SCALARS, vocabulary.vocab_size, vocabulary.vocab_size]
        if adversarial:
            sizes += [POSITION_BINS, POSITION_BINS, len(vocabulary.residue_ids) * len(vocabulary.replacement_ids)]
            self._row_of = _indices(vocabulary, vocabulary.residue_ids, device)
            self._column_of = _indices(vocabulary, vocabulary.replacement_ids, device)
        self._sizes = sizes
        self.sums = torch.zeros(sum(sizes), dtype=torch.float64, device=device)

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
        scored = torch.zeros(len(true_ids), dtype=torch.bool, device=losses.device)  # rows with an entropy
        if corrupted.choice is not None:
            entropy, scored = corrupted.choice.entropy, residues.any(dim=1)  # rows that fill up a batch have none
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
            (entropy.double() * scored).sum(),
            scored.sum(),
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
                *(self._noiser_counts(corrupted, true_ids, residues) if self.adversarial else ()),
            ]
        )

    def _letter_counts(self, ids: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
        return _counts(ids, where, self.vocabulary.vocab_size)

    def _noiser_counts(
        self, corrupted: CorruptedBatch, true_ids: torch.Tensor, residues: torch.Tensor
    ) -> list[torch.Tensor]:
        """Residues and the noiser's masks in each position bin, and replacements by true and new residue."""
        place = residues.cumsum(dim=1) - 1  # of each residue in its protein
        bins = (place * POSITION_BINS // residues.sum(dim=1, keepdim=True).clamp_min(1)).clamp(0, POSITION_BINS - 1)
        pairs = self._row_of[true_ids] * len(self.vocabulary.replacement_ids) + self._column_of[corrupted.input_ids]
        replaced = corrupted.adversarial & (corrupted.option == REPLACE)
        return [
            _counts(bins, residues, POSITION_BINS),
            _counts(bins, corrupted.adversarial, POSITION_BINS),
            _counts(pairs, replaced, self._sizes[-1]),
        ]

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
            - `entropy`: entropy of the noiser's distribution over positions, mean over the proteins; 1 is uniform.
              Absent while the noiser does not run (`adversarial_share: 0`).
            - `effective_sample_share`: effective number of masked residues when weighted to uniform masking, divided
              by their number.
            - `enrichment_A` etc.: share of a residue among the masked ones, divided by its share among all;
              `enrichment_max`: the largest of the standard residues.
        """
        return self.figures_and_counts(reduce)[0]

    def figures_and_counts(
        self, reduce: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """Return [`figures`][MaskingStatistics.figures], and counts of the noiser's masks.

        Args:
            reduce (`Callable`, *optional*): Sums a tensor over all processes.

        Returns:
            The figures, and a dictionary that is empty without a noiser. Otherwise:

            - `residues_by_position` and `masks_by_position` (`list[int]`): number of residues, and of residues that
              the noiser masked, in each of 20 bins of equal length from the N-terminus to the C-terminus. In a cropped
              protein, bins divide the window that the encoder reads.
            - `replacements`, if the noiser replaced residues: a dictionary of `from` and `to`, the residues of rows
              and columns, and `counts` (`list[list[int]]`): how often the noiser wrote one in place of the other.
              Rows without any are left out.
        """
        # reduce even if this process added nothing, because the others wait for it
        sums = (self.sums if reduce is None else reduce(self.sums)).tolist()
        self.sums = torch.zeros_like(self.sums)
        parts = [sums[end - size : end] for size, end in zip(self._sizes, accumulate(self._sizes), strict=True)]
        figures = self._figures(*parts[:3])
        return figures, self._counts_of_noiser(*parts[3:]) if figures and self.adversarial else {}

    def _counts_of_noiser(
        self, residues: list[float], masks: list[float], replacements: list[float]
    ) -> dict[str, Any]:
        counts: dict[str, Any] = {
            "residues_by_position": [int(count) for count in residues],
            "masks_by_position": [int(count) for count in masks],
        }
        letters, width = self.vocabulary.residue_letters, len(self.vocabulary.replacement_ids)
        rows = {
            letters[token]: [int(count) for count in replacements[row * width : (row + 1) * width]]
            for row, token in enumerate(self.vocabulary.residue_ids)
        }
        rows = {letter: row for letter, row in rows.items() if any(row)}
        if rows:
            columns = "".join(letters[token] for token in self.vocabulary.replacement_ids)
            counts["replacements"] = {"from": "".join(rows), "to": columns, "counts": list(rows.values())}
        return counts

    def _figures(self, scalars: list[float], background: list[float], chosen: list[float]) -> dict[str, float]:
        adv_loss, adv_count, random_loss, random_count, masked, kept, replaced, entropy, scored = scalars[:9]
        importance, squared_importance, *hidden, without_mask, without_adversarial, rows = scalars[9:]
        if not rows:
            return {}
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
        if scored:
            figures["entropy"] = entropy / scored
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


def _counts(index: torch.Tensor, where: torch.Tensor, size: int) -> torch.Tensor:
    """How often each index occurs where a mask is true. Like `bincount`, but without a wait for the device."""
    counts = torch.zeros(size, dtype=torch.float64, device=index.device)
    return counts.index_add_(0, index.flatten(), where.flatten().double())


def _indices(vocabulary: ResidueVocabulary, tokens: Sequence[int], device: torch.device | str) -> torch.Tensor:
    """The index of each token of the vocabulary among some of them; 0 for all others."""
    indices = torch.zeros(vocabulary.vocab_size, dtype=torch.int64)
    indices[list(tokens)] = torch.arange(len(tokens))
    return indices.to(device)


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
