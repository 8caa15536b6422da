"""Compare `embed_proteins` with a plain loop over single proteins, and with plain padded batches."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm import build_protein_tokenizer
from adversarial_mlm.comparison.flops import Network
from adversarial_mlm.inference.protein_embeddings import EmbeddingOptions, ProteinEmbedder, embed_proteins

from .measuring import Row, alternate, compare, timed
from .training import MAX_LENGTH, fresh_encoder, proteins

_BATCH = 32
_TARGET = ">= 3"
_CASES = (("tiny", "float32", 256), ("small", "float32", 96), ("small", "bfloat16", 96), ("tape-38m", "float32", 32))


def run(repetitions: int = 5, corpus: str | None = None) -> list[Row]:
    """Measure proteins per second with several encoders, on random proteins of the corpus.

    The peers compute in the same precision. With bfloat16, padded batches in float32 are also a peer: this is what an
    encoder does unless it is told otherwise.

    The operations that padding costs are a note of each row. In the same precision no order of the proteins can save
    more than that. A compiled encoder (`torch_compile`) is measured after it was compiled; its peer is not compiled.
    """
    whole = proteins(corpus).shuffle(seed=0)
    rows = []
    for size, dtype, count in _CASES:
        records = whole.select(range(min(count, len(whole))))
        rows += _rows(size, dtype, list(zip(records["id"], records["sequence"], strict=True)), repetitions)
    return rows


def _rows(size: str, dtype: str, pairs: Sequence[tuple[str, str]], repetitions: int) -> list[Row]:
    model = fresh_encoder(size, max_position_embeddings=MAX_LENGTH).bert.eval()
    tokenizer = build_protein_tokenizer(model_max_length=MAX_LENGTH)
    sequences = [sequence for _, sequence in pairs]
    peers = {f"padded batches of {_BATCH}": (dtype, _BATCH), "one protein at a time": (dtype, 1)}
    if dtype != "float32":
        peers[f"padded batches of {_BATCH} in float32"] = ("float32", _BATCH)

    def ours() -> list:
        return list(embed_proteins(model, pairs, tokenizer=tokenizer, dtype=dtype))

    compiled = ProteinEmbedder(model, tokenizer, EmbeddingOptions(dtype=dtype, torch_compile=True))
    jobs = [
        ours,
        lambda: compiled.embed(sequences),
        *(_peer(model, tokenizer, sequences, *settings) for settings in peers.values()),
    ]
    rates = [[len(pairs) / spent for spent in series] for series in alternate(timed(*jobs), repetitions)]
    of = f"embed, {size}, {dtype}, {len(pairs):,} proteins"
    return [
        compare(
            f"{of}: {name} ÷ {peer_name}",
            rate,
            peer,
            "proteins/s",
            _TARGET if settings[1] == _BATCH else "",
            note=f"{_operations(model, sequences, settings[1]):.2f} × the operations without padding",
        )
        for name, rate in (("ours", rates[0]), ("ours, compiled,", rates[1]))
        for (peer_name, settings), peer in zip(peers.items(), rates[2:], strict=True)
    ]


def _peer(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sequences: Sequence[str], dtype: str, batch: int
) -> Callable[[], list[torch.Tensor]]:
    """What people write: the tokenizer pads batches in the order of the file; the mean is over residues."""

    @torch.no_grad()
    def job() -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        with torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16" else nullcontext():
            for texts in _batched(sequences, batch):
                inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=MAX_LENGTH)
                hidden = model(**inputs).last_hidden_state
                for states, mask in zip(hidden, inputs["attention_mask"], strict=True):
                    found.append(states[1 : int(mask.sum()) - 1].float().mean(dim=0))
        return found

    return job


def _operations(model: PreTrainedModel, sequences: Sequence[str], batch: int) -> float:
    """Floating-point operations of batches in the order of the file, as a multiple of those without padding."""
    network = Network.of(model, attention_layers=model.config.num_hidden_layers)
    tokens = np.minimum([len(sequence) + 2 for sequence in sequences], MAX_LENGTH).astype(np.float64)
    longest = np.maximum.reduceat(tokens, np.arange(0, len(tokens), batch))
    padded = np.repeat(longest, batch)[: len(tokens)]

    def cost(lengths: np.ndarray) -> float:
        return network.per_token * lengths.sum() + network.per_square * (lengths**2).sum()

    return cost(padded) / cost(tokens)


def _batched(sequences: Sequence[str], batch: int) -> list[list[str]]:
    return [list(sequences[start : start + batch]) for start in range(0, len(sequences), batch)]
