"""Write files atomically: after a kill or a power failure, either the old or the new file exists, and it is complete.

A file is written into a hidden folder next to its target, synced to the disk, and renamed.
"""

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError

from adversarial_mlm.utils.errors import WritingError

# errors of libraries that write files themselves; a RuntimeError only counts if PyTorch's writer raised it
ERRORS = (OSError, SafetensorError, RuntimeError)

UNFINISHED_FILES = ".files.incomplete-"
"""Prefix of the names of these hidden folders. A kill leaves one behind."""

_TORCH_WRITER = re.compile(r"inline_container|PytorchStreamWriter|Parent directory .* does not exist")
_OS_REASON = re.compile(r"I/O error: (.*?) \(os error")
_NO_SUCH_CALL = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
_PROBE = 1 << 16  # bytes


def is_about_writing(error: Exception) -> bool:
    """Whether one of `ERRORS` was raised because a file could not be written."""
    return not isinstance(error, RuntimeError) or bool(_TORCH_WRITER.search(str(error)))


def reason(error: Exception, folder: str) -> str:
    """Return in a few words why a file could not be written.

    PyTorch does not pass on the reason of the system. Writing a small file then finds it out.

    Args:
        error (`Exception`): One of `ERRORS`.
        folder (`str`): The folder of the file.
    """
    if isinstance(error, OSError):
        return error.strerror or str(error)
    found = _OS_REASON.search(str(error))
    if found:
        return found[1]
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE))
    except OSError as found_out:
        return found_out.strerror or str(found_out)
    return "a file is incomplete"


def sync(path: str | Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk.

    Raises:
        OSError: If the disk refuses it. Folders are skipped on file systems that cannot sync them.
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
    """Call [`sync`] for a folder and everything in it."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(os.path.join(root, name))
        sync(root)


def share(folder: str | Path) -> None:
    """Give all files below a folder at least the permissions that new files of this process get.

    Safetensors 0.8 writes weights that only their owner can read, whatever the umask is.

    Permissions that may not be changed stay as they are.

    Raises:
        OSError: If the folder is not writable.
    """
    sample = Path(folder, ".permissions")
    with open(sample, "wb") as file:
        usual = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    os.remove(sample)
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            mode = stat.S_IMODE(os.stat(path).st_mode)
            if mode | usual != mode:
                with contextlib.suppress(PermissionError):  # a file that is hard to read is better than none
                    os.chmod(path, mode | usual)


@contextlib.contextmanager
def replacing_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Yield a new binary file, which replaces `path` when the block ends without an error.

    If two processes write the same file at the same time, the later one wins.

    Args:
        path (`str`): The file. Its folder is created if needed.

    Raises:
        OSError: If the file cannot be written.
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
    """Write or replace a text file in UTF-8.

    Raises:
        OSError: If the file cannot be written.
    """
    with replacing_file(path) as file:
        file.write(text.encode())


@contextlib.contextmanager
def replacing_files(folder: str) -> Iterator[str]:
    """Yield an empty folder; when the block ends, its files replace the files of the same names in `folder`.

    After a kill every file is complete: all are old, or, during the replacement, some are new.

    Args:
        folder (`str`): The folder; it is created if needed.

    Raises:
        WritingError: If a file could not be written.
    """
    try:
        with _folder_beside(folder) as new:
            yield new
            share(new)
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
    """Yield an empty folder within `folder`, where renaming a file is atomic, and remove it afterwards."""
    os.makedirs(folder, exist_ok=True)
    new = tempfile.mkdtemp(prefix=UNFINISHED_FILES, dir=folder)
    try:
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)
