"""Results of a fine-tuning run: predictions and metrics, as JSON and plain arrays."""

import dataclasses
import json
import math
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adversarial_mlm.downstream.finetune_settings import FinetuneSettings
from adversarial_mlm.utils import atomic_files

RESULT_FILE = "result.json"
PREDICTIONS_FILE = "predictions.npz"

_OFFSETS = ".offsets"


@dataclass
class FinetuneResult:
    """The result of a fine-tuning run.

    Attributes:
        predictions (`dict[str, np.ndarray | list[np.ndarray]]`): Results of [`predict`] by split, without train, from
            the saved model after loading it.
        validation_score (`float`): [`headline_score`] of `predictions["valid"]`; nan if it is not defined.
        settings ([`FinetuneSettings`]): The settings as given.
        max_length (`int`): Largest number of tokens in a row.
        epochs (`float`): Epochs of training.
        steps (`int`): Updates.
        best_step (`int`): The update whose weights were kept.
        seconds (`float`): Duration of training, including evaluation on valid.
        history (`list[dict]`): By evaluation: `step`, `epoch`, `train_loss`, `validation_score` (-1 if it is not
            defined).
        cut (`dict[str, dict[str, int]]`): By split, the number of `proteins` longer than `max_length`, and of their
            `residues` that were not read.
        fingerprint (`str`): 32 hexadecimal digits that identify options, data and encoder.
        facts (`dict`): `model_name_or_path` and `from_scratch` as given; `task`, `kind` and `target`; `head`; numbers
            of `parameters` and `trained_parameters`; `device`.
    """

    predictions: dict[str, np.ndarray | list[np.ndarray]]
    validation_score: float
    settings: FinetuneSettings
    max_length: int
    epochs: float
    steps: int
    best_step: int
    seconds: float
    history: list[dict[str, float]]
    cut: dict[str, dict[str, int]]
    fingerprint: str
    facts: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: str) -> None:
        """Write `predictions.npz`, and then `result.json`, which marks the run as complete."""
        arrays: dict[str, np.ndarray] = {}
        for split, found in self.predictions.items():
            if isinstance(found, list):
                arrays[split + _OFFSETS] = np.cumsum([0, *(len(row) for row in found)])
                found = np.concatenate(found)
            arrays[split] = found
        with atomic_files.replacing_file(Path(folder, PREDICTIONS_FILE)) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # no split is called allow_pickle
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "predictions"}
        plain["settings"] = dataclasses.asdict(self.settings)
        if math.isnan(self.validation_score):
            plain["validation_score"] = None
        atomic_files.replace_text(Path(folder, RESULT_FILE), json.dumps(plain, indent=2, allow_nan=False))

    @classmethod
    def load(cls, folder: str) -> "FinetuneResult":
        """Read what [`FinetuneResult.save`] wrote.

        Raises:
            ValueError: If a file is missing or damaged.
        """
        try:
            plain = json.loads(Path(folder, RESULT_FILE).read_text(encoding="utf-8"))
            plain["settings"] = FinetuneSettings(**plain["settings"])
            if plain["validation_score"] is None:
                plain["validation_score"] = math.nan
            with np.load(os.path.join(folder, PREDICTIONS_FILE), allow_pickle=False) as arrays:
                return cls(predictions=_predictions(arrays), **plain)
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{folder}: {RESULT_FILE} or {PREDICTIONS_FILE} is missing or damaged ({error}): delete the "
                "folder and repeat the run"
            ) from error


def _predictions(arrays: np.lib.npyio.NpzFile) -> dict[str, np.ndarray | list[np.ndarray]]:
    predictions: dict[str, np.ndarray | list[np.ndarray]] = {}
    for split in arrays.files:
        if split.endswith(_OFFSETS):
            continue
        predictions[split] = arrays[split]
        if split + _OFFSETS in arrays.files:
            predictions[split] = np.split(arrays[split], arrays[split + _OFFSETS][1:-1])
    return predictions
