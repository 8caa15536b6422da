"""[`embed_proteins`]: embeddings of any number of proteins of any length, one after the other."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.data.all_records import AllRecords, ProteinRecord, protein_record
from adversarial_mlm.inference.frozen_encoder import FrozenEncoder
from adversarial_mlm.inference.windows import check_overlap, coverage, windows_over
from adversarial_mlm.models.loading import load_backbone
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import CorpusError, RecipeError, one_line, shorten
from adversarial_mlm.utils.hardware import device_for, on_device

POOLINGS = ("mean", "cls", "max")
DTYPE_NAMES = {"float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16"}

# Proteins are sorted by length in blocks. Larger blocks have less padding, but a kill loses one block, so a CPU has
# smaller ones. The bytes are those of a block's embeddings.
_RESIDUES_PER_BLOCK = {"cpu": 1 << 18}
_RESIDUES_PER_BLOCK_ON_ACCELERATORS = 1 << 22
_BYTES_PER_BLOCK = 128 << 20

_LONGEST_REASON = 200  # characters of a message of PyTorch

logger = logging.getLogger(__name__)


class ProteinEmbedding(NamedTuple):
    """The embedding of a protein.

    Attributes:
        id (`str`): The id of the record.
        embedding (`np.ndarray`): float32, `(width,)`, or `(residues, width)` with `per_residue`.
        length (`int`): Residues in the protein.
        windows (`int`): Windows that the encoder read; more than 1 for a protein that is longer than the encoder reads
            at once.
    """

    id: str
    embedding: np.ndarray
    length: int
    windows: int


@dataclass(frozen=True)
class EmbeddingOptions:
    """How proteins are embedded.

    Attributes:
        per_residue (`bool`, defaults to `False`): Keep the embedding of every residue instead of one per protein.
        pooling (`str`, *optional*): How the residues of a protein become one embedding: `"mean"` (default), `"max"`
            (of each number), or `"cls"` (the first special token in place of the residues).
        layer (`int`, defaults to -1): Layer to read: 0 for the embeddings, -1 for the last layer.
        max_length (`int`, *optional*): Most tokens that the encoder reads at once, with special tokens; by default
            the tokenizer's limit, at most the encoder's positions.
        overlap (`int`, *optional*): Least number of residues that neighbouring windows share; by default half a
            window.
        dtype (`str`, defaults to `"float32"`): Precision of the computation, `"float32"` or `"bfloat16"` (autocast);
            `"fp32"` and `"bf16"` are the same.
        batch_tokens (`int`, *optional*): Tokens in a batch, including padding; by default 4,096 on a CPU and 65,536
            elsewhere.
        torch_compile (`bool`, defaults to `False`): Compile the encoder first. That takes about a minute, and pays for
            large files.
    """

    per_residue: bool = False
    pooling: str | None = None
    layer: int = -1
    max_length: int | None = None
    overlap: int | None = None
    dtype: str = "float32"
    batch_tokens: int | None = None
    torch_compile: bool = False


class ProteinEmbedder:
    """Embeds blocks of proteins.

    Args:
        model (`PreTrainedModel`): An encoder without a head, in evaluation mode, on its device.
        tokenizer (`PreTrainedTokenizerBase`): The encoder's tokenizer.
        options ([`EmbeddingOptions`]): How proteins are embedded.

    Attributes:
        encoder ([`FrozenEncoder`]): Runs the encoder.
        options ([`EmbeddingOptions`]): The options, with their defaults.

    Raises:
        RecipeError: If an option is out of range, or does not apply to the encoder.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, options: EmbeddingOptions):
        if options.per_residue and options.pooling is not None:
            raise RecipeError(
                f"pooling is {options.pooling}, but per_residue keeps all residues: leave out one of them"
            )
        self.pooling = "" if options.per_residue else options.pooling or "mean"
        if self.pooling not in ("", *POOLINGS):
            raise RecipeError(f"pooling must be one of {', '.join(POOLINGS)}, got '{self.pooling}'")
        if options.dtype not in DTYPE_NAMES:
            raise RecipeError(f"dtype must be one of {', '.join(DTYPE_NAMES)}, got '{options.dtype}'")
        try:
            self.encoder = FrozenEncoder(
                model,
                tokenizer,
                max_length=options.max_length,
                batch_tokens=options.batch_tokens,
                dtype=DTYPE_NAMES[options.dtype],
                layer=options.layer,
                torch_compile=options.torch_compile,
            )
        except RecipeError:
            raise
        except ValueError as error:  # of the tokenizer
            raise RecipeError(str(error)) from error
        self._cls_at = _position_of_cls(self.encoder, tokenizer) if self.pooling == "cls" else 0
        self.window = self.encoder.max_residues
        self.overlap = check_overlap(self.window, options.overlap)
        self.options = EmbeddingOptions(
            per_residue=options.per_residue,
            pooling=self.pooling or None,
            layer=options.layer,
            max_length=self.encoder.max_length,
            overlap=self.overlap,
            dtype=self.encoder.dtype,
            batch_tokens=self.encoder.batch_tokens,
            torch_compile=options.torch_compile,
        )

    def blocks(self, records: Iterable[ProteinRecord]) -> Iterator[list[ProteinRecord]]:
        """Cut records into blocks of bounded memory.

        The cuts depend on the records, the options and the kind of device alone.

        Args:
            records (`Iterable[ProteinRecord]`): Proteins, and records without residues.
        """
        row_bytes = 4 * self.encoder.width
        device = self.encoder.model.device.type
        most_residues = _RESIDUES_PER_BLOCK.get(device, _RESIDUES_PER_BLOCK_ON_ACCELERATORS)
        block: list[ProteinRecord] = []
        residues = size = 0
        for record in records:
            length = len(record.sequence)
            of_record = row_bytes * (length if self.options.per_residue else 1)
            if block and (residues + length > most_residues or size + of_record > _BYTES_PER_BLOCK):
                yield block
                block, residues, size = [], 0, 0
            block.append(record)
            residues += length
            size += of_record
        if block:
            yield block

    def embed(
        self, sequences: Sequence[str], on_batch: Callable[[int], Any] = lambda residues: None
    ) -> list[tuple[np.ndarray, int]]:
        """Embed proteins at once.

        Args:
            sequences (`Sequence[str]`): Clean sequences with at least one residue each.
            on_batch (`Callable`, *optional*): Called after each batch with the residues that were read in it.

        Returns:
            `list[tuple[np.ndarray, int]]`: Embedding and number of windows of each protein, as in
            [`ProteinEmbedding`].

        Raises:
            RecipeError: If an output is not finite, or if the device has too little memory.
        """
        try:
            return self._embed(sequences, on_batch)
        except torch.OutOfMemoryError as error:
            raise RecipeError(
                f"the {self.encoder.model.device} has too little memory for batches of {self.encoder.batch_tokens:,} "
                "tokens: use a smaller batch_tokens or max_length"
            ) from error

    def _embed(self, sequences: Sequence[str], on_batch: Callable[[int], Any]) -> list[tuple[np.ndarray, int]]:
        windows = windows_over([len(sequence) for sequence in sequences], self.window, self.overlap)
        number = np.bincount(windows[:, 0], minlength=len(sequences))
        results: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(sequences)
        joined = _JoinedWindows(windows, number, self.window)
        for rows, hidden, mask in self.encoder.read(sequences, windows):
            of_rows = windows[rows]
            if self.pooling in ("mean", "cls"):
                vectors = _weighted(hidden, self._weights(of_rows, hidden.shape[1], joined))
                for owner, vector in zip(of_rows[:, 0], vectors, strict=True):
                    results[owner] = results[owner] + vector if len(results[owner]) else vector
            else:
                for owner, values in self._of_residues(of_rows, hidden, mask, joined):
                    results[owner] = values
            on_batch(int((of_rows[:, 2] - of_rows[:, 1]).sum()))
        return list(zip(results, number.tolist(), strict=True))

    def _weights(self, windows: np.ndarray, length: int, joined: "_JoinedWindows") -> np.ndarray:
        """Weight of every position in the embedding of its protein: `(windows, length)`, float32."""
        weights = np.zeros((len(windows), length), dtype=np.float32)
        before = len(self.encoder.collator.table.prefix)
        for row, (owner, start, stop) in zip(weights, windows.tolist(), strict=True):
            if self.pooling == "cls":
                row[self._cls_at] = 1 / joined.number[owner]
            elif joined.number[owner] == 1:
                row[before : before + stop - start] = 1 / (stop - start)
            else:
                counts = joined.coverage(owner)
                row[before : before + stop - start] = 1 / (len(counts) * counts[start:stop])
        return weights

    def _of_residues(
        self, windows: np.ndarray, hidden: torch.Tensor, mask: torch.Tensor, joined: "_JoinedWindows"
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Yield index and embedding of the proteins that are complete with these windows."""
        single = joined.number[windows[:, 0]] == 1
        if self.pooling == "max" and single.any():
            highest = hidden.masked_fill(~mask[..., None], -torch.inf).amax(dim=1).float().cpu().numpy()
            yield from zip(windows[single, 0].tolist(), highest[single], strict=True)
        wanted = np.flatnonzero(~single) if self.pooling == "max" else np.arange(len(windows))
        for index in wanted.tolist():
            owner = int(windows[index, 0])
            values = hidden[index][mask[index]].float().cpu().numpy()
            whole = values if single[index] else joined.add(windows[index], values)
            if whole is not None:
                yield owner, whole.max(axis=0) if self.pooling == "max" else whole


class _JoinedWindows:
    """Residues of proteins that are read in several windows: each is the mean over the windows that cover it."""

    def __init__(self, windows: np.ndarray, number: np.ndarray, size: int):
        self.number = number
        self._windows, self._size = windows, size
        self._coverage: dict[int, np.ndarray] = {}
        self._sums: dict[int, np.ndarray] = {}
        self._read: dict[int, int] = {}

    def coverage(self, owner: int) -> np.ndarray:
        """Windows over each residue of a protein."""
        if owner not in self._coverage:
            of_owner = self._windows[self._windows[:, 0] == owner]
            self._coverage[owner] = coverage(int(of_owner[-1, 2]), of_owner[:, 1], self._size)
        return self._coverage[owner]

    def add(self, window: np.ndarray, values: np.ndarray) -> np.ndarray | None:
        """Add a window; returns all residues `(residues, width)` if it was the last one of its protein."""
        owner, start, stop = window.tolist()
        counts = self.coverage(owner)
        if owner not in self._sums:
            self._sums[owner] = np.zeros((len(counts), values.shape[1]), dtype=np.float32)
            self._read[owner] = 0
        self._sums[owner][start:stop] += values
        self._read[owner] += 1
        if self._read[owner] < self.number[owner]:
            return None
        whole = self._sums.pop(owner)
        whole /= counts[:, None]
        return whole


def _weighted(hidden: torch.Tensor, weights: np.ndarray) -> np.ndarray:
    """Weighted sums over positions, in float32: `(batch, width)`."""
    # an autocast would round the sums
    with torch.autocast(hidden.device.type, enabled=False):
        on_device_too = torch.from_numpy(weights).to(hidden.device)
        return torch.bmm(on_device_too[:, None], hidden.float())[:, 0].cpu().numpy()


def _position_of_cls(encoder: FrozenEncoder, tokenizer: PreTrainedTokenizerBase) -> int:
    prefix = encoder.collator.table.prefix
    if tokenizer.cls_token_id is None or tokenizer.cls_token_id not in prefix:
        raise RecipeError(
            f"pooling is cls, but the tokenizer ({type(tokenizer).__name__}) puts no cls token before a protein: use "
            "mean or max"
        )
    return prefix.index(tokenizer.cls_token_id)


def embed_proteins(
    model: str | PreTrainedModel,
    proteins: str | os.PathLike | Sequence[str | os.PathLike] | Iterable[tuple[str, str]],
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | torch.device | None = None,
    **options: Any,
) -> Iterator[ProteinEmbedding]:
    """Embed proteins of any number and length, in their order.

    Memory does not grow with the number of proteins: they are read, sorted by length and computed in blocks. A protein
    that is longer than the encoder reads at once is read in overlapping windows. The embedding of a residue is then
    the mean over the windows that cover it; that of `cls` is the mean over all windows.

    Args:
        model (`str` or `PreTrainedModel`): A folder, the name of a model on the Hub, or a loaded encoder without a
            head, which is set to evaluation mode.
        proteins: Files, as for [`load_corpus`], or pairs of id and sequence. Records of files without residues are
            left out, and a warning counts them.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): The tokenizer of a loaded encoder.
        device (`str`, *optional*): By default a GPU if there is one; a loaded encoder stays on its own device.
        **options: See [`EmbeddingOptions`].

    Returns:
        `Iterator[ProteinEmbedding]`: One [`ProteinEmbedding`] per protein; ids may repeat.

    Raises:
        CheckpointError: If the model cannot be loaded.
        CorpusError: If a file cannot be used, or if a sequence of a pair has no residues.
        RecipeError: If an option is out of range, or if an output is not finite.

    Example:

        for protein in embed_proteins("facebook/esm2_t6_8M_UR50D", "proteins.fasta"):
            print(protein.id, protein.embedding.mean())
    """
    records: Iterable[ProteinRecord]
    if _is_files(proteins):
        records = files = AllRecords(cast(Any, proteins))
        name = files.name
    else:
        records, name = _records_of_pairs(cast(Iterable[tuple[str, str]], proteins)), ""
    return _embeddings(ProteinEmbedder(*_loaded(model, tokenizer, device), EmbeddingOptions(**options)), records, name)


def _is_files(proteins: Any) -> bool:
    if isinstance(proteins, str | os.PathLike):
        return True
    return isinstance(proteins, list | tuple) and all(isinstance(item, str | os.PathLike) for item in proteins)


def _loaded(
    model: str | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, device: str | torch.device | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if isinstance(model, str | os.PathLike):
        if tokenizer is not None:
            raise RecipeError("tokenizer is given, but the model is a name: leave it out, or give a loaded model")
        loaded, tokenizer = load_backbone(os.fspath(model))
        return moved(loaded, device).eval(), tokenizer
    if tokenizer is None:
        raise RecipeError("model is a loaded encoder, so its tokenizer is needed, too: give tokenizer")
    encoder = cast(PreTrainedModel, model.base_model).eval()
    return (encoder if device is None else moved(encoder, device)), tokenizer


def default_device() -> torch.device:
    """Return the first GPU, or the CPU if there is none."""
    return device_for()


def moved(model: PreTrainedModel, device: str | torch.device | None) -> PreTrainedModel:
    """Move an encoder to a device, by default [`default_device`].

    Raises:
        RecipeError: If there is no such device.
    """
    try:
        return on_device(model, torch.device(device or default_device()))
    except (RuntimeError, AssertionError) as error:  # PyTorch without the device's library raises the latter
        raise RecipeError(f"device is {device}, which cannot be used ({one_line(error)[:_LONGEST_REASON]})") from error


def _records_of_pairs(pairs: Iterable[tuple[str, str]]) -> Iterator[ProteinRecord]:
    for index, pair in enumerate(pairs):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise CorpusError(
                f"protein {index:,} is {shorten(str(pair)[:200])}, but must be a pair of id and sequence."
            )
        record = protein_record(str(pair[0]), pair[1])
        if record.reason:
            raise CorpusError(f"protein {index:,}, {shorten(record.id)}, has no residues ({record.reason}).")
        yield record


def _embeddings(
    embedder: ProteinEmbedder, records: Iterable[ProteinRecord], source: str
) -> Iterator[ProteinEmbedding]:
    left_out, first = 0, ""
    for block in embedder.blocks(records):
        kept = [record for record in block if not record.reason]
        without = [record for record in block if record.reason]
        if without and not left_out:
            first = f"the first is {shorten(without[0].id)} ({without[0].reason})"
        left_out += len(without)
        found = embedder.embed([record.sequence for record in kept])
        for record, (embedding, windows) in zip(kept, found, strict=True):
            yield ProteinEmbedding(record.id, embedding, len(record.sequence), windows)
    if left_out:
        logger.warning(
            "%s: left out %s, which %s no residues; %s.",
            *(source, count(left_out, "record"), verb(left_out, "has", "have"), first),
        )
