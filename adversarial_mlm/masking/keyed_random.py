"""Random numbers as a pure function of a key.

Every row of a global batch has a 64-bit key made from `(seed, phase, update, row)`. Its random numbers are a hash of
this key and a counter. So the noise of a row does not depend on the process that draws it, or on the time. A run is
reproducible after resuming it, with another number of processes, and with other micro-batches. There is no generator
state to save, and all devices give the same numbers.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014).
"""

import torch

# purpose of a draw: streams of one row never share numbers
ANY_MASK, MASK_OPTION, RANDOM_POSITION, RANDOM_OPTION, RANDOM_RESIDUE, CANDIDATE = range(6)

# part of a run that a row belongs to
ENCODER_PHASE, NOISER_PHASE, EVALUATION = range(3)


def _signed(value: int) -> int:
    """Return the low 64 bits of an integer as a signed integer, which PyTorch computes with."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    # `>>` on int64 copies the sign bit, but the hash needs zeros
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


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
    key = torch.zeros_like(rows)
    for part in (seed, phase, update):
        key = _mix((key ^ _signed(part)) + _GOLDEN)
    return _mix((key ^ rows) + _GOLDEN)


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
    counter = torch.arange(1, length * channels + 1, device=keys.device)
    row = _mix(keys + _signed(_GOLDEN * (stream + 1)))
    bits = _shift_right(_mix(row[:, None] + counter * _GOLDEN), 41)  # (batch, length * channels), 23 random bits
    # half a unit is added to the 23 bits, so rounding to float32 gives neither 0 nor 1
    numbers = (bits.float() + 0.5) * 2.0**-23
    return numbers if channels == 1 else numbers.view(len(keys), length, channels)


def gumbel(keys: torch.Tensor, stream: int, length: int, channels: int = 1) -> torch.Tensor:
    """Return standard Gumbel noise, `-log(-log(u))` with `u` from [`uniform`]; same arguments and shapes."""
    return -torch.log(-torch.log(uniform(keys, stream, length, channels)))


def logistic(keys: torch.Tensor, stream: int, length: int, channels: int = 1) -> torch.Tensor:
    """Return standard logistic noise, `log(u) - log(1 - u)` with `u` from [`uniform`]; same arguments and shapes."""
    return torch.logit(uniform(keys, stream, length, channels))
