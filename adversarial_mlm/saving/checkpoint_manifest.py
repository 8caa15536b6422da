"""The manifest of a checkpoint: its files with sizes and checksums. It shows whether a checkpoint is complete."""

import json
import os
from pathlib import Path, PurePosixPath

from adversarial_mlm.saving.run_files import MANIFEST_FILE
from adversarial_mlm.utils.errors import CheckpointError
from adversarial_mlm.utils.hashing import file_checksum

_FORMAT = 1


def write(folder: str, step: int, number: int, processes: int) -> None:
    """Write `manifest.json` into a checkpoint that has all its other files.

    Args:
        folder (`str`): Folder of the checkpoint.
        step (`int`): Number of encoder updates.
        number (`int`): Number of this save in the output folder; it increases with every save.
        processes (`int`): Number of processes.

    Raises:
        OSError: If a file cannot be read or the manifest cannot be written.
    """
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": file_checksum(path)}
        for path in paths
    }
    manifest = {"format": _FORMAT, "step": step, "number": number, "processes": processes, "files": files}
    Path(folder, MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def has_manifest(folder: str) -> bool:
    """Whether a checkpoint has a manifest; those of other tools and of earlier versions have none."""
    return os.path.isfile(os.path.join(folder, MANIFEST_FILE))


def read(folder: str) -> dict:
    """Read the manifest of a checkpoint without checking the files that it lists.

    Returns:
        `dict` with `step`, `number`, `processes` (`int`) and `files` (name → `{"size": int, "sha256": str}`).

    Raises:
        CheckpointError: If there is no manifest, or if it cannot be read.
    """
    subject = f"the checkpoint {folder}"
    if not has_manifest(folder):
        raise CheckpointError(
            f"{subject} has no {MANIFEST_FILE}: its save was interrupted, or another tool or version wrote it"
        )
    try:
        manifest = json.loads(Path(folder, MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{subject} has a damaged {MANIFEST_FILE}") from error
    if isinstance(manifest, dict) and isinstance(manifest.get("format"), int) and manifest["format"] > _FORMAT:
        raise CheckpointError(f"{subject} was written by a later version of this package; update the package")
    if not _is_manifest(manifest):
        raise CheckpointError(f"{subject} has a damaged {MANIFEST_FILE}")
    return manifest


def verify(folder: str) -> dict:
    """Check that every file of a checkpoint exists, with the size and checksum in the manifest.

    Returns:
        `dict`: The manifest, as from [`read`].

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    subject, manifest = f"the checkpoint {folder}", read(folder)
    paths = {name: Path(folder, name) for name in manifest["files"]}
    for name, path in paths.items():  # sizes first, because checksums take long
        if not path.is_file():
            raise CheckpointError(f"{subject} has no {name}, which its {MANIFEST_FILE} lists")
        size, wanted = path.stat().st_size, manifest["files"][name]["size"]
        if size != wanted:
            raise CheckpointError(f"{subject} has a damaged {name} ({size:,} bytes instead of {wanted:,})")
    for name, path in paths.items():
        try:
            same = file_checksum(path) == manifest["files"][name]["sha256"]
        except OSError as error:
            raise CheckpointError(f"{subject} has a {name} that cannot be read ({error.strerror or error})") from error
        if not same:
            raise CheckpointError(f"{subject} has a damaged {name} (wrong checksum)")
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
