"""The checkpoints of a run's folder: how one appears, which is the newest, and which are removed.

A folder is called `checkpoint-N` only while it is complete. It is written as `.checkpoint-N.incomplete` and then
renamed; one that goes is first renamed to `.checkpoint-N.removed`, or to `.checkpoint-N.replaced` if another takes its
name.
"""

import os
import re
import shutil
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from adversarial_mlm.saving import checkpoint_manifest
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.errors import CheckpointError

_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")
_HIDDEN = re.compile(rf"\.({PREFIX_CHECKPOINT_DIR}-\d+)\.(incomplete|replaced|removed)")


def folder_of(run_folder: str, step: int) -> str:
    """Where the checkpoint of a step belongs."""
    return os.path.join(run_folder, f"{PREFIX_CHECKPOINT_DIR}-{step}")


def step_of(folder: str) -> int:
    """The step in a checkpoint's name."""
    return int(_NAME.fullmatch(Path(folder).name)[1])


def staging_of(folder: str) -> str:
    """Where a checkpoint is written before it gets its name."""
    return _hidden(folder, "incomplete")


def all_in(run_folder: str) -> list[str]:
    """All that are called checkpoints, complete or not, by their steps."""
    if not os.path.isdir(run_folder):
        return []
    names = [name for name in os.listdir(run_folder) if _NAME.fullmatch(name)]
    folders = [os.path.join(run_folder, name) for name in names]
    return sorted((folder for folder in folders if os.path.isdir(folder)), key=step_of)


def publish(staging: str, folder: str) -> None:
    """Give a checkpoint that is written its name, in place of an earlier one that has it.

    Raises:
        OSError: If that fails; the earlier one then has its name again.
    """
    run_folder = os.path.dirname(folder)
    atomic_files.sync_tree(staging)
    try:
        if os.path.lexists(folder):
            replaced = _hidden(folder, "replaced")
            discard(replaced)
            os.rename(folder, replaced)
        os.rename(staging, folder)
        atomic_files.sync(run_folder)
    except OSError:
        recover(run_folder)
        raise
    discard(_hidden(folder, "replaced"))


def recover(run_folder: str) -> None:
    """Give a checkpoint its name back where a kill came between it and the one that was to replace it."""
    for path, name, kind in _left_over(run_folder):
        if kind == "replaced" and not os.path.lexists(os.path.join(run_folder, name)):
            os.rename(path, os.path.join(run_folder, name))


def remove_left_over(run_folder: str) -> list[str]:
    """Remove what kills in the middle of a save or a removal have left.

    Returns:
        `list[str]`: Names of checkpoints whose save was cut off.
    """
    recover(run_folder)
    cut_off = []
    for path, name, kind in _left_over(run_folder):
        discard(path)
        if kind == "incomplete":
            cut_off.append(name)
    for path in Path(run_folder).glob(f"{atomic_files.UNFINISHED_FILES}*"):
        discard(path)
    return sorted(cut_off)


def newest_complete(run_folder: str) -> tuple[str | None, list[str]]:
    """The checkpoint that was saved last, of those that are complete.

    Saved last, not the one with the highest step: a run that was sent back to an earlier checkpoint goes on from what
    it made since.

    Returns:
        `str`, its folder, or `None` where there is none, and `list[str]`: why each later one was passed over.
    """
    recover(run_folder)
    numbered, unreadable, passed_over = [], [], []
    for folder in reversed(all_in(run_folder)):
        try:
            numbered.append((checkpoint_manifest.read(folder)["number"], step_of(folder), folder))
        except CheckpointError as error:
            unreadable.append((step_of(folder), str(error)))
    for _, step, folder in sorted(numbered, reverse=True):
        try:
            checkpoint_manifest.verify(folder)
        except CheckpointError as error:
            passed_over.append(str(error))
            continue
        return folder, [*passed_over, *(reason for other, reason in unreadable if other > step)]
    return None, [*passed_over, *(reason for _, reason in unreadable)]


def next_number(run_folder: str) -> int:
    """A number for the next save, above those of all checkpoints that are there."""
    return 1 + max((number for number, _ in _numbered(run_folder)), default=0)


def rotate(run_folder: str, limit: int | None, best: str | None) -> None:
    """Remove the checkpoints that were saved first, until `limit` are left.

    The newest and the best always stay. What has no manifest is not counted and not touched.

    Args:
        run_folder (`str`): The run's folder.
        limit (`int`, *optional*): `save_total_limit`; all are kept without one, or with 0.
        best (`str`, *optional*): The checkpoint of the best model.
    """
    if not limit or limit < 0:
        return
    folders = [folder for _, folder in sorted(_numbered(run_folder))]
    kept = {Path(folder).name for folder in folders[-1:]} | ({Path(best).name} if best else set())
    going = [folder for folder in folders if Path(folder).name not in kept]
    for folder in going[: max(0, len(folders) - max(limit, len(kept)))]:
        remove(folder)


def discard(folder: str | Path) -> None:
    """Remove a folder that is no checkpoint, if it is there; what cannot be removed is left for the next start."""
    shutil.rmtree(folder, ignore_errors=True)


def remove(folder: str) -> None:
    """Remove a checkpoint, so that no kill leaves half of it under its name."""
    removed = _hidden(folder, "removed")
    discard(removed)
    os.rename(folder, removed)
    discard(removed)


def _numbered(run_folder: str) -> list[tuple[int, str]]:
    numbered = []
    for folder in all_in(run_folder):
        try:
            numbered.append((checkpoint_manifest.read(folder)["number"], folder))
        except CheckpointError:
            continue  # not ours, or damaged: said where a run looks for a checkpoint to go on from
    return numbered


def _hidden(folder: str, kind: str) -> str:
    path = Path(folder)
    return str(path.with_name(f".{path.name}.{kind}"))


def _left_over(run_folder: str) -> list[tuple[str, str, str]]:
    """Path, name of the checkpoint and kind of every hidden folder."""
    if not os.path.isdir(run_folder):
        return []
    found = [(name, _HIDDEN.fullmatch(name)) for name in sorted(os.listdir(run_folder))]
    return [(os.path.join(run_folder, name), match[1], match[2]) for name, match in found if match]
