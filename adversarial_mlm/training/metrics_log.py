"""What a run tells while it goes: `metrics.jsonl`, the console, times and means between two log entries."""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator

import torch
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from adversarial_mlm.utils import atomic_files

logger = logging.getLogger(__name__)


_CONSOLE_KEYS = (
    "loss", "learning_rate", "adversarial_loss", "random_loss", "gap", "enrichment_max", "residues_per_second", "epoch"
)  # fmt: skip


def _main_figures(logs: dict | None) -> dict:
    return {
        key: value
        for key, value in (logs or {}).items()
        if key in _CONSOLE_KEYS or key.endswith(("_loss", "_perplexity", "_accuracy", "_gap", "runtime"))
    }


class BriefProgressCallback(ProgressCallback):
    """The stock progress bar, with the main figures only; all of them go to `metrics.jsonl` and the trackers."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs=_main_figures(logs), **kwargs)


class BriefPrinterCallback(PrinterCallback):
    """The same without a progress bar (`disable_tqdm`)."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs=_main_figures(logs), **kwargs)


class MetricsFile:
    """One JSON object a line: everything that the trainer logs, whichever trackers there are.

    Args:
        path (`str`): The file.
    """

    def __init__(self, path: str):
        self.path = path
        self._pending: list[str] = []  # entries for which there was no room

    def begin(self, resumed_step: int | None) -> None:
        """Make room for a run: drop an earlier one's entries, or on a resume those that come after the checkpoint."""
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as file:
                kept = [line for line in file if resumed_step is not None and _step_of(line) <= resumed_step]
            atomic_files.replace_text(self.path, "".join(kept))

    def append(self, entry: dict) -> None:
        """Add an entry; a value that is not finite, for which JSON has no word, becomes null.

        An entry that cannot be written, for want of space say, is warned of and written with the next one.
        """
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
        self._pending.append(json.dumps(finite) + "\n")
        size = os.path.getsize(self.path) if os.path.exists(self.path) else 0
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(self._pending)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)  # what was written of them
            if len(self._pending) == 1:
                reason = error.strerror or error
                logger.warning(f"{self.path} could not be written to ({reason}); its entries wait for the next one")
            return
        self._pending.clear()


class Means:
    """Means of named values, read back only when asked for.

    Args:
        *names (`str`): Of the values. Every process has the same ones, whatever it was given.
        device (`torch.device`): Of the values.
    """

    def __init__(self, *names: str, device: torch.device | str = "cpu"):
        self.names = names
        self._sums = torch.zeros(len(names), 2, dtype=torch.float64, device=device)

    def add(self, **values: torch.Tensor) -> None:
        """Add one value of each of these names; one that is not finite is left out."""
        for name, value in values.items():
            finite = torch.isfinite(value)
            self._sums[self.names.index(name), 0] += torch.where(finite, value, 0)
            self._sums[self.names.index(name), 1] += finite

    def read(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """The means since the last call, over all processes, of the names that were given a value.

        Args:
            reduce (`Callable`): Sums a tensor over all processes.
        """
        sums, self._sums = reduce(self._sums).tolist(), torch.zeros_like(self._sums)
        return {name: total / count for name, (total, count) in zip(self.names, sums, strict=True) if count}


class Clock:
    """Seconds spent in each phase. On a GPU work is asynchronous, so that only their sum is exact."""

    def __init__(self):
        self._seconds: dict[str, float] = {}
        self._started: dict[str, float] = {}

    def start(self, phase: str) -> None:
        """A phase begins."""
        self._started[phase] = time.perf_counter()

    def stop(self, phase: str) -> None:
        """It ends; nothing happens where it had not begun."""
        if phase in self._started:
            elapsed = time.perf_counter() - self._started.pop(phase)
            self._seconds[phase] = self._seconds.get(phase, 0.0) + elapsed

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        self.start(phase)
        try:
            yield
        finally:
            self.stop(phase)

    def read(self) -> dict[str, float]:
        """The seconds since the last call."""
        seconds, self._seconds = self._seconds, {}
        return seconds


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf  # half a line, from a run that was killed while writing it
