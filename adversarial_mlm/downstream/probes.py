"""Frozen probes: linear heads on the output of an encoder that is not trained."""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.downstream.linear_heads import Fit, Rows, fit_discriminant, fit_ridge
from adversarial_mlm.downstream.tasks import TaskData
from adversarial_mlm.inference.embeddings import (
    OnBatch,
    encode_proteins,
    encode_residues,
    merge_segments,
    segments_for,
)
from adversarial_mlm.inference.feature_cache import FeatureCache, encoder_fingerprint
from adversarial_mlm.inference.frozen_encoder import default_max_length, resolved_dtype
from adversarial_mlm.masking.losses import IGNORE_INDEX
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.hashing import fingerprint_of_parts
from adversarial_mlm.utils.progress import Progress

logger = logging.getLogger(__name__)

NEIGHBOURS = 2
"""Neighbours on either side that a residue's head also reads, like the convolution of TAPE's head."""


@dataclass(frozen=True)
class ProbeSettings:
    """How features are computed, and how many are used.

    Attributes:
        max_length (`int`, *optional*): Tokens that the encoder reads at once; by default its tokenizer's limit.
        layer (`int`, *optional*): Layer to read; by default the encoder's output.
        dtype (`str`, defaults to `"auto"`): Precision of the computation: `"bfloat16"`, `"float32"`, or `"auto"`:
            bfloat16 on GPUs that have it, else float32.
        batch_tokens (`int`, *optional*): Tokens in a batch, see [`encode_proteins`].
        max_train_residues (`int`, defaults to 200,000): For labels of residues, proteins are drawn from train until
            they have this many labelled residues.
    """

    max_length: int | None = None
    layer: int | None = None
    dtype: str = "auto"
    batch_tokens: int | None = None
    max_train_residues: int = 200_000

    def encoding(self) -> dict[str, Any]:
        """Return the arguments for [`encode_proteins`]."""
        return {name: value for name, value in asdict(self).items() if name != "max_train_residues"}


@dataclass
class ProbeResult:
    """The result of a probe.

    Attributes:
        predictions (`dict[str, Any]`): By split, in the order of the rows: an array with a number or a class per
            protein, or a list of arrays with the class of every residue. Train is left out if it was sampled.
        valid_score (`float`): Score on valid of the chosen settings.
        settings (`dict`): Settings chosen on valid.
        seed_matters (`bool`): Whether another seed would give another result.
        seconds (`dict[str, float]`): Seconds of the `features` (few if they were cached), and `in_all` with the head.
    """

    predictions: dict[str, Any]
    valid_score: float
    settings: dict[str, Any] = field(default_factory=dict)
    seed_matters: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


def probe(
    data: TaskData,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: ProbeSettings | None = None,
    *,
    seed: int = 0,
    cache: FeatureCache | None = None,
    show_progress: bool = False,
) -> ProbeResult:
    """Fit a head on a frozen encoder. Penalties, and for proteins the number of segments, are chosen on valid.

    Regression uses ridge regression; classes of proteins and residues use a linear discriminant.

    Args:
        data ([`TaskData`]): The task.
        model (`PreTrainedModel`): An encoder without a head, in evaluation mode.
        tokenizer (`PreTrainedTokenizerBase`): The encoder's tokenizer.
        settings ([`ProbeSettings`], *optional*): How features are computed.
        seed (`int`, defaults to 0): Seed of the draw of training proteins, if train has more residues than are used.
        cache ([`FeatureCache`], *optional*): Cache of features; by default none.
        show_progress (`bool`, defaults to `False`): Whether to show how far the features are, see [`Progress`].

    Raises:
        ValueError: If the tokenizer does not know residues, or an option is out of range.
    """
    settings = settings or ProbeSettings()
    began = time.monotonic()
    features = _Features(model, tokenizer, settings, cache, f"{data.task.name}: " if show_progress else None)
    if data.task.kind == "token_classification":
        result = _probe_residues(data, features, settings.max_train_residues, seed)
    else:
        result = _probe_proteins(data, features, segments_for(model.config.hidden_size))
    result.seconds = {"features": features.seconds, "in_all": time.monotonic() - began}
    return result


class _Features:
    """Features of one encoder, cached if there is a cache."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        settings: ProbeSettings,
        cache: FeatureCache | None,
        shown_as: str | None = None,
    ):
        self.shown_as = shown_as
        self.model, self.tokenizer, self.cache = model, tokenizer, cache
        self.options = settings.encoding()
        self.seconds = 0.0
        self.options["max_length"] = settings.max_length or default_max_length(model, tokenizer)
        self.options["dtype"] = resolved_dtype(settings.dtype, model.device)
        self.key = None
        if cache is not None:
            described = {name: value for name, value in self.options.items() if name != "batch_tokens"}
            self.key = {"encoder": encoder_fingerprint(model, tokenizer), **described}

    def proteins(self, sequences: list[str], segments: int) -> np.ndarray:
        def compute() -> np.ndarray:
            options = {**self.options, "segments": segments}
            with _shown(self.shown_as, sequences) as on_batch:
                found = encode_proteins(self.model, self.tokenizer, sequences, on_batch=on_batch, **options)
            small = found.astype(np.float16)
            return small if np.isfinite(small).all() else found

        return self._cached({"segments": segments}, sequences, compute)

    def residues(self, sequences: list[str]) -> np.ndarray:
        def compute() -> np.ndarray:
            with _shown(self.shown_as, sequences) as on_batch:
                return encode_residues(self.model, self.tokenizer, sequences, on_batch=on_batch, **self.options)

        return self._cached({"residues": True}, sequences, compute)

    def _cached(self, of_what: dict[str, Any], sequences: list[str], compute) -> np.ndarray:
        began = time.monotonic()
        if self.cache is None or self.key is None:
            found = compute()
        else:
            checksum = fingerprint_of_parts(["\n".join(sequences)], digits=64)
            found = self.cache.get({**self.key, **of_what, "sequences": checksum}, compute)
        self.seconds += time.monotonic() - began
        return found


@contextlib.contextmanager
def _shown(shown_as: str | None, sequences: Sequence[str]) -> Iterator[OnBatch]:
    """Show the progress of reading proteins, unless `shown_as` is `None`; yields what to call after each batch."""
    if shown_as is None:
        yield lambda owners, residues: None
        return
    read, began = np.zeros(len(sequences), dtype=bool), time.monotonic()

    def text() -> str:
        rate = read.sum() / max(time.monotonic() - began, 1e-9)
        return f"{shown_as}features of {read.sum():,} of {count(len(read), 'protein')}, {rate:,.1f} proteins/s"

    def on_batch(owners: np.ndarray, residues: int) -> None:
        read[owners] = True
        progress.advance(residues)

    progress = Progress(sum(map(len, sequences)), text, logger)
    try:
        yield on_batch
    finally:
        progress.close()


def _probe_proteins(data: TaskData, features: _Features, most_segments: int) -> ProbeResult:
    sequences = {split: dataset["sequence"][:] for split, dataset in data.splits.items()}
    lengths = {split: np.array([len(item) for item in found]) for split, found in sequences.items()}
    # sorted and once for all splits, so other splits of the same proteins use the same cache
    distinct = sorted({sequence for found in sequences.values() for sequence in found})
    of_all, row = features.proteins(distinct, most_segments), {name: index for index, name in enumerate(distinct)}
    chosen = {split: [row[sequence] for sequence in found] for split, found in sequences.items()}

    def fit_with(segments: int) -> Fit:
        rows = {
            split: Rows.of(merge_segments(of_all[of_split], lengths[split], segments))
            for split, of_split in chosen.items()
        }
        return fit_head(data, rows)

    segments, *more = _divisions(most_segments)
    fit = fit_with(segments)
    for number in more:
        other = fit_with(number)
        if other.valid_score > fit.valid_score:  # the fewest segments if no score is defined
            fit, segments = other, number
    return ProbeResult(fit.predictions, fit.valid_score, {"segments": segments, **fit.settings})


def _divisions(most: int) -> list[int]:
    """Return 1, 4 and 16 up to `most`, and `most`."""
    return sorted({number for number in (1, 4, 16) if number <= most} | {most})


def fit_head(data: TaskData, rows: Mapping[str, Rows], *, standardise: bool = True) -> Fit:
    """Fit the head of a task with one label per protein."""
    labels = {split: np.asarray(data.splits[split]["label"][:]) for split in ("train", "valid")}
    if data.task.kind == "regression":
        return fit_ridge(rows, labels, standardise=standardise)
    return fit_discriminant(rows, labels, data.num_classes)


def _probe_residues(data: TaskData, features: _Features, max_train_residues: int, seed: int) -> ProbeResult:
    labels = {
        split: [np.asarray(item) for item in dataset.with_format("numpy")["label"][:]]
        for split, dataset in data.splits.items()
    }
    sequences = {split: dataset["sequence"][:] for split, dataset in data.splits.items()}
    chosen = _draw_proteins(labels["train"], max_train_residues, seed)
    sampled = len(chosen) < len(labels["train"])
    sequences["train"] = [sequences["train"][index] for index in chosen]
    labels["train"] = [labels["train"][index] for index in chosen]
    lengths = {split: [len(item) for item in found] for split, found in sequences.items()}
    rows = {
        split: _with_neighbours(features.residues(found), lengths[split], NEIGHBOURS)
        for split, found in sequences.items()
    }
    flat = {split: np.concatenate(labels[split]) for split in ("train", "valid")}
    fit = fit_discriminant(rows, flat, data.num_classes)
    predictions = {
        split: np.split(found, np.cumsum(lengths[split])[:-1])
        for split, found in fit.predictions.items()
        if split != "train" or not sampled
    }
    settings = {"neighbours": NEIGHBOURS, "train_proteins": len(chosen), **fit.settings}
    return ProbeResult(predictions, fit.valid_score, settings, seed_matters=sampled)


def _draw_proteins(labels: list[np.ndarray], most_residues: int, seed: int) -> np.ndarray:
    """Draw proteins until they have `most_residues` labelled residues; return their sorted indices."""
    order = np.random.default_rng(seed).permutation(len(labels))
    scored = np.cumsum([(labels[index] != IGNORE_INDEX).sum() for index in order])
    return np.sort(order[: np.searchsorted(scored, most_residues) + 1])


def _with_neighbours(features: np.ndarray, lengths: list[int], reach: int) -> Rows:
    """Concatenate each residue's features with its neighbours', with zeros beyond the ends of a protein."""
    width = features.shape[1]

    def blocks() -> Iterator[np.ndarray]:
        start = 0
        for length in lengths:
            padded = np.zeros((length + 2 * reach, width), dtype=np.float32)
            padded[reach : reach + length] = features[start : start + length]
            yield np.concatenate([padded[shift : shift + length] for shift in range(2 * reach + 1)], axis=1)
            start += length

    return Rows(sum(lengths), (2 * reach + 1) * width, blocks)
