"""Held-out proteins in two parts: selection, for every choice, and confirmation, which is evaluated once."""

import dataclasses
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset

from adversarial_mlm.comparison.recipe import HeldOut
from adversarial_mlm.data import read_cluster_table
from adversarial_mlm.recipes.data import ProteinData, load_data
from adversarial_mlm.recipes.recipe import DataArguments
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.hashing import fingerprint_of_parts, random_key

_RECORDS_IN_FINGERPRINT = 10_000


@dataclass
class ComparisonData:
    """The proteins of a comparison.

    Attributes:
        proteins ([`ProteinData`]): Training proteins; their held-out sets are the selection part only.
        confirmation (`dict[str, Dataset]`): The confirmation part of each held-out set.
        fingerprint (`str`): 16 hexadecimal digits that identify all proteins.
        clusters (`dict[str, str]`): The family of each id; empty without a cluster table.
        log_shares (`dict`): The background predictor of the training proteins, by vocabulary, length and crop seed.
    """

    proteins: ProteinData
    confirmation: dict[str, Dataset]
    fingerprint: str
    clusters: dict[str, str]
    log_shares: dict[Hashable, torch.Tensor] = field(default_factory=dict)

    @property
    def by_family(self) -> bool:
        """Whether held-out proteins were divided by whole families; otherwise by sequences."""
        return bool(self.clusters)

    @property
    def selection(self) -> dict[str, Dataset]:
        """The selection part of each held-out set."""
        return self.proteins.held_out

    def for_a_run(self) -> ProteinData:
        """Return the proteins for one run, with its own copy of `facts`."""
        return dataclasses.replace(self.proteins, facts=dict(self.proteins.facts))

    def sizes(self) -> dict[str, dict[str, int]]:
        """Return the number of proteins in each part, and of families if they are known."""
        train: Dataset = self.proteins.train
        found: dict[str, dict[str, int]] = {"train": {"proteins": len(train)}}
        for name in self.selection:
            parts = {"selection": self.selection[name], "confirmation": self.confirmation[name]}
            found[name] = {of: len(part) for of, part in parts.items()}
            if self.by_family:
                found[name] |= {
                    f"{of}_families": len(set(_families(part, self.clusters))) for of, part in parts.items()
                }
        return found


def load_comparison_data(args: DataArguments, held_out: HeldOut) -> ComparisonData:
    """Read the proteins and divide the held-out ones.

    Raises:
        RecipeError: If nothing is held out, or a held-out set has too few clusters to divide.
        CorpusError: If the data cannot be read.
    """
    data = load_data(args)
    if not data.held_out:
        raise RecipeError(
            "no proteins are held out, so the arms cannot be compared: set holdout_families, holdout_members, "
            "holdout_random or validation_data in common"
        )
    clusters = read_cluster_table(args.cluster_table) if args.cluster_table else {}
    selection, confirmation = {}, {}
    placed: dict[str, bool] = {}
    for name, part in data.held_out.items():
        chosen = _in_confirmation(part, clusters, held_out, name, placed)
        selection[name] = part.select(np.flatnonzero(~chosen))
        confirmation[name] = part.select(np.flatnonzero(chosen))
    proteins = dataclasses.replace(data, held_out=selection)
    return ComparisonData(
        proteins,
        confirmation,
        _fingerprint(data.train, *selection.values(), *confirmation.values()),
        clusters,
    )


def divide(clusters: list[str], share: float, seed: int, placed: dict[str, bool] | None = None) -> np.ndarray:
    """Divide records into two parts without splitting a cluster.

    The clusters are ordered by a hash of seed and name. Each goes to the part that is furthest from its target size.

    Args:
        clusters (`list[str]`): The cluster of each record.
        share (`float`): Share of the records that should be in the second part.
        seed (`int`): Seed of the order.
        placed (`dict[str, bool]`, *optional*): Clusters that another held-out set has already placed: `True` for the
            second part. The clusters of this call are added to it.

    Returns:
        `np.ndarray` of shape `(records,)`, bool: whether a record is in the second part.

    Raises:
        ValueError: If there is only one cluster, or if all clusters are already placed in the same part.
    """
    placed = {} if placed is None else placed
    names, numbers, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise ValueError(f"{len(clusters)} proteins of one cluster cannot be divided by clusters")
    order = sorted(range(len(names)), key=lambda number: random_key(seed, str(names[number])))
    wanted = np.array([1 - share, share]) * len(clusters)
    taken, part = np.zeros(2), np.zeros(len(names), dtype=bool)
    order.sort(key=lambda number: str(names[number]) not in placed)  # stable sort: clusters already placed come first
    for rank, number in enumerate(order):
        second = int(np.argmax(wanted - taken))
        left = len(order) - rank
        if left == 1 and not taken.all():  # no part may stay empty
            second = int(taken[1] == 0)
        part[number] = placed.setdefault(str(names[number]), bool(second))
        taken[int(part[number])] += sizes[number]
    if part.all() or not part.any():
        raise ValueError(f"its {len(names)} clusters are all in one part of another held-out set")
    return part[numbers]


def _in_confirmation(
    part: Dataset, clusters: dict[str, str], held_out: HeldOut, name: str, placed: dict[str, bool]
) -> np.ndarray:
    try:
        return divide(_families(part, clusters), held_out.confirmation_share, held_out.split_seed, placed)
    except ValueError as error:
        raise RecipeError(
            f"held-out set {name} cannot be divided into selection and confirmation part: {error}. Hold out more "
            "families"
        ) from error


def _families(part: Dataset, clusters: dict[str, str]) -> list[str]:
    """Return the family of each record. A protein without a cluster forms one with its exact copies."""
    return [
        clusters.get(identifier) or f"\0{sequence}"
        for identifier, sequence in zip(part["id"][:], part["sequence"][:], strict=True)
    ]


def _fingerprint(*parts: Dataset) -> str:
    def texts() -> Iterator[str]:
        for part in parts:
            yield f"{len(part)}\n"
            for row in part.select(range(0, len(part), max(len(part) // _RECORDS_IN_FINGERPRINT, 1))):
                yield f"{row['id']}\n{row['sequence']}\n"

    return fingerprint_of_parts(texts(), digits=16)
