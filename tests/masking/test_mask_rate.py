"""The mask rate as an option: what it is in each update and for each protein, and how many residues are masked."""

import pytest
import torch

from adversarial_mlm import DataCollatorForAdversarialMLM, DataCollatorForRandomMLM
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.masking.mask_rate import MaskRate
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.utils.errors import AdversarialMLMError


def rates(points, curve="linear", max_steps=4):
    return [pytest.approx(MaskRate(points, curve).at(step, max_steps)[1]) for step in range(max_steps)]


def test_the_rate_of_an_update_is_that_in_its_middle():
    assert rates(["75%@0", "15%@100%"]) == [0.675, 0.525, 0.375, 0.225]
    assert rates(["0.75@0 0.15@4"]) == [0.675, 0.525, 0.375, 0.225]  # one line of YAML, steps in updates
    assert rates(["20%@25%", "40%@50%"]) == [0.2, 0.3, 0.4, 0.4]
    assert rates(["30%"]) == rates(["0.3"]) == [0.3] * 4
    assert rates(["20%@0", "40%@50%"], "step") == [0.2, 0.2, 0.4, 0.4]
    cosine = [rate.expected for rate in rates(["80%@0", "20%@100%"], "cosine", 100)]
    assert cosine[0] == pytest.approx(0.8, abs=1e-4) and cosine[25] == pytest.approx(0.7088, abs=1e-4)
    assert cosine[:50] == pytest.approx([1 - rate for rate in cosine[:49:-1]])


def test_a_range_is_of_both_ends():
    falling = MaskRate(["60%-80%@0", "10%-20%@100%"])
    assert falling.at(0, 2) == pytest.approx((0.475, 0.65)) and (falling.lowest, falling.highest) == (0.1, 0.8)
    assert MaskRate(["10%-90%"]).at(7, 10) == (0.1, 0.9)


@pytest.mark.parametrize(
    ("points", "curve", "mean"),
    [
        (["75%@0", "15%@100%"], "linear", 0.45),
        (["75%@0", "15%@100%"], "cosine", 0.45),
        (["75%@0", "15%@25%"], "step", 0.3),
        (["80%@20%", "40%@60%"], "linear", 0.16 + 0.24 + 0.16),
        (["10%-90%"], "linear", 0.5),
    ],
)
def test_the_mean_over_a_run_is_that_of_its_updates(points, curve, mean):
    rate = MaskRate(points, curve)
    assert rate.mean() == pytest.approx(mean)
    of_updates = [sum(rate.at(step, 60)) / 2 for step in range(60)]
    assert sum(of_updates) / 60 == pytest.approx(mean, abs=1e-9)
    assert MaskRate(["75%@0", "15%@300"]).mean() is None and MaskRate(["30%@0", "30%@300"]).mean() == 0.3


@pytest.mark.parametrize(
    ("points", "curve", "message"),
    [
        (["75"], "linear", "mask_rate must be above 0 and at most 1 .100%., .*; got '75'"),
        (["0%"], "linear", "must be above 0"),
        (["90%-10%"], "linear", "a range must begin with its lower end"),
        (["75%@0", "fast@9"], "linear", "mask_rate must be one rate such as 40%.*got '75%@0 fast@9'"),
        (["75%@50%", "15%@50%"], "linear", "with rising steps"),
        (["75%@0", "15%@101%"], "linear", "mask_rate must be one rate"),
        (["75%", "15%"], "linear", "mask_rate must be one rate"),
        (["75%@10", "15%@100%"], "linear", "give all steps as numbers of updates, or all in % of the run"),
        (["75%"], "cosine", "mask_rate_curve: cosine joins points, but mask_rate has only one, 75%: leave it out"),
        (["75%@0", "15%@100%"], "step", "its last rate would begin after the last update; use an earlier step"),
        (["75%@0", "15%@100%"], "square", "mask_rate_curve must be one of linear, cosine, step, got 'square'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(points, curve, message):
    with pytest.raises(AdversarialMLMError, match=message):
        MaskRate(points, curve)


def test_rates_are_described_for_readers():
    assert MaskRate(["40%"]).words() == "40 %"
    assert MaskRate(["10%-90%"]).words() == "10 to 90 % (drawn for each protein)"
    assert MaskRate(["75%@0", "15%@100%"]).words() == (
        "75 % at 0 % of the run, 15 % at 100 % of the run, joined by lines"
    )
    step = MaskRate(["75%@0", "15%@1000"], "step")
    assert step.words() == "75 % at update 0, 15 % at update 1,000, each until the next"


# ---- what follows for the masks ----


def test_both_rates_follow_in_proportion_and_budgets_are_exact():
    rules = MaskingRules(0.3, adversarial_rate=0.1, rate_schedule=["80%@0", "20%@100%"])
    residues = torch.tensor([100, 37])
    for step in range(6):
        now = rules.at(step, 6)
        total = 0.8 - 0.6 * (step + 0.5) / 6
        assert now.schedule is None and now.mask_rate == pytest.approx(total)
        adversarial, by_chance = now.budgets(residues)
        assert (adversarial + by_chance).tolist() == MaskingRules(round(total, 6)).budgets(residues)[1].tolist()
        assert adversarial[0] == pytest.approx(total * 25, abs=0.5)


def test_without_a_schedule_the_rules_are_the_same_object():
    rules = MaskingRules(0.2)
    assert rules.at(3, 10) is rules and rules.at() is rules


def test_a_rate_for_each_protein_is_uniform_keyed_and_exact():
    rules = MaskingRules(0.2, rate_schedule=["10%-90%"]).at()
    keys, residues = row_keys(0, ENCODER_PHASE, 3, torch.arange(4000)), torch.full((4000,), 1000)
    masked = rules.total_budget(residues, keys)
    assert torch.equal(masked, rules.total_budget(residues, keys)) and len(masked.unique()) > 700
    assert masked.min() >= 100 and masked.max() <= 900
    quarters = torch.bincount((masked - 100).clamp_max(799) // 200, minlength=4) / 4000
    assert quarters.tolist() == pytest.approx([0.25] * 4, abs=0.03)
    with pytest.raises(ValueError, match="needs the keys of the rows"):
        rules.budgets(residues)


def test_with_a_noiser_the_parts_of_a_drawn_rate_keep_their_proportion():
    rules = MaskingRules(0.1, adversarial_rate=0.3, blind=True, rate_schedule=["20%-60%"]).at()
    keys, residues = row_keys(0, ENCODER_PHASE, 0, torch.arange(200)), torch.full((200,), 1000)
    adversarial, by_chance = rules.budgets(residues, keys)
    total = adversarial + by_chance
    assert (adversarial - 0.75 * total).abs().max() <= 1 and total.min() >= 200 and total.max() <= 600
    candidates = rules.candidate_budget(residues, keys)
    assert (candidates >= total).all() and (candidates - (1.75 * total).clamp_max(1000)).abs().max() <= 2


@pytest.mark.parametrize("adversarial", [True, False])
def test_a_collator_masks_at_the_rates_of_its_rows(tokenizer, make_noiser, proteins, adversarial):
    options = {"mask_rate": "30%-80%", "max_length": 64}
    if adversarial:
        collator = DataCollatorForAdversarialMLM(tokenizer, make_noiser(view="blind").eval(), **options)
    else:
        collator = DataCollatorForRandomMLM(tokenizer, **options)
    batch = collator([{"sequence": protein} for protein in proteins[:40]])
    keys = row_keys(0, ENCODER_PHASE, 0, torch.arange(40))
    masked = collator.corrupt(batch, keys).masked.sum(dim=1)
    assert torch.equal(masked, collator.mask_budget(batch["num_residues"], keys))
    shares = masked / batch["num_residues"]
    assert shares.min() > 0.28 and shares.max() < 0.82 and shares.std() > 0.1


def test_a_rate_that_changes_needs_the_update(tokenizer, make_noiser, proteins):
    changing = {"mask_rate": ["75%@0", "15%@100%"]}
    collator = DataCollatorForRandomMLM(tokenizer, **changing)
    batch = collator([{"sequence": protein} for protein in proteins[:4]])
    with pytest.raises(AdversarialMLMError, match="the update is not known here.*pass rules=collator.rules.at"):
        collator.corrupt(batch)
    masked = collator.corrupt(batch, rules=collator.rules.at(9, 10)).masked.sum() / batch["num_residues"].sum()
    assert masked == pytest.approx(0.18, abs=0.01)
    with pytest.raises(ValueError, match="a collator with frozen=True does not know the update"):
        DataCollatorForAdversarialMLM(tokenizer, make_noiser(), frozen=True, **changing)
    with pytest.raises(AdversarialMLMError, match="mask_rate_curve is step, but mask_rate is not given"):
        DataCollatorForRandomMLM(tokenizer, mask_rate_curve="step")


def test_an_own_candidate_rate_must_hold_the_highest_rate():
    with pytest.raises(ValueError, match="candidate_rate must be between the mask rate, 0.6, and 1, got 0.5"):
        MaskingRules(0.1, adversarial_rate=0.1, blind=True, candidate_rate=0.5, rate_schedule=["60%@0", "20%@100%"])
