"""Read what a run logged: `metrics.jsonl`, its options, and how it ended."""

import json
import math
import os
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from adversarial_mlm.masking.statistics import POSITION_BINS
from adversarial_mlm.saving.run_files import METRICS_FILE, RECIPE_FILE, RECORDS_FILE
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import RecipeError

STATE_FILE = "trainer_state.json"
PARTS = ("encoder", "noiser", "checks of the noiser", "waiting for data", "evaluations", "other")
"""Parts of the time of a run; the first four are phases of an update."""

_MOST_POINTS = 300  # of a curve; more entries are averaged
_LAST = 0.25  # share of the log that counts at its end
_FEWEST_REPLACEMENTS = 10  # of a row that is shown


@dataclass
class RunLog:
    """What a run logged.

    Attributes:
        name (`str`): For legends and tables.
        folder (`str`): The run's folder.
        training (`list[dict]`): Entries of training, by step.
        held_out (`dict[str, list[dict]]`): Name of a held-out set → its evaluations by step, without `eval_NAME_`.
        options (`dict`): The content of `recipe.yaml`; empty if there is none.
        max_steps (`int`, *optional*): Encoder updates of the whole run, if known.
        runtime (`float`, *optional*): Seconds of the latest start of training, if it has ended.
        remarks (`list[str]`): Sentences about what could not be read.
        group (`str`): Runs of a group have one colour, such as the seeds of an arm. Defaults to `name`.
    """

    name: str
    folder: str
    training: list[dict[str, Any]]
    held_out: dict[str, list[dict[str, Any]]]
    options: dict[str, Any] = field(default_factory=dict)
    max_steps: int | None = None
    runtime: float | None = None
    remarks: list[str] = field(default_factory=list)
    group: str = ""
    _series: dict[tuple[str, str | None], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        self.group = self.group or self.name

    @property
    def last_step(self) -> int:
        """The newest step in the log."""
        entries = [*self.training, *(entry for entries in self.held_out.values() for entry in entries)]
        return max((entry["step"] for entry in entries), default=0)

    @property
    def has_noiser(self) -> bool:
        """Whether the noiser masked residues."""
        return any("adversarial_loss" in entry for entry in self.training)

    @property
    def alarms(self) -> list[int]:
        """Steps with a collapse alarm."""
        return [entry["step"] for entry in self.training if entry.get("collapse")]

    @property
    def replacements(self) -> list[dict[str, Any]]:
        """The replacements of each entry that has some, in order: `from`, `to` and `counts` as an array."""
        found = (entry.get("replacements") for entry in self.training)
        read = (_replacements(of) for of in found if of is not None)
        return [of for of in read if of is not None and of["counts"].any()]

    def skipped(self, name: str = "skipped_updates") -> int:
        """The number of skipped updates."""
        return int(sum(number(entry.get(name), 0.0) for entry in self.training))

    def series(self, name: str, held_out: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return a figure over time.

        Args:
            name (`str`): Name of the figure.
            held_out (`str`, *optional*): A held-out set; by default training.

        Returns:
            `tuple`: Steps and values, each of shape `(points,)`. More than 300 entries are averaged in groups. Values
            that are not finite are nan. Both are empty if the figure was not logged.
        """
        if (name, held_out) not in self._series:
            self._series[name, held_out] = self._read_series(name, held_out)
        return self._series[name, held_out]

    def _read_series(self, name: str, held_out: str | None) -> tuple[np.ndarray, np.ndarray]:
        entries = self.training if held_out is None else self.held_out.get(held_out, [])
        entries = [entry for entry in entries if name in entry]
        steps = np.array([entry["step"] for entry in entries], dtype=float)
        values = np.array([number(entry[name]) for entry in entries])
        if len(steps) <= _MOST_POINTS:
            return steps, values
        parts = np.array_split(np.arange(len(steps)), _MOST_POINTS)
        means = [np.nan if np.isnan(values[part]).all() else np.nanmean(values[part]) for part in parts]
        return np.array([steps[part].mean() for part in parts]), np.array(means)

    def last(self, name: str, held_out: str | None = None) -> float:
        """Return the newest value of a figure; nan if there is none."""
        _, values = self.series(name, held_out)
        return float(values[-1]) if len(values) else math.nan

    def outcome(self) -> str:
        """Say how the run ended, as far as its files tell."""
        step, last = self.last_step, self.max_steps
        if last is None:
            return count(step, "update")
        if step >= last:
            return f"complete, {count(step, 'update')}"
        ended = f"ended at step {step:,} of {last:,}"
        if os.path.exists(os.path.join(self.folder, RECORDS_FILE)):
            return f"{ended}: too many updates were not finite"
        if self.alarms and self.options.get("on_collapse") == "stop":
            return f"{ended}: stopped by the collapse alarm"
        return ended


def read_run(folder: str | os.PathLike, name: str | None = None, group: str = "") -> RunLog:
    """Read the log of a run.

    A half-written last line, which a kill may leave, is left out.

    Args:
        folder (`str` or path): The run's folder, or its `metrics.jsonl`.
        name (`str`, *optional*): Defaults to the name of the folder.
        group (`str`, *optional*): See [`RunLog`].

    Raises:
        RecipeError: If there is no such folder, if it is not that of a run, or if nothing was logged.
    """
    path = Path(folder)
    if path.name == METRICS_FILE:
        path = path.parent
    if not path.exists():
        raise RecipeError(f"{folder} does not exist: give the folder of a run or of a comparison")
    file = path / METRICS_FILE
    if not file.is_file():
        raise RecipeError(f"{path} is not the folder of a run: there is no {METRICS_FILE}")
    entries, damaged = _entries(file)
    run = RunLog(name or path.resolve().name, os.fspath(path), _by_step(_training(entries)), _held_out(entries))
    run.group = group or run.name
    if not run.training and not run.held_out:
        raise RecipeError(f"{file} has no figures of training or evaluation yet: nothing can be drawn")
    if damaged:
        run.remarks.append(f"{count(damaged, 'incomplete line')} of {METRICS_FILE} left out")
    run.options = _options(path, run.remarks)
    run.max_steps = _max_steps(path, run.options)
    run.runtime = next((entry["train_runtime"] for entry in reversed(entries) if "train_runtime" in entry), None)
    return run


def number(value: Any, default: float = math.nan) -> float:
    """Return a logged value as a number; null and texts are the default."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else default


def _entries(file: Path) -> tuple[list[dict], int]:
    """Return the entries with a step, and the number of lines that are not JSON objects."""
    entries, damaged = [], 0
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise RecipeError(f"{file} cannot be read: {error.strerror or error}") from error
    for line in filter(str.strip, lines):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict):
            damaged += 1
        elif not math.isnan(number(entry.get("step"))):
            entries.append(entry)
    return entries, damaged


def _training(entries: list[dict]) -> list[dict]:
    return [entry for entry in entries if "loss" in entry and "learning_rate" in entry]


def _held_out(entries: list[dict]) -> dict[str, list[dict]]:
    found = defaultdict(list)
    for entry in entries:
        for key in [key for key in entry if key.startswith("eval_") and key.endswith("perplexity")]:
            prefix = key.removesuffix("perplexity")
            name = prefix.removeprefix("eval_").strip("_") or "validation"
            own = {key.removeprefix(prefix): value for key, value in entry.items() if key.startswith(prefix)}
            found[name].append({**own, "step": entry["step"]})
    return {name: _by_step(of) for name, of in found.items()}


def _by_step(entries: list[dict]) -> list[dict]:
    """The newest entry of each step. The saved encoder is evaluated at the last step once more."""
    newest = {entry["step"]: entry for entry in entries}
    return [newest[step] for step in sorted(newest)]


def _options(folder: Path, remarks: list[str]) -> dict[str, Any]:
    try:
        options = yaml.safe_load((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        options = None
    if not isinstance(options, dict):
        remarks.append(f"{RECIPE_FILE} cannot be read: the options are not shown")
        return {}
    return options


def _max_steps(folder: Path, options: dict[str, Any]) -> int | None:
    """The updates of the whole run, from the recipe or the trainer's state in the folder or its newest checkpoint."""
    if number(options.get("max_steps"), 0.0) > 0:
        return int(options["max_steps"])
    states = [*sorted(folder.glob(f"checkpoint-*/{STATE_FILE}"), key=os.path.getmtime), folder / STATE_FILE]
    for path in reversed(states):
        try:
            steps = json.loads(path.read_text(encoding="utf-8"))["max_steps"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if number(steps, 0.0) > 0:
            return int(steps)
    return None


# ---- Sums over entries ----


def seconds_of(run: RunLog) -> dict[str, float]:
    """Seconds of each part of a run: phases of an update, evaluations, and the rest of the time of training.

    The rest is left out if it is not known: while a run goes on, or if it was resumed.
    """
    phases = zip(PARTS, ("encoder", "noiser", "checks", "data"), strict=False)
    seconds = {
        part: sum(number(entry.get(f"seconds_{phase}"), 0.0) for entry in run.training) for part, phase in phases
    }
    if not any(seconds.values()):
        return {}
    evaluations = [entry for entries in run.held_out.values() for entry in entries]
    seconds["evaluations"] = sum(number(entry.get("runtime"), 0.0) for entry in evaluations)
    seconds["other"] = (run.runtime or 0.0) - sum(seconds.values())
    return {name: value for name, value in seconds.items() if value > 0}


def position_counts(run: RunLog) -> tuple[np.ndarray, np.ndarray]:
    """Residues, and residues masked by the noiser, in each position bin, in the last quarter of the log."""
    residues, masked = np.zeros(POSITION_BINS), np.zeros(POSITION_BINS)
    for entry in _last([entry for entry in run.training if "masks_by_position" in entry]):
        residues += _array(entry.get("residues_by_position"), residues.shape)
        masked += _array(entry["masks_by_position"], masked.shape)
    return residues, masked


def replacement_counts(run: RunLog) -> tuple[str, str, np.ndarray]:
    """Which residue the noiser replaced by which, in the last quarter of the log.

    Returns:
        `tuple`: True residues, residues that were written, and counts of shape `(true, written)`. Rows with fewer than
        10 replacements are left out, unless all rows are.
    """
    entries = _last(run.replacements)
    rows = "".join(sorted({letter for of in entries for letter in of["from"]}))
    columns = "".join(dict.fromkeys(letter for of in entries for letter in of["to"]))
    counts = np.zeros((len(rows), len(columns)))
    for of in entries:
        at = np.ix_([rows.index(letter) for letter in of["from"]], [columns.index(letter) for letter in of["to"]])
        counts[at] += of["counts"]
    least = min(_FEWEST_REPLACEMENTS, counts.sum(axis=1).max())
    kept = [row for row, total in enumerate(counts.sum(axis=1)) if total >= least]
    return "".join(rows[row] for row in kept), columns, counts[kept]


def _replacements(of: Any) -> dict[str, Any] | None:
    """The replacements of an entry; `None` if they are not as a run writes them."""
    if not isinstance(of, dict) or not all(isinstance(of.get(name), str) and of[name] for name in ("from", "to")):
        return None
    return {**of, "counts": _array(of.get("counts"), (len(of["from"]), len(of["to"])))}


def _last(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return entries[-max(1, round(len(entries) * _LAST)) :]


def _array(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Counts as an array; zeros if they have another shape."""
    try:
        array = np.array(values, dtype=float)
    except (ValueError, TypeError):
        return np.zeros(shape)
    return np.nan_to_num(array) if array.shape == shape else np.zeros(shape)
