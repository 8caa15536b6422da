"""When the noiser moves, and how strongly: functions of the encoder's step alone, so that nothing has to be saved."""

import bisect
import math
from collections.abc import Sequence

UPDATES = ("alternate", "reversal", "none")


class Ramp:
    """A number that changes with the encoder's step: constant, or linear between given points.

    Args:
        points (`Sequence[str]`): One number, as `["1"]`, or `value@step` points in rising order of the steps, as
            `["0@0", "1@1000"]`. Before the first point and after the last the value stays.
        name (`str`): Of the option, for messages.

    Raises:
        ValueError: If that is not what the words are.
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
        """The value at a step."""
        after = bisect.bisect_right(self.steps, step)
        if after in (0, len(self.steps)):
            return self.values[min(after, len(self.steps) - 1)]
        (x0, x1), (y0, y1) = self.steps[after - 1 : after + 1], self.values[after - 1 : after + 1]
        return y0 + (y1 - y0) * (step - x0) / (x1 - x0)


class Alternation:
    """`noiser_steps` updates of the noiser before every `encoder_steps` of the encoder (Algorithm 5).

    Args:
        noiser_steps (`int`): `n_noiser`.
        encoder_steps (`int`): `n_encoder`.
        shared_counter (`bool`, *optional*, defaults to `False`): Whether a phase ends where one counter of both kinds
            of updates is a multiple of its length (`i mod n`, as printed). Where the two lengths differ the phases
            then have other lengths than those asked for: 10 and 5 make 10, 5, 5, 5, 5 … updates.
    """

    def __init__(self, noiser_steps: int, encoder_steps: int, shared_counter: bool = False):
        self.noiser_steps, self.encoder_steps, self.shared_counter = noiser_steps, encoder_steps, shared_counter
        self._start_over()

    def _start_over(self) -> None:
        self._counter = self._step = self._update = 0  # where the present cycle begins
        self._measure()

    def _measure(self) -> None:
        """Lengths of the present cycle's two phases."""
        counted = self._counter if self.shared_counter else 0
        self._noiser = self.noiser_steps - counted % self.noiser_steps
        counted = counted + self._noiser if self.shared_counter else 0
        self._encoder = self.encoder_steps - counted % self.encoder_steps

    def _go_to(self, step: int) -> None:
        """Make the cycle that the encoder's update number `step` belongs to the present one."""
        if step < self._step:
            self._start_over()
        while step >= self._step + self._encoder:
            self._counter += self._noiser + self._encoder
            self._step, self._update = self._step + self._encoder, self._update + self._noiser
            self._measure()

    def noiser_updates_before(self, step: int) -> range:
        """Which noiser updates, counted from 0, come before the encoder's update number `step`; often none."""
        self._go_to(step)
        if step != self._step:
            return range(0)
        return range(self._update, self._update + self._noiser)

    def first_update_from(self, step: int) -> int:
        """Number of the first noiser update that comes when `step` updates of the encoder are done, or later."""
        self._go_to(step)
        return self._update if step == self._step else self._update + self._noiser
