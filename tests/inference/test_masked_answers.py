import numpy as np
import pytest
import torch

from adversarial_mlm.inference.masked_answers import answers_if_masked, top_residues
from adversarial_mlm.inference.variant_effects import marginals
from adversarial_mlm.models.tokenization_protein import STANDARD_RESIDUES

PROTEIN = "MKTAYIAKQRQISFVKSHFSRQLEERL?AXWC"


@pytest.fixture(scope="module")
def model(make_encoder):
    return make_encoder().eval()


def test_one_masked_residue_has_the_answer_of_the_masked_marginals(model, tokenizer, vocabulary):
    logs = marginals(model, tokenizer, PROTEIN)
    ids = tokenizer(PROTEIN)["input_ids"][1:-1]
    for position in (0, 5, 31):
        found = answers_if_masked(model, tokenizer, PROTEIN, [position])
        standard = np.exp(logs[position, list(vocabulary.replacement_ids)])
        np.testing.assert_allclose(found.answers, standard[None] / standard.sum(), rtol=1e-5)
        assert found.loss == pytest.approx(-logs[position, ids[position]], rel=1e-5)
        assert found.entropy == pytest.approx(-(found.answers * np.log(found.answers)).sum(), rel=1e-6)


def test_several_residues_are_masked_at_once(model, tokenizer, vocabulary):
    positions = [3, 4, 20]
    found = answers_if_masked(model, tokenizer, PROTEIN, [20, 4, 3, 4])
    batch = tokenizer(PROTEIN, return_tensors="pt")
    batch["input_ids"][0, [position + 1 for position in positions]] = tokenizer.mask_token_id
    with torch.no_grad():
        logits = model(**batch).logits[0, [position + 1 for position in positions]]
    wanted = torch.softmax(logits.double()[:, list(vocabulary.replacement_ids)], dim=-1)
    assert found.positions.tolist() == positions
    np.testing.assert_allclose(found.answers, wanted, rtol=1e-5)


def test_a_long_protein_is_read_in_a_window_around_each_residue(model, tokenizer):
    found = answers_if_masked(model, tokenizer, PROTEIN, [2, 3, 25], max_length=12)
    part = PROTEIN[20:30]  # 10 residues, of which position 25 is the sixth
    (near,) = answers_if_masked(model, tokenizer, part, [5], max_length=12).answers
    np.testing.assert_allclose(found.answers[2], near, rtol=1e-5)
    start = answers_if_masked(model, tokenizer, PROTEIN[:10], [2, 3], max_length=12)
    np.testing.assert_allclose(found.answers[:2], start.answers, rtol=1e-5)
    few = answers_if_masked(model, tokenizer, PROTEIN, [2, 3, 25], max_length=12, batch_tokens=1)
    np.testing.assert_allclose(few.answers, found.answers, rtol=1e-5)


def test_an_unknown_residue_has_an_answer_but_no_loss(model, tokenizer):
    found = answers_if_masked(model, tokenizer, PROTEIN, [26, 27])
    assert np.isnan(found.loss).tolist() == [False, True] and np.isfinite(found.answers).all()


def test_positions_outside_of_the_protein_are_refused(model, tokenizer):
    for positions in ([], [-1], [32]):
        with pytest.raises(ValueError, match="positions must be from 0 to 31, and at least one"):
            answers_if_masked(model, tokenizer, PROTEIN, positions)


def test_the_most_probable_residues_come_first():
    answers = np.full(20, 0.01)
    answers[[STANDARD_RESIDUES.index("W"), STANDARD_RESIDUES.index("C")]] = 0.5, 0.32
    assert top_residues(answers, 2) == [("W", 0.5), ("C", 0.32)]
