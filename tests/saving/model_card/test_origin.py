"""What training started from, how much of it was trained, and adapters."""

import re

import pytest
from transformers.integrations.peft import MIN_PEFT_VERSION

from adversarial_mlm import DataCollatorForRandomMLM
from adversarial_mlm.models.encoders import train_last_layers
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.recipes.recipe import parse_recipe
from adversarial_mlm.saving.model_card.rendering import BASE_PLACEHOLDER

LORA = {"r": 2, "lora_alpha": 6, "target_modules": ["query", "value"]}


@pytest.fixture
def trainer_of(make_trainer):
    def trainer_of(encoder, tokenizer):
        return make_trainer(DataCollatorForRandomMLM(tokenizer, max_length=64), encoder)

    return trainer_of


@pytest.fixture
def adapt():
    peft = pytest.importorskip("peft")

    def adapt(encoder, **changes):
        return peft.get_peft_model(encoder, peft.LoraConfig(**{**LORA, **changes}))

    return adapt


def trained(model) -> tuple[int, int]:
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


# ---- what training started from ----


def test_an_encoder_that_was_loaded_in_python_is_named_without_its_path(save_encoder, trainer_of, card_of, tmp_path):
    card = card_of(trainer_of(*load_encoder(save_encoder("bert"))))
    assert "Training started from the weights of `bert`." in card.text and "the limits of `bert`," in card.text
    assert card.data.base_model is None and str(tmp_path) not in str(card)


def test_of_a_relative_path_the_folders_name_is_told(save_encoder, trainer_of, card_of, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    save_encoder("bert")
    monkeypatch.chdir(tmp_path / "here")
    assert "started from the weights of `bert`." in card_of(trainer_of(*load_encoder("../bert"))).text


def test_a_name_on_the_hub_is_told_as_it_is(make_encoder, tokenizer, trainer_of, card_of):
    encoder = make_encoder()
    encoder.name_or_path = "owner/proteins"  # as from_pretrained sets it
    card = card_of(trainer_of(encoder, tokenizer))
    assert "started from the weights of `owner/proteins`." in card.text and card.data.base_model == "owner/proteins"


def test_a_fresh_encoder_started_from_nothing(make_encoder, tokenizer, trainer_of, card_of):
    card = card_of(trainer_of(make_encoder(), tokenizer))
    assert "Training started from" not in card.text
    assert card.data.base_model is None and "trained parameters" not in card.text


def test_a_recipes_fresh_encoder_that_was_read_back_did_not_start_from_its_own_folder(
    save_encoder, trainer_of, card_of
):
    trainer = trainer_of(*load_encoder(save_encoder("bert")))
    trainer.run_facts["recipe"] = parse_recipe(["--train_data", "a.fasta"])
    trainer.run_facts["data"] = {"source_validation": ["a.fasta"]}
    trainer.eval_dataset = None
    assert "Training started from" not in card_of(trainer).text


# ---- how much was trained ----


def test_frozen_parameters_are_counted(save_encoder, trainer_of, card_of):
    encoder, tokenizer = load_encoder(save_encoder("bert"))
    encoder.base_model.embeddings.requires_grad_(False)
    part, whole = trained(encoder)
    assert 0 < part < whole
    text = card_of(trainer_of(encoder, tokenizer)).text
    assert f"- trained parameters: {part:,} of {whole:,}; all others were frozen\n" in text


@pytest.mark.parametrize("read_back", [False, True])
@pytest.mark.parametrize(
    ("kept", "told"), [(0, "the head"), (1, "the last of its 3 layers"), (2, "the last 2 of its 3 layers")]
)
def test_the_last_layers_of_a_recipe_are_named(save_encoder, trainer_of, card_of, kept, told, read_back):
    folder = save_encoder("bert")
    encoder, tokenizer = load_encoder(folder)
    train_last_layers(encoder, kept)
    part, whole = trained(encoder)
    trainer = trainer_of(load_encoder(folder)[0] if read_back else encoder, tokenizer)
    words = ["--train_data", "a.fasta", "--model_name_or_path", folder, "--trained_layers", str(kept)]
    trainer.run_facts.update(recipe=parse_recipe(words), base_model=folder)
    trainer.eval_dataset = None
    text = card_of(trainer).text
    assert f"- trained parameters: {part:,} of {whole:,}, those of {told}" in text
    assert "the head (without its output weights, which are tied to the embeddings); all others" in text


def test_an_esm_whose_contact_head_no_loss_reaches_is_trained_as_a_whole(save_encoder, trainer_of, card_of):
    encoder, tokenizer = load_encoder(save_encoder("esm"))
    trainer = trainer_of(encoder, tokenizer)
    assert trained(encoder)[0] < trained(encoder)[1]
    text = card_of(trainer).text
    assert "trained parameters" not in text and "contact head (`predict_contacts`) was not trained" in text
    encoder.base_model.embeddings.requires_grad_(False)
    assert "- trained parameters:" in card_of(trainer).text


# ---- adapters ----


def test_the_card_of_an_adapter_is_an_adapters(save_encoder, trainer_of, card_of, adapt, tmp_path):
    encoder, tokenizer = load_encoder(save_encoder("bert"))
    model = adapt(encoder)
    part, whole = trained(model)
    card = card_of(trainer_of(model, tokenizer))
    assert card.data.library_name == "peft" and card.data.base_model is None and str(tmp_path) not in str(card)
    for told in (
        "an adapter for a protein language model (`bert`): LoRA of rank 2 and alpha 6 on `query`, `value`.",
        "You also need the weights of `bert`.", "The snippets need `transformers` and `peft`, and", ", peft ",
        f"- trained parameters: {part:,} of {whole:,} ({100 * part / whole:.3g} %), those of the adapter; all others "
        "were frozen\n",
        "`adapter_config.json` names as `base_model_name_or_path`",
    ):  # fmt: skip
        assert told in card.text, told
    assert re.search(r"\| class +\| `BertForMaskedLM` +\|", card.text) and "PeftModel" not in card.text
    assert "need only `transformers`" not in card.text


def test_the_base_of_an_adapter_on_the_hub_stands_in_the_metadata(make_encoder, tokenizer, trainer_of, card_of, adapt):
    encoder = make_encoder()
    encoder.name_or_path = "owner/proteins"
    card = card_of(trainer_of(adapt(encoder, modules_to_save=["transform"]), tokenizer))
    assert card.data.base_model == "owner/proteins" and "`owner/proteins` is downloaded from the Hub" in card.text
    assert "; fully trained: `transform`." in card.text and "`base_model_name_or_path`" not in card.text


def test_an_adapter_of_an_encoder_without_a_name_asks_for_it(make_encoder, tokenizer, trainer_of, card_of, adapt):
    card = card_of(trainer_of(adapt(make_encoder()), tokenizer))
    assert card.data.base_model is None and "encoder is not known" in card.text
    assert card.text.count(f'base = AutoModelForMaskedLM.from_pretrained("{BASE_PLACEHOLDER}")') == 1


def test_an_adapter_that_was_merged_is_a_model(make_encoder, tokenizer, trainer_of, card_of, adapt):
    card = card_of(trainer_of(adapt(make_encoder()).merge_and_unload().requires_grad_(True), tokenizer))
    assert card.data.library_name == "transformers" and "adapter" not in card.text


def test_an_adapter_that_was_added_by_transformers_is_one(save_encoder, trainer_of, card_of):
    peft = pytest.importorskip("peft", minversion=MIN_PEFT_VERSION)  # which may be later than the newest one
    encoder, tokenizer = load_encoder(save_encoder("bert"))
    encoder.add_adapter(peft.LoraConfig(**LORA))
    card = card_of(trainer_of(encoder, tokenizer))
    assert card.data.library_name == "peft" and "(`bert`): LoRA of rank 2" in card.text
