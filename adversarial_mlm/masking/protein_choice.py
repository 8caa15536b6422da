"""Choose the proteins of an update by how much can be learned from each."""

import torch

from adversarial_mlm.masking.keyed_random import PROTEIN, uniform
from adversarial_mlm.masking.positions import weighted_choice

PROTEIN_SHARE = 0.5
"""Share of the proteins of an update that are trained on, if `protein_share` is not given."""


def choose_proteins(keys: torch.Tensor, learnable: torch.Tensor, number: int) -> torch.Tensor:
    """Choose some of the proteins of an update, in proportion to what can be learned from each.

    The draw is without replacement (Pareto sampling). A protein that is so learnable that its probability would
    exceed 1 is always chosen.

    Args:
        keys (`torch.Tensor` of shape `(rows,)`, int64): Keys of the rows' noise, see [`keyed_random.row_keys`].
        learnable (`torch.Tensor` of shape `(rows,)`): What can be learned from each, positive, in any unit; 0 for rows
            that only fill up a batch, which are chosen last.
        number (`int`): How many are chosen, at most all.

    Returns:
        `torch.Tensor` of shape `(rows,)`, bool.
    """
    one_row = torch.ones(1, len(keys), dtype=torch.bool, device=keys.device)
    draws = uniform(keys, PROTEIN, 1).T
    budget = torch.full((1,), number, device=keys.device)
    return weighted_choice(draws, learnable[None], one_row, budget)[0]
