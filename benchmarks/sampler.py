"""Compare our samplers with the loop that the paper prints."""

import functools
from collections.abc import Iterator

import torch

from adversarial_mlm.masking.sampling import gumbel_topk_marginals, rss

from .measuring import Row, alternate, compare, timed
from .memory import peak_bytes

_ROWS, _SHARE, _TIMES = 16, 10, 20


def textbook_rss(scores: torch.Tensor, noise: torch.Tensor, budget: int, temperature: float = 1.0) -> torch.Tensor:
    """Run Algorithm 1 as printed, differentiated by autograd, on rows without padding; `(batch, length)`."""
    keys, soft = scores + noise, torch.zeros_like(scores)
    spent = torch.zeros_like(scores)
    for _ in range(budget):
        keys = keys + torch.log((1 - spent).clamp_min(1e-18))
        spent = torch.softmax(keys / temperature, dim=-1)
        soft = soft + spent
    return soft


def _inputs(length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(_ROWS, length, generator=generator)
    noise = -torch.empty_like(scores).exponential_(generator=generator).log()
    mask = torch.ones(_ROWS, length, dtype=torch.bool)
    return scores, noise, mask, torch.full((_ROWS,), length // _SHARE)


def _forward_and_backward(sampler, scores: torch.Tensor, towards: torch.Tensor) -> None:
    scores = scores.clone().requires_grad_()
    (sampler(scores) * towards).sum().backward()


def jobs(length: int) -> dict:
    """Return the jobs `textbook`, `rss` and `closed form`.

    Each is a forward and backward pass over 16 rows, of which a tenth of the positions is chosen.
    """
    scores, noise, mask, budget = _inputs(length)
    towards = torch.randn(scores.shape, generator=torch.Generator().manual_seed(1))
    run = functools.partial(_forward_and_backward, scores=scores, towards=towards)
    return {
        "textbook": lambda: run(lambda s: textbook_rss(s, noise, length // _SHARE)),
        "rss": lambda: run(lambda s: rss(s, mask, budget, noise, max_budget=length // _SHARE)),
        "closed form": lambda: run(lambda s: gumbel_topk_marginals(s, mask, budget)),
    }


def run(repetitions: int = 21, lengths: tuple[int, int] = (1024, 4096)) -> Iterator[Row]:
    """Compare time and memory of both samplers with the printed loop."""
    memory = {}
    for length in lengths:
        named = jobs(length)
        rounds = max(repetitions * lengths[0] // length, 7)
        textbook, ours, closed = (
            [s * 1e3 for s in series] for series in alternate(timed(*named.values(), times=_TIMES), rounds)
        )
        of = f"n = {length:,}, 10 %"
        if length == lengths[0]:
            yield compare(f"rss, {of}: time", ours, textbook, "ms", "<= 0.5", note="loop under autograd")
        yield compare(
            f"closed form, {of}: time",
            closed,
            textbook,
            "ms",
            ">= 15" if length == lengths[0] else ">= 40",
            inverse=True,
            note="loop under autograd ÷ ours",
        )
        memory[length] = {name: [peak_bytes(job) / 2**20] for name, job in named.items()}
    short, long = lengths
    yield compare(
        f"rss, n = {short:,}, 10 %: peak memory", memory[short]["rss"], memory[short]["textbook"], "MiB", "<= 0.25"
    )
    yield compare(
        f"closed form, memory at n = {long:,} ÷ at n = {short:,}",
        memory[long]["closed form"],
        memory[short]["closed form"],
        "MiB",
        f"<= {1.25 * long / short:g}",
        note=f"linear would be {long / short:g}",
    )
