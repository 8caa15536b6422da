"""Clean the rows of one shard, and check the first records of a source."""

import logging
from collections.abc import Callable, Iterator
from itertools import islice

from adversarial_mlm.data.cleaning import CleaningCounts, clean_rows, nucleotide_share
from adversarial_mlm.data.formats import Columns, Shard, read_rows
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import CorpusError, shorten

# In 200,000 real proteins, no 100 consecutive ones have more than 30 % of the letters A, C, G, T, U or N.
MAX_NUCLEOTIDES = 0.95
_FIRST_RECORDS = 100
_FIRST_LETTERS = 1_000_000

logger = logging.getLogger(__name__)


def clean_shard(
    shard: Shard,
    columns: Columns,
    min_length: int,
    counts: CleaningCounts,
    warn: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[str, str, int]]:
    """Yield the clean rows of a shard; at its end, warn of records without residues if `warn()` is true."""
    dropped: list[tuple[int, str]] = []
    yield from clean_rows(read_rows(shard, columns), min_length, counts, dropped)
    if dropped:
        number, identifier = dropped[0]
        report_dropped(shard, counts, shard.first_row + number, identifier, warn())


def report_dropped(shard: Shard, counts: CleaningCounts, number: int, identifier: str, warn: bool = True) -> None:
    """Warn of records without residues, or refuse a file that only has such records.

    Args:
        shard ([`Shard`]): The file, or the part of a dataset.
        counts ([`CleaningCounts`]): Counts of the whole shard.
        number (`int`): Number of the first such record, from 1.
        identifier (`str`): Its id.
        warn (`bool`, *optional*, defaults to `True`): `False` if this warning was given before.
    """
    first = f"the first is record {number:,}, {shorten(identifier)}"
    if counts.without_residues == counts.records_read and shard.dataset is None:
        raise CorpusError(f"{shard.name}: no record has any residues ({counts.records_read:,} read; {first}).")
    if warn:
        logger.warning(
            "%s: left out %s of %s, which %s no residues; %s.",
            *(shard.name, f"{counts.without_residues:,}", count(counts.records_read, "record")),
            *(verb(counts.without_residues, "has", "have"), first),
        )


def nothing_left(name: str, min_length: int, counts: CleaningCounts) -> CorpusError:
    """Return the error for a corpus without any record after cleaning."""
    return CorpusError(
        f"{name}: no sequence is left with min_length={min_length} ({counts.summary()}): check the file, or "
        "lower min_length."
    )


def check_first_records(shards: list[Shard], columns: Columns, allow_nucleotides: bool) -> None:
    """Read the first records of every file, to refuse a wrong file before hours of training."""
    for shard in shards:
        # the columns of a dataset were checked, and each shard would cost one more request to the Hub
        if shard.dataset is not None and shard.index > 0:
            continue
        rows = list(_first_rows(shard, columns))
        if not rows and shard.dataset is None:
            raise CorpusError(f"{shard.name}: the file contains no records.")
        share = nucleotide_share(rows, _FIRST_LETTERS)
        if share > MAX_NUCLEOTIDES and not allow_nucleotides:
            raise CorpusError(
                f"{shard.name}: these seem to be nucleotides, not proteins: {share:.1%} of the letters in the first "
                "records are A, C, G, T, U or N. Set allow_nucleotides to accept them."
            )


def _first_rows(shard: Shard, columns: Columns) -> Iterator[tuple[str, str]]:
    """Yield the first rows until there are enough letters; a record may be a whole chromosome."""
    letters = 0
    for row in islice(read_rows(shard, columns), _FIRST_RECORDS):
        yield row
        letters += len(row[1])
        if letters >= _FIRST_LETTERS:
            return
