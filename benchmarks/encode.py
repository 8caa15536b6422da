"""Measure the encoding and collating of proteins, on one core."""

import itertools

import torch
from transformers import DataCollatorWithPadding

from adversarial_mlm import DataCollatorForRandomMLM, build_protein_tokenizer

from .measuring import Row, alternate, compare, timed
from .training import MAX_LENGTH, proteins

_BATCH, _PROTEINS = 32, 2048
_TARGET = 20e6


def run(repetitions: int = 9, corpus: str | None = None) -> list[Row]:
    """Compare the collator with a fixed target, and with a fast tokenizer and padding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        tokenizer = build_protein_tokenizer(model_max_length=MAX_LENGTH)
        rows = proteins(corpus).select(range(_PROTEINS)).to_list()
        batches = [rows[first : first + _BATCH] for first in range(0, len(rows), _BATCH)]
        residues = sum(len(row["sequence"]) for row in itertools.chain(*batches))
        collator = DataCollatorForRandomMLM(tokenizer, max_length=MAX_LENGTH)
        stock = DataCollatorWithPadding(tokenizer)

        def ours():
            for batch in batches:
                collator(batch)

        def theirs():
            for batch in batches:
                sequences = [row["sequence"] for row in batch]
                stock(tokenizer(sequences, truncation=True, max_length=MAX_LENGTH))

        mine, peer = ([residues / s for s in series] for series in alternate(timed(ours, theirs), repetitions))
    finally:
        torch.set_num_threads(threads)
    return [
        compare(
            "encode and collate, one core",
            mine,
            [_TARGET] * len(mine),
            "residues/s",
            ">= 1",
            note="peer: the target, 20 million",
        ),
        compare("encode and collate ÷ fast tokenizer and padding", mine, peer, "residues/s", ""),
    ]
