"""Results as plain data: records, `results.json`, the printed table, and entries of a model card."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import EvalResult

from adversarial_mlm.downstream.scoring import FEW_GROUPS, compare, headline_name, resampled_groups, score
from adversarial_mlm.downstream.tasks import TaskData
from adversarial_mlm.utils import atomic_files, output_folders
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import WritingError
from adversarial_mlm.utils.output_folders import visible
from adversarial_mlm.utils.tables import text_table

RESULTS_FILE = "results.json"

Baseline = Sequence[Mapping[str, Any]]
"""Predictions by split, of one or more runs."""

RUN_FOLDERS = ("finetuned", "from_scratch", "grid")
"""Folders of fine-tuning in the folder of each task."""

_VERSION = 1
_IDENTITY = ("task", "target", "method", "model", "settings", "data")

PAPER = {
    ("secondary_structure", "ss3", "cb513"): ("72.1 ± 0.1 %", "72.7 ± 0.2 %"),
    ("remote_homology", "fold_label", "test_fold_holdout"): ("19.2 ± 0.8 %", "20.0 ± 2.0 %"),
    ("fluorescence", "log_fluorescence", "test"): ("0.678 ± 0.002", "0.677 ± 0.002"),
    **dict.fromkeys(
        (("stability", target, "test") for target in ("stability_score", "stability_score_c")),
        ("0.626 ± 0.044", "0.630 ± 0.009"),
    ),
}
"""The paper's Table 2 (fine-tuned encoders of 38M parameters): random and adversarial masks."""

_METRIC_NAMES = {
    "spearman": "Spearman correlation",
    "residue_accuracy": "Accuracy per residue",
    "sequence_accuracy": "Accuracy",
    "fold_accuracy": "Accuracy, held-out superfamilies",
    "superfamily_accuracy": "Accuracy, held-out families",
    "family_accuracy": "Accuracy, held-out members",
    "long_precision_L": "Precision at L, long range",
}


def record(
    data: TaskData,
    method: str,
    runs: Sequence[Mapping[str, Any]],
    *,
    model: str = "",
    seeds: Sequence[int] = (),
    settings: Mapping[str, Any] | None = None,
    baselines: Mapping[str, Baseline] | None = None,
    is_baseline: bool = False,
    bootstrap_samples: int = 1000,
) -> dict[str, Any]:
    """Score one method on all splits but train.

    Args:
        data ([`TaskData`]): The task.
        method (`str`): Name of the method, such as `"probe"`, or of a baseline.
        runs (`Sequence[Mapping[str, Any]]`): Predictions by split, one per seed.
        model (`str`, *optional*): Name of the encoder as given; empty for baselines without one.
        seeds (`Sequence[int]`, *optional*): Seeds of the runs; none if the method has no randomness.
        settings (`Mapping`, *optional*): Options, and settings chosen on valid.
        baselines (`Mapping[str, list]`, *optional*): Predictions by split of each run, by name of the baseline. The
            result is compared with the best of them on each split.
        is_baseline (`bool`, defaults to `False`): Whether this is a baseline; baselines are not written into cards.
        bootstrap_samples (`int`, defaults to 1000): Number of resamples, see [`score`].

    Returns:
        `dict`: Plain values, among them

        - `figures`: split → metric → `value` (mean over runs), `low` and `high` (interval), `rows`, and with several
          runs `std` (sample standard deviation) and `by_seed`;
        - `resampled` (with intervals): split → `unit` that the intervals resample, such as `superfamilies`, `groups`
          (how many), and `without` (proteins without a group, which count as one each);
        - `against`: split → `baseline` (its name), `difference`, `low`, `high` and `beaten`: whether the interval lies
          above 0 (without intervals: the difference). It is false if the difference is not defined.
    """
    splits = [split for split in data.splits if split != "train" and all(split in run for run in runs)]
    found: dict[str, Any] = {
        "task": data.task.name,
        "kind": data.task.kind,
        "target": data.task.target,
        "method": method,
        "model": model,
        "settings": dict(settings or {}),
        "seeds": list(seeds),
        "is_baseline": is_baseline,
        "data": _short(data),
        "notes": data.facts["notes"],
        "as_in_paper": _same_data_as_tape(data),
        "headline": {split: headline_name(data, split) for split in splits},
        "figures": {split: _over_runs(data, split, runs, bootstrap_samples) for split in splits},
    }
    if bootstrap_samples:
        of_splits = {split: resampled_groups(data, split) for split in splits}
        found["resampled"] = {
            split: {"unit": groups.unit, "groups": groups.number, "without": groups.without}
            for split, groups in of_splits.items()
        }
    if baselines:
        found["against"] = {
            split: against
            for split in splits
            if (against := _against(data, split, runs, baselines, bootstrap_samples)) is not None
        }
    return as_plain(found)


def _over_runs(data: TaskData, split: str, runs: Sequence[Mapping[str, Any]], samples: int) -> dict[str, Any]:
    whole = score(data, split, *(run[split] for run in runs), bootstrap_samples=samples)
    figures = {name: dataclasses.asdict(figure) for name, figure in whole.items()}
    if len(runs) > 1:
        by_run = [score(data, split, run[split], bootstrap_samples=0) for run in runs]
        for name, figure in figures.items():
            figure["by_seed"] = [of_run[name].value for of_run in by_run]
            figure["std"] = float(np.std(figure["by_seed"], ddof=1))
    return figures


def _against(
    data: TaskData, split: str, runs: Sequence[Mapping[str, Any]], baselines: Mapping[str, Baseline], samples: int
) -> dict[str, Any] | None:
    name = headline_name(data, split)
    others = {
        baseline: [run[split] for run in found]
        for baseline, found in baselines.items()
        if all(split in run for run in found)
    }
    values = {
        baseline: score(data, split, *found, bootstrap_samples=0)[name].value for baseline, found in others.items()
    }
    values = {baseline: value for baseline, value in values.items() if math.isfinite(value)}
    if not values:
        return None
    best = max(values, key=values.__getitem__)
    difference = compare(data, split, [run[split] for run in runs], others[best], bootstrap_samples=samples)
    return {
        "baseline": best,
        "difference": difference.value,
        "low": difference.low,
        "high": difference.high,
        "beaten": bool((difference.low if samples else difference.value) > 0),
    }


def _short(data: TaskData) -> dict[str, Any]:
    return {"files": data.facts["files"], "rows": data.facts["rows"], "fingerprints": data.facts["fingerprints"]}


def _same_data_as_tape(data: TaskData) -> bool:
    """Whether the splits have TAPE's sizes and target. Their proteins are not compared."""
    facts = data.facts
    whole = facts["rows"] == facts["rows_in_file"] and not facts["differences"]
    return bool(data.task.table_1) and whole and not facts["other_target_than_tape"]


def as_plain(value: Any) -> Any:
    """Convert to values for JSON; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(name): as_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def take_output_dir(folder: str) -> None:
    """Check that a folder is new, empty or that of an earlier evaluation; create, lock and mark it.

    Raises:
        RecipeError: If it has other content, cannot be written to, or is in use.
        ValueError: If its `results.json` is damaged.
    """

    def has_results() -> bool:
        return bool(read_results(folder)) or all(
            {*visible(Path(folder, name))} & {*RUN_FOLDERS} for name in visible(folder)
        )

    output_folders.take(folder, "evaluation", has_results)
    read_results(folder)  # reports a damaged file before any work is done


def read_results(folder: str | os.PathLike) -> list[dict[str, Any]]:
    """Read `results.json` of a folder; an empty list if it does not exist.

    Raises:
        ValueError: If the file is damaged or has another content.
    """
    path = Path(folder, RESULTS_FILE)
    if not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        results = content["results"]
        if content["version"] != _VERSION or not all({*_IDENTITY, "figures"} <= result.keys() for result in results):
            raise KeyError
        return results
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a list of results of this package: move it away, or choose another output_dir"
        ) from error


def write_results(folder: str | os.PathLike, results: Sequence[Mapping[str, Any]]) -> Path:
    """Add results to `results.json`, replacing earlier ones of the same method, model, settings and data.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If the existing file is damaged.
        WritingError: If the file cannot be written.
    """
    merged = {_identity(result): result for result in (*read_results(folder), *results)}
    path = Path(folder, RESULTS_FILE)
    text = json.dumps({"version": _VERSION, "results": list(merged.values())}, indent=1, allow_nan=False)
    try:
        atomic_files.replace_text(path, text + "\n")
    except OSError as error:
        raise WritingError(f"{path} could not be written ({error.strerror or error})") from error
    return path


def _identity(result: Mapping[str, Any]) -> str:
    # not the settings chosen on valid, which may change if a checkpoint of this name is trained further
    options = {name: value for name, value in result["settings"].items() if name != "chosen"}
    return json.dumps([options if name == "settings" else result[name] for name in _IDENTITY], sort_keys=True)


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Format the headline metrics of all results as a text table with footnotes.

    `±` is the standard deviation over seeds. A metric that is not shown to beat the best baseline is marked `!`.
    """
    header = ("task", "split", "method", "figure", "95 % interval", "against the best baseline")
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    keys = dict.fromkeys(
        (r["task"], r["target"], split) for r in results for split in r["figures"] if split != "valid"
    )
    for task, target, split in keys:
        of_split = [r for r in results if (r["task"], r["target"]) == (task, target) and split in r["figures"]]
        for result in of_split:
            rows.append((f"{task} {target}", split, *_cells(result, split)))
            for name, figure in result["figures"][split].items():
                if name in ("bright_spearman", "dark_spearman") and figure["value"] is not None:
                    mode = name.removesuffix("_spearman")
                    rows.append(("", f"  {mode}", result["method"], *_figure_cells(name, figure), ""))
        notes += _about_intervals(task, split, of_split)
        if (task, target, split) in PAPER:
            rows += _paper_rows(task, target, split, of_split, notes)
    text = text_table(header, rows)
    if any("!" in row[-1] for row in rows):
        notes.append(
            "! not shown to beat the best baseline: the 95 % interval of the difference (without intervals, the "
            "difference itself) does not lie above 0"
        )
    return "\n".join([text, *(f"  {note}" for note in dict.fromkeys(notes))])


def _cells(result: Mapping[str, Any], split: str) -> tuple[str, ...]:
    name = result["headline"][split]
    against = result.get("against", {}).get(split)
    verdict = ""
    if against is not None:
        factor, unit = _unit(name)
        unit = " points" if unit else ""
        difference = "not defined"
        if against["difference"] is not None:
            difference = f"{against['difference'] * factor:+.{_digits(name)}f}{unit}"
        verdict = f"{difference} to {against['baseline']}" + ("" if against["beaten"] else " !")
    return (method_cell(result), *_figure_cells(name, result["figures"][split][name]), verdict)


def _about_intervals(task: str, split: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return notes on what the intervals of a split resample, unless it is many single proteins."""
    notes = []
    for resampled in [result["resampled"][split] for result in results if split in result.get("resampled", {})]:
        number, unit = resampled["groups"], resampled["unit"]
        few = " Few groups: the intervals are rough." if number < FEW_GROUPS else ""
        single = (
            f" {count(resampled['without'], 'protein')} without a group "
            f"{verb(resampled['without'], 'counts', 'count')} singly."
            if resampled["without"]
            else ""
        )
        if few or unit != "proteins":
            notes.append(f"{task}, {split}: the intervals resample {number:,} {unit}.{few}{single}")
    return notes


def method_cell(result: Mapping[str, Any]) -> str:
    """Return the method of a result with the last part of the model's name."""
    model = result["model"]
    return f"{result['method']}, {os.path.basename(model.rstrip('/')) or model}" if model else result["method"]


def _figure_cells(name: str, figure: Mapping[str, Any]) -> tuple[str, str]:
    if figure["value"] is None:
        return "not defined", ""
    factor, unit = _unit(name)
    digits = _digits(name)
    text = f"{figure['value'] * factor:.{digits}f}"
    if figure.get("std") is not None:
        text += f" ± {figure['std'] * factor:.{digits}f}"
    interval = ""
    if figure["low"] is not None:
        interval = f"{figure['low'] * factor:.{digits}f} to {figure['high'] * factor:.{digits}f}"
    return text + unit, interval


def _unit(name: str) -> tuple[float, str]:
    return (100.0, " %") if name.endswith("accuracy") else (1.0, "")


def _digits(name: str) -> int:
    return 1 if name.endswith("accuracy") else 3


def _paper_rows(
    task: str, target: str, split: str, results: Sequence[Mapping[str, Any]], notes: list[str]
) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    mark = "" if all(result["as_in_paper"] for result in results) else " (a)"
    for masks, figure in zip(("random", "adversarial"), PAPER[task, target, split], strict=True):
        rows.append(("", split, f"the paper, {masks} masks{mark}", figure, "", ""))
    notes.append("the paper: McDermott et al. 2021, Table 2, fine-tuned encoders of 38M parameters")
    if mark:
        notes.append("(a) on other data: your splits differ from TAPE's in size or target, or only a part was used")
    return rows


def eval_results(results: Sequence[Mapping[str, Any]]) -> list[EvalResult]:
    """Return headline metrics on test sets as entries of a `model-index`, without baselines and undefined values."""
    entries = []
    for result in results:
        if result["is_baseline"] or not result.get("in_card", True):
            continue
        for split, figures in result["figures"].items():
            name = result["headline"][split]
            if split == "valid" or figures[name]["value"] is None:
                continue
            proteins = count(figures[name]["rows"], "protein")
            entries.append(
                EvalResult(
                    task_type=_TASK_TYPES[result["kind"]],
                    task_name=f"{result['task']} ({result['method']})",
                    dataset_type=result["task"],
                    dataset_name=f"{result['task']} {result['target']}, {split} ({proteins})",
                    dataset_config=f"{result['target']}-{result['method']}",
                    dataset_split=split,
                    # results on other data, or on a part of these, get an entry of their own
                    dataset_revision=result["data"]["fingerprints"][split],
                    metric_type=name,
                    metric_name=_METRIC_NAMES[name],
                    metric_value=figures[name]["value"],
                )
            )
    return entries


_TASK_TYPES = {
    "regression": "tabular-regression",
    "classification": "text-classification",
    "token_classification": "token-classification",
    "contacts": "other",
}


def add_to_card(folder: str | os.PathLike, results: Sequence[Mapping[str, Any]]) -> int:
    """Write the headline metrics on test sets into the `model-index` of a model card.

    Args:
        folder (`str` or path): The model's folder, with a `README.md`.
        results (`Sequence[Mapping]`): Results of [`record`].

    Returns:
        `int`: The number of entries.

    Raises:
        ValueError: If there is no card, or its metadata are invalid.
    """
    from adversarial_mlm.saving.model_card import add_results

    entries = eval_results(results)
    add_results(folder, entries)
    return len(entries)
