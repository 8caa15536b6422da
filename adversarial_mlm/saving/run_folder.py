"""Which files of a folder a run wrote. A run overwrites and removes these, and nothing else.

A marker, `.run.json`, lists them with checksums. Files that a run is about to write, or that change while it trains,
are listed without checksums; none of them was there before. So a file that somebody changed or added is theirs.
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from adversarial_mlm.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from adversarial_mlm.saving import checkpoint_manifest
from adversarial_mlm.saving.checkpoint_store import CheckpointStore
from adversarial_mlm.saving.hub import SNAPSHOT_PREFIX
from adversarial_mlm.saving.run_files import (
    ARGUMENTS_FILE,
    CARD_FACTS_FILE,
    CARD_FILE,
    DATA_FILE,
    MANIFEST_FILE,
    MARKER_FILE,
    MERGED_FOLDER,
    METRICS_FILE,
    NOISER_FOLDER,
    RECIPE_FILE,
    RECORDS_FILE,
    REPORT_FILES,
)
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.errors import CheckpointError
from adversarial_mlm.utils.hashing import file_checksum
from adversarial_mlm.utils.output_folders import visible

_FORMAT = 1
_LARGE = 1 << 20  # bytes
# files that a run writes before or next to its model; what else a model has is listed when it is saved
USUAL_FILES = (
    *(
        RECIPE_FILE,
        DATA_FILE,
        METRICS_FILE,
        RECORDS_FILE,
        ARGUMENTS_FILE,
        CARD_FILE,
        CARD_FACTS_FILE,
        "trainer_state.json",
    ),
    *("config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
    *(ADAPTER_CONFIG, ADAPTER_WEIGHTS, f"{MERGED_FOLDER}/config.json", f"{MERGED_FOLDER}/model.safetensors"),
    *(f"{NOISER_FOLDER}/config.json", f"{NOISER_FOLDER}/model.safetensors"),
    *REPORT_FILES,
)
_WHILE_TRAINING = (RECIPE_FILE, DATA_FILE, METRICS_FILE, RECORDS_FILE)
_TEMPORARY = (f"{SNAPSHOT_PREFIX}*", f"{atomic_files.UNFINISHED_FILES}*", ".checkpoint-[0-9]*")


class RunFolder:
    """The folder of a run, with its marker.

    Args:
        folder (`str`): Need not exist.
    """

    def __init__(self, folder: str):
        self.folder = folder

    def is_empty(self) -> bool:
        """Whether there is nothing but hidden files, which no run overwrites."""
        return not visible(self.folder)

    def is_run(self) -> bool:
        """Whether a run of this package has marked the folder."""
        return self._files() is not None

    def others(self, resumes: bool = False) -> list[str]:
        """Files that a run would overwrite or remove, and that no run wrote, or that were changed since.

        In a folder without a marker these are all files and folders.

        Args:
            resumes (`bool`, *optional*, defaults to `False`): Whether the run resumes. It then keeps its checkpoints,
                also one that is damaged.

        Raises:
            OSError: If a file cannot be read.
        """
        files = self._files()
        if files is None:
            return visible(self.folder)
        found = []
        for name in dict.fromkeys((*USUAL_FILES, *files)):
            path = Path(self.folder, name)
            if path.is_symlink() or path.is_dir():
                found.append(name)
            elif path.exists() and (name not in files or files[name] not in (None, file_checksum(path))):
                found.append(name)
        store = CheckpointStore(self.folder)
        return found + [Path(folder).name for folder in store.all() if not _is_checkpoint(folder, not resumes)]

    def claim(self, names: Iterable[str] = _WHILE_TRAINING) -> None:
        """Mark the folder as that of a run, which is about to write these files.

        Args:
            names (`Iterable[str]`, *optional*): Paths in the folder; by default what a run writes while it trains.

        Raises:
            OSError: If the marker cannot be written.
        """
        self._write({**(self._files() or {}), **dict.fromkeys(names)})

    def seal(self, names: Iterable[str]) -> None:
        """List the files of a run that is over, with their checksums.

        Args:
            names (`Iterable[str]`): Paths in the folder of what it wrote in addition to the usual files.

        Raises:
            OSError: If a file cannot be read, or the marker cannot be written.
        """
        paths = {name: Path(self.folder, name) for name in (*USUAL_FILES, *names)}
        sums = {name: file_checksum(path) for name, path in paths.items() if path.is_file()}
        self._write({name: None if name == METRICS_FILE else checksum for name, checksum in sums.items()})

    def note(self, *names: str) -> None:
        """Note the checksums of files that were just written. A folder that is not a run's stays as it is.

        Args:
            *names (`str`): Paths in the folder.

        Raises:
            OSError: If a file cannot be read, or the marker cannot be written.
        """
        files = self._files()
        if files is not None:
            self._write(files | {name: file_checksum(Path(self.folder, name)) for name in names})

    def is_changed(self, name: str) -> bool:
        """Whether a file is there, and has another content than when its checksum was noted.

        Args:
            name (`str`): Path in the folder.

        Raises:
            OSError: If it cannot be read.
        """
        path, noted = Path(self.folder, name), (self._files() or {}).get(name)
        return noted is not None and path.is_file() and file_checksum(path) != noted

    def clear(self) -> None:
        """Remove what a run left: the files in the marker, its checkpoints, and what a kill left of them.

        To be called when [`others`] has found none.

        Raises:
            OSError: If something cannot be removed.
        """
        if not self.is_run():
            return
        for pattern in _TEMPORARY:
            for path in Path(self.folder).glob(pattern):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
        self.remove_checkpoints()
        _remove_files(self.folder, self._files() or ())

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints of the run; folders of the same names that hold something else stay.

        Raises:
            OSError: If one cannot be removed.
        """
        for checkpoint in filter(_is_checkpoint, CheckpointStore(self.folder).all()):
            names = checkpoint_manifest.read(checkpoint)["files"]
            _remove_files(checkpoint, [*names, MANIFEST_FILE])

    def strangers(self, others: Iterable[str]) -> list[str]:
        """Names in the folder that are neither of a run of this package nor among some others."""
        known = {PurePosixPath(name).parts[0] for name in (*USUAL_FILES, *(self._files() or ()))}
        checkpoints = {Path(path).name for path in CheckpointStore(self.folder).all() if _is_checkpoint(path)}
        return [name for name in visible(self.folder) if name not in known | checkpoints | {*others}]

    def _write(self, files: dict[str, str | None]) -> None:
        content = {"format": _FORMAT, "written_by": "adversarial-mlm", "files": files}
        atomic_files.replace_text(Path(self.folder, MARKER_FILE), json.dumps(content, indent=1) + "\n")

    def _files(self) -> dict[str, str | None] | None:
        """Name → checksum, or `None` where the file may change; `None` where there is no marker that can be read."""
        try:
            marker = json.loads(Path(self.folder, MARKER_FILE).read_text(encoding="utf-8"))
            files = marker["files"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        if marker.get("format") != _FORMAT or not isinstance(files, dict) or not all(map(_is_inside, files)):
            return None
        return files


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _is_checkpoint(folder: str, unchanged: bool = False) -> bool:
    """Whether a folder is a checkpoint of a run and holds nothing else.

    Args:
        folder (`str`): The folder.
        unchanged (`bool`, *optional*, defaults to `False`): Whether its files must also have their sizes, and those of
            less than a mebibyte their checksums. Weights would take long to read.
    """
    if os.path.islink(folder):
        return False
    try:
        files = checkpoint_manifest.read(folder)["files"]
    except CheckpointError:
        return False
    found = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if not path.is_dir()}
    if not {*files, MANIFEST_FILE} >= found.keys():
        return False
    return not unchanged or all(_is_as_listed(found[name], files[name]) for name in files if name in found)


def _is_as_listed(path: Path, entry: dict) -> bool:
    if path.is_symlink() or path.stat().st_size != entry["size"]:
        return False
    return entry["size"] >= _LARGE or file_checksum(path) == entry["sha256"]


def _remove_files(folder: str, names: Iterable[str]) -> None:
    """Remove files, and the folders that are then empty."""
    paths = [Path(folder, name) for name in names]
    for path in paths:
        path.unlink(missing_ok=True)
    for parent in sorted({path.parent for path in paths}, reverse=True):  # what is in a folder before the folder
        if parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()
