import contextlib
import logging

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedConfig

from adversarial_mlm import DataCollatorForRandomMLM
from adversarial_mlm.models.encoders import (
    config_with_dropout,
    number_of_positions,
    train_last_layers,
    with_dropout,
)
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.training.encoder_checks import check_soft_inputs, freeze_what_is_not_reached, hard_batch

KINDS = ["bert", "prot_bert", "esm", "roberta", "modernbert"]


@pytest.fixture
def load(save_encoder):
    """An encoder of a kind, loaded as a user would, and a collator for it."""

    def load(kind, **overrides):
        model, tokenizer = load_encoder(save_encoder(kind, **overrides))
        return model, DataCollatorForRandomMLM(tokenizer, max_length=60)

    return load


@pytest.mark.parametrize("kind", KINDS)
def test_a_hard_batch_has_every_residue_masks_and_padding(load, kind):
    _, collator = load(kind)
    batch = hard_batch(collator, torch.device("cpu"))
    shown = set(torch.where(batch.labels >= 0, batch.labels, batch.input_ids).unique().tolist())
    assert set(collator.vocabulary.residue_ids) <= shown
    assert (batch.input_ids == collator.vocabulary.mask_token_id).sum() == batch.masked.sum() > 10
    assert not batch.attention_mask.all()


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_without_dropout_training_is_as_evaluation(load, kind):
    model, collator = load(kind)
    batch = hard_batch(collator, torch.device("cpu"))
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    expected = model.eval()(**inputs).logits
    changed = with_dropout(model, 0.0)
    assert torch.equal(changed.train()(**inputs).logits, expected)
    assert not torch.allclose(with_dropout(model, 0.3).train()(**inputs).logits, expected, atol=1e-4)


def test_a_dropout_that_cannot_be_is_refused(load):
    model, _ = load("bert")
    with pytest.raises(ValueError, match="dropout must be at least 0 and below 1, got 1.0"):
        with_dropout(model, 1.0)
    with pytest.raises(ValueError, match="dropout is 0.1, but a unknown has no dropout that is known"):
        config_with_dropout(PreTrainedConfig(model_type="unknown"), 0.1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "esm"])
def test_embeddings_count_as_their_tokens_do(load, kind):
    check_soft_inputs(*load(kind))


@pytest.mark.parametrize(("difference", "refused"), [(1e-3, True), (1e-6, False)])
def test_rounding_alone_may_set_embeddings_and_tokens_apart(load, difference, refused):
    model, collator = load("bert")

    def differ(module, args, kwargs, outputs):
        if kwargs.get("inputs_embeds") is not None:
            outputs.logits = outputs.logits + difference
        return outputs

    model.register_forward_hook(differ, with_kwargs=True)
    refusal = pytest.raises(ValueError, match="with BertForMaskedLM a logit differs by 0.001: use")
    with refusal if refused else contextlib.nullcontext():
        check_soft_inputs(model, collator)


def test_an_esm_2_without_token_dropout_takes_embeddings_for_what_they_are(load):
    check_soft_inputs(*load("esm", token_dropout=False))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, "token_dropout only works on input_ids"),
        ({"token_dropout": False, "position_embedding_type": "absolute"}, "absolute positions"),
        ({"token_dropout": False, "emb_layer_norm_before": True}, "emb_layer_norm_before"),
    ],
)
def test_an_esm_that_reads_embeddings_otherwise_is_refused_with_the_reason(load, settings, reason):
    with pytest.raises(ValueError, match=rf"with EsmForMaskedLM a logit differs by .* {reason}.* such as credit"):
        check_soft_inputs(*load("esm", **settings))


def test_the_look_leaves_the_encoder_as_it_was(load):
    model, collator = load("bert")
    model.train()
    model.bert.embeddings.requires_grad_(False)
    before = torch.get_rng_state()
    check_soft_inputs(model, collator)
    freeze_what_is_not_reached(model, collator)
    assert model.training and torch.equal(before, torch.get_rng_state())
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if ".embeddings." not in name}
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_no_loss_reaches_is_frozen(load, kind):
    model, collator = load(kind)
    unreached = freeze_what_is_not_reached(model, collator)
    contact_head = ["esm.contact_head.regression.weight", "esm.contact_head.regression.bias"]
    assert unreached == (contact_head if kind == "esm" else [])
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == unreached


@pytest.mark.parametrize("kind", ["esm", "bert"])
def test_what_is_frozen_is_logged(load, kind, caplog, monkeypatch):
    model, collator = load(kind)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    with caplog.at_level("INFO", logger="adversarial_mlm.training.encoder_checks"):
        freeze_what_is_not_reached(model, collator)
    name = "esm.contact_head.regression.weight"
    sentence = f"2 parameters that the loss does not reach were frozen, such as {name}"
    assert caplog.messages == ([sentence] if kind == "esm" else [])


def test_positions_are_those_that_the_encoder_can_take(load):
    positions = {kind: number_of_positions(load(kind)[0]) for kind in ("bert", "roberta")}
    assert positions == {"bert": 512, "roberta": 128}
    model, _ = load("roberta")
    ids = torch.full((1, 128), 5)
    model(input_ids=ids)
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        model(input_ids=torch.full((1, 129), 5))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0, 2])
def test_the_last_layers_and_what_follows_them_stay_trainable(load, kind, count):
    model, _ = load(kind)
    train_last_layers(model, count)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    in_layers = {name for name, _ in model.named_parameters() if ".layer." in name or ".layers." in name}
    layers = {int(name.split("layer.")[-1].split("layers.")[-1].split(".")[0]) for name in frozen & in_layers}
    assert layers == set(range(3 - count))
    assert any("embeddings" in name for name in frozen)
    head = [name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}.")]
    assert head and not frozen & set(head)


@pytest.mark.parametrize("count", [-1, 4])
def test_more_layers_than_there_are_cannot_be_trained(load, count):
    with pytest.raises(ValueError, match="between 0 and the encoder's 3 layers"):
        train_last_layers(load("bert")[0], count)


def test_layers_that_share_their_weights_cannot_be_told_apart():
    from transformers import AlbertConfig, AlbertForMaskedLM

    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    with pytest.raises(ValueError, match="AlbertForMaskedLM share their weights"):
        train_last_layers(AlbertForMaskedLM(AlbertConfig(vocab_size=30, embedding_size=8, **sizes)), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_masks_keep_to_residues_whatever_the_tokenizer(save_encoder, proteins, kind):
    folder = save_encoder(kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    collator = DataCollatorForRandomMLM(tokenizer, random_rate=1.0, mask_options=(0.0, 0.0, 1.0))
    batch = collator([{"sequence": protein} for protein in proteins[:20]])
    corrupted = collator.corrupt(batch, torch.arange(20))
    special = torch.isin(batch["input_ids"], torch.tensor(tokenizer.all_special_ids))
    assert special.any() and not (corrupted.masked & special).any()
    assert torch.equal(corrupted.input_ids[special], batch["input_ids"][special])
    letters = {tokenizer.convert_ids_to_tokens(i) for i in corrupted.input_ids[corrupted.masked].unique().tolist()}
    assert letters == set("ACDEFGHIKLMNPQRSTVWY")
