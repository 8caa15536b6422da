"""Collapse of the game: the loss on random masks rises because the choice of positions reveals the residues."""

import logging
from collections.abc import Mapping, Sequence

from transformers import TrainerCallback

from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments

logger = logging.getLogger(__name__)

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


def collapse_figures(
    logs: Mapping[str, float], history: Sequence[Mapping[str, float]], args: AdversarialMLMTrainingArguments
) -> dict[str, float]:
    """Figures for a training entry of the log: `random_loss_above_best` (nats) and `collapse` (0 or 1).

    Args:
        logs (`Mapping[str, float]`): The entry.
        history (`Sequence[Mapping[str, float]]`): The entries before it.
        args ([`AdversarialMLMTrainingArguments`]): `collapse_margin` and `collapse_enrichment`.

    Returns:
        `dict[str, float]`, empty where there is no noiser or no random mask to judge by.
    """
    if not {"random_loss", "enrichment_max"} <= logs.keys():
        return {}
    earlier = [entry["random_loss"] for entry in history if "random_loss" in entry]
    above = random_loss_above_best([*earlier, logs["random_loss"]])
    collapsed = has_collapsed(above, logs["enrichment_max"], args.collapse_margin, args.collapse_enrichment)
    return {"random_loss_above_best": above, "collapse": float(collapsed)}


class CollapseAlarm(TrainerCallback):
    """Warns at the first log entry that reports a collapse, and stops the run if that is asked for.

    Args:
        view (`str`): Of the noiser; the message advises `blind` to one that is not.
        stop (`bool`): Whether the run stops (`on_collapse: stop`).
    """

    def __init__(self, view: str, stop: bool):
        self.view, self.stop = view, stop

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not (logs or {}).get("collapse"):
            return
        is_first = sum(bool(entry.get("collapse")) for entry in state.log_history) == 1
        if is_first and state.is_world_process_zero:
            above, enrichment = logs["random_loss_above_best"], logs["enrichment_max"]
            logger.warning(collapse_message(state.global_step, above, enrichment, self.view))
        if self.stop:
            control.should_training_stop = True


def collapse_message(step: int, above_best: float, enrichment_max: float, view: str) -> str:
    """One paragraph that says what happened and which options help."""
    remedies = ["a lower noiser_learning_rate", "a lower adversarial_share", "a higher importance_exponent"]
    if view != "blind":
        remedies.insert(0, "noiser_view: blind, where no mask can tell what it hides")
    return (
        f"collapse at step {step}: the loss on random masks is {above_best:.2f} nats above its best while the noiser "
        f"masks one residue {enrichment_max:.1f} times as often as its share. What helps: {'; '.join(remedies)}."
    )
