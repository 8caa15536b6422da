"""Detect collapse: the loss on random masks rises because the choice of positions reveals the residues."""

import logging
from collections.abc import Mapping, Sequence

from transformers import TrainerCallback

from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments

logger = logging.getLogger(__name__)

_ENTRIES = 3  # of the log that are averaged, because a single one is too noisy


def random_loss_above_best(random_losses: Sequence[float]) -> float:
    """How far the loss on random masks is above its best, in nats. Both are means of three successive log entries.

    Args:
        random_losses (`Sequence[float]`): `random_loss` of a run's log entries, in order.

    Returns:
        `float`; 0 at the best, and if there are fewer than three entries.
    """
    means = [sum(random_losses[end - _ENTRIES : end]) / _ENTRIES for end in range(_ENTRIES, len(random_losses) + 1)]
    return means[-1] - min(means) if means else 0.0


def has_collapsed(above_best: float, certain_enrichment: float, margin: float, enrichment: float) -> bool:
    """Whether training has collapsed: the loss on random masks has risen, and the noiser prefers one residue.

    Neither alone is a collapse. Together they show that the encoder predicts residues from the choice of positions
    rather than from the protein.

    Args:
        above_best (`float`): Rise of the loss, see [`random_loss_above_best`].
        certain_enrichment (`float`): How many times as often as its share one residue is masked at least. In an entry
            of few proteins, the most masked residue of a noiser without any preference has more than twice its share.
        margin (`float`): Limit of the first (`collapse_margin`).
        enrichment (`float`): Limit of the second (`collapse_enrichment`).
    """
    return above_best > margin and certain_enrichment > enrichment


def collapse_figures(
    logs: Mapping[str, float],
    history: Sequence[Mapping[str, float]],
    args: AdversarialMLMTrainingArguments,
    since: int = 0,
) -> dict[str, float]:
    """Figures for a training entry of the log.

    Args:
        logs (`Mapping[str, float]`): The entry.
        history (`Sequence[Mapping[str, float]]`): The entries before it.
        args ([`AdversarialMLMTrainingArguments`]): `collapse_margin` and `collapse_enrichment`.
        since (`int`, *optional*, defaults to 0): Step after which the masks are those of the entry. Losses on other
            masks are not compared.

    Returns:
        `dict[str, float]`: `random_loss_above_best` (nats) and `collapse` (0 or 1); empty without a noiser or without
        random masks.
    """
    if not {"random_loss", "certain_enrichment"} <= logs.keys():
        return {}
    earlier = [e["random_loss"] for e in history if "random_loss" in e and e.get("step", since + 1) > since]
    above = random_loss_above_best([*earlier, logs["random_loss"]])
    collapsed = has_collapsed(above, logs["certain_enrichment"], args.collapse_margin, args.collapse_enrichment)
    return {"random_loss_above_best": above, "collapse": float(collapsed)}


class CollapseAlarm(TrainerCallback):
    """Warn at the first log entry that reports a collapse, and stop the run if `on_collapse` is `stop`.

    Args:
        view (`str`): The noiser's `view`. The message recommends `blind` if it is another one.
        stop (`bool`): Whether to stop the run.
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
    """Say what happened and which options may help."""
    remedies = ["a lower noiser_learning_rate", "a lower adversarial_share", "a higher importance_exponent"]
    if view != "blind":
        remedies.insert(0, "noiser_view: blind, with which a choice of positions reveals no residue")
    return (
        f"collapse at step {step}: the loss on random masks is {above_best:.2f} nats above its best while the noiser "
        f"masks one residue {enrichment_max:.1f} times as often as its share. Try {'; '.join(remedies)}."
    )
