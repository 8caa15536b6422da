import pytest
import torch

from adversarial_mlm.utils.hardware import auto_bf16, has_fast_bf16, sent


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of a given capability, as far as PyTorch is asked."""

    def make(*capability: int) -> torch.device:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        return torch.device("cuda")

    return make


@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_have_bf16_from_ampere_on(gpu, capability, fast):
    device = gpu(*capability)
    assert has_fast_bf16(device) == auto_bf16(device) == fast


@pytest.mark.parametrize(("amx", "avx512", "fast"), [(False, False, False), (False, True, True), (True, False, True)])
def test_a_cpu_has_it_with_amx_or_avx512_but_is_not_switched_to_it(monkeypatch, amx, avx512, fast):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert has_fast_bf16("cpu") == fast
    assert not auto_bf16("cpu")


def test_what_is_sent_to_a_gpu_is_pinned_first(monkeypatch):
    """A copy from ordinary memory would wait. On a CPU nothing is copied."""
    done = []
    values = torch.arange(3)
    assert sent(values, torch.device("cpu")) is values
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: done.append("pinned") or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *args, **kwargs: done.append(kwargs) or tensor)
    sent(values, torch.device("cuda"))
    assert done == ["pinned", {"non_blocking": True}]
