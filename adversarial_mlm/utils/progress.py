"""Show how far a long computation is: a bar on a terminal, or a line in a log every minute."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator

from tqdm.auto import tqdm

_SECONDS_BETWEEN_LINES = 60.0
_BAR = "{desc} |{bar:20}| {percentage:3.0f} %, {remaining} left"


class Progress:
    """Progress of a computation whose steps take unequal time, with the time left.

    Args:
        total (`float`): The whole work, in a unit in which equal amounts take equal time, such as residues.
        text (`Callable[[], str]`): Returns what is shown before the time left, such as `"8 of 20 proteins"`.
        logger (`logging.Logger`): The log of the module that computes.
        done_before (`float`, defaults to 0): The part of the work that an earlier attempt has done.

    Attributes:
        seconds (`float`): Seconds since the start.
    """

    def __init__(self, total: float, text: Callable[[], str], logger: logging.Logger, done_before: float = 0):
        self._total, self._before, self._done = total, done_before, 0.0
        self._text, self._logger = text, logger
        self._start = self._last_line = time.monotonic()
        self._bar = tqdm(total=total, initial=done_before, bar_format=_BAR, disable=None)
        self.describe()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def advance(self, amount: float) -> None:
        """Count work that is done."""
        self._done += amount
        self.describe()
        self._bar.update(amount)
        if self._bar.disable and time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            left = self._total - self._before - self._done
            time_left = tqdm.format_interval(left * self.seconds / self._done)
            self._logger.info("%s, %s left", self._text(), time_left)

    def describe(self) -> None:
        """Show the text as it is now."""
        self._bar.set_description_str(self._text(), refresh=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()


@contextlib.contextmanager
def progress_bar(unit: str, leave: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that shows on a terminal how much is done, the rate and the time left.

    Args:
        unit (`str`): What is counted, such as `positions`.
        leave (`bool`, defaults to `True`): Whether the bar stays when all is done.
    """
    with tqdm(unit=f" {unit}", leave=leave, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
