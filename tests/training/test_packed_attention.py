"""All proteins of a batch in one row, on kernels that the tests give a CPU."""

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from adversarial_mlm import DataCollatorForRandomMLM
from adversarial_mlm.training import packed_attention, packing_check
from adversarial_mlm.training.packed_attention import packed_rows, read_packed, use_packed_attention
from adversarial_mlm.training.packing_check import pack_attention, packed_by_default
from tests.helpers.packed_kernels import with_cpu_kernels

CAN = {
    "bert": ("bert", {}),
    "prot_bert": ("prot_bert", {}),
    "roberta": ("roberta", {}),  # its positions begin behind the padding's index
    "esm, rotary": ("esm", {"token_dropout": False}),
    "esm, absolute": (
        "esm",
        {"token_dropout": False, "position_embedding_type": "absolute", "max_position_embeddings": 70},
    ),
    "esm, token dropout": ("esm", {}),  # which counts the masks of a row
    "modernbert, global": ("modernbert", {"global_attn_every_n_layers": 1}),
    "modernbert": ("modernbert", {"local_attention": 8}),  # sliding windows
}
FLASH = (torch.float64, torch.bfloat16)


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """On a GPU, no kernel takes float64; here, that of flash attention does."""
    monkeypatch.setattr(packed_attention, "_FLASH_DTYPES", FLASH)
    library = with_cpu_kernels()
    yield
    library._destroy()


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
    assert packed["offsets"].dtype == torch.int32 and packed["longest"] == 128  # a bound, the same for many batches
    ids = padded["input_ids"].flatten()[packed["index"]]
    assert torch.equal(ids, padded["input_ids"][padded["attention_mask"].bool()])


@pytest.mark.parametrize("encoder", CAN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_and_gradients_are_those_of_padded_rows(load, batch, encoder, dtype):
    if encoder == "modernbert" and dtype not in FLASH:
        return  # the kernel for float32 has no sliding windows
    kind, settings = CAN[encoder]
    model, collator = load(kind, **settings)
    model, inputs = model.to(dtype).eval(), batch(collator)
    masked = collator.hide_at_random(inputs, torch.arange(4), rate=0.3)
    inputs = {**inputs, "input_ids": masked.input_ids}
    real, close = inputs["attention_mask"].bool(), 1e-12 if dtype == torch.float64 else 1e-5
    labels = torch.where(inputs["residue_mask"], inputs["input_ids"], -100)

    def read(packed):
        model.zero_grad()
        if packed:
            rows = packed_rows(inputs)
            logits = read_packed(model, model, rows, inputs["attention_mask"], input_ids=inputs["input_ids"])
        else:
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
        return logits, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    theirs, their_gradients = read(packed=False)
    use_packed_attention(model)
    ours, our_gradients = read(packed=True)
    assert ours.shape == theirs.shape and (ours[~real] == 0).all()
    assert (ours - theirs)[real].abs().max() < close
    assert our_gradients.keys() == their_gradients.keys()
    assert all((our_gradients[name] - g).abs().max() < close for name, g in their_gradients.items())
    # what is padded is read as before, in evaluation for one
    assert torch.equal(read(packed=False)[0], theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_attentions_dropout_is_honoured(load, batch, dtype):
    model, collator = load("bert", attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0)
    model = model.to(dtype)
    use_packed_attention(model)
    inputs = batch(collator)

    def logits():
        torch.manual_seed(0)
        return read_packed(model, model, packed_rows(inputs), inputs["attention_mask"], input_ids=inputs["input_ids"])

    still = logits()
    assert torch.equal(still, logits())
    assert not torch.allclose(model.train() and logits(), still, atol=1e-4)


@pytest.mark.parametrize("encoder", CAN)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_check_lets_encoders_pass_that_can(load, encoder, dtype):
    kind, settings = CAN[encoder]
    model, collator = load(kind, **settings)
    if encoder == "modernbert" and dtype is None:
        with pytest.raises(ValueError, match="there is no kernel for sliding windows in float32: use bf16"):
            pack_attention(model, collator, dtype)
        assert model.config._attn_implementation == "sdpa"  # as it was
        return
    pack_attention(model.train(), collator, dtype)
    assert model.training and all(parameter.grad is None for parameter in model.parameters())


def test_an_encoder_whose_logits_differ_is_refused(load, monkeypatch):
    model, collator = load("esm")
    monkeypatch.setattr(model.config, "model_type", "esm of another kind")  # so its token dropout is not known
    with pytest.raises(ValueError, match="does not support EsmForMaskedLM: .* a logit of packed rows differs by"):
        pack_attention(model, collator, torch.bfloat16)


def test_a_kernel_whose_gradient_is_wrong_is_refused(load, monkeypatch):
    model, collator = load("bert")
    plain = packed_attention._attend
    monkeypatch.setattr(packed_attention, "_attend", lambda q, k, v, *rest: plain(q, k, v.detach(), *rest))
    with pytest.raises(ValueError, match="does not support BertForMaskedLM: .* a gradient of packed rows differs by"):
        pack_attention(model, collator, None)


def test_an_encoder_that_lets_proteins_see_each_other_is_refused(load, monkeypatch):
    model, collator = load("bert")
    plain = packing_check.packed_rows

    def as_one(batch):
        packed = plain(batch)
        return {**packed, "offsets": torch.tensor([0, len(packed["index"])], dtype=torch.int32)}

    monkeypatch.setattr(packing_check, "packed_rows", as_one)
    monkeypatch.setattr(packing_check, "_LARGEST_DIFFERENCE", 10.0)
    with pytest.raises(ValueError, match="if another protein in the row changes"):
        pack_attention(model, collator, None)


def test_attention_of_another_kind_is_refused_or_read_with_padding(load, caplog):
    model, collator = load("bert")
    model.set_attn_implementation("eager")
    reason = "needs an encoder with attn_implementation sdpa, but the BertForMaskedLM has eager"
    with pytest.raises(ValueError, match=reason):
        pack_attention(model, collator, None)
    assert not packed_by_default(model, collator, None)
    assert "batches are read with padding: packed_attention needs" in caplog.text


def test_without_a_kernel_nothing_is_computed(load, monkeypatch):
    """Nothing falls back to one protein after the other."""
    monkeypatch.setattr(packed_attention, "_EFFICIENT_DTYPES", ())
    model, collator = load("bert")
    with pytest.raises(ValueError, match="does not support BertForMaskedLM: there is no kernel for float32: use bf16"):
        pack_attention(model, collator, None)


@pytest.mark.exhaustive
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_it_compiles_without_a_break_of_the_graph(load, batch, dropout):
    """As far as the tracer goes; no GPU has compiled it."""
    model, collator = load("bert", attention_probs_dropout_prob=dropout, hidden_dropout_prob=0.0)
    model = model.double().train(dropout > 0)
    use_packed_attention(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
    inputs = batch(collator)

    def read(encoder):
        torch.manual_seed(0)
        rows, mask = packed_rows(inputs), inputs["attention_mask"]
        return read_packed(encoder, model, rows, mask, input_ids=inputs["input_ids"])

    assert torch.allclose(read(compiled), read(model), atol=1e-12)
