"""Embeddings of proteins and residues from a frozen encoder, computed in batches of similar length."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.data.cleaning import check_sequences
from adversarial_mlm.inference.frozen_encoder import FrozenEncoder
from adversarial_mlm.models.loading import new_backbone
from adversarial_mlm.utils.hardware import on_device

OnBatch = Callable[[np.ndarray, int], Any]

_MOST_SEGMENTS, _MOST_COLUMNS = 16, 4096


def random_twin(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Return the same architecture with fresh weights, in evaluation mode, without changing the global generator.

    Args:
        model (`PreTrainedModel`): An encoder without a head.
        seed (`int`): Seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        twin = new_backbone(model.config)
    return on_device(twin, model.device).eval()


def segments_for(width: int) -> int:
    """Return the number of segments to pool proteins into: up to 16, and at most 4,096 numbers per protein."""
    segments = _MOST_SEGMENTS
    while segments > 1 and segments * width > _MOST_COLUMNS:
        segments //= 2
    return segments


def segment_edges(length: int, segments: int) -> np.ndarray:
    """Return the edges of a protein's segments: `(segments + 1,)`. The edges of 4 segments are among those of 16."""
    return np.floor(np.arange(segments + 1) * (length / segments) + 0.5).astype(np.int64)


def encode_proteins(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[str],
    *,
    segments: int = 1,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    dtype: str = "auto",
    layer: int | None = None,
    on_batch: OnBatch = lambda owners, residues: None,
) -> np.ndarray:
    """Return the mean embedding of each of several segments of equal length, for every protein.

    A protein that is longer than `max_length` is cut into equal parts that are read separately: every residue counts.

    Args:
        model (`PreTrainedModel`): An encoder without a head, in evaluation mode, on its device.
        tokenizer (`PreTrainedTokenizerBase`): The encoder's tokenizer.
        sequences (`Sequence[str]`): The proteins.
        segments (`int`, defaults to 1): Segments per protein; 1 gives the mean over all residues.
        max_length (`int`, *optional*): Largest number of tokens in a row, including special tokens; by default
            [`default_max_length`].
        batch_tokens (`int`, *optional*): Tokens in a batch, including padding; by default 4,096 on a CPU and 65,536
            elsewhere. A longer protein is one batch.
        dtype (`str`, defaults to `"auto"`): Precision of the computation: `"bfloat16"` (autocast), `"float32"`, or
            `"auto"`: bfloat16 on GPUs that have it, else float32.
        layer (`int`, *optional*): Layer to read, 0 for the embeddings; by default the encoder's output.
        on_batch (`Callable`, *optional*): Called after each batch with the indices of its proteins, and the number of
            residues that were read.

    Returns:
        `np.ndarray` of shape `(proteins, segments, width)`, float32. Segments without residues are 0, as in a protein
        with fewer residues than segments.

    Raises:
        ValueError: If there is no protein or one is not text, if the tokenizer does not read one residue as one token,
            if an option is out of range, or if an output is not finite.
    """
    check_sequences(sequences)
    sums: np.ndarray | None = None
    lengths = np.array([len(sequence) for sequence in sequences])
    edges = [segment_edges(length, segments) for length in lengths]
    encoder = FrozenEncoder(
        model, tokenizer, max_length=max_length, batch_tokens=batch_tokens, dtype=dtype, layer=layer
    )
    parts = _equal_parts(lengths.tolist(), encoder.max_residues)
    # parts have the same sums if also their places among the segments are the same
    places = zip(parts[:, 1].tolist(), lengths[parts[:, 0]].tolist(), strict=True)
    distinct = _Distinct(sequences, parts, places)
    for rows, hidden, mask in encoder.read(sequences, distinct.parts):
        if sums is None:
            sums = np.zeros((len(sequences) * segments, hidden.shape[-1]))
        residues = mask.sum(dim=1).tolist()
        segment = np.concatenate(
            [
                row * segments + np.searchsorted(edges[owner], np.arange(begin, begin + count), side="right") - 1
                for row, (owner, begin, _), count in zip(range(len(rows)), distinct.parts[rows], residues, strict=True)
            ]
        )
        present, local = np.unique(segment, return_inverse=True)
        of_batch = torch.zeros(len(present), hidden.shape[-1], device=hidden.device)
        of_batch.index_add_(0, torch.from_numpy(local).to(hidden.device), hidden[mask].float())
        members = [distinct.members[row] for row in rows]
        times = np.array([len(members[row]) for row in present // segments])
        owners = np.concatenate([parts[members[row], 0] for row in present // segments])
        of_present = of_batch.double().cpu().numpy().repeat(times, axis=0)
        # a segment may be in two parts of a protein
        np.add.at(sums, owners * segments + (present % segments).repeat(times), of_present)
        on_batch(*distinct.read(rows))
    if sums is None:
        raise ValueError("there is no protein to read")
    counts = np.concatenate([np.diff(of_protein) for of_protein in edges])
    means = sums / np.maximum(counts, 1)[:, None]
    return means.astype(np.float32).reshape(len(sequences), segments, -1)


def merge_segments(features: np.ndarray, lengths: np.ndarray, segments: int) -> np.ndarray:
    """Merge segments into fewer, longer ones.

    Args:
        features (`np.ndarray` of shape `(proteins, n, width)`): Result of [`encode_proteins`].
        lengths (`np.ndarray` of shape `(proteins,)`): Number of residues of each protein.
        segments (`int`): New number of segments, a divisor of n.

    Returns:
        `np.ndarray` of shape `(proteins, segments * width)`, float32.
    """
    proteins, fine, width = features.shape
    counts = np.stack([np.diff(segment_edges(length, fine)) for length in lengths]).astype(np.float32)
    counts = counts.reshape(proteins, segments, fine // segments, 1)
    parts = features.astype(np.float32).reshape(proteins, segments, fine // segments, width)
    means = (parts * counts).sum(axis=2) / np.maximum(counts.sum(axis=2), 1)
    return means.reshape(proteins, segments * width)


def encode_residues(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[str],
    *,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    dtype: str = "auto",
    layer: int | None = None,
    on_batch: OnBatch = lambda owners, residues: None,
) -> np.ndarray:
    """Return the embedding of every residue, protein after protein. The arguments are those of [`encode_proteins`].

    Returns:
        `np.ndarray` of shape `(residues, width)`, float16, or float32 if a value is too large for float16.

    Raises:
        ValueError: As [`encode_proteins`].
    """
    check_sequences(sequences)
    starts = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])])
    found: np.ndarray | None = None
    largest = np.finfo(np.float16).max
    encoder = FrozenEncoder(
        model, tokenizer, max_length=max_length, batch_tokens=batch_tokens, dtype=dtype, layer=layer
    )
    parts = _equal_parts([len(sequence) for sequence in sequences], encoder.max_residues)
    distinct = _Distinct(sequences, parts)
    for rows, hidden, mask in encoder.read(sequences, distinct.parts):
        values = hidden[mask].float().cpu().numpy()
        if found is None:
            found = np.zeros((starts[-1], values.shape[-1]), dtype=np.float16)
        if found.dtype == np.float16 and np.abs(values).max() > largest:
            found = found.astype(np.float32)
        ends = mask.sum(dim=1).cumsum(dim=0).tolist()
        for row, of_row in zip(rows, np.split(values, ends[:-1]), strict=True):
            for owner, first, _ in parts[distinct.members[row]]:
                found[starts[owner] + first : starts[owner] + first + len(of_row)] = of_row
        on_batch(*distinct.read(rows))
    if found is None:
        raise ValueError("there is no protein to read")
    return found


def _equal_parts(lengths: Sequence[int], most: int) -> np.ndarray:
    """Cut proteins into as few nearly equal parts as possible: `(parts, 3)` with protein, start and stop."""
    parts: list[tuple[int, int, int]] = []
    for owner, length in enumerate(lengths):
        edges = np.linspace(0, length, -(-length // most) + 1).round().astype(np.int64)
        parts.extend((owner, start, stop) for start, stop in zip(edges[:-1], edges[1:], strict=True))
    return np.array(parts, dtype=np.int64).reshape(-1, 3)


class _Distinct:
    """Parts of proteins without those that are equal, such as the parts of variants that no mutation is in.

    Args:
        sequences (`Sequence[str]`): The proteins.
        parts (`np.ndarray` of shape `(parts, 3)`): See [`FrozenEncoder.read`].
        places (`Iterable`, *optional*): One value for each part, in which equal parts agree, too.

    Attributes:
        parts (`np.ndarray` of shape `(distinct parts, 3)`): The first of each.
        members (`list[np.ndarray]`): The indices of all parts that are equal to it.
    """

    def __init__(self, sequences: Sequence[str], parts: np.ndarray, places: Iterable[Any] | None = None):
        groups: dict[Any, list[int]] = {}
        keys = itertools.repeat(None) if places is None else places
        for index, ((owner, start, stop), place) in enumerate(zip(parts.tolist(), keys, strict=False)):
            groups.setdefault((sequences[owner][start:stop], place), []).append(index)
        self.all = parts
        self.members = [np.array(group) for group in groups.values()]
        self.parts = parts[[group[0] for group in groups.values()]].reshape(-1, 3)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the owners of all parts that are equal to some distinct parts, and the number of their residues."""
        owners, starts, stops = self.all[np.concatenate([self.members[row] for row in rows])].T
        return owners, int((stops - starts).sum())
