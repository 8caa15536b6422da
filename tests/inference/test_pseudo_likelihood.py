import math

import pytest
import torch

from adversarial_mlm.inference.pseudo_likelihood import PseudoLikelihood, pseudo_log_likelihoods
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.utils.errors import CorpusError

PROTEINS = ["MKTAYIAKQRQISFVKSHFSRQ", "WCD", "MKTAYIAKQRQISFVKSHFSRQ", "GAVLIGAVLIMK"]


@pytest.fixture
def model(make_encoder):
    model = make_encoder().eval()
    torch.nn.init.normal_(model.bert.embeddings.word_embeddings.weight)
    return model


@torch.no_grad()
def log_probability(model, tokenizer, sequence, position, masked=True):
    """Of the residue at a position, by the tokenizer itself."""
    inputs = tokenizer(sequence, return_tensors="pt")
    true = inputs["input_ids"][0, position + 1].item()
    if masked:
        inputs["input_ids"][0, position + 1] = tokenizer.mask_token_id
    return torch.log_softmax(model(**inputs).logits[0, position + 1].double(), dim=-1)[true].item()


@pytest.mark.parametrize("one_pass", [False, True])
@pytest.mark.parametrize("batch_tokens", [None, 30])
def test_scores_are_those_of_a_plain_loop_in_the_order_given(model, tokenizer, one_pass, batch_tokens):
    found = list(pseudo_log_likelihoods(model, tokenizer, PROTEINS, one_pass=one_pass, batch_tokens=batch_tokens))
    assert [score.residues for score in found] == list(map(len, PROTEINS))
    for score, sequence in zip(found, PROTEINS, strict=True):
        wanted = sum(log_probability(model, tokenizer, sequence, at, not one_pass) for at in range(len(sequence)))
        assert score.pll == pytest.approx(wanted, abs=1e-4)
        assert score.pseudo_perplexity == pytest.approx(math.exp(-wanted / len(sequence)), rel=1e-5)
    assert found[0].pll == pytest.approx(found[2].pll, abs=1e-5)


def test_short_proteins_of_different_lengths_share_batches(model, tokenizer):
    sizes = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = list(pseudo_log_likelihoods(model, tokenizer, PROTEINS * 3, batch_tokens=2000))
    handle.remove()
    assert len(sizes) < len(found) and all(rows * length <= 2000 for rows, length in sizes)
    assert sum(rows for rows, _ in sizes) == sum(map(len, PROTEINS * 3))
    assert found[1].pll == pytest.approx(found[5].pll, abs=1e-5)


def test_residues_of_a_long_protein_are_read_in_the_window_around_each(model, tokenizer):
    sequence = PROTEINS[0] + PROTEINS[3]
    (found,) = pseudo_log_likelihoods(model, tokenizer, [sequence], max_length=12)
    wanted = 0.0
    for at in range(len(sequence)):
        start = min(max(at - 5, 0), len(sequence) - 10)
        wanted += log_probability(model, tokenizer, sequence[start : start + 10], at - start)
    assert found == (len(sequence), pytest.approx(wanted, abs=1e-4), 0)


def test_one_pass_reads_a_long_protein_in_windows_that_share_three_quarters(model, tokenizer):
    sequence = (PROTEINS[0] + PROTEINS[3])[:24]
    (found,) = pseudo_log_likelihoods(model, tokenizer, [sequence], max_length=10, one_pass=True)
    starts = range(0, 17, 2)  # of windows of 8 residues
    wanted = 0.0
    for at in range(len(sequence)):
        start = min(starts, key=lambda start: abs(start + 3.5 - at))
        wanted += log_probability(model, tokenizer, sequence[start : start + 8], at - start, masked=False)
    assert found.pll == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("one_pass", [False, True])
def test_ambiguous_and_unknown_residues_are_context_that_does_not_count(model, tokenizer, one_pass):
    found = list(pseudo_log_likelihoods(model, tokenizer, ["MX?KB", "", "XX", "MK"], one_pass=one_pass))
    assert [(score.residues, score.left_out) for score in found] == [(2, 3), (0, 0), (0, 2), (2, 0)]
    wanted = sum(log_probability(model, tokenizer, "MX?KB", at, not one_pass) for at in (0, 3))
    assert found[0].pll == pytest.approx(wanted, abs=1e-4)
    assert found[2].pll == 0 and math.isnan(found[2].pseudo_perplexity)


def test_proteins_are_read_when_they_are_needed(model, tokenizer):
    def endless():
        while True:
            yield "MKT"

    scores = pseudo_log_likelihoods(model, tokenizer, endless())
    assert next(scores) == next(scores)


def test_a_hopeless_score_is_infinite_instead_of_an_error():
    assert PseudoLikelihood(1, -1e6).pseudo_perplexity == math.inf


def test_input_that_is_no_list_of_texts_is_refused(model, tokenizer):
    with pytest.raises(CorpusError, match="put it into a list"):
        list(pseudo_log_likelihoods(model, tokenizer, "MKT"))
    for one_pass in (False, True):
        with pytest.raises(CorpusError, match="must be text"):
            list(pseudo_log_likelihoods(model, tokenizer, ["MKT", None], one_pass=one_pass))


@pytest.mark.parametrize("kind", ["esm", pytest.param("prot_bert", marks=pytest.mark.exhaustive)])
def test_foreign_encoders_are_read_as_their_tokenizers_would(save_encoder, kind):
    model, tokenizer = load_encoder(save_encoder(kind))
    sequences = ["MKTAYIUK", "WCDX"]
    found = list(pseudo_log_likelihoods(model.eval(), tokenizer, sequences))
    assert [score.residues for score in found] == [8, 3]  # U has a token, X is ambiguous
    for score, sequence in zip(found, sequences, strict=True):
        text = " ".join(sequence) if kind == "prot_bert" else sequence
        wanted = sum(log_probability(model, tokenizer, text, position) for position in range(score.residues))
        assert score.pll == pytest.approx(wanted, abs=1e-4)
