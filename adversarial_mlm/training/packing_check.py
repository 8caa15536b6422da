"""Check at the start of a run that an encoder reads packed rows as it reads padded ones."""

import dataclasses
import logging

import torch
from transformers import PreTrainedModel

from adversarial_mlm.masking.corruption import CorruptedBatch
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.masking.losses import token_losses
from adversarial_mlm.training.encoder_checks import hard_batch
from adversarial_mlm.training.packed_attention import (
    MissingKernelError,
    packed_rows,
    read_packed,
    use_packed_attention,
    wants_packing,
)
from adversarial_mlm.training.precision import apply_tf32, autocast_dtype, tf32_is_on, without_tf32
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments

logger = logging.getLogger(__name__)

# relative to the largest value; kernels round differently, but other proteins must have no influence
_LARGEST_DIFFERENCE, _LARGEST_LEAK = 0.005, 1e-5
_TIMES_THE_ROUNDING = 4  # of padded rows in the run's precision

Difference = tuple[float, float]  # of logits, and of the gradient of all parameters


def pack_attention(model: PreTrainedModel, collator: DataCollatorForRandomMLM, dtype: torch.dtype | None) -> None:
    """Set up an encoder for packed rows, and check that they give the logits and gradients of padded rows.

    In float32 without TF32 both must agree. In the precision of the run, packed rows must not be much further from
    padded float32 rows than padded rows are.

    Args:
        model (`PreTrainedModel`): The encoder. It still accepts padded batches.
        collator ([`DataCollatorForRandomMLM`] or [`DataCollatorForAdversarialMLM`]): Makes the batch for the check.
        dtype (`torch.dtype`, *optional*): That of autocast in this run; without it, the run is in float32.

    Raises:
        ValueError: If the encoder does not support packed rows, or if logits or gradients differ.
    """
    name, implementation = type(model).__name__, model.config._attn_implementation
    use_packed_attention(model)
    try:
        leak = _check(model, collator, dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        model.set_attn_implementation(implementation)
        raise ValueError(f"packed_attention does not support {name}: {error}") from error
    if not leak <= _LARGEST_LEAK:
        model.set_attn_implementation(implementation)
        raise ValueError(
            f"packed_attention does not support {name}: relative to the largest logit, a logit of packed rows differs "
            f"by {leak:.2g} if another protein in the row changes"
        )


def pack_if_wanted(
    model: PreTrainedModel, collator: DataCollatorForRandomMLM, args: AdversarialMLMTrainingArguments
) -> bool:
    """Set up an encoder for packed rows where the option or the device asks for it; whether it reads them.

    Args:
        model (`PreTrainedModel`), collator: See [`pack_attention`].
        args ([`AdversarialMLMTrainingArguments`]): Of the run.

    Raises:
        ValueError: As [`pack_attention`], with `packed_attention: true`.
    """
    if not wants_packing(args, args.packed_attention):
        return False
    apply_tf32(args)
    dtype = autocast_dtype(args)
    if args.packed_attention is None:
        return packed_by_default(model, collator, dtype)
    pack_attention(model, collator, dtype)
    return True


def packed_by_default(model: PreTrainedModel, collator: DataCollatorForRandomMLM, dtype: torch.dtype | None) -> bool:
    """Set up an encoder for packed rows as [`pack_attention`], where this was not asked for; whether it could be."""
    try:
        pack_attention(model, collator, dtype)
    except ValueError as error:
        logger.warning(f"batches are read with padding: {error}")
        return False
    logger.info("batches are read without padding (packed_attention)")
    return True


def _check(model: PreTrainedModel, collator: DataCollatorForRandomMLM, dtype: torch.dtype | None) -> float:
    """Compare packed with padded rows; the influence of another protein, relative to the largest logit."""
    batch = hard_batch(collator, model.device)
    with without_tf32():
        exact = _read(model, batch, None, packed=False)
        try:
            _refuse_difference(_differences(_read(model, batch, None, packed=True), exact), (0.0, 0.0))
        except MissingKernelError:  # a kernel of the run's precision may be there all the same
            if dtype is None:
                raise
    if dtype is not None or tf32_is_on():
        padded, ours = (_read(model, batch, dtype, packed) for packed in (False, True))
        _refuse_difference(_differences(ours, exact), _differences(padded, exact))
    first, second = batch.input_ids.unbind()
    other = dataclasses.replace(batch, input_ids=torch.stack([first, second.roll(1)]))  # the second is shorter
    logits, changed = (_read(model, one, dtype, packed=True)[0] for one in (batch, other))
    return ((logits - changed)[0].abs().max() / logits.abs().max()).item()


def _read(
    model: PreTrainedModel, batch: CorruptedBatch, dtype: torch.dtype | None, packed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits at residues and special tokens, and the gradient of all parameters, without dropout."""
    ids, mask = batch.input_ids, batch.attention_mask
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad(), torch.autocast(model.device.type, dtype, enabled=dtype is not None):
            if packed:
                rows = packed_rows({"attention_mask": mask.cpu()})
                rows = {key: x.to(model.device) if isinstance(x, torch.Tensor) else x for key, x in rows.items()}
                logits = read_packed(model, model, rows, mask, input_ids=ids)
            else:
                logits = model(input_ids=ids, attention_mask=mask).logits
    finally:
        model.train(was_training)
    loss = token_losses(logits, batch.labels).sum()
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, trainable, allow_unused=True, materialize_grads=True)
    logits = torch.where(mask.bool()[..., None], logits.detach(), 0)
    return logits, torch.cat([gradient.flatten() for gradient in gradients])


def _differences(ours: tuple[torch.Tensor, ...], exact: tuple[torch.Tensor, ...]) -> Difference:
    logits, gradient = (
        ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()
        for a, b in zip(ours, exact, strict=True)
    )
    return logits, gradient


def _refuse_difference(found: Difference, of_padded: Difference) -> None:
    for what, difference, rounding in zip(("logit", "gradient"), found, of_padded, strict=True):
        if not difference <= max(_LARGEST_DIFFERENCE, _TIMES_THE_ROUNDING * rounding):
            raise ValueError(
                f"relative to the largest one, a {what} of packed rows differs by {difference:.2g} from that of "
                "padded rows"
            )
