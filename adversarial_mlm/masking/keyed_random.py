"""Random numbers as a pure function of a key.

Every row of a global batch has a 64-bit key made from `(seed, phase, update, row)`. Its random numbers are a hash of
this key and a counter. So the noise of a row does not depend on the process that draws it, or on the time. A run is
reproducible after resuming it, with another number of processes, and with other micro-batches. There is no generator
state to save, and all devices give the same numbers.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014).
"""

import functools
from collections.abc import Sequence

import torch

from adversarial_mlm.utils.hardware import sent

# purpose of a draw: streams of one row never share numbers
ANY_MASK, MASK_OPTION, RANDOM_POSITION, RANDOM_OPTION, RANDOM_RESIDUE, CANDIDATE, ROW_RATE = range(7)
SPAN_CUT, SPAN_FIRST, SPAN_ORDER, STRATUM_HEAD, STRATUM_BODY, WEIGHTED, PROTEIN = range(7, 14)

# part of a run that a row belongs to; RECORD is of a record in all of its epochs
ENCODER_PHASE, NOISER_PHASE, EVALUATION, RECORD = range(4)


_ALL_BITS = (1 << 64) - 1


def _signed(value: int) -> int:
    """Return the low 64 bits of an integer as a signed integer, which PyTorch computes with."""
    value &= _ALL_BITS
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    # `>>` on int64 copies the sign bit, but the hash needs zeros
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The finaliser of SplitMix64."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _mixed(value: int) -> int:
    """[`_mix`] of an integer, on the host."""
    value &= _ALL_BITS
    value = (value ^ (value >> 30)) * (_MIX_1 & _ALL_BITS) & _ALL_BITS
    value = (value ^ (value >> 27)) * (_MIX_2 & _ALL_BITS) & _ALL_BITS
    return value ^ (value >> 31)


def row_keys(seed: int, phase: int, update: int, rows: torch.Tensor) -> torch.Tensor:
    """Return the keys of the rows of a batch.

    Args:
        seed (`int`): The run's seed.
        phase (`int`): `ENCODER_PHASE`, `NOISER_PHASE` or `EVALUATION`.
        update (`int`): Number of updates made so far in this phase.
        rows (`torch.Tensor` of shape `(batch,)`, int64): Index of each row in the global batch, counted over all
            micro-batches and all processes.

    Returns:
        `torch.Tensor` of shape `(batch,)`, int64.
    """
    key = 0
    for part in (seed, phase, update):
        key = _mixed((key ^ (part & _ALL_BITS)) + _GOLDEN)
    return _mix((rows ^ _signed(key)) + _GOLDEN)


def subkeys(keys: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Return a key for each pair of a key and a number, both `(batch,)`, int64."""
    return _mix((keys ^ numbers) + _GOLDEN)


def uniform(keys: torch.Tensor, stream: int, length: int, channels: int = 1) -> torch.Tensor:
    """Return uniform numbers in the open interval (0, 1), one row for each key.

    A number only depends on the row's key, the stream, the position and the channel. It does not depend on `length`,
    and so not on padding.

    Args:
        keys (`torch.Tensor` of shape `(batch,)`, int64): Result of [`row_keys`].
        stream (`int`): Purpose of the numbers, for example `ANY_MASK`.
        length (`int`): Number of positions.
        channels (`int`, *optional*, defaults to 1): Numbers at each position.

    Returns:
        `torch.Tensor` of shape `(batch, length)`, or `(batch, length, channels)` if `channels` is above 1; float32.
    """
    numbers = numbers_of(_mix(keys + _of_stream(stream)), counters(length * channels, keys.device))
    return numbers if channels == 1 else numbers.view(len(keys), length, channels)


def uniforms(
    keys: torch.Tensor, streams: Sequence[int], length: int, device: torch.device | None = None
) -> dict[int, torch.Tensor]:
    """Return the numbers of [`uniform`] for several streams at once, which takes no more operations than for one.

    Args:
        keys (`torch.Tensor` of shape `(batch,)`, int64): Result of [`row_keys`].
        streams (`Sequence[int]`): Purposes of the numbers.
        length (`int`): Number of positions.
        device (`torch.device`, *optional*): Device of the numbers; defaults to that of the keys. Keys on the host save
            the device some thirty small operations.

    Returns:
        `dict[int, torch.Tensor]`: For each stream, numbers of shape `(batch, length)`; float32.
    """
    rows = stream_keys(keys, streams, device)
    return dict(zip(streams, numbers_of(rows, counters(length, rows.device)).unbind(), strict=True))


def stream_keys(keys: torch.Tensor, streams: Sequence[int], device: torch.device | None = None) -> torch.Tensor:
    """Return a key for each stream and row, `(streams, batch)`, int64, on a device; arguments as for [`uniforms`]."""
    rows = _mix(keys + _of_streams(tuple(streams), keys.device))
    return sent(rows, keys.device if device is None else device)


def _of_stream(stream: int) -> int:
    return _signed(_GOLDEN * (stream + 1))


@functools.cache
def _of_streams(streams: tuple[int, ...], device: torch.device) -> torch.Tensor:
    # cached, because copying to a GPU waits for it
    return torch.tensor([[_of_stream(stream)] for stream in streams], device=device)


@functools.lru_cache(maxsize=64)
def counters(count: int, device: torch.device) -> torch.Tensor:
    """Return the counters of a row's first numbers, `(count,)`, int64."""
    return torch.arange(1, count + 1, device=device) * _GOLDEN


def numbers_of(rows: torch.Tensor, counters: torch.Tensor) -> torch.Tensor:
    """Return uniform numbers in the open interval (0, 1).

    A compiled function must get the counters as an input: PyTorch 2.13 overflows if it computes them in the graph.

    Args:
        rows (`torch.Tensor`, int64): Mixed keys of rows, of any shape, such as [`stream_keys`].
        counters (`torch.Tensor` of shape `(count,)`, int64): Result of [`counters`].

    Returns:
        `torch.Tensor` of the shape of `rows` and `(count,)`, float32.
    """
    x = rows[..., None] + counters
    # the last step of `_mix` does not reach the highest 33 bits
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    # half a unit is added to the 23 highest bits, so rounding to float32 gives neither 0 nor 1
    return (_shift_right(x, 41).float() + 0.5) * 2.0**-23


def as_gumbel(numbers: torch.Tensor) -> torch.Tensor:
    """Return standard Gumbel noise from uniform numbers."""
    return -torch.log(-torch.log(numbers))


def as_logistic(numbers: torch.Tensor) -> torch.Tensor:
    """Return standard logistic noise from uniform numbers."""
    return torch.logit(numbers)


def gumbel(keys: torch.Tensor, stream: int, length: int, channels: int = 1) -> torch.Tensor:
    """Return standard Gumbel noise, `-log(-log(u))` with `u` from [`uniform`]; same arguments and shapes."""
    return as_gumbel(uniform(keys, stream, length, channels))
