"""[`embed_file`]: embed all proteins of files into one file; a stopped run continues.

Blocks of proteins are written as parts into a hidden folder next to the output, and joined at the end. The name of a
part contains a hash of the encoder, the options and the proteins in it. So a part is used again only if the same
embeddings would be computed.
"""

import contextlib
import json
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from adversarial_mlm.data.all_records import AllRecords, ProteinRecord
from adversarial_mlm.inference.embedding_files import (
    OUTPUT_DTYPES,
    Layout,
    PartFacts,
    format_of,
    join_parts,
    read_facts,
    write_part,
)
from adversarial_mlm.inference.feature_cache import encoder_fingerprint
from adversarial_mlm.inference.protein_embeddings import EmbeddingOptions, ProteinEmbedder, moved
from adversarial_mlm.inference.windows import number_of_windows
from adversarial_mlm.models.loading import load_backbone
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import CorpusError, RecipeError, WritingError, shorten
from adversarial_mlm.utils.hashing import fingerprint, fingerprint_of_parts
from adversarial_mlm.utils.locks import try_lock, unlock_all_below
from adversarial_mlm.utils.progress import Progress
from adversarial_mlm.utils.version import __version__

# Part of the name of every part. Raise it when the same encoder, options and proteins give other embeddings.
EMBEDDINGS_VERSION = 1

_NOT_THE_RESULT = ("batch_tokens", "torch_compile")  # they change no embedding but for rounding
_ATTEMPT_FILE = "attempt.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What [`embed_file`] wrote.

    Attributes:
        proteins (`int`): Proteins in the file.
        long_proteins (`int`): Those that were read in several windows.
        left_out (`list[list]`): Number in the source (from 1), id and reason of the records without residues.
        seconds (`float`): Time of the computation, without parts of an earlier attempt.
        computed (`int`): Proteins that were computed now, and not in an earlier attempt.
    """

    proteins: int
    long_proteins: int
    left_out: list[list]
    seconds: float
    computed: int


@dataclass
class _Block:
    """What is known about a block of records before it is computed."""

    name: str
    proteins: int = 0
    residues: int = 0  # over all windows
    long_proteins: int = 0
    most_windows: int = 0


def embed_file(
    model: str,
    source: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    options: EmbeddingOptions | None = None,
    output_dtype: str = "float32",
    overwrite: bool = False,
    revision: str | None = None,
    device: str | None = None,
    sequence_column: str = "sequence",
    id_column: str | None = None,
    allow_nucleotides: bool = False,
) -> Summary:
    """Write the embeddings of all proteins of a source into one file, in their order.

    If it is stopped, the same call continues: it loses at most one block of proteins. With another option or encoder
    it starts anew. Memory does not grow with the number of proteins. The parts take as much room on the disk as the
    file, until it is complete.

    Args:
        model (`str`): A folder, or the name of a model on the Hub; any encoder that `AutoModel` supports.
        source: Files of any format, patterns or folders, as for [`load_corpus`].
        out (`str`): The file; its ending is its format: `.parquet`, `.npz`, `.h5` or `.hdf5`.
        options ([`EmbeddingOptions`], *optional*): How proteins are embedded.
        output_dtype (`str`, defaults to `"float32"`): Type of the numbers in the file, or `"float16"`.
        overwrite (`bool`, defaults to `False`): Replace an existing file.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        device (`str`, *optional*): By default a GPU if there is one.
        sequence_column (`str`), id_column (`str`, *optional*): Columns of a table, as for [`load_corpus`].
        allow_nucleotides (`bool`, defaults to `False`): Accept files with DNA or RNA.

    Returns:
        [`Summary`]: Counts.

    Raises:
        CorpusError: If the source cannot be used, or has no protein.
        CheckpointError: If the model cannot be loaded.
        RecipeError: If an option cannot be used, or if `out` exists.
        WritingError: If a file cannot be written.
    """
    path = Path(out)
    if output_dtype not in OUTPUT_DTYPES:
        raise RecipeError(f"output_dtype must be one of {', '.join(OUTPUT_DTYPES)}, got '{output_dtype}'")
    _check_out(path, overwrite)
    records = AllRecords(
        source, sequence_column=sequence_column, id_column=id_column, allow_nucleotides=allow_nucleotides
    )
    if any(os.path.realpath(file) == os.path.realpath(path) for file in records.files):
        raise RecipeError(f"out is {path}, which is also read: choose another name")
    loaded, tokenizer = load_backbone(model, revision)
    weights = encoder_fingerprint(loaded, tokenizer)
    embedder = ProteinEmbedder(moved(loaded, device).eval(), tokenizer, options or EmbeddingOptions())
    layout = Layout(embedder.encoder.width, embedder.options.per_residue, output_dtype)
    attempt = {
        **{name: value for name, value in asdict(embedder.options).items() if name not in _NOT_THE_RESULT},
        "output_dtype": output_dtype,
        "encoder": weights,
        "version": EMBEDDINGS_VERSION,
    }
    with _reporting_failed_writes(path):
        folder = _work_folder(path, attempt)
        try:
            summary = _compute(embedder, records, folder, attempt, layout, path, _name_of(model, revision))
        except BaseException:
            if not any(folder.glob("part-*")):
                _remove(folder)
            raise
        _remove(folder)
    return summary


def _name_of(model: str, revision: str | None) -> dict:
    # the name of a folder says nothing about the machine
    return {"model": os.path.basename(os.path.abspath(model)) if os.path.isdir(model) else model, "revision": revision}


@contextlib.contextmanager
def _reporting_failed_writes(path: Path) -> Iterator[None]:
    """Turn an `OSError` of writing into a [`WritingError`]; readers raise a `CorpusError`."""
    try:
        yield
    except OSError as error:
        raise WritingError(f"{path} could not be written: {error.strerror or error}") from error


def _check_out(path: Path, overwrite: bool) -> None:
    format_of(path)
    if path.is_dir():
        raise RecipeError(f"out is {path}, which is a folder: give the name of a file")
    if os.path.lexists(path) and not overwrite:
        raise RecipeError(
            f"out is {path}, which exists: choose another name, or add --overwrite (in Python: overwrite=True)"
        )


def _work_folder(path: Path, attempt: dict) -> Path:
    """Create or take over the folder of the parts, and lock it."""
    folder = path.parent / f".{path.name}.unfinished"
    folder.mkdir(parents=True, exist_ok=True)
    if not try_lock(str(folder)):
        raise RecipeError(f"out is {path}, which another command is writing: wait for its end, or choose another name")
    file = folder / _ATTEMPT_FILE
    try:
        earlier = json.loads(file.read_text(encoding="utf-8"))
        different = [name for name in attempt if earlier.get(name) != attempt[name]]
    except (OSError, ValueError, AttributeError):
        earlier, different = {}, []
    if different:
        changes = ", ".join(f"{name} was {earlier.get(name)} and is now {attempt[name]}" for name in different)
        logger.warning("%s: an earlier attempt was not finished, but %s: starting anew.", path, changes)
        for part in folder.glob("part-*"):
            part.unlink()
    atomic_files.replace_text(file, json.dumps(attempt, indent=1))
    return folder


def _remove(folder: Path) -> None:
    unlock_all_below(str(folder))
    shutil.rmtree(folder, ignore_errors=True)


def _compute(
    embedder: ProteinEmbedder,
    records: AllRecords,
    folder: Path,
    attempt: dict,
    layout: Layout,
    path: Path,
    about: dict,
) -> Summary:
    blocks = [_plan(embedder, attempt, number, block) for number, block in enumerate(embedder.blocks(records))]
    proteins = sum(block.proteins for block in blocks)
    long_proteins = sum(block.long_proteins for block in blocks)
    if proteins == 0:
        raise CorpusError(f"{records.name}: no record has any residues.")
    if long_proteins:
        logger.info(
            "%s of %s %s more than %s: %s read in overlapping windows, up to %s, and a residue has the mean over the "
            "windows that cover it.",
            *(f"{long_proteins:,}", count(proteins, "protein"), verb(long_proteins, "has", "have")),
            *(count(embedder.window, "residue"), verb(long_proteins, "it is", "they are")),
            f"{max(block.most_windows for block in blocks):,}",
        )
    facts = [read_facts(folder / block.name) for block in blocks]
    kept = [block for block, known in zip(blocks, facts, strict=True) if known is not None]
    known_before = sum(block.proteins for block in kept)
    if kept:
        logger.info(
            "continuing: %s of %s %s computed before.",
            *(f"{known_before:,}", count(proteins, "protein"), verb(known_before, "was", "were")),
        )
    progress = _Progress(blocks, kept)
    complete: list[PartFacts] = []
    first = 0
    for number, block in enumerate(embedder.blocks(records)):
        if number >= len(blocks) or _plan(embedder, attempt, number, block).name != blocks[number].name:
            raise CorpusError(f"{records.name}: the records changed while they were read: start again.")
        known = facts[number]
        if known is None:
            known = _embed_block(embedder, layout, folder / blocks[number].name, block, progress)
            progress.block_done(blocks[number].proteins)
        left_out = [[first + row, *rest] for row, *rest in known.left_out]
        complete.append(PartFacts(known.proteins, known.residues, known.longest_id, left_out))
        first += len(block)
    progress.close()
    left_out = [record for part in complete for record in part.left_out]
    _report_left_out(records.name, first, left_out)
    about |= {
        "source": [os.path.basename(name) for name in records.name.split(", ")],
        "proteins": proteins,
        "long_proteins": long_proteins,
        "window_residues": embedder.window,
        **attempt,
        "left_out": left_out,
        "written_by": f"adversarial-mlm {__version__}",
    }
    join_parts(path, layout, [folder / block.name for block in blocks], complete, about)
    return Summary(proteins, long_proteins, left_out, progress.seconds, proteins - known_before)


def _plan(embedder: ProteinEmbedder, attempt: dict, number: int, records: list[ProteinRecord]) -> _Block:
    def parts() -> Iterator[str]:
        yield fingerprint(attempt)
        for record in records:
            yield f"{len(record.id)} {record.id} {record.sequence} {record.reason}\n"

    block = _Block(f"part-{number:06}-{fingerprint_of_parts(parts())}.arrow")
    for record in records:
        length = len(record.sequence)
        if length:
            windows = number_of_windows(length, embedder.window, embedder.overlap)
            block.proteins += 1
            block.residues += length if windows == 1 else windows * embedder.window
            block.long_proteins += windows > 1
            block.most_windows = max(block.most_windows, windows)
    return block


def _embed_block(
    embedder: ProteinEmbedder, layout: Layout, path: Path, records: list[ProteinRecord], progress: "_Progress"
) -> PartFacts:
    kept = [record for record in records if not record.reason]
    left_out = [[row, record.id, record.reason] for row, record in enumerate(records, start=1) if record.reason]
    found = embedder.embed([record.sequence for record in kept], progress.batch_done)
    return write_part(
        path,
        layout,
        [record.id for record in kept],
        [embedding for embedding, _ in found],
        [len(record.sequence) for record in kept],
        [windows for _, windows in found],
        left_out,
    )


def _report_left_out(name: str, records: int, left_out: list[list]) -> None:
    if not left_out:
        return
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in Counter(r for *_, r in left_out).items())
    number, identifier, _ = left_out[0]
    logger.warning(
        "%s: left out %s of %s, which %s no residues (%s); the first is record %s, %s; all are named in the file.",
        *(name, f"{len(left_out):,}", count(records, "record"), verb(len(left_out), "has", "have"), reasons),
        *(f"{number:,}", shorten(identifier)),
    )


class _Progress:
    """Proteins and proteins per second of [`Progress`].

    Long proteins come first within a block. So the rate is that of residues, for proteins of the mean length.
    """

    def __init__(self, blocks: Sequence[_Block], kept: Sequence[_Block]):
        self._proteins, self._residues = (sum(block.proteins for block in blocks), sum(b.residues for b in blocks))
        self._done, self._read = sum(block.proteins for block in kept), 0
        self._start = time.monotonic()
        self._shown = Progress(self._residues, self._text, logger, sum(block.residues for block in kept))

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._start

    def batch_done(self, residues: int) -> None:
        self._read += residues
        self._shown.advance(residues)

    def block_done(self, proteins: int) -> None:
        self._done += proteins
        self._shown.describe()

    def close(self) -> None:
        self._shown.close()

    def _text(self) -> str:
        rate = self._read / max(self.seconds, 1e-9) * self._proteins / max(self._residues, 1)
        return f"{self._done:,} of {count(self._proteins, 'protein')}, {rate:,.1f} proteins/s"
