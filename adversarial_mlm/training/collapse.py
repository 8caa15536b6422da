"""Is the game still good for the encoder?"""

from collections.abc import Sequence

_ENTRIES = 3  # of the log, averaged: one entry alone is too noisy to ring an alarm


def random_loss_above_best(random_losses: Sequence[float]) -> float:
    """How far the loss on random masks has risen above its best, nats; both are means of three entries in a row.

    Args:
        random_losses (`Sequence[float]`): Of a run's log, in order.

    Returns:
        `float`, 0 at the best, and where there are fewer than three entries.
    """
    means = [sum(random_losses[end - _ENTRIES : end]) / _ENTRIES for end in range(_ENTRIES, len(random_losses) + 1)]
    return means[-1] - min(means) if means else 0.0


def has_collapsed(above_best: float, enrichment_max: float, margin: float, enrichment: float) -> bool:
    """Whether the encoder loses what it knew, and by the noiser's doing.

    A high enrichment alone is no harm, nor is a passing rise of the loss. Both together are the collapse of the game:
    the choice of a position tells what stands there, the encoder answers that and forgets the protein, and the noiser
    moves on to the next residue.

    Args:
        above_best (`float`): See [`random_loss_above_best`].
        enrichment_max (`float`): How much more often than its share the favourite residue is masked.
        margin (`float`): Above which the first is a loss.
        enrichment (`float`): Above which the second is an obsession.
    """
    return above_best > margin and enrichment_max > enrichment


def collapse_message(step: int, above_best: float, enrichment_max: float, view: str) -> str:
    """One paragraph that says what happened and which options help."""
    remedies = ["a lower noiser_learning_rate", "a lower adversarial_share", "a higher importance_exponent"]
    if view != "blind":
        remedies.insert(0, "noiser_view: blind, where no mask can tell what it hides")
    return (
        f"collapse at step {step}: the loss on random masks is {above_best:.2f} nats above its best while the noiser "
        f"masks one residue {enrichment_max:.1f} times as often as its share. What helps: {'; '.join(remedies)}."
    )
