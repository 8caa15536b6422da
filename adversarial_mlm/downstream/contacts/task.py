"""The proteins of an evaluation of contacts: those to measure, and those to fit a regression on."""

import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from adversarial_mlm.downstream.arguments import TapeArguments
from adversarial_mlm.downstream.contacts.data import ContactColumns, ContactProtein, ContactSet, read_contacts
from adversarial_mlm.downstream.contacts.results import SPLIT
from adversarial_mlm.downstream.contacts.structures import structure_files
from adversarial_mlm.downstream.tasks import find_file
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import CorpusError
from adversarial_mlm.utils.hashing import fingerprint_of_parts
from adversarial_mlm.utils.options import required

logger = logging.getLogger(__name__)

_FOLDERS = ("proteinnet", "contacts", "")
_PREFIX = "proteinnet"


@dataclass
class ContactTask:
    """The proteins of an evaluation.

    Attributes:
        test (`list[ContactProtein]`): The proteins on which predictions are measured.
        pool (`list[ContactProtein]`): The proteins from which those of the regression are drawn.
        of_regression (`int`): The number of proteins of a regression; 0 if there are none.
        files (`dict[str, str]`): Names of the files by split.
        unreadable (`dict[str, dict[str, str]]`): By split, the files of a folder that could not be read, with reasons.
        notes (`list[str]`): Remarks for the log and the results.
    """

    test: list[ContactProtein]
    pool: list[ContactProtein]
    of_regression: int
    files: dict[str, str]
    unreadable: dict[str, dict[str, str]]
    notes: list[str]

    def draw(self, seed: int) -> list[ContactProtein]:
        """Return the proteins of a regression, in the order of the file."""
        chosen = np.random.default_rng(seed).choice(len(self.pool), self.of_regression, replace=False)
        return [self.pool[index] for index in np.sort(chosen)]

    @property
    def draws_differ(self) -> bool:
        """Whether other seeds draw other proteins."""
        return 0 < self.of_regression < len(self.pool)

    def data(self) -> dict[str, Any]:
        """Return what results tell about the data."""
        sets = {"train": self.pool, SPLIT: self.test}
        return {
            "files": self.files,
            **({"unreadable": self.unreadable} if self.unreadable else {}),
            "rows": {split: len(proteins) for split, proteins in sets.items()},
            "fingerprints": {
                split: fingerprint_of_parts(part for protein in proteins for part in protein.content())
                for split, proteins in sets.items()
            },
        }


def load_contact_task(args: TapeArguments, most_residues: int | None = None) -> ContactTask:
    """Read the proteins of the command line.

    Args:
        args ([`TapeArguments`]): Options of the command line.
        most_residues (`int`, *optional*): Longer proteins are left out and counted, because an encoder cannot read
            them at once.

    Raises:
        CorpusError: If a file cannot be read or has no protein that can be used.
    """
    train_file, test_file = _paths(args)
    columns = ContactColumns(args.sequence_column, args.contacts_column, args.id_column, args.mask_column)
    sets = {SPLIT: read_contacts(test_file, columns)}
    if train_file is not None:
        sets["train"] = read_contacts(train_file, columns)
    notes: list[str] = []
    proteins = {split: _usable(split, found, most_residues, notes) for split, found in sets.items()}
    test, pool = proteins[SPLIT], proteins.get("train")
    wanted = args.contact_train_proteins
    if pool is None:
        test, pool = _split(test, wanted, args.split_seed, notes)
    elif len(pool) < wanted:
        notes.append(f"the regression is fitted on {count(len(pool), 'protein')}, because train has no more.")
    if args.max_records is not None and args.max_records < len(test):
        used = verb(args.max_records, "is", "are")
        notes.append(f"{SPLIT}: {args.max_records:,} of {count(len(test), 'protein')} {used} used (max_records).")
        chosen = np.random.default_rng(0).choice(len(test), args.max_records, replace=False)
        test = [test[index] for index in np.sort(chosen)]
    seen = {protein.sequence for protein in pool}
    shared = sum(protein.sequence in seen for protein in test)
    if shared:
        notes.append(f"{SPLIT}: the sequences of {shared:,} of {count(len(test), 'protein')} are also in train.")
    for note in notes:
        logger.warning("contacts: %s", note)
    files = {split: found.name for split, found in sets.items()}
    unreadable = {split: found.unreadable for split, found in sets.items() if found.unreadable}
    for split, reasons in unreadable.items():
        for name, reason in reasons.items():
            logger.warning("contacts: %s: %s is left out: %s", split, name, reason)
    return ContactTask(test, pool, min(wanted, len(pool)), files, unreadable, notes)


def _paths(args: TapeArguments) -> tuple[str | None, str]:
    """Return the file of the training proteins, if there is one, and that of the test proteins."""
    if args.data_dir is None:
        return args.train_file, required(args.test_file, "test_file")
    folder = args.data_dir
    if not os.path.isdir(folder):
        raise CorpusError(f"{folder}: there is no such folder (data_dir).")
    folders, prefix = [os.path.join(folder, name) for name in _FOLDERS], args.file_prefix or _PREFIX
    train, test = (find_file(folders, f"{prefix}_{split}") for split in ("train", SPLIT))
    if test is None and args.file_prefix is None and structure_files(folder):
        return None, folder
    if test is None:
        raise CorpusError(
            f"{folder}: there is neither a file {prefix}_{SPLIT} (.jsonl, .json or .lmdb) in it or in its folder "
            f"{_FOLDERS[0]}, nor a structure (.cif or .pdb): use test_file for other names."
        )
    return train, test


def _usable(split: str, found: ContactSet, most_residues: int | None, notes: list[str]) -> list[ContactProtein]:
    """Return the proteins that are not too long, and add notes of the others."""
    if found.left_out.total:
        notes.append(f"{split}: {found.left_out.summary(found.records)}.")
    notes.extend(found.notes)
    if most_residues is None:
        return found.proteins
    kept = [protein for protein in found.proteins if len(protein.sequence) <= most_residues]
    too_long = len(found.proteins) - len(kept)
    if too_long:
        notes.append(
            f"{split}: {too_long:,} of {count(len(found.proteins), 'protein')} {verb(too_long, 'is', 'are')} "
            "left out, "
            f"because {verb(too_long, 'it has', 'they have')} more than the {count(most_residues, 'residue')} "
            "that the "
            "encoder reads at once."
        )
    if not kept:
        raise CorpusError(f"{found.name}: all proteins have more than the {most_residues:,} residues of the encoder.")
    return kept


def _split(
    proteins: list[ContactProtein], wanted: int, seed: int, notes: list[str]
) -> tuple[list[ContactProtein], list[ContactProtein]]:
    """Return test and training proteins of one file; at most half of the proteins are for training."""
    number = min(wanted, len(proteins) // 2)
    if number == 0:
        notes.append("there is no regression, because the only protein is needed for the test: give train_file.")
        return proteins, []
    chosen = set(np.random.default_rng(seed).choice(len(proteins), number, replace=False).tolist())
    notes.append(
        f"the regression is fitted on {number:,} of {count(len(proteins), 'protein')}, drawn at random "
        f"(split_seed {seed}) "
        "and left out of the test. Related proteins may stay in it, so the results may be too optimistic."
    )
    test = [protein for index, protein in enumerate(proteins) if index not in chosen]
    return test, [proteins[index] for index in sorted(chosen)]
