"""Run an encoder over parts of many proteins, in batches of similar length."""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from adversarial_mlm.inference.batches import DataCollatorForTask
from adversarial_mlm.models.encoders import number_of_positions
from adversarial_mlm.utils.errors import RecipeError, clip, one_line
from adversarial_mlm.utils.hardware import auto_bf16, has_fast_bf16

logger = logging.getLogger(__name__)

DTYPES = ("bfloat16", "float32")
AUTO = "auto"

_LONGEST_BY_DEFAULT = 1024
_BATCH_TOKENS = {"cpu": 4096}
_BATCH_TOKENS_ON_ACCELERATORS = 65_536
_LONGEST_REASON = 200  # characters of a message of PyTorch


def default_max_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the number of tokens to read at once: the tokenizer's limit, at most the encoder's positions.

    Tokenizers of this package store the length that the encoder was trained with. Without a limit it is 1,024.
    """
    longest = min(tokenizer.model_max_length, number_of_positions(model) or tokenizer.model_max_length)
    return longest if longest < 10**6 else _LONGEST_BY_DEFAULT


def check_max_length(model: PreTrainedModel, max_length: int) -> None:
    """Check that the encoder has at least `max_length` positions.

    Raises:
        RecipeError: If it has fewer.
    """
    positions = number_of_positions(model)
    if positions is not None and max_length > positions:
        raise RecipeError(
            f"max_length is {max_length}, but the encoder has {positions} positions: use --max_length {positions} or "
            "less"
        )


def default_batch_tokens(device: torch.device) -> int:
    """Return the number of tokens in a batch, including padding: 4,096 on a CPU, 65,536 elsewhere."""
    return _BATCH_TOKENS.get(device.type, _BATCH_TOKENS_ON_ACCELERATORS)


def resolved_dtype(dtype: str, device: torch.device) -> str:
    """Return the precision in which a device computes features.

    Args:
        dtype (`str`): `"bfloat16"` (autocast), `"float32"`, or `"auto"`: bfloat16 on GPUs that have it, else float32.
        device (`torch.device`): The device.

    Returns:
        `str`: `"bfloat16"` or `"float32"`. A warning is logged, once for each kind of device, if bfloat16 is slower
        there than float32.

    Raises:
        RecipeError: If the precision is unknown.
    """
    if dtype not in (*DTYPES, AUTO):
        raise RecipeError(f"dtype must be one of {', '.join((*DTYPES, AUTO))}, got '{dtype}'")
    if dtype == AUTO:
        return "bfloat16" if auto_bf16(device) else "float32"
    if dtype == "bfloat16" and not has_fast_bf16(device):
        _warn_of_bfloat16(device.type)
    return dtype


@functools.cache
def _warn_of_bfloat16(device: str) -> None:
    logger.warning(
        "bfloat16 is asked for, but this %s has no instructions for it and may be several times slower than in "
        "float32.",
        device,
    )


class FrozenEncoder:
    """An encoder without a head, and how to run it over parts of proteins.

    Args:
        model (`PreTrainedModel`): The encoder, in evaluation mode, on its device.
        tokenizer (`PreTrainedTokenizerBase`): The encoder's tokenizer.
        max_length (`int`, *optional*): Largest number of tokens in a row, including special tokens; by default
            [`default_max_length`].
        batch_tokens (`int`, *optional*): Tokens in a batch, including padding; by default 4,096 on a CPU and 65,536
            elsewhere. A longer part is one batch.
        dtype (`str`, defaults to `"float32"`): Precision of the computation, see [`resolved_dtype`].
        layer (`int`, *optional*): Layer to read: 0 for the embeddings, -1 for the last layer; by default the
            encoder's output, which is that of the last layer.
        torch_compile (`bool`, defaults to `False`): Compile the encoder when it reads the first batch. On a CPU, its
            weights are constants of the compiled code: train it no further with this object.

    Attributes:
        collator ([`DataCollatorForTask`]): Turns residues into tensors.
        max_length (`int`), batch_tokens (`int`), dtype (`str`): As above, with the defaults.

    Raises:
        ValueError: If an option is out of range, or if the tokenizer does not read one residue as one token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        dtype: str = "float32",
        layer: int | None = None,
        torch_compile: bool = False,
    ):
        self.model = model
        self._forward = _compiled(model) if torch_compile else model
        self.max_length = default_max_length(model, tokenizer) if max_length is None else max_length
        check_max_length(model, self.max_length)
        self.dtype = resolved_dtype(dtype, model.device)
        if batch_tokens is not None and batch_tokens < 1:
            raise RecipeError(f"batch_tokens must be at least 1, got {batch_tokens}")
        self.batch_tokens = batch_tokens or default_batch_tokens(model.device)
        self.layer = layer
        layers = getattr(model.config, "num_hidden_layers", None)
        if layers is not None:
            _layer_index(layer, layers + 1)
        self.collator = DataCollatorForTask(tokenizer, "regression", self.max_length)

    @property
    def max_residues(self) -> int:
        """Residues in the longest row."""
        return self.collator.max_residues

    @property
    def width(self) -> int:
        """Numbers per residue."""
        return self.model.config.hidden_size

    def read(
        self, sequences: Sequence[str], parts: np.ndarray
    ) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
        """Yield the hidden states of parts of proteins in batches, long parts first.

        PyTorch's autocast and gradient mode are those of this method until the iterator is used up.

        Args:
            sequences (`Sequence[str]`): The proteins, of residues only.
            parts (`np.ndarray` of shape `(parts, 3)`, int64): Index of the protein, first residue and end of each
                part, which has at most `max_residues` residues.

        Yields:
            Indices of the parts `(batch,)`, hidden states `(batch, length, width)`, and the residue mask
            `(batch, length)`, both on the encoder's device.

        Raises:
            RecipeError: If the layer does not exist, or if an output is not finite.
        """
        device = self.model.device
        special = self.max_length - self.max_residues
        autocast = torch.autocast(device.type, torch.bfloat16) if self.dtype == "bfloat16" else nullcontext()
        # not inference mode: tensors that a module caches, such as rotary tables, may be used in training later
        with torch.no_grad(), autocast:
            for rows in batches_by_length(parts[:, 2] - parts[:, 1] + special, self.batch_tokens):
                examples = [{"sequence": sequences[index][start:stop]} for index, start, stop in parts[rows]]
                batch = {name: tensor.to(device) for name, tensor in self.collator(examples).items()}
                residue_mask = batch.pop("residue_mask")
                output = self._forward(**batch, output_hidden_states=self.layer not in (None, -1))
                hidden = _of_layer(output, self.layer)
                if not hidden[residue_mask].isfinite().all():
                    raise RecipeError("the encoder's output is not finite: its weights may be damaged, or try float32")
                yield rows, hidden, residue_mask


def _compiled(model: PreTrainedModel) -> Callable[..., Any]:
    from torch._dynamo.exc import TorchDynamoException  # takes seconds to import

    # one graph for batches of all sizes; frozen weights can be laid out for the CPU's matrix products beforehand
    graph = torch.compile(model, dynamic=True, options={"freezing": model.device.type == "cpu"})

    def forward(**batch: Any) -> Any:
        try:
            return graph(**batch)
        except TorchDynamoException as error:
            reason = clip(one_line(error), _LONGEST_REASON)
            raise RecipeError(
                f"torch_compile is set, but the encoder cannot be compiled here ({reason}): leave it out"
            ) from error

    return forward


def _of_layer(output, layer: int | None) -> torch.Tensor:
    if layer in (None, -1):
        return output.last_hidden_state
    return output.hidden_states[_layer_index(layer, len(output.hidden_states))]


def _layer_index(layer: int | None, number: int) -> int:
    """The index of a layer among `number` hidden states, the first of which are the embeddings."""
    if layer is None:
        return number - 1
    if not -number <= layer < number:
        raise RecipeError(
            f"layer is {layer}, but must be 0 to {number - 1} for this encoder, or -1 to -{number} from the end"
        )
    return layer % number


def batches_by_length(lengths: np.ndarray, batch_tokens: int) -> Iterator[np.ndarray]:
    """Yield the indices of all rows in batches of at most `batch_tokens` with padding, long rows first."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        rows = max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start : start + rows]
        start += rows
