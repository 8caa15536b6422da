"""Compare the FLOP/s of a training step with the fastest matrix product on this machine."""

from collections.abc import Iterator

import torch

from adversarial_mlm import presets
from adversarial_mlm.comparison.interleaved_timing import train_interleaved

from .measuring import Row, alternate, compare, timed
from .scaling import flops_of_a_token
from .training import our_trainer, proteins_of_one_length, stock_trainer

SIZE, _BATCH = "tape-38m", 16
_NOTE = "for the rest, see docs/scaling.md"


def model_flops(rows: int, length: int) -> float:
    """Return the FLOP of the encoder's forward and backward pass; see [`scaling.flops_of_a_token`]."""
    return 3.0 * rows * length * sum(flops_of_a_token(presets.encoder_config(SIZE), length))


def best_gemm(dtype: torch.dtype) -> list:
    """Return large square products and products of the model's shapes, as (FLOP, job) pairs."""
    jobs = []
    for rows, inner, columns in ((2048, 2048, 2048), (4096, 512, 2048), (4096, 2048, 512), (4096, 4096, 4096)):
        a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
        jobs.append((2.0 * rows * inner * columns, lambda a=a, b=b: a @ b))
    return jobs


def run(repetitions: int = 7, corpus: str | None = None) -> Iterator[Row]:
    """Compare a step with the fastest product and with the stock trainer's step.

    In float32 and bfloat16, with dropout 0.1, on rows of one length.
    """
    length = 200
    dataset = proteins_of_one_length(corpus, length)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        settings = {"batch_size": _BATCH, "bf16": dtype is torch.bfloat16}
        trainers = [
            our_trainer(dataset, SIZE, None, repetitions + 1, **settings),
            stock_trainer(dataset, SIZE, repetitions + 1, **settings),
        ]
        products = best_gemm(dtype)
        before = [min(series) for series in alternate(timed(*(job for _, job in products)), 3)]
        ours, stock = (
            [model_flops(_BATCH, length + 2) / second / 1e9 for second in seconds[1:]]
            for seconds in train_interleaved(trainers)
        )
        after = [min(series) for series in alternate(timed(*(job for _, job in products)), 3)]
        best = max(flops / min(pair) for (flops, _), *pair in zip(products, before, after, strict=True)) / 1e9
        of = f"model FLOP/s of a step, {SIZE}, dropout 0.1, {precision}"
        yield compare(f"{of}: ours ÷ best product", ours, [best] * len(ours), "GFLOP/s", "", note=_NOTE)
        yield compare(f"{of}: ours ÷ stock trainer", ours, stock, "GFLOP/s", "")
