import pytest
import torch
from datasets import Dataset

from adversarial_mlm import AdversarialMLMTrainer, AdversarialMLMTrainingArguments, DataCollatorForRandomMLM
from adversarial_mlm.comparison.refit import HiddenResidues, fit_bias, hide_and_ask


@pytest.fixture
def hidden() -> HiddenResidues:
    """Labels drawn from what the logits say."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6000, 8, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(torch.softmax(logits, dim=-1), 1, generator=generator)[:, 0]
    return HiddenResidues(logits, labels, torch.arange(6000) // 20)


def shifted(hidden: HiddenResidues, bias: torch.Tensor) -> HiddenResidues:
    return HiddenResidues(hidden.logits + bias, hidden.labels, hidden.rows)


def test_a_shifted_prior_is_taken_back(hidden):
    bias = torch.tensor([2.0, -1.0, 0.0, 0.5, 0.0, 0.0, -2.0, 0.5], dtype=torch.float64)
    wrong = shifted(hidden, bias)
    fitted = fit_bias(wrong)
    assert wrong.loss() > hidden.loss() + 0.3
    assert torch.allclose(fitted - fitted.mean(), -(bias - bias.mean()), atol=0.15)
    assert wrong.loss(fitted) <= hidden.loss()  # it also fits what chance there is in the labels
    assert wrong.refitted_loss() == pytest.approx(hidden.refitted_loss(), abs=1e-6)
    assert abs(wrong.refitted_loss() - hidden.loss()) < 0.005


def test_the_fit_is_the_minimum(hidden):
    bias = fit_bias(hidden)
    expected = torch.softmax(hidden.logits + bias, dim=-1).mean(dim=0)
    shares = torch.bincount(hidden.labels, minlength=8) / len(hidden.labels)
    assert torch.allclose(expected, shares.double(), atol=1e-5)  # where the gradient is zero


def test_a_token_that_never_stands_there_is_no_trouble(hidden):
    rare = hidden.part(hidden.labels != 3)
    assert torch.isfinite(fit_bias(rare)).all() and rare.loss(fit_bias(rare)) < rare.loss()


def test_a_half_is_judged_with_the_biases_of_the_other(hidden):
    even = hidden.rows % 2 == 0
    first, second = hidden.part(even), hidden.part(~even)
    share = float(even.double().mean())
    expected = share * first.loss(fit_bias(second)) + (1 - share) * second.loss(fit_bias(first))
    assert hidden.refitted_loss() == pytest.approx(expected, abs=1e-12)
    assert hidden.refitted_loss() > hidden.loss(fit_bias(hidden))


def test_what_is_asked_is_what_the_trainers_evaluation_asks(make_encoder, tokenizer, proteins, tmp_path):
    dataset = Dataset.from_dict({"sequence": proteins[:40]})
    encoder, collator = make_encoder(), DataCollatorForRandomMLM(tokenizer, max_length=48, seed=3)
    args = AdversarialMLMTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, per_device_eval_batch_size=7, report_to="none", eval_mask_seed=5
    )
    trainer = AdversarialMLMTrainer(encoder, args, collator, train_dataset=dataset, eval_dataset=dataset)
    figures = trainer.evaluate()
    asked = hide_and_ask(encoder, collator, dataset, mask_rate=0.15, mask_seed=5, batch_size=16)
    assert asked.loss() == pytest.approx(figures["eval_loss"], abs=1e-6)
    assert asked.accuracy() == pytest.approx(figures["eval_accuracy"], abs=1e-9)
    assert len(asked.labels) == figures["eval_masked_residues"]
    shares = trainer._background_log_shares()
    assert asked.background_loss(shares) == pytest.approx(figures["eval_background_loss"], abs=1e-9)
