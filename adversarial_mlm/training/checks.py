"""Whether networks, data and options go together, asked before anything is spent on them."""

from typing import cast

import datasets
from torch import nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel

from adversarial_mlm.data.streaming import RecordStream
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.models.encoders import number_of_positions
from adversarial_mlm.training.rewards import REWARDS
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments


def check_fit(model: PreTrainedModel, args: AdversarialMLMTrainingArguments, data_collator) -> None:
    """Refuse an encoder, a collator and a machine that do not go together.

    Raises:
        ValueError: Naming what does not fit.
    """
    if not isinstance(args, AdversarialMLMTrainingArguments):
        raise ValueError(f"args must be AdversarialMLMTrainingArguments, got {type(args).__name__}")
    if not isinstance(data_collator, DataCollatorForRandomMLM):
        raise ValueError(
            "data_collator must be DataCollatorForAdversarialMLM or DataCollatorForRandomMLM, "
            f"got {type(data_collator).__name__}"
        )
    if getattr(data_collator, "frozen", False):
        raise ValueError("a collator with frozen=True is for other trainers; here use noiser_update: none")
    if args.device.type == "mps":
        raise ValueError("the MPS device is not supported, as it has no float64; set use_cpu")
    if args.activation_checkpointing and not getattr(model, "supports_gradient_checkpointing", False):
        raise ValueError(f"activation_checkpointing is set, and {type(model).__name__} does not support it")
    check_encoder(model, data_collator)


def check_encoder(model: PreTrainedModel, data_collator: DataCollatorForRandomMLM) -> None:
    """Refuse an encoder that does not go with the tokenizer and the lengths of a collator; no data are needed.

    Raises:
        ValueError: If the encoder has fewer token embeddings than the tokenizer has tokens, if its configuration names
            another padding or mask token than the tokenizer, if it has too few positions, or if all of it is frozen.
    """
    vocabulary, max_length = data_collator.vocabulary, data_collator.sequence_encoder.max_length
    embeddings = cast(nn.Embedding, model.get_input_embeddings()).weight.shape[0]  # declared as any module
    if embeddings < vocabulary.vocab_size:
        raise ValueError(
            f"the encoder has {embeddings} token embeddings, but the tokenizer has {vocabulary.vocab_size} tokens"
        )
    # ESM scales by the share of masks, RoBERTa counts positions by the padding, and its embedding is never trained
    for name in ("pad_token_id", "mask_token_id"):
        theirs, ours = getattr(model.config, name, None), getattr(vocabulary, name)
        if theirs is not None and theirs != ours:
            raise ValueError(f"{name} is {theirs} in the encoder's configuration, but {ours} in the tokenizer")
    if getattr(model.config, "token_dropout", False) and getattr(model.config, "mask_token_id", None) is None:
        raise ValueError("the encoder's configuration has token_dropout, but no mask_token_id, which that needs")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("all parameters of the encoder are frozen (requires_grad), so that there is nothing to train")
    positions = number_of_positions(model)
    if positions is not None and max_length > positions:
        raise ValueError(f"max_length is {max_length}, but the encoder has {positions} positions")


def check_game(args: AdversarialMLMTrainingArguments, data_collator, train_dataset) -> None:
    """Refuse options that need what the data or the rules do not have.

    Raises:
        ValueError: Naming the option.
    """
    if data_collator.noiser is None:
        return
    reward = REWARDS[args.noiser_reward]
    if reward.needs_background and isinstance(train_dataset, IterableDataset):
        raise ValueError(
            f"noiser_reward: {args.noiser_reward} needs the frequencies of the residues, which are not known for a "
            "stream"
        )
    rules = data_collator.rules
    through = reward.through_encoder
    if not rules.gated and rules.spends_budget and not through:
        raise ValueError(
            f"gated: false is about the gradient of rss, which noiser_reward: {args.noiser_reward} has not"
        )
    if rules.temperature != 1 and rules.spends_budget:
        if not through or not (rules.has_relaxation or rules.learned_options):
            raise ValueError("temperature is set, but nothing is relaxed with this sampler, options and noiser_reward")
    if args.on_collapse == "stop" and not rules.random_rate:
        raise ValueError("on_collapse: stop watches the loss on random masks, and random_rate is 0")
    if not rules.spends_budget and (args.importance_exponent or reward.needs_mask_probability):
        option = "importance_exponent" if args.importance_exponent else f"noiser_reward: {args.noiser_reward}"
        raise ValueError(
            f"{option} needs the probability of each mask, which has no closed form with selection: {rules.selection}"
        )


def check_stream(args: AdversarialMLMTrainingArguments, train_dataset) -> None:
    """Refuse options that a stream to train on cannot honour.

    Raises:
        ValueError: Naming the option.
    """
    if not isinstance(train_dataset, IterableDataset):
        return
    if args.loading_config.dispatch_batches:
        raise ValueError("dispatch_batches is not supported for a stream: every process reads its own batches")
    if args.dataloader_num_workers and not isinstance(train_dataset, RecordStream | datasets.IterableDataset):
        raise ValueError(
            f"dataloader_num_workers is {args.dataloader_num_workers}, but {type(train_dataset).__name__} may divide "
            "itself among workers in a way that nobody can tell; set it to 0, or give a datasets.IterableDataset"
        )
