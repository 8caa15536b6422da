import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.scaling import flops_of_a_token


@pytest.mark.parametrize("length", [5, 40])
def test_the_formula_is_what_pytorch_counts(make_encoder, length):
    encoder = make_encoder(num_hidden_layers=3, intermediate_size=48)
    encoder.set_attn_implementation("eager")
    ids = torch.full((2, length), 7)
    with FlopCounterMode(display=False) as forward:
        loss = encoder(input_ids=ids, labels=ids).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    linear, attention = flops_of_a_token(encoder.config, length)
    assert forward.get_total_flops() == 2 * length * (linear + attention)
    assert backward.get_total_flops() == 2 * forward.get_total_flops()
