import math
from types import SimpleNamespace

import datasets
import pytest
import torch

from adversarial_mlm import DataCollatorForAdversarialMLM, DataCollatorForRandomMLM
from adversarial_mlm.training.evaluation import background_log_shares, evaluate_masks
from tests.helpers.launching import forked_launch


@pytest.fixture
def make_batches(tokenizer, proteins):
    def make(collator, size: int = 10) -> list[dict]:
        batches = []
        for start in range(0, 20, size):
            batch = collator([{"sequence": protein} for protein in proteins[start : start + size]])
            batches.append({**batch, "row": torch.arange(start, start + size)})
        return batches

    return make


def oracle(true_ids: torch.Tensor, certainty: float):
    """An encoder that knows the protein; it is right with the same margin everywhere."""

    def forward(input_ids, attention_mask):
        return SimpleNamespace(logits=certainty * torch.nn.functional.one_hot(true_ids, 30).float())

    return forward


def test_who_knows_everything_scores_one_and_who_knows_nothing_the_logarithm_of_the_vocabulary(
    tokenizer, make_batches
):
    collator = DataCollatorForRandomMLM(tokenizer)
    batches = make_batches(collator, size=20)
    truth = batches[0]["input_ids"]
    knowing = evaluate_masks(oracle(truth, 30.0), collator, batches, mask_rate=0.15, mask_seed=0)
    assert knowing["accuracy"] == 1.0 and knowing["loss"] < 1e-6 and knowing["perplexity"] == pytest.approx(1)
    ignorant = evaluate_masks(oracle(truth, 0.0), collator, batches, mask_rate=0.15, mask_seed=0)
    assert ignorant["loss"] == pytest.approx(math.log(30), rel=1e-5)
    assert ignorant["perplexity"] == pytest.approx(30, rel=1e-4)
    assert ignorant["proteins"] == 20
    expected = sum(math.floor(0.15 * int(n) + 0.5) for n in batches[0]["num_residues"])
    assert ignorant["masked_residues"] == expected


def test_everything_hidden_is_hidden_by_the_mask_token(tokenizer, make_batches, vocabulary):
    collator = DataCollatorForRandomMLM(tokenizer, random_rate=0.2)
    seen = []

    def encoder(input_ids, attention_mask):
        seen.append(input_ids)
        return SimpleNamespace(logits=torch.zeros(*input_ids.shape, 30))

    batches = make_batches(collator, size=20)
    figures = evaluate_masks(encoder, collator, batches, mask_rate=0.15, mask_seed=0)
    changed = seen[0] != batches[0]["input_ids"]
    assert (seen[0][changed] == vocabulary.mask_token_id).all() and changed.sum() == figures["masked_residues"]


def test_how_the_set_is_cut_into_batches_does_not_matter(tokenizer, make_encoder, make_noiser, make_batches):
    collator = DataCollatorForAdversarialMLM(tokenizer, noiser=make_noiser().eval())
    encoder = make_encoder().eval()
    whole, parts = (
        evaluate_masks(encoder, collator, make_batches(collator, size), mask_rate=0.15, mask_seed=0)
        for size in (20, 5)
    )
    assert whole.keys() == parts.keys() and {"gap", "enrichment_A", "entropy"} <= whole.keys()
    assert all(whole[name] == pytest.approx(parts[name], rel=1e-4, abs=1e-6) for name in whole)


@pytest.mark.parametrize("streamed", [False, True])
def test_every_held_out_protein_counts_once_in_several_processes(make_trainer, dataset, streamed):
    whole = dataset.select(range(9))  # in batches of 4, the second process has none of the last; all are cut

    def figures(streamed: bool = streamed):
        trainer = make_trainer("random", data=dataset, per_device_eval_batch_size=4)
        try:
            found = trainer.evaluate(whole.to_iterable_dataset() if streamed else whole)
        except Exception as error:  # an error would leave the test waiting
            return repr(error)
        return {name: found[f"eval_{name}"] for name in ("loss", "masked_residues")}

    expected = figures(streamed=False)
    assert figures() == expected
    with forked_launch(2, figures) as outcomes:
        for outcome, _ in outcomes:
            assert outcome == pytest.approx(expected)


def test_the_context_gap_compares_the_same_residues_at_both_rates(tokenizer, make_batches, vocabulary):
    """An encoder whose certainty falls with the number of masks in the row, by a known rule."""
    collator = DataCollatorForRandomMLM(tokenizer)
    batches = make_batches(collator, size=20)
    truth, masks = batches[0]["input_ids"], []

    def encoder(input_ids, attention_mask):
        hidden = input_ids == vocabulary.mask_token_id
        masks.append(hidden)
        certainty = 5.0 - hidden.sum(dim=1) / attention_mask.sum(dim=1)
        return SimpleNamespace(logits=certainty[:, None, None] * torch.nn.functional.one_hot(truth, 30).float())

    options = {"mask_rate": 0.2, "mask_seed": 0}
    without = evaluate_masks(encoder, collator, batches, **options)
    masks.clear()
    figures = evaluate_masks(encoder, collator, batches, **options, context_gap=True)
    _, few, many = masks
    assert not (few & ~many).any() and few.sum() < 0.31 * many.sum()

    def loss(hidden):
        certainty = 5.0 - hidden.sum(dim=1) / batches[0]["attention_mask"].sum(dim=1)
        return torch.log(certainty.exp() + 29) - certainty

    expected = ((loss(many) - loss(few)) * few.sum(dim=1)).sum() / few.sum()
    assert figures.pop("context_gap") == pytest.approx(expected.item(), rel=1e-5) and expected > 0.05
    assert figures == without


def test_an_encoder_that_ignores_the_context_has_no_gap(tokenizer, make_batches):
    collator, shares = DataCollatorForRandomMLM(tokenizer), torch.randn(30)

    def encoder(input_ids, attention_mask):
        return SimpleNamespace(logits=shares.expand(*input_ids.shape, 30))

    figures = evaluate_masks(encoder, collator, make_batches(collator), mask_rate=0.15, mask_seed=0, context_gap=True)
    assert figures["context_gap"] == 0


def test_without_residues_there_is_nothing_to_evaluate(tokenizer):
    collator = DataCollatorForRandomMLM(tokenizer)
    with pytest.raises(ValueError, match="no residue to mask"):
        evaluate_masks(oracle(torch.zeros(1, 1), 0.0), collator, [], mask_rate=0.15, mask_seed=0)


def test_background_shares_are_those_of_the_letters(tokenizer, vocabulary):
    dataset = datasets.Dataset.from_dict({"sequence": ["A" * 600 + "L" * 300, "L" * 75]})
    log_shares = background_log_shares(dataset, DataCollatorForRandomMLM(tokenizer, max_length=2000).sequence_encoder)
    # 975 residues, and one of each of the 25 letters so that none is impossible
    assert log_shares[tokenizer.convert_tokens_to_ids("A")].exp() == pytest.approx(601 / 1000)
    assert log_shares[tokenizer.convert_tokens_to_ids("L")].exp() == pytest.approx(376 / 1000)
    assert log_shares[tokenizer.convert_tokens_to_ids("W")].exp() == pytest.approx(1 / 1000)
    assert log_shares[vocabulary.mask_token_id] == -math.inf
    assert log_shares.exp().sum() == pytest.approx(1)


def test_of_a_large_dataset_a_part_stands_for_the_whole(tokenizer):
    letters = "ACDEFGHIKLMNPQRSTVWY"
    many = datasets.Dataset.from_dict({"sequence": [letters[i % 20] * 4 for i in range(30_011)]})
    log_shares = background_log_shares(many, DataCollatorForRandomMLM(tokenizer).sequence_encoder)
    shares = log_shares[tokenizer.convert_tokens_to_ids(list(letters))].exp()
    assert torch.allclose(shares, torch.full((20,), 1 / 20, dtype=torch.float64), atol=0.002)
