"""Writing files so that a kill or a loss of power leaves the old ones or the new ones, never halves."""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from adversarial_mlm.utils.errors import WritingError

# what libraries raise that write themselves; of a RuntimeError only PyTorch's own writer is meant
ERRORS = (OSError, SafetensorError, RuntimeError)

UNFINISHED_FILES = ".files.incomplete-"  # begins the name of a folder that a kill may leave

_TORCH_WRITER = re.compile(r"inline_container|PytorchStreamWriter|Parent directory .* does not exist")
_OS_REASON = re.compile(r"I/O error: (.*?) \(os error")
_NO_SUCH_CALL = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
_PROBE = 1 << 16  # bytes


def is_about_writing(error: Exception) -> bool:
    """Whether one of `ERRORS` is about a file that could not be written, and not about something else."""
    return not isinstance(error, RuntimeError) or bool(_TORCH_WRITER.search(str(error)))


def reason(error: Exception, folder: str) -> str:
    """Why a file could not be written, in a few words.

    PyTorch does not pass on what the system said, so that a small file is tried in its place.

    Args:
        error (`Exception`): One of `ERRORS`.
        folder (`str`): Where it should have been written.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    found = _OS_REASON.search(str(error))
    if found:
        return found[1]
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE))
    except OSError as said:
        return said.strerror or str(said)
    return "a file could not be written to its end"


def sync(path: str | Path) -> None:
    """Have a file's content, or a folder's list of names, reach the disk.

    Raises:
        OSError: If the disk does not take it. File systems that cannot sync a folder are left to their own ways.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL or not os.path.isdir(path):
            raise
    finally:
        os.close(handle)


def sync_tree(folder: str | Path) -> None:
    """[`sync`] for all that is in a folder, and for the folder."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(os.path.join(root, name))
        sync(root)


def replace_text(path: str | Path, text: str) -> None:
    """Write a text file in place of the one that is there, or of none."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.incomplete")
    try:
        beside.write_text(text, encoding="utf-8")
        sync(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)


@contextlib.contextmanager
def replacing_files(folder: str) -> Iterator[str]:
    """An empty folder to write into; afterwards each of its files takes the place of the one of its name in `folder`.

    A kill before that changes nothing, a kill during it leaves every file whole, some new and some as they were.

    Args:
        folder (`str`): Made where there is none.

    Raises:
        WritingError: If something could not be written.
    """
    beside = None
    try:
        os.makedirs(folder, exist_ok=True)
        beside = tempfile.mkdtemp(prefix=UNFINISHED_FILES, dir=folder)
        yield beside
        sync_tree(beside)
        for path in sorted(Path(beside).rglob("*")):
            target = Path(folder, path.relative_to(beside))
            if path.is_dir():
                target.mkdir(exist_ok=True)
            else:
                os.replace(path, target)
        sync(folder)
    except ERRORS as error:
        if not is_about_writing(error):
            raise
        raise WritingError(f"the files in {folder} could not be written: {reason(error, folder)}") from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
