"""[`prepare_corpus`]: clean FASTA into a folder of memory-mapped tables, with several processes; resumable.

1. Plain files are cut at headers into parts (byte ranges). A compressed file is one part.
2. Each part is cleaned into a table, with the code of [`load_corpus`]. A complete table gets a note of its content.
3. The manifest, written last, combines the notes.

If the preparation is killed, complete parts are kept.
"""

import contextlib
import dataclasses
import glob
import json
import logging
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any

from adversarial_mlm.data.arrow_tables import TableWriter
from adversarial_mlm.data.cleaning import CLEANING_VERSION, CleaningCounts, clean_rows
from adversarial_mlm.data.formats import Columns, Shard, read_rows
from adversarial_mlm.data.prepared import FORMAT_VERSION, MANIFEST_FILE, PLAN_FILE, find_content, read_json
from adversarial_mlm.data.shards import check_first_records, nothing_left, report_dropped
from adversarial_mlm.data.sources import file_shards, source_names
from adversarial_mlm.data.text_files import is_compressed
from adversarial_mlm.utils import atomic_files, interrupts
from adversarial_mlm.utils.atomic_files import UNFINISHED_FILES
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import CorpusError, RecipeError
from adversarial_mlm.utils.hashing import file_checksum
from adversarial_mlm.utils.output_folders import listed, occupy, visible

PART_BYTES = 256 << 20
_BYTES_AT_ONCE = 1 << 24
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A byte range of one source that becomes one table.

    Attributes:
        source (`int`): Index of the source.
        start (`int`), stop (`int`, *optional*): The byte range; `stop` is `None` for a whole compressed file.
        first_row (`int`), first_line (`int`): Number of records and lines of the file before the part.
    """

    source: int
    start: int = 0
    stop: int | None = None
    first_row: int = 0
    first_line: int = 0


def prepare_corpus(
    source: str | os.PathLike | list[str],
    folder: str,
    *,
    min_length: int = 10,
    allow_nucleotides: bool = False,
    workers: int | None = None,
    part_bytes: int = PART_BYTES,
) -> dict:
    """Clean FASTA files into a folder that [`load_corpus`] reads. Rows and counts are those of the files.

    Complete parts of an earlier, interrupted call are kept. If the folder already contains this corpus, nothing is
    done.

    Args:
        source (`str`, path or list of these): FASTA files or patterns, see [`load_corpus`].
        folder (`str`): Output folder; it is created if needed.
        min_length (`int`, defaults to 10): Sequences with fewer residues after cleaning are dropped.
        allow_nucleotides (`bool`, defaults to `False`): Accept files with DNA or RNA.
        workers (`int`, *optional*): Number of processes, by default one per CPU.
        part_bytes (`int`, defaults to 256 MiB): Size of the parts of a plain file. Each process loses at most about
            one part if it is stopped.

    Returns:
        `dict`: The manifest.

    Raises:
        [`CorpusError`]: As [`load_corpus`]; also if the sources are not FASTA, or the folder has other content.
    """
    if min_length < 0:
        raise CorpusError(f"min_length must be 0 or more, got {min_length!r}.")
    if workers is not None and workers < 1:
        raise CorpusError(f"workers must be 1 or more, got {workers!r}.")
    if part_bytes < 1:
        raise CorpusError(f"part_bytes must be 1 or more, got {part_bytes!r}.")
    shards = file_shards(source_names(source))
    if shards[0].format != "fasta":
        raise CorpusError(f"{shards[0].name}: only FASTA can be prepared: give other formats to train_data directly.")
    identity = _identity(shards, min_length, allow_nucleotides)
    if (finished := _finished(folder, identity)) is not None:
        return finished
    check_first_records(shards, Columns(), allow_nucleotides)
    try:
        occupy(folder)
    except RecipeError as error:
        raise CorpusError(str(error)) from error
    if (finished := _finished(folder, identity)) is not None:  # another command has ended in between
        return finished
    try:
        return _prepare(folder, shards, identity, workers or os.cpu_count() or 1, part_bytes)
    except BrokenProcessPool as error:
        raise CorpusError(
            f"{folder}: a process of the preparation was killed, perhaps for lack of memory: repeat the command with "
            "fewer workers to continue."
        ) from error
    except OSError as error:  # of writing; readers raise CorpusError
        raise CorpusError(f"{folder}: the tables could not be written ({error.strerror or error}).") from error


def _identity(shards: list[Shard], min_length: int, allow_nucleotides: bool) -> dict:
    """Return the options and sources that identify a preparation."""
    return {
        "format_version": FORMAT_VERSION,
        "cleaning_version": CLEANING_VERSION,
        "min_length": min_length,
        "allow_nucleotides": allow_nucleotides,
        "sources": [
            {"path": os.path.abspath(shard.name), "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
            for shard in shards
            for status in [os.stat(shard.name)]
        ],
    }


def _finished(folder: str, identity: dict) -> dict | None:
    """Return the manifest if the folder contains this corpus; `None` if it is empty or the corpus is incomplete."""
    found = find_content(folder)
    if found is None:
        if content := visible(folder):
            raise CorpusError(
                f"output_dir {folder} contains files that no preparation has written ({listed(content)}); they were "
                "not changed: choose another folder."
            )
        return None
    name, content_of = found
    if {key: content_of.get(key) for key in identity} != identity:
        raise CorpusError(
            f"{os.path.join(folder, name)}: the folder contains a corpus of other sources or options, or of an "
            "earlier version of the sources: delete it, or choose another folder."
        )
    return content_of if name == MANIFEST_FILE else None


def _prepare(folder: str, shards: list[Shard], identity: dict, workers: int, part_bytes: int) -> dict:
    with _processes(workers) as run:
        parts = _plan(folder, shards, identity, part_bytes, run)
        cleaned = run(
            partial(_clean_part, folder=folder, min_length=identity["min_length"]),
            *(range(len(parts)), parts, [shards[part.source] for part in parts]),
        )
        notes, last_logged = [], time.monotonic()
        for note in cleaned:
            notes.append(note)
            if time.monotonic() - last_logged > 10:
                logger.info("%s: %s of %s are complete", folder, len(notes), count(len(parts), "part"))
                last_logged = time.monotonic()
    counts = _gather_counts(shards, parts, notes)
    if counts.records_kept == 0:
        raise nothing_left(", ".join(shard.name for shard in shards), identity["min_length"], counts)
    manifest = {**identity, "counts": counts.as_dict(), "residues": sum(note["residues"] for note in notes)}
    manifest["parts"] = [{key: note[key] for key in ("file", "bytes", "sha256", "records")} for note in notes]
    _write_json(os.path.join(folder, MANIFEST_FILE), manifest)
    for name in (PLAN_FILE, *(_note_file(number) for number in range(len(parts)))):
        os.unlink(os.path.join(folder, name))
    for leftover in glob.glob(os.path.join(glob.escape(folder), f"{UNFINISHED_FILES}*")):  # left by killed processes
        shutil.rmtree(leftover, ignore_errors=True)
    return manifest


@contextlib.contextmanager
def _processes(workers: int) -> Iterator[Callable]:
    """Yield `map`, or with several workers that of a pool of processes. If the block fails, they are ended at once."""
    if workers == 1:
        yield map
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))

    def run(*args: Any) -> Iterator:
        with interrupts.held_back():  # processes are started here
            return pool.map(*args)

    try:
        yield run
    except BaseException:  # also a signal
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _plan(folder: str, shards: list[Shard], identity: dict, part_bytes: int, run) -> list[Part]:
    """Cut the sources into parts, or read the plan of an earlier call."""
    path = os.path.join(folder, PLAN_FILE)
    if os.path.exists(path):
        return [Part(**part) for part in read_json(path)["parts"]]
    cut = [part for index, shard in enumerate(shards) for part in _cut(index, shard.name, part_bytes)]
    parts: list[Part] = []
    names = [shards[part.source].name for part in cut]
    for part, (records, lines) in zip(cut, run(_count_part, names, cut), strict=True):
        if part.start == 0:
            row = line = 0
        parts.append(dataclasses.replace(part, first_row=row, first_line=line))
        row, line = row + records, line + lines
    _write_json(path, {**identity, "parts": [dataclasses.asdict(part) for part in parts]})
    return parts


def _cut(source: int, path: str, part_bytes: int) -> Iterator[Part]:
    if is_compressed(path):
        yield Part(source)
        return
    size, start = os.path.getsize(path), 0
    with open(path, "rb") as file:
        while start < size:
            stop = _next_header(file, start + part_bytes, size)
            yield Part(source, start, stop)
            start = stop


def _next_header(file, position: int, size: int) -> int:
    """Return the start of the next line that begins with ">"; the size of the file if there is none."""
    before = b""
    while position < size:
        file.seek(position)
        block = before + file.read(_BYTES_AT_ONCE)
        found = [index for index in (block.find(b"\n>"), block.find(b"\r>")) if index >= 0]
        if found:
            return position - len(before) + min(found) + 1
        position += len(block) - len(before)
        before = block[-1:]
    return size


def _count_part(path: str, part: Part) -> tuple[int, int]:
    """Count records and lines of a part as the reader does: a line ends with \\n, \\r or both."""
    if part.stop is None:
        return 0, 0  # a compressed file is one part, so nobody needs its counts
    records = lines = 0
    before = b"\n"  # a part begins with a line
    with open(path, "rb") as file:
        start = part.start + 3 * (part.start == 0 and file.read(3) == _BYTE_ORDER_MARK)
        for position in range(start, part.stop, _BYTES_AT_ONCE):
            file.seek(position)
            block = before + file.read(min(_BYTES_AT_ONCE, part.stop - position))
            records += block.count(b"\n>") + block.count(b"\r>")
            lines += block.count(b"\n", 1) + block.count(b"\r", 1) - block.count(b"\r\n")
            before = block[-1:]
    return records, lines


def _note_file(number: int) -> str:
    return f"part-{number:05d}.json"


def _clean_part(number: int, part: Part, shard: Shard, folder: str, min_length: int) -> dict:
    """Write the table of a part and a note of its content, unless an earlier call has done so."""
    note_path, name = os.path.join(folder, _note_file(number)), f"part-{number:05d}.arrow"
    path = os.path.join(folder, name)
    if os.path.exists(note_path) and os.path.exists(path):
        note = read_json(note_path)
        if note.get("bytes") == os.path.getsize(path):
            return note
    of_part = {key: getattr(part, key) for key in ("first_row", "first_line", "start", "stop")}
    rows = read_rows(dataclasses.replace(shard, **of_part), Columns())
    counts, residues = CleaningCounts(), 0
    dropped: list[tuple[int, str]] = []

    def counted(cleaned):
        nonlocal residues
        for row in cleaned:
            residues += row[2]
            yield row

    with atomic_files.replacing_file(path) as file:
        with TableWriter(file) as writer:
            writer.write(counted(clean_rows(rows, min_length, counts, dropped)))
    note = {
        **{"file": name, "bytes": os.path.getsize(path), "sha256": file_checksum(path)},
        **{"records": counts.records_kept, "residues": residues, "counts": counts.as_dict()},
        "first_dropped": [part.first_row + dropped[0][0], dropped[0][1]] if dropped else None,
    }
    _write_json(note_path, note)
    return note


def _gather_counts(shards: list[Shard], parts: list[Part], notes: list[dict]) -> CleaningCounts:
    """Add up the counts of all parts, and warn of records without residues per file, like [`load_corpus`]."""
    total = CleaningCounts()
    for index, shard in enumerate(shards):
        of_file, first = CleaningCounts(), None
        for part, note in zip(parts, notes, strict=True):
            if part.source == index:
                of_file += CleaningCounts(**note["counts"])
                first = first or note["first_dropped"]
        if first is not None:
            report_dropped(shard, of_file, *first)
        total += of_file
    return total


def _write_json(path: str, content: dict) -> None:
    atomic_files.replace_text(path, json.dumps(content, indent=1) + "\n")
