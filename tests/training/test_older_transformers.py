"""Options of transformers 5.23 work with older versions, which know them under other names."""

import pytest
from transformers import TrainingArguments

from adversarial_mlm.training.older_transformers import OlderArguments, StockArguments


def test_the_stock_arguments_are_used_where_they_have_the_options():
    assert StockArguments is (
        TrainingArguments if hasattr(TrainingArguments, "activation_checkpointing") else OlderArguments
    )


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing")
@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_both_names_mean_the_same(tmp_path, name):
    args = OlderArguments(str(tmp_path), use_cpu=True, **{name: True, f"{name}_kwargs": '{"use_reentrant": false}'})
    assert args.activation_checkpointing is args.gradient_checkpointing is True
    assert args.activation_checkpointing_kwargs == args.gradient_checkpointing_kwargs == {"use_reentrant": False}


def test_what_is_set_later_reaches_the_trainer_under_its_older_name(tmp_path):
    args = OlderArguments(str(tmp_path), use_cpu=True)
    assert not args.activation_checkpointing and not args.gradient_checkpointing
    args.activation_checkpointing_kwargs = {"use_reentrant": False}
    assert args.gradient_checkpointing_kwargs == {"use_reentrant": False}
