"""Statistics of the masks and of the encoder's losses on them, from sums over batches."""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch

from adversarial_mlm.masking.corruption import CorruptedBatch
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.models.modeling_noiser import KEEP, MASK, REPLACE
from adversarial_mlm.models.tokenization_protein import ResidueVocabulary

# counted residues: all, those reported (masked by the noiser; without one, at random), and the reported by option
_RESIDUES, _REPORTED, _MASKED, _KEPT, _REPLACED = range(5)
# with a noiser also: masked at random, [MASK] among these, and masked in any way
_RANDOM, _RANDOM_MASKED, _ANY = 5, 6, 7
_OF_SCORES = 4  # sums of entropy and importance
POSITION_BINS = 20  # from the N-terminus to the C-terminus, of equal length
_MOST_MASKED = 5  # residues that `most_masked` names
_ERRORS = 3  # standard errors that chance rarely exceeds


class MaskingStatistics:
    """Sums over corrupted batches. They stay on the device until [`figures`][MaskingStatistics.figures] is called.

    Args:
        vocabulary ([`ResidueVocabulary`]): Vocabulary of the batches.
        adversarial (`bool`): Whether there is a noiser to report on.
        device (`torch.device`): Device of the batches.
    """

    def __init__(self, vocabulary: ResidueVocabulary, adversarial: bool, device: torch.device | str = "cpu"):
        self.vocabulary, self.adversarial = vocabulary, adversarial
        kinds = _ANY + 1 if adversarial else _REPLACED + 1
        # sum of losses, number, and rows of each kind of residue; then the number of batches
        sizes = [3 * kinds, 1, 2 * vocabulary.vocab_size]
        if adversarial:
            pairs = len(vocabulary.residue_ids) * len(vocabulary.replacement_ids)
            sizes += [_OF_SCORES, 2 * POSITION_BINS, pairs]
            self._no_scores = torch.zeros(_OF_SCORES, dtype=torch.float64, device=device)
            self._no_pairs = torch.zeros(pairs, dtype=torch.float64, device=device)
            self._row_of = _indices(vocabulary, vocabulary.residue_ids, device)
            self._column_of = _indices(vocabulary, vocabulary.replacement_ids, device)
        self._sizes = sizes
        self._one = torch.ones(1, device=device)
        self._options = torch.tensor([MASK, KEEP, REPLACE], device=device)[:, None, None]
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
        options = corrupted.option == self._options  # (options, batch, length)
        reported, random = corrupted.adversarial if self.adversarial else corrupted.random, corrupted.random
        by_option = options & reported
        more = (random, random & options[MASK], corrupted.masked) if self.adversarial else ()
        kinds = torch.stack([residues, reported, *by_option.unbind(), *more])
        in_rows = kinds.sum(dim=2)  # (kinds, batch)
        rows = in_rows > 0
        parts = [
            (losses.detach().double() * kinds).flatten(1).sum(dim=1),
            in_rows.sum(dim=1),
            rows.sum(dim=1),
            self._one,
        ]
        counted = kinds[: _REPORTED + 1].flatten(1).t().double()  # (batch * length, 2)
        parts.append(_counts(true_ids, counted, self.vocabulary.vocab_size))
        if self.adversarial:
            parts += self._of_scores(corrupted, parts[2][:1])
            parts.append(_counts(_position_bins(residues, in_rows[_RESIDUES]), counted, POSITION_BINS))
            parts.append(self._replacements(corrupted, true_ids, kinds[_REPLACED]))
        self.sums = self.sums + torch.cat(parts)

    def _of_scores(self, corrupted: CorruptedBatch, rows: torch.Tensor) -> list[torch.Tensor]:
        """Sum of the entropies, number of rows with residues, sums of the importance and of its square.

        Rows without residues, which only fill up a batch, have an entropy of 0.
        """
        choice = corrupted.choice
        if choice is None:
            return [self._no_scores]
        entropy = choice.entropy.sum(dim=0, keepdim=True, dtype=torch.float64)
        if choice.importance is None:
            return [entropy, rows, self._no_scores[:2]]
        importance = choice.importance.double() * corrupted.masked
        return [entropy, rows, importance.sum()[None], (importance * importance).sum()[None]]

    def _replacements(self, corrupted: CorruptedBatch, true_ids: torch.Tensor, replaced: torch.Tensor) -> torch.Tensor:
        """How often the noiser wrote one residue in place of another."""
        if corrupted.choice is None or corrupted.choice.winner is None:  # it did not choose how to mask
            return self._no_pairs
        pairs = self._row_of[true_ids] * len(self.vocabulary.replacement_ids) + self._column_of[corrupted.input_ids]
        return _counts(pairs, replaced.flatten()[:, None].double(), self._sizes[-1])

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
            - `certain_enrichment`: what one of the standard residues has at least: the largest lower end, three
              standard errors (Poisson) below its enrichment; 0 if no residue was masked more than nine times.
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
        figures = self._figures(*parts[:4])
        return figures, self._counts_of_noiser(*parts[4:]) if figures and self.adversarial else {}

    def _counts_of_noiser(self, by_position: list[float], replacements: list[float]) -> dict[str, Any]:
        counts: dict[str, Any] = {
            "residues_by_position": [int(count) for count in by_position[::2]],
            "masks_by_position": [int(count) for count in by_position[1::2]],
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

    def _figures(
        self, kinds: list[float], batches: list[float], letters: list[float], of_scores: Sequence[float] = ()
    ) -> dict[str, float]:
        if not batches[0]:
            return {}
        size = len(kinds) // 3
        losses, numbers, rows = kinds[:size], kinds[size : 2 * size], kinds[2 * size :]
        background, chosen = letters[::2], letters[1::2]
        residues, reported = sum(background), max(sum(numbers[_MASKED : _REPLACED + 1]), 1.0)
        masked = _ANY if self.adversarial else _REPORTED
        figures = {
            "mask_rate": numbers[masked] / max(residues, 1.0),
            "share_mask": numbers[_MASKED] / reported,
            "share_keep": numbers[_KEPT] / reported,
            "share_replace": numbers[_REPLACED] / reported,
            "residues": residues,
        }
        if without_mask := rows[_RESIDUES] - rows[masked]:
            figures["rows_without_mask"] = without_mask
        if not self.adversarial:
            return figures
        entropy, scored, importance, squared_importance = of_scores
        by_noiser, at_random = numbers[_REPORTED], numbers[_RANDOM]
        if by_noiser:
            figures["adversarial_loss"] = losses[_REPORTED] / by_noiser
        if by_noiser and (without_adversarial := rows[_RESIDUES] - rows[_REPORTED]):
            figures["rows_without_adversarial_mask"] = without_adversarial
        if at_random:
            figures["random_loss"] = losses[_RANDOM] / at_random
        if by_noiser and at_random:
            figures["gap"] = figures["adversarial_loss"] - figures["random_loss"]
        if numbers[_MASKED] and numbers[_RANDOM_MASKED]:
            at_masks = losses[_MASKED] / numbers[_MASKED]
            figures["mask_gap"] = at_masks - losses[_RANDOM_MASKED] / numbers[_RANDOM_MASKED]
        if scored:
            figures["entropy"] = entropy / scored
        if squared_importance:
            figures["effective_sample_share"] = importance**2 / squared_importance / (by_noiser + at_random)
        return {**figures, **self._enrichment(background, chosen)}

    def _enrichment(self, background: list[float], chosen: list[float]) -> dict[str, float]:
        residues, reported = max(sum(background), 1.0), max(sum(chosen), 1.0)
        enrichment = {
            f"enrichment_{self.vocabulary.residue_letters[token]}": (chosen[token] / reported)
            / (background[token] / residues)
            for token in self.vocabulary.residue_ids
            if background[token]
        }
        standard = {
            token: enrichment[key]
            for token in self.vocabulary.replacement_ids
            if (key := f"enrichment_{self.vocabulary.residue_letters[token]}") in enrichment
        }
        # a count of n has the standard error √n
        certain = [value * (1 - _ERRORS / math.sqrt(chosen[token])) for token, value in standard.items() if value]
        return {
            **enrichment,
            "enrichment_max": max(standard.values(), default=0.0),
            "certain_enrichment": max([0.0, *certain]),
        }


def statistics_for(collator: DataCollatorForRandomMLM, device: torch.device | str = "cpu") -> MaskingStatistics:
    """Return empty statistics of a collator's masks: of the noiser's, if it has one that chooses positions."""
    return MaskingStatistics(collator.vocabulary, collator.chooses_positions, device)


def _counts(index: torch.Tensor, where: torch.Tensor, size: int) -> torch.Tensor:
    """How often each index occurs, by the columns of `where`, 0 or 1 for each element of `index`; flattened.

    Like `bincount`, but without a wait for the device.
    """
    counts = torch.zeros(size, where.shape[1], dtype=torch.float64, device=index.device)
    return counts.index_add_(0, index.flatten(), where).flatten()


def _position_bins(residues: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The bin of each residue in its protein, `(batch, length)`; `numbers` are the residues of each row."""
    place = residues.cumsum(dim=1) - 1
    return (place * POSITION_BINS // numbers[:, None].clamp_min(1)).clamp(0, POSITION_BINS - 1)


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
