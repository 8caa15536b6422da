"""Clean rows of one shard, and what is looked at before a source is read as a whole."""

import logging
from collections.abc import Callable, Iterator
from itertools import islice

from adversarial_mlm.data.cleaning import CleaningCounts, clean_rows, nucleotide_share
from adversarial_mlm.data.formats import Columns, Shard, read_rows
from adversarial_mlm.utils.errors import CorpusError, shorten

# In 200,000 real proteins, at most 30 % of the letters of any 100 in a row are A, C, G, T, U or N.
_MAX_NUCLEOTIDES = 0.95
_FIRST_RECORDS = 100
_FIRST_LETTERS = 1_000_000

logger = logging.getLogger(__name__)


def clean_shard(
    shard: Shard,
    columns: Columns,
    min_length: int,
    counts: CleaningCounts,
    is_news: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[str, str, int]]:
    """Yield the clean rows of a shard, and tell of records without residues when it has been read and that is news."""
    dropped: list[tuple[int, str]] = []
    yield from clean_rows(read_rows(shard, columns), min_length, counts, dropped)
    if dropped:
        number, identifier = dropped[0]
        tell_of_dropped(shard, counts, shard.first_row + number, identifier, is_news())


def tell_of_dropped(shard: Shard, counts: CleaningCounts, number: int, identifier: str, warn: bool = True) -> None:
    """Warn of records without residues, or refuse a file that has no others.

    Args:
        shard ([`Shard`]): The file, or the part of a dataset.
        counts ([`CleaningCounts`]): Of all of it.
        number (`int`): Of the first such record, from 1.
        identifier (`str`): Its id.
        warn (`bool`, *optional*, defaults to `True`): `False` where it was said before.
    """
    first = f"the first is record {number:,}, {shorten(identifier)}"
    if counts.without_residues == counts.records_read and shard.dataset is None:
        raise CorpusError(f"{shard.name}: no record has any residues ({counts.records_read:,} read; {first}).")
    if warn:
        logger.warning(
            "%s: records without residues are left out, %s of %s; %s.",
            *(shard.name, f"{counts.without_residues:,}", f"{counts.records_read:,}", first),
        )


def nothing_left(name: str, min_length: int, counts: CleaningCounts) -> CorpusError:
    """The error of a corpus of which cleaning left nothing."""
    return CorpusError(f"{name}: no sequence is left with min_length={min_length} ({counts.summary()}).")


def check_first_records(shards: list[Shard], columns: Columns, allow_nucleotides: bool) -> None:
    """Read some records of every file, so that a wrong file is refused now and not after hours of training."""
    for shard in shards:
        # The shards of a dataset share its columns, which were checked, and on the Hub each would be one more request.
        if shard.dataset is not None and shard.index > 0:
            continue
        rows = list(_first_rows(shard, columns))
        if not rows and shard.dataset is None:
            raise CorpusError(f"{shard.name}: the file holds no records.")
        share = nucleotide_share(rows, _FIRST_LETTERS)
        if share > _MAX_NUCLEOTIDES and not allow_nucleotides:
            raise CorpusError(
                f"{shard.name}: these seem to be nucleotides and not proteins, as {share:.1%} of the letters in its "
                "first records are A, C, G, T, U or N; set allow_nucleotides to take them nevertheless."
            )


def _first_rows(shard: Shard, columns: Columns) -> Iterator[tuple[str, str]]:
    """Yield the first rows until there are enough letters; a file may hold whole chromosomes."""
    letters = 0
    for row in islice(read_rows(shard, columns), _FIRST_RECORDS):
        yield row
        letters += len(row[1])
        if letters >= _FIRST_LETTERS:
            return
