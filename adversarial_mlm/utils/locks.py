"""A lock on a folder, which the system releases when the process ends, however it ends."""

import errno
import logging
import os
import sys
from pathlib import Path
from typing import BinaryIO

LOCK_FILE = ".lock"

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_held: dict[str, BinaryIO] = {}  # open until the process ends

logger = logging.getLogger(__name__)


def try_lock(folder: str, shared: bool = False) -> bool:
    """Lock a folder for this process until it ends; a process that has locked it before gets it again.

    The lock belongs to the process and not to those that it forks, so workers of a loader that outlive it for a
    moment do not hold it. On a file system without locks, as network file systems may be, there is only a warning.

    Args:
        folder (`str`): Exists. The lock is the file `.lock` in it, which stays and is empty.
        shared (`bool`, *optional*, defaults to `False`): Whether other processes may share the lock.

    Returns:
        `bool`: `False` if another process has locked it.

    Raises:
        OSError: If the file cannot be opened.
    """
    path = os.path.abspath(os.path.join(folder, LOCK_FILE))
    held = _held.get(path)
    if held is not None and os.path.exists(path) and os.path.samestat(os.fstat(held.fileno()), os.stat(path)):
        return True
    file = open(path, "a+b")  # noqa: SIM115  held until the process ends
    try:
        _lock(file, shared)
    except (BlockingIOError, PermissionError):  # POSIX allows either
        file.close()
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            file.close()
            raise
        logger.warning(
            "%s: this file system has no locks (%s), so make sure that nothing else writes into it",
            folder,
            error.strerror,
        )
    _held[path] = file
    return True


def unlock_all_below(folder: str) -> None:
    """Give up the locks of this process on a folder and those in it, as before the folder is removed."""
    for path in [path for path in _held if Path(path).is_relative_to(os.path.abspath(folder))]:
        _held.pop(path).close()


if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO, shared: bool) -> None:  # Windows has no shared locks of this kind
        if not shared:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: BinaryIO, shared: bool) -> None:
        fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
