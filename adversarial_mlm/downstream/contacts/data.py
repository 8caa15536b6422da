"""Proteins with known contacts: from tables, from TAPE's ProteinNet files, and from mmCIF and PDB files."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adversarial_mlm.data.cleaning import clean_sequence
from adversarial_mlm.downstream.contacts.scoring import LEAST_SEPARATION, pairs_of
from adversarial_mlm.downstream.contacts.structures import (
    ENDINGS,
    NO_CHAIN,
    Chain,
    UnreadableStructureError,
    is_structure,
    read_chains,
    structure_files,
)
from adversarial_mlm.downstream.labels import is_missing, read_mask, read_sequence, read_text, to_python
from adversarial_mlm.downstream.left_out import NO_LABEL, LeftOut
from adversarial_mlm.downstream.reading import read_records
from adversarial_mlm.downstream.records import in_place
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import CorpusError, one_line, shorten

CUTOFF = 8.0
"""Residues are in contact if their atoms are nearer than this, in ångström."""

NO_PAIR = "without a pair of residues that counts"

_NAMED = 10  # files in a note; the results name all

_EXAMPLE = "a list of pairs such as [[1, 9], [3, 20]]"


@dataclass(frozen=True)
class ContactProtein:
    """A protein whose contacts are known.

    Attributes:
        id (`str`): The id.
        sequence (`str`): The sequence, clean.
        known (`np.ndarray` of shape `(residues,)`, bool): Whether the place of a residue is known.
        coordinates (`np.ndarray` of shape `(residues, 3)`, *optional*): Ångström.
        contacts (`np.ndarray` of shape `(contacts, 2)`, int32, *optional*): Pairs of residues in contact, from 0; in
            place of coordinates.
    """

    id: str
    sequence: str
    known: np.ndarray
    coordinates: np.ndarray | None = None
    contacts: np.ndarray | None = None

    @property
    def counted(self) -> int:
        """Residues with a known place."""
        return int(self.known.sum())

    def labels(self) -> np.ndarray:
        """Return 1 for the pairs of [`pairs_of`] in contact, 0 for others, and -1 for those that do not count.

        A pair counts if the places of both residues are known.
        """
        length = len(self.sequence)
        first, second = pairs_of(length)
        if self.coordinates is not None:
            apart = self.coordinates[first].astype(np.float64) - self.coordinates[second]
            labels = (np.square(apart).sum(axis=1) < CUTOFF**2).astype(np.int8)
        else:
            of_pairs = np.zeros((length, length), dtype=np.int8)
            if self.contacts is not None:
                of_pairs[self.contacts[:, 0], self.contacts[:, 1]] = 1
            labels = np.maximum(of_pairs, of_pairs.T)[first, second]
        labels[~(self.known[first] & self.known[second])] = -1
        return labels

    def has_pairs(self) -> bool:
        """Whether any pair of residues counts."""
        known = np.flatnonzero(self.known)
        return len(known) > 0 and bool(known[-1] - known[0] >= LEAST_SEPARATION)

    def content(self) -> Iterator[str | bytes]:
        """Yield what the protein's fingerprint depends on."""
        yield f"{self.id} {self.sequence} "
        yield self.known.tobytes()
        values = self.contacts if self.coordinates is None else self.coordinates
        yield b"" if values is None else np.ascontiguousarray(values).tobytes()


@dataclass
class ContactSet:
    """The proteins of a file or folder.

    Attributes:
        name (`str`): Name of the file or folder, without the path.
        proteins (`list[ContactProtein]`): The proteins that can be used, in their order.
        left_out (`LeftOut`): The others.
        notes (`list[str]`): Remarks for the log and the results.
        unreadable (`dict[str, str]`): Names of the files of a folder that could not be read, with the reasons.
    """

    name: str
    proteins: list[ContactProtein] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    notes: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """The number of proteins that were found, also of those left out."""
        return len(self.proteins) + self.left_out.total


@dataclass(frozen=True)
class ContactColumns:
    """Columns of a table: sequence, contacts, and optionally ids and a mask of the residues that count.

    A table lists the pairs of residues that are in contact, counted from 1. If `id` or `mask` is `None`, the columns
    `id` and `valid_mask` are read where they exist.
    """

    sequence: str = "sequence"
    contacts: str = "contacts"
    id: str | None = None
    mask: str | None = None


def read_contacts(path: str, columns: ContactColumns | None = None) -> ContactSet:
    """Read the proteins of a file or folder.

    Args:
        path (`str`): One of

            - a table (CSV, TSV, JSON lines, JSON, Parquet) with the columns of [`ContactColumns`];
            - TAPE's ProteinNet data (`.json`, `.jsonl`, `.lmdb`): records with `primary`, `tertiary` (coordinates of
              one atom per residue, in ångström) and `valid_mask`;
            - an mmCIF or PDB file, or a folder with such files; needs the package gemmi.
        columns ([`ContactColumns`], *optional*): Columns of a table.

    Returns:
        [`ContactSet`]: The proteins. Those without contacts or coordinates are left out and counted, and so are files
        of a folder that cannot be read.

    Raises:
        MissingPackageError: If a package is missing.
        CorpusError: If a file, or every file of a folder, cannot be read; the message names file, record and column.
    """
    columns = columns or ContactColumns()
    path = os.path.expanduser(path)
    found = ContactSet(os.path.basename(path.rstrip("/")))
    if is_structure(path):
        _add_structures(found, {path: list(read_chains(path))})
    elif os.path.isdir(path) and not path.rstrip("/").lower().endswith(".lmdb"):
        files = structure_files(path)
        if not files:
            raise CorpusError(f"{path}: there is no file that ends in {', '.join(ENDINGS)} (or these with .gz).")
        _add_folder(found, path, files)
    elif _is_proteinnet(path):
        _add_proteinnet(found, path)
    else:
        _add_table(found, path, columns)
    if not found.proteins:
        reasons = [found.left_out.summary(found.records)] if found.left_out.total else []
        reasons += [f"{count(len(found.unreadable), 'file')} could not be read"] if found.unreadable else []
        raise CorpusError(f"{path}: no protein can be used; {', and '.join(reasons)}.")
    return found


def _add(found: ContactSet, where: str, protein: ContactProtein) -> None:
    if protein.has_pairs():
        found.proteins.append(protein)
    else:
        found.left_out.add(NO_PAIR, where)


def _add_folder(found: ContactSet, folder: str, paths: list[str]) -> None:
    """Add the chains of many files. Those that cannot be read are named in a note."""
    chains = {}
    for path in paths:
        try:
            chains[path] = list(read_chains(path))
        except UnreadableStructureError as error:
            found.unreadable[os.path.basename(path)] = error.reason
    if not chains:
        name, reason = next(iter(found.unreadable.items()))
        raise CorpusError(
            f"{folder}: none of its {count(len(paths), 'file')} could be read as a structure; the first is {name} "
            f"({reason})."
        )
    if found.unreadable:
        names, number = list(found.unreadable), len(found.unreadable)
        why = verb(number, "it could not be read as a structure", "they could not be read as structures")
        more = f" and {number - _NAMED:,} more" if number > _NAMED else ""
        found.notes.append(
            f"{found.name}: {number:,} of {count(len(paths), 'file')} {verb(number, 'is', 'are')} left out, because "
            f"{why}: {', '.join(names[:_NAMED])}{more}."
        )
    _add_structures(found, chains)


def _add_structures(found: ContactSet, chains_of: Mapping[str, list[Chain]]) -> None:
    incomplete = 0
    for path, chains in chains_of.items():
        for chain in chains:
            incomplete += not chain.whole
            known = np.isfinite(chain.coordinates).all(axis=1)
            protein = ContactProtein(chain.id, clean_sequence(chain.sequence).sequence, known, chain.coordinates)
            _add(found, chain.id, protein)
        if not chains:
            found.left_out.add(NO_CHAIN, os.path.basename(path))
    if incomplete:
        found.notes.append(
            f"{found.name}: for {incomplete:,} of {found.records:,} chains the file has no full sequence, so residues "
            "without coordinates are missing in what the encoder reads."
        )


def _is_proteinnet(path: str) -> bool:
    """Whether the first record has coordinates."""
    _, first = next(read_records(path, [], ["tertiary"]))
    return "tertiary" in first


def _add_proteinnet(found: ContactSet, path: str) -> None:
    for number, (where, record) in enumerate(read_records(path, ["primary", "tertiary"], ["id", "valid_mask"])):
        column = "primary"
        try:
            sequence = _sequence(record[column])
            column = "tertiary"
            coordinates = _coordinates(record[column], len(sequence))
            column = "valid_mask"
            known = _mask(record.get(column), len(sequence)) & np.isfinite(coordinates).all(axis=1)
            column = "id"
            name = read_text(record.get(column))
        except CorpusError:
            raise
        except ValueError as error:
            raise CorpusError(f'{path}: {where}: column "{column}" {one_line(error)}.') from error
        _add(found, where, ContactProtein(str(number) if name is None else name, sequence, known, coordinates))


def _add_table(found: ContactSet, path: str, columns: ContactColumns) -> None:
    required = [columns.sequence, columns.contacts, *filter(None, (columns.id, columns.mask))]
    id_column, mask_column = columns.id or "id", columns.mask or "valid_mask"
    for number, (where, record) in enumerate(read_records(path, required, [id_column, mask_column])):
        column = columns.sequence
        try:
            sequence = _sequence(record[column])
            column = columns.contacts
            contacts = read_pairs(record[column], len(sequence))
            column = mask_column
            known = _mask(record.get(column), len(sequence))
            column = id_column
            name = read_text(record.get(column))
        except CorpusError:
            raise
        except ValueError as error:
            raise CorpusError(f'{path}: {where}: column "{column}" {one_line(error)}.') from error
        if contacts is None:
            found.left_out.add(NO_LABEL, where)
        else:
            identifier = str(number) if name is None else name
            _add(found, where, ContactProtein(identifier, sequence, known, contacts=contacts))


def _sequence(value: Any) -> str:
    text = read_sequence(value)
    if is_missing(text):
        raise ValueError(f"contains {shorten(text)} instead of a sequence" if text else "contains no sequence")
    return clean_sequence(in_place(text)[0]).sequence


def _mask(value: Any, residues: int) -> np.ndarray:
    mask = read_mask(value)
    if mask is None:
        return np.ones(residues, dtype=bool)
    if len(mask) != residues:
        raise ValueError(
            f"has {count(len(mask), 'value')} for {count(residues, 'residue')}, but needs one per residue"
        )
    return mask


def _coordinates(value: Any, residues: int) -> np.ndarray:
    try:
        coordinates = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        raise ValueError(f"contains {shorten(str(value)[:200])}, but must contain three numbers per residue") from None
    if coordinates.shape != (residues, 3):
        shape = "×".join(map(str, coordinates.shape))
        raise ValueError(
            f"has the shape {shape} for {count(residues, 'residue')}, but needs three numbers per residue"
        )
    return coordinates


def read_pairs(value: Any, residues: int) -> np.ndarray | None:
    """Read a list of pairs of residues, counted from 1; `None` if it is missing.

    Args:
        value: A list of pairs, also as JSON text; an empty list for a protein without contacts.
        residues (`int`): Residues in the protein.

    Returns:
        `np.ndarray` of shape `(pairs, 2)`, int32, counted from 0.

    Raises:
        ValueError: If the value is something else, or if there is no such residue; the message completes the sentence
            'column "..." ...'.
    """
    value = to_python(value)
    if is_missing(value):
        return None
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
        # a list of arrays, as Parquet has it
        pairs = np.array([list(map(float, pair)) for pair in parsed], dtype=np.float64).reshape(-1, 2)
        if any(len(pair) != 2 for pair in parsed) or (pairs != np.floor(pairs)).any():
            raise ValueError
    except (TypeError, ValueError, RecursionError):
        raise ValueError(f"contains {shorten(str(value)[:200])}, but must contain {_EXAMPLE}") from None
    wrong = pairs[(pairs < 1) | (pairs > residues)]
    if len(wrong):
        raise ValueError(
            f"names the residue {wrong[0]:.0f}, but the {count(residues, 'residue')} are counted from 1 to "
            f"{residues:,}"
        )
    return pairs.astype(np.int32) - 1
