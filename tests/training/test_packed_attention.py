"""All proteins of a batch in one row. A CPU has no kernel for that, and PyTorch takes one after the other there."""

import pytest
import torch
from torch.nn.attention import SDPBackend
from transformers import AutoModelForMaskedLM, AutoTokenizer

from adversarial_mlm import DataCollatorForRandomMLM
from adversarial_mlm.training import packed_attention
from adversarial_mlm.training.packed_attention import pack_attention, packed_rows, padding_index_of, read_packed

CAN = {
    "bert": ("bert", {}),
    "prot_bert": ("prot_bert", {}),
    "roberta": ("roberta", {}),  # its positions begin behind the padding's index
    "esm, rotary": ("esm", {"token_dropout": False}),
    "esm, absolute": (
        "esm",
        {"token_dropout": False, "position_embedding_type": "absolute", "max_position_embeddings": 70},
    ),
    "modernbert, global": ("modernbert", {"global_attn_every_n_layers": 1}),
}
CANNOT = {
    "esm, token dropout": ("esm", {}, "differs by .* from that of padded rows"),  # which counts the masks of a row
    "modernbert": ("modernbert", {}, "sliding-window attention"),
}


@pytest.fixture(autouse=True)
def without_a_kernel(monkeypatch):
    monkeypatch.setattr(packed_attention, "_KERNELS", [SDPBackend.MATH])


@pytest.fixture
def load(save_encoder):
    def load(kind, **settings):
        folder = save_encoder(kind, **settings)
        collator = DataCollatorForRandomMLM(AutoTokenizer.from_pretrained(folder), max_length=60)
        return AutoModelForMaskedLM.from_pretrained(folder), collator

    return load


@pytest.fixture
def batch(proteins):
    def make(collator):
        return collator([{"sequence": protein[:n]} for protein, n in zip(proteins, (31, 3, 58, 12), strict=False)])

    return make


def test_packed_rows_name_every_token_once(load, batch):
    _, collator = load("bert")
    padded = batch(collator)
    packed = packed_rows(padded)
    lengths = [33, 5, 60, 14]
    assert packed["positions"].tolist() == [place for length in lengths for place in range(length)]
    assert packed["offsets"].tolist() == [0, 33, 38, 98, 112]
    assert (packed["shortest"], packed["longest"]) == (5, 60)
    ids = padded["input_ids"].flatten()[packed["index"]]
    assert torch.equal(ids, padded["input_ids"][padded["attention_mask"].bool()])


@pytest.mark.parametrize("encoder", CAN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_and_gradients_are_those_of_padded_rows(load, batch, encoder, dtype):
    kind, settings = CAN[encoder]
    model, collator = load(kind, **settings)
    model, inputs = model.to(dtype).eval(), batch(collator)
    real, close = inputs["attention_mask"].bool(), 1e-10 if dtype == torch.float64 else 1e-5
    labels = torch.where(inputs["residue_mask"], inputs["input_ids"], -100)

    def read(packed):
        model.zero_grad()
        if packed:
            rows = packed_rows(inputs)
            logits = read_packed(model, rows, padding_index_of(model), input_ids=inputs["input_ids"])
        else:
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        return logits, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    theirs, their_gradients = read(packed=False)
    pack_attention(model, collator)
    ours, our_gradients = read(packed=True)
    assert ours.shape == theirs.shape and (ours[~real] == 0).all()
    assert (ours - theirs)[real].abs().max() < close
    assert our_gradients.keys() == their_gradients.keys()
    assert all((our_gradients[name] - g).abs().max() < close for name, g in their_gradients.items())
    # what is padded is read as before, in evaluation for one
    assert torch.equal(read(packed=False)[0], theirs)


def test_the_attentions_dropout_is_honoured(load, batch):
    model, collator = load("bert", attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0)
    pack_attention(model, collator)
    inputs = batch(collator)

    def logits():
        torch.manual_seed(0)
        return read_packed(model, packed_rows(inputs), None, input_ids=inputs["input_ids"])

    still = logits()
    assert torch.equal(still, logits())
    assert not torch.allclose(model.train() and logits(), still, atol=1e-4)


@pytest.mark.parametrize("encoder", CANNOT)
def test_an_encoder_that_cannot_is_refused(load, encoder):
    kind, settings, words = CANNOT[encoder]
    model, collator = load(kind, **settings)
    with pytest.raises(ValueError, match=f"packed_attention does not support .*{words}"):
        pack_attention(model, collator)


def test_an_encoder_that_lets_proteins_see_each_other_is_refused(load, monkeypatch):
    model, collator = load("bert")
    plain = packed_attention.packed_rows

    def as_one(batch):
        packed = plain(batch)
        tokens = len(packed["index"])
        return {**packed, "offsets": torch.tensor([0, tokens]), "shortest": tokens, "longest": tokens}

    monkeypatch.setattr(packed_attention, "packed_rows", as_one)
    with pytest.raises(ValueError, match="if another protein in the row changes"):
        pack_attention(model, collator)


def test_attention_of_another_kind_is_refused(load):
    model, collator = load("bert")
    model.set_attn_implementation("eager")
    with pytest.raises(
        ValueError, match="needs an encoder with attn_implementation sdpa, but the BertForMaskedLM has eager"
    ):
        pack_attention(model, collator)


def test_without_a_kernel_nothing_is_computed(load, batch, monkeypatch):
    """What a GPU without one would do: nothing falls back to one protein after the other."""
    monkeypatch.setattr(packed_attention, "_KERNELS", [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION])
    model, collator = load("bert")
    with pytest.raises(ValueError, match="packed_attention does not support BertForMaskedLM: No viable backend"):
        pack_attention(model, collator)
