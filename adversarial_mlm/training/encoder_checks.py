"""Checks of an encoder before training: does it accept soft inputs, and which parameters does the loss reach?"""

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from adversarial_mlm.masking.corruption import CorruptedBatch
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.masking.keyed_random import EVALUATION, row_keys
from adversarial_mlm.masking.losses import token_losses
from adversarial_mlm.models.tokenization_protein import AMBIGUOUS_RESIDUES, STANDARD_RESIDUES
from adversarial_mlm.training.gradients import frozen
from adversarial_mlm.training.rewards import REWARDS
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.utils.errors import CheckpointError, one_line

logger = transformers_logging.get_logger(__name__)

_LARGEST_DIFFERENCE = 1e-4


def hard_batch(collator: DataCollatorForRandomMLM, device: torch.device) -> CorruptedBatch:
    """A small corrupted batch with all residues, many [MASK] tokens and padding, to compare outputs of an encoder."""
    letters = STANDARD_RESIDUES + AMBIGUOUS_RESIDUES
    batch = collator([{"sequence": letters + letters[::-1]}, {"sequence": letters[:7]}])
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    keys = row_keys(0, EVALUATION, 0, torch.arange(2, device=device))
    return collator.hide_at_random(batch, keys, rate=0.3)


def prepare_encoder(
    model: PreTrainedModel, collator: DataCollatorForRandomMLM, args: AdversarialMLMTrainingArguments
) -> None:
    """Check an encoder for a run, and freeze parameters that its loss does not reach.

    Raises:
        CheckpointError: If it has no head for the tokens of the collator.
        ValueError: If the noiser's reward needs soft inputs, and the encoder treats them in another way than ids.
    """
    check_head(model, collator)
    is_trained = collator.noiser is not None and args.noiser_update != "none"
    if is_trained and REWARDS[args.noiser_reward].through_encoder:
        check_soft_inputs(model, collator)
    freeze_what_is_not_reached(model, collator)


@torch.no_grad()
def check_head(model: PreTrainedModel, collator: DataCollatorForRandomMLM) -> None:
    """Check that an encoder reads the tokens of a collator, and has a head that predicts them.

    Raises:
        CheckpointError: If it does not.
    """
    name, batch = type(model).__name__, hard_batch(collator, model.device)
    with frozen(model):
        try:
            output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        except Exception as error:  # of any class, such as that of a model that needs other inputs
            raise CheckpointError(
                f"model is a {name}, which cannot read input_ids and attention_mask alone ({one_line(error)[:200]}): "
                "use an encoder with a masked-language-modelling head, a ...ForMaskedLM"
            ) from error
    logits = getattr(output, "logits", None)
    wanted = (*batch.input_ids.shape, collator.vocabulary.vocab_size)
    if logits is None or logits.shape[:-1] != wanted[:-1] or logits.shape[-1] < wanted[-1]:
        found = "" if logits is None else f" (its logits are {tuple(logits.shape)}, not {wanted})"
        raise CheckpointError(
            f"model is a {name}, which has no masked-language-modelling head{found}: use a ...ForMaskedLM"
        )


@torch.no_grad()
def check_soft_inputs(model: PreTrainedModel, collator: DataCollatorForRandomMLM) -> None:
    """Check that an encoder gives the same logits for `inputs_embeds` as for `input_ids`.

    With `noiser_reward: loss`, the noiser's gradient comes through `inputs_embeds`.

    Raises:
        ValueError: If a logit differs by more than 1e-4. The message says why, if this is known.
    """
    remedy = "use a noiser_reward without a gradient through the encoder, such as credit"
    name = type(model).__name__
    batch = hard_batch(collator, model.device)
    with frozen(model):
        hard = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        embeddings = model.get_input_embeddings()(batch.input_ids)
        try:
            soft = model(inputs_embeds=embeddings, attention_mask=batch.attention_mask).logits
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"noiser_reward: loss needs an encoder that accepts inputs_embeds, but {name} does not: {remedy}"
            ) from error
    difference = (hard - soft).abs()[batch.attention_mask.bool()].max().item()
    if not difference <= _LARGEST_DIFFERENCE:
        raise ValueError(
            "noiser_reward: loss needs an encoder that treats inputs_embeds as it treats input_ids, but with "
            f"{name} a logit differs by {difference:.2g}{_known_reason(model.config)}: {remedy}"
        )


def _known_reason(config) -> str:
    if config.model_type != "esm":
        return ""
    if config.token_dropout:
        return ", because token_dropout only works on input_ids (token_dropout: false in its config.json avoids this)"
    if config.position_embedding_type == "absolute":
        return ", because absolute positions are only added to input_ids"
    if config.emb_layer_norm_before:
        return ", because emb_layer_norm_before only works on input_ids"
    return ""


def freeze_what_is_not_reached(model: PreTrainedModel, collator: DataCollatorForRandomMLM) -> list[str]:
    """Freeze parameters that receive no gradient from the masked-LM loss, such as ESM's contact head.

    DistributedDataParallel would wait for their gradients. Their number is logged.

    Returns:
        `list[str]`: Their names.
    """
    batch = hard_batch(collator, model.device)
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    was_training = model.training
    model.eval()  # dropout would draw from the global generator
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    loss = token_losses(logits, batch.labels).sum()
    gradients = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
    model.train(was_training)
    unreached = [name for name, gradient in zip(trainable, gradients, strict=True) if gradient is None]
    for name in unreached:
        trainable[name].requires_grad_(False)
    if unreached:
        logger.info(f"{len(unreached)} parameters that the loss does not reach were frozen, such as {unreached[0]}")
    return unreached
