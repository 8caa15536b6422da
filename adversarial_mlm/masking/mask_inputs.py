"""What ways of masking need of each record beside its residues: weights of residues, or the number of the pass."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from adversarial_mlm.data.residue_weights import ResidueWeights, as_weights
from adversarial_mlm.masking.keyed_random import RECORD, row_keys
from adversarial_mlm.masking.positions import PASS, RECORD_KEY, WEIGHTS
from adversarial_mlm.utils.errors import CorpusError, one_line


class MaskInputs:
    """Adds to a batch of the CPU stage what the choice of positions needs. It is small, because workers copy it.

    Args:
        positions (`str`): `"stratified"` or `"weighted"`, see [`positions`].
        weights ([`ResidueWeights`], *optional*): Weights by id, for examples without a list `mask_weights`.
    """

    def __init__(self, positions: str, weights: ResidueWeights | None = None):
        self.positions, self.weights = positions, weights

    def of(
        self,
        examples: Sequence[Mapping],
        windows: Sequence[tuple[int, int, int]],
        first_column: int,
        width: int,
        seed: int,
        required: bool,
    ) -> dict[str, torch.Tensor]:
        """Return what a batch gets in addition; nothing if an example lacks it and it is not required.

        Args:
            examples (`Sequence[Mapping]`): The examples.
            windows (`Sequence[tuple[int, int, int]]`): First residue and number of residues of each row, and residues
                of the whole protein.
            first_column (`int`): Column of the first residue of a row.
            width (`int`): Columns of the batch.
            seed (`int`): Seed of the orders of `stratified`.
            required (`bool`): Whether it is for training.

        Raises:
            CorpusError: If weights cannot be used, or if something is missing that is required. The message names the
                record.
        """
        if self.positions == "stratified":
            return _passes(examples, seed, required)
        found = [
            None if example.get("filler") else self._weights(example, whole)
            for example, (*_, whole) in zip(examples, windows, strict=True)
        ]
        for example, weights in zip(examples, found, strict=True):
            if weights is None and not example.get("filler"):
                if not required:
                    return {}
                source = "it" if self.weights is None else self.weights.source
                raise CorpusError(f"{_name(example)}: {source} has no {WEIGHTS}, which masking: weighted needs.")
        rows = np.zeros((len(examples), width), dtype=np.float32)
        for row, weights, (first, count, _) in zip(rows, found, windows, strict=True):
            if weights is not None:
                row[first_column : first_column + count] = weights[first : first + count]
        return {WEIGHTS: torch.from_numpy(rows)}

    def _weights(self, example: Mapping, residues: int) -> np.ndarray | None:
        given, weights, source = example.get(WEIGHTS), None, WEIGHTS
        if given is not None:
            try:
                weights = as_weights(given)
            except CorpusError as error:
                raise CorpusError(f"{_name(example)}: {WEIGHTS} {one_line(error)}.") from error
        elif self.weights is not None:
            weights, source = self.weights.get(str(example.get("id"))), self.weights.source
        else:
            return None
        if weights is not None and len(weights) != residues:
            raise CorpusError(
                f"{_name(example)}: {source} has {len(weights):,} weights, but the sequence has {residues:,} residues."
            )
        return weights


def _passes(examples: Sequence[Mapping], seed: int, required: bool) -> dict[str, torch.Tensor]:
    for example in examples:
        if "record" not in example or "epoch" not in example:
            if required:
                raise CorpusError("masking: stratified needs numbered records, which a stream does not have.")
            return {}
    records = torch.tensor([example["record"] for example in examples])
    return {
        PASS: torch.tensor([example["epoch"] for example in examples]),
        RECORD_KEY: row_keys(seed, RECORD, 0, records),
    }


def _name(example: Mapping) -> str:
    record: Any = example.get("id", example.get("record"))
    return "an example" if record is None else f"record {record}"
