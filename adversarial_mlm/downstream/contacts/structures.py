"""Read protein chains from mmCIF and PDB files, with gemmi."""

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from adversarial_mlm.utils.errors import CorpusError, one_line
from adversarial_mlm.utils.extras import require

ENDINGS = (".cif", ".mmcif", ".pdb", ".ent")

_PART = 1 << 20  # bytes

NO_CHAIN = "without a protein chain"


class UnreadableStructureError(CorpusError):
    """A file that could not be read as a structure, for this reason."""

    def __init__(self, path: str, reason: str):
        super().__init__(f"{path}: could not be read as a structure ({reason}).")
        self.reason = reason


class Chain(NamedTuple):
    """A chain of a structure.

    Attributes:
        id (`str`): Name of the file without its ending, and of the chain, such as `1abc_A`.
        sequence (`str`): The whole sequence, also of residues without coordinates. Residues without a letter are `X`.
        coordinates (`np.ndarray` of shape `(residues, 3)`, float32): Ångström, of Cβ, and of Cα for glycine. They are
            nan where the atom is missing.
        whole (`bool`): Whether the file says which residues are missing. If not, the sequence consists of the residues
            with coordinates.
    """

    id: str
    sequence: str
    coordinates: np.ndarray
    whole: bool


def is_structure(path: str) -> bool:
    """Whether the name of a file ends as that of an mmCIF or PDB file, also with `.gz`."""
    name = path.lower()
    return name.removesuffix(".gz").endswith(ENDINGS)


def structure_files(folder: str) -> list[str]:
    """Return the paths of the mmCIF and PDB files in a folder, sorted."""
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if is_structure(name)]


def read_chains(path: str) -> Iterator[Chain]:
    """Yield the protein chains of the first model in a file; of chains with the same sequence, the first.

    Of alternative positions of an atom, and of alternative residues at a position, the first in the file counts.

    Args:
        path (`str`): An mmCIF or PDB file, see [`is_structure`].

    Raises:
        MissingPackageError: If gemmi is not installed.
        UnreadableStructureError: If the file cannot be read.
    """
    gemmi = require("gemmi", "structures", f"reading {os.path.basename(path)}")
    try:
        _check_whole(path)
        structure = gemmi.read_structure(path)
        structure.setup_entities()
        structure.assign_label_seq_id()
    except (OSError, EOFError, zlib.error, RuntimeError, ValueError, IndexError) as error:
        raise UnreadableStructureError(path, one_line(error).replace(path, os.path.basename(path))) from error
    name = re.sub(r"\.[a-z]+(\.gz)?$", "", os.path.basename(path), flags=re.IGNORECASE)
    seen = set()
    for chain in structure[0] if len(structure) else ():
        polymer = chain.get_polymer()
        if not len(polymer) or polymer.check_polymer_type() not in (
            gemmi.PolymerType.PeptideL,
            gemmi.PolymerType.PeptideD,
        ):
            continue
        entity = structure.get_entity_of(polymer)
        sequence, coordinates, whole = _residues(gemmi, polymer, list(entity.full_sequence) if entity else [])
        if sequence not in seen:
            seen.add(sequence)
            yield Chain(f"{name}_{chain.name}", sequence, coordinates, whole)


def _check_whole(path: str) -> None:
    """Decompress a `.gz` to its end, because gemmi reads one that was cut off as far as it goes."""
    if path.lower().endswith(".gz"):
        with gzip.open(path) as file:
            while file.read(_PART):
                pass


def _residues(gemmi: Any, polymer: Any, full_sequence: list[str]) -> tuple[str, np.ndarray, bool]:
    """Return the letters and coordinates of a chain, and whether the file has its full sequence."""
    modelled = list(polymer.first_conformer())
    places = [residue.label_seq - 1 if residue.label_seq else -1 for residue in modelled]
    letters = [_letter(gemmi, gemmi.Entity.first_mon(names)) for names in full_sequence]
    whole = bool(letters) and min(places) >= 0 and max(places) < len(letters)
    if not whole:
        places, letters = list(range(len(modelled))), [_letter(gemmi, residue.name) for residue in modelled]
    coordinates = np.full((len(letters), 3), np.nan, dtype=np.float32)
    for place, residue in zip(places, modelled, strict=True):
        atom = residue.find_atom("CA" if letters[place] == "G" else "CB", "*")
        if atom is not None:
            coordinates[place] = atom.pos.tolist()
    return "".join(letters), coordinates, whole


def _letter(gemmi: Any, name: str) -> str:
    """Return the letter of a residue; that of the parent for a modified one, such as M for MSE."""
    letter = gemmi.find_tabulated_residue(name).one_letter_code.upper()
    return letter if letter.isalpha() else "X"
