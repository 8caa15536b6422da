"""Compare the scores of substitutions with measurements: `mode: zero_shot` of an evaluation."""

import dataclasses
import logging
import os
from collections.abc import Container
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from adversarial_mlm.data.cleaning import CleaningCounts, clean_sequence
from adversarial_mlm.downstream.arguments import TapeArguments
from adversarial_mlm.downstream.definitions import KINDS, Task, own_task, with_groups
from adversarial_mlm.downstream.labels import read_number, read_sequence, read_text, read_whole_number, read_words
from adversarial_mlm.downstream.left_out import NO_LABEL, LeftOut
from adversarial_mlm.downstream.reading import read_records
from adversarial_mlm.downstream.records import fingerprint
from adversarial_mlm.downstream.results import record
from adversarial_mlm.downstream.tasks import TaskData, load_task
from adversarial_mlm.inference.mutations import (
    Substitution,
    apply_substitutions,
    likely_offset,
    misfit,
    parse_mutations,
)
from adversarial_mlm.inference.variant_effects import (
    check_wild_type,
    letters_with_token,
    score_variants,
    substitutions,
    why_not_scored,
)
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import CorpusError, one_line, shorten
from adversarial_mlm.utils.hardware import on_device
from adversarial_mlm.utils.options import required

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class _Variants:
    """Variants of a wild type with measurements.

    Attributes:
        data (`TaskData`): The variants by split; train is not scored.
        wild_type (`str`): The wild type.
        where (`dict[str, list[str]]`): By split, how to name each variant in a message, such as `"line 3"`.
    """

    data: TaskData
    wild_type: str
    where: dict[str, list[str]]


def evaluate_zero_shot(args: TapeArguments, max_length: int | None) -> list[dict[str, Any]]:
    """Correlate the scores with the measurements, for every task of the command line.

    The baseline is the number of substitutions: the fewer, the better. Variants that have no score are left out and
    counted by reason.

    Returns:
        `list[dict]`: Results of [`record`].

    Raises:
        ValueError: If a task has no wild type, or if the data or the model cannot be used.
    """
    prepared = [_own_variants(args) if name in KINDS else _tape_variants(args, name) for name in args.task]
    name_or_path = required(args.model_name_or_path, "model_name_or_path")
    model, tokenizer = load_encoder(name_or_path, args.model_revision, needs_head=True)
    device = "cuda" if torch.cuda.is_available() and not args.use_cpu else "cpu"
    model = on_device(model, device).eval()
    records = []
    for variants in prepared:
        predictions, counted, kept, left_out = {}, {}, {}, {}
        for split, dataset in variants.data.splits.items():
            if split == "train":
                continue
            scores = score_variants(
                model,
                tokenizer,
                variants.wild_type,
                dataset["sequence"][:],
                marginals_of=args.marginals,
                max_length=max_length,
                batch_tokens=args.batch_tokens,
            )
            left_out[split] = _without_score(variants, split, scores, letters_with_token(tokenizer))
            rows = np.flatnonzero(np.isfinite(scores))
            _check_enough(variants.data.task.name, split, variants.wild_type, len(rows), left_out[split])
            kept[split], predictions[split] = dataset.select(rows), scores[rows]
            counted[split] = -np.array(
                [len(substitutions(variants.wild_type, found) or ()) for found in kept[split]["sequence"][:]]
            )
        data = _restricted(variants.data, kept, left_out)
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


def _without_score(variants: _Variants, split: str, scores: np.ndarray, letters: Container[str]) -> LeftOut:
    """Count the variants without a score by reason."""
    left_out = LeftOut()
    sequences = variants.data.splits[split]["sequence"][:]
    for row in np.flatnonzero(~np.isfinite(scores)):
        reason = why_not_scored(variants.wild_type, sequences[row], letters)
        left_out.add(reason or "with a score that is not finite", variants.where[split][row])
    return left_out


def _check_enough(task: str, split: str, wild_type: str, kept: int, left_out: LeftOut) -> None:
    if kept < 2:
        records = kept + left_out.total
        reasons = f"; {left_out.summary(records)}" if left_out.total else ""
        raise CorpusError(
            f"{task}: only {kept} of the {count(records, 'record')} of {split} {verb(kept, 'is a', 'are')} "
            f"{verb(kept, 'substitution', 'substitutions')} of the wild type "
            f"({count(len(wild_type), 'residue')}), and 2 are needed: check wild_type{reasons}."
        )


def _restricted(data: TaskData, kept: dict[str, Dataset], left_out: dict[str, LeftOut]) -> TaskData:
    """Return the data with the records that were scored, and a note of the others."""
    facts = {**data.facts, "notes": list(data.facts["notes"])}
    facts["rows"] = {split: len(dataset) for split, dataset in kept.items()}
    facts["fingerprints"] = {split: fingerprint(dataset) for split, dataset in kept.items()}
    for split, found in left_out.items():
        if found.total:
            facts["notes"].append(f"{split}: {found.summary(len(data.splits[split]))}.")
            logger.warning("%s: %s", data.task.name, facts["notes"][-1])
    return dataclasses.replace(data, splits=kept, facts=facts)


def _tape_variants(args: TapeArguments, name: str) -> _Variants:
    if name != "fluorescence":
        raise CorpusError(
            f"task {name} has no wild type, so mode zero_shot cannot score it: use fluorescence or your own table."
        )
    data_dir = required(args.data_dir, "data_dir")
    data = load_task(
        name,
        data_dir,
        file_prefix=args.file_prefix,
        target=args.target,
        group_column=args.group_column,
        max_records=args.max_records,
    )
    data = dataclasses.replace(data, task=dataclasses.replace(data.task, other_units=True))
    wild_type = _wild_type_among(data_dir, data) if args.wild_type is None else check_wild_type(args.wild_type)
    where = {split: [f"id {shorten(name)}" for name in dataset["id"][:]] for split, dataset in data.splits.items()}
    return _Variants(data, wild_type, where)


def _wild_type_among(data_dir: str, data: TaskData) -> str:
    """Find the record without mutations in all files, also among records that are not used."""
    column = data.task.sequence_column
    for file in data.facts["files"].values():
        for _, values in read_records(os.path.join(os.path.expanduser(data_dir), file), [column], ["num_mutations"]):
            if read_whole_number(values.get("num_mutations")) == 0:
                return clean_sequence(read_sequence(values[column])).sequence
    raise CorpusError(f"{data.task.name}: no record has num_mutations 0, so the wild type is unknown: set wild_type.")


def _own_variants(args: TapeArguments) -> _Variants:
    """Load the user's table as a single split, `test`, since nothing is trained."""
    if args.task[0] != "regression":
        raise CorpusError(
            f"task is {args.task[0]}, but mode zero_shot compares with measured numbers: use task regression."
        )
    target, file = required(args.target, "target"), required(args.train_file, "train_file")
    task = own_task("regression", target, sequence_column=args.mutations_column or args.sequence_column)
    task = dataclasses.replace(
        with_groups(task, args.group_column), other_units=True, unit="variants of one wild type"
    )
    grouped = [] if args.group_column is None else [args.group_column]
    if args.wild_type is None:
        raise CorpusError("wild_type is missing: mode zero_shot needs it for your own table.")
    wild_type = check_wild_type(args.wild_type)
    table = _VariantTable(file, task.sequence_column, wild_type, args.offset)
    of_variants = "mutations_column" if args.mutations_column else "sequence_column"
    columns = {task.sequence_column: of_variants, target: "target", **dict.fromkeys(grouped, "group_column")}
    for number, (where, values) in enumerate(read_records(file, columns)):
        column = target
        try:
            label = read_number(values[target])
            column = task.sequence_column
            if args.mutations_column:
                sequence = table.mutated(where, read_words(values[column]))
            else:
                sequence = table.cleaned(where, read_sequence(values[column]))
        except ValueError as error:
            raise CorpusError(f'{file}: {where}: column "{column}" {one_line(error)}.') from error
        table.add(number, where, sequence, label, read_text(values[grouped[0]]) if grouped else None)
    return table.variants(task, args.max_records)


class _VariantTable:
    """The variants of a user's table, and what is left out of it."""

    def __init__(self, file: str, column: str, wild_type: str, offset: int):
        self.file, self.column, self.wild_type, self.offset = file, column, wild_type, offset
        self.rows: list[tuple[str, str, str, float, str | None]] = []  # id, location, sequence, label, group
        self.left_out = LeftOut()
        self.cleaning = CleaningCounts()
        self.substitutions: list[list[Substitution]] = []
        self.misfits: list[str] = []

    def mutated(self, where: str, text: str) -> str | None:
        """Return the sequence of a variant that is given by its substitutions; `None` if it is left out."""
        found = parse_mutations(text, self.offset)
        if isinstance(found, str):
            self._leave_out(found, where, text)
            return None
        if found:
            self.substitutions.append(found)
        wrong = misfit(self.wild_type, found)
        if wrong is not None:
            reason, detail = wrong
            self.misfits.append(f'{where}: column "{self.column}" contains {shorten(text)}, but {detail}')
            self._leave_out(reason, where, text)
            return None
        return self.cleaned(where, apply_substitutions(self.wild_type, found), text)

    def cleaned(self, where: str, text: str, mutation: str = "") -> str | None:
        """Return the clean sequence of a variant; `None` if it is left out."""
        reason = why_not_scored(self.wild_type, text)
        if reason is not None:
            self._leave_out(reason, where, mutation)
            return None
        cleaned = clean_sequence(text.strip())
        self.cleaning.add(cleaned)
        return cleaned.sequence

    def add(
        self, number: int, where: str, sequence: str | None, label: float | None, group: str | None = None
    ) -> None:
        """Add a variant, unless it was left out or has no label."""
        self.cleaning.records_read += 1
        if sequence is not None and label is None:
            self._leave_out(NO_LABEL, where)
        elif sequence is not None and label is not None:
            self.cleaning.records_kept += 1
            self.rows.append((str(number), where, sequence, label, group))

    def _leave_out(self, reason: str, where: str, text: str = "") -> None:
        self.left_out.add(reason, f"{where}: {shorten(text)}" if text else where)

    def variants(self, task: Task, max_records: int | None) -> _Variants:
        """Return the variants as a single split, `test`.

        Raises:
            [`CorpusError`]: If half or more of the variants do not fit the wild type, or fewer than two are left.
        """
        if 2 * len(self.misfits) >= max(1, len(self.substitutions)):
            self._refuse_misfits()
        _check_enough(task.name, "test", self.wild_type, len(self.rows), self.left_out)
        records, notes, rows = self.cleaning.records_read, [], self.rows
        if self.left_out.total:
            notes.append(f"{os.path.basename(self.file)}: {self.left_out.summary(records)}.")
        if self.cleaning != CleaningCounts(self.cleaning.records_read, self.cleaning.records_kept):
            notes.append(f"test: {self.cleaning.summary()}.")
        if max_records is not None and len(rows) > max_records:
            notes.append(
                f"{max_records:,} of {count(len(rows), 'record')} {verb(max_records, 'is', 'are')} used (max_records)."
            )
            chosen = np.random.default_rng(0).choice(len(rows), max_records, replace=False)
            rows = [rows[index] for index in np.sort(chosen)]
        for note in notes:
            logger.warning("%s: %s", task.name, note)
        ids, where, sequences, labels, groups = (list(column) for column in zip(*rows, strict=True))
        facts = {
            "files": {"test": self.file},
            "rows_in_file": {"test": records},
            "rows": {"test": len(rows)},
            "left_out": {"test": dict(self.left_out.counts)} if self.left_out.total else {},
            "differences": {},
            "fingerprints": {},
            "notes": notes,
        }
        columns = {"id": ids, "sequence": sequences, "label": labels, **dict.fromkeys(task.groups, groups)}
        dataset = Dataset.from_dict(columns)
        return _Variants(TaskData(task, {"test": dataset}, facts, None), self.wild_type, {"test": where})

    def _refuse_misfits(self) -> None:
        better = likely_offset(self.wild_type, self.substitutions)
        hint = "check wild_type and the offset of the positions"
        if better is not None:
            hint = f"the positions fit with offset {self.offset + better}: set it, or give another wild_type"
        raise CorpusError(
            f"{self.file}: {len(self.misfits):,} of {count(len(self.substitutions), 'variant')} "
            f"{verb(len(self.misfits), 'does', 'do')} not fit the wild type "
            f"({count(len(self.wild_type), 'residue')}), the first in {self.misfits[0]}: {hint}."
        )
