"""Ways of choosing the positions of random masks: exact budgets, and the probability of every residue."""

import itertools

import numpy as np
import pytest
import torch

from adversarial_mlm import DataCollatorForRandomMLM
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, RECORD, row_keys
from adversarial_mlm.masking.positions import (
    PASS,
    POSITIONS,
    RECORD_KEY,
    WEIGHTS,
    choose_positions,
    inclusion_probabilities,
    span_mask,
    stratified_mask,
    weighted_mask,
)
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.masking.sampling import logistic_topk_marginals
from adversarial_mlm.utils.errors import CorpusError
from tests.helpers.plain_algorithms import inclusion


def keys_of(rows: int) -> torch.Tensor:
    return row_keys(0, ENCODER_PHASE, 5, torch.arange(rows))


def a_row(length: int, rows: int, budget: int, holes=()) -> tuple[torch.Tensor, torch.Tensor]:
    residues = torch.ones(rows, length, dtype=torch.bool)
    residues[:, [0, length - 1, *holes]] = False
    return residues, torch.full((rows,), budget)


@pytest.mark.parametrize("positions", POSITIONS)
def test_every_row_gets_exactly_its_budget_whatever_its_padding(positions):
    torch.manual_seed(0)
    lengths, budget = torch.tensor([3, 17, 40, 60, 0]), torch.tensor([1, 9, 40, 0, 0])
    residues = torch.arange(70) < lengths[:, None]
    residues[2, 5] = False
    wanted = torch.minimum(budget, residues.sum(dim=1))
    batch = {PASS: torch.arange(5), RECORD_KEY: keys_of(5), WEIGHTS: torch.rand(5, 70) * (torch.rand(5, 70) > 0.3)}
    chosen = choose_positions(positions, batch, keys_of(5), residues, budget)
    assert torch.equal(chosen.sum(dim=1), wanted) and not (chosen & ~residues).any()
    if positions == "weighted":  # of equal total without the padding
        batch[WEIGHTS] = batch[WEIGHTS][:, :60]
    narrow = choose_positions(positions, batch, keys_of(5), residues[:, :60], budget)
    assert torch.equal(narrow, chosen[:, :60])


# ---- spans ----


@pytest.mark.parametrize(("budget", "mean_length"), [(4, 3.0), (13, 2.0), (7, 50.0), (18, 5.0)])
def test_every_residue_is_as_likely_to_be_in_a_span(budget, mean_length):
    rows = 15_000
    residues, budgets = a_row(22, rows, budget, holes=(7,))
    share = span_mask(keys_of(rows), residues, budgets, mean_length).double().mean(dim=0)
    expected = torch.where(residues[0], budget / 19, 0)
    assert (share - expected).abs().max() < 4.5 * (0.25 / rows) ** 0.5


def test_spans_have_the_mean_length_and_one_residue_spans_are_independent():
    residues, budgets = a_row(1502, 300, 60)
    for mean_length in (1.0, 3.0, 8.0):
        chosen = span_mask(keys_of(300), residues, budgets, mean_length)
        starts = (chosen & ~chosen.roll(1, dims=1)).sum()
        # the first begins a span, and each of the others with probability 1 / mean; at 4 % few spans touch
        assert starts / 300 == pytest.approx(1 + 59 / mean_length, rel=0.05)


def test_a_span_as_long_as_the_protein_is_one_piece_of_the_ring():
    residues, budgets = a_row(42, 50, 10)
    chosen = span_mask(keys_of(50), residues, budgets, 1e9)[:, 1:-1]
    assert torch.equal((chosen & ~chosen.roll(1, dims=1)).sum(dim=1), torch.ones(50, dtype=torch.int64))


# ---- stratified ----


@pytest.mark.parametrize("budget", [1, 3, 5, 8, 11, 14, 16, 17])
def test_after_any_number_of_passes_residues_were_masked_equally_often(budget):
    residues, budgets = a_row(19, 1, budget)
    key, counts = row_keys(7, RECORD, 0, torch.tensor([3])), torch.zeros(17)
    for number in range(60):
        chosen = stratified_mask(key, torch.tensor([number]), residues, budgets)[0, 1:-1]
        assert chosen.sum() == budget
        counts += chosen
        assert counts.max() - counts.min() <= 1, number
    assert counts.sum() == 60 * budget


def test_a_single_pass_is_a_uniform_draw_of_a_set():
    records, budget = 15_000, 2
    residues, budgets = a_row(7, records, budget)
    keys = row_keys(0, RECORD, 0, torch.arange(records))
    for number in (0, 1, 2, 7):  # five residues: pass 2 is in two cycles
        chosen = stratified_mask(keys, torch.full((records,), number), residues, budgets)[:, 1:-1]
        sets = [chosen[:, list(pair)].all(dim=1).double().mean() for pair in itertools.combinations(range(5), 2)]
        assert torch.stack(sets).tolist() == pytest.approx([0.1] * 10, abs=0.012)


def test_cycles_have_other_orders_and_passes_are_keyed_by_record_and_number():
    residues, budgets = a_row(42, 2, 20)
    keys = row_keys(0, RECORD, 0, torch.arange(2))
    passes = [stratified_mask(keys, torch.full((2,), number), residues, budgets) for number in range(4)]
    assert torch.equal(passes[1], residues & ~passes[0]) and not torch.equal(passes[2], passes[0])
    assert not torch.equal(passes[0][0], passes[0][1])
    swapped = stratified_mask(keys.flip(0), torch.zeros(2, dtype=torch.int64), residues, budgets)
    assert torch.equal(swapped, passes[0].flip(0))


# ---- weighted ----


def test_probabilities_are_proportional_to_weights_up_to_one():
    weights = torch.tensor([[9.0, 9.0, 1.0, 2.0, 3.0, 0.0, 5.0]])
    residues = torch.tensor([[False, True, True, True, True, True, True]])
    found = inclusion_probabilities(weights, residues, torch.tensor([3]))
    # 9 is capped; the others share 2 of 11
    assert found[0].tolist() == pytest.approx([0, 1, 2 / 11, 4 / 11, 6 / 11, 0, 10 / 11])
    assert inclusion_probabilities(weights, residues, torch.tensor([0])).sum() == 0
    # five residues have weights: the sixth fills the budget
    assert inclusion_probabilities(weights, residues, torch.tensor([6]))[0].tolist() == [0, 1, 1, 1, 1, 1, 1]
    halves = inclusion_probabilities(
        torch.tensor([[1.0, 0.0, 0.0]]), torch.ones(1, 3, dtype=torch.bool), torch.tensor([2])
    )
    assert halves[0].tolist() == [1, 0.5, 0.5]


def test_probabilities_sum_to_the_budget_for_any_weights():
    torch.manual_seed(1)
    weights = torch.randn(200, 30).mul(3).exp() * (torch.rand(200, 30) > 0.2)
    residues, budget = torch.rand(200, 30) > 0.1, torch.randint(0, 25, (200,))
    found = inclusion_probabilities(weights, residues, budget)
    assert torch.allclose(found.sum(dim=1), torch.minimum(budget, residues.sum(dim=1)).double())
    assert found.min() >= 0 and found.max() <= 1 and not found[~residues].any()
    # where none is capped or missing, they are the closed form of the sampler that draws them
    inside = (found > 0) & (found < 1)
    marginals = logistic_topk_marginals(torch.logit(found), inside, (found * inside).sum(dim=1).round().long())
    torch.testing.assert_close(marginals[inside], found[inside])


def test_residues_are_drawn_nearly_with_these_probabilities():
    rows, weights = 20_000, torch.tensor([0.5, 1.0, 1.0, 2.0, 3.0, 4.0, 0.0, 8.0, 1.5, 0.7])
    residues, budgets = torch.ones(rows, 10, dtype=torch.bool), torch.full((rows,), 3)
    share = weighted_mask(keys_of(rows), weights.expand(rows, 10), residues, budgets).double().mean(dim=0)
    wanted = inclusion_probabilities(weights[None], residues[:1], budgets[:1])[0]
    inside = ((wanted > 0) & (wanted < 1)).numpy()
    exact = wanted.numpy().copy()
    exact[inside] = inclusion(np.log(exact[inside] / (1 - exact[inside])), int(round(exact[inside].sum())), "logistic")
    assert share[6] == 0 and np.abs(share.numpy() - exact).max() < 4.5 * (0.25 / rows) ** 0.5
    assert np.abs(exact - wanted.numpy()).max() < 0.011  # what the closed form leaves out


# ---- rules and collators ----


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"positions": "span", "adversarial_rate": 0.1}, "masking: span chooses all positions, so adversarial_rate"),
        ({"span_length": 3}, "span_length is 3, but only applies to masking: span: remove it"),
        ({"positions": "span", "span_length": 0.5}, "span_length must be at least 1, got 0.5"),
        ({"positions": "nearest"}, "positions must be one of random, span, stratified, weighted, got 'nearest'"),
        (
            {"positions": "stratified", "rate_schedule": ["10%-90%"]},
            "masking: stratified .*so mask_rate must be one rate, got 10%-90%",
        ),
    ],
)
def test_rules_that_contradict_each_other_are_refused(rules, message):
    with pytest.raises(ValueError, match=message):
        MaskingRules(0.2, **rules)


def test_a_collator_chooses_as_its_option_says(tokenizer, proteins):
    examples = [{"sequence": p, "record": i, "epoch": 0, "id": f"P{i}"} for i, p in enumerate(proteins[:6])]
    keys, chosen = keys_of(6), {}
    weights = {f"P{i}": [0.0, *[1.0] * (len(p) - 1)] for i, p in enumerate(proteins[:6])}
    for masking in POSITIONS:
        options = {"mask_weights": weights} if masking == "weighted" else {}
        collator = DataCollatorForRandomMLM(tokenizer, random_rate=0.3, masking=masking, max_length=50, **options)
        batch = collator(examples)
        chosen[masking] = collator.corrupt(batch, keys).masked
        assert torch.equal(chosen[masking].sum(dim=1), collator.mask_budget(batch["num_residues"]))
        # held-out residues are hidden at random, whatever the option
        hidden = collator.hide_at_random(collator.sequence_encoder.for_evaluation(0)(examples), keys, 0.3).masked
        assert torch.equal(hidden, chosen["random"])
    assert len({mask.numpy().tobytes() for mask in chosen.values()}) == len(POSITIONS)


def test_weights_follow_the_window_of_a_long_protein(tokenizer):
    sequence = "ACDEFGHIKLMNPQRSTVWY" * 5
    only = sequence.index("W") + 20
    weights = [float(i % 20 == only % 20) for i in range(100)]
    collator = DataCollatorForRandomMLM(tokenizer, random_rate=0.05, masking="weighted", max_length=42)
    for epoch in range(5):
        batch = collator([{"sequence": sequence, "record": 0, "epoch": epoch, "mask_weights": weights}])
        masked = batch["input_ids"][collator.corrupt(batch, keys_of(1)).masked]
        assert tokenizer.convert_ids_to_tokens(masked.tolist()) == ["W", "W"]


def test_what_a_choice_needs_and_does_not_get_is_named(tokenizer, proteins):
    stratified = DataCollatorForRandomMLM(tokenizer, masking="stratified")
    with pytest.raises(CorpusError, match="masking: stratified needs the record and the epoch of every protein"):
        stratified.corrupt(stratified([{"sequence": proteins[0]}]))
    weighted = DataCollatorForRandomMLM(tokenizer, masking="weighted")
    with pytest.raises(CorpusError, match="masking: weighted needs the weights of every protein: give mask_weights"):
        weighted.corrupt(weighted([{"sequence": proteins[0]}]))
    weighted.sequence_encoder.names_records = True  # as in training
    with pytest.raises(CorpusError, match="record P7: it has no mask_weights, which masking: weighted needs"):
        weighted([{"sequence": proteins[0], "id": "P7"}])
    for weights, message in (
        ([1.0, 2.0], "record P7: mask_weights has 2 weights, but the sequence has 3 residues"),
        ([1.0, -2.0, 0.0], "record P7: mask_weights contains -2 at residue 2, but weights must be 0 or more"),
    ):
        with pytest.raises(CorpusError, match=message):
            weighted([{"sequence": "MKV", "id": "P7", "mask_weights": weights}])
    with pytest.raises(ValueError, match="mask_weights only applies to masking: weighted, but masking is span"):
        DataCollatorForRandomMLM(tokenizer, masking="span", mask_weights={"P7": [1.0]})
    with pytest.raises(ValueError, match="masking must be one of random, span, stratified, weighted, got 'nearest'"):
        DataCollatorForRandomMLM(tokenizer, masking="nearest")
