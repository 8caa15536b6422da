"""Downstream tasks of a comparison: probes, optional fine-tuning, and baselines."""

import dataclasses
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from adversarial_mlm.comparison.folder import ComparisonFolder, read_json, write_json
from adversarial_mlm.comparison.recipe import TaskOptions, Tasks
from adversarial_mlm.downstream.baselines import baselines_for
from adversarial_mlm.downstream.finetune import finetune_seeds
from adversarial_mlm.downstream.probes import ProbeSettings, probe
from adversarial_mlm.downstream.results import record
from adversarial_mlm.downstream.tasks import TaskData, load_task
from adversarial_mlm.models.loading import load_backbone
from adversarial_mlm.utils.errors import DivergenceError, RecipeError
from adversarial_mlm.utils.hardware import on_device

logger = logging.getLogger(__name__)

BASELINES_FILE = "baselines.json"

TASKS_FOLDER = "tasks"


class DownstreamTasks:
    """The tasks of a comparison. The data of each are read when they are first needed.

    Args:
        tasks ([`Tasks`]): The section `tasks` of the recipe.
    """

    def __init__(self, tasks: Tasks):
        self.tasks = tasks
        self._data: dict[str, TaskData] = {}
        self._fingerprints: dict[str, dict[str, str]] = {}  # data of the results in the folder

    def data(self, name: str) -> TaskData:
        """Return the data of a task.

        Raises:
            CorpusError: If the data cannot be read.
            RecipeError: If they differ from those of results in the folder.
        """
        if name not in self._data:
            options = self.tasks.of[name]
            self._data[name] = load_task(
                name,
                self.tasks.data_dir,
                file_prefix=options.file_prefix,
                target=options.target,
                max_records=options.max_records,
            )
            found = self._data[name].facts["fingerprints"]
            if self._fingerprints.get(name, found) != found:
                raise RecipeError(
                    f"the data of task {name} in {self.tasks.data_dir} differ from those of the results in "
                    "output_dir: restore them, or choose another output_dir"
                )
        return self._data[name]

    def baselines(self, folder: ComparisonFolder) -> dict[str, Any]:
        """Compute the baselines without an encoder, once.

        Returns:
            `dict`: Task → `baselines` (name → test → figures) and `facts` of its data.
        """
        with folder.lock("baselines"):
            found = folder.read(BASELINES_FILE) or {}
            evaluated = {name for result in folder.results().values() for name in result.get("tasks", {})}
            for name in self.tasks.of:
                # baselines of other data are computed again, unless results already use them
                if name in found and (name in evaluated or found[name]["facts"]["fingerprints"] == self._found(name)):
                    continue
                data, began = self.data(name), time.monotonic()
                records = {
                    label: record(data, label, [compute()], is_baseline=True, bootstrap_samples=0)
                    for label, compute in baselines_for(data).items()
                }
                found[name] = {
                    "facts": _facts(data, next(iter(records.values()))),
                    "baselines": {label: _figures(whole) for label, whole in records.items()},
                }
                logger.info("%s: baselines, %.0f s", name, time.monotonic() - began)
                folder.write(BASELINES_FILE, found)
        self._fingerprints = {name: of_task["facts"]["fingerprints"] for name, of_task in found.items()}
        return found

    def _found(self, name: str) -> dict[str, str]:
        return self.data(name).facts["fingerprints"]

    def evaluate(self, encoder: Path, run_folder: Path, device: torch.device) -> dict[str, Any]:
        """Evaluate an encoder on every task. Results of the same options and data are reused.

        Args:
            encoder (`Path`): The folder of the encoder and its tokenizer.
            run_folder (`Path`): Folder of the results, one file per task.
            device (`torch.device`): Device of the probes.

        Returns:
            `dict`: Task → `probe`, optionally `finetune`, and `seconds`. The first two hold `figures` (test set →
            `value`, and `by_seed` with several seeds). If fine-tuning diverged with any seed, `finetune` holds
            `diverged` instead of figures.

        Raises:
            RecipeError: If the fine-tuning options are invalid.
        """
        found = {}
        for name, options in self.tasks.of.items():
            path = run_folder / TASKS_FOLDER / f"{name}.json"
            of = {**dataclasses.asdict(options), "dtype": self.tasks.dtype, "fingerprints": self._found(name)}
            if not path.exists() or read_json(path).get("of") != of:
                write_json(path, {"of": of, **self._evaluate(name, options, encoder, run_folder, device)})
                # keep the metrics of fine-tuning, not its models
                shutil.rmtree(run_folder / TASKS_FOLDER / f"finetuned-{name}", ignore_errors=True)
            found[name] = read_json(path)
        return found

    def _evaluate(
        self, name: str, options: TaskOptions, encoder: Path, run_folder: Path, device: torch.device
    ) -> dict[str, Any]:
        data, began = self.data(name), time.monotonic()
        model, tokenizer = load_backbone(str(encoder))
        settings = ProbeSettings(dtype=self.tasks.dtype, max_train_residues=options.max_train_residues)
        probed = probe(data, on_device(model, device).eval(), tokenizer, settings, show_progress=True)
        of_probe = record(data, "probe", [probed.predictions], bootstrap_samples=0)
        found: dict[str, Any] = {"probe": {"figures": _figures(of_probe), "chosen": probed.settings}}
        if options.finetune is not None:
            folder, seeds = run_folder / TASKS_FOLDER / f"finetuned-{name}", options.finetune_seeds
            try:
                results = finetune_seeds(data, str(encoder), str(folder), options.finetune_settings(), seeds)
                tuned = record(data, "finetune", [result.predictions for result in results], bootstrap_samples=0)
                found["finetune"] = {"figures": _figures(tuned), "seeds": seeds}
            except DivergenceError as error:  # divergence counts as a result
                logger.warning("%s: fine-tuning of %s diverged: %s", name, encoder, error)
                found["finetune"] = {"figures": {}, "seeds": seeds, "diverged": str(error)}
            except ValueError as error:
                raise RecipeError(f"task {name}: {error}") from error
        return {**found, "seconds": time.monotonic() - began}


def _figures(whole: dict[str, Any]) -> dict[str, Any]:
    """Return the headline metric of each test set: value, rows, and values by seed if there are several."""
    return {
        split: {
            key: whole["figures"][split][name][key]
            for key in ("value", "rows", "by_seed")
            if key in whole["figures"][split][name]
        }
        for split, name in whole["headline"].items()
        if split != "valid"
    }


def _facts(data: TaskData, whole: dict[str, Any]) -> dict[str, Any]:
    return {
        "target": data.task.target,
        "headline": data.task.headline,
        "kind": data.task.kind,
        "rows": data.facts["rows"],
        "as_in_paper": whole["as_in_paper"],
        "fingerprints": data.facts["fingerprints"],
    }
