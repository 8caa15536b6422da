import logging

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
