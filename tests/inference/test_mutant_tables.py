import numpy as np
import pytest
import torch

from adversarial_mlm.inference.mutant_tables import NO_WILD_TYPE, saturation_matrix, score_mutants
from adversarial_mlm.inference.mutations import (
    EMPTY,
    OTHER_RESIDUE,
    OUTSIDE,
    REPEATED,
    STOP,
    UNKNOWN,
    apply_substitutions,
    parse_mutations,
)
from adversarial_mlm.inference.variant_effects import AMBIGUOUS, MARGINALS, score_substitutions, score_variants
from adversarial_mlm.models.tokenization_protein import STANDARD_RESIDUES
from adversarial_mlm.utils.errors import CorpusError

WILD_TYPE = "MKTAYIAKQRQISFVKSHFSRQLEERLG"
MUTANTS = ["A4W", "G28D:M1K", "WT", "Q9R I6V K2R", "A4A", "p.Ala4Trp"]


@pytest.fixture
def model(make_encoder):
    model = make_encoder().eval()
    torch.nn.init.normal_(model.bert.embeddings.word_embeddings.weight)
    return model


@torch.no_grad()
def mutant_marginal(model, tokenizer, wild_type, mutant, room=None):
    """Σ log p(new | variant) − log p(old | variant), one substitution at a time."""
    found = parse_mutations(mutant)
    variant, ids, score = apply_substitutions(wild_type, found), tokenizer.get_vocab(), 0.0
    width = min(room or len(variant), len(variant))
    for old, position, new in found:
        start = min(max(position - 1 - width // 2, 0), len(variant) - width)
        inputs = tokenizer(variant[start : start + width], return_tensors="pt")
        logs = torch.log_softmax(model(**inputs).logits[0, position - start].double(), dim=-1)
        score += (logs[ids[new]] - logs[ids[old]]).item()
    return score


@pytest.mark.parametrize("marginals", ["masked", "wild_type"])
def test_scores_are_those_of_the_mutated_sequences(model, tokenizer, marginals):
    found = score_mutants(model, tokenizer, WILD_TYPE, MUTANTS, marginals=marginals)
    sequences = [apply_substitutions(WILD_TYPE, parse_mutations(text)) for text in MUTANTS]
    wanted = score_variants(model, tokenizer, WILD_TYPE, sequences, marginals_of=marginals)
    np.testing.assert_allclose([one.score for one in found], wanted, atol=1e-9)
    assert found[2].score == found[4].score == 0 and found[0].score == found[5].score != 0


@pytest.mark.parametrize("batch_tokens", [None, 31, 100])
def test_mutant_marginals_are_those_of_one_variant_at_a_time(model, tokenizer, batch_tokens):
    found = score_mutants(model, tokenizer, WILD_TYPE, MUTANTS, marginals="mutant", batch_tokens=batch_tokens)
    wanted = [mutant_marginal(model, tokenizer, WILD_TYPE, text) for text in MUTANTS]
    np.testing.assert_allclose([one.score for one in found], wanted, atol=1e-4)


@pytest.mark.parametrize("batch_tokens", [None, 25])
def test_mutants_of_a_long_protein_are_read_in_a_window_around_each_substitution(model, tokenizer, batch_tokens):
    found = score_mutants(
        model, tokenizer, WILD_TYPE, MUTANTS, marginals="mutant", max_length=12, batch_tokens=batch_tokens
    )
    wanted = [mutant_marginal(model, tokenizer, WILD_TYPE, text, room=10) for text in MUTANTS]
    np.testing.assert_allclose([one.score for one in found], wanted, atol=1e-4)


@pytest.mark.parametrize("marginals", MARGINALS)
def test_a_saturation_matrix_has_the_scores_of_single_mutants(model, tokenizer, marginals):
    wild_type = WILD_TYPE[:7]
    matrix = saturation_matrix(model, tokenizer, wild_type, marginals=marginals)
    names = [f"{old}{position}{new}" for position, old in enumerate(wild_type, 1) for new in STANDARD_RESIDUES]
    scores = score_mutants(model, tokenizer, wild_type, names, marginals=marginals)
    np.testing.assert_allclose(matrix.ravel(), [one.score for one in scores], atol=1e-5)
    own = [STANDARD_RESIDUES.index(residue) for residue in wild_type]
    assert (matrix[np.arange(7), own] == 0).all() and (matrix != 0).sum() == 7 * 19


def test_ambiguous_positions_of_a_saturation_matrix_have_no_scores(model, tokenizer):
    matrix = saturation_matrix(model, tokenizer, "MXUK")
    assert np.isnan(matrix).all(axis=1).tolist() == [False, True, False, False]
    assert (matrix[2] != 0).all()  # U is none of the 20 columns


@pytest.mark.parametrize(
    "mutant, reason, detail",
    [
        ("G4W", OTHER_RESIDUE, "the wild type has A at position 4"),
        ("A29W", OUTSIDE, "the wild type has 28 residues"),
        ("A0W", OUTSIDE, "the wild type has 28 residues"),
        ("A4*", STOP, ""),
        ("A4X", AMBIGUOUS, ""),
        ("A4?W", UNKNOWN, ""),
        ("A4W:A4G", REPEATED, ""),
        ("", EMPTY, ""),
    ],
)
def test_a_mutant_without_a_score_has_a_reason(model, tokenizer, mutant, reason, detail):
    before, found, after = score_mutants(model, tokenizer, WILD_TYPE, ["A4W", mutant, "A4W"])
    assert found == (None, reason, detail) and found.explanation.startswith(reason)
    assert before == after and before.explanation == "" and before.score is not None


def test_the_offset_is_subtracted(model, tokenizer):
    found = score_mutants(model, tokenizer, WILD_TYPE, ["A27W", "A4W"], offset=23)
    assert found[0] == score_mutants(model, tokenizer, WILD_TYPE, ["A4W"])[0]
    assert found[1].reason == OUTSIDE


def test_every_mutant_may_have_its_own_wild_type(model, tokenizer):
    other = "G" + WILD_TYPE
    wild_types = [WILD_TYPE, other, "", WILD_TYPE.lower(), "no protein!"]
    found = score_mutants(model, tokenizer, wild_types, ["A4W", "A5W", "A4W", "A4W", "A4W"])
    assert found[0] == found[3] == score_mutants(model, tokenizer, WILD_TYPE, ["A4W"])[0]
    assert found[1] == score_mutants(model, tokenizer, other, ["A5W"])[0] and found[0] != found[1]
    assert found[2] == found[4] == (None, NO_WILD_TYPE, "")


def test_options_that_do_not_fit_are_refused(model, tokenizer):
    with pytest.raises(ValueError, match="marginals must be one of masked, wild_type, mutant, got 'both'"):
        score_substitutions(model, tokenizer, WILD_TYPE, [[(3, "W")]], marginals_of="both")
    with pytest.raises(ValueError, match="1 wild type cannot be used for 2 mutants"):
        score_mutants(model, tokenizer, [WILD_TYPE], ["A4W", "A4G"])
    with pytest.raises(CorpusError, match="wild_type is 'no protein!'"):
        score_mutants(model, tokenizer, "no protein!", ["A4W"])
