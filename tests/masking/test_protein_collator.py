"""A collator whose noiser chooses proteins: what the noiser sees, what is masked, and what is refused."""

import pytest
import torch

from adversarial_mlm import DataCollatorForChosenProteinsMLM, DataCollatorForRandomMLM
from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from adversarial_mlm.utils.errors import AdversarialMLMError

KEYS = row_keys(3, ENCODER_PHASE, 7, torch.arange(6))


@pytest.fixture
def make_collator(tokenizer, make_noiser):
    def make(view="blind", **options):
        noiser = make_noiser(view=view).eval()
        return DataCollatorForChosenProteinsMLM(tokenizer, noiser, **{"random_rate": 0.4} | options)

    return make


@pytest.fixture
def batch(make_collator, proteins):
    return make_collator()([{"sequence": protein[:100]} for protein in proteins[:6]])


def test_masks_are_those_of_a_run_without_a_noiser(make_collator, tokenizer, batch):
    masks = make_collator(mask_options=[0.8, 0.1, 0.1]).corrupt(batch, KEYS)
    random = DataCollatorForRandomMLM(tokenizer, random_rate=0.4, mask_options=[0.8, 0.1, 0.1]).corrupt(batch, KEYS)
    assert torch.equal(masks.input_ids, random.input_ids) and torch.equal(masks.labels, random.labels)
    assert not masks.adversarial.any() and masks.choice is None


def test_the_noiser_does_not_see_masked_residues_not_even_those_that_the_encoder_sees(make_collator, batch):
    collator = make_collator(mask_options=[0.2, 0.4, 0.4])
    masks = collator.corrupt(batch, KEYS)
    first = collator.predict(batch, masks.masked)
    alanine = collator.vocabulary.replacement_ids[0]
    hidden = {**batch, "input_ids": torch.where(masks.masked, alanine, batch["input_ids"])}
    assert not torch.equal(hidden["input_ids"], batch["input_ids"])
    again = collator.predict(hidden, masks.masked)
    assert torch.equal(again.log_learnable, first.log_learnable) and again.log_learnable.std() > 0
    visible = {**batch, "input_ids": torch.where(masks.masked, batch["input_ids"], alanine)}
    assert not torch.equal(collator.predict(visible, masks.masked).log_learnable, again.log_learnable)


def test_a_prediction_is_the_mean_score_of_the_masked_residues_of_its_own_row(make_collator, batch):
    collator = make_collator()
    masked = collator.corrupt(batch, KEYS).masked
    found = collator.predict(batch, masked)
    for row in range(6):
        scores = found.scores.any_mask_scores[row][masked[row]].tolist()
        assert found.log_learnable[row].item() == pytest.approx(sum(scores) / len(scores), abs=1e-5)
        width = int(batch["attention_mask"][row].sum())
        alone = {name: batch[name][row : row + 1, :width] for name in ("input_ids", "attention_mask")}
        again = collator.predict(alone, masked[row : row + 1, :width])
        assert again.log_learnable[0].item() == pytest.approx(found.log_learnable[row].item(), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": "full"}, "needs noiser_view: blind, but the noiser's view is full"),
        ({"protein_share": 1.0}, "protein_share must be above 0 and below 1, got 1; to train on all proteins, use"),
        ({"protein_share": 0}, "protein_share must be above 0 and below 1, got 0"),
        ({"protein_share": "half"}, "protein_share must be a number"),
        ({"random_rate": 1.5}, "random_rate must be between 0 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(make_collator, options, message):
    with pytest.raises((AdversarialMLMError, ValueError), match=message):
        make_collator(**options)
