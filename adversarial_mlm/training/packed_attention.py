"""Batches without padding: the encoder gets all proteins of a batch in one row, and each attends only to itself.

Positions start again at every protein. Attention is PyTorch's `scaled_dot_product_attention` on jagged nested tensors,
which has kernels for GPUs only. Masks, noiser and loss use padded rows of token ids, which cost little.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.models.attention_masks import PACKED_ATTENTION
from adversarial_mlm.training.encoder_checks import hard_batch
from adversarial_mlm.training.gradients import frozen

# kernels for rows of unequal lengths; the others would process one protein after the other
_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
# relative to the largest logit; kernels round differently, but other proteins must have no influence
_LARGEST_DIFFERENCE, _LARGEST_LEAK = 0.01, 1e-5


def check_packing(args: TrainingArguments) -> None:
    """Refuse `packed_attention` on a device or with options that do not support it.

    Raises:
        ValueError: If there is no kernel, or with `torch_compile` or `activation_checkpointing`.
    """
    reason = _missing_kernel(args.device)
    if reason is not None:
        raise ValueError(f"packed_attention is not supported here: {reason}")
    for option in ("torch_compile", "activation_checkpointing"):
        if getattr(args, option):
            raise ValueError(f"packed_attention cannot be combined with {option}: leave out one of them")


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
        `dict`: `index` `(tokens,)`, the index of every token in the flattened batch; `positions` `(tokens,)`, its
        position in its protein; `offsets` `(batch + 1,)`, the first token of each protein and the end of the last one,
        all int64; `shortest` and `longest` (`int`), lengths in tokens.
    """
    attention_mask = batch["attention_mask"]
    lengths = attention_mask.sum(dim=1)
    index = attention_mask.flatten().nonzero()[:, 0]
    return {
        "index": index,
        "positions": index % attention_mask.shape[1],
        "offsets": F.pad(lengths.cumsum(0), (1, 0)),
        "shortest": int(lengths.min()),
        "longest": int(lengths.max()),
    }


def read_packed(
    model: torch.nn.Module, packed: Mapping[str, Any], padding_index: int | None, **inputs: torch.Tensor
) -> torch.Tensor:
    """Logits of an encoder for a padded batch that it gets as one row.

    Args:
        model (`nn.Module`): The encoder, wrapped or not, prepared by [`pack_attention`].
        packed (`Mapping`): Output of [`packed_rows`], on the device.
        padding_index (`int`, *optional*): Padding index of the position embeddings, see [`padding_index_of`].
        **inputs: `input_ids` `(batch, length)` or `inputs_embeds` `(batch, length, hidden)`.

    Returns:
        `torch.Tensor` of shape `(batch, length, vocab)`, 0 at padding.
    """
    ((name, values),) = inputs.items()
    first = 0 if padding_index is None else padding_index + 1
    row = values.flatten(0, 1).index_select(0, packed["index"])[None]  # (1, tokens) or (1, tokens, hidden)
    positions = packed["positions"][None] + first
    logits = model(**{name: row}, position_ids=positions, packed_rows=packed).logits[0]  # (tokens, vocab)
    padded = logits.new_zeros(values.shape[0] * values.shape[1], logits.shape[-1])
    return padded.index_copy(0, packed["index"], logits).unflatten(0, values.shape[:2])


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
        **kwargs: Passed to `sdpa`.

    Returns:
        `torch.Tensor` of shape `(1, tokens, heads, width)`, and `None`.

    Raises:
        ValueError: If the layer has sliding-window attention.
    """
    if packed_rows is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if kwargs.get("sliding_window") is not None:
        raise ValueError("it has sliding-window attention")

    def jagged(x: torch.Tensor) -> torch.Tensor:  # (proteins, heads, tokens of each, width)
        rows = torch.nested.nested_tensor_from_jagged(
            x[0].transpose(0, 1).contiguous(),
            offsets=packed_rows["offsets"],
            min_seqlen=packed_rows["shortest"],
            max_seqlen=packed_rows["longest"],
        )
        return rows.transpose(1, 2)

    with sdpa_kernel(_KERNELS):
        attended = F.scaled_dot_product_attention(
            jagged(query), jagged(key), jagged(value), dropout_p=dropout, scale=scaling
        )
    return attended.transpose(1, 2).values()[None], None


def pack_attention(model: PreTrainedModel, collator: DataCollatorForRandomMLM) -> None:
    """Set up an encoder for packed rows, and check that they give the same logits as padded rows.

    Args:
        model (`PreTrainedModel`): The encoder. It still accepts padded batches.
        collator ([`DataCollatorForRandomMLM`] or [`DataCollatorForAdversarialMLM`]): Makes the batch for the check.

    Raises:
        ValueError: If the encoder does not support packed rows, or if the logits differ.
    """
    name = type(model).__name__
    if model.config._attn_implementation not in ("sdpa", PACKED_ATTENTION):
        raise ValueError(
            f"packed_attention needs an encoder with attn_implementation sdpa, but the {name} has "
            f"{model.config._attn_implementation}"
        )
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
    model.set_attn_implementation(PACKED_ATTENTION)
    try:
        difference, leak = _compare(model, collator)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"packed_attention does not support {name}: {error}") from error
    if not (difference <= _LARGEST_DIFFERENCE and leak <= _LARGEST_LEAK):
        raise ValueError(
            f"packed_attention does not support {name}: relative to the largest logit, a logit of packed rows differs "
            f"by {difference:.2g} from that of padded rows, and by {leak:.2g} if another protein in the row changes"
        )


@torch.no_grad()
def _compare(model: PreTrainedModel, collator: DataCollatorForRandomMLM) -> tuple[float, float]:
    """Compare logits of packed and of padded rows, and of packed rows if another protein changes.

    Returns:
        Two `float`: the largest differences, relative to the largest logit.
    """
    batch = hard_batch(collator, model.device)
    ids, real = batch.input_ids, batch.attention_mask.bool()
    packed = packed_rows({"attention_mask": batch.attention_mask.cpu()})
    packed = {key: x.to(model.device) if isinstance(x, torch.Tensor) else x for key, x in packed.items()}
    other_ids = torch.stack([ids[0], ids[1].roll(1)])  # another second protein, which is shorter than the first
    with frozen(model):
        padded = model(input_ids=ids, attention_mask=batch.attention_mask).logits
        ours, other = (read_packed(model, packed, padding_index_of(model), input_ids=x) for x in (ids, other_ids))
    largest = padded[real].abs().max()
    return ((ours - padded)[real].abs().max() / largest).item(), ((ours - other)[0].abs().max() / largest).item()
