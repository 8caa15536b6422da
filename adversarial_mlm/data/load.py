"""[`load_corpus`]: clean rows from a cache of Arrow files, from a prepared folder, or as a stream."""

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from datasets import Dataset

from adversarial_mlm.data.arrow_tables import TableWriter, map_tables
from adversarial_mlm.data.cleaning import CLEANING_VERSION, CleaningCounts
from adversarial_mlm.data.formats import Columns, Shard
from adversarial_mlm.data.prepared import find_manifest, load_prepared
from adversarial_mlm.data.shards import check_first_records, clean_shard, nothing_left
from adversarial_mlm.data.sources import find_shards, source_names
from adversarial_mlm.data.subsets import cache_folder, log_cache_size, not_kept
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.errors import CorpusError
from adversarial_mlm.utils.hashing import fingerprint_of_parts

if TYPE_CHECKING:
    from adversarial_mlm.data.streaming import RecordStream

logger = logging.getLogger(__name__)


@dataclass
class Corpus:
    """A cleaned corpus, as returned by [`load_corpus`].

    Attributes:
        dataset (`datasets.Dataset` or [`streaming.RecordStream`]): rows with the columns `id`, `sequence` and
            `length` (in residues).
        source (`str`): the source as given by the caller, for logs and model cards.
        read_counts (`Callable`): returns the current counts; use `counts` instead.
    """

    dataset: "Dataset | RecordStream"
    source: str
    read_counts: Callable[[], CleaningCounts] = dataclasses.field(repr=False)

    @property
    def counts(self) -> CleaningCounts:
        """Counts of what cleaning did.

        With `streaming=True` these are the counts so far, over all `DataLoader` workers of this process, up to 100
        records behind. They are complete after one epoch and do not grow in further epochs. The returned object is
        not updated: read this property again.
        """
        return self.read_counts()


def load_corpus(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    sequence_column: str = "sequence",
    id_column: str | None = None,
    dataset_split: str = "train",
    dataset_config: str | None = None,
    min_length: int = 10,
    allow_nucleotides: bool = False,
    streaming: bool = False,
    cache_dir: str | None = None,
) -> Corpus:
    """Load protein sequences as a clean dataset with the columns `id`, `sequence` and `length`.

    By default the clean rows are written once to `<cache_dir>/adversarial_mlm/` and memory-mapped from there. A
    changed file, another column or another `min_length` makes a new cache entry. FASTA files have no columns, splits
    or configurations, and ignore these four options.

    Records without residues, such as missing values (`NA`, `None`), are left out and counted; a warning names the
    first one of each file. A file without any other records is refused.

    Args:
        source (`str`, path or list of these): one of

            - a folder made by [`prepare_corpus`];
            - a folder written by `save_to_disk` of `datasets`;
            - the name of a Hub dataset, `owner/name`;
            - a file, a glob pattern (`**` matches folders) or a list of files and patterns, all of one format: FASTA
              (`.fasta`, `.fa`, `.faa`, `.fas`, `.fsa`), `.parquet`, `.jsonl` or `.json` (lines or one list), `.csv`,
              `.tsv`; all but Parquet also compressed (`.gz`, `.bz2`, `.xz`, `.zst`, `.zip`, ...).
        sequence_column (`str`, defaults to `"sequence"`): column of a table with the sequences.
        id_column (`str`, *optional*): column of a table with the ids. By default `id` if that column exists, else the
            row number in each file, from 0 (`<shard>-<row>` for a streamed Hub dataset). The id of a FASTA record is
            the accession of a UniProt header (`sp|A0AJR1|...`), else the first word of its header, else its number in
            the file.
        dataset_split (`str`, defaults to `"train"`): split of a Hub dataset or of a folder with several splits.
        dataset_config (`str`, *optional*): configuration of a Hub dataset.
        min_length (`int`, defaults to 10): sequences with fewer residues after cleaning are dropped.
        allow_nucleotides (`bool`, defaults to `False`): accept files with DNA or RNA. By default a file is refused if
            more than 95 % of the letters in its first 100 records (or first million letters) are A, C, G, T, U or N.
            For a dataset, the first records of its first shard are checked.
        streaming (`bool`, defaults to `False`): return a [`streaming.RecordStream`], a PyTorch `IterableDataset` that
            cleans while reading and stores nothing. Its shards are the files.
        cache_dir (`str`, *optional*): folder for the cache, by default that of `datasets` (`HF_DATASETS_CACHE`).

    Returns:
        [`Corpus`]: the dataset, the counts of the cleaning, and the source.

    Raises:
        [`CorpusError`]: if the source is missing, empty, damaged or not in the format of its name; if it lacks a
            column, contains nucleotides, or has no sequence after cleaning; if an option does not apply to it; or if
            the cache folder cannot be written. When streaming, errors after the first 100 records of a file are raised
            during iteration.
    """
    if min_length < 0:
        raise CorpusError(f"min_length must be 0 or more, got {min_length!r}.")
    if not isinstance(sequence_column, str):
        raise CorpusError(f"sequence_column must be the name of a column, got {sequence_column!r}.")
    sources = source_names(source)
    if len(sources) == 1 and (manifest := find_manifest(sources[0])) is not None:
        if streaming:
            raise CorpusError(
                f"{sources[0]}: a prepared folder is memory-mapped and cannot be streamed: remove streaming."
            )
        dataset, counts = load_prepared(sources[0], manifest, min_length, allow_nucleotides, cache_dir)
        return Corpus(dataset, sources[0], lambda: counts)
    shards, columns = find_shards(
        sources, Columns(sequence_column, id_column), dataset_config, dataset_split, streaming, cache_dir
    )
    name = ", ".join(sources)
    if streaming:
        from adversarial_mlm.data.streaming import (
            RecordStream,  # torch takes a second or more, and only streaming needs it
        )

        check_first_records(shards, columns, allow_nucleotides)
        stream = RecordStream(name, shards, columns, min_length)
        return Corpus(stream, name, stream.counts)
    return _cached_corpus(name, shards, columns, min_length, allow_nucleotides, cache_dir)


def _cached_corpus(
    name: str,
    shards: list[Shard],
    columns: Columns,
    min_length: int,
    allow_nucleotides: bool,
    cache_dir: str | None,
) -> Corpus:
    """Clean `shards` into an Arrow file, unless the cache has one, and map it into memory."""
    key = [CLEANING_VERSION, *columns, min_length, allow_nucleotides, [_shard_key(shard) for shard in shards]]
    fingerprint = fingerprint_of_parts([json.dumps(key)])
    folder = cache_folder(cache_dir)
    table_path = os.path.join(folder, f"{fingerprint}.arrow")
    counts_path = os.path.join(folder, f"{fingerprint}.json")

    counts = _load_counts(counts_path) if os.path.exists(table_path) else None
    if counts is None:
        check_first_records(shards, columns, allow_nucleotides)
        try:
            counts = _write_cache(name, shards, columns, min_length, table_path, counts_path)
        except OSError as error:  # of writing; readers raise CorpusError
            raise not_kept(folder, error) from error
        log_cache_size(folder)
    return Corpus(map_tables([table_path], fingerprint), name, lambda: counts)


def _shard_key(shard: Shard) -> list | str:
    if shard.dataset is not None:
        return shard.dataset._fingerprint
    status = os.stat(shard.name)
    return [os.path.abspath(shard.name), status.st_size, status.st_mtime_ns]


def _load_counts(path: str) -> CleaningCounts | None:
    try:
        with open(path, encoding="utf-8") as file:
            return CleaningCounts(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None  # missing, or written by another version: clean again


def _write_cache(
    name: str, shards: list[Shard], columns: Columns, min_length: int, table_path: str, counts_path: str
) -> CleaningCounts:
    counts = CleaningCounts()
    with atomic_files.replacing_file(table_path) as file:
        with TableWriter(file) as writer:
            for shard in shards:
                writer.write(clean_shard(shard, columns, min_length, of_shard := CleaningCounts()))
                counts += of_shard
        if counts.records_kept == 0:
            raise nothing_left(name, min_length, counts)
        # the counts first: readers look for the table
        atomic_files.replace_text(counts_path, json.dumps(counts.as_dict(), indent=1))
    return counts
