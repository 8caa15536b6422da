"""What the encoder reads at once: the rows of an update, cut into parts.

| option | parts |
| --- | --- |
| `tokens_per_micro_batch` | of all rows of an update, as many as fit |
| without it, padded rows | of each micro-batch of the loader, by length (`chunk_overhead`) |
| without it, packed rows | each micro-batch of the loader is one |
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from adversarial_mlm.data.length_chunks import cut_by_length, cut_by_tokens, joined
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.training.packed_attention import packed_rows
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments

# Estimates, not measured on a GPU: seconds to launch forward and backward pass of a layer (85 operations of 7 µs), and
# the GPU's FLOP/s
_SECONDS_OF_A_LAYER, _FLOPS = 6e-4, 1e14
_WIDTH_MULTIPLE = 16  # attention kernels of GPUs copy masks of other widths


def width_multiple(device: torch.device) -> int:
    """What widths of padded batches are rounded up to on a device."""
    return 1 if device.type == "cpu" else _WIDTH_MULTIPLE


def overhead_of_a_chunk(args: AdversarialMLMTrainingArguments, encoder: PreTrainedModel) -> int:
    """`chunk_overhead`, or its default: on GPUs, the tokens that could be read while the host launches a chunk."""
    if args.chunk_overhead is not None or args.torch_compile or args.device.type == "cpu":
        return args.overhead_of_a_chunk
    embeddings = sum(p.numel() for m in encoder.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters())
    flops_of_a_token = 6 * max(sum(p.numel() for p in encoder.parameters()) - embeddings, 1)
    layers = getattr(encoder.config, "num_hidden_layers", 1)
    return int(layers * _SECONDS_OF_A_LAYER * _FLOPS / flops_of_a_token)


class MicroBatches:
    """Cuts the rows of an update into parts.

    Args:
        args ([`AdversarialMLMTrainingArguments`]): Arguments.
        collator (`Callable`): Returns the collator that made the batches.
        encoder (`PreTrainedModel`): Reads the parts.
        packs (`bool`): Whether the encoder reads packed rows in training.
    """

    def __init__(
        self,
        args: AdversarialMLMTrainingArguments,
        collator: Callable[[], DataCollatorForRandomMLM],
        encoder: PreTrainedModel,
        packs: bool,
    ):
        self.args, self.collator, self.packs = args, collator, packs
        self._overhead = overhead_of_a_chunk(args, encoder)
        self._multiple = width_multiple(args.device)
        # the part after which gradients are summed over the processes, which its backward pass can hide
        self._largest_last = args.tokens_per_micro_batch is not None or args.device.type != "cpu"

    def parts(self, batches: Sequence[dict]) -> list[dict[str, Any]]:
        """The parts of an update.

        Args:
            batches (`Sequence[dict]`): Micro-batches of the loader, on the host, with `row` `(batch,)`.

        Returns:
            `list[dict[str, Any]]`: Each has either `packed`, see [`packed_rows`], or `padded`: whether any of its
            tokens is padding.
        """
        most = self.args.tokens_per_micro_batch
        if most is None:
            return [part for batch in batches for part in self.of_batch(batch, self.packs)]
        whole = joined(batches, {"input_ids": self.collator().vocabulary.pad_token_id})
        if self.packs:
            return self._described(cut_by_tokens(whole, most), packed=True)
        return self._described(cut_by_length(whole, self._overhead, self._multiple, most), packed=False)

    def of_batch(self, batch: dict, packed: bool = False) -> list[dict[str, Any]]:
        """The parts of one batch, without `tokens_per_micro_batch`; none of one without rows."""
        whole = packed and self.args.chunk_overhead is None
        if not self.collator().rules.gated:  # a row's masks then depend on the others of its batch
            whole = True
        whole = whole and len(batch["attention_mask"]) > 0
        parts = [batch] if whole else cut_by_length(batch, self._overhead, self._multiple)
        return self._described(parts, packed)

    def _described(self, parts: Sequence[dict[str, torch.Tensor]], packed: bool) -> list[dict[str, Any]]:
        if self._largest_last:
            size = torch.sum if packed else torch.numel
            parts = sorted(parts, key=lambda part: int(size(part["attention_mask"])))
        if packed:
            return [{**part, "packed": packed_rows(part)} for part in parts]
        return [{**part, "padded": not part["attention_mask"].all()} for part in parts]


PARTS = "parts"
"""Key of a micro-batch for the parts that are read in its place."""


def in_place_of(batches: list[dict], parts: list[dict]) -> list[dict]:
    """Put the parts of an update in place of its micro-batches; the last one has at least one.

    The stock loop counts micro-batches, so there are as many as before. The first ones may have no part.
    """
    each = -(-len(parts) // len(batches))
    stops = [max(len(parts) - each * (len(batches) - 1 - i), 0) for i in range(len(batches))]
    starts = [0, *stops[:-1]]
    return [{**batch, PARTS: parts[start:stop]} for batch, start, stop in zip(batches, starts, stops, strict=True)]
