import numpy as np
import pytest
import torch

from adversarial_mlm.inference.mutations import STOP, apply_substitutions, parse_mutations
from adversarial_mlm.inference.variant_effects import (
    AMBIGUOUS,
    GAP,
    NO_SEQUENCE,
    NO_TOKEN,
    OTHER_LENGTH,
    check_wild_type,
    letters_with_token,
    marginals,
    score_variants,
    substitutions,
    why_not_scored,
)
from adversarial_mlm.utils.errors import CorpusError
from tests.helpers.foreign_encoders import BUILDERS

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
    variants = ["A4W", "A4W:Q9R", "WT", "M1K:G28D:I6V"]
    sequences = [apply_substitutions(WILD_TYPE, parse_mutations(text)) for text in variants]
    found = score_variants(model, tokenizer, WILD_TYPE, sequences, marginals_of="masked" if masked else "wild_type")
    ids = tokenizer.get_vocab()
    for score, text in zip(found, variants, strict=True):
        wanted = 0.0
        for part in text.split(":") if text != "WT" else []:
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


def test_variants_without_a_score_are_nan(model, tokenizer):
    sequences = [WILD_TYPE, WILD_TYPE[1:], "-" + WILD_TYPE[1:], "J" + WILD_TYPE[1:], "W" + WILD_TYPE[1:]]
    found = score_variants(model, tokenizer, WILD_TYPE, sequences)
    assert np.isnan(found).tolist() == [False, True, True, True, False]
    assert substitutions(WILD_TYPE, sequences[-1]) == [(0, "W")] and substitutions("MK", "MKT") is None


def test_spelling_changes_no_score(model, tokenizer):
    variant = "W" + WILD_TYPE[1:]
    texts = [variant, variant.lower(), " ".join(variant), f" {variant}\n", variant + "*"]
    scores = [score_variants(model, tokenizer, wild, texts) for wild in (WILD_TYPE, " ".join(WILD_TYPE.lower()) + "*")]
    assert np.array_equal(scores[0], scores[1]) and len(set(scores[0])) == 1 and np.isfinite(scores[0]).all()


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        (WILD_TYPE, None),
        ("U" + WILD_TYPE[1:], None),
        ("-" + WILD_TYPE[1:], GAP),
        ("." + WILD_TYPE[1:], GAP),
        (WILD_TYPE + "-", GAP),
        (WILD_TYPE[:5] + "-" + WILD_TYPE[5:], GAP),
        ("*" + WILD_TYPE[1:], STOP),
        (WILD_TYPE[:-1] + "*", STOP),
        (WILD_TYPE[:9] + "*", STOP),
        (WILD_TYPE + "**", STOP),
        (WILD_TYPE[1:], OTHER_LENGTH),
        (WILD_TYPE + "A", OTHER_LENGTH),
        (WILD_TYPE[:9] + " " + WILD_TYPE[10:], OTHER_LENGTH),
        ("X" + WILD_TYPE[1:], AMBIGUOUS),
        ("J" + WILD_TYPE[1:], AMBIGUOUS),
        ("1" + WILD_TYPE[1:], AMBIGUOUS),
        ("\u00e4" + WILD_TYPE[1:], AMBIGUOUS),
        ("?" * len(WILD_TYPE), AMBIGUOUS),
        ("", NO_SEQUENCE),
        ("  ", NO_SEQUENCE),
    ],
)
def test_what_has_no_score_has_a_reason_whatever_the_tokenizer(variant, reason, tokenizer):
    assert (
        why_not_scored(WILD_TYPE, variant)
        == why_not_scored(WILD_TYPE, variant, letters_with_token(tokenizer))
        == reason
    )


def test_a_residue_that_the_tokenizer_lacks_is_named_as_the_reason(tokenizer):
    letters = letters_with_token(tokenizer) - {"U"}
    assert why_not_scored(WILD_TYPE, "U" + WILD_TYPE[1:], letters) == NO_TOKEN
    assert why_not_scored("U" + WILD_TYPE, "U" + WILD_TYPE[:-1] + "W", letters) is None


def test_gaps_have_no_score_with_a_vocabulary_that_holds_them(tmp_path):
    torch.manual_seed(0)
    esm, tokenizer = BUILDERS["esm"](tmp_path)
    assert {"-", "."} <= set(tokenizer.get_vocab())
    found = score_variants(esm.eval(), tokenizer, WILD_TYPE, ["-" + WILD_TYPE[1:], "." + WILD_TYPE[1:], WILD_TYPE])
    assert np.isnan(found).tolist() == [True, True, False]


def test_variants_that_are_not_texts_are_refused(model, tokenizer):
    with pytest.raises(CorpusError, match="sequence 1 is 'None', but must be text"):
        score_variants(model, tokenizer, WILD_TYPE, [WILD_TYPE, None])
    with pytest.raises(CorpusError, match="put it into a list"):
        score_variants(model, tokenizer, WILD_TYPE, WILD_TYPE)
    with pytest.raises(CorpusError, match="a sequence must be text, but is 'None'"):
        marginals(model, tokenizer, None)


def test_a_wild_type_is_cleaned_or_refused():
    assert check_wild_type(" m k\nt* ") == "MKT"
    for text in ("", "*", "M*KT", "MK-T", "MKT1", "MKT**", "MJT"):
        with pytest.raises(CorpusError, match="wild_type is .*, but must be a protein in one-letter code"):
            check_wild_type(text)
