"""Zero-shot scores of substitutions from a masked language model (Meier et al. 2021).

Let L(i, a) be the log-probability of residue a at position i of the wild type. A variant's score is
Σ L(i, new) − L(i, old) over its substitutions. *Masked* marginals mask position i only, *wild-type* marginals mask
nothing.
"""

import dataclasses
import logging
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.data.cleaning import clean_sequence
from adversarial_mlm.downstream.arguments import TapeArguments
from adversarial_mlm.downstream.definitions import KINDS, own_task
from adversarial_mlm.downstream.labels import read_number, read_sequence, read_text, read_whole_number
from adversarial_mlm.downstream.reading import read_records
from adversarial_mlm.downstream.records import fingerprint
from adversarial_mlm.downstream.results import record
from adversarial_mlm.downstream.tasks import TaskData, load_task
from adversarial_mlm.inference.embeddings import check_max_length, default_max_length
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.models.tokenization_protein import ByteTable
from adversarial_mlm.utils.errors import CorpusError, shorten

logger = logging.getLogger(__name__)

_BATCH_TOKENS = 4096
_SUBSTITUTION = re.compile(r"([A-Z])([0-9]+)([A-Z])")


@torch.no_grad()
def marginals(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    wild_type: str,
    positions: Sequence[int] | None = None,
    *,
    masked: bool = True,
    max_length: int | None = None,
    batch_tokens: int | None = None,
) -> np.ndarray:
    """Return the log-probabilities of all tokens at positions of a protein.

    If the protein is longer than `max_length`, each position is read within a window around it.

    Args:
        model (`PreTrainedModel`): A masked language model in evaluation mode, on its device.
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        wild_type (`str`): The protein.
        positions (`Sequence[int]`, *optional*): Positions from 0; by default all.
        masked (`bool`, defaults to `True`): Whether to mask each position in turn.
        max_length (`int`, *optional*): Largest number of tokens in a row; by default [`default_max_length`].
        batch_tokens (`int`, *optional*): Tokens in a batch; by default 4,096.

    Returns:
        `np.ndarray` of shape `(residues, vocab)`, float64; nan at other positions.

    Raises:
        ValueError: If the tokenizer has no mask or does not read one residue as one token, or if the model's output is
            not finite.
    """
    table = ByteTable.from_tokenizer(tokenizer)
    if masked and tokenizer.mask_token_id is None:
        raise ValueError("the tokenizer has no mask token: use marginals wild_type, or a masked language model")
    max_length = max_length or default_max_length(model, tokenizer)
    check_max_length(model, max_length)
    ids = table.encode(wild_type)
    positions = np.arange(len(ids)) if positions is None else np.unique(np.asarray(positions, dtype=np.int64))
    room = max_length - len(table.prefix) - len(table.suffix)
    if room < 1:
        raise ValueError(
            f"max_length is {max_length}, which leaves no room for a residue next to the special tokens: use at least "
            f"{max_length - room + 1}"
        )
    window = min(room, len(ids))
    starts = np.clip(positions - window // 2, 0, len(ids) - window)
    found = None
    at_once = max(1, (batch_tokens or _BATCH_TOKENS) // (window + max_length - room))
    for begin in range(0, len(positions), at_once):
        chosen, first = positions[begin : begin + at_once], starts[begin : begin + at_once]
        if not masked:  # read equal windows once
            first, of_row = np.unique(first, return_inverse=True)
        rows = [np.concatenate([table.prefix, ids[start : start + window], table.suffix]) for start in first]
        batch = torch.from_numpy(np.stack(rows).astype(np.int64)).to(model.device)
        row = torch.arange(len(chosen)) if masked else torch.from_numpy(of_row)
        column = torch.from_numpy(chosen - first[row.numpy()] + len(table.prefix))
        if masked:
            batch[row, column] = tokenizer.mask_token_id
        logits = model(input_ids=batch, attention_mask=torch.ones_like(batch)).logits
        logs = torch.log_softmax(logits[row, column].double(), dim=-1).cpu().numpy()
        if np.isnan(logs).any():
            raise ValueError("the model's output is not finite: its weights may be damaged")
        if found is None:
            found = np.full((len(ids), logs.shape[-1]), np.nan)
        found[chosen] = logs
    return found


def substitutions(wild_type: str, sequence: str) -> list[tuple[int, str]] | None:
    """Return positions (from 0) and new residues of a variant; `None` if its length differs."""
    if len(sequence) != len(wild_type):
        return None
    return [(position, new) for position, (old, new) in enumerate(zip(wild_type, sequence, strict=True)) if old != new]


def apply_mutations(wild_type: str, text: str) -> str:
    """Return the sequence of a variant such as `A12G:L30F` (old residue, position from 1, new residue).

    An empty text gives the wild type.

    Raises:
        ValueError: If a part has another form, or the wild type has another residue at the position; the message is
            the end of a sentence.
    """
    sequence = list(wild_type)
    for part in filter(None, re.split(r"[:;,\s]+", text.strip())):
        match = _SUBSTITUTION.fullmatch(part.upper())
        if match is None:
            raise ValueError(f"contains {shorten(part)}, which is not a substitution such as A12G")
        old, position, new = match[1], int(match[2]), match[3]
        if not 1 <= position <= len(wild_type):
            raise ValueError(f"contains {part}, but the wild type has {len(wild_type)} residues")
        if wild_type[position - 1] != old:
            raise ValueError(
                f"contains {part}, but the wild type has {wild_type[position - 1]} at position {position}"
            )
        if sequence[position - 1] != old:
            raise ValueError(f"contains two substitutions at position {position}")
        sequence[position - 1] = new
    return "".join(sequence)


def score_variants(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    wild_type: str,
    sequences: Sequence[str],
    *,
    masked: bool = True,
    max_length: int | None = None,
    batch_tokens: int | None = None,
) -> np.ndarray:
    """Score variants of a wild type. The arguments are those of [`marginals`].

    Returns:
        `np.ndarray` of shape `(variants,)`, float64; nan if the length differs from the wild type's, or a residue has
        no token.
    """
    variants = [substitutions(wild_type, sequence) for sequence in sequences]
    positions = sorted({position for variant in variants for position, _ in variant or ()})
    if not positions:
        return np.array([np.nan if variant is None else 0.0 for variant in variants])
    logs = marginals(
        model, tokenizer, wild_type, positions, masked=masked, max_length=max_length, batch_tokens=batch_tokens
    )
    table = ByteTable.from_tokenizer(tokenizer)
    ids = {letter: int(table.encode(letter)[0]) for letter in {*wild_type, *"".join(sequences)}}
    scores = np.full(len(variants), np.nan)
    for row, variant in enumerate(variants):
        if variant is None:
            continue
        pairs = [(position, ids[new], ids[wild_type[position]]) for position, new in variant]
        if all(tokenizer.unk_token_id not in pair[1:] for pair in pairs):
            scores[row] = sum(logs[position, new] - logs[position, old] for position, new, old in pairs)
    return scores


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
        prepared.append((data, _given_wild_type(args) or _wild_type_among(args.data_dir, data)))
    model, tokenizer = load_encoder(args.model_name_or_path, args.model_revision, needs_head=True)
    device = "cuda" if torch.cuda.is_available() and not args.use_cpu else "cpu"
    model = model.to(device).eval()
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
            counted[split] = -np.array([len(substitutions(wild_type, item)) for item in kept[split]["sequence"][:]])
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
                model=args.model_name_or_path,
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
    return load_task(
        name, args.data_dir, file_prefix=args.file_prefix, target=args.target, max_records=args.max_records
    )


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
    task = own_task("regression", args.target, sequence_column=args.mutations_column or args.sequence_column)
    wild_type = _given_wild_type(args)
    if wild_type is None:
        raise CorpusError("wild_type is missing: mode zero_shot needs it for your own table.")
    ids, sequences, labels = [], [], []
    for number, (where, values) in enumerate(read_records(args.train_file, [task.sequence_column, args.target])):
        column = task.sequence_column
        try:
            if args.mutations_column:
                sequences.append(apply_mutations(wild_type, read_text(values[column]) or ""))
            else:
                sequences.append(read_sequence(values[column]).strip().upper())
            column = args.target
            labels.append(read_number(values[column]))
        except ValueError as error:
            raise CorpusError(f'{args.train_file}: {where}: column "{column}" {error}.') from error
        ids.append(str(number))
    dataset, notes = Dataset.from_dict({"id": ids, "sequence": sequences, "label": labels}), []
    if args.max_records is not None and len(dataset) > args.max_records:
        notes.append(f"{args.max_records:,} of {len(dataset):,} records are used (max_records).")
        logger.warning("%s: %s", task.name, notes[-1])
        rows = np.random.default_rng(0).choice(len(dataset), args.max_records, replace=False)
        dataset = dataset.select(np.sort(rows))
    facts = {
        "files": {"test": args.train_file},
        "rows_in_file": {"test": len(ids)},
        "rows": {"test": len(dataset)},
        "differences": {},
        "fingerprints": {},
        "notes": notes,
    }
    return TaskData(task, {"test": dataset}, facts, None)
