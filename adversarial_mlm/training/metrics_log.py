"""Figures of a running training: `metrics.jsonl`, the console, and means and times between log entries."""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterator

import torch
from transformers import trainer as stock_trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

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
    """The stock progress bar with the main figures only. All figures are in `metrics.jsonl` and in the trackers."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs=_main_figures(logs), **kwargs)


class BriefPrinterCallback(PrinterCallback):
    """The main figures without a progress bar (`disable_tqdm`)."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        super().on_log(args, state, control, logs=_main_figures(logs), **kwargs)


def progress_callbacks(without_bar: bool) -> tuple[type[TrainerCallback], type[TrainerCallback]]:
    """The stock trainer's callback that shows progress, and the one in place of it.

    Args:
        without_bar (`bool`): `disable_tqdm`.
    """
    if without_bar:
        return PrinterCallback, BriefPrinterCallback
    # in a notebook, the stock callback writes a table with a column for each of our figures
    return stock_trainer.DEFAULT_PROGRESS_CALLBACK, BriefProgressCallback


class MetricsFile:
    """The file of all log entries, one JSON object per line.

    Args:
        path (`str`): Path of the file.
    """

    def __init__(self, path: str):
        self.path = path
        self._pending: list[str] = []  # entries that could not be written yet

    def begin(self, resumed_step: int | None) -> None:
        """Remove the entries of an earlier run or, if a run is resumed, those after its checkpoint.

        Args:
            resumed_step (`int`, *optional*): Step of the checkpoint; `None` for a new run.
        """
        if os.path.exists(self.path):
            with open(self.path, encoding="utf-8") as file:
                kept = [line for line in file if resumed_step is not None and _step_of(line) <= resumed_step]
            atomic_files.replace_text(self.path, "".join(kept))

    def append(self, entry: dict) -> None:
        """Add an entry. Values that are not finite become null.

        If it cannot be written, for example on a full disk, a warning is logged, and it is written with the next one.
        """
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in entry.items()}
        self._pending.append(json.dumps(finite) + "\n")
        size = os.path.getsize(self.path) if os.path.exists(self.path) else 0
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.writelines(self._pending)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, size)  # remove a part that was written
            if len(self._pending) == 1:
                reason = error.strerror or error
                logger.warning(f"{self.path} could not be written ({reason}); its entries are kept for the next try")
            return
        self._pending.clear()


class Means:
    """Means of named values, which stay on the device until they are read.

    Args:
        *names (`str`): Names of the values, the same on all processes.
        device (`torch.device`): Device of the values.
    """

    def __init__(self, *names: str, device: torch.device | str = "cpu"):
        self.names = names
        self._sums = torch.zeros(len(names), 2, dtype=torch.float64, device=device)

    def add(self, weight: torch.Tensor | float = 1.0, /, **values: torch.Tensor) -> None:
        """Add one value for each of these names. Values that are not finite are ignored.

        Args:
            weight (`torch.Tensor` or `float`, *optional*, defaults to 1): A scalar, what these values count, such as
                the residues that they are means over.
            **values: Scalars.
        """
        for name, value in values.items():
            finite = value - value == 0
            parts = torch.stack([torch.where(finite, value, 0), finite.to(value.dtype)])
            self._sums[self.names.index(name)].add_(
                parts if isinstance(weight, float) and weight == 1 else parts * weight
            )

    def read(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, float]:
        """Return the means over all processes since the last call, for names that have values.

        Args:
            reduce (`Callable`): Sums a tensor over all processes.
        """
        sums, self._sums = reduce(self._sums).tolist(), torch.zeros_like(self._sums)
        return {name: total / count for name, (total, count) in zip(self.names, sums, strict=True) if count}


class Clock:
    """Seconds spent in each phase. A GPU works asynchronously, so only their sum is exact on it."""

    def __init__(self):
        self._seconds: dict[str, float] = {}
        self._started: dict[str, float] = {}

    def start(self, phase: str) -> None:
        """Begin a phase."""
        self._started[phase] = time.perf_counter()

    def stop(self, phase: str) -> None:
        """End a phase, if it was begun."""
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
        """Return the seconds of each phase since the last call."""
        seconds, self._seconds = self._seconds, {}
        return seconds


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):
        return math.inf  # an incomplete line of a killed run
