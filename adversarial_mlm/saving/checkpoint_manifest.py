"""The list of a checkpoint's files with sizes and checksums, by which a complete one is told from half of one."""

import json
import os
from pathlib import Path, PurePosixPath

from adversarial_mlm.saving.run_files import MANIFEST_FILE
from adversarial_mlm.utils.errors import CheckpointError
from adversarial_mlm.utils.hashing import file_checksum

_FORMAT = 1


def write(folder: str, step: int, number: int, processes: int) -> None:
    """Write `manifest.json` into a folder that has all its other files.

    Args:
        folder (`str`): The checkpoint.
        step (`int`): Updates of the encoder.
        number (`int`): Of this save in its run's folder: each is greater than those before it, whatever their steps.
        processes (`int`): How many trained together.

    Raises:
        OSError: If a file cannot be read again, or the manifest not be written.
    """
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": file_checksum(path)}
        for path in paths
    }
    manifest = {"format": _FORMAT, "step": step, "number": number, "processes": processes, "files": files}
    Path(folder, MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def has_manifest(folder: str) -> bool:
    """Whether there is one; checkpoints of other tools and of earlier versions have none."""
    return os.path.isfile(os.path.join(folder, MANIFEST_FILE))


def read(folder: str) -> dict:
    """The manifest of a checkpoint, without a look at the files that it lists.

    Returns:
        `dict` with `step`, `number`, `processes` (`int`) and `files` (name → `{"size": int, "sha256": str}`).

    Raises:
        CheckpointError: If there is none, or none that can be read.
    """
    said = f"the checkpoint {folder}"
    if not has_manifest(folder):
        raise CheckpointError(
            f"{said} has no {MANIFEST_FILE}: its save was cut off, or another tool or an earlier version wrote it"
        )
    try:
        manifest = json.loads(Path(folder, MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{said} has a damaged {MANIFEST_FILE}") from error
    if isinstance(manifest, dict) and isinstance(manifest.get("format"), int) and manifest["format"] > _FORMAT:
        raise CheckpointError(f"{said} has a {MANIFEST_FILE} of a later version of this package")
    if not _is_manifest(manifest):
        raise CheckpointError(f"{said} has a damaged {MANIFEST_FILE}")
    return manifest


def verify(folder: str) -> dict:
    """Make sure that every file of a checkpoint is there, as long as it was, with the checksum that it had.

    Returns:
        `dict`: The manifest, as from [`read`].

    Raises:
        CheckpointError: If that is not so; it names the file.
    """
    said, manifest = f"the checkpoint {folder}", read(folder)
    paths = {name: Path(folder, name) for name in manifest["files"]}
    for name, path in paths.items():  # sizes first, which cost nothing
        if not path.is_file():
            raise CheckpointError(f"{said} has no {name}, which its {MANIFEST_FILE} lists")
        size, wanted = path.stat().st_size, manifest["files"][name]["size"]
        if size != wanted:
            raise CheckpointError(f"{said} has a damaged {name} ({size:,} bytes in place of {wanted:,})")
    for name, path in paths.items():
        try:
            same = file_checksum(path) == manifest["files"][name]["sha256"]
        except OSError as error:
            raise CheckpointError(f"{said} has a {name} that cannot be read ({error.strerror or error})") from error
        if not same:
            raise CheckpointError(f"{said} has a damaged {name} (its checksum is another)")
    return manifest


def _is_manifest(manifest: object) -> bool:
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        return False
    if not all(isinstance(manifest.get(name), int) for name in ("format", "step", "number", "processes")):
        return False
    return all(
        isinstance(entry, dict)
        and isinstance(entry.get("size"), int)
        and isinstance(entry.get("sha256"), str)
        and not PurePosixPath(name).is_absolute()
        and ".." not in PurePosixPath(name).parts
        for name, entry in manifest["files"].items()
    )
