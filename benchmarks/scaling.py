"""Compare the cost of a token with the formulas of `docs/scaling.md`, over lengths, batches and encoders."""

import copy
from collections.abc import Iterator

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

from adversarial_mlm import AdversarialMLMTrainer

from .measuring import Row, alternate, compare, timed
from .step_cost import FAST
from .training import fresh_encoder, our_trainer, proteins_of_one_length

_LENGTHS, _BATCHES, _LENGTH, _TOKENS = (64, 256, 512, 1024), (4, 64), 128, 2048
_COUNTED = ("small", "tape-38m")
# cost of an encoder update in forward passes: of the encoder's linear layers, of its attention, of the noiser
_GAMES = {
    "paper": ({}, (5, 6, 4)),
    "paper, by reversal": ({"noiser_update": "reversal"}, (3, 3, 3)),
    "paper, credit": ({"noiser_reward": "credit"}, (4, 4, 4)),
    "fast": ({}, (3, 3, 3)),
}


def flops_of_a_token(config: BertConfig, length: int) -> tuple[float, float]:
    """Return the FLOP of a forward pass per token, in rows of `length` tokens: linear layers, attention.

    Counts matrix products only, as a multiplication and an addition each. A backward pass has twice as many of both.
    """
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    linear = layers * 2 * (4 * hidden**2 + 2 * hidden * inner) + 2 * hidden * (hidden + config.vocab_size)
    return float(linear), float(layers * 4 * length * hidden)


def _forward_and_backward(encoder: BertForMaskedLM, rows: int, length: int):
    ids = torch.randint(5, 25, (rows, length), generator=torch.Generator().manual_seed(0))

    def job() -> None:
        encoder.zero_grad()
        encoder(input_ids=ids, labels=ids).loss.backward()

    return job


def _encoder(size: str, **overrides) -> BertForMaskedLM:
    # without dropout, because the formula does not count random numbers
    return fresh_encoder(size, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **overrides)


def _counted(job) -> float:
    with FlopCounterMode(display=False) as counter:
        job()
    return float(counter.get_total_flops())


def flops_of_noiser(trainer: AdversarialMLMTrainer, length: int) -> float:
    """Return the FLOP of a forward pass of a trainer's noiser per token, in a row of `length` tokens, as counted."""
    noiser = copy.deepcopy(trainer.noiser).cpu()  # a GPU's GRU is one operator, whose products PyTorch does not count
    ids = torch.full((1, length), 7)
    with torch.no_grad():
        return _counted(lambda: noiser(ids)) / length


def _counts() -> Iterator[Row]:
    """Compare the products that PyTorch counts in a forward and backward pass with the formula."""
    for size in _COUNTED:
        # eager attention, because PyTorch does not count the products of the CPU's attention kernel
        encoder = _encoder(size, attn_implementation="eager", max_position_embeddings=max(_LENGTHS))
        for length in (min(_LENGTHS), max(_LENGTHS)):
            counted = _counted(_forward_and_backward(encoder, 1, length)) / length
            formula = 3 * sum(flops_of_a_token(encoder.config, length))
            name = f"FLOP of a token, counted ÷ formula, {size}, length {length}"
            yield compare(name, [counted / 1e6], [formula / 1e6], "MFLOP", "")


def _games(corpus: str | None) -> Iterator[Row]:
    """Compare the products of a whole encoder update, the noiser's share included, with the formula."""
    dataset = proteins_of_one_length(corpus, _LENGTH)
    length, batch_size = _LENGTH + 2, 2
    for name, (settings, (linear, attention, noiser)) in _GAMES.items():
        game = name.partition(",")[0]
        phases = {"noiser_steps": 1, "encoder_steps": 1} if game == "paper" and "reversal" not in name else {}
        trainer = our_trainer(
            dataset,
            "tape-38m",
            game,
            1,
            batch_size=batch_size,
            noiser=FAST if game == "fast" else None,
            encoder={"attn_implementation": "eager"},
            noiser_cosine_steps=0,
            **{**phases, **settings},
        )
        counted = _counted(trainer.train)
        nu = flops_of_noiser(trainer, length)
        a, b = flops_of_a_token(trainer.model.config, length)
        formula = (linear * a + attention * b + noiser * nu) * length * batch_size
        yield compare(
            f"FLOP of an update, counted ÷ formula, tape-38m, length {length}: {name}",
            [counted / 1e9],
            [formula / 1e9],
            "GFLOP",
            "",
            note=f"{formula / (3 * (a + b) * length * batch_size):.2f} times random masks, ν = {nu / (a + b):.3f}",
        )


def _times(repetitions: int) -> list[Row]:
    """Compare the seconds per token of each shape with the formula, scaled from one shape."""
    small = _encoder("small", max_position_embeddings=max(_LENGTHS))
    shapes = [("small", _TOKENS // _LENGTH, _LENGTH)]
    shapes += [("small", _TOKENS // length, length) for length in _LENGTHS]
    shapes += [("small", rows, _LENGTH) for rows in _BATCHES]
    shapes += [("tiny", _TOKENS // _LENGTH, _LENGTH), ("tape-38m", 4, _LENGTH)]
    encoders = {"small": small, "tiny": _encoder("tiny"), "tape-38m": _encoder("tape-38m")}
    jobs = [_forward_and_backward(encoders[size], rows, length) for size, rows, length in shapes]
    seconds = alternate(timed(*jobs), repetitions)
    cost = [sum(flops_of_a_token(encoders[size].config, length)) for size, _, length in shapes]
    per_token = [
        [s / (rows * length) for s in series] for series, (_, rows, length) in zip(seconds, shapes, strict=True)
    ]
    return [
        compare(
            f"time of a token, measured ÷ formula, {size}, {rows} rows of {length}",
            [s * 1e6 for s in per_token[index]],
            [s * 1e6 * cost[index] / cost[0] for s in per_token[0]],
            "µs",
            "",
            note=f"formula scaled from {shapes[0][0]}, {shapes[0][1]} rows of {_LENGTH}",
        )
        for index, (size, rows, length) in enumerate(shapes)
        if index
    ]


def run(repetitions: int = 3, corpus: str | None = None) -> Iterator[Row]:
    """Check the formulas of `docs/scaling.md`: counted products must match exactly, times only roughly."""
    yield from _counts()
    yield from _games(corpus)
    yield from _times(repetitions)
