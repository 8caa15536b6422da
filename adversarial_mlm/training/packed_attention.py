"""Batches without padding: the encoder gets all proteins of a batch in one row, and each attends only to itself.

Positions start again at every protein. Masks, noiser and loss use padded rows of token ids, which cost little. The
attention of a packed row is computed by PyTorch's kernels for rows of unequal lengths, which are for GPUs only:

| dtype | kernel |
| --- | --- |
| bfloat16 and float16, no dropout of the attention | flash attention, by `varlen_attn` |
| bfloat16 and float16, with it | flash attention, by its operator, because `varlen_attn` has no dropout |
| float32 | memory-efficient attention, by its operator; it has no sliding windows |

No GPU has run this yet. The tests run it on a CPU, with operators that compute the same in plain arithmetic.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from adversarial_mlm.models.attention_masks import PACKED_ATTENTION

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # an older PyTorch, of which we call the operator in any case
    varlen_attn = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

_FLASH_DTYPES = (torch.bfloat16, torch.float16)
_EFFICIENT_DTYPES = (torch.float32,)
_LONGEST_MULTIPLE = 128  # the kernels only need a bound, and torch.compile few different ones


class MissingKernelError(ValueError):
    """There is no kernel for this dtype."""


def wants_packing(args: TrainingArguments, asked: bool | None) -> bool:
    """Whether to read packed rows: as was asked (`packed_attention`), or by default on GPUs that have the kernels.

    Raises:
        ValueError: If `packed_attention` is true, but the device or another option does not support it.
    """
    reason = _refusal(args)
    if asked and reason is not None:
        raise ValueError(reason)
    if asked is None and args.device.type == "cuda" and reason is not None:
        logger.info(f"batches are read with padding: {reason}")
    return reason is None if asked is None else asked


def _refusal(args: TrainingArguments) -> str | None:
    missing = _missing_kernel(args.device)
    if missing is not None:
        return f"packed_attention is not supported here: {missing}"
    if args.activation_checkpointing:
        return "packed_attention cannot be combined with activation_checkpointing: leave out one of them"
    return None


def _missing_kernel(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"a {device.type.upper()} has no attention kernel for rows of unequal lengths: use a GPU"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return (
            f"a {torch.cuda.get_device_name(device)} has no attention kernel for rows of unequal lengths: use a GPU "
            "of the Ampere generation or later"
        )
    return None


def packed_rows(batch: Mapping[str, torch.Tensor]) -> dict:
    """Describe how a padded batch is packed into one row. Call it with a batch on the CPU, where nothing waits.

    Args:
        batch (`Mapping[str, torch.Tensor]`): A batch with `attention_mask` `(batch, length)`, padded on the right.

    Returns:
        `dict`:

        - `index` `(tokens,)`, int64: the index of every token in the flattened batch.
        - `positions` `(tokens,)`, int64: its position in its protein.
        - `offsets` `(batch + 1,)`, int32: the first token of each protein, and the end of the last one.
        - `longest` (`int`): an upper bound for the lengths in tokens.
    """
    attention_mask = batch["attention_mask"]
    lengths = attention_mask.sum(dim=1)
    index = attention_mask.flatten().nonzero()[:, 0]
    return {
        "index": index,
        "positions": index % attention_mask.shape[1],
        "offsets": F.pad(lengths.cumsum(0), (1, 0)).int(),
        "longest": math.ceil(attention_mask.shape[1] / _LONGEST_MULTIPLE) * _LONGEST_MULTIPLE,
    }


def read_packed(
    model: torch.nn.Module,
    encoder: PreTrainedModel,
    packed: Mapping[str, Any],
    attention_mask: torch.Tensor,
    **inputs: torch.Tensor,
) -> torch.Tensor:
    """Logits of an encoder for a padded batch that it gets as one row.

    Args:
        model (`nn.Module`): The encoder, wrapped or not, prepared by [`use_packed_attention`].
        encoder (`PreTrainedModel`): The encoder itself.
        packed (`Mapping`): Output of [`packed_rows`], on the device.
        attention_mask (`torch.Tensor` of shape `(batch, length)`): 0 at padding.
        **inputs: `input_ids` `(batch, length)` or `inputs_embeds` `(batch, length, hidden)`.

    Returns:
        `torch.Tensor` of shape `(batch, length, vocab)`, 0 at padding.
    """
    ((name, values),) = inputs.items()
    if name == "input_ids" and encoder.config.model_type == "esm":
        # ESM's token dropout counts the masks of each protein, so its embeddings are computed on padded rows
        name, values = "inputs_embeds", _embeddings_of(encoder)(values, attention_mask=attention_mask)
    padding_index = padding_index_of(encoder)
    first = 0 if padding_index is None else padding_index + 1
    row = values.flatten(0, 1).index_select(0, packed["index"])[None]  # (1, tokens) or (1, tokens, hidden)
    positions = packed["positions"][None] + first
    logits = model(**{name: row}, position_ids=positions, packed_rows=packed).logits[0]  # (tokens, vocab)
    padded = logits.new_zeros(values.shape[0] * values.shape[1], logits.shape[-1])
    return padded.index_copy(0, packed["index"], logits).unflatten(0, values.shape[:2])


def _embeddings_of(encoder: PreTrainedModel) -> torch.nn.Module:
    return cast(torch.nn.Module, encoder.base_model.embeddings)  # declared as any attribute


def padding_index_of(model: PreTrainedModel) -> int | None:
    """Padding index of the position embeddings, after which positions begin (RoBERTa); `None` if they begin at 0."""
    for name, module in model.base_model.named_modules():
        if name.endswith("position_embeddings"):
            return getattr(module, "padding_idx", None)
    return None


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    packed_rows: Mapping | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention for the `AttentionInterface` of transformers: for packed rows, or `sdpa` for padded batches.

    Args:
        module (`nn.Module`): The attention layer.
        query, key, value (`torch.Tensor` of shape `(1, heads, tokens, width)`): Queries, keys and values of a packed
            row.
        attention_mask (`torch.Tensor`, *optional*): Mask of a padded batch.
        dropout (`float`, *optional*, defaults to 0.0): Dropout of the attention probabilities.
        scaling (`float`, *optional*): Factor of the scores.
        packed_rows (`Mapping`, *optional*): Output of [`packed_rows`]; without it, the batch is padded.
        **kwargs: Passed to `sdpa`. For packed rows, `sliding_window` is one more than the largest distance.

    Returns:
        `torch.Tensor` of shape `(1, tokens, heads, width)`, and `None`.

    Raises:
        MissingKernelError: If there is no kernel for the dtype.
    """
    if packed_rows is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    window = kwargs.get("sliding_window")
    query, key, value = (part[0].transpose(0, 1) for part in (query, key, value))  # (tokens, heads, width)
    attended = _attend(query, key, value, packed_rows, dropout, scaling, -1 if window is None else window - 1)
    return attended[None], None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: Mapping[str, Any],
    dropout: float,
    scale: float | None,
    window: int,
) -> torch.Tensor:
    """Attention within the proteins of a row, `(tokens, heads, width)`, up to the distance `window` (-1: any)."""
    offsets, longest = rows["offsets"], rows["longest"]
    if query.dtype in _FLASH_DTYPES:
        if not dropout and varlen_attn is not None:
            windows: dict[str, Any] = {"window_size": (window, window)} if window >= 0 else {}
            attended = varlen_attn(query, key, value, offsets, offsets, longest, longest, scale=scale, **windows)
            return cast(torch.Tensor, attended)  # a tuple only if more was asked for
        return torch.ops.aten._flash_attention_forward(
            *(query, key, value, offsets, offsets, longest, longest, dropout, False, False),
            scale=scale,
            window_size_left=window,
            window_size_right=window,
        )[0]
    if query.dtype not in _EFFICIENT_DTYPES or window >= 0:
        what = "sliding windows in " if window >= 0 else ""
        raise MissingKernelError(f"there is no kernel for {what}{str(query.dtype).removeprefix('torch.')}: use bf16")
    attended = torch.ops.aten._efficient_attention_forward(
        *(query[None], key[None], value[None], None, offsets, offsets, longest, longest, dropout, 0, True), scale=scale
    )[0]
    return attended[0]


def use_packed_attention(model: PreTrainedModel) -> None:
    """Let an encoder accept packed rows, beside padded batches.

    Raises:
        ValueError: If it has another attention than `sdpa`.
    """
    if model.config._attn_implementation not in ("sdpa", PACKED_ATTENTION):
        raise ValueError(
            f"packed_attention needs an encoder with attn_implementation sdpa, but the {type(model).__name__} has "
            f"{model.config._attn_implementation}"
        )
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
    model.set_attn_implementation(PACKED_ATTENTION)
