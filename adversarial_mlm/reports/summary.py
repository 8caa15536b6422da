"""The summary of a run, in a few lines of text."""

import os
import shlex
from typing import TYPE_CHECKING

from adversarial_mlm.masking.statistics import most_masked
from adversarial_mlm.saving.run_files import METRICS_FILE

if TYPE_CHECKING:
    from adversarial_mlm.saving.hub import PushResult


def set_names(figures: dict[str, float]) -> list[str]:
    """Return the names of the held-out sets in the metrics of `Trainer.evaluate`."""
    return [key[len("eval_") : -len("_perplexity")] for key in figures if key.endswith("_perplexity")]


def summary(
    figures: dict[str, float],
    log_history: list[dict],
    output_dir: str,
    gate: str | None = None,
    collapsed_at: int | None = None,
    push: "PushResult | None" = None,
    report: str | None = None,
) -> str:
    """Return the text printed at the end of a run.

    Args:
        figures (`dict[str, float]`): Metrics of the final evaluation, from `Trainer.evaluate` on a dictionary of sets.
        log_history (`list[dict]`): `trainer.state.log_history`.
        output_dir (`str`): The run's folder.
        gate (`str`, *optional*): The held-out set on which the encoder must beat the background predictor.
        collapsed_at (`int`, *optional*): Step of the collapse alarm.
        push (`PushResult`, *optional*): Result of the push to the Hub.
        report (`str`, *optional*): The line on the report, see [`report_line`].

    Returns:
        `str`: Several lines.
    """
    lines = ["", "Held-out proteins, residues hidden at random:"]
    for name in set_names(figures):
        lines.append("  " + _random_line(name, figures))
        if f"eval_{name}_gap" in figures:
            lines.append("  " + _adversarial_line(name, figures))
    if len(lines) == 2:
        lines = ["", "No proteins were held out, so there is no evaluation."]
    training = [entry for entry in log_history if "residues_per_second" in entry]
    if training:
        lines.append(_speed_line(training))
    lines += [
        f"Checkpoint  {output_dir}  (AutoModelForMaskedLM.from_pretrained)",
        f"Card        {os.path.join(output_dir, 'README.md')}",
        f"Log         {os.path.join(output_dir, METRICS_FILE)}",
    ]
    if report is not None:
        lines.append(report)
    if push is not None:
        lines.append(push_line(push, output_dir))
    if collapsed_at is not None:
        lines.append(
            f"COLLAPSED   at step {collapsed_at}: the encoder's loss on random masks rose; see `collapse` in the log"
        )
    compared = [name for name in set_names(figures) if name != gate and f"eval_{name}_background_loss" in figures]
    lines += [_learned_nothing(figures, name) for name in compared if not passes_gate(figures, name)]
    if gate is not None:
        lines.append(gate_line(figures, gate))
    return "\n".join(lines)


def passes_gate(figures: dict[str, float], gate: str) -> bool:
    """Whether the encoder's cross-entropy on a held-out set is below the background predictor's."""
    return figures[f"eval_{gate}_loss"] < figures[f"eval_{gate}_background_loss"]


def gate_line(figures: dict[str, float], gate: str) -> str:
    """Return a line on whether the gate was passed, with both cross-entropies."""
    encoder, background = figures[f"eval_{gate}_loss"], figures[f"eval_{gate}_background_loss"]
    if passes_gate(figures, gate):
        return f"PASSED      {gate}: cross-entropy {encoder:.3f} is below the background predictor's {background:.3f}"
    return (
        f"FAILED      {gate}: cross-entropy {encoder:.3f} is not below the background predictor's {background:.3f}; "
        "the encoder predicts worse than the residues' frequencies"
    )


def _learned_nothing(figures: dict[str, float], name: str) -> str:
    encoder, background = figures[f"eval_{name}_loss"], figures[f"eval_{name}_background_loss"]
    return (
        f"WARNING     {name}: cross-entropy {encoder:.3f} is not below the background predictor's {background:.3f}: "
        "the encoder gains nothing from context there; train longer, or on more proteins"
    )


def push_line(push: "PushResult", output_dir: str) -> str:
    """Return a line with the address of the pushed run, or with the reason of a failure and the command to push it."""
    if push.failure is None:
        return f"Hub         {push.address}"
    words = ["hf", "upload", push.repo_id, output_dir, ".", "--exclude", "checkpoint-*"]
    command = shlex.join(words + (["--revision", push.revision] if push.revision else []))
    return (
        f"NOT PUSHED  to {push.repo_id}: {push.failure}; the files in {output_dir} are complete; "
        f"to push them: {command}"
    )


def _random_line(name: str, figures: dict[str, float]) -> str:
    loss, perplexity, accuracy = (figures[f"eval_{name}_{key}"] for key in ("loss", "perplexity", "accuracy"))
    line = f"{name:<10}  cross-entropy {loss:.3f}  perplexity {perplexity:.2f}  accuracy {100 * accuracy:.1f} %"
    if f"eval_{name}_background_loss" in figures:
        line += f"  (background predictor {figures[f'eval_{name}_background_loss']:.3f})"
    return line


def _adversarial_line(name: str, figures: dict[str, float]) -> str:
    adversarial, random = figures[f"eval_{name}_adversarial_loss"], figures[f"eval_{name}_random_loss"]
    prefix = f"eval_{name}_"
    masked = most_masked({key.removeprefix(prefix): value for key, value in figures.items() if key.startswith(prefix)})
    gap = figures.get(f"eval_{name}_mask_gap")
    at_mask = "" if gap is None else f" ({gap:+.3f} at [MASK] alone)"
    return (
        f"{'':<10}  under the noiser: masked by it {adversarial:.3f}, masked at random {random:.3f}{at_mask}\n"
        f"  {'':<10}  it masks most {masked}"
    )


def _speed_line(training: list[dict]) -> str:
    speeds = sorted(entry["residues_per_second"] for entry in training)
    line = f"Training    {speeds[len(speeds) // 2]:,.0f} residues/s, padding not counted"
    noiser = sum(entry.get("seconds_noiser", 0.0) for entry in training)
    if noiser:
        encoder = sum(entry.get("seconds_encoder", 0.0) for entry in training)
        line += f"; {100 * noiser / (noiser + encoder):.0f} % of the time in the noiser's updates"
    return line
