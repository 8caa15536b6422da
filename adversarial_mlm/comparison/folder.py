"""The folder of a comparison: atomic JSON files, and locks that divide the work among processes."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adversarial_mlm.comparison.plan import Run
from adversarial_mlm.utils import atomic_files, output_folders
from adversarial_mlm.utils.errors import RecipeError, WritingError
from adversarial_mlm.utils.locks import unlock_all_below

if sys.platform != "win32":  # on Windows there are no locks: use one process
    import fcntl

PLAN_FILE, COSTS_FILE, CONFIRMATION_FILE = "plan.json", "costs.json", "confirmation.json"
RESULT_FILE, FIGURES_FILE = "result.json", "figures.json"

_KIND = "comparison"
_RUNS, _LOCKS = "runs", ".locks"
_RUN_NAME = re.compile(r"[^/]+/seed-\d+/\d+-updates")


class ComparisonFolder:
    """Files and locks of a comparison.

    The operating system releases a lock when its process ends, also when it is killed.

    Args:
        path (`str`): The folder; it need not exist.
    """

    def __init__(self, path: str):
        self.path = Path(path)

    def check(self) -> None:
        """Check that the folder is new, empty or that of a comparison.

        Raises:
            RecipeError: If it has other content; the message names it.
        """
        output_folders.check_own(os.fspath(self.path), _KIND, self._has_plan)

    def take(self) -> None:
        """Check the folder, create and mark it, and keep commands of other kinds out of it until the process ends.

        Raises:
            RecipeError: If it has other content, cannot be written to, or if another kind of command uses it.
        """
        output_folders.take(os.fspath(self.path), _KIND, self._has_plan, shared=True)

    def _has_plan(self) -> bool:
        """Whether there is a plan of an earlier version, which had no markers."""
        plan = self.read(PLAN_FILE)
        return isinstance(plan, dict) and {"arms", "entries", "runs"} <= plan.keys()

    def of(self, run: Run) -> Path:
        """Return the folder of a run."""
        return self.path / _RUNS / run.name

    def read(self, name: str) -> Any:
        """Read a JSON file; `None` if it does not exist.

        Raises:
            RecipeError: If the file is damaged.
        """
        path = self.path / name
        return read_json(path) if path.exists() else None

    def write(self, name: str, content: Any) -> None:
        """Write or replace a JSON file.

        Raises:
            WritingError: If the file cannot be written.
        """
        write_json(self.path / name, content)

    def results(self) -> dict[Run, dict[str, Any]]:
        """Return the results of all complete runs, ordered by name."""
        return {run: read_json(self.of(run) / RESULT_FILE) for run in self._runs() if self.is_done(run)}

    def begun(self) -> set[Run]:
        """Return the runs that have a folder, complete or not."""
        return set(self._runs())

    def _runs(self) -> list[Run]:
        """List the runs with a folder; folders with other names are ignored."""
        folders = (path for path in sorted((self.path / _RUNS).glob("*/*/*")) if path.is_dir())
        names = (path.relative_to(self.path / _RUNS).as_posix() for path in folders)
        return [Run.of_name(name) for name in names if _RUN_NAME.fullmatch(name)]

    def is_done(self, run: Run) -> bool:
        """Whether a run is complete."""
        return (self.of(run) / RESULT_FILE).exists()

    @contextlib.contextmanager
    def lock(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold a lock while the context is open.

        The lock of a run includes its folder, which the run locks itself. This process gives it up first, or another
        one would take the run while its folder is still locked.

        Args:
            name (`str`): Name of the lock.
            wait (`bool`, defaults to `True`): Whether to wait until another process releases it.

        Returns:
            Whether this process holds the lock. It always does if `wait` is `True`.
        """
        if sys.platform == "win32":
            yield True
            return
        path = self.path / _LOCKS / f"{name.replace('/', '.')}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            try:
                yield True
            finally:
                unlock_all_below(os.fspath(self.path / _RUNS / name))
            # closing the file releases the lock


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RecipeError: If the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path} is damaged ({error}): move it away, and its content is computed again") from error


def write_json(path: Path, content: Any) -> None:
    """Write plain values to a JSON file. They must not contain infinite numbers or nan.

    Raises:
        WritingError: If the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.replace_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        reason = atomic_files.reason(error, os.fspath(path.parent))
        raise WritingError(f"{path} could not be written: {reason}") from error
