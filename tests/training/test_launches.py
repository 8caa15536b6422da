"""Launch budgets: how many operators an update would launch on a device, over those of the stock trainer.

A launch takes some 5 to 10 µs of the host, whatever the size of the network. So these counts, and not the FLOPs, say
what the package adds to a run of a small encoder. The encoder has 12 layers.
"""

import datasets
import pytest
import torch
from transformers import Trainer, TrainingArguments

from tests.helpers.exhaustive import exhaustive
from tests.helpers.launches import as_on_a_device, launches_of
from tests.helpers.trainer_helpers import build_trainer

FAST = {
    "noiser_update": "reversal",
    "noiser_reward": "credit",
    "masking_rules": {"sampler": "gumbel_topk", "learned_options": False},
    "noiser_config": {"view": "blind", "backbone": "conv"},
}
# share of the stock trainer's operators, in bf16 and in float32, where the stock trainer has 421 fewer (casts)
BUDGETS = {
    "random": ({"masking": "random"}, {True: 1.10, False: 1.10}),
    "fast": (FAST, {True: 1.30, False: 1.46}),
    "paper": ({"noiser_steps": 1, "encoder_steps": 1}, {True: 2.30, False: 2.60}),
}


@pytest.fixture
def deep(make_encoder, monkeypatch):
    """Makes encoders of 12 layers, on what the count takes for a device."""
    as_on_a_device(monkeypatch)

    def make(**settings):
        return make_encoder(**{**settings, "num_hidden_layers": 12, "attention_probs_dropout_prob": 0.0})

    return make


@pytest.fixture
def dataset(proteins):
    """Every batch has padding."""
    return datasets.Dataset.from_dict({"sequence": [p[: 40 + 5 * (i % 4)] for i, p in enumerate(proteins[:80])]})


@pytest.fixture(params=[True, exhaustive(False)], ids=["bf16", "float32"])
def bf16(request) -> bool:
    return request.param


@pytest.fixture
def stock(deep, tokenizer, proteins, tmp_path, bf16) -> float:
    """Operators of an update of the stock trainer. Its batches are masked beforehand."""
    batch = tokenizer([protein[: 40 + 5 * i] for i, protein in enumerate(proteins[:4])], padding=True)
    batch = {name: torch.tensor(batch[name]) for name in ("input_ids", "attention_mask")}
    trainer = Trainer(
        model=deep(hidden_dropout_prob=0.1),
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=5,
            logging_steps=100,
            save_strategy="no",
            bf16=bf16,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=[{}] * 40,
        data_collator=lambda examples: {**batch, "labels": batch["input_ids"]},
    )
    return launches_of(trainer)


@pytest.fixture
def make_trainer(tmp_path, tokenizer, deep, make_noiser, dataset):
    def make(masking="adversarial", **settings):
        return build_trainer(
            *(tmp_path, tokenizer, deep, make_noiser, dataset, masking),
            **{
                **{"dropout": 0.1, "bf16": True, "max_steps": 5, "logging_steps": 100, "noiser_cosine_steps": 0},
                **{"chunk_overhead": 10**6, "max_grad_norm": 1.0, **settings},
            },
        )

    return make


def test_an_update_launches_little_more_than_the_stock_trainers(make_trainer, stock, bf16):
    assert 500 < stock < 1500
    for run, (settings, shares) in BUDGETS.items():
        share = launches_of(make_trainer(folder=run, bf16=bf16, **settings)) / stock
        assert share <= shares[bf16], f"{run}: {share * stock:.0f} operators, {share:.3f} times the stock's"


@pytest.mark.exhaustive
def test_every_chunk_repeats_the_encoders_launches(make_trainer):
    """So the count can see what costs: three chunks take nearly three times as many as one."""
    whole = launches_of(make_trainer("random", folder="whole"))
    cut = launches_of(make_trainer("random", folder="cut", chunk_overhead=0))
    assert cut > 2 * whole
