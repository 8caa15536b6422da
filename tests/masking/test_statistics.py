from dataclasses import replace

import pytest
import torch

from adversarial_mlm.masking.corruption import NOT_MASKED, CorruptedBatch, NoiserChoice
from adversarial_mlm.masking.statistics import MaskingStatistics
from adversarial_mlm.models.modeling_noiser import KEEP, MASK, REPLACE


@pytest.fixture
def counted(tokenizer):
    """AALLK…: the noiser took both A (masked, replaced) and one L (kept), chance took K."""
    ids = torch.tensor([tokenizer("AALLKGGGGG")["input_ids"]])
    positions = torch.arange(12)
    adversarial = ((positions >= 1) & (positions <= 3))[None]
    option = torch.full((1, 12), NOT_MASKED)
    option[0, 1:4] = torch.tensor([MASK, REPLACE, KEEP])
    option[0, 5] = MASK
    choice = NoiserChoice(scores=None, candidates=None, numbers=None, rules=None, winner=torch.zeros(1, 12))
    # of the four masked residues 1, 1, 1 and 3: (Σ w)² / Σ w² = 36 / 12 = 3 of 4
    choice.importance = torch.where(positions == 5, 3.0, 1.0)[None]
    choice.entropy = torch.tensor([0.5])
    corrupted = CorruptedBatch(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=ids,
        adversarial=adversarial,
        random=(positions == 5)[None],
        option=option,
        choice=choice,
    )
    losses = torch.zeros(1, 12)
    losses[0, 1:4] = torch.tensor([1.0, 2.0, 3.0])
    losses[0, 5] = 0.5
    return corrupted, losses, ids, ((positions >= 1) & (positions <= 10))[None]


def test_figures_are_those_counted_by_hand(counted, vocabulary):
    statistics = MaskingStatistics(vocabulary, adversarial=True)
    statistics.update(*counted)
    statistics.update(*counted)
    figures = statistics.figures()
    assert figures["adversarial_loss"] == 2.0 and figures["random_loss"] == 0.5 and figures["gap"] == 1.5
    assert figures["mask_gap"] == 1.0 - 0.5
    assert figures["mask_rate"] == pytest.approx(0.4) and figures["residues"] == 20
    assert [figures[f"share_{name}"] for name in ("mask", "keep", "replace")] == [pytest.approx(1 / 3)] * 3
    assert figures["entropy"] == 0.5 and figures["effective_sample_share"] == pytest.approx(0.75)
    assert figures["enrichment_A"] == pytest.approx((2 / 3) / 0.2)
    assert figures["enrichment_L"] == pytest.approx((1 / 3) / 0.2)
    assert figures["enrichment_G"] == 0 and figures["enrichment_max"] == figures["enrichment_A"]
    assert "enrichment_W" not in figures  # never seen, so nothing to compare


@pytest.mark.parametrize(("batches", "at_least"), [(2, 0), (32, 3.333 * (1 - 3 / 64**0.5))])
def test_an_enrichment_is_certain_once_there_are_many_masks(counted, vocabulary, batches, at_least):
    statistics = MaskingStatistics(vocabulary, adversarial=True)
    for _ in range(batches):  # two A in each
        statistics.update(*counted)
    figures = statistics.figures()
    assert figures["enrichment_max"] == pytest.approx(3.333, rel=1e-3)
    assert figures["certain_enrichment"] == pytest.approx(at_least, rel=1e-3)


def test_counts_of_the_noiser_are_those_counted_by_hand(counted, vocabulary):
    corrupted, losses, ids, residues = counted
    corrupted.input_ids = ids.clone()
    corrupted.input_ids[0, 2] = ids[0, 5]  # the second A is replaced by K
    statistics = MaskingStatistics(vocabulary, adversarial=True)
    statistics.update(corrupted, losses, ids, residues)
    statistics.update(corrupted, losses, ids, residues)
    _, counts = statistics.figures_and_counts()
    # ten residues: every second of the 20 bins has one, and the first three residues were masked
    assert counts["residues_by_position"] == [2, 0] * 10
    assert counts["masks_by_position"] == [2, 0, 2, 0, 2] + [0] * 15
    replacements = counts["replacements"]
    assert replacements["from"] == "A" and replacements["to"] == "ACDEFGHIKLMNPQRSTVWY"
    assert replacements["counts"] == [[2 * (letter == "K") for letter in replacements["to"]]]
    assert statistics.figures_and_counts() == ({}, {})


def test_without_replacements_or_a_noiser_there_are_no_counts_of_them(counted, vocabulary):
    corrupted, *rest = counted
    corrupted.option = corrupted.option.clamp_max(MASK)
    for adversarial, names in ((True, {"residues_by_position", "masks_by_position"}), (False, set())):
        statistics = MaskingStatistics(vocabulary, adversarial)
        statistics.update(corrupted, *rest)
        assert statistics.figures_and_counts()[1].keys() == names


def test_the_entropy_is_a_mean_over_the_proteins_that_the_noiser_scored(counted, vocabulary):
    corrupted, losses, ids, residues = counted
    statistics = MaskingStatistics(vocabulary, adversarial=True)
    statistics.update(*counted)
    # a row without residues, as in an epoch's last round
    filler = replace(corrupted.choice)
    filler.importance, filler.entropy = corrupted.choice.importance, torch.tensor([0.0])
    statistics.update(replace(corrupted, choice=filler), losses, ids, torch.zeros_like(residues))
    statistics.update(replace(corrupted, choice=None), losses, ids, residues)  # with `adversarial_share: 0`
    assert statistics.figures()["entropy"] == 0.5
    statistics.update(replace(corrupted, choice=None), losses, ids, residues)
    assert "entropy" not in statistics.figures()


def test_reading_the_figures_starts_anew(counted, vocabulary):
    statistics = MaskingStatistics(vocabulary, adversarial=True)
    statistics.update(*counted)
    statistics.figures()
    assert statistics.figures() == {}


def test_without_a_noiser_the_shares_are_those_of_the_random_masks(counted, vocabulary):
    statistics = MaskingStatistics(vocabulary, adversarial=False)
    statistics.update(*counted)
    figures = statistics.figures()
    assert figures["share_mask"] == 1.0 and "gap" not in figures and "enrichment_A" not in figures


def test_sums_are_reduced_before_they_are_divided(counted, vocabulary):
    statistics = MaskingStatistics(vocabulary, adversarial=True)
    statistics.update(*counted)
    figures = statistics.figures(lambda sums: 3 * sums)
    assert figures["residues"] == 30 and figures["adversarial_loss"] == 2.0
