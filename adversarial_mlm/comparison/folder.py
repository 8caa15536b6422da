"""The folder of a comparison: its files, written whole or not at all, and who of several processes does what."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adversarial_mlm.comparison.plan import Run
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.errors import RecipeError, WritingError

try:
    import fcntl
except ImportError:  # not on Windows, where one process does it all
    fcntl = None

PLAN_FILE, COSTS_FILE, CONFIRMATION_FILE = "plan.json", "costs.json", "confirmation.json"
RESULT_FILE, FIGURES_FILE = "result.json", "figures.json"

_RUNS, _LOCKS = "runs", ".locks"
_RUN_NAME = re.compile(r"[^/]+/seed-\d+/\d+-updates")


class ComparisonFolder:
    """Files and locks of a comparison.

    A lock belongs to a process and goes with it, however it ends, so that none is left behind by a kill.

    Args:
        path (`str`): Made where there is none.

    Raises:
        RecipeError: If it cannot be written to.
    """

    def __init__(self, path: str):
        self.path = Path(path)
        try:
            (self.path / _LOCKS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RecipeError(f"output_dir {path} cannot be written to ({error.strerror or error})") from error

    def of(self, run: Run) -> Path:
        """The folder of a run."""
        return self.path / _RUNS / run.name

    def read(self, name: str) -> Any:
        """A JSON file; `None` where there is none.

        Raises:
            RecipeError: If it is damaged.
        """
        path = self.path / name
        return read_json(path) if path.exists() else None

    def write(self, name: str, content: Any) -> None:
        """Write a JSON file in place of the one that is there, or of none.

        Raises:
            WritingError: If that is not possible.
        """
        write_json(self.path / name, content)

    def results(self) -> dict[Run, dict[str, Any]]:
        """What the complete runs left, in the order of their names."""
        return {run: read_json(self.of(run) / RESULT_FILE) for run in self._runs() if self.is_done(run)}

    def begun(self) -> set[Run]:
        """Runs that have a folder, complete or not."""
        return set(self._runs())

    def _runs(self) -> list[Run]:
        """What has the name of a run's folder; anything else in between is none of ours."""
        folders = (path for path in sorted((self.path / _RUNS).glob("*/*/*")) if path.is_dir())
        names = (path.relative_to(self.path / _RUNS).as_posix() for path in folders)
        return [Run.of_name(name) for name in names if _RUN_NAME.fullmatch(name)]

    def is_done(self, run: Run) -> bool:
        """Whether a run is complete."""
        return (self.of(run) / RESULT_FILE).exists()

    @contextlib.contextmanager
    def lock(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Be the only one in here who does something.

        Args:
            name (`str`): Of what is done.
            wait (`bool`, defaults to `True`): Until another process has done it.

        Returns:
            Whether this process is the one; without `wait` another may be.
        """
        if fcntl is None:
            yield True
            return
        path = self.path / _LOCKS / f"{name.replace('/', '.')}.lock"
        with open(path, "a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True  # closing the file gives it back


def read_json(path: Path) -> Any:
    """Read plain values.

    Raises:
        RecipeError: If the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} is damaged; move it away, and what it holds is made again") from error


def write_json(path: Path, content: Any) -> None:
    """Write plain values; numbers that are not finite have no place in them.

    Raises:
        WritingError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.replace_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        reason = atomic_files.reason(error, os.fspath(path.parent))
        raise WritingError(f"{path} could not be written: {reason}") from error
