"""Checks before training: whether networks, data and options fit together."""

from collections.abc import Mapping
from typing import cast

import datasets
from torch import nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedModel

from adversarial_mlm.data.streaming import RecordStream
from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.models.encoders import number_of_positions
from adversarial_mlm.training.rewards import REWARDS
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.utils.arguments import check_class, class_of
from adversarial_mlm.utils.errors import AdversarialMLMError, CorpusError, shorten
from adversarial_mlm.utils.ramp import Ramp

_UNSUPPORTED = {"compute_loss_func", "compute_metrics", "model_init", "preprocess_logits_for_metrics"}


def check_supported(arguments: Mapping) -> None:
    """Refuse arguments of the stock trainer that have no effect here.

    Raises:
        AdversarialMLMError: If there is one. The message names it.
    """
    for name in sorted(_UNSUPPORTED & arguments.keys()):
        raise AdversarialMLMError(f"{name} is not supported: this trainer has its own loss and its own evaluation")


def check_fit(model: PreTrainedModel, args: AdversarialMLMTrainingArguments, data_collator) -> None:
    """Refuse an encoder, arguments and a collator that do not fit together.

    Raises:
        AdversarialMLMError: If a class is wrong, if the device is not supported, or see [`check_encoder`].
    """
    # models of PEFT are no PreTrainedModel
    if not (isinstance(model, nn.Module) and hasattr(model, "get_input_embeddings") and hasattr(model, "config")):
        raise AdversarialMLMError(f"model must be a PreTrainedModel, got {class_of(model)}: use from_pretrained")
    check_class("args", args, AdversarialMLMTrainingArguments)
    if not isinstance(data_collator, DataCollatorForRandomMLM):
        raise AdversarialMLMError(
            "data_collator must be DataCollatorForRandomMLM, DataCollatorForAdversarialMLM or "
            f"DataCollatorForChosenProteinsMLM, got {class_of(data_collator)}"
        )
    if getattr(data_collator, "frozen", False):
        raise AdversarialMLMError(
            "a collator with frozen=True is for other trainers: leave out frozen, and use noiser_update: none for a "
            "noiser that is not trained"
        )
    if args.device.type == "mps":
        raise AdversarialMLMError("the MPS device is not supported, because it has no float64: set use_cpu")
    if args.activation_checkpointing and not getattr(model, "supports_gradient_checkpointing", False):
        raise AdversarialMLMError(f"activation_checkpointing is set, but {type(model).__name__} does not support it")
    check_encoder(model, data_collator)
    check_parts(args, data_collator)


def check_parts(args: AdversarialMLMTrainingArguments, data_collator: DataCollatorForRandomMLM) -> None:
    """Refuse a `tokens_per_micro_batch` that cannot be.

    Raises:
        AdversarialMLMError: If a protein may be longer, or if the masks of a row depend on the others of its batch.
    """
    most, longest = args.tokens_per_micro_batch, data_collator.sequence_encoder.max_length
    if most is None:
        return
    if most < longest:
        raise AdversarialMLMError(
            f"tokens_per_micro_batch is {most}, but a protein may have max_length: {longest} tokens: use {longest} or "
            "more"
        )
    if not data_collator.rules.gated:
        raise AdversarialMLMError(
            "tokens_per_micro_batch cannot be combined with gated: false, with which the masks of a row depend on the "
            "others of its micro-batch: leave out one of them"
        )


def check_datasets(train_dataset, eval_dataset) -> None:
    """Refuse datasets without records, or whose records have no `sequence`.

    Args:
        train_dataset: Any dataset, or `None`. The records of a stream are not looked at.
        eval_dataset: Any dataset, or a dictionary of several, or `None`.

    Raises:
        CorpusError: If there is one. The message names the argument.
    """
    named = {"train_dataset": train_dataset}
    if isinstance(eval_dataset, dict) and not isinstance(eval_dataset, datasets.DatasetDict):
        named |= {f"eval_dataset[{name!r}]": dataset for name, dataset in eval_dataset.items()}
    else:
        named["eval_dataset"] = eval_dataset
    for name, dataset in named.items():
        if dataset is not None:
            check_dataset(name, dataset)


def check_training_set(dataset) -> None:
    """Refuse to train without a dataset, or with one that [`check_datasets`] refuses.

    Raises:
        CorpusError: If there is none, or if its records cannot be used.
    """
    if dataset is None:
        raise CorpusError("train_dataset is missing: training needs it")
    check_dataset("train_dataset", dataset)


def check_dataset(name: str, dataset) -> None:
    """Refuse a dataset without records, or whose records have no `sequence`, see [`check_datasets`]."""
    if isinstance(dataset, datasets.DatasetDict | datasets.IterableDatasetDict):
        raise CorpusError(f"{name} has several splits ({', '.join(dataset)}): give one of them")
    streamed = isinstance(dataset, IterableDataset)
    if isinstance(dataset, str | bytes | Mapping) or not (streamed or hasattr(dataset, "__getitem__")):
        raise CorpusError(f"{name} must be a dataset, got {class_of(dataset)}: use the dataset of load_corpus")
    if not streamed and not hasattr(dataset, "__len__"):
        raise CorpusError(
            f"{name} is a {class_of(dataset)} without a length: give a dataset that has one, or a stream"
        )
    if not streamed and not len(dataset):
        raise CorpusError(f"{name} is empty: it must have at least one record")
    columns = getattr(dataset, "column_names", None)
    if columns is None:
        if streamed:
            return  # of another class than that of datasets, or one whose columns are unknown
        first = dataset[0]
        columns = list(first) if isinstance(first, Mapping) else None
        if columns is None:
            raise CorpusError(f"{name} must have records with a 'sequence', but its first is {shorten(repr(first))}")
    if "sequence" not in columns:
        raise CorpusError(
            f"{name} has no column 'sequence', only {', '.join(map(str, columns)) or 'none'}: rename the column with "
            "the proteins"
        )


def check_encoder(model: PreTrainedModel, data_collator: DataCollatorForRandomMLM) -> None:
    """Refuse an encoder that does not fit the tokenizer and the lengths of a collator.

    Raises:
        AdversarialMLMError: If the encoder has fewer token embeddings than the tokenizer has tokens, if their padding
            or mask tokens differ, if the encoder has too few positions, or if all its parameters are frozen.
    """
    vocabulary, max_length = data_collator.vocabulary, data_collator.sequence_encoder.max_length
    embeddings = cast(nn.Embedding, model.get_input_embeddings()).weight.shape[0]  # declared as any module
    if embeddings < vocabulary.vocab_size:
        raise AdversarialMLMError(
            f"the encoder has {embeddings} token embeddings, but the tokenizer has {vocabulary.vocab_size} tokens"
        )
    # ESM scales its input by the share of mask tokens; RoBERTa numbers positions from its padding token
    for name in ("pad_token_id", "mask_token_id"):
        theirs, ours = getattr(model.config, name, None), getattr(vocabulary, name)
        if theirs is not None and theirs != ours:
            raise AdversarialMLMError(
                f"{name} is {theirs} in the encoder's configuration, but {ours} in the tokenizer"
            )
    if getattr(model.config, "token_dropout", False) and getattr(model.config, "mask_token_id", None) is None:
        raise AdversarialMLMError(
            "the encoder's configuration has token_dropout but no mask_token_id: set mask_token_id in it"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise AdversarialMLMError("all parameters of the encoder are frozen: set requires_grad of those to train")
    positions = number_of_positions(model)
    if positions is not None and max_length > positions:
        raise AdversarialMLMError(
            f"max_length is {max_length}, but the encoder has {positions} positions: use at most {positions}"
        )


def check_game(args: AdversarialMLMTrainingArguments, data_collator, train_dataset) -> None:
    """Refuse options of the noiser that do not fit the data or the masking rules.

    Raises:
        AdversarialMLMError: If there is one. The message names it.
    """
    if data_collator.noiser is None:
        return
    reward = REWARDS[args.noiser_reward]
    if reward.needs_background and isinstance(train_dataset, IterableDataset):
        raise AdversarialMLMError(
            f"noiser_reward: {args.noiser_reward} needs the frequencies of the residues, which are unknown for a "
            "stream: use streaming: false, or another reward"
        )
    rules = data_collator.rules
    if reward.needs_teacher == data_collator.chooses_positions:
        _refuse_reward(args)
    if not data_collator.chooses_positions:
        _check_chosen_proteins(args)
        return
    through = reward.through_encoder
    if through and args.has_teacher and args.noiser_update == "reversal":
        raise AdversarialMLMError(
            "noiser_update: reversal with noiser_reward: loss would make the noiser climb the weights and targets of "
            "the teacher: use noiser_update: alternate, or another noiser_reward such as credit"
        )
    if not rules.gated and rules.spends_budget and not through:
        raise AdversarialMLMError(
            "gated: false changes the gradient through the encoder, but noiser_reward: "
            f"{args.noiser_reward} uses none: leave it out"
        )
    if rules.temperature != 1 and rules.spends_budget:
        if not through or not (rules.has_relaxation or rules.learned_options):
            raise AdversarialMLMError(
                "temperature only has an effect on relaxed choices, but there are none with sampler: "
                f"{rules.sampler}, learned_options: {str(rules.learned_options).lower()} and noiser_reward: "
                f"{args.noiser_reward}: leave it out"
            )
    if args.on_collapse == "stop" and not rules.random_rate:
        raise AdversarialMLMError(
            "on_collapse: stop needs the loss on random masks, but random_rate is 0: use a higher rate"
        )
    if args.on_collapse == "stop" and rules.schedule is not None and rules.schedule.changes:
        raise AdversarialMLMError(
            "on_collapse: stop compares the loss on random masks with earlier ones, but mask_rate changes, and the "
            "loss with it: use on_collapse: warn"
        )
    if not rules.spends_budget and (args.importance_exponent or reward.needs_mask_probability):
        option = "importance_exponent" if args.importance_exponent else f"noiser_reward: {args.noiser_reward}"
        raise AdversarialMLMError(
            f"{option} needs the probability of each mask, which has no closed form with selection: "
            f"{rules.selection}; use selection: topk"
        )


def _refuse_reward(args: AdversarialMLMTrainingArguments) -> None:
    if args.noiser_reward == "learnability":
        raise AdversarialMLMError("noiser_reward: learnability only has an effect with masking: chosen_proteins")
    if args.noiser_update != "none":
        raise AdversarialMLMError(
            f"masking: chosen_proteins needs noiser_reward: learnability, but it is {args.noiser_reward}"
        )


def _check_chosen_proteins(args: AdversarialMLMTrainingArguments) -> None:
    """Refuse options of a noiser that chooses positions."""
    if args.noiser_update == "alternate":
        raise AdversarialMLMError(
            "masking: chosen_proteins needs noiser_update: reversal, because the noiser learns from the encoder's own "
            "updates (or none), but it is alternate"
        )
    values = Ramp(args.adversarial_share, "adversarial_share").values
    for name, value, is_default in (
        ("adversarial_share", " ".join(args.adversarial_share), values == [1.0]),
        ("importance_exponent", f"{args.importance_exponent:g}", not args.importance_exponent),
        ("reversal_strength", " ".join(args.reversal_strength), Ramp(args.reversal_strength, "").values == [1.0]),
        ("on_collapse", args.on_collapse, args.on_collapse == "warn"),
    ):
        if not is_default:
            raise AdversarialMLMError(
                f"{name} is {value}, but with masking: chosen_proteins all positions are random: leave it out"
            )


def check_stream(args: AdversarialMLMTrainingArguments, train_dataset, rules: MaskingRules | None = None) -> None:
    """Refuse options that do not work with a streamed training set.

    Args:
        args ([`AdversarialMLMTrainingArguments`]): Arguments.
        train_dataset: The training set.
        rules ([`MaskingRules`], *optional*): Rules of the masks.

    Raises:
        AdversarialMLMError: If there is one. The message names it.
    """
    if not isinstance(train_dataset, IterableDataset):
        return
    if rules is not None and rules.positions == "stratified":
        raise AdversarialMLMError(
            "masking: stratified needs numbered records, which a stream does not have: use streaming: false"
        )
    if args.loading_config.dispatch_batches:
        raise AdversarialMLMError(
            "dispatch_batches is not supported, because every process reads its own batches: use false"
        )
    if args.dataloader_num_workers and not isinstance(train_dataset, RecordStream | datasets.IterableDataset):
        raise AdversarialMLMError(
            f"dataloader_num_workers is {args.dataloader_num_workers}, but it is unknown how a "
            f"{type(train_dataset).__name__} divides its records among workers: use 0, or a datasets.IterableDataset"
        )
