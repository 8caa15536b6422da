"""Sparse logistic regression from attention maps to contacts, as in Rao et al. (2021)."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from adversarial_mlm.downstream.contacts.data import ContactProtein
from adversarial_mlm.utils.errors import CorpusError
from adversarial_mlm.utils.extras import require

INVERSE_PENALTY = 0.15
"""scikit-learn's `C`, with which the authors of Rao et al. (2021) fitted theirs (facebookresearch/esm, issue 249)."""

_MOST_ITERATIONS = 1000


@dataclass(frozen=True)
class ContactRegression:
    """A fitted regression.

    Attributes:
        weights (`np.ndarray` of shape `(layers * heads,)`): The weight of each head.
        intercept (`float`): The intercept.
        converged (`bool`): Whether the fit converged.
        pairs, contacts (`int`): Pairs of residues that it was fitted on, and those in contact.
    """

    weights: np.ndarray
    intercept: float
    converged: bool
    pairs: int
    contacts: int

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return the logits of pairs, `(pairs,)`, from their features, `(layers * heads, pairs)`."""
        return self.weights @ features + self.intercept

    def facts(self) -> dict[str, float]:
        """Return what results tell about the fit."""
        heads = {"heads": len(self.weights), "heads_with_a_weight": int(np.count_nonzero(self.weights))}
        return {**heads, "pairs": self.pairs, "contacts": self.contacts, "converged": self.converged}


def fit_contacts(
    proteins: Sequence[ContactProtein], features_of: Callable[[ContactProtein], np.ndarray]
) -> ContactRegression:
    """Fit logistic regression with an L1 penalty on all pairs of residues that count.

    In memory are the features of all pairs in float64, and those of one protein. scikit-learn's solver makes a sparse
    copy of them, of twice the size.

    Args:
        proteins (`Sequence[ContactProtein]`): The training proteins.
        features_of (`Callable`): Returns the features of a protein's pairs, `(layers * heads, pairs)`.

    Raises:
        MissingPackageError: If scikit-learn is not installed.
        CorpusError: If the proteins have no contact, or nothing else.
    """
    linear_model = require("sklearn.linear_model", "structures", "the regression of contacts")
    labels = [protein.labels() for protein in proteins]
    wanted = np.concatenate([of_protein[of_protein >= 0] for of_protein in labels])
    if wanted.min() == wanted.max():
        raise CorpusError(
            f"the {len(proteins):,} training proteins have {int(wanted.sum()):,} contacts in {len(wanted):,} pairs of "
            "residues, so no regression can be fitted: use other proteins."
        )
    rows: np.ndarray | None = None
    start = 0
    for protein, of_protein in zip(proteins, labels, strict=True):
        features = features_of(protein)[:, of_protein >= 0]
        if rows is None:
            rows = np.empty((len(wanted), len(features)))
        rows[start : start + features.shape[1]] = features.T
        start += features.shape[1]
    # liblinear shuffles the columns; the seed makes the fit repeatable
    model = linear_model.LogisticRegression(
        l1_ratio=1.0, C=INVERSE_PENALTY, solver="liblinear", max_iter=_MOST_ITERATIONS, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of convergence, which the result tells
        model.fit(rows, wanted)
    converged = bool((model.n_iter_ < _MOST_ITERATIONS).all())
    return ContactRegression(
        model.coef_[0].copy(), float(model.intercept_[0]), converged, len(wanted), int(wanted.sum())
    )
