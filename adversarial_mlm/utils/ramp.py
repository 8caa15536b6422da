"""Numbers that change during training, written as options: `0.3`, or `0@0 1@1000`."""

import bisect
import math
from collections.abc import Sequence


class Ramp:
    """A number that depends on the step: constant, or linear between given points.

    Args:
        points (`Sequence[str]`): One number, such as `["1"]`, or `value@step` points with rising steps, such as
            `["0@0", "1@1000"]`. The value is constant before the first point and after the last one.
        name (`str`): Name of the option, for messages.

    Raises:
        ValueError: If `points` has another form.
    """

    def __init__(self, points: Sequence[str], name: str):
        words = " ".join(map(str, points)).split()
        try:
            if len(words) == 1 and "@" not in words[0]:
                words = [f"{words[0]}@0"]
            pairs = [word.split("@") for word in words]
            self.steps = [int(step) for _, step in pairs]
            self.values = [float(value) for value, _ in pairs]
        except ValueError:
            self.steps = []
        finite = all(math.isfinite(value) for value in getattr(self, "values", []))
        if not self.steps or not finite or any(a >= b for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(
                f"{name} must be one number, or value@step points with rising steps; got '{' '.join(words)}'"
            )

    def __call__(self, step: int) -> float:
        """Return the value at a step."""
        after = bisect.bisect_right(self.steps, step)
        if after in (0, len(self.steps)):
            return self.values[min(after, len(self.steps) - 1)]
        (x0, x1), (y0, y1) = self.steps[after - 1 : after + 1], self.values[after - 1 : after + 1]
        return y0 + (y1 - y0) * (step - x0) / (x1 - x0)
