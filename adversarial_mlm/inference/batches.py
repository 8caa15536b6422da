"""Turn examples into padded batches, with any tokenizer that reads one residue as one token."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from adversarial_mlm.masking.losses import IGNORE_INDEX
from adversarial_mlm.models.tokenization_protein import ByteTable

_LABEL_TYPES = {"regression": torch.float32, "classification": torch.int64}


class DataCollatorForTask:
    """Collate proteins, and their labels if given, into tensors. Proteins that are too long are cut at the end.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The encoder's tokenizer.
        kind (`str`): `"regression"`, `"classification"` or `"token_classification"`.
        max_length (`int`): Largest number of tokens in a row, including special tokens.

    Raises:
        ValueError: If the tokenizer does not read one residue as one token or has no padding token, or if `max_length`
            is too small for a residue.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, kind: str, max_length: int):
        self.table = ByteTable.from_tokenizer(tokenizer)
        if tokenizer.pad_token_id is None:
            raise ValueError(
                "the tokenizer has no padding token, so proteins cannot be batched: set tokenizer.pad_token"
            )
        self.pad_token_id = tokenizer.pad_token_id
        self.kind = kind
        self.max_residues = max_length - len(self.table.prefix) - len(self.table.suffix)
        if self.max_residues < 1:
            raise ValueError(
                f"max_length is {max_length}, which leaves no room for a residue next to the special tokens: use at "
                f"least {max_length - self.max_residues + 1}"
            )

    def __call__(self, examples: Sequence[Mapping]) -> dict[str, torch.Tensor]:
        """Encode and pad.

        Args:
            examples (`Sequence[Mapping]`): Each with a `sequence` (`str`). All or none have a `label`, as in
                [`TaskData`].

        Returns:
            `dict[str, torch.Tensor]`: `input_ids` (int64), `attention_mask` (int64) and `residue_mask` (bool, true at
            residues), each `(batch, length)`. With labels also `labels`: `(batch,)` float32 or int64, or
            `(batch, length)` int64 with -100 at tokens that are no residues or do not count.
        """
        rows = [self.table.encode(example["sequence"])[: self.max_residues] for example in examples]
        before, after = self.table.prefix, self.table.suffix
        length = max(len(row) for row in rows) + len(before) + len(after)
        input_ids = np.full((len(rows), length), self.pad_token_id, dtype=np.int64)
        residue_mask = np.zeros(input_ids.shape, dtype=bool)
        attention_mask = np.zeros(input_ids.shape, dtype=np.int64)
        for index, row in enumerate(rows):
            whole = [*before, *row, *after]
            input_ids[index, : len(whole)] = whole
            attention_mask[index, : len(whole)] = 1
            residue_mask[index, len(before) : len(before) + len(row)] = True
        arrays = {"input_ids": input_ids, "attention_mask": attention_mask, "residue_mask": residue_mask}
        batch = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if "label" in examples[0]:
            batch["labels"] = self._labels([example["label"] for example in examples], batch["residue_mask"])
        return batch

    def _labels(self, labels: list, residue_mask: torch.Tensor) -> torch.Tensor:
        if self.kind != "token_classification":
            return torch.tensor(labels, dtype=_LABEL_TYPES[self.kind])
        result = torch.full(residue_mask.shape, IGNORE_INDEX)
        for row, mask, of_row in zip(result, residue_mask, labels, strict=True):
            row[mask] = torch.as_tensor(of_row, dtype=torch.int64)[: int(mask.sum())]
        return result
