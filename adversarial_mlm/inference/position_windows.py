"""Read single positions of a protein with a masked language model, in windows where the protein is too long."""

from collections.abc import Iterable

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.inference.frozen_encoder import check_max_length, default_batch_tokens, default_max_length
from adversarial_mlm.models.tokenization_protein import ByteTable


class PositionReader:
    """Reads log-probabilities at positions of proteins, each in a window around it.

    Args:
        model (`PreTrainedModel`): A masked language model in evaluation mode, on its device.
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer.
        max_length (`int`, *optional*): Largest number of tokens in a row; by default [`default_max_length`].
        batch_tokens (`int`, *optional*): Tokens in a batch; by default 4,096 on a CPU and 65,536 elsewhere.

    Attributes:
        table ([`ByteTable`]): From letters to tokens.
        mask_token_id (`int`, *optional*): The tokenizer's.
        max_length (`int`): Largest number of tokens in a row.
        special (`int`): Special tokens in a row.
        room (`int`): Largest number of residues in a row.
        batch_tokens (`int`): Tokens in a batch.

    Raises:
        ValueError: If the tokenizer does not read one residue as one token, or if `max_length` is out of range.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int | None = None,
        batch_tokens: int | None = None,
    ):
        self.model, self.table = model, ByteTable.from_tokenizer(tokenizer)
        self.mask_token_id = tokenizer.mask_token_id
        self.max_length = max_length or default_max_length(model, tokenizer)
        check_max_length(model, self.max_length)
        self.special = len(self.table.prefix) + len(self.table.suffix)
        self.room = self.max_length - self.special
        if self.room < 1:
            raise ValueError(
                f"max_length is {self.max_length}, which leaves no room for a residue next to the special tokens: use "
                f"at least {self.special + 1}"
            )
        self.batch_tokens = batch_tokens or default_batch_tokens(model.device)

    def width(self, residues: int) -> int:
        """Return the number of residues in a window of a protein."""
        return min(self.room, residues)

    def starts(self, positions: np.ndarray, residues: int) -> np.ndarray:
        """Return the first position of the window around each position of a protein, from 0."""
        width = self.width(residues)
        return np.clip(positions - width // 2, 0, residues - width)

    def at_once(self, residues: int) -> int:
        """Return the number of windows of a protein in a batch."""
        return max(1, self.batch_tokens // (self.width(residues) + self.special))

    def batch(self, windows: Iterable[tuple[np.ndarray, int]]) -> torch.Tensor:
        """Return the input ids of windows of one width: `(windows, length)`.

        Args:
            windows (`Iterable[tuple[np.ndarray, int]]`): The ids of a protein, and the start of the window in it.
        """
        before, after = self.table.prefix, self.table.suffix
        rows = [np.concatenate([before, ids[start : start + self.width(len(ids))], after]) for ids, start in windows]
        return torch.from_numpy(np.stack(rows).astype(np.int64)).to(self.model.device)

    def padded_batch(
        self, windows: Iterable[tuple[np.ndarray, int]], padding: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the input ids of windows, and the attention mask if their widths differ: each `(windows, length)`.

        Args:
            windows (`Iterable[tuple[np.ndarray, int]]`): The ids of a protein, and the start of the window in it.
            padding (`int`): The token after shorter windows.
        """
        windows = list(windows)
        lengths = np.array([self.width(len(ids)) + self.special for ids, _ in windows])
        if (lengths == lengths[0]).all():
            return self.batch(windows), None
        found = np.full((len(windows), lengths.max()), padding, dtype=np.int64)
        for row, (ids, start) in zip(found, windows, strict=True):
            whole = np.concatenate([self.table.prefix, ids[start : start + self.width(len(ids))], self.table.suffix])
            row[: len(whole)] = whole
        mask = torch.from_numpy((np.arange(lengths.max()) < lengths[:, None]).astype(np.int64))
        return torch.from_numpy(found).to(self.model.device), mask.to(self.model.device)

    def column(self, positions: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return the columns of positions in windows that begin at `starts`."""
        return positions - starts + len(self.table.prefix)

    def read(
        self, batch: torch.Tensor, row: np.ndarray, column: np.ndarray, attention_mask: torch.Tensor | None = None
    ) -> np.ndarray:
        """Return the log-probabilities of all tokens at some positions of a batch: `(positions, vocab)`, float64.

        Args:
            batch (`torch.Tensor` of shape `(rows, length)`): Input ids, on the model's device.
            row (`np.ndarray`): The row of each position.
            column (`np.ndarray`): The column of each position.
            attention_mask (`torch.Tensor` of shape `(rows, length)`, *optional*): 0 at padding, by default nowhere.

        Raises:
            ValueError: If they are not numbers.
        """
        attention_mask = torch.ones_like(batch) if attention_mask is None else attention_mask
        logits = self.model(input_ids=batch, attention_mask=attention_mask).logits
        logs = torch.log_softmax(logits[torch.from_numpy(row), torch.from_numpy(column)].double(), dim=-1)
        if logs.isnan().any():
            raise ValueError("the model's output is not finite: its weights may be damaged")
        return logs.cpu().numpy()

    def read_masked(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return the log-probabilities at positions of a protein, each read with this position masked.

        Args:
            ids (`np.ndarray` of shape `(residues,)`): The protein's tokens, from `table`.
            positions (`np.ndarray`): At most `at_once` positions, from 0.

        Returns:
            `np.ndarray` of shape `(positions, vocab)`, float64.
        """
        starts, row = self.starts(positions, len(ids)), np.arange(len(positions))
        batch = self.batch((ids, start) for start in starts)
        column = self.column(positions, starts)
        batch[row, column] = self.mask_token_id
        return self.read(batch, row, column)

    def read_visible(self, ids: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Return the log-probabilities at positions of a protein that is read as it is. Equal windows are read once.

        Args:
            ids (`np.ndarray` of shape `(residues,)`): The protein's tokens, from `table`; some may be the mask.
            positions (`np.ndarray`): At most `at_once` positions, from 0.

        Returns:
            `np.ndarray` of shape `(positions, vocab)`, float64.
        """
        starts, row = np.unique(self.starts(positions, len(ids)), return_inverse=True)
        batch = self.batch((ids, start) for start in starts)
        return self.read(batch, row, self.column(positions, starts[row]))
