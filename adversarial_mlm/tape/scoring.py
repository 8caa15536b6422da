"""The one figure that counts of a task: what validation selects by."""

from collections.abc import Sequence

import numpy as np

from ..losses import IGNORE_INDEX
from ..statistics import spearman

HEADLINE_METRICS = {
    "regression": "spearman",
    "classification": "sequence_accuracy",
    "token_classification": "residue_accuracy",
}


def headline_score(kind: str, predictions: Sequence, labels: Sequence) -> float:
    """Spearman correlation, share of the right proteins or share of the right residues; the higher, the better.

    Args:
        kind (`str`): Of the task.
        predictions (`Sequence`): Per protein a number, a class, or the classes of its residues. Of a protein that was
            read in part the classes of that part; the residues behind count as wrong.
        labels (`Sequence`): As in [`TaskData`]; -100 does not count, -1 is never right.

    Returns:
        `float`; nan where a correlation is not defined.
    """
    if kind == "regression":
        return float(spearman(np.asarray(predictions, dtype=np.float64), np.asarray(labels, dtype=np.float64)))
    if kind == "classification":
        return float((np.asarray(predictions) == np.asarray(labels)).mean())
    right = total = 0
    for predicted, wanted in zip(predictions, labels, strict=True):
        wanted = np.asarray(wanted)
        total += int((wanted != IGNORE_INDEX).sum())
        right += int((np.asarray(predicted) == wanted[: len(predicted)]).sum())
    return right / max(total, 1)
