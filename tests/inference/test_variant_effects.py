import numpy as np
import pytest
import torch

from adversarial_mlm.inference.variant_effects import (
    apply_mutations,
    marginals,
    score_variants,
    substitutions,
)

WILD_TYPE = "MKTAYIAKQRQISFVKSHFSRQLEERLG"


@pytest.fixture
def model(make_encoder):
    model = make_encoder().eval()
    torch.nn.init.normal_(model.bert.embeddings.word_embeddings.weight)
    return model


@torch.no_grad()
def log_probabilities(model, tokenizer, sequence, place, masked):
    """One position, by the tokenizer itself."""
    inputs = tokenizer(sequence, return_tensors="pt")
    if masked:
        inputs["input_ids"][0, place + 1] = tokenizer.mask_token_id
    return torch.log_softmax(model(**inputs).logits[0, place + 1].double(), dim=-1).numpy()


@pytest.mark.parametrize("masked", [True, False])
def test_marginals_are_those_of_one_position_at_a_time(model, tokenizer, masked):
    found = marginals(model, tokenizer, WILD_TYPE, masked=masked, batch_tokens=100)
    wanted = [log_probabilities(model, tokenizer, WILD_TYPE, place, masked) for place in range(len(WILD_TYPE))]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_a_variants_score_is_the_sum_over_its_substitutions(model, tokenizer, masked):
    variants = ["A4W", "A4W:Q9R", "", "M1K:G28D:I6V"]
    sequences = [apply_mutations(WILD_TYPE, text) for text in variants]
    found = score_variants(model, tokenizer, WILD_TYPE, sequences, masked=masked)
    ids = tokenizer.get_vocab()
    for score, text in zip(found, variants, strict=True):
        wanted = 0.0
        for part in filter(None, text.split(":")):
            logs = log_probabilities(model, tokenizer, WILD_TYPE, int(part[1:-1]) - 1, masked)
            wanted += logs[ids[part[-1]]] - logs[ids[part[0]]]
        assert score == pytest.approx(wanted, abs=1e-5)
    assert found[2] == 0 and len(set(found.round(4))) == 4


def test_a_long_protein_is_read_in_a_window_around_each_position(model, tokenizer):
    found = marginals(model, tokenizer, WILD_TYPE, [0, 14, 27], max_length=12)
    for place, start in ((0, 0), (14, 9), (27, 18)):
        wanted = log_probabilities(model, tokenizer, WILD_TYPE[start : start + 10], place - start, True)
        np.testing.assert_allclose(found[place], wanted, atol=1e-5)
    assert np.isnan(found[1]).all()


def test_a_model_whose_output_is_not_finite_is_refused(model, tokenizer):
    torch.nn.init.constant_(model.cls.predictions.bias, torch.nan)
    with pytest.raises(ValueError, match="output is not finite"):
        marginals(model, tokenizer, WILD_TYPE)


def test_variants_of_another_length_or_with_letters_without_a_token_have_no_score(model, tokenizer):
    sequences = [WILD_TYPE, WILD_TYPE[1:], WILD_TYPE + "A", "J" + WILD_TYPE[1:], "W" + WILD_TYPE[1:]]
    found = score_variants(model, tokenizer, WILD_TYPE, sequences)
    assert np.isnan(found).tolist() == [False, True, True, True, False]
    assert substitutions(WILD_TYPE, sequences[-1]) == [(0, "W")] and substitutions("MK", "MKT") is None


@pytest.mark.parametrize(
    "text, reason",
    [
        ("A5W", "contains A5W, but the wild type has Y at position 5"),
        ("A40W", "contains A40W, but the wild type has 28 residues"),
        ("M0K", "the wild type has 28 residues"),
        ("A4del", "contains 'A4del', which is not a substitution"),
        ("A4W:A4C", "contains two substitutions at position 4"),
    ],
)
def test_mutations_that_do_not_fit_the_wild_type_are_refused(text, reason):
    with pytest.raises(ValueError, match=reason):
        apply_mutations(WILD_TYPE, text)
