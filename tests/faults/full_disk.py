"""The disk fills during a run: earlier checkpoints stay whole, a sentence says why, and with room the run goes on."""

import contextlib
import os
import re
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from adversarial_mlm.models.loading import CheckpointError
from adversarial_mlm.saving import checkpoint_manifest
from adversarial_mlm.saving.checkpoint_store import CheckpointStore
from tests.faults.small_run import SAVE_STEPS, Run, differences, wait

_DISK = 4 << 20  # bytes of the small disk
_LEFT = 32 << 10  # of them free when it is full: enough for a line of the log, not for a checkpoint
_LONGEST_FILE = 16 << 10  # bytes, where a limit to files stands for a full disk
_SAVES_WITH_ROOM = 2


class NotPermitted(Exception):
    """This machine does not let us do that."""


def disk_fills(folder: Path) -> dict:
    """A run whose file system has no room for its third checkpoint.

    Raises:
        NotPermitted: If no file system may be mounted here.
    """
    with _small_disk(folder / "disk"):
        ballast = folder / "disk" / "ballast"

        def fill() -> None:
            free = os.statvfs(ballast.parent)
            ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - _LEFT))

        return _run_out_of_room(folder, folder / "disk" / "full", "No space left on device", fill, ballast.unlink)


def files_are_limited(folder: Path) -> dict:
    """A run that may write no longer files from its third checkpoint on, as with a quota; needs no permission."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (_LONGEST_FILE, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    return _run_out_of_room(folder, folder / "limited", "File too large", limit, lambda: None)


def _run_out_of_room(folder: Path, place: Path, reason: str, take_room: Callable, give_room: Callable) -> dict:
    reference = Run(folder / "straight", "alternate", 1)
    if not reference.output.exists():
        assert wait(reference.start()) == [0], reference.log(0)
    run = Run(place, "alternate", 1, {"cache_dir": str(folder / "cache")})
    status = wait(run.start(before=lambda: _after_saves(_SAVES_WITH_ROOM, take_room)))
    said = run.log(0)
    kept = [run.output / f"checkpoint-{SAVE_STEPS * (number + 1)}" for number in range(_SAVES_WITH_ROOM)]
    facts = {
        "exit_status": status[0],
        "saves_that_failed": len(re.findall(rf"checkpoint-\d+ could not be written \({reason}\)", said)),
        "sentence": next((line for line in said.splitlines() if line.startswith("ended:")), None),
        "earlier_checkpoints_whole": all(_is_whole(checkpoint) for checkpoint in kept),
        "halves_left": len(list(run.output.glob(".*incomplete*"))),
    }
    give_room()
    went_on = wait(run.go_on())
    facts["went_on_from"] = f"checkpoint-{SAVE_STEPS * _SAVES_WITH_ROOM}" if kept[-1].name in run.log(0) else None
    facts["different"] = differences(run, reference) if went_on == [0] else [run.log(0)[-2000:]]
    facts["passed"] = (
        facts["exit_status"] == 1
        and facts["saves_that_failed"] > 0
        and reason in (facts["sentence"] or "")
        and "Traceback" not in said
        and facts["earlier_checkpoints_whole"]
        and not facts["halves_left"]
        and facts["went_on_from"] is not None
        and not facts["different"]
    )
    return facts


def _after_saves(saves: int, call: Callable) -> None:
    """In the process that trains: call a function when that many checkpoints are there."""
    publish, done = CheckpointStore._publish, []

    def publish_and_call(*args) -> None:
        publish(*args)
        done.append(args)
        if len(done) == saves:
            call()

    CheckpointStore._publish = publish_and_call


def _is_whole(checkpoint: Path) -> bool:
    try:
        checkpoint_manifest.verify(str(checkpoint))
    except CheckpointError:
        return False
    return True


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={_DISK}", "none", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise NotPermitted(str(error)) from error
    if mounted.returncode:
        raise NotPermitted(mounted.stderr.strip())
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)
