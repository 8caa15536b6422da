"""The checkpoints of a run's folder: how one is written, which is the newest, and which are removed.

A folder is called `checkpoint-N` only while it is complete. It is written as `.checkpoint-N.incomplete` and then
renamed. One that is removed is first renamed to `.checkpoint-N.removed`, or to `.checkpoint-N.replaced` if another
takes its name.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from adversarial_mlm.saving import checkpoint_manifest
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.errors import CheckpointError

_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
_HIDDEN = re.compile(rf"\.({PREFIX_CHECKPOINT_DIR}-\d+)\.(incomplete|replaced|removed)")

logger = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints of one run. It holds no state: every call looks into the folder.

    Args:
        folder (`str`): The run's folder.
    """

    def __init__(self, folder: str):
        self.folder = folder

    def folder_of(self, step: int) -> str:
        """Where the checkpoint of a step belongs."""
        return os.path.join(self.folder, f"{PREFIX_CHECKPOINT_DIR}-{step}")

    def all(self) -> list[str]:
        """All folders that are called checkpoints, complete or not, by their steps."""
        if not os.path.isdir(self.folder):
            return []
        names = [name for name in os.listdir(self.folder) if _NAME.fullmatch(name)]
        folders = [os.path.join(self.folder, name) for name in names]
        return sorted((folder for folder in folders if os.path.isdir(folder)), key=step_of)

    # ---- Writing ----

    def write(self, step: int, fill: Callable[[str], None], processes: int) -> str | None:
        """Write the checkpoint of a step whole, or not at all.

        Args:
            step (`int`): Updates of the encoder.
            fill (`Callable[[str], None]`): Writes the files into the folder that it is given.
            processes (`int`): Of the run, for the manifest.

        Returns:
            `str`: Why it could not be written, for lack of space say; `None` if it was.
        """
        folder = self.folder_of(step)
        staging = _hidden(folder, "incomplete")
        try:
            _discard(staging)
            os.makedirs(staging)
            fill(staging)
            checkpoint_manifest.write(staging, step=step, number=self._next_number(), processes=processes)
            self._publish(staging, folder)
        except atomic_files.ERRORS as error:
            if not atomic_files.is_about_writing(error):
                raise
            failure = atomic_files.reason(error, staging)
            _discard(staging)  # to make room for the log, and for the next try
            return failure
        return None

    def will_have(self, step: int, being_written: int) -> bool:
        """Whether there is a checkpoint of a step, or will be one when that of `being_written` is there."""
        return step == being_written or os.path.isdir(self.folder_of(step))

    def _publish(self, staging: str, folder: str) -> None:
        """Give a checkpoint that is written its name, in place of an earlier one that has it.

        Raises:
            OSError: If that fails; the earlier one then has its name again.
        """
        atomic_files.share(staging)
        atomic_files.sync_tree(staging)
        try:
            if os.path.lexists(folder):
                replaced = _hidden(folder, "replaced")
                _discard(replaced)
                os.rename(folder, replaced)
            os.rename(staging, folder)
            atomic_files.sync(self.folder)
        except OSError:
            self.recover()
            raise
        _discard(_hidden(folder, "replaced"))

    # ---- Finding ----

    def latest(self) -> str:
        """The newest complete checkpoint; logs which later ones are skipped, and why.

        Raises:
            CheckpointError: If there is none.
        """
        checkpoint, skipped = self.newest_complete()
        if checkpoint is None and skipped:
            raise CheckpointError(f"there is no complete checkpoint in {self.folder}: {'; '.join(skipped)}")
        if checkpoint is None:
            raise CheckpointError(f"there is no checkpoint in {self.folder}")
        for reason in skipped:
            logger.warning(f"skipped: {reason}")
        logger.info(f"resuming from {checkpoint}, the newest complete checkpoint")
        return checkpoint

    def newest_complete(self) -> tuple[str | None, list[str]]:
        """The checkpoint that was saved last, of those that are complete.

        Saved last, not the one with the highest step: a run that was sent back to an earlier checkpoint continues from
        what it made since.

        Returns:
            `str`, its folder, or `None` where there is none, and `list[str]`: why each later one was skipped.
        """
        self.recover()
        numbered, unreadable, skipped = [], [], []
        for folder in reversed(self.all()):
            try:
                numbered.append((checkpoint_manifest.read(folder)["number"], step_of(folder), folder))
            except CheckpointError as error:
                unreadable.append((step_of(folder), str(error)))
        for _, step, folder in sorted(numbered, reverse=True):
            try:
                checkpoint_manifest.verify(folder)
            except CheckpointError as error:
                skipped.append(str(error))
                continue
            return folder, [*skipped, *(reason for other, reason in unreadable if other > step)]
        return None, [*skipped, *(reason for _, reason in unreadable)]

    # ---- Removing, and mending what a kill left ----

    def rotate(self, limit: int | None, best: str | None) -> None:
        """Remove the checkpoints that were saved first, until `limit` are left; a failure is logged.

        The newest and the best always stay. What has no manifest is not counted and not touched.

        Args:
            limit (`int`, *optional*): `save_total_limit`; all are kept without one, or with 0.
            best (`str`, *optional*): The checkpoint of the best model.
        """
        if not limit or limit < 0:
            return
        folders = [folder for _, folder in sorted(self._numbered())]
        kept = {Path(folder).name for folder in folders[-1:]} | ({Path(best).name} if best else set())
        old = [folder for folder in folders if Path(folder).name not in kept]
        try:
            for folder in old[: max(0, len(folders) - max(limit, len(kept)))]:
                _remove(folder)
        except OSError as error:
            logger.warning(f"old checkpoints in {self.folder} could not be removed ({error.strerror or error})")

    def recover(self) -> None:
        """Give a checkpoint its name back where a kill came between it and the one that was to replace it."""
        for path, name, kind in self._left_over():
            if kind == "replaced" and not os.path.lexists(os.path.join(self.folder, name)):
                os.rename(path, os.path.join(self.folder, name))

    def remove_left_over(self) -> list[str]:
        """Remove what kills in the middle of a save or a removal have left.

        Returns:
            `list[str]`: Names of checkpoints whose save was interrupted.
        """
        self.recover()
        interrupted = []
        for path, name, kind in self._left_over():
            _discard(path)
            if kind == "incomplete":
                interrupted.append(name)
        for unfinished in Path(self.folder).glob(f"{atomic_files.UNFINISHED_FILES}*"):
            _discard(unfinished)
        return sorted(interrupted)

    def _next_number(self) -> int:
        """A number for the next save, above those of all checkpoints that are there."""
        return 1 + max((number for number, _ in self._numbered()), default=0)

    def _numbered(self) -> list[tuple[int, str]]:
        numbered = []
        for folder in self.all():
            try:
                numbered.append((checkpoint_manifest.read(folder)["number"], folder))
            except CheckpointError:
                continue  # not ours, or damaged: reported where a run looks for a checkpoint to resume from
        return numbered

    def _left_over(self) -> list[tuple[str, str, str]]:
        """Path, name of the checkpoint and kind of every hidden folder."""
        if not os.path.isdir(self.folder):
            return []
        found = [(name, _HIDDEN.fullmatch(name)) for name in sorted(os.listdir(self.folder))]
        return [(os.path.join(self.folder, name), match[1], match[2]) for name, match in found if match]


def step_of(folder: str) -> int:
    """The step in a checkpoint's name.

    Raises:
        ValueError: If the folder is not called like a checkpoint.
    """
    match = _NAME.fullmatch(Path(folder).name)
    if match is None:
        raise ValueError(f"{folder} is not called {PREFIX_CHECKPOINT_DIR}-N")
    return int(match[1])


def is_latest(wanted: str | bool) -> bool:
    """Whether `resume_from_checkpoint` asks for the newest checkpoint: `latest` or `true` (or `yes`, `on`)."""
    return str(wanted).lower() in ("latest", "true", "yes", "on")


def named_checkpoint(folder: str) -> str:
    """A checkpoint that was asked for by its name, after a check of its manifest; one without it is only warned of.

    Raises:
        CheckpointError: If there is none, or if it is damaged.
    """
    CheckpointStore(os.path.dirname(os.path.abspath(folder))).recover()
    if not os.path.isdir(folder):
        raise CheckpointError(f"there is no folder {folder}")
    if checkpoint_manifest.has_manifest(folder):
        checkpoint_manifest.verify(folder)
    else:
        logger.warning(
            f"the checkpoint {folder} has no {checkpoint_manifest.MANIFEST_FILE}; an earlier version or another tool "
            "wrote it, and it cannot be checked whether it is complete"
        )
    return folder


def _discard(folder: str | Path) -> None:
    """Remove a folder that is no checkpoint, if it is there; what cannot be removed is left for the next start."""
    shutil.rmtree(folder, ignore_errors=True)


def _remove(folder: str) -> None:
    """Remove a checkpoint; a kill leaves no part of it under its name."""
    removed = _hidden(folder, "removed")
    _discard(removed)
    os.rename(folder, removed)
    _discard(removed)


def _hidden(folder: str, kind: str) -> str:
    path = Path(folder)
    return str(path.with_name(f".{path.name}.{kind}"))
