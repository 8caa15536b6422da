"""Read a folder written by [`prepare_corpus`]."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from datasets import Dataset

from adversarial_mlm.data.arrow_tables import map_tables
from adversarial_mlm.data.cleaning import CLEANING_VERSION, CleaningCounts
from adversarial_mlm.data.subsets import cache_folder, keep, load_kept
from adversarial_mlm.utils.errors import CorpusError, one_line
from adversarial_mlm.utils.hashing import file_checksum, fingerprint_of_parts

FORMAT_VERSION = 1
MANIFEST_FILE, PLAN_FILE = "manifest.json", "plan.json"

_VERSION_KEY = "cleaning_version"  # identifies a manifest, or the plan of an incomplete preparation


def find_manifest(folder: str) -> dict | None:
    """Return the manifest of a prepared folder; `None` if it is something else.

    Raises:
        [`CorpusError`]: If the preparation is incomplete, or the manifest is damaged.
    """
    found = find_content(folder)
    if found is None:
        return None
    if found[0] == PLAN_FILE:
        raise CorpusError(
            f"{folder}: the preparation of this folder is not complete: repeat adv-mlm prepare to continue."
        )
    return found[1]


def find_content(folder: str) -> tuple[str, dict] | None:
    """Return name and content of the manifest, or of the plan of an incomplete preparation; `None` without both.

    Raises:
        [`CorpusError`]: If the file is damaged.
    """
    for name in (MANIFEST_FILE, PLAN_FILE):
        path = os.path.join(folder, name)
        if os.path.isfile(path) and _VERSION_KEY in (content := read_json(path)):
            return name, content
    return None


def load_prepared(
    folder: str, manifest: dict, min_length: int, allow_nucleotides: bool, cache_dir: str | None
) -> tuple[Dataset, CleaningCounts]:
    """Map the tables of a prepared folder into memory.

    Checksums are compared once on each machine, later only sizes and times. A damaged table could crash the process
    when it is memory-mapped.

    Args:
        folder (`str`): The folder.
        manifest (`dict`): Result of [`find_manifest`].
        min_length (`int`), allow_nucleotides (`bool`): Requested options; they must be those of the folder.
        cache_dir (`str`, *optional*): Folder that records the checksum comparison, see [`cache_folder`].

    Returns:
        `tuple[datasets.Dataset, CleaningCounts]`: The rows, and the counts of the cleaning.

    Raises:
        [`CorpusError`]: If a table is missing or damaged, or was prepared with other options or another version.
    """
    path = os.path.join(folder, MANIFEST_FILE)
    for name, now in (("format_version", FORMAT_VERSION), (_VERSION_KEY, CLEANING_VERSION)):
        if manifest.get(name) != now:
            raise CorpusError(
                f"{path}: {name} is {manifest.get(name)}, but this version reads {now}: prepare the folder again."
            )
    for name, asked in (("min_length", min_length), ("allow_nucleotides", allow_nucleotides)):
        if manifest.get(name) != asked:
            raise CorpusError(
                f"{folder}: it was prepared with {name}={manifest.get(name)}, but {name}={asked} is set: set it to "
                f"{manifest.get(name)}, or prepare another folder."
            )
    try:
        counts = CleaningCounts(**manifest["counts"])
        parts = [(os.path.join(folder, part["file"]), part["bytes"], part["sha256"]) for part in manifest["parts"]]
    except (KeyError, TypeError) as error:
        raise CorpusError(f"{path}: the manifest is damaged ({error}): prepare the folder again.") from error
    fingerprint = fingerprint_of_parts([json.dumps([manifest["counts"], parts])])
    _check_parts(parts, fingerprint, cache_dir)
    return map_tables([file for file, *_ in parts], fingerprint), counts


def _check_parts(parts: list[tuple[str, int, str]], fingerprint: str, cache_dir: str | None) -> None:
    stamps = []
    for path, size, _ in parts:
        try:
            status = os.stat(path)
        except OSError as error:
            raise CorpusError(
                f"{path}: a table of the prepared corpus is missing ({error.strerror}): copy or "
                "prepare the folder again."
            ) from error
        if status.st_size != size:
            raise CorpusError(
                f"{path}: the table has {status.st_size:,} bytes, but {size:,} were prepared; probably the copy is "
                "incomplete: copy it again."
            )
        stamps.append(status.st_mtime_ns)
    checked = os.path.join(cache_folder(cache_dir), f"{fingerprint}.checked.npy")
    if (found := load_kept(checked)) is not None and found.tolist() == stamps:
        return
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        checksums = pool.map(file_checksum, [part[0] for part in parts])
        for (path, _, expected), checksum in zip(parts, checksums, strict=True):
            if checksum != expected:
                raise CorpusError(
                    f"{path}: the table is damaged: its checksum is not that of the manifest. Copy or prepare "
                    "it again."
                )
    keep(checked, lambda file: np.save(file, np.array(stamps, dtype=np.int64)))


def read_json(path: str) -> dict:
    """Read a JSON file that contains one object.

    Raises:
        [`CorpusError`]: If the file cannot be read, or contains something else.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise CorpusError(f"{path}: could not be read as JSON ({one_line(error)}).") from error
    if not isinstance(content, dict):
        raise CorpusError(f"{path}: does not contain a JSON object.")
    return content
