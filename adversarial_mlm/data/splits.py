"""Hold out data: whole families, members of the remaining families, or random records."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from adversarial_mlm.data.subsets import column_pieces, remembered, row_pieces, without_rows
from adversarial_mlm.data.tables import csv_rows, find_column
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import CorpusError, shorten
from adversarial_mlm.utils.hashing import random_key

logger = logging.getLogger(__name__)

_MIN_FAMILY_FOR_MEMBERS = 5
_VALUES_AT_ONCE = 1000


@dataclass
class Splits:
    """Train and held-out data, as returned by [`split_corpus`].

    Attributes:
        train (`datasets.Dataset`): the records to train on.
        held_out (`dict[str, datasets.Dataset]`): held-out records by name: `"families"`, `"members"`, `"sample"`.
        duplicates_removed (`int`, defaults to 0): records removed from train because a held-out set contains the
            same sequence.
        missing_in_clusters (`int`, defaults to 0): records that are not in the cluster table.
    """

    train: Dataset
    held_out: dict[str, Dataset]
    duplicates_removed: int = 0
    missing_in_clusters: int = 0


def read_cluster_table(path: str | os.PathLike) -> dict[str, str]:
    """Read the family of each protein from a table.

    Args:
        path (`str` or path): a tab- or comma-separated file, also with `.gz`. Its header line must name the columns
            `id` and `cluster`; other columns are ignored.

    Returns:
        `dict[str, str]`: record id → name of the family.

    Raises:
        [`CorpusError`]: if the file is missing, empty or damaged; if a column or a field is missing; if a line has
            more or fewer fields than the header; or if an id is in two families.
    """
    path = os.path.expanduser(os.fspath(path))
    rows = csv_rows(path, ("id", "cluster"))
    _, header = next(rows, (0, []))
    id_at, cluster_at = (find_column(path, header, column) for column in ("id", "cluster"))
    if id_at is None or cluster_at is None:
        raise CorpusError(
            f'{path}: the header line of a cluster table must name the columns "id" and "cluster", but it is '
            f"{shorten(','.join(header))}."
        )
    clusters: dict[str, str] = {}
    for number, fields in rows:
        identifier, cluster = fields[id_at].strip(), fields[cluster_at].strip()
        if not identifier or not cluster:
            raise CorpusError(f"{path}: line {number:,} has an empty id or cluster.")
        if clusters.setdefault(identifier, cluster) != cluster:
            raise CorpusError(
                f"{path}: line {number:,} puts {shorten(identifier)} in cluster {shorten(cluster)}, but an earlier "
                f"line put it in {shorten(clusters[identifier])}."
            )
    if not clusters:
        raise CorpusError(f"{path}: the cluster table has no line after its header.")
    return clusters


def split_corpus(
    dataset: Dataset,
    *,
    clusters: dict[str, str] | None = None,
    clusters_name: str = "the cluster table",
    holdout_families: float = 0.0,
    holdout_members: float = 0.0,
    holdout_random: float = 0.0,
    holdout_seed: int = 0,
    cache_dir: str | None = None,
) -> Splits:
    """Hold out records for evaluation: unseen families, unseen members of known families, or random records.

    The result depends only on the arguments. Records of train whose exact sequence is in a held-out set are removed.
    A record that is not in `clusters` counts as a separate family.

    Args:
        dataset (`datasets.Dataset`): rows with the columns `id` and `sequence`.
        clusters (`dict[str, str]`, *optional*): family by record id, see [`read_cluster_table`].
        clusters_name (`str`, defaults to `"the cluster table"`): name of `clusters` in messages, such as its file.
        holdout_families (`float`, defaults to 0.0): fraction of all records to hold out as `"families"`. Whole
            families are taken in an order that depends on the seed and their names only. A family is skipped if the
            set would exceed 1.5 times the fraction.
        holdout_members (`float`, defaults to 0.0): fraction of the members of every remaining family with 5 or more
            members to hold out as `"members"`, rounded, but at least one.
        holdout_random (`float`, defaults to 0.0): fraction of all records to hold out at random as `"sample"`.
            Related proteins are then on both sides; a warning says so.
        holdout_seed (`int`, defaults to 0): seed of all choices.
        cache_dir (`str`, *optional*): folder for the row numbers of train, by default that of `datasets`.

    Returns:
        [`Splits`]: train and the requested held-out sets.

    Raises:
        [`CorpusError`]: if the dataset is streamed or lacks a column; if a fraction is outside 0 to 1, or the sum is 1
            or more; if `clusters` is needed but missing; or if a requested set or train would be empty.
    """
    fractions = dict(holdout_families=holdout_families, holdout_members=holdout_members, holdout_random=holdout_random)
    _check_options(dataset, clusters, fractions, holdout_seed)
    held_out, missing = _choose_records(dataset, clusters, clusters_name, fractions, holdout_seed)
    if not held_out:
        return Splits(dataset, {})
    chosen = np.sort(np.concatenate(list(held_out.values())))
    if len(chosen) == len(dataset):
        raise CorpusError(
            f"no record of {len(dataset):,} is left to train on, with {_listed(fractions)}: lower the fractions."
        )
    train = without_rows(dataset, chosen, cache_dir)
    train, removed = remove_shared_sequences(train, dataset.select(chosen), cache_dir=cache_dir)
    return Splits(train, {name: dataset.select(rows) for name, rows in held_out.items()}, removed, missing)


def remove_shared_sequences(train: Dataset, held_out: Dataset, *, cache_dir: str | None = None) -> tuple[Dataset, int]:
    """Remove the records of `train` whose exact sequence is in `held_out`.

    [`split_corpus`] does this for its own sets; use this function for held-out data from another file. The sequences
    of `held_out` are in memory during the search. The result is cached on disk.

    Args:
        train (`datasets.Dataset`): rows with the column `sequence`.
        held_out (`datasets.Dataset`): rows with the column `sequence`.
        cache_dir (`str`, *optional*): folder for the cached result, by default that of `datasets`.

    Returns:
        `tuple[datasets.Dataset, int]`: the remaining records, and the number of removed ones.

    Raises:
        [`CorpusError`]: if no record is left to train on.
    """
    shared = remembered("shared-1", [train, held_out], lambda: _shared_rows(train, held_out), cache_dir)
    removed = len(shared)
    if not removed:
        return train, 0
    if removed == len(train):
        raise CorpusError(
            f"all {count(removed, 'training record')} {verb(removed, 'is', 'are')} also in the held-out data: "
            "use other held-out data."
        )
    logger.warning(
        "%s removed from train, because the held-out data contain the same sequence.",
        f"{count(removed, 'record')} {verb(removed, 'was', 'were')}",
    )
    return without_rows(train, shared, cache_dir), removed


def _shared_rows(train: Dataset, held_out: Dataset) -> np.ndarray:
    """Return the sorted numbers of the rows of `train` whose sequence is in `held_out`."""
    sequences = pa.chunked_array(
        (chunk for piece in column_pieces(held_out, "sequence") for chunk in piece.chunks), pa.string()
    )
    column = train.data.column("sequence")
    # in one call, because each call hashes the held-out sequences; the result has one byte per record
    shared = pc.is_in(column, value_set=sequences.cast(column.type)).to_numpy()
    return np.concatenate(
        [np.flatnonzero(shared[rows]) + start for start, rows in row_pieces(train)] or [np.empty(0, dtype=np.int64)]
    )


def _listed(fractions: dict[str, float]) -> str:
    return ", ".join(f"{name}={fraction!r}" for name, fraction in fractions.items() if fraction)


def _check_options(dataset: Dataset, clusters: dict[str, str] | None, fractions: dict[str, float], seed: int) -> None:
    if not isinstance(dataset, Dataset):
        raise CorpusError(
            f"the data to split must be a datasets.Dataset, not {type(dataset).__name__}. A streamed corpus cannot be "
            "split: load it with streaming=False, or give held-out data as separate files."
        )
    for column in ("id", "sequence"):
        if column not in dataset.column_names:
            raise CorpusError(
                f'the dataset to split has no column "{column}"; its columns are {dataset.column_names}.'
            )
    for name, fraction in fractions.items():
        if not 0.0 <= fraction < 1.0:
            raise CorpusError(f"{name} must be at least 0 and less than 1, got {fraction!r}.")
        if fraction and name != "holdout_random" and not clusters:
            raise CorpusError(f"{name}={fraction!r} needs a table of clusters: set cluster_table.")
    if sum(fractions.values()) >= 1.0:
        raise CorpusError(f"the held-out fractions must add up to less than 1: {_listed(fractions)}.")
    if seed < 0:
        raise CorpusError(f"holdout_seed must be 0 or more, got {seed!r}.")


def _choose_records(
    dataset: Dataset, clusters: dict[str, str] | None, clusters_name: str, fractions: dict[str, float], seed: int
) -> tuple[dict[str, np.ndarray], int]:
    """Return the row numbers of every held-out set, and the number of records that `clusters` lacks."""
    generator = np.random.default_rng(seed)
    taken = np.zeros(len(dataset), dtype=bool)  # one byte per record; row numbers would take eight
    held_out: dict[str, np.ndarray] = {}
    missing = 0
    if fractions["holdout_families"] or fractions["holdout_members"]:
        families, names, missing = _family_of_records(dataset, clusters or {}, clusters_name)
    if fractions["holdout_families"]:
        chosen = _choose_families(names, np.bincount(families), fractions["holdout_families"] * len(dataset), seed)
        held_out["families"] = np.flatnonzero(chosen[families])
        taken[held_out["families"]] = True
    if fractions["holdout_members"]:
        held_out["members"] = _choose_members(
            families, np.flatnonzero(~taken), fractions["holdout_members"], generator
        )
        taken[held_out["members"]] = True
    if fractions["holdout_random"]:
        logger.warning(
            "Records are held out at random (holdout_random), so relatives of held-out proteins stay in train: "
            'results on the held-out set "sample" are optimistic. Use holdout_families with a cluster_table instead.'
        )
        wanted = max(1, round(fractions["holdout_random"] * len(dataset)))
        held_out["sample"] = _draw_rows(taken, wanted, generator)
    return held_out, missing


def _draw_rows(taken: np.ndarray, wanted: int, generator: np.random.Generator) -> np.ndarray:
    """Draw `wanted` rows that are not taken, sorted; all remaining rows if they are fewer."""
    before, wanted = taken.copy(), min(wanted, len(taken) - int(taken.sum()))
    drawn = 0
    while drawn < wanted:
        rows = generator.integers(len(taken), size=wanted - drawn)
        taken[rows] = True
        drawn = int(taken.sum()) - int(before.sum())
    return np.flatnonzero(taken & ~before)


def _family_of_records(
    dataset: Dataset, clusters: dict[str, str], clusters_name: str
) -> tuple[np.ndarray, list[str], int]:
    """Number the families: return (family number of each record, names by number, records without a family)."""
    missing = sum(identifier not in clusters for identifier in _values(dataset, "id"))
    if missing == len(dataset):
        raise CorpusError(
            f"none of the {missing:,} record ids (such as {shorten(dataset[0]['id'])}) is in {clusters_name}, whose "
            f"ids are like {shorten(next(iter(clusters)))}: make the ids agree."
        )
    if missing:
        logger.warning(
            "%s of %s %s not in %s; each id counts as a separate family.",
            *(f"{missing:,}", count(len(dataset), "record"), verb(missing, "is", "are"), clusters_name),
        )
    # families are often named after a member; the mark avoids a clash with such names
    names = (clusters.get(identifier, f"\0{identifier}") for identifier in _values(dataset, "id"))
    numbers: dict[str, int] = {}
    families = np.fromiter((numbers.setdefault(name, len(numbers)) for name in names), dtype=np.int64)
    return families, list(numbers), missing


def _choose_families(names: list[str], sizes: np.ndarray, wanted: float, seed: int) -> np.ndarray:
    """Return a mask over families that together have about `wanted` records."""

    # keyed by name, so the order of the families does not depend on the records
    def key(number: int) -> bytes:
        return random_key(seed, names[number], size=16)

    chosen = np.zeros(len(names), dtype=bool)
    taken = 0
    for number in sorted(range(len(names)), key=key):
        if taken >= wanted:
            break
        # without this bound, one large family could make the set many times too large
        if taken + sizes[number] <= max(1.0, 1.5 * wanted):
            chosen[number] = True
            taken += int(sizes[number])
    if taken == 0:
        raise CorpusError(
            f"holdout_families asks for {count(round(wanted), 'record')}, but the smallest family has "
            f"{sizes.min():,}, which is "
            "more than 1.5 times as many: raise the fraction."
        )
    if taken < wanted:
        logger.warning(
            "Families with %s are held out instead of %.0f, because all other families are too large.",
            *(count(taken, "record"), wanted),
        )
    return chosen


def _choose_members(
    families: np.ndarray, candidates: np.ndarray, fraction: float, generator: np.random.Generator
) -> np.ndarray:
    """Return the sorted indices, among `candidates`, of the members to hold out."""
    candidate_families = families[candidates]
    # sorted by family and random within each: the first members of every family are a random choice
    order = np.lexsort((generator.random(len(candidates)), candidate_families))
    _, starts, sizes = np.unique(candidate_families[order], return_index=True, return_counts=True)
    # at least one member, but never the whole family
    quotas = np.clip(np.floor(sizes * fraction + 0.5).astype(np.int64), 1, np.maximum(sizes - 1, 1))
    quotas[sizes < _MIN_FAMILY_FOR_MEMBERS] = 0
    if not quotas.any():
        raise CorpusError(
            f"holdout_members={fraction!r} is impossible: no family with {_MIN_FAMILY_FOR_MEMBERS} or more members is "
            "left. Remove holdout_members, or lower holdout_families."
        )
    rank = np.arange(len(candidates)) - np.repeat(starts, sizes)
    return np.sort(candidates[order[rank < np.repeat(quotas, sizes)]])


def _values(dataset: Dataset, column: str) -> Iterator[str]:
    for piece in column_pieces(dataset, column):
        for start in range(0, len(piece), _VALUES_AT_ONCE):
            yield from piece.slice(start, _VALUES_AT_ONCE).to_pylist()
