"""A trained noiser in somebody else's training: a collator that does the whole job, in a stock `Trainer`."""

import datasets
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from adversarial_mlm import (
    AdversarialMLMTrainer,
    AdversarialMLMTrainingArguments,
    DataCollatorForAdversarialMLM,
    NoiserModel,
)
from tests.helpers.exhaustive import exhaustive


@pytest.fixture
def noiser(make_noiser, tmp_path):
    """As it comes from a checkpoint."""
    make_noiser(hidden_dropout_prob=0.5).save_pretrained(tmp_path / "noiser")
    return NoiserModel.from_pretrained(tmp_path / "noiser").train()


@pytest.fixture
def collator(tokenizer, noiser):
    return DataCollatorForAdversarialMLM(tokenizer, noiser=noiser, max_length=64, frozen=True)


@pytest.fixture
def examples(proteins):
    return [{"sequence": protein} for protein in proteins[:16]]


def test_a_call_gives_what_a_masked_language_model_is_trained_on(collator, tokenizer, examples):
    batch = collator(examples)
    assert batch.keys() == {"input_ids", "attention_mask", "labels"}
    masked = batch["labels"] != -100
    residues = torch.tensor([min(len(example["sequence"]), 62) for example in examples])
    assert torch.equal(masked.sum(dim=1), torch.floor(0.2 * residues + 0.5).long())
    special = torch.isin(batch["input_ids"], torch.tensor([0, 2, 3]))
    assert not (masked & special).any()
    restored = torch.where(masked, batch["labels"], batch["input_ids"])
    for row, example in zip(restored, examples, strict=True):
        text = tokenizer.decode(row, skip_special_tokens=True)
        assert text in example["sequence"] and len(text) == min(len(example["sequence"]), 62)


def test_the_masks_are_those_that_the_noiser_chooses(collator, proteins):
    examples = [{"sequence": protein[:60]} for protein in proteins[:16]]
    torch.manual_seed(3)
    frozen = collator(examples)
    torch.manual_seed(3)
    corrupted = collator.corrupt(collator.sequence_encoder(examples))
    assert corrupted.adversarial.any() and corrupted.random.any()
    assert torch.equal(frozen["labels"], corrupted.labels) and torch.equal(frozen["input_ids"], corrupted.input_ids)
    assert not torch.equal(collator(examples)["labels"], frozen["labels"])  # fresh noise each time


def test_the_noiser_that_was_given_is_left_alone(collator, noiser):
    assert noiser.training and all(parameter.requires_grad for parameter in noiser.parameters())
    assert not collator.noiser.training and not any(p.requires_grad for p in collator.noiser.parameters())


def train(tmp_path, encoder, collator, proteins, **settings) -> Trainer:
    data = datasets.Dataset.from_dict({"sequence": proteins[:64]})
    settings = {"max_steps": 4, "per_device_train_batch_size": 8, "learning_rate": 1e-3, **settings}
    args = TrainingArguments(
        str(tmp_path), remove_unused_columns=False, report_to=[], use_cpu=True, save_strategy="no", logging_steps=1,
        disable_tqdm=True, **settings
    )  # fmt: skip
    trainer = Trainer(model=encoder, args=args, train_dataset=data, data_collator=collator)
    trainer.loss_is_scaled_for_ga = False
    trainer.train()
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", exhaustive("spawn")])
def test_a_stock_trainer_trains_with_it_in_workers(tmp_path, make_encoder, collator, proteins, context):
    encoder = make_encoder()
    before = encoder.bert.encoder.layer[0].intermediate.dense.weight.detach().clone()
    trainer = train(
        tmp_path, encoder, collator, proteins, dataloader_num_workers=2, dataloader_multiprocessing_context=context
    )
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 4 and all(2.0 < loss < 5.0 for loss in losses)
    assert not torch.equal(before, encoder.bert.encoder.layer[0].intermediate.dense.weight)


@pytest.mark.parametrize("context", ["fork", exhaustive("spawn")])
def test_workers_have_the_noiser_and_noise_of_their_own(collator, examples, context):
    torch.manual_seed(0)
    loader = DataLoader(examples[:4] * 2, 4, collate_fn=collator, num_workers=2, multiprocessing_context=context)
    first, second = loader  # one from each worker, of the same proteins
    assert first["labels"].shape == second["labels"].shape
    assert not torch.equal(first["labels"], second["labels"])
    (other_epoch, _) = loader
    assert not torch.equal(first["labels"], other_epoch["labels"])


def test_accumulation_does_not_scale_the_gradient_with_the_documented_setting(
    tmp_path, make_encoder, collator, proteins
):
    same = [proteins[0][:50]] * 64  # equally many masks in every row, so that the means of the means are the means
    norms = []
    for size, steps in ((8, 1), (2, 4)):
        torch.manual_seed(0)
        encoder = make_encoder(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        trainer = train(
            tmp_path, encoder, collator, same, per_device_train_batch_size=size, gradient_accumulation_steps=steps
        )
        norms.append([entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry])
    for whole, accumulated in zip(*norms, strict=True):
        assert accumulated == pytest.approx(whole, rel=0.3)  # other noise, but not four times as much


def test_rows_without_a_sequence_are_refused_with_the_setting_that_helps(collator):
    with pytest.raises(ValueError, match="no 'sequence', only input: .* remove_unused_columns=False"):
        collator([{"input": "ACD"}])


def test_our_own_trainer_refuses_it(collator, make_encoder, tmp_path):
    args = AdversarialMLMTrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    with pytest.raises(ValueError, match="frozen=True is for other trainers: .* noiser_update: none"):
        AdversarialMLMTrainer(make_encoder(), args, collator)
