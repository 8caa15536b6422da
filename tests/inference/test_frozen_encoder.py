import logging
import shutil

import numpy as np
import pytest
import torch

from adversarial_mlm.inference import frozen_encoder
from adversarial_mlm.inference.frozen_encoder import FrozenEncoder, resolved_dtype
from adversarial_mlm.utils.errors import RecipeError


@pytest.mark.parametrize(("has_bf16", "wanted"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_where_the_device_is_switched_to_it(monkeypatch, has_bf16, wanted):
    monkeypatch.setattr(frozen_encoder, "auto_bf16", lambda device: has_bf16)
    assert resolved_dtype("auto", torch.device("cuda")) == wanted


def test_bfloat16_is_warned_of_once_where_it_is_slow(monkeypatch, caplog):
    monkeypatch.setattr(frozen_encoder, "has_fast_bf16", lambda device: False)
    frozen_encoder._warn_of_bfloat16.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [resolved_dtype(name, torch.device("cpu")) for name in ("bfloat16", "bfloat16", "float32")] == [
            *("bfloat16", "bfloat16", "float32")
        ]
    assert caplog.text.count("this cpu has no instructions for it and may be several times slower") == 1
    frozen_encoder._warn_of_bfloat16.cache_clear()


def test_an_encoder_tells_the_precision_that_auto_stands_for(make_encoder, tokenizer):
    assert FrozenEncoder(make_encoder().bert, tokenizer, dtype="auto").dtype == "float32"
    with pytest.raises(RecipeError, match="dtype must be one of bfloat16, float32, auto, got 'int8'"):
        FrozenEncoder(make_encoder().bert, tokenizer, dtype="int8")


def read_all(encoder: FrozenEncoder) -> list[torch.Tensor]:
    """The residues of five proteins, in batches of one to three."""
    proteins = ["MKTAYIAKQR", "MKV", "GSHMLEDPVA", "ACDEFGHIKLMNPQRSTVWY" * 2, "WW"]
    parts = np.array([[index, 0, len(protein)] for index, protein in enumerate(proteins)])
    return [hidden[mask] for _, hidden, mask in encoder.read(proteins, parts)]


@pytest.mark.exhaustive  # a compiler of C++ takes its time
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler of torch.compile needs g++ on a CPU")
def test_a_compiled_encoder_reads_the_same_in_one_graph_for_all_sizes(make_encoder, tokenizer):
    model = make_encoder().bert.eval()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = read_all(FrozenEncoder(model, tokenizer, batch_tokens=40, torch_compile=True))
    for found, expected in zip(compiled, read_all(FrozenEncoder(model, tokenizer, batch_tokens=40)), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    # a batch of one row is a graph of its own
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.exhaustive  # the compiler needs seconds to find out
def test_an_encoder_that_cannot_be_compiled_ends_in_a_sentence(make_encoder, tokenizer, monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/nowhere/g++",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    with pytest.raises(RecipeError, match=r"torch_compile is set, but .* \(.*compiler.*\): leave it out"):
        read_all(FrozenEncoder(make_encoder().bert.eval(), tokenizer, torch_compile=True))
