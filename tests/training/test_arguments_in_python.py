"""What a user may give to a trainer or collator by mistake ends in an error of this package, not in one of Python."""

import datasets
import pytest
import torch
from transformers import (
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    T5Config,
    T5ForConditionalGeneration,
)

from adversarial_mlm import (
    AdversarialMLMTrainer,
    AdversarialMLMTrainingArguments,
    DataCollatorForAdversarialMLM,
    DataCollatorForRandomMLM,
)
from adversarial_mlm.utils.errors import AdversarialMLMError, CheckpointError, CorpusError

PROTEINS = ["MKTAYIAKQRQISF"] * 4


def dataset(**columns) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, *records):
        self.records = records

    def __iter__(self):
        return iter(self.records)


class WithoutLength:
    def __getitem__(self, index):
        return {"sequence": PROTEINS[0]}


@pytest.fixture
def make(make_encoder, tokenizer, tmp_path):
    """A trainer of a tiny encoder, with some of its arguments replaced."""

    def make(**arguments) -> AdversarialMLMTrainer:
        args = AdversarialMLMTrainingArguments(
            output_dir=str(tmp_path / "run"), max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True,
            per_device_train_batch_size=4, save_strategy="no",
        )  # fmt: skip
        given = {
            "model": make_encoder(), "args": args, "data_collator": DataCollatorForRandomMLM(tokenizer),
            "train_dataset": dataset(sequence=PROTEINS), "processing_class": tokenizer, **arguments,
        }  # fmt: skip
        return AdversarialMLMTrainer(**given)

    return make


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (BertModel, "model is a BertModel, which has no masked-language-modelling head: use a ...ForMaskedLM"),
        (
            BertForSequenceClassification,
            r"has no masked-language-modelling head .its logits are .2, 2., not .2, 52, 30.",
        ),
        (
            BertForTokenClassification,
            r"has no masked-language-modelling head .its logits are .2, 52, 2., not .2, 52, 30.",
        ),
        ("t5", "model is a T5ForConditionalGeneration, which cannot read input_ids and attention_mask alone"),
    ],
)
def test_an_encoder_without_a_head_for_masks_is_refused(make, make_encoder, wrong, sentence):
    if wrong == "t5":
        sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
        model = T5ForConditionalGeneration(T5Config(**sizes))
    else:
        model = wrong(make_encoder().config)
    with pytest.raises(CheckpointError, match=sentence):
        make(model=model)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("model", "a/name", "model must be a PreTrainedModel, got str: use from_pretrained"),
        ("model", torch.nn.Linear(2, 2), "model must be a PreTrainedModel, got Linear"),
        ("model", BertModel, "model must be a PreTrainedModel, got the class BertModel"),
        ("args", None, "args must be of the class AdversarialMLMTrainingArguments, got NoneType"),
        ("data_collator", None, "data_collator must be DataCollatorForRandomMLM, .*, got NoneType"),
        ("data_collator", len, "data_collator must be .*, got builtin_function_or_method"),
        ("data_collator", DataCollatorForRandomMLM, "got the class DataCollatorForRandomMLM"),
    ],
)
def test_an_argument_of_another_class_is_named(make, name, value, sentence):
    with pytest.raises(AdversarialMLMError, match=sentence):
        make(**{name: value})


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (dataset(sequence=[]), "train_dataset is empty: it must have at least one record"),
        ([], "train_dataset is empty"),
        (dataset(input_ids=[[1]] * 4), "train_dataset has no column 'sequence', only input_ids: rename the column"),
        (dataset(x=[1]).to_iterable_dataset(), "train_dataset has no column 'sequence', only x"),
        ([{"x": 1}], "train_dataset has no column 'sequence', only x"),
        (PROTEINS, "train_dataset must have records with a 'sequence', but its first is \"'MKTAYIAKQRQISF'\""),
        ("a.fasta", "train_dataset must be a dataset, got str: use the dataset of load_corpus"),
        ({"sequence": PROTEINS}, "train_dataset must be a dataset, got dict"),
        (iter(PROTEINS), "train_dataset must be a dataset, got list_iterator"),
        (WithoutLength(), "train_dataset is a WithoutLength without a length"),
        (datasets.DatasetDict(train=dataset(sequence=PROTEINS)), r"train_dataset has several splits \(train\)"),
    ],
)
def test_a_dataset_without_records_or_sequences_is_named_before_training(make, data, sentence):
    with pytest.raises(CorpusError, match=sentence):
        make(train_dataset=data)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (None, "train_dataset is missing: training needs it"),
        (dataset(sequence=[None] * 4), "record .: a sequence must be text, but is 'None'"),
        (dataset(sequence=[""] * 4), "record .: a sequence must have a residue, but is ''"),
        (dataset(sequence=["\t "] * 4, id=["p1"] * 4), "record p1: a sequence must have a residue"),
        (Stream(), "the training stream contains no records"),
        (Stream(*PROTEINS), "a record of the training stream must be a mapping, got str"),
        (Stream(*[{"x": 1}] * 4), "an example has no 'sequence', only x: use a dataset with this column"),
    ],
)
def test_a_record_that_cannot_be_used_is_named_while_training(make, data, sentence):
    with pytest.raises(CorpusError, match=sentence):
        make(train_dataset=data).train()


def test_held_out_sets_are_named_too(make):
    with pytest.raises(CorpusError, match=r"eval_dataset\['b'\] is empty"):
        make(eval_dataset={"a": dataset(sequence=PROTEINS), "b": dataset(sequence=[])})
    with pytest.raises(CorpusError, match="eval_dataset has no column 'sequence', only x"):
        make(eval_dataset=dataset(x=[1]))
    with pytest.raises(CorpusError, match="eval_dataset is empty"):
        make().evaluate(dataset(sequence=[]))


def test_a_set_that_replaces_the_first_is_looked_at_before_training(make):
    trainer = make()
    trainer.train_dataset = dataset(x=[1])
    with pytest.raises(CorpusError, match="train_dataset has no column 'sequence'"):
        trainer.train()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"tokenizer": None}, "tokenizer must be of the class PreTrainedTokenizerBase, got NoneType"),
        ({"noiser": None}, "noiser must be of the class NoiserModel, got NoneType"),
        ({"max_length": "64"}, "max_length must be a whole number, got '64'"),
        ({"random_rate": None}, "random_rate must be a number, got None"),
        ({"adversarial_rate": "0.1"}, "adversarial_rate must be a number, got '0.1'"),
        ({"temperature": True}, "temperature must be a number, got True"),
        ({"mask_options": None}, "mask_options must be three shares that sum to 1, got None"),
        ({"mask_options": ("a", 0, 0)}, "a share of mask_options must be a number, got 'a'"),
    ],
)
def test_an_argument_of_a_collator_of_another_kind_is_named(tokenizer, make_noiser, arguments, sentence):
    with pytest.raises(AdversarialMLMError, match=sentence):
        DataCollatorForAdversarialMLM(**{"tokenizer": tokenizer, "noiser": make_noiser(), **arguments})


def test_examples_that_cannot_be_collated_are_refused(tokenizer):
    collator = DataCollatorForRandomMLM(tokenizer)
    for examples, sentence in (
        ([], "there are no examples: a batch needs at least one"),
        (PROTEINS, "an example must be a mapping with a 'sequence', got str"),
        ([{"input_ids": [1]}], "an example has no 'sequence', only input_ids: .* remove_unused_columns=False"),
        ([{"sequence": 3}], "an example: a sequence must be text, but is '3'"),
    ):
        with pytest.raises(CorpusError, match=sentence):
            collator(examples)
