"""One backward pass for both networks."""

import itertools

import pytest
import torch

from adversarial_mlm.masking.keyed_random import ENCODER_PHASE, row_keys
from tests.helpers.exhaustive import exhaustive
from tests.helpers.trainer_helpers import largest_difference, parameters_of

REWARDS = ("loss", "surprise", "reducible", "credit", "predictor")
CASES = list(itertools.product(REWARDS, ("rss", "logistic_topk"), ("full", "context", "blind")))
# every reward, and every view and both samplers with the paper's
USUAL = [
    ("loss", "rss", "full"),
    ("loss", "logistic_topk", "context"),
    ("loss", "rss", "blind"),
    ("surprise", "rss", "blind"),
    ("reducible", "rss", "full"),
    ("credit", "logistic_topk", "blind"),
    ("predictor", "rss", "context"),
]


def gradients(module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.fixture
def prepared(make_trainer):
    """A trainer in float64 that is ready for a step, and a batch."""

    def prepare(**settings):
        trainer = make_trainer(double=True, max_steps=1, folder="prepared", **settings)
        trainer.train()
        batch = next(iter(trainer.get_train_dataloader()))
        return trainer, {**trainer.game.to_device(batch), "row": torch.arange(len(batch["input_ids"]))}

    return prepare


@pytest.mark.parametrize(
    ("reward", "sampler", "view"), [*USUAL, *(exhaustive(*case) for case in CASES if case not in USUAL)]
)
def test_its_noiser_gradient_is_lambda_times_that_of_the_noisers_own_phase(prepared, view, sampler, reward):
    trainer, batch = prepared(
        noiser_update="reversal",
        reversal_strength=0.3,
        noiser_reward=reward,
        importance_exponent=0.5,
        noiser_config={"view": view},
        masking_rules={"sampler": sampler},
    )
    trainer.model.zero_grad()
    trainer.noiser.zero_grad()
    keys = row_keys(trainer.args.seed, ENCODER_PHASE, trainer.state.global_step, batch["row"])
    items = torch.tensor(50.0)

    # the noiser's own phase maximises, so that the optimizer is given minus this
    (-trainer.game.noiser_reward(batch, keys, items, trainer.state.global_step)).backward()
    alternating = gradients(trainer.noiser)
    trainer.model.zero_grad()
    trainer.noiser.zero_grad()

    trainer.compute_loss(trainer.model, batch, num_items_in_batch=items).backward()
    reversal = gradients(trainer.noiser)
    assert reversal.keys() == alternating.keys() and any(value.any() for value in reversal.values())
    for name, value in alternating.items():
        assert torch.allclose(reversal[name], 0.3 * value, rtol=1e-9, atol=1e-14), name


@pytest.mark.parametrize("reward", REWARDS)
def test_its_encoder_gradient_is_that_of_plain_masked_language_modelling(prepared, reward):
    trainer, batch = prepared(noiser_update="reversal", noiser_reward=reward)
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    reversal = gradients(trainer.model)

    keys = row_keys(trainer.args.seed, ENCODER_PHASE, trainer.state.global_step, batch["row"])
    corrupted = trainer.data_collator.corrupt(batch, keys)
    trainer.model.zero_grad()
    plain = trainer.model(
        input_ids=corrupted.input_ids, attention_mask=corrupted.attention_mask, labels=corrupted.labels
    ).loss
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-9)
    assert largest_difference(reversal, gradients(trainer.model)) < 1e-12


def test_one_step_moves_both_networks_and_clips_each(make_trainer):
    trainer = make_trainer(noiser_update="reversal", max_steps=1, warmup_steps=0)
    before = parameters_of(trainer)
    trainer.train()
    after = parameters_of(trainer)
    moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == {"encoder", "noiser"}
    steps = {int(trainer.optimizer.state[p]["step"]) for p in trainer.noiser.parameters()}
    assert steps == {1}


def test_the_noiser_moves_every_so_many_steps_only(make_trainer):
    trainer = make_trainer(noiser_update="reversal", noiser_every=3, max_steps=7)
    trainer.train()
    assert {int(trainer.optimizer.state[p]["step"]) for p in trainer.noiser.parameters()} == {3}  # at 0, 3 and 6
    assert {int(trainer.optimizer.state[p]["step"]) for p in trainer.model.parameters()} == {7}


def test_a_noiser_that_is_not_trained_stays_as_it_is(make_trainer):
    trainer = make_trainer(noiser_update="none", max_steps=5)
    before = parameters_of(trainer)
    trainer.train()
    after = parameters_of(trainer)
    moved = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert moved == {"encoder"} and "gap" in trainer.state.log_history[0]


def test_the_logged_loss_is_the_encoders_alone(make_trainer):
    figures = []
    for reward in ("loss", "predictor"):  # the latter's pay would be some minus eight
        trainer = make_trainer(
            noiser_update="reversal", noiser_reward=reward, max_steps=1, logging_steps=1, folder=reward
        )
        trainer.train()
        figures.append(trainer.state.log_history[0]["loss"])
    assert figures[0] == pytest.approx(figures[1], rel=1e-6)
