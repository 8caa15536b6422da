"""Training with encoders that others have made, as a whole and in parts."""

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForMaskedLM, AutoTokenizer, TrainerCallback

from adversarial_mlm import (
    AdversarialMLMTrainer,
    AdversarialMLMTrainingArguments,
    DataCollatorForAdversarialMLM,
    NoiserConfig,
    NoiserModel,
)
from adversarial_mlm.models.encoders import train_last_layers
from adversarial_mlm.models.loading import load_encoder
from tests.helpers.exhaustive import exhaustive

CREDIT = {"noiser_update": "reversal", "noiser_reward": "credit"}
LOSS = {"noiser_steps": 1, "encoder_steps": 2}


@pytest.fixture
def make_trainer(tmp_path, save_encoder, dataset):
    """A trainer of an encoder of a kind, with its own tokenizer and a blind noiser."""

    def make(kind, game, folder="run", change=lambda encoder: encoder, **settings):
        encoder, tokenizer = load_encoder(save_encoder(kind))
        torch.manual_seed(1)
        config = NoiserConfig.from_tokenizer(tokenizer, embedding_size=8, hidden_size=8, view="blind")
        collator = DataCollatorForAdversarialMLM(tokenizer, noiser=NoiserModel(config), max_length=64)
        settings = {"max_steps": 4, "save_strategy": "no", "learning_rate": 1e-3, **game, **settings}
        args = AdversarialMLMTrainingArguments(
            str(tmp_path / folder),
            per_device_train_batch_size=4,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            **settings,
        )
        return AdversarialMLMTrainer(
            change(encoder), args, collator, train_dataset=dataset, eval_dataset=dataset, processing_class=tokenizer
        )

    return make


@pytest.mark.parametrize(
    ("kind", "game"),
    [("bert", LOSS), ("prot_bert", CREDIT), ("roberta", LOSS), ("modernbert", CREDIT), ("esm", CREDIT)]
    + [
        exhaustive(*case)
        for case in (("bert", CREDIT), ("prot_bert", LOSS), ("roberta", CREDIT), ("modernbert", LOSS))
    ],
)
def test_every_kind_trains_and_is_saved_as_what_it_is(make_trainer, tmp_path, proteins, kind, game):
    trainer = make_trainer(kind, game)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train()
    trainer.save_model()
    moved = [not torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True)]
    assert sum(moved) > 0.8 * len(moved)
    folder = tmp_path / "run"
    encoder, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert type(encoder) is type(trainer.model)
    text = " ".join(proteins[0]) if kind == "prot_bert" else proteins[0]
    inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
    assert inputs["input_ids"].shape[1] > 30
    trainer.model.eval()
    assert torch.equal(encoder(**inputs).logits, trainer.model(**inputs).logits)
    assert trainer.evaluate()["eval_masked_residues"] > 100


def test_an_esm_2_cannot_pay_by_a_loss_whose_gradient_would_be_another_networks(make_trainer):
    with pytest.raises(ValueError, match="noiser_reward: loss needs .* token_dropout"):
        make_trainer("esm", LOSS)


@pytest.mark.parametrize("kind", ["esm", exhaustive("modernbert")])
def test_a_resumed_run_of_another_kind_is_bitwise_the_same(make_trainer, kind):
    def stop(args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2

    class Stop(TrainerCallback):
        on_step_end = staticmethod(stop)

    straight = make_trainer(kind, CREDIT, folder="straight")
    straight.train()
    stopped = make_trainer(kind, CREDIT, folder="stopped", save_strategy="steps", save_steps=2)
    stopped.add_callback(Stop())
    stopped.train()
    resumed = make_trainer(kind, CREDIT, folder="stopped")
    resumed.train(resume_from_checkpoint=True)
    for (name, a), b in zip(straight.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("game", [LOSS, CREDIT], ids=["alternate", "reversal"])
def test_with_a_few_trained_layers_the_rest_stays_and_the_noiser_learns(make_trainer, game):
    def freeze(encoder):
        train_last_layers(encoder, 1)
        return encoder

    trainer = make_trainer("bert", game, change=freeze)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    noiser = [parameter.detach().clone() for parameter in trainer.noiser.parameters()]
    trainer.train()
    moved = {name for name, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {n for n in before if "layer.2." in n or n.startswith("cls.")} - {"cls.predictions.decoder.weight"}
    assert any(not torch.equal(a, b) for a, b in zip(noiser, trainer.noiser.parameters(), strict=True))


@pytest.mark.parametrize("game", [LOSS, CREDIT], ids=["alternate", "reversal"])
def test_adapters_train_and_are_saved_and_the_encoder_stays(make_trainer, tmp_path, proteins, game):
    peft = pytest.importorskip("peft")

    def adapt(encoder):
        return peft.get_peft_model(encoder, peft.LoraConfig(r=2, target_modules=["query", "value"]))

    trainer = make_trainer("bert", game, change=adapt, save_strategy="steps", save_steps=2)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    trainer.save_model()
    moved = {name for name, parameter in trainer.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved and all("lora_" in name for name in moved)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "run")
    inputs = AutoTokenizer.from_pretrained(tmp_path / "run")(proteins[0], return_tensors="pt")
    trainer.model.eval()
    assert torch.allclose(loaded(**inputs).logits, trainer.model(**inputs).logits, atol=1e-6)
    card = ModelCard.load(tmp_path / "run" / "README.md")
    assert card.data.library_name == "peft" and "an adapter for a protein language model (`bert`): LoRA" in card.text
    assert str(tmp_path) not in str(card)
    resumed = make_trainer("bert", game, change=adapt)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for (name, a), b in zip(trainer.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name
