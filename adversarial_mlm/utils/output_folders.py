"""Output folders of commands: new, empty, or marked as the command's own, and used by one command at a time.

Training runs have markers that also list their files, see [`RunFolder`].
"""

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.locks import try_lock

MARKER_FILE = ".output.json"

_FORMAT = 1
_MOST_LISTED = 5


def visible(folder: str | os.PathLike) -> list[str]:
    """Return the names in a folder but for hidden files, sorted; nothing if there is no such folder."""
    if not os.path.isdir(folder):
        return []
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))


def listed(names: list[str]) -> str:
    """Return names for a message: the first five, and how many more there are."""
    more = len(names) - _MOST_LISTED
    return ", ".join(names[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def occupy(folder: str, shared: bool = False) -> None:
    """Create a folder if needed, check that it can be written to, and lock it until the process ends.

    Args:
        folder (`str`): The folder.
        shared (`bool`, *optional*, defaults to `False`): Whether other processes may lock it in the same way.

    Raises:
        RecipeError: If it is a file, if it cannot be written to, or if another process has locked it.
    """
    _check_is_folder(folder)
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        locked = try_lock(folder, shared)
    except OSError as error:
        raise RecipeError(
            f"output_dir {folder} cannot be written to ({error.strerror or error}): choose another folder"
        ) from error
    if not locked:
        raise RecipeError(
            f"output_dir {folder} is in use by another command: wait for its end, or choose another folder"
        )


def _check_is_folder(folder: str) -> None:
    if os.path.lexists(folder) and not os.path.isdir(folder):
        what = "is a link to something that is missing" if os.path.islink(folder) else "is not a folder"
        raise RecipeError(f"output_dir {folder} {what}: choose another name")


def check_own(folder: str, kind: str, has_own: Callable[[], bool] | None = None) -> None:
    """Check that a folder is new, empty, or marked as the output of one kind of command.

    Args:
        folder (`str`): The folder.
        kind (`str`): What the command makes, such as `evaluation`.
        has_own (`Callable[[], bool]`, *optional*): Whether a folder without a marker holds such output, of an earlier
            version.

    Raises:
        RecipeError: If it has other content; the message names it.
    """
    content = visible(folder)
    _check_is_folder(folder)
    if not content or _kind_of(folder) == kind or (has_own is not None and has_own()):
        return
    raise RecipeError(
        f"output_dir {folder} contains files that no {kind} of this package has marked as its own "
        f"({listed(content)}); they were not changed: choose another folder"
    )


def take(folder: str, kind: str, has_own: Callable[[], bool] | None = None, shared: bool = False) -> None:
    """Check a folder as [`check_own`] does, lock it as [`occupy`] does, and mark it.

    Raises:
        RecipeError: If it has other content, cannot be written to, or is in use.
    """
    check_own(folder, kind, has_own)  # before the lock is written into it
    occupy(folder, shared)
    check_own(folder, kind, has_own)  # another command may have ended in between
    mark(folder, kind)


def mark(folder: str, kind: str) -> None:
    """Mark a folder as the output of one kind of command.

    Raises:
        RecipeError: If the marker cannot be written.
    """
    if _kind_of(folder) == kind:
        return
    try:
        _write_marker(folder, {"kind": kind})
    except OSError as error:
        raise RecipeError(f"output_dir {folder} cannot be written to ({error.strerror or error})") from error


def noted_files(folder: str) -> dict[str, list[str]] | None:
    """Return the checksums that [`note_files`] noted, by name; `None` if it noted nothing yet."""
    files = _marker(folder).get("files")
    return files if isinstance(files, dict) else None


def note_files(folder: str, files: Mapping[str, Sequence[str]]) -> None:
    """Note the checksums of what a command wrote, to know later whether somebody has changed it.

    Args:
        folder (`str`): The folder, which is marked.
        files (`Mapping[str, Sequence[str]]`): Name of each file → checksums that it may have. Earlier notes are
            replaced.

    Raises:
        OSError: If the marker cannot be written.
    """
    _write_marker(folder, {"kind": _kind_of(folder), "files": {name: list(sums) for name, sums in files.items()}})


def _write_marker(folder: str, content: dict[str, Any]) -> None:
    content = {"format": _FORMAT, "written_by": "adversarial-mlm", **content}
    atomic_files.replace_text(Path(folder, MARKER_FILE), json.dumps(content) + "\n")


def _kind_of(folder: str) -> str | None:
    return _marker(folder).get("kind")


def _marker(folder: str) -> dict[str, Any]:
    """The content of the marker; nothing where there is none that can be read."""
    try:
        marker = json.loads(Path(folder, MARKER_FILE).read_text(encoding="utf-8"))
        return marker if marker["format"] == _FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
