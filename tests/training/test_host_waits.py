"""No update waits for the device: nothing is read back, and no copy to it waits for what it still has to do."""

import datasets
import pytest
import torch
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

from tests.helpers.exhaustive import exhaustive
from tests.helpers.host_waits import HostWaits, waits_between
from tests.helpers.launches import as_on_a_device

BLIND = {
    "noiser_update": "reversal",
    "noiser_reward": "credit",
    "masking_rules": {"sampler": "gumbel_topk", "learned_options": False},
}
RUNS = {
    "random": {"masking": "random"},
    "random, accumulated": {"masking": "random", "gradient_accumulation_steps": 2},
    "paper": {},
    "paper-literal": {
        "masking_rules": {"selection": "threshold", "gated": False},
        "loss_scope": "all",
        "shared_phase_counter": True,
    },
    "paper by reversal": {"noiser_update": "reversal"},
    "blind": {**BLIND, "noiser_config": {"view": "blind"}},
    "fast": {**BLIND, "noiser_config": {"view": "blind", "backbone": "conv"}},
    "transformer": {**BLIND, "noiser_config": {"view": "blind", "backbone": "transformer", "num_attention_heads": 2}},
    "logistic, weighted": {"masking_rules": {"sampler": "logistic_topk"}, "importance_exponent": 1.0},
    "surprise": {"noiser_reward": "surprise"},
    "reducible": {"noiser_reward": "reducible"},
    "predictor": {"noiser_reward": "predictor"},
}
USUAL = ("random", "paper", "paper by reversal", "blind", "reducible")  # one of each kind
FIRST, LAST = 4, 6  # a cycle of two updates of each network; the first four warm up


def waits_of(trainer: Trainer) -> HostWaits:
    return waits_between(trainer, FIRST, LAST)


@pytest.fixture
def dataset(proteins):
    """Lengths that are padded, and cut into chunks."""
    return datasets.Dataset.from_dict({"sequence": [p[: 10 + 11 * i % 50] for i, p in enumerate(proteins[:40])]})


@pytest.fixture
def without_logging(make_trainer, monkeypatch):
    """Trainers that do what they would do on a device: what a CPU alone may do is left out."""
    as_on_a_device(monkeypatch)

    def make(**settings):
        masking = settings.pop("masking", "adversarial")
        quiet = {"logging_steps": 100, "noiser_cosine_steps": 0, "max_steps": LAST + 1}
        return make_trainer(masking, dropout=0.1, chunk_overhead=8, max_grad_norm=1.0, **quiet, **settings)

    return make


@pytest.mark.parametrize("run", [*USUAL, *(exhaustive(run) for run in RUNS if run not in USUAL)])
def test_an_update_waits_for_no_device(without_logging, run):
    waits = waits_of(without_logging(**RUNS[run]))
    assert not waits.waits
    assert not waits.copies


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_the_stock_trainer_waits_in_every_update(make_encoder, tokenizer, dataset, tmp_path, max_grad_norm):
    """So the count can see a wait. It looks at the mask in every pass, and at the loss in every micro-batch."""
    stock = Trainer(
        model=make_encoder(),
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=LAST + 1,
            max_grad_norm=max_grad_norm,
            logging_steps=100,
            save_strategy="no",
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=[{"input_ids": tokenizer(sequence)["input_ids"]} for sequence in dataset["sequence"]],
        data_collator=DataCollatorForLanguageModeling(tokenizer),
    )
    waits = waits_of(stock)
    assert sum(waits.waits.values()) >= 2 * (LAST - FIRST)
    assert any("padding_mask.all()" in where for where in waits.waits)
    assert sum(waits.copies.values()) >= LAST - FIRST


@pytest.mark.parametrize(
    "read",
    [
        lambda weight: weight.sum().item(),
        lambda weight: bool((weight > 0).any()),
        lambda weight: weight.flatten().tolist(),
        lambda weight: weight.detach().numpy(),
        lambda weight: weight.detach().cpu(),
        lambda weight: weight[weight > 0],
        lambda weight: torch.where(weight > 0),
        lambda weight: weight.index_put((weight > 0,), torch.zeros(())),
    ],
    ids=["item", "bool", "tolist", "numpy", "cpu", "boolean index", "where", "boolean assignment"],
)
def test_every_way_of_reading_back_is_seen(read):
    layer = torch.nn.Linear(2, 2)
    with HostWaits(layer) as waits:
        read(layer.weight * 2)
        read(torch.ones(3))  # on the host, where nothing has to be waited for
    assert sum(waits.waits.values()) == 1


def test_a_copy_to_the_device_is_seen_unless_it_is_asynchronous():
    device, batch = torch.device("cpu"), torch.ones(3)
    with HostWaits() as waits:
        first = batch.to(device, non_blocking=True)
        assert not waits.copies and waits.holds(first) and not waits.holds(batch)
        batch.to(device)
        torch.tensor([1.0], device=device)
        first[torch.tensor([0, 2])]
    assert sum(waits.copies.values()) == 3 and not waits.waits
