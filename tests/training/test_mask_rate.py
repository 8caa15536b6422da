"""A mask rate that changes during a run: logged, the same however a batch is split, and resumed."""

import pytest
import torch

from adversarial_mlm.utils.errors import AdversarialMLMError
from tests.helpers.exhaustive import exhaustive
from tests.helpers.trainer_helpers import check_resumption, largest_difference, log_of, parameters_of

FALLING = {"mask_rate": ["80%@0", "20%@100%"]}
RANGES = {"mask_rate": ["60%-90%@0", "10%-30%@100%"], "mask_rate_curve": "cosine"}


def test_the_rate_in_force_is_logged_and_followed(make_trainer):
    trainer = make_trainer("random", masking_rules=FALLING, max_length=64, max_steps=6, logging_steps=1)
    trainer.train()
    entries = [entry for entry in log_of(trainer) if "learning_rate" in entry]
    assert [entry["scheduled_mask_rate"] for entry in entries] == pytest.approx([0.75, 0.65, 0.55, 0.45, 0.35, 0.25])
    assert [entry["mask_rate"] for entry in entries] == pytest.approx([0.75, 0.65, 0.55, 0.45, 0.35, 0.25], abs=0.01)


def test_without_the_option_the_log_does_not_change(make_trainer):
    trainer = make_trainer("random", max_steps=1, logging_steps=1)
    trainer.train()
    assert "scheduled_mask_rate" not in log_of(trainer)[0]


def test_a_run_of_epochs_knows_its_end(make_trainer, dataset):
    trainer = make_trainer("random", masking_rules=FALLING, max_steps=-1, num_train_epochs=1, logging_steps=1)
    trainer.train()
    steps = len(dataset) // 4
    last = [entry for entry in log_of(trainer) if "learning_rate" in entry][-1]
    assert trainer.state.global_step == steps
    assert last["scheduled_mask_rate"] == pytest.approx(0.2 + 0.6 * 0.5 / steps)


@pytest.mark.parametrize("masking", ["random", exhaustive("adversarial")])
def test_rates_of_rows_do_not_depend_on_the_split_of_a_batch(make_trainer, masking):
    settings = {"double": True, "max_steps": 3, "optim": "adamw_torch", "masking_rules": RANGES, "logging_steps": 1}
    whole = make_trainer(masking, "whole", per_device_train_batch_size=8, **settings)
    parts = make_trainer(masking, "parts", per_device_train_batch_size=2, gradient_accumulation_steps=4, **settings)
    whole.train()
    parts.train()
    assert largest_difference(parameters_of(whole), parameters_of(parts)) < 1e-10
    for a, b in zip(log_of(whole), log_of(parts), strict=True):
        assert a.get("loss", 0) == pytest.approx(b.get("loss", 0)) and a.get("mask_rate") == b.get("mask_rate")


def test_the_loss_is_a_mean_over_as_many_residues_as_were_masked(make_trainer):
    trainer = make_trainer("random", masking_rules=RANGES)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    batch = {**batch, "row": torch.arange(8)}
    seen, original = {}, trainer.game.read

    def read(*args, **kwargs):
        outputs, losses, weights = original(*args, **kwargs)
        seen["items"] = weights.sum()
        return outputs, losses, weights

    trainer.game.read = read
    trainer.state.global_step = 2
    trainer.compute_loss(trainer.model, batch)
    assert seen["items"] == trainer.game.count_items([batch], 2)


@pytest.mark.parametrize("masking", ["random", exhaustive("adversarial")])
def test_a_run_with_changing_rates_resumes_bitwise(make_trainer, masking):
    check_resumption(
        lambda **settings: make_trainer(masking, masking_rules=RANGES, **settings), (2, 5), max_steps=6, dropout=0.1
    )


def test_a_stop_at_a_collapse_is_refused_because_the_loss_follows_the_rate(make_trainer):
    with pytest.raises(AdversarialMLMError, match="on_collapse: stop .* but mask_rate changes, .*: use .* warn"):
        make_trainer(masking_rules=FALLING, on_collapse="stop")
