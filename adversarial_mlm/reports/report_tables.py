"""The tables of a report on runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adversarial_mlm.reports.run_log import RunLog

_NONE = "–"
_ALWAYS_DIFFER = ("output_dir", "run_name", "logging_dir", "overwrite_output_dir", "hub_model_id", "report")
_LONGEST = 200  # characters of an option's value


@dataclass
class Table:
    """A table.

    Attributes:
        header (`list[str]`): Header of each column.
        rows (`list[list[str]]`): Cells of each row.
    """

    header: list[str]
    rows: list[list[str]]


def results(runs: Sequence[RunLog]) -> Table:
    """How each run ended: a row for each run and held-out set."""
    header = [
        *("run", "outcome", "held-out set", "cross-entropy, nats", "background predictor", "noiser's masks"),
        *("random masks", "gap at [MASK]", "collapse alarm", "skipped updates"),
    ]
    names = ("loss", "background_loss", "adversarial_loss", "random_loss", "mask_gap")
    rows = []
    for run in runs:
        alarm = f"step {run.alarms[0]:,}" if run.alarms else "no"
        skipped = f"{run.skipped():,}"
        if run.has_noiser:
            skipped += f" (noiser {run.skipped('noiser_skipped_updates'):,})"
        for name in run.held_out or [""]:
            figures = [_number(run.last(figure, name)) for figure in names]
            rows.append([run.name, run.outcome(), name or "none", *figures, alarm, skipped])
    return Table(header, rows)


def option_differences(runs: Sequence[RunLog]) -> Table:
    """Options in which runs differ: a row for each, a column for each run. Names of folders are left out."""
    names = dict.fromkeys(name for run in runs for name in run.options)
    rows = []
    for name in names:
        values = [_value(run.options.get(name)) for run in runs]
        if len(set(values)) > 1 and name not in _ALWAYS_DIFFER:
            rows.append([name, *values])
    return Table(["option", *(run.name for run in runs)], rows)


def _number(value: float) -> str:
    return _NONE if math.isnan(value) else f"{value:.3f}"


def _value(value: Any) -> str:
    text = _NONE if value is None else " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
