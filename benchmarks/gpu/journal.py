"""A plan of rows: each is written as soon as it is measured, and none begins that would end too late."""

import gc
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from adversarial_mlm.utils.errors import one_line

ROWS_FILE = "rows.jsonl"


@dataclass(frozen=True)
class Planned:
    """A row that is to be measured.

    Attributes:
        name: What is measured.
        seconds: Estimate of its time on a GPU.
        measure: Returns the figures by name.
        needs: Why it cannot be measured on this machine; empty if it can.
    """

    name: str
    seconds: float
    measure: Callable[[], dict]
    needs: str = ""


class Journal:
    """The rows of a run, in a file of JSON lines.

    Args:
        folder (`Path`): Where the file is. A run adds its rows to those of earlier ones.
        seconds (`float`): Time of all rows together.
        clock (`Callable`, *optional*): Returns seconds.

    Attributes:
        rows: What was written by this run.
    """

    def __init__(self, folder: Path, seconds: float, clock: Callable[[], float] = time.monotonic):
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.rows = folder / ROWS_FILE, []
        self._clock, self._end = clock, clock() + seconds

    def write(self, row: dict) -> None:
        """Append a row, and let it reach the disk."""
        self.rows.append(row)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        figures = ", ".join(f"{key} {_shown(value)}" for key, value in row.items() if key not in ("row", "status"))
        print(f"{row['status']:>8}  {row['row']}: {figures}", flush=True)

    def run(self, plan: Sequence[Planned]) -> None:
        """Measure the rows of a plan. One that fails is written with its error, and the next one begins."""
        for row in plan:
            left = self._end - self._clock()
            if row.needs:
                self.write({"row": row.name, "status": "not run", "why": row.needs})
            elif row.seconds > left:
                why = f"it needs about {row.seconds:.0f} s, and {max(left, 0):.0f} s are left"
                self.write({"row": row.name, "status": "late", "why": why})
            else:
                self._measure(row)

    def _measure(self, row: Planned) -> None:
        start = self._clock()
        try:
            figures, status = row.measure(), "measured"
        except Exception as error:  # of any class: a kernel, a compiler, memory
            figures, status = {"why": f"{type(error).__name__}: {one_line(error)[:500]}"}, "failed"
        self.write({"row": row.name, "status": status, **figures, "took_s": round(self._clock() - start, 2)})
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.compiler.reset()

    def figure(self, name: str, key: str) -> float | None:
        """A figure of a row of this run; `None` if it was not measured."""
        for row in self.rows:
            if row["row"] == name and row["status"] == "measured":
                return row.get(key)
        return None


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
