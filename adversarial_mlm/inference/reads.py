"""How far a computation is, in reads of the encoder."""

from collections.abc import Callable
from typing import Any

Progress = Callable[[int, int], Any]
"""Called after each batch with the reads that are done, and with the number of all."""


class Reads:
    """Counts reads, and tells a function of them.

    Args:
        total (`int`): The number of all reads.
        progress (`Progress`, *optional*): The function.
    """

    def __init__(self, total: int, progress: Progress | None = None):
        self._total, self._done, self._progress = total, 0, progress

    def add(self, number: int) -> None:
        """Count the reads of a batch."""
        self._done += number
        if self._progress is not None:
            self._progress(self._done, self._total)
