"""Read every record of a source in its order: proteins with their residues, and a reason for each of the others.

[`load_corpus`] makes a corpus for training and leaves records out. Here, nothing is left out without its name.
"""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from adversarial_mlm.data.cleaning import clean_sequence, is_missing
from adversarial_mlm.data.formats import Columns, Shard, read_rows
from adversarial_mlm.data.prepared import find_manifest, load_prepared
from adversarial_mlm.data.shards import check_first_records
from adversarial_mlm.data.sources import find_shards, source_names


class ProteinRecord(NamedTuple):
    """A record of a source.

    Attributes:
        id (`str`): The id; ids may repeat.
        sequence (`str`): The clean sequence, see [`clean_sequence`]; empty if there is a reason.
        reason (`str`): Why the record has no residues; empty for a protein.
    """

    id: str
    sequence: str
    reason: str = ""


class AllRecords:
    """All records of a source in its order. It may be iterated over several times, and holds one record at a time.

    Args:
        source (`str`, path or list of these): Files of any format, patterns, folders and Hub datasets, as for
            [`load_corpus`].
        sequence_column (`str`, defaults to `"sequence"`), id_column (`str`, *optional*): Columns of a table, as for
            [`load_corpus`].
        allow_nucleotides (`bool`, defaults to `False`): Accept files with DNA or RNA.

    Attributes:
        name (`str`): The source, for messages.
        files (`list[str]`): Its files, as far as it consists of files.

    Raises:
        CorpusError: If the source is missing, empty, damaged or not in the format of its name, if it lacks a column,
            or if it contains nucleotides. Damage after the first 100 records is found during the iteration.
    """

    def __init__(
        self,
        source: str | os.PathLike | Sequence[str | os.PathLike],
        *,
        sequence_column: str = "sequence",
        id_column: str | None = None,
        allow_nucleotides: bool = False,
    ):
        sources = source_names(source)
        self.name = ", ".join(sources)
        if len(sources) == 1 and (manifest := find_manifest(sources[0])) is not None:
            asked = manifest.get("min_length", 0), allow_nucleotides
            dataset, _ = load_prepared(sources[0], manifest, *asked, cache_dir=None)
            self._shards, self._columns = [Shard(0, sources[0], "dataset", dataset)], Columns("sequence", "id")
            self.files: list[str] = []
            return
        asked_columns = Columns(sequence_column, id_column)
        self._shards, self._columns = find_shards(sources, asked_columns, None, "train", False, None)
        self.files = [shard.name for shard in self._shards if shard.dataset is None]
        check_first_records(self._shards, self._columns, allow_nucleotides)

    def __iter__(self) -> Iterator[ProteinRecord]:
        for shard in self._shards:
            for identifier, text in read_rows(shard, self._columns):
                yield protein_record(identifier, text)


def protein_record(identifier: str, text: str) -> ProteinRecord:
    """Clean one record.

    Args:
        identifier (`str`): The id.
        text (`str`): The sequence as found.

    Raises:
        CorpusError: If the sequence is not text.
    """
    cleaned = clean_sequence(text)
    if len(cleaned.sequence) > cleaned.unknown:
        return ProteinRecord(identifier, cleaned.sequence)
    if cleaned.sequence:
        return ProteinRecord(identifier, "", "no known residue")
    return ProteinRecord(identifier, "", "missing value" if text.strip() and is_missing(text) else "empty sequence")
