"""Numbers that change during training, written as options: `0.3`, or `0@0 1@1000`."""

import bisect
import math
from collections.abc import Sequence


def split_points(points: Sequence[str]) -> list[tuple[str, str]]:
    """Split `value@step` points, such as `["0@0", "1@1000"]` or `["0@0 1@1000"]`, into texts of value and step.

    Args:
        points (`Sequence[str]`): The points. A single value without a step begins at step 0.

    Raises:
        ValueError: If a point has another form. The message is not for users.
    """
    words = " ".join(map(str, points)).split()
    if len(words) == 1 and "@" not in words[0]:
        words = [f"{words[0]}@0"]
    pairs = [word.split("@") for word in words]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("a point must be value@step")
    return [(value, step) for value, step in pairs]


def _share(step: str) -> float:
    """Return a step in % as a share of the run; 0 needs no unit."""
    if step != "0" and not step.endswith("%"):
        raise ValueError("steps are shares or numbers, not both")
    return float(step.removesuffix("%")) / 100


class Ramp:
    """A number that depends on the step: constant, or linear between given points.

    Args:
        points (`Sequence[str]`): One number, such as `["1"]`, or `value@step` points with rising steps, such as
            `["0@0", "1@1000"]`. The value is constant before the first point and after the last one.
        name (`str`): Name of the option, for messages.
        max_steps (`int`, *optional*): Steps of the run. With it, all steps but 0 may be shares of the run: `"1@50%"`.

    Raises:
        ValueError: If `points` has another form.
    """

    steps: list[int] | list[float]

    def __init__(self, points: Sequence[str], name: str, max_steps: int | None = None):
        try:
            pairs = split_points(points)
            if max_steps is not None and any(step.endswith("%") for _, step in pairs):
                self.steps = [max_steps * _share(step) for _, step in pairs]
            else:
                self.steps = [int(step) for _, step in pairs]
            self.values = [float(value) for value, _ in pairs]
        except ValueError:
            self.steps = []
        finite = all(math.isfinite(value) for value in getattr(self, "values", []))
        if not self.steps or not finite or any(a >= b for a, b in zip(self.steps, self.steps[1:], strict=False)):
            got = " ".join(" ".join(map(str, points)).split())
            raise ValueError(f"{name} must be one number, or value@step points with rising steps; got '{got}'")

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        after = bisect.bisect_right(self.steps, step)
        if after in (0, len(self.steps)):
            return self.values[min(after, len(self.steps) - 1)]
        (x0, x1), (y0, y1) = self.steps[after - 1 : after + 1], self.values[after - 1 : after + 1]
        return y0 + (y1 - y0) * (step - x0) / (x1 - x0)
