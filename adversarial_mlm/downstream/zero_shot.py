"""Compare the scores of substitutions with measurements: `mode: zero_shot` of an evaluation."""

import dataclasses
import logging
import operator
import os
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from adversarial_mlm.data.cleaning import clean_sequence
from adversarial_mlm.downstream.arguments import TapeArguments
from adversarial_mlm.downstream.definitions import KINDS, own_task
from adversarial_mlm.downstream.labels import read_number, read_sequence, read_text, read_whole_number
from adversarial_mlm.downstream.reading import read_records
from adversarial_mlm.downstream.records import fingerprint
from adversarial_mlm.downstream.results import record
from adversarial_mlm.downstream.tasks import TaskData, load_task
from adversarial_mlm.inference.variant_effects import apply_mutations, score_variants
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.utils.errors import CorpusError, shorten
from adversarial_mlm.utils.hardware import on_device
from adversarial_mlm.utils.options import required

logger = logging.getLogger(__name__)


def evaluate_zero_shot(args: TapeArguments, max_length: int | None) -> list[dict[str, Any]]:
    """Correlate the scores with the measurements, for every task of the command line.

    The baseline is the number of substitutions: the fewer, the better.

    Returns:
        `list[dict]`: Results of [`record`].

    Raises:
        ValueError: If a task has no wild type, or if the data or the model cannot be used.
    """
    prepared = []
    for name in args.task:
        data = _own_variants(args) if name in KINDS else _tape_variants(args, name)
        prepared.append((data, _given_wild_type(args) or _wild_type_among(required(args.data_dir, "data_dir"), data)))
    name_or_path = required(args.model_name_or_path, "model_name_or_path")
    model, tokenizer = load_encoder(name_or_path, args.model_revision, needs_head=True)
    device = "cuda" if torch.cuda.is_available() and not args.use_cpu else "cpu"
    model = on_device(model, device).eval()
    records = []
    for data, wild_type in prepared:
        predictions, counted, kept = {}, {}, {}
        for split, dataset in data.splits.items():
            if split == "train":
                continue
            scores = score_variants(
                model,
                tokenizer,
                wild_type,
                dataset["sequence"][:],
                masked=args.marginals == "masked",
                max_length=max_length,
                batch_tokens=args.batch_tokens,
            )
            rows = np.flatnonzero(np.isfinite(scores))
            if len(rows) < 2:
                raise CorpusError(
                    f"{data.task.name}: only {len(rows)} of the {len(scores):,} records of {split} are substitutions "
                    f"of the wild type ({len(wild_type)} residues), and 2 are needed: check wild_type."
                )
            kept[split], predictions[split] = dataset.select(rows), scores[rows]
            variants = kept[split]["sequence"][:]
            counted[split] = -np.array([sum(map(operator.ne, wild_type, variant)) for variant in variants])
        data = _restricted(data, kept)
        method = f"zero-shot, {args.marginals.replace('_', ' ')} marginals"
        baselines = {"fewer substitutions": [counted]}
        settings = {"marginals": args.marginals, "max_length": max_length}
        samples = args.bootstrap_samples
        records.append(
            record(
                data,
                method,
                [predictions],
                model=name_or_path,
                settings=settings,
                baselines=baselines,
                bootstrap_samples=samples,
            )
        )
        records += [
            record(data, name, runs, is_baseline=True, bootstrap_samples=samples) for name, runs in baselines.items()
        ]
    return records


def _restricted(data: TaskData, kept: dict[str, Dataset]) -> TaskData:
    """Return the data with the records that were scored, and a note of the number of others."""
    facts = {**data.facts, "notes": list(data.facts["notes"])}
    facts["rows"] = {split: len(dataset) for split, dataset in kept.items()}
    facts["fingerprints"] = {split: fingerprint(dataset) for split, dataset in kept.items()}
    for split, dataset in kept.items():
        left = len(data.splits[split]) - len(dataset)
        if left:
            facts["notes"].append(
                f"{split}: {left:,} of {len(data.splits[split]):,} records are left out, because their length differs "
                "from the wild type's, or a residue has no token."
            )
            logger.warning("%s: %s", data.task.name, facts["notes"][-1])
    return dataclasses.replace(data, splits=kept, facts=facts)


def _tape_variants(args: TapeArguments, name: str) -> TaskData:
    if name != "fluorescence":
        raise CorpusError(
            f"task {name} has no wild type, so mode zero_shot cannot score it: use fluorescence or your own table."
        )
    data_dir = required(args.data_dir, "data_dir")
    return load_task(name, data_dir, file_prefix=args.file_prefix, target=args.target, max_records=args.max_records)


def _given_wild_type(args: TapeArguments) -> str | None:
    """Return the wild type of the command line.

    Raises:
        [`CorpusError`]: If it contains anything but residues.
    """
    if args.wild_type is None:
        return None
    cleaned = clean_sequence(args.wild_type.strip())
    if not cleaned.sequence or cleaned.stops or cleaned.gaps or cleaned.whitespace or cleaned.unknown:
        raise CorpusError(f"wild_type is {shorten(args.wild_type)}, but must be a protein in one-letter code.")
    return cleaned.sequence


def _wild_type_among(data_dir: str, data: TaskData) -> str:
    """Find the record without mutations in all files, also among records that are not used."""
    column = data.task.sequence_column
    for file in data.facts["files"].values():
        for _, values in read_records(os.path.join(os.path.expanduser(data_dir), file), [column], ["num_mutations"]):
            if read_whole_number(values.get("num_mutations")) == 0:
                return clean_sequence(read_sequence(values[column])).sequence
    raise CorpusError(f"{data.task.name}: no record has num_mutations 0, so the wild type is unknown: set wild_type.")


def _own_variants(args: TapeArguments) -> TaskData:
    """Load the user's table as a single split, `test`, since nothing is trained."""
    if args.task[0] != "regression":
        raise CorpusError(
            f"task is {args.task[0]}, but mode zero_shot compares with measured numbers: use task regression."
        )
    target, file = required(args.target, "target"), required(args.train_file, "train_file")
    task = own_task("regression", target, sequence_column=args.mutations_column or args.sequence_column)
    wild_type = _given_wild_type(args)
    if wild_type is None:
        raise CorpusError("wild_type is missing: mode zero_shot needs it for your own table.")
    ids, sequences, labels = [], [], []
    for number, (where, values) in enumerate(read_records(file, [task.sequence_column, target])):
        column = task.sequence_column
        try:
            if args.mutations_column:
                sequences.append(apply_mutations(wild_type, read_text(values[column]) or ""))
            else:
                sequences.append(read_sequence(values[column]).strip().upper())
            column = target
            labels.append(read_number(values[column]))
        except ValueError as error:
            raise CorpusError(f'{file}: {where}: column "{column}" {error}.') from error
        ids.append(str(number))
    dataset, notes = Dataset.from_dict({"id": ids, "sequence": sequences, "label": labels}), []
    if args.max_records is not None and len(dataset) > args.max_records:
        notes.append(f"{args.max_records:,} of {len(dataset):,} records are used (max_records).")
        logger.warning("%s: %s", task.name, notes[-1])
        rows = np.random.default_rng(0).choice(len(dataset), args.max_records, replace=False)
        dataset = dataset.select(np.sort(rows))
    facts = {
        "files": {"test": file},
        "rows_in_file": {"test": len(ids)},
        "rows": {"test": len(dataset)},
        "differences": {},
        "fingerprints": {},
        "notes": notes,
    }
    return TaskData(task, {"test": dataset}, facts, None)
