"""Checks of an encoder before training: whether the noiser's gradient can reach it, and which parameters it trains."""

import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from adversarial_mlm.masking.corruption import CorruptedBatch
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.masking.keyed_random import EVALUATION, row_keys
from adversarial_mlm.masking.losses import token_losses
from adversarial_mlm.models.tokenization_protein import AMBIGUOUS_RESIDUES, STANDARD_RESIDUES
from adversarial_mlm.training.gradients import frozen

logger = transformers_logging.get_logger(__name__)

_LARGEST_DIFFERENCE = 1e-4


def hard_batch(collator: DataCollatorForRandomMLM, device: torch.device) -> CorruptedBatch:
    """A small batch with every residue, many [MASK] tokens and padding, for a look at an encoder."""
    letters = STANDARD_RESIDUES + AMBIGUOUS_RESIDUES
    batch = collator([{"sequence": letters + letters[::-1]}, {"sequence": letters[:7]}])
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    keys = row_keys(0, EVALUATION, 0, torch.arange(2, device=device))
    return collator.hide_at_random(batch, keys, rate=0.3)


@torch.no_grad()
def check_soft_inputs(model: PreTrainedModel, collator: DataCollatorForRandomMLM) -> None:
    """Make sure that embeddings of tokens, given as `inputs_embeds`, count the same as the tokens themselves.

    The gradient of `noiser_reward: loss` comes through such embeddings. If the encoder does something else with them,
    the noiser would be trained against another network.

    Raises:
        ValueError: If a logit differs by more than 1e-4, with the reason where it is known.
    """
    remedy = "choose a noiser_reward that needs no gradient through the encoder, such as credit"
    name = type(model).__name__
    batch = hard_batch(collator, model.device)
    with frozen(model):
        hard = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        embeddings = model.get_input_embeddings()(batch.input_ids)
        try:
            soft = model(inputs_embeds=embeddings, attention_mask=batch.attention_mask).logits
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"noiser_reward: loss needs an encoder that takes inputs_embeds, and {name} does not; {remedy}"
            ) from error
    difference = (hard - soft).abs()[batch.attention_mask.bool()].max().item()
    if not difference <= _LARGEST_DIFFERENCE:
        raise ValueError(
            f"noiser_reward: loss needs an encoder that does the same with inputs_embeds as with input_ids, and "
            f"{name} does not: a logit differs by {difference:.2g}{_known_reason(model.config)}; {remedy}"
        )


def _known_reason(config) -> str:
    if config.model_type != "esm":
        return ""
    if config.token_dropout:
        return ", because token_dropout acts on input_ids alone (token_dropout: false in its config.json avoids that)"
    if config.position_embedding_type == "absolute":
        return ", because its absolute positions are added to input_ids alone"
    if config.emb_layer_norm_before:
        return ", because emb_layer_norm_before acts on input_ids alone"
    return ""


def freeze_what_is_not_reached(model: PreTrainedModel, collator: DataCollatorForRandomMLM) -> list[str]:
    """Freeze the parameters that no masked-LM loss reaches, as ESM's contact head.

    They are not trained either way, but DistributedDataParallel would wait for their gradients. How many they are is
    logged.

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
        logger.info(f"no masked-LM loss reaches {len(unreached)} parameters, such as {unreached[0]}; they are frozen")
    return unreached
