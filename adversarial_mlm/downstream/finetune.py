"""Fine-tune an encoder on a task: one run, several seeds, or a grid search."""

import dataclasses
import itertools
import json
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from adversarial_mlm.downstream.adapted_encoder import adapt, save_and_merge
from adversarial_mlm.downstream.finetune_results import RESULT_FILE, FinetuneResult
from adversarial_mlm.downstream.finetune_settings import FinetuneSettings
from adversarial_mlm.downstream.modeling import HEADS, STOCK_HEAD, ProteinTaskModel, TaskModelConfig, check_head
from adversarial_mlm.downstream.scoring import headline_score
from adversarial_mlm.downstream.stock_heads import StockHeadModel, check_stock_head
from adversarial_mlm.downstream.task_trainer import TaskTrainer, predict
from adversarial_mlm.downstream.tasks import TaskData
from adversarial_mlm.inference.batches import DataCollatorForTask
from adversarial_mlm.models.adapters import LORA_OPTIONS, lora_settings
from adversarial_mlm.models.encoders import number_of_positions
from adversarial_mlm.models.loading import load_backbone, quiet_transformers
from adversarial_mlm.models.tokenization_protein import save_tokenizer
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.errors import DivergenceError
from adversarial_mlm.utils.hardware import on_device
from adversarial_mlm.utils.hashing import fingerprint, state_checksum
from adversarial_mlm.utils.output_folders import check_own, mark

__all__ = ["FinetuneResult", "FinetuneSettings", "finetune", "finetune_seeds", "grid_search"]

logger = logging.getLogger(__name__)

TRIALS_FILE = "trials.jsonl"

_KIND = "fine-tuning run"

_NOT_OF_THE_RESULT = ("report_to",)


def finetune(
    data: TaskData,
    model_name_or_path: str,
    output_dir: str,
    settings: FinetuneSettings | None = None,
    *,
    from_scratch: bool = False,
    revision: str | None = None,
) -> FinetuneResult:
    """Fine-tune an encoder on train, choose the best weights on valid, save them and predict all splits but train.

    `output_dir` gets the model ([`ProteinTaskModel`], or with the head `hf` one of transformers), its tokenizer,
    `predictions.npz` and `result.json`; with `peft: lora` also the encoder's adapter in `adapter/`. A complete run is
    not repeated; its result is read. A killed run starts again. Two runs with the same seed are equal, on a CPU
    bitwise.

    Args:
        data ([`TaskData`]): The task.
        model_name_or_path (`str`): The encoder with its tokenizer: a folder, or a name on the Hub.
        output_dir (`str`): Folder for the model and the result.
        settings ([`FinetuneSettings`], *optional*): Options of fine-tuning.
        from_scratch (`bool`, *optional*, defaults to `False`): Whether to use fresh encoder weights: the baseline
            without pre-training. The head starts from the same weights in both cases.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Returns:
        [`FinetuneResult`]: Predictions and metrics.

    Raises:
        CheckpointError: If the encoder cannot be loaded.
        ValueError: If an option does not suit the task or the encoder, if the loss is not finite, or if `output_dir`
            has other content.
    """
    start = _prepare(data, _load(model_name_or_path, revision, from_scratch), settings or FinetuneSettings())
    splits = [split for split in data.splits if split != "train"]
    fingerprint = start.fingerprint(data, ["train", *splits])
    cut = start.count_cut(data, ["train", *splits])
    if os.path.isfile(os.path.join(output_dir, RESULT_FILE)):
        return _earlier_result(output_dir, fingerprint)
    _take(output_dir)
    trainer, seconds = _train(data, start, output_dir)
    parameters = list(trainer.model.parameters())
    counts = [sum(p.numel() for p in parameters if p.requires_grad or not trained) for trained in (False, True)]
    with quiet_transformers():
        save_and_merge(trainer.model, start.backbone.tokenizer, output_dir, start.max_length)
        trainer.model.save_pretrained(output_dir)
        save_tokenizer(start.backbone.tokenizer, output_dir, start.max_length)
        atomic_files.share(output_dir)
        model = on_device(_saved_model(output_dir, start.config), trainer.args.device)
    predictions = {
        split: predict(model, data.splits[split]["sequence"][:], start.collator, start.settings.batch_size)
        for split in splits
    }
    result = FinetuneResult(
        predictions=predictions,
        validation_score=headline_score(data.task.kind, predictions["valid"], data.splits["valid"]["label"][:]),
        settings=start.settings,
        max_length=start.max_length,
        epochs=trainer.state.epoch,
        steps=trainer.state.global_step,
        best_step=trainer.best_step,
        seconds=seconds,
        history=trainer.history(),
        cut=cut,
        fingerprint=fingerprint,
        facts={
            "model_name_or_path": model_name_or_path,
            "from_scratch": from_scratch,
            **{name: getattr(data.task, attribute) for name, attribute in _TASK_FACTS.items()},
            "head": start.config.head,
            "parameters": counts[0],
            "trained_parameters": counts[1],
            "device": trainer.args.device.type,
        },
    )
    result.save(output_dir)
    return result


def _saved_model(folder: str, config: TaskModelConfig) -> ProteinTaskModel:
    if config.head == STOCK_HEAD:
        return StockHeadModel.of_folder(folder, config)
    return ProteinTaskModel.from_pretrained(folder)


_TASK_FACTS = {"task": "name", "kind": "kind", "target": "target"}


def finetune_seeds(
    data: TaskData,
    model_name_or_path: str,
    output_dir: str,
    settings: FinetuneSettings | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    from_scratch: bool = False,
    revision: str | None = None,
) -> list[FinetuneResult]:
    """Call [`finetune`] for every seed, with `output_dir/seed-<seed>`; complete seeds are not repeated.

    Raises:
        ValueError: If there are no seeds or one occurs twice, or as [`finetune`].
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be different numbers, at least one, got {list(seeds)}")
    settings = settings or FinetuneSettings()
    runs = [settings.replace({"seed": seed}) for seed in seeds]
    return [
        finetune(
            data,
            model_name_or_path,
            os.path.join(output_dir, f"seed-{run.seed}"),
            run,
            from_scratch=from_scratch,
            revision=revision,
        )
        for run in runs
    ]


def grid_search(
    data: TaskData,
    model_name_or_path: str,
    output_dir: str,
    base_settings: FinetuneSettings,
    grid: Mapping[str, Sequence[Any]],
    seed: int = 0,
    *,
    from_scratch: bool = False,
    revision: str | None = None,
) -> tuple[FinetuneSettings, list[dict[str, Any]]]:
    """Fine-tune with every combination of options, and choose by the score on valid. Test sets are not used.

    Every complete trial is a line of `output_dir/trials.jsonl`; a killed search continues after the last one. Models
    are not kept.

    Args:
        data ([`TaskData`]): The task; only train and valid are used.
        model_name_or_path (`str`): See [`finetune`].
        output_dir (`str`): Folder for `trials.jsonl`.
        base_settings ([`FinetuneSettings`]): Options outside the grid.
        grid (`Mapping[str, Sequence]`): Values to try, by option. The first of equally good trials is chosen.
        seed (`int`, *optional*, defaults to 0): Seed of all trials.
        from_scratch (`bool`, *optional*, defaults to `False`): See [`finetune`].
        revision (`str`, *optional*): See [`finetune`].

    Returns:
        The best [`FinetuneSettings`], and the trials in the order of the grid: `options`, `validation_score` (`None`
        if it is not defined), `best_step`, `steps`, `epochs`, `seconds`, `fingerprint`, and `failure`, the reason if
        a trial diverged.

    Raises:
        ValueError: If an option is unknown or has no values, if a combination is invalid, if no trial has a score, or
            as [`finetune`].
    """
    candidates = _combinations(base_settings.replace({"seed": seed}), grid)
    backbone = _load(model_name_or_path, revision, from_scratch)
    starts = [_prepare(data, backbone, settings) for _, settings in candidates]
    os.makedirs(output_dir, exist_ok=True)
    path = Path(output_dir, TRIALS_FILE)
    finished = {trial["fingerprint"]: trial for trial in _read_trials(path)}
    trials = []
    for (options, _), start in zip(candidates, starts, strict=True):
        fingerprint = start.fingerprint(data, ["train", "valid"])
        if fingerprint not in finished:
            trial = {"options": options, **_try(data, start, output_dir), "fingerprint": fingerprint}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(trial, allow_nan=False) + "\n")
            finished[fingerprint] = trial
        trials.append(finished[fingerprint])
    scores = [-math.inf if trial["validation_score"] is None else trial["validation_score"] for trial in trials]
    if max(scores) == -math.inf:
        reason = trials[0]["failure"] or "the score on valid is not defined"
        raise ValueError(f"none of the {len(trials)} trials of the grid has a score on valid; the first: {reason}")
    return candidates[int(np.argmax(scores))][1], trials


def _combinations(
    base: FinetuneSettings, grid: Mapping[str, Sequence[Any]]
) -> list[tuple[dict[str, Any], FinetuneSettings]]:
    for name, values in grid.items():
        if name == "seed":
            raise ValueError(
                "seed cannot be in the grid, because the best seed is chance: use seeds for the final runs"
            )
        if not isinstance(values, Sequence) or isinstance(values, str) or not values:
            raise ValueError(f"the grid has no list of values for {name}")
    found = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    return [(options, base.replace(options)) for options in found]


def _read_trials(path: Path) -> list[dict[str, Any]]:
    """Read the complete trials; an incomplete last line is removed from the file."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    complete, _, rest = text.rpartition("\n")
    if rest:
        path.write_text(f"{complete}\n" if complete else "", encoding="utf-8")
    trials = []
    for number, line in enumerate(complete.splitlines(), start=1):
        try:
            trial = json.loads(line)
            trials.append({name: trial[name] for name in ("options", *_TRIAL_FIELDS, "fingerprint")})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"line {number} of {path} is not a trial of a grid: remove the line or the file"
            ) from error
    return trials


_TRIAL_FIELDS = ("validation_score", "best_step", "steps", "epochs", "seconds", "failure")


def _try(data: TaskData, start: "_Start", output_dir: str) -> dict[str, Any]:
    """Run one trial."""
    start.count_cut(data, ["train", "valid"])
    try:
        trainer, seconds = _train(data, start, output_dir)
    except DivergenceError as error:
        logger.warning("a trial of the grid failed: %s", error)
        return {**dict.fromkeys(_TRIAL_FIELDS), "failure": str(error)}
    found = predict(
        trainer.model, data.splits["valid"]["sequence"][:], start.collator, trainer.args.per_device_eval_batch_size
    )
    score = headline_score(data.task.kind, found, data.splits["valid"]["label"][:])
    state = trainer.state
    values = (None if math.isnan(score) else score, state.best_global_step, state.global_step, state.epoch, seconds)
    return dict(zip(_TRIAL_FIELDS, (*values, None), strict=True))


@dataclass
class _Backbone:
    """A loaded encoder; `checksum` is of its weights, or `None` if they are not used."""

    name: str
    revision: str | None
    encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    checksum: str | None


def _load(model_name_or_path: str, revision: str | None, from_scratch: bool) -> _Backbone:
    with quiet_transformers():
        encoder, tokenizer = load_backbone(model_name_or_path, revision, from_scratch=from_scratch)
    checksum = None if from_scratch else state_checksum(encoder.state_dict())
    return _Backbone(model_name_or_path, revision, encoder, tokenizer, checksum)


@dataclass
class _Start:
    """Checked inputs of a run."""

    settings: FinetuneSettings
    config: TaskModelConfig
    backbone: _Backbone
    collator: DataCollatorForTask
    max_length: int

    def build_model(self) -> ProteinTaskModel:
        """Build the model. For the same seed the head is the same, with any encoder weights."""
        set_seed(self.settings.seed)
        stock = self.config.head == STOCK_HEAD
        model = StockHeadModel(self.config) if stock else ProteinTaskModel(self.config)
        if self.backbone.checksum is not None:
            model.load_encoder(self.backbone.encoder.state_dict())
        model.encoder.requires_grad_(not self.settings.frozen_encoder)
        lora = lora_settings(self.settings)
        if lora is not None:
            adapt(model, lora, self.backbone.name, self.backbone.revision)
        model.encoder_dropout = self.settings.encoder_dropout
        return model

    def fingerprint(self, data: TaskData, splits: Sequence[str]) -> str:
        """Hash everything that the result depends on, except library versions and the machine."""
        settings = dataclasses.asdict(self.settings)
        if self.settings.peft is None:  # results from before these options are still found
            settings = {name: value for name, value in settings.items() if name not in ("peft", *LORA_OPTIONS)}
        table = self.collator.table
        plain = {
            "settings": {name: value for name, value in settings.items() if name not in _NOT_OF_THE_RESULT},
            "task": [data.task.kind, data.classes],
            "data": {split: data.facts["fingerprints"][split] for split in splits},
            "config": _without_origin(self.config.to_dict()),
            "tokens": [table.ids.tolist(), table.prefix, table.suffix, self.collator.pad_token_id],
            "weights": self.backbone.checksum,
        }
        return fingerprint(plain)

    def count_cut(self, data: TaskData, splits: Sequence[str]) -> dict[str, dict[str, int]]:
        """Count the proteins that are cut, by split, and log a warning once."""
        cut = {}
        for split in splits:
            beyond = [len(sequence) - self.collator.max_residues for sequence in data.splits[split]["sequence"]]
            beyond = [residues for residues in beyond if residues > 0]
            if beyond:
                cut[split] = {"proteins": len(beyond), "residues": sum(beyond)}
        if cut:
            counts = ", ".join(f"{c['proteins']:,} of {len(data.splits[s]):,} in {s}" for s, c in cut.items())
            _warn_once(
                f"{data.task.name}: max_length is {self.config.max_length}, so proteins with more than "
                f"{self.collator.max_residues:,} residues are cut: {counts}."
            )
        return cut


def _prepare(data: TaskData, backbone: _Backbone, settings: FinetuneSettings) -> _Start:
    kind = data.task.kind
    head = HEADS[kind][0] if settings.head is None else settings.head
    check_head(kind, head)
    if "valid" not in data.splits:
        raise ValueError(f"{data.task.name} has no split valid, which early stopping needs: add one")
    max_length = settings.row_length(number_of_positions(backbone.encoder))
    collator = DataCollatorForTask(backbone.tokenizer, kind, max_length)
    table, embeddings = collator.table, backbone.encoder.get_input_embeddings().num_embeddings
    largest = max(table.ids.max(), collator.pad_token_id, *table.prefix, *table.suffix)
    if largest >= embeddings:
        raise ValueError(
            f"model_name_or_path is {backbone.name}: its encoder has {embeddings} token embeddings, but its tokenizer "
            f"has a token {largest}. Use the tokenizer that the encoder was trained with"
        )
    if head == STOCK_HEAD:
        check_stock_head(backbone.encoder.config, kind)
    if head == "cls" and not table.prefix:
        raise ValueError(
            "head: cls needs a token before the protein, but the tokenizer adds none: use head attention or mean"
        )
    numbers = {"num_labels": len(data.classes)} if data.classes else _moments(data)
    config = TaskModelConfig(
        encoder_config=_without_origin(backbone.encoder.config.to_dict()),
        kind=kind,
        head=head,
        head_size=settings.head_size,
        head_dropout=settings.head_dropout,
        max_length=max_length,
        **numbers,
    )
    if data.classes:
        config.id2label = dict(enumerate(data.classes))
        config.label2id = {name: number for number, name in enumerate(data.classes)}
    return _Start(settings, config, backbone, collator, max_length)


def _moments(data: TaskData) -> dict[str, float]:
    labels = np.asarray(data.splits["train"]["label"][:], dtype=np.float64)
    return {"label_mean": float(labels.mean()), "label_std": float(labels.std())}


def _train(data: TaskData, start: _Start, output_dir: str) -> tuple[TaskTrainer, float]:
    """Train, and return the trainer with the best weights, and the seconds."""
    trainer = TaskTrainer(
        start.build_model(), start.settings, start.collator, data.splits["train"], data.splits["valid"], output_dir
    )
    began = time.monotonic()
    with quiet_transformers():
        trainer.train()
    seconds = time.monotonic() - began
    trainer.load_best()
    return trainer, seconds


def _without_origin(config: dict) -> dict:
    """Remove the folder and the version of transformers from a configuration."""
    plain = {name: value for name, value in config.items() if name not in ("transformers_version", "_name_or_path")}
    return {name: _without_origin(value) if isinstance(value, dict) else value for name, value in plain.items()}


def _earlier_result(folder: str, fingerprint: str) -> FinetuneResult:
    result = FinetuneResult.load(folder)
    if result.fingerprint != fingerprint:
        raise ValueError(
            f"output_dir {folder} contains the result of other settings, other data or another encoder: choose "
            "another folder, or delete it"
        )
    logger.info("%s is complete and is not repeated", folder)
    return result


def _take(folder: str) -> None:
    """Create and mark a folder that is new, empty or that of a run that was killed; refuse others."""
    check_own(folder, _KIND, lambda: _model_type(folder) == TaskModelConfig.model_type)
    os.makedirs(folder, exist_ok=True)
    mark(folder, _KIND)


def _model_type(folder: str) -> str | None:
    try:
        return json.loads(Path(folder, "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None


_warned: set[str] = set()


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        logger.warning(message)
