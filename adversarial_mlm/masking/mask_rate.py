"""The mask rate as an option that may change during a run: `75%@0 15%@100%`, or drawn for each protein: `10%-90%`."""

import bisect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adversarial_mlm.utils.errors import AdversarialMLMError
from adversarial_mlm.utils.ramp import split_points

_RATE = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e-?[0-9]+)?%?"
_VALUE = re.compile(rf"({_RATE})(?:-({_RATE}))?")
_STEP = re.compile(r"([0-9]+)|([0-9]+\.?[0-9]*)%")

CURVES: dict[str, Callable[[float], float]] = {
    "linear": lambda share: share,
    "cosine": lambda share: (1 - math.cos(math.pi * share)) / 2,
    "step": lambda share: 0.0,
}
"""How two points are joined: the share of the way from one rate to the next, by the share of the steps between."""


@dataclass(frozen=True)
class _Point:
    low: float
    high: float
    step: float  # a number of updates, or a share of the run


class MaskRate:
    """The mask rate of each update, from `value@step` points.

    A value is a share or a percentage, and may be a range: the rate of each protein is then drawn uniformly from it. A
    step is a number of encoder updates or a percentage of the run. The rate of an update is that in its middle: with
    `75%@0 15%@100%`, the mean over the updates of a run is exactly 45 %.

    Args:
        points (`Sequence[str]`): One value, such as `["40%"]` or `["10%-90%"]`, or points with rising steps, such as
            `["75%@0", "15%@100%"]`. The rate is constant before the first point and after the last one.
        curve (`str`, *optional*, defaults to `"linear"`): How points are joined, a name in `CURVES`. With `"step"`,
            each rate holds until the next point.

    Raises:
        AdversarialMLMError: If the points cannot be read, or if the curve has no effect.
    """

    def __init__(self, points: Sequence[str], curve: str = "linear"):
        self._text = " ".join(" ".join(map(str, points)).split())
        if curve not in CURVES:
            raise AdversarialMLMError(f"mask_rate_curve must be one of {', '.join(CURVES)}, got '{curve}'")
        self.curve = curve
        self._read(points)
        if curve != "linear" and len(self._points) == 1:
            raise AdversarialMLMError(
                f"mask_rate_curve: {curve} joins points, but mask_rate has only one, {self._text}: leave it out"
            )
        if curve == "step" and self.in_shares and self._points[-1].step >= 1:
            raise AdversarialMLMError(
                f"mask_rate is {self._text}: with mask_rate_curve: step, its last rate would begin after the last "
                "update; use an earlier step"
            )

    def _read(self, points: Sequence[str]) -> None:
        try:
            found = [(_read_value(value), *_read_step(step)) for value, step in split_points(points)]
        except ValueError:
            found = []
        # 0 is the same step in both forms
        kinds = {is_share for _, step, is_share in found if step}
        self.in_shares = kinds != {False}
        self._points = [_Point(low, high, step) for (low, high), step, _ in found]
        steps = [point.step for point in self._points]
        if len(kinds) == 2:
            raise AdversarialMLMError(
                f"mask_rate is {self._text}: give all steps as numbers of updates, or all in % of the run"
            )
        if not found or any(a >= b for a, b in zip(steps, steps[1:], strict=False)):
            raise AdversarialMLMError(
                "mask_rate must be one rate such as 40%, a range such as 10%-90%, or rate@step points with rising "
                f"steps such as 75%@0 15%@100%; got '{self._text}'"
            )
        for point in self._points:
            if not 0 < point.low <= point.high <= 1:
                raise AdversarialMLMError(
                    "mask_rate must be above 0 and at most 1 (100%), and a range must begin with its lower end; got "
                    f"'{self._text}'"
                )

    @property
    def changes(self) -> bool:
        """Whether the rate differs between updates."""
        return len({(point.low, point.high) for point in self._points}) > 1

    @property
    def lowest(self) -> float:
        """The lowest rate of any protein in any update."""
        return min(point.low for point in self._points)

    @property
    def highest(self) -> float:
        """The highest rate of any protein in any update."""
        return max(point.high for point in self._points)

    def at(self, step: int, max_steps: int) -> tuple[float, float]:
        """Return the lowest and the highest rate of a protein in an update; equal if all proteins have one rate.

        Args:
            step (`int`): Number of the encoder's update, from 0.
            max_steps (`int`): Encoder updates of the run, which steps in % refer to.
        """
        scale = max_steps if self.in_shares else 1
        starts = [point.step * scale for point in self._points]
        middle = step + 0.5
        after = bisect.bisect_right(starts, middle)
        if after in (0, len(starts)):
            point = self._points[min(after, len(starts) - 1)]
            return point.low, point.high
        one, other = self._points[after - 1 : after + 1]
        share = CURVES[self.curve]((middle - starts[after - 1]) / (starts[after] - starts[after - 1]))
        return one.low + (other.low - one.low) * share, one.high + (other.high - one.high) * share

    def mean(self) -> float | None:
        """Return the mean over a run and its proteins; `None` if it depends on the number of updates."""
        middles = [(point.low + point.high) / 2 for point in self._points]
        if not self.changes:
            return middles[0]
        if not self.in_shares:
            return None
        steps = [point.step for point in self._points]
        total = middles[0] * steps[0] + middles[-1] * (1 - steps[-1])
        for a, b, begin, end in zip(middles, middles[1:], steps, steps[1:], strict=False):
            of_curve = a if self.curve == "step" else (a + b) / 2  # a cosine is as often above the line as below
            total += of_curve * (end - begin)
        return total

    def words(self) -> str:
        """Describe the rates, such as `75 % at update 0, 15 % at 100 % of the run, joined by a line`."""
        told = [_percent(point.low, point.high) for point in self._points]
        if len(told) == 1:
            return told[0]
        unit = [f"{100 * p.step:g} % of the run" if self.in_shares else f"update {p.step:,.0f}" for p in self._points]
        joined = {"linear": "joined by lines", "cosine": "joined by half cosines", "step": "each until the next"}
        return ", ".join(f"{rate} at {at}" for rate, at in zip(told, unit, strict=True)) + f", {joined[self.curve]}"


def _percent(low: float, high: float) -> str:
    if low == high:
        return f"{100 * low:g} %"
    return f"{100 * low:g} to {100 * high:g} % (drawn for each protein)"


def _read_value(text: str) -> tuple[float, float]:
    match = _VALUE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    low, high = match[1], match[2] or match[1]
    return _share(low), _share(high)


def _share(text: str) -> float:
    return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)


def _read_step(text: str) -> tuple[float, bool]:
    """Return the number of updates or the share of the run, and whether it is a share."""
    match = _STEP.fullmatch(text)
    if match is None or (match[2] is not None and float(match[2]) > 100):
        raise ValueError(text)
    return (float(match[1]), False) if match[2] is None else (float(match[2]) / 100, True)
