"""Kernels for rows of unequal lengths on a CPU: PyTorch has them for GPUs only.

They compute what the kernels document, protein by protein, in plain arithmetic, with the masks of dropout drawn from a
seed that the forward pass hands to the backward pass. All that calls them (`varlen_attn`, autograd, autocast,
`torch.compile`) is PyTorch's own.
"""

import torch

_FORWARD = torch.ops.aten._flash_attention_forward


def _segments(offsets):
    ends = offsets.tolist()
    return [slice(start, stop) for start, stop in zip(ends, ends[1:], strict=False) if stop > start]


def _probabilities(query, key, scale, window):
    """Softmax of a protein, `(heads, queries, keys)`."""
    scores = torch.einsum("qhw,khw->hqk", query, key) * scale
    if window is not None and window >= 0:
        place = torch.arange(len(query))
        scores = scores.masked_fill((place[:, None] - place).abs() > window, -torch.inf)
    return scores.softmax(dim=-1)


def _kept(probabilities, dropout, seed, start):
    if not dropout:
        return 1.0
    generator = torch.Generator().manual_seed(seed + start)
    return (torch.rand(probabilities.shape, generator=generator) >= dropout) / (1 - dropout)


def _forward(query, key, value, offsets, dropout, scale, window, seed):
    out = torch.zeros_like(query)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    wide = [part.double() for part in (query, key, value)]
    for part in _segments(offsets):
        q, k, v = (x[part] for x in wide)
        probabilities = _probabilities(q, k, scale, window)
        probabilities = probabilities * _kept(probabilities, dropout, seed, part.start)
        out[part] = torch.einsum("hqk,khw->qhw", probabilities, v).to(out.dtype)
    return out


def _backward(grad, query, key, value, offsets, dropout, scale, window, seed):
    grads = [torch.zeros_like(part) for part in (query, key, value)]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    wide = [part.double() for part in (query, key, value, grad)]
    for part in _segments(offsets):
        q, k, v, g = (x[part] for x in wide)
        probabilities = _probabilities(q, k, scale, window)
        kept = _kept(probabilities, dropout, seed, part.start)
        grad_value = torch.einsum("hqk,qhw->khw", probabilities * kept, g)
        grad_p = torch.einsum("qhw,khw->hqk", g, v) * kept
        grad_scores = probabilities * (grad_p - (grad_p * probabilities).sum(dim=-1, keepdim=True)) * scale
        found = (
            torch.einsum("hqk,khw->qhw", grad_scores, k),
            torch.einsum("hqk,qhw->khw", grad_scores, q),
            grad_value,
        )
        for into, gradient in zip(grads, found, strict=True):
            into[part] = gradient.to(into.dtype)
    return tuple(grads)


def _drawn_seed(dropout):
    return int(torch.randint(2**31, ())) if dropout else 0


def _flash_forward(
    query, key, value, offsets, _, longest, __, dropout, is_causal, debug, *, scale=None, window_size_left=None,
    window_size_right=None, **others,
):  # fmt: skip
    assert not is_causal and window_size_left == window_size_right and not any(x is not None for x in others.values())
    assert offsets.dtype == torch.int32 and max(b.stop - b.start for b in _segments(offsets)) <= longest
    seed = _drawn_seed(dropout)
    out = _forward(query, key, value, offsets, dropout, scale, window_size_left, seed)
    state = torch.tensor([seed, 0], dtype=torch.int64).view(torch.uint64)
    return out, query.new_zeros(query.shape[1], len(query), dtype=torch.float32), state, state[:0], query[:0]


def _flash_backward(
    grad, query, key, value, out, lse, offsets, _, longest, __, dropout, is_causal, state, unused, *, scale=None,
    window_size_left=None, window_size_right=None,
):  # fmt: skip
    seed = int(state.view(torch.int64)[0]) if dropout else 0
    return _backward(grad, query, key, value, offsets, dropout, scale, window_size_left, seed)


def _efficient_forward(
    query, key, value, bias, offsets, _, longest, __, dropout, kind, lse=False, *, scale=None, **others
):
    assert kind == 0 and bias is None and lse and not any(x is not None for x in others.values())
    seed = _drawn_seed(dropout)
    out = _forward(query[0], key[0], value[0], offsets, dropout, scale, None, seed)[None]
    state = torch.tensor(seed)
    return out, query.new_zeros(1, query.shape[2], query.shape[1], dtype=torch.float32), state, state + 0, longest, __


def _efficient_backward(
    grad, query, key, value, bias, out, offsets, _, longest, __, lse, dropout, seed, offset, kind, bias_grad, *,
    scale=None, **others,
):  # fmt: skip
    found = _backward(grad[0], query[0], key[0], value[0], offsets, dropout, scale, None, int(seed))
    return *(gradient[None] for gradient in found), query[:0]


def with_cpu_kernels() -> torch.library.Library:
    """Give a CPU the kernels for as long as the result is kept; `_destroy` takes them away."""
    library = torch.library.Library("aten", "IMPL")
    for name, kernel in (
        ("_flash_attention_forward", _flash_forward),
        ("_flash_attention_backward", _flash_backward),
        ("_efficient_attention_forward", _efficient_forward),
        ("_efficient_attention_backward", _efficient_backward),
    ):
        library.impl(name, kernel, "CPU")
    return library
