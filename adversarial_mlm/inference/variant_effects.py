"""Scores of substitutions from a masked language model as it is: no training, no labels (Meier et al. 2021).

With L(i, a) the logarithm of the probability that the model gives residue a at position i of the wild type, a variant
has the score Σ L(i, new) − L(i, old) over its substitutions. For *masked* marginals L is read where i alone is masked,
for *wild-type* marginals where nothing is.
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
    """Logarithms of the probabilities of all tokens at positions of a protein.

    Each position is read within a window around it where the protein is longer than the model reads.

    Args:
        model (`PreTrainedModel`): A masked language model in evaluation mode, on its device.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        wild_type (`str`): The protein.
        positions (`Sequence[int]`, *optional*): Positions from 0; by default all.
        masked (`bool`, defaults to `True`): Whether the position is masked, one at a time.
        max_length (`int`, *optional*): Longest input in tokens; by default [`default_max_length`].
        batch_tokens (`int`, *optional*): Tokens in a batch; by default 4,096.

    Returns:
        `np.ndarray` of shape `(residues, vocab)`, float64; nan at other positions.

    Raises:
        ValueError: If the tokenizer has no mask or does not read one residue as one token, or if the model's output is
            not finite.
    """
    table = ByteTable.from_tokenizer(tokenizer)
    if masked and tokenizer.mask_token_id is None:
        raise ValueError("the tokenizer has no mask token, so that no position can be masked")
    max_length = max_length or default_max_length(model, tokenizer)
    check_max_length(model, max_length)
    ids = table.encode(wild_type)
    positions = np.arange(len(ids)) if positions is None else np.unique(np.asarray(positions, dtype=np.int64))
    room = max_length - len(table.prefix) - len(table.suffix)
    if room < 1:
        raise ValueError(f"max_length is {max_length}, which leaves no room for a residue beside special tokens")
    window = min(room, len(ids))
    starts = np.clip(positions - window // 2, 0, len(ids) - window)
    found = None
    at_once = max(1, (batch_tokens or _BATCH_TOKENS) // (window + max_length - room))
    for begin in range(0, len(positions), at_once):
        chosen, first = positions[begin : begin + at_once], starts[begin : begin + at_once]
        if not masked:  # of equal windows one is enough
            first, of_row = np.unique(first, return_inverse=True)
        rows = [np.concatenate([table.prefix, ids[start : start + window], table.suffix]) for start in first]
        batch = torch.from_numpy(np.stack(rows).astype(np.int64)).to(model.device)
        row = torch.arange(len(chosen)) if masked else torch.from_numpy(of_row)
        place = torch.from_numpy(chosen - first[row.numpy()] + len(table.prefix))
        if masked:
            batch[row, place] = tokenizer.mask_token_id
        logits = model(input_ids=batch, attention_mask=torch.ones_like(batch)).logits
        logs = torch.log_softmax(logits[row, place].double(), dim=-1).cpu().numpy()
        if np.isnan(logs).any():
            raise ValueError("the model's output is not finite: are its weights damaged?")
        if found is None:
            found = np.full((len(ids), logs.shape[-1]), np.nan)
        found[chosen] = logs
    return found


def substitutions(wild_type: str, sequence: str) -> list[tuple[int, str]] | None:
    """Positions from 0 and new residues of a variant; None if its length is another one."""
    if len(sequence) != len(wild_type):
        return None
    return [(place, new) for place, (old, new) in enumerate(zip(wild_type, sequence, strict=True)) if old != new]


def apply_mutations(wild_type: str, text: str) -> str:
    """The sequence of a variant such as `A12G:L30F`: old residue, position from 1, new residue.

    An empty text is the wild type.

    Raises:
        ValueError: If a part is not of this form, or the wild type has another residue there; the message is the
            reason.
    """
    sequence = list(wild_type)
    for part in filter(None, re.split(r"[:;,\s]+", text.strip())):
        match = _SUBSTITUTION.fullmatch(part.upper())
        if match is None:
            raise ValueError(f"holds {shorten(part)}, which is no substitution such as A12G")
        old, place, new = match[1], int(match[2]), match[3]
        if not 1 <= place <= len(wild_type):
            raise ValueError(f"holds {part}, but the wild type has {len(wild_type)} residues")
        if wild_type[place - 1] != old:
            raise ValueError(f"holds {part}, but the wild type has {wild_type[place - 1]} at position {place}")
        if sequence[place - 1] != old:
            raise ValueError(f"holds two substitutions at position {place}")
        sequence[place - 1] = new
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
    """Score variants of a wild type. Arguments are as in [`marginals`].

    Returns:
        `np.ndarray` of shape `(variants,)`, float64; nan where the length is another one than the wild type's, or a
        residue has no token.
    """
    variants = [substitutions(wild_type, sequence) for sequence in sequences]
    places = sorted({place for variant in variants for place, _ in variant or ()})
    if not places:
        return np.array([np.nan if variant is None else 0.0 for variant in variants])
    logs = marginals(
        model, tokenizer, wild_type, places, masked=masked, max_length=max_length, batch_tokens=batch_tokens
    )
    table = ByteTable.from_tokenizer(tokenizer)
    ids = {letter: int(table.encode(letter)[0]) for letter in {*wild_type, *"".join(sequences)}}
    scores = np.full(len(variants), np.nan)
    for row, variant in enumerate(variants):
        if variant is None:
            continue
        pairs = [(place, ids[new], ids[wild_type[place]]) for place, new in variant]
        if all(tokenizer.unk_token_id not in pair[1:] for pair in pairs):
            scores[row] = sum(logs[place, new] - logs[place, old] for place, new, old in pairs)
    return scores


def evaluate_zero_shot(args: TapeArguments, max_length: int | None) -> list[dict[str, Any]]:
    """Correlation of the scores with what was measured, for every task of the command line.

    The baseline beside it is the number of substitutions: the fewer, the better.

    Returns:
        `list[dict]`: Records as from [`record`].

    Raises:
        ValueError: If a task has no wild type, or data or model cannot be used.
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
                    f"{data.task.name}: {len(rows)} of the {len(scores):,} records of {split} are substitutions of "
                    f"the wild type ({len(wild_type)} residues)."
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
    """The data with the records that could be scored, and a note of how many could not."""
    facts = {**data.facts, "notes": list(data.facts["notes"])}
    facts["rows"] = {split: len(dataset) for split, dataset in kept.items()}
    facts["fingerprints"] = {split: fingerprint(dataset) for split, dataset in kept.items()}
    for split, dataset in kept.items():
        left = len(data.splits[split]) - len(dataset)
        if left:
            facts["notes"].append(
                f"{split}: {left:,} of {len(data.splits[split]):,} records are left out, as they have another length "
                "than the wild type, or a residue without a token."
            )
            logger.warning("%s: %s", data.task.name, facts["notes"][-1])
    return dataclasses.replace(data, splits=kept, facts=facts)


def _tape_variants(args: TapeArguments, name: str) -> TaskData:
    if name != "fluorescence":
        raise CorpusError(f"task {name} has no wild type, so that mode: zero_shot cannot score it.")
    return load_task(
        name, args.data_dir, file_prefix=args.file_prefix, target=args.target, max_records=args.max_records
    )


def _given_wild_type(args: TapeArguments) -> str | None:
    """The wild type of the command line.

    Raises:
        [`CorpusError`]: If there is something else than letters of residues in it.
    """
    if args.wild_type is None:
        return None
    cleaned = clean_sequence(args.wild_type.strip())
    if not cleaned.sequence or cleaned.stops or cleaned.gaps or cleaned.whitespace or cleaned.unknown:
        raise CorpusError(f"wild_type is {shorten(args.wild_type)}, which is not a protein in letters of residues.")
    return cleaned.sequence


def _wild_type_among(data_dir: str, data: TaskData) -> str:
    """The record without mutations, which need not be one of those that are used."""
    column = data.task.sequence_column
    for file in data.facts["files"].values():
        for _, values in read_records(os.path.join(os.path.expanduser(data_dir), file), [column], ["num_mutations"]):
            if read_whole_number(values.get("num_mutations")) == 0:
                return clean_sequence(read_sequence(values[column])).sequence
    raise CorpusError(
        f"{data.task.name}: no record has num_mutations 0, which would be the wild type; give it as wild_type."
    )


def _own_variants(args: TapeArguments) -> TaskData:
    """The table of the user as one split, `test`: nothing is trained."""
    if args.task[0] != "regression":
        raise CorpusError(f"task is {args.task[0]}, but mode: zero_shot compares with measured numbers: regression.")
    task = own_task("regression", args.target, sequence_column=args.mutations_column or args.sequence_column)
    wild_type = _given_wild_type(args)
    if wild_type is None:
        raise CorpusError("wild_type is missing, which mode: zero_shot needs for a task of one's own.")
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
