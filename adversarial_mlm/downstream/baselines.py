"""Baselines without pre-training, which a result should beat."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from adversarial_mlm.downstream.alignment import GAP, SYMBOLS, align_variants, residue_numbers
from adversarial_mlm.downstream.linear_heads import Rows
from adversarial_mlm.downstream.probes import fit_head
from adversarial_mlm.downstream.tasks import TaskData

logger = logging.getLogger(__name__)

_ROWS_AT_ONCE = 2048
_MOST_COLUMNS = 8192  # memory grows with the square; this is half a gigabyte

Predictions = dict[str, Any]


def baselines_for(data: TaskData) -> dict[str, Callable[[], Predictions]]:
    """Return the baselines of a task by name. Each is a function that returns predictions by split.

    - `mean` or `majority`: a constant, from the labels of train.
    - `one_hot_ridge` (regression on variants, see [`align_variants`]): ridge regression on the residue in each column.
      Left out with a warning if there are more than 8,192 residues in columns.
    - `composition` (one label per protein): the probe's head on the shares of residues and of neighbouring pairs, and
      the logarithm of the length.
    - `trigram` (labels of residues): the most frequent class of a residue with these two neighbours.

    Args:
        data ([`TaskData`]): The task.
    """
    if data.task.kind == "token_classification":
        return {"majority": lambda: _majority_of_residues(data), "trigram": lambda: trigram(data)}
    baselines = {"composition": lambda: composition(data)}
    if data.task.kind == "classification":
        return {"majority": lambda: _majority(data), **baselines}
    baselines = {"mean": lambda: _mean(data), **baselines}
    tables = align_variants(
        data.splits["train"]["sequence"][:],
        [dataset["sequence"][:] for split, dataset in data.splits.items() if split != "train"],
    )
    if tables is None:
        return baselines
    columns = len(_residues_that_vary(tables[0]))
    if columns > _MOST_COLUMNS:
        logger.warning(
            "%s: the baseline one_hot_ridge is left out, because train has %s residues in columns that vary and it "
            "takes at most %s.", data.task.name, f"{columns:,}", f"{_MOST_COLUMNS:,}"
        )  # fmt: skip
        return baselines
    return {**baselines, "one_hot_ridge": lambda: one_hot_ridge(data, tables)}


def _mean(data: TaskData) -> Predictions:
    mean = float(np.mean(data.splits["train"]["label"][:], dtype=np.float64))
    return {split: np.full(len(dataset), mean) for split, dataset in data.splits.items()}


def _majority(data: TaskData) -> Predictions:
    most = int(np.bincount(data.splits["train"]["label"][:]).argmax())
    return {split: np.full(len(dataset), most) for split, dataset in data.splits.items()}


def _majority_of_residues(data: TaskData) -> Predictions:
    labels = np.concatenate(data.splits["train"].with_format("numpy")["label"][:])
    most = int(np.bincount(labels[labels >= 0]).argmax())
    return {
        split: [np.full(len(sequence), most) for sequence in dataset["sequence"][:]]
        for split, dataset in data.splits.items()
    }


def one_hot_ridge(data: TaskData, tables: list[np.ndarray]) -> Predictions:
    """Fit additive ridge regression on the residue in each column. Residues unseen in that column count 0.

    Args:
        data ([`TaskData`]): A regression task.
        tables (`list[np.ndarray]`): Result of [`align_variants`]: train first, then the other splits in order.
    """
    names = ["train", *(split for split in data.splits if split != "train")]
    offsets = np.arange(tables[0].shape[1]) * SYMBOLS
    wanted = _residues_that_vary(tables[0])
    number = np.full(len(offsets) * SYMBOLS, -1)
    number[wanted] = np.arange(len(wanted))

    def rows_of(table: np.ndarray) -> Rows:
        def blocks() -> Iterator[np.ndarray]:
            for start in range(0, len(table), _ROWS_AT_ONCE):
                columns = number[table[start : start + _ROWS_AT_ONCE] + offsets]
                block = np.zeros((len(columns), len(wanted)), dtype=np.float32)
                row, position = np.nonzero(columns >= 0)
                block[row, columns[row, position]] = 1.0
                yield block

        return Rows(len(table), len(wanted), blocks)

    rows = {split: rows_of(table) for split, table in zip(names, tables, strict=True)}
    return fit_head(data, rows, standardise=False).predictions


def _residues_that_vary(table: np.ndarray) -> np.ndarray:
    """Return column · SYMBOLS + residue for all residues that some rows have in a column and others do not."""
    offsets = np.arange(table.shape[1]) * SYMBOLS
    seen = np.bincount((table + offsets).ravel(), minlength=len(offsets) * SYMBOLS)
    return np.flatnonzero((seen > 0) & (seen < len(table)))


def composition(data: TaskData) -> Predictions:
    """Fit a probe's head on the shares of residues and of neighbouring pairs, and the logarithm of the length."""
    rows = {split: Rows.of(_composition(dataset["sequence"][:])) for split, dataset in data.splits.items()}
    return fit_head(data, rows).predictions


def _composition(sequences: Sequence[str]) -> np.ndarray:
    kinds = SYMBOLS - 1
    found = np.zeros((len(sequences), kinds + kinds * kinds + 1), dtype=np.float32)
    for row, sequence in zip(found, sequences, strict=True):
        numbers = residue_numbers(sequence).astype(np.int64) - 1
        row[:kinds] = np.bincount(numbers, minlength=kinds) / len(numbers)
        pairs = np.bincount(numbers[:-1] * kinds + numbers[1:], minlength=kinds * kinds)
        row[kinds:-1] = pairs / max(len(numbers) - 1, 1)
        row[-1] = np.log(len(numbers))
    return found


def trigram(data: TaskData) -> Predictions:
    """Predict the most frequent class in train of a residue with these two neighbours.

    The ends of a protein count as neighbours. A trigram that train lacks gets the most frequent class of its middle
    residue, and a residue that train lacks the most frequent class of all.
    """
    classes = data.num_classes
    train = data.splits["train"]
    labels = np.concatenate(train.with_format("numpy")["label"][:])
    counts = np.zeros((SYMBOLS**3, classes), dtype=np.int64)
    scored = labels >= 0
    grams = np.concatenate([_trigrams(sequence) for sequence in train["sequence"][:]])
    np.add.at(counts, (grams[scored], labels[scored]), 1)
    of_middle = counts.reshape(SYMBOLS, SYMBOLS, SYMBOLS, classes).sum(axis=(0, 2))
    of_middle = np.where(of_middle.sum(axis=1, keepdims=True) > 0, of_middle, counts.sum(axis=0))
    middles = np.arange(SYMBOLS**3) // SYMBOLS % SYMBOLS
    best = np.where(counts.sum(axis=1) > 0, counts.argmax(axis=1), of_middle[middles].argmax(axis=1))
    return {
        split: [best[_trigrams(sequence)] for sequence in dataset["sequence"][:]]
        for split, dataset in data.splits.items()
    }


def _trigrams(sequence: str) -> np.ndarray:
    padded = np.concatenate([[GAP], residue_numbers(sequence).astype(np.int64), [GAP]])
    return (padded[:-2] * SYMBOLS + padded[1:-1]) * SYMBOLS + padded[2:]
