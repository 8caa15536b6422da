"""Dropout on a CPU does what PyTorch's does, but for the numbers that it draws."""

import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM

from adversarial_mlm.training import cpu_dropout
from adversarial_mlm.training.cpu_dropout import QuickDropout, attention, dropout


def parts(batch=2, heads=3, length=5, others=7, width=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, length, heads, width), (batch, others, heads, width), (batch, others, heads, width)]
    made = [torch.randn(shape, generator=generator, dtype=dtype).transpose(1, 2) for shape in shapes]
    return [part.requires_grad_() for part in made]


def written_out(query, key, value, mask, keep, factor):
    """Attention as in the textbook, with a given choice of what stays."""
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return (scores.softmax(dim=-1) * keep.view_as(scores) * factor) @ value


@pytest.mark.parametrize("p", [0.1, 0.5, 0.73])
def test_a_value_is_dropped_with_its_chance_and_what_stays_keeps_the_sum(p):
    torch.manual_seed(0)
    n = 400_000
    dropped = dropout(torch.ones(n), p)
    spread = (p * (1 - p) / n) ** 0.5
    assert (dropped == 0).double().mean().item() == pytest.approx(p, abs=5 * spread)
    assert dropped[dropped > 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)
    assert dropped.mean().item() == pytest.approx(1, abs=5 * spread / (1 - p))


def test_values_are_dropped_independently_of_their_neighbours():
    torch.manual_seed(1)
    gone = (dropout(torch.ones(400_000), 0.3) == 0).double() - 0.3
    for lag in (1, 2, 3, 4, 8):
        correlation = (gone[lag:] * gone[:-lag]).mean() / 0.21
        assert abs(correlation.item()) < 5 / 400_000**0.5


def test_gradients_go_where_the_values_stayed():
    values = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    dropped = dropout(values, 0.5)
    (dropped * torch.arange(15.0).view(3, 5)).sum().backward()
    assert torch.equal(values.grad, torch.where(dropped == 0, 0, 2.0 * torch.arange(15.0).view(3, 5).double()))


def test_the_second_derivative_of_dropout_is_right_and_that_of_attention_is_refused():
    values = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    dropped = dropout(values, 0.5)
    (gradient,) = torch.autograd.grad((dropped**3).sum(), values, create_graph=True)
    gradient.sum().backward()
    factor = dropped.detach() / values.detach()
    assert torch.allclose(values.grad, 6 * factor**3 * values.detach()) and values.grad.any()
    query, key, value = parts()
    with pytest.raises(RuntimeError, match="attention with quick dropout .*: set quick_cpu_dropout: false$"):
        torch.autograd.grad(attention(query, key, value, None, 0.1).sum(), query, create_graph=True)


@pytest.mark.parametrize("kind", ["none", "padding", "each query its own", "nowhere", "numbers"])
def test_attention_and_its_gradients_are_those_of_the_textbook(kind, monkeypatch):
    query, key, value = parts()
    looks = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(2)) < 0.7
    looks[..., 0] = True
    mask = {
        "none": None,
        "padding": torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0]]).bool()[:, None, None],
        "each query its own": looks,
        "nowhere": looks.clone(),
        "numbers": torch.randn(2, 3, 5, 7, dtype=torch.float64),
    }[kind]
    if kind == "nowhere":
        mask[1, 0, 4] = False
    drawn = []

    def remember(like, p):
        drawn.append(plain(like, p))
        return drawn[-1]

    plain = cpu_dropout._keep_at_random
    monkeypatch.setattr(cpu_dropout, "_keep_at_random", remember)
    ours = attention(query, key, value, mask, 0.3)
    expected = written_out(query, key, value, mask, *drawn[0]).nan_to_num(0)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    towards = torch.randn_like(ours)
    if kind == "nowhere":
        assert not ours[1, :, 4].any()
        assert all(grad.isfinite().all() for grad in torch.autograd.grad((ours * towards).sum(), (query, key, value)))
        return
    for mine, theirs in zip(
        torch.autograd.grad((ours * towards).sum(), (query, key, value)),
        torch.autograd.grad((expected * towards).sum(), (query, key, value)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["padding", "each query its own", "numbers"])
def test_a_query_that_may_look_nowhere_gets_nothing_whatever_the_mask_looks_like(kind):
    query, key, value = parts()
    looks = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    looks[1] = False
    mask = looks if kind == "padding" else looks.expand(-1, -1, 5, -1).contiguous()
    if kind == "numbers":
        mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -torch.inf)
    ours = attention(query, key, value, mask, 1e-9)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(query, key, value, mask))
    assert not ours[1].any() and ours[0].all()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(ours.sum(), (query, key, value)))


def test_a_chance_next_to_one_does_not_keep_everything():
    torch.manual_seed(0)
    assert (dropout(torch.ones(10_000), 1 - 1e-7) == 0).double().mean() > 0.99


def small_bert(dropout_rate: float) -> BertForMaskedLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    rates = {"hidden_dropout_prob": dropout_rate, "attention_probs_dropout_prob": dropout_rate}
    return BertForMaskedLM(BertConfig(**sizes, intermediate_size=64, **rates)).train()


def tokens():
    ids = torch.randint(5, 25, (3, 11), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def test_an_encoder_in_the_context_draws_nothing_from_the_slow_ways(monkeypatch):
    model, calls = small_bert(0.1), []
    monkeypatch.setattr(torch.Tensor, "bernoulli_", lambda *a, **k: calls.append("bernoulli_"))
    with QuickDropout(), torch.profiler.profile() as profile:
        model(**tokens()).logits.sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert not {"aten::dropout", "aten::bernoulli_", "aten::_scaled_dot_product_attention_math"} & names
    assert "aten::random_" in names


def test_without_dropout_the_context_changes_nothing():
    model = small_bert(0.0)
    plain = model(**tokens()).logits
    with QuickDropout():
        assert torch.equal(model(**tokens()).logits, plain)
        assert torch.equal(small_bert(0.5).eval()(**tokens()).logits, small_bert(0.5).eval()(**tokens()).logits)


def test_a_seed_repeats_what_is_dropped():
    model = small_bert(0.2)

    def logits(seed):
        torch.manual_seed(seed)
        with QuickDropout():
            return model(**tokens()).logits

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mean_over_many_draws_is_what_pytorch_draws_on_average(dtype):
    query, key, value = parts(dtype=dtype, batch=1)
    torch.manual_seed(0)
    with torch.no_grad():
        ours = torch.stack([attention(query, key, value, None, 0.2).float() for _ in range(3000)])
        theirs = torch.stack([F.scaled_dot_product_attention(query, key, value, dropout_p=0.2) for _ in range(3000)])
    difference = (ours.mean(0) - theirs.float().mean(0)).abs()
    error = (ours.var(0) / 3000 + theirs.float().var(0) / 3000).sqrt()
    assert (difference < 5 * error + (0.02 if dtype == torch.bfloat16 else 0)).all()
    torch.testing.assert_close(ours.var(0), theirs.float().var(0), rtol=0.25, atol=1e-3)


def test_under_autocast_attention_is_in_its_precision_and_gradients_in_that_of_the_inputs():
    query, key, value = parts(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = attention(query, key, value.to(torch.bfloat16), None, 0.1)
    assert mixed.dtype == torch.bfloat16
    mixed.float().sum().backward()
    assert query.grad.dtype == key.grad.dtype == value.grad.dtype == torch.float32


def test_what_it_does_not_know_goes_to_pytorch(monkeypatch):
    query, key, value = parts(length=7)
    monkeypatch.setattr(cpu_dropout, "attention", lambda *args: pytest.fail("the quick way does not know this"))
    with QuickDropout(), torch.no_grad():
        causal = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=0.1)
        flat = F.scaled_dot_product_attention(query[0], key[0], value[0], dropout_p=0.1)
        grouped = F.scaled_dot_product_attention(query, key[:, :1], value[:, :1], dropout_p=0.1, enable_gqa=True)
        shared = F.scaled_dot_product_attention(query, key, value[:, :1], dropout_p=0.1)
        all_gone = F.dropout(torch.ones(8), 1.0)
    assert causal.shape == grouped.shape == shared.shape == query.shape and flat.shape == query.shape[1:]
    assert not all_gone.any()
