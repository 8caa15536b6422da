"""The work of `examples/run_tape.py`: evaluate every task with its baselines."""

import dataclasses
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.downstream.arguments import TapeArguments, own_task_of, read_grid
from adversarial_mlm.downstream.baselines import baselines_for
from adversarial_mlm.downstream.definitions import CONTACTS, KINDS, with_labels
from adversarial_mlm.downstream.finetune_settings import FinetuneSettings
from adversarial_mlm.downstream.flip import UnsupportedTargetsError, find_splits, load_split
from adversarial_mlm.downstream.probes import ProbeSettings, probe
from adversarial_mlm.downstream.results import Baseline, record
from adversarial_mlm.downstream.tasks import TaskData, load_own_task, load_task
from adversarial_mlm.inference.embeddings import random_twin
from adversarial_mlm.inference.feature_cache import FeatureCache
from adversarial_mlm.inference.frozen_encoder import resolved_dtype
from adversarial_mlm.models.loading import load_backbone
from adversarial_mlm.utils.hardware import device_for, on_device
from adversarial_mlm.utils.options import required

logger = logging.getLogger(__name__)

Record = dict[str, Any]
Encoder = tuple[PreTrainedModel, PreTrainedTokenizerBase]

UNTRAINED = "no pre-training"


def run(
    args: TapeArguments, settings: FinetuneSettings, keep: Callable[[list[Record]], object] = lambda records: None
) -> list[Record]:
    """Evaluate every task of the command line.

    Args:
        args ([`TapeArguments`]): Options of the command line.
        settings ([`FinetuneSettings`]): Options of fine-tuning.
        keep (`Callable`, *optional*): Called with the results of each task when it is complete.

    Returns:
        `list[dict]`: Results of [`record`], for each task first the results and then the baselines.

    Raises:
        ValueError: If data, encoder or options cannot be used; the message is one line.
    """
    read_grid(args.grid)  # reports mistakes before any work
    cache = FeatureCache(args.feature_cache_dir) if args.mode == "probe" and args.use_feature_cache else None
    if args.benchmark == "proteingym":
        from adversarial_mlm.downstream.proteingym.evaluate import evaluate_proteingym

        return evaluate_proteingym(args, settings.max_length, keep)
    if args.mode == "zero_shot":
        from adversarial_mlm.downstream.zero_shot import evaluate_zero_shot

        records = evaluate_zero_shot(args, settings.max_length)
        keep(records)
        return records
    if args.task == [CONTACTS]:
        from adversarial_mlm.downstream.contacts.evaluate import evaluate_contacts

        records = evaluate_contacts(args, settings.max_length)
        keep(records)
        return records
    encoder: Encoder | None = None
    if args.mode == "probe":
        model, tokenizer = load_backbone(_encoder_name(args), args.model_revision)
        encoder = on_device(model, device_of(args)).eval(), tokenizer
    records = []
    for name, data in all_data(args):
        baselines = {label: [timed(f"{name}: {label}", compute)] for label, compute in baselines_for(data).items()}
        results: list[Record] = []
        if encoder is not None:
            results = _probes(args, data, encoder, settings.max_length, cache, baselines)
        elif args.mode == "finetune":
            results = _finetuned(args, data, settings, baselines)
        results += [
            record(data, label, found, is_baseline=True, bootstrap_samples=args.bootstrap_samples)
            for label, found in baselines.items()
        ]
        keep(results)
        records += results
    return records


def _encoder_name(args: TapeArguments) -> str:
    return required(args.model_name_or_path, "model_name_or_path")


def device_of(args: TapeArguments) -> torch.device:
    """Return the GPU, or the CPU if there is no GPU or `use_cpu` is set."""
    return device_for(args.use_cpu)


def timed(what: str, compute: Callable[[], Any]) -> Any:
    """Call `compute`, and log the time it takes."""
    began = time.monotonic()
    found = compute()
    logger.info("%s: %.1f s", what, time.monotonic() - began)
    return found


def all_data(args: TapeArguments) -> Iterator[tuple[str, TaskData]]:
    """Yield the name and the data of every task of the command line, or of every split of FLIP.

    Raises:
        UnsupportedTargetsError: If the targets of all splits of FLIP are not supported; otherwise these are left out.
    """
    if args.benchmark != "flip":
        yield from ((name, load_data(args, name)) for name in args.task)
        return
    splits = find_splits(required(args.data_dir, "data_dir"), args.only)
    found = False
    for split in splits:
        try:
            data = load_split(
                split,
                kind=args.task[0] if args.task else None,
                group_column=args.group_column,
                seed=args.split_seed,
                max_records=args.max_records,
            )
        except UnsupportedTargetsError as error:
            if args.only or (split is splits[-1] and not found):
                raise
            logger.warning("%s is left out. %s", split.name, error)
        else:
            found = True
            yield split.name, data


def load_data(args: TapeArguments, name: str) -> TaskData:
    """Read the data of a task."""
    if name in KINDS:
        return load_own_task(
            own_task_of(args),
            required(args.train_file, "train_file"),
            valid_file=args.valid_file,
            test_file=args.test_file,
            split_column=args.split_column,
            group_column=args.group_column,
            seed=args.split_seed,
            max_records=args.max_records,
        )
    task = with_labels(args.labels) if name == "secondary_structure" else name
    data_dir = required(args.data_dir, "data_dir")
    return load_task(
        task,
        data_dir,
        file_prefix=args.file_prefix,
        target=args.target,
        group_column=args.group_column,
        max_records=args.max_records,
    )


def _probes(
    args: TapeArguments,
    data: TaskData,
    encoder: Encoder,
    max_length: int | None,
    cache: FeatureCache | None,
    baselines: Mapping[str, Baseline],
) -> list[Record]:
    model, tokenizer = encoder
    dtype = resolved_dtype(args.feature_dtype, model.device)
    settings = ProbeSettings(
        max_length, args.layer, dtype, args.batch_tokens, max_train_residues=args.max_train_residues
    )
    options = {name: value for name, value in dataclasses.asdict(settings).items() if name != "batch_tokens"}

    def runs(make: Callable[[int], PreTrainedModel], label: str, each_differs: bool) -> tuple[list, list[int]]:
        found = []
        for seed in args.seeds:
            result = probe(data, make(seed), tokenizer, settings, seed=seed, cache=cache, show_progress=True)
            seconds = result.seconds["features"], result.seconds["in_all"] - result.seconds["features"]
            logger.info(
                "%s: %s, seed %d: features in %s %.1f s, head %.1f s", data.task.name, label, seed, dtype, *seconds
            )
            found.append(result)
            if not (each_differs or result.seed_matters):
                return found, []
        return found, args.seeds

    def as_record(found: list, seeds: list[int], method: str, against: Mapping[str, Baseline]) -> Record:
        chosen = [result.settings for result in found]
        return record(
            data,
            method,
            [result.predictions for result in found],
            model=_encoder_name(args),
            seeds=seeds,
            settings={**options, "chosen": chosen[0] if len(chosen) == 1 else chosen},
            baselines=against,
            is_baseline=UNTRAINED in method,
            bootstrap_samples=args.bootstrap_samples,
        )

    against, untrained = dict(baselines), []
    if args.untrained:
        twins, seeds = runs(lambda seed: random_twin(model, seed), UNTRAINED, each_differs=True)
        untrained = [as_record(twins, seeds, f"probe, {UNTRAINED}", {})]
        against[UNTRAINED] = [twin.predictions for twin in twins]
    found, seeds = runs(lambda seed: model, "probe", each_differs=False)
    return [as_record(found, seeds, "probe", against), *untrained]


def _finetuned(
    args: TapeArguments, data: TaskData, settings: FinetuneSettings, baselines: Mapping[str, Baseline]
) -> list[Record]:
    from adversarial_mlm.downstream.finetune import finetune_seeds, grid_search

    encoder, revision = _encoder_name(args), args.model_revision
    folder = os.path.join(required(args.output_dir, "output_dir"), f"{data.task.name}-{data.task.target}")
    grid = read_grid(args.grid)
    trials: list[dict[str, Any]] = []
    if grid:
        in_folder = os.path.join(folder, "grid")
        settings, trials = grid_search(data, encoder, in_folder, settings, grid, args.seeds[0], revision=revision)

    def of(name: str, method: str, against: Mapping[str, Baseline], **how: Any) -> tuple[Record, list]:
        into = os.path.join(folder, name)
        found = finetune_seeds(data, encoder, into, settings, args.seeds, revision=revision, **how)
        options = {option: value for option, value in dataclasses.asdict(settings).items() if option != "seed"}
        runs = [result.predictions for result in found]
        written = record(
            data,
            method,
            runs,
            model=encoder,
            seeds=args.seeds,
            settings=options,
            baselines=against,
            is_baseline=UNTRAINED in method,
            bootstrap_samples=args.bootstrap_samples,
        )
        return {**written, "cut": found[0].cut}, runs

    against, untrained = dict(baselines), []
    if args.untrained:
        written, against[UNTRAINED] = of("from_scratch", f"finetune, {UNTRAINED}", {}, from_scratch=True)
        untrained = [written]
    result, _ = of("finetuned", "finetune", against)
    result["trials"] = trials
    return [result, *untrained]
