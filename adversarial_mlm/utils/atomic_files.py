"""Write files atomically: after a kill or a loss of power, the old file or the new one is there, never half of one.

A file is written into a hidden folder next to its target, synced to the disk, and renamed.
"""

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from adversarial_mlm.utils.errors import WritingError

# what libraries raise that write themselves; of a RuntimeError only PyTorch's own writer is meant
ERRORS = (OSError, SafetensorError, RuntimeError)

UNFINISHED_FILES = ".files.incomplete-"
"""How the names of those hidden folders begin; a kill leaves one behind."""

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


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Yield a new binary file, which takes its place at `path` when the block ends without an error.

    Two processes may write the same file at once: the later one wins.

    Args:
        path (`str`): The file. Its folder is made where there is none.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(path)
    with _folder_beside(path.parent) as folder:
        new = Path(folder, path.name)
        with open(new, "wb") as file:
            yield file
        sync(new)
        os.replace(new, path)
    sync(path.parent)


def replace_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file, in UTF-8, in place of the one that is there, or of none.

    Raises:
        OSError: If it cannot be written.
    """
    with replacing_file(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def replacing_files(folder: str) -> Iterator[str]:
    """An empty folder to write into; afterwards each of its files takes the place of the one of its name in `folder`.

    A kill before that changes nothing, a kill during it leaves every file whole, some new and some as they were.

    Args:
        folder (`str`): Made where there is none.

    Raises:
        WritingError: If something could not be written.
    """
    try:
        with _folder_beside(folder) as new:
            yield new
            sync_tree(new)
            for path in sorted(Path(new).rglob("*")):
                target = Path(folder, path.relative_to(new))
                if path.is_dir():
                    target.mkdir(exist_ok=True)
                else:
                    os.replace(path, target)
        sync(folder)
    except ERRORS as error:
        if not is_about_writing(error):
            raise
        raise WritingError(f"the files in {folder} could not be written: {reason(error, folder)}") from error


@contextlib.contextmanager
def _folder_beside(folder: str | os.PathLike) -> Iterator[str]:
    """Yield an empty folder within `folder`, where a rename of a file is atomic, and remove it afterwards."""
    os.makedirs(folder, exist_ok=True)
    new = tempfile.mkdtemp(prefix=UNFINISHED_FILES, dir=folder)
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)
