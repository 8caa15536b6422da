"""One temporary folder for all that a session of pytest and its children write, removed when the session ends."""

import atexit
import os
import shutil
import tempfile


def take() -> str:
    """Make the folder, and let this process and those it starts write their temporary files there.

    Launchers and killed processes leave folders behind; in this folder, they go with it. pytest's own folders stay
    where they are, to keep the files of tests that failed. Call this before a library asks for the temporary folder.

    Returns:
        `str`: The folder. Its name is short, because the paths of sockets may have no more than 104 characters.
    """
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix="adv-mlm-")
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    atexit.register(_remove, folder, os.getpid())
    return folder


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a fork that ends by itself leaves it to the session
        shutil.rmtree(folder, ignore_errors=True)
