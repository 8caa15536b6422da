"""Predict contacts from attention maps: the mean over heads, and a sparse logistic regression on a few proteins."""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adversarial_mlm.downstream.arguments import TapeArguments
from adversarial_mlm.downstream.contacts.data import ContactProtein
from adversarial_mlm.downstream.contacts.regression import INVERSE_PENALTY, fit_contacts
from adversarial_mlm.downstream.contacts.results import Runs, record
from adversarial_mlm.downstream.contacts.scoring import LEAST_SEPARATION, chance_precisions, pairs_of, precisions
from adversarial_mlm.downstream.contacts.task import ContactTask, load_contact_task
from adversarial_mlm.inference.attention_maps import AttentionReader
from adversarial_mlm.inference.embeddings import random_twin
from adversarial_mlm.models.loading import load_backbone
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.hardware import device_for, on_device
from adversarial_mlm.utils.options import required
from adversarial_mlm.utils.progress import Progress

logger = logging.getLogger(__name__)

ATTENTION, REGRESSION, UNTRAINED = "attention", "regression", "no pre-training"


def evaluate_contacts(args: TapeArguments, max_length: int | None = None) -> list[dict[str, Any]]:
    """Measure how well the attention maps of an encoder predict contacts.

    One protein is in memory at a time, but for the features of the regression's proteins.

    Args:
        args ([`TapeArguments`]): Options of the command line.
        max_length (`int`, *optional*): Most tokens of a protein; by default those that the encoder reads at once.

    Returns:
        `list[dict]`: Results of [`record`]: `attention` (mean over the corrected maps of all heads) and `regression`,
        both also for encoders without pre-training; and the baselines `separation` (the nearer in the sequence, the
        higher) and `chance` (the expected precision of a random order).

    Raises:
        ValueError: If data, encoder or options cannot be used; the message is one line.
    """
    baselines_only = args.mode == "baselines"
    reader = None if baselines_only else _reader(args, max_length)
    task = load_contact_task(args, None if reader is None else reader.max_residues)
    common: dict[str, Any] = {"data": task.data(), "notes": task.notes, "bootstrap_samples": args.bootstrap_samples}
    baselines = _without_encoder(task.test)
    results = [] if reader is None else _of_encoders(args, task, reader, baselines, common)
    return [*results, *(record(name, runs, is_baseline=True, **common) for name, runs in baselines.items())]


def _reader(args: TapeArguments, max_length: int | None) -> AttentionReader:
    model, tokenizer = load_backbone(required(args.model_name_or_path, "model_name_or_path"), args.model_revision)
    return AttentionReader(on_device(model, device_for(args.use_cpu)).eval(), tokenizer, max_length)


def _without_encoder(proteins: Sequence[ContactProtein]) -> dict[str, Runs]:
    by_separation, by_chance = [], []
    for protein in proteins:
        labels, length = protein.labels(), len(protein.sequence)
        first, second = pairs_of(length)
        by_separation.append(precisions(first - second, labels, length, protein.counted))
        by_chance.append(chance_precisions(labels, length))
    return {"separation": [np.stack(by_separation)], "chance": [np.stack(by_chance)]}


def _of_encoders(
    args: TapeArguments,
    task: ContactTask,
    reader: AttentionReader,
    baselines: Mapping[str, Runs],
    common: dict[str, Any],
) -> list[dict[str, Any]]:
    """Return the results of the encoder, and of encoders without pre-training."""
    model = required(args.model_name_or_path, "model_name_or_path")
    own_seeds = args.seeds if task.draws_differ else args.seeds[:1]
    reading = _Reading(task, [own_seeds, *([seed] for seed in args.seeds if args.untrained)])
    twins: dict[str, list[np.ndarray]] = {}
    twin_fits: list[dict] = []
    for seed in args.seeds if args.untrained else ():
        twin = reader.of(random_twin(reader.model, seed))
        runs, fits = _measure(task, twin, [seed], reading, f"{UNTRAINED}, seed {seed}")
        twins = {method: twins.get(method, []) + found for method, found in runs.items()}
        twin_fits += fits
    own, own_fits = _measure(task, reader, own_seeds, reading, "encoder")
    reading.close()

    def settings(method: str, fits: list[dict]) -> dict[str, Any]:
        of_all = {"max_length": reader.encoder.max_length}
        of_regression = {"proteins": task.of_regression, "inverse_penalty": INVERSE_PENALTY, "chosen": fits}
        return {**of_all, **(of_regression if method == REGRESSION else {})}

    results = []
    for method, of_own in own.items():
        against = {**baselines, UNTRAINED: twins[method]} if twins else baselines
        seeds = own_seeds if len(of_own) > 1 else []
        about: dict[str, Any] = {"model": model, "settings": settings(method, own_fits), **common}
        results.append(record(method, of_own, seeds=seeds, baselines=against, **about))
    for method, of_twins in twins.items():
        about = {"model": model, "settings": settings(method, twin_fits), **common}
        results.append(record(f"{method}, {UNTRAINED}", of_twins, seeds=args.seeds, is_baseline=True, **about))
    return results


def _measure(
    task: ContactTask, reader: AttentionReader, seeds: Sequence[int], reading: "_Reading", label: str
) -> tuple[dict[str, list[np.ndarray]], list[dict[str, float]]]:
    """Fit a regression for each seed, and measure them and the mean over heads.

    Returns:
        Precisions `(proteins, metrics)` of each run by method, and facts about the regressions.
    """

    def features_of(protein: ContactProtein) -> np.ndarray:
        features = reader.pair_features(protein.sequence, LEAST_SEPARATION)
        reading.protein_done(protein)
        return features

    began = time.monotonic()
    fits = [fit_contacts(task.draw(seed), features_of) for seed in seeds] if task.of_regression else []
    if any(not fit.weights.any() for fit in fits):
        logger.warning("contacts: the regression gives no head a weight, so its precision is not defined.")
    fitted = time.monotonic()
    rows: list[list[np.ndarray]] = []
    for protein in task.test:
        features, labels = features_of(protein), protein.labels()
        scores = [features.mean(axis=0), *(fit.scores(features) for fit in fits)]
        rows.append([precisions(of_run, labels, len(protein.sequence), protein.counted) for of_run in scores])
    seconds = fitted - began, time.monotonic() - fitted
    logger.info(
        "contacts: %s: regression %.1f s, %s test proteins %.1f s", label, seconds[0], len(task.test), seconds[1]
    )
    attention, *regressions = (np.stack(of_run) for of_run in zip(*rows, strict=True))
    found = {ATTENTION: [attention], **({REGRESSION: regressions} if regressions else {})}
    return found, [fit.facts() for fit in fits]


class _Reading:
    """The progress of reading proteins: the time of a protein grows with the square of its length."""

    def __init__(self, task: ContactTask, seeds_of_encoders: Sequence[Sequence[int]]):
        proteins = [protein for seeds in seeds_of_encoders for seed in seeds for protein in task.draw(seed)]
        proteins += task.test * len(seeds_of_encoders)
        self._proteins, self._done, self._start = len(proteins), 0, time.monotonic()
        self._shown = Progress(sum(len(protein.sequence) ** 2 for protein in proteins), self._text, logger)

    def protein_done(self, protein: ContactProtein) -> None:
        self._done += 1
        self._shown.advance(len(protein.sequence) ** 2)

    def close(self) -> None:
        self._shown.close()

    def _text(self) -> str:
        rate = self._done / max(time.monotonic() - self._start, 1e-9)
        return f"contacts: {self._done:,} of {count(self._proteins, 'protein')}, {rate:,.1f} proteins/s"
