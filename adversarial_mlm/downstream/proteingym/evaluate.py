"""Score the assays of ProteinGym without training, and compare with the measurements: `benchmark: proteingym`.

One assay is scored after the other: its own positions fill the batches, or for insertions and deletions its own
variants. A record in `results.json` marks an assay as done. Its table of scores is written before.
"""

import logging
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.data.cleaning import clean_sequence
from adversarial_mlm.downstream.arguments import TapeArguments
from adversarial_mlm.downstream.left_out import LeftOut
from adversarial_mlm.downstream.proteingym.files import (
    COLUMNS,
    Assay,
    AssayTable,
    left_out_line,
    read_assay,
    read_reference,
    write_scores,
)
from adversarial_mlm.downstream.proteingym.metrics import BINARY, assay_figures
from adversarial_mlm.downstream.proteingym.results import SPLIT, TASK, averages, base_record, line_of
from adversarial_mlm.downstream.results import as_plain, read_results
from adversarial_mlm.inference.feature_cache import encoder_fingerprint
from adversarial_mlm.inference.mutant_tables import NOT_FINITE, MutantScore, score_mutants
from adversarial_mlm.inference.mutations import OTHER_RESIDUE, OUTSIDE, likely_offset, parse_mutations
from adversarial_mlm.inference.position_windows import PositionReader
from adversarial_mlm.inference.pseudo_likelihood import pseudo_log_likelihoods
from adversarial_mlm.inference.variant_effects import letters_with_token, why_sequence_not_scored
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.utils.errors import CorpusError, RecipeError, shorten
from adversarial_mlm.utils.hardware import on_device
from adversarial_mlm.utils.hashing import file_checksum, fingerprint_of_parts
from adversarial_mlm.utils.options import required
from adversarial_mlm.utils.progress import progress_bar
from adversarial_mlm.utils.statistics import spearman

logger = logging.getLogger(__name__)

SCORES_FOLDER = "scores"
_BASELINE = "fewer substitutions"

Record = dict[str, Any]


class Scorer:
    """A masked language model that scores the variants of assays.

    Args:
        model (`PreTrainedModel`): In evaluation mode, on its device.
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        marginals (`str`, defaults to `"masked"`): Of substitutions, as for [`score_mutants`].
        one_pass (`bool`, defaults to `False`): Insertions and deletions: whether to read each variant once without
            masks, see [`pseudo_log_likelihoods`].
        max_length, batch_tokens (`int`, *optional*): As for [`PositionReader`].

    Attributes:
        room (`int`): Residues that the model reads at once.

    Raises:
        ValueError: As [`PositionReader`].
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        marginals: str = "masked",
        one_pass: bool = False,
        max_length: int | None = None,
        batch_tokens: int | None = None,
    ):
        reader = PositionReader(model, tokenizer, max_length, batch_tokens)
        self.model, self.tokenizer, self.room = model, tokenizer, reader.room
        self.marginals, self.one_pass = marginals, one_pass
        self.sizes: dict[str, Any] = {"max_length": reader.max_length, "batch_tokens": reader.batch_tokens}
        self.letters = letters_with_token(tokenizer)

    def settings(self) -> dict[str, Any]:
        """Return what the scores depend on, as plain values."""
        return {
            "marginals": self.marginals,
            "one_pass": self.one_pass,
            "max_length": self.sizes["max_length"],
            "encoder": encoder_fingerprint(self.model, self.tokenizer),
        }

    def method(self, indels: bool) -> str:
        """Return the name of the method in results."""
        if not indels:
            return f"zero-shot, {self.marginals.replace('_', ' ')} marginals"
        return f"zero-shot, {'one-pass ' * self.one_pass}pseudo-likelihood"

    def score(self, assay: Assay, table: AssayTable) -> tuple[np.ndarray, LeftOut]:
        """Score the variants of an assay.

        Returns:
            The score of each variant, nan if it has none; and how many have none, by reason.

        Raises:
            CorpusError: If half or more of the substitutions do not fit `target_seq`.
            RecipeError: If an option is set that has no effect on this kind of variants.
        """
        apart = "remove it, or evaluate such assays apart with --only"
        if table.indels and self.marginals != "masked":
            raise RecipeError(f"marginals is {self.marginals}, but {assay.path} has no substitutions: {apart}")
        if self.one_pass and not table.indels:
            raise RecipeError(
                f"one_pass is set, but {assay.path} has substitutions, to which it does not apply: {apart}"
            )
        found = self._sequences(table) if table.indels else self._substitutions(assay, table)
        left_out = LeftOut()
        for where, text, one in zip(table.where, table.variants, found, strict=True):
            if one.score is None:
                said = "" if table.indels else f": {shorten(text)}{', ' * bool(one.detail)}{one.detail}"
                left_out.add(one.reason, f"{where}{said}")
        return np.array([np.nan if one.score is None else one.score for one in found]), left_out

    def _substitutions(self, assay: Assay, table: AssayTable) -> list[MutantScore]:
        unit = "mutants" if self.marginals == "mutant" else "positions"
        with progress_bar(unit, leave=False) as progress:
            found = score_mutants(
                self.model,
                self.tokenizer,
                assay.target,
                table.variants,
                marginals=self.marginals,
                progress=progress,
                **self.sizes,
            )
        misfits = [row for row, one in enumerate(found) if one.reason in (OUTSIDE, OTHER_RESIDUE)]
        if 2 * len(misfits) >= len(table):
            parsed = [parse_mutations(text) for text in table.variants]
            better = likely_offset(assay.target, [one for one in parsed if not isinstance(one, str)])
            hint = f"; the positions fit if {better} is subtracted" if better else ""
            first = misfits[0]
            raise CorpusError(
                f"{assay.path}: {len(misfits):,} of {len(table):,} variants do not fit target_seq of {assay.name}, "
                f"the first in {table.where[first]}: {shorten(table.variants[first])}, {found[first].detail}{hint}."
            )
        return found

    def _sequences(self, table: AssayTable) -> list[MutantScore]:
        """Score whole sequences by their pseudo-log-likelihood; equal ones once."""
        reasons = {text: why_sequence_not_scored(text, self.letters) for text in dict.fromkeys(table.variants)}
        cleaned = {text: clean_sequence(text).sequence for text, reason in reasons.items() if reason is None}
        distinct = list(dict.fromkeys(cleaned.values()))
        scores = pseudo_log_likelihoods(self.model, self.tokenizer, distinct, one_pass=self.one_pass, **self.sizes)
        bar = tqdm(scores, total=len(distinct), unit=" variants", leave=False, disable=None)
        of_sequence = {sequence: score.pll for sequence, score in zip(distinct, bar, strict=True)}
        found = []
        for text in table.variants:
            score = of_sequence.get(cleaned.get(text, ""))
            if score is None or not np.isfinite(score):
                found.append(MutantScore(None, reasons[text] or NOT_FINITE))
            else:
                found.append(MutantScore(score))
        return found


def evaluate_proteingym(
    args: TapeArguments, max_length: int | None, keep: Callable[[list[Record]], object] = lambda records: None
) -> list[Record]:
    """Score every assay of the reference file, and average the metrics.

    An assay whose record and scores are in `output_dir` is not scored again, unless its table or `target_seq` changed.

    Args:
        args ([`TapeArguments`]): Options of the command line.
        max_length (`int`, *optional*): Largest number of tokens in a row.
        keep (`Callable`, *optional*): Called with the records of each assay when its scores are written.

    Returns:
        `list[dict]`: A record for each assay, then one of the averages for substitutions, for indels, or for both.

    Raises:
        ValueError: If data, encoder or options cannot be used, or if `output_dir` has scores with other options.
    """
    reference_file = required(args.reference_file, "reference_file")
    folder = required(args.output_dir, "output_dir")
    assays, missing = read_reference(reference_file, required(args.data_dir, "data_dir"), args.only)
    if missing:
        logger.warning(
            "%s: %s of %s assays have no table in %s and are left out, the first is %s.", reference_file,
            f"{len(missing):,}", f"{len(missing) + len(assays):,}", args.data_dir, missing[0]
        )  # fmt: skip
    name = required(args.model_name_or_path, "model_name_or_path")
    model, tokenizer = load_encoder(name, args.model_revision, needs_head=True)
    model = on_device(model, "cuda" if torch.cuda.is_available() and not args.use_cpu else "cpu").eval()
    scorer = Scorer(
        model,
        tokenizer,
        marginals=args.marginals,
        one_pass=args.one_pass,
        max_length=max_length,
        batch_tokens=args.batch_tokens,
    )
    settings = {**scorer.settings(), "column": score_column(name)}
    done = _done(folder, settings)
    records = []
    for number, assay in enumerate(assays, start=1):
        fingerprint = fingerprint_of_parts([file_checksum(assay.path), assay.target])
        record = done.get(assay.name)
        if record is None or not _is_current(folder, record, fingerprint):
            record = _evaluate(scorer, assay, folder, settings, {"model": name, "fingerprint": fingerprint})
            keep([record])
            logger.info("%d of %d: %s", number, len(assays), line_of(record))
        else:
            record = {**record, "assay": {**record["assay"], **_of_reference(assay)}}
            logger.info("%d of %d: %s was scored before", number, len(assays), assay.name)
        records.append(record)
    summary = averages(records, os.path.basename(reference_file), missing, args.bootstrap_samples)
    keep(summary)
    return records + summary


def score_column(name_or_path: str) -> str:
    """Return the name of the column with the scores: the last part of the model's name.

    Raises:
        RecipeError: If the table of an assay has a column of this name.
    """
    name = os.path.basename(os.path.normpath(name_or_path))
    if name in COLUMNS:
        raise RecipeError(f"model_name_or_path ends in {name}, which is a column of the benchmark: rename the folder")
    return name


def _done(folder: str, settings: dict[str, Any]) -> dict[str, Record]:
    """Return the records of assays in a folder by `DMS_id`, and refuse those with other options."""
    found = {record["target"]: record for record in read_results(folder) if "scores" in record}
    for record in found.values():
        for name, value in settings.items():
            if record["settings"].get(name) != value:
                this = "another encoder" if name == "encoder" else f"{name} {record['settings'].get(name)}"
                that = "" if name == "encoder" else f", but this run has {value}"
                raise RecipeError(
                    f"output_dir {folder} contains scores of benchmark {TASK} with {this}{that}: choose another folder"
                )
    return found


def _is_current(folder: str, record: Record, fingerprint: str) -> bool:
    """Whether an assay's table is the one that was scored, and its scores are as they were written."""
    path = os.path.join(folder, record["scores"]["file"])
    return (
        record["data"]["fingerprints"][SPLIT] == fingerprint
        and os.path.isfile(path)
        and file_checksum(path) == record["scores"]["sha256"]
    )


def _evaluate(scorer: Scorer, assay: Assay, folder: str, settings: dict[str, Any], source: dict[str, str]) -> Record:
    """Score an assay, write its table of scores, and return its record."""
    began = time.monotonic()
    table = read_assay(assay)
    scores, left_out = scorer.score(assay, table)
    scored = np.isfinite(scores)
    if not scored.any():
        raise CorpusError(f"{assay.path}: no variant has a score: {left_out.summary(len(table))}.")
    figures = assay_figures(scores, table.labels, table.bins)
    notes = _notes(scorer, assay, table, scored, left_out)
    for note in notes:
        logger.warning("%s: %s", assay.name, note)
    file = os.path.join(SCORES_FOLDER, f"{assay.name}.csv")
    write_scores(os.path.join(folder, file), table, settings["column"], scores)
    labelled, binned = (int((scored & np.isfinite(values)).sum()) for values in (table.labels, table.bins))
    record = {
        **base_record(assay.name, scorer.method(table.indels), source["model"], settings, notes),
        "data": {
            "files": {SPLIT: os.path.basename(assay.path)},
            "rows": {SPLIT: int(scored.sum())},
            "fingerprints": {SPLIT: source["fingerprint"]},
        },
        "figures": {
            SPLIT: {
                name: {"value": value, "low": None, "high": None, "rows": binned if name in BINARY else labelled}
                for name, value in figures.items()
            }
        },
        "assay": {
            **_of_reference(assay),
            "indels": table.indels,
            "variants": len(table),
            "residues": len(assay.target),
        },
        "left_out": dict(left_out.counts),
        "scores": {"file": file, "sha256": file_checksum(os.path.join(folder, file))},
        "seconds": time.monotonic() - began,
        "in_card": False,  # a card has the averages
    }
    against = None if table.indels else _against(scores, table, figures["spearman"])
    return as_plain(record if against is None else {**record, "against": {SPLIT: against}})


def _of_reference(assay: Assay) -> dict[str, Any]:
    """Return what the averages need of the reference file."""
    return {"protein": assay.protein, "function": assay.function, "categories": assay.categories}


def _notes(scorer: Scorer, assay: Assay, table: AssayTable, scored: np.ndarray, left_out: LeftOut) -> list[str]:
    notes = []
    if len(assay.target) > scorer.room:
        notes.append(
            f"target_seq has {len(assay.target):,} residues, and the model reads {scorer.room:,} at once: each "
            "position is read in a window around it."
        )
    if left_out.total:
        notes.append(f"{left_out_line(assay, table, left_out)} The benchmark takes only models that score all.")
    for name, values in (("DMS_score", table.labels), ("DMS_score_bin", table.bins)):
        without = int((scored & ~np.isfinite(values)).sum())
        if without:
            notes.append(
                f"{without:,} of {len(table):,} variants have a score but no {name}, so their metrics lack them."
            )
    return notes


def _against(scores: np.ndarray, table: AssayTable, value: float) -> dict[str, Any] | None:
    """Compare with the number of substitutions, the fewer the better; `None` if it is the same for all variants."""
    rows = np.flatnonzero(np.isfinite(scores) & np.isfinite(table.labels))
    fewer = -np.array([len(parse_mutations(table.variants[row])) for row in rows], dtype=np.float64)
    baseline = float(spearman(fewer, table.labels[rows])) if len(rows) else float("nan")
    if not np.isfinite(baseline):
        return None
    difference = value - baseline
    return {
        "baseline": _BASELINE,
        "difference": difference,
        "low": None,
        "high": None,
        "beaten": bool(difference > 0),
    }
