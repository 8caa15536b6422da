"""Schedules, loss scope, readings, health: what the options of the game do to a run."""

import datasets
import pytest
import torch
from transformers import TrainerCallback

from adversarial_mlm.masking.losses import IGNORE_INDEX
from tests.helpers.hooked_trainer import HookedTrainer
from tests.helpers.trainer_helpers import largest_difference, log_of, parameters_of

# ---- schedules ----


def test_a_share_that_rises_from_nothing_leaves_the_rest_to_chance(make_trainer):
    trainer = make_trainer(
        max_steps=6, logging_steps=1, encoder_steps=1, noiser_steps=1, adversarial_share=["0@2", "1@4"]
    )
    before = parameters_of(trainer)
    counts = []
    corrupt = trainer.game.corrupt

    def watch(inputs, keys, step, differentiable=False):
        corrupted = corrupt(inputs, keys, step, differentiable)
        if not differentiable:
            counts.append((int(corrupted.adversarial.sum()), int(corrupted.random.sum())))
        return corrupted

    trainer.game.corrupt = watch

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                middle = parameters_of(trainer)
                assert all(torch.equal(v, before[k]) for k, v in middle.items() if k.startswith("noiser"))

    trainer.add_callback(Stop())
    trainer.train()
    adversarial, random = zip(*counts, strict=True)
    assert adversarial[:3] == (0, 0, 0) and 0 < adversarial[3] < adversarial[5]
    totals = [log["mask_rate"] for log in log_of(trainer) if "mask_rate" in log]
    assert totals == pytest.approx([0.2] * 6, abs=0.01)
    assert not torch.equal(parameters_of(trainer)["noiser.score.weight"], before["noiser.score.weight"])


@pytest.mark.parametrize("update", ["alternate", "reversal"])
def test_a_share_that_falls_to_nothing_leaves_the_noiser_alone(make_trainer, update):
    trainer = make_trainer(noiser_update=update, max_steps=8, adversarial_share=["1@2", "0@4"])
    seen = {}

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            seen[state.global_step] = parameters_of(trainer)

    trainer.add_callback(Watch())
    trainer.train()
    noiser = {step: {k: v for k, v in values.items() if k.startswith("noiser")} for step, values in seen.items()}
    assert largest_difference(noiser[1], noiser[4]) > 0 and largest_difference(noiser[4], noiser[8]) == 0


def test_before_its_share_begins_a_run_is_the_random_one(make_trainer):
    settings = {"double": True, "max_steps": 3, "dropout": 0.1}
    adversarial = make_trainer(folder="adversarial", adversarial_share=["0@3", "1@9"], **settings)
    adversarial.train()
    random = make_trainer("random", folder="random", **settings)
    random.train()
    encoder = {k: v for k, v in parameters_of(adversarial).items() if k.startswith("encoder")}
    assert largest_difference(encoder, parameters_of(random)) == 0


def test_the_noisers_rate_has_a_factor_of_its_own(make_trainer):
    trainer = make_trainer(
        max_steps=8, logging_steps=1, noiser_learning_rate_factor=["0@0", "1@4"], lr_scheduler_type="linear"
    )
    trainer.train()
    rates = [(log["learning_rate"], log["noiser_learning_rate"]) for log in log_of(trainer) if "loss" in log]
    # both are the rates of the update that the entry reports, as the optimizer had them
    for step, (encoder, noiser) in enumerate(rates):
        assert encoder == pytest.approx(1e-3 * (1 - step / 8))
        assert noiser == pytest.approx(1e-3 * (1 - step / 8) * min(step / 4, 1))


def test_a_factor_is_refused_where_the_schedule_is_no_function_of_the_step(make_trainer):
    with pytest.raises(ValueError, match="noiser_learning_rate_factor cannot be combined with"):
        make_trainer(
            noiser_learning_rate_factor=["0@0", "1@4"], lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="steps"
        )


def test_the_shared_counter_changes_the_phases(make_trainer):
    updates = []

    class Watch(HookedTrainer):
        def update_noiser(self, update, batches, *others):
            updates.append((self.state.global_step, update))
            super().update_noiser(update, batches, *others)

    make_trainer(cls=Watch, max_steps=5, noiser_steps=4, encoder_steps=2, shared_phase_counter=True).train()
    # noiser 1-4, encoder 5-6, noiser 7-8, encoder 9-10, noiser 11-12, encoder 13
    assert updates == [(0, 0), (0, 1), (0, 2), (0, 3), (2, 4), (2, 5), (4, 6), (4, 7)]


def test_the_encoders_dropout_in_the_noisers_phase_is_an_option(make_trainer):
    seen = {}

    class Watch(HookedTrainer):
        def update_noiser(self, update, batches, *others):
            seen[self.args.encoder_dropout_in_noiser_phase] = any(m.training for m in self.model.modules())
            super().update_noiser(update, batches, *others)

    rewards = []
    for on in (False, True):
        trainer = make_trainer(cls=Watch, folder=str(on), dropout=0.1, encoder_dropout_in_noiser_phase=on, max_steps=2)
        trainer.train()
        rewards.append(log_of(trainer)[0]["noiser_reward"])
    assert seen == {False: False, True: True} and rewards[0] != rewards[1]


# ---- whose loss counts ----


def test_the_loss_over_all_residues_weighs_the_unmasked_ones(make_trainer):
    logged = {}
    for name, settings in {
        "masked": {},
        "all": {"loss_scope": "all"},
        "half": {"loss_scope": "all", "unmasked_weight": 0.5},
    }.items():
        trainer = make_trainer(
            folder=name, max_steps=1, logging_steps=1, noiser_update="none", double=True, **settings
        )
        by_hand = {}
        read = trainer.game.read

        def watch(model, corrupted, inputs, reversal=None, read=read, by_hand=by_hand):
            logits = model(input_ids=corrupted.input_ids, attention_mask=corrupted.attention_mask).logits
            labels = torch.where(inputs["residue_mask"], inputs["input_ids"], IGNORE_INDEX)
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
            masked = corrupted.masked
            other = inputs["residue_mask"] & ~masked
            by_hand.update(sums=(losses[masked].sum().item(), losses[other].sum().item()))
            by_hand.update(counts=(int(masked.sum()), int(other.sum())))
            return read(model, corrupted, inputs, reversal)

        trainer.game.read = watch
        trainer.train()
        weight = {"masked": 0.0, "all": 1.0, "half": 0.5}[name]
        (a, b), (n, m) = by_hand["sums"], by_hand["counts"]
        assert log_of(trainer)[0]["loss"] == pytest.approx((a + weight * b) / (n + weight * m), rel=1e-6)
        logged[name] = log_of(trainer)[0]["loss"]
    assert len(set(logged.values())) == 3


def test_importance_weights_enter_the_loss_and_their_worth_the_log(make_trainer):
    plain = make_trainer(folder="plain", max_steps=1, logging_steps=1, noiser_update="none")
    weighted = make_trainer(
        folder="weighted", max_steps=1, logging_steps=1, noiser_update="none", importance_exponent=1.0
    )
    plain.train()
    weighted.train()
    a, b = (log_of(trainer)[0] for trainer in (plain, weighted))
    assert a["loss"] != b["loss"] and a["adversarial_loss"] == b["adversarial_loss"]
    assert 0.5 < a["effective_sample_share"] == b["effective_sample_share"] < 1


# ---- the paper's pseudocode ----

LITERAL = {"noiser_steps": 2, "encoder_steps": 1, "shared_phase_counter": True, "loss_scope": "all"}


def test_the_literal_reading_spends_less_than_its_budget(make_trainer):
    rules = {"selection": "threshold", "gated": False}
    trainer = make_trainer(masking_rules=rules, max_steps=3, logging_steps=1, **LITERAL)
    trainer.train()
    logs = [log for log in log_of(trainer) if "loss" in log]
    assert all(0.1 < log["mask_rate"] < 0.19 for log in logs)
    assert not any("effective_sample_share" in log for log in logs)
    assert any(log["noiser_grad_norm"] > 0 for log in logs)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"importance_exponent": 1.0}, "importance_exponent needs"), ({"noiser_reward": "credit"}, "credit needs")],
)
def test_what_needs_a_probability_is_refused_with_the_threshold(make_trainer, settings, words):
    with pytest.raises(ValueError, match=words):
        make_trainer(masking_rules={"selection": "threshold"}, **settings)


@pytest.mark.parametrize(
    ("rules", "settings", "words"),
    [
        ({"gated": False}, {"noiser_reward": "credit"}, "gated: false changes the gradient through the encoder"),
        ({"temperature": 0.5}, {"noiser_reward": "predictor"}, "temperature only has an effect on relaxed choices"),
        ({"temperature": 0.5, "sampler": "gumbel_topk", "learned_options": False}, {}, "temperature only has"),
        ({"random_rate": 0.0}, {"on_collapse": "stop"}, "on_collapse: stop needs the loss on random masks"),
    ],
)
def test_an_option_that_nothing_would_read_is_refused(make_trainer, rules, settings, words):
    with pytest.raises(ValueError, match=words):
        make_trainer(masking_rules=rules, **settings)


def test_weights_stay_finite_without_random_masks(make_trainer):
    trainer = make_trainer(
        masking_rules={"random_rate": 0.0}, importance_exponent=1.0, noiser_update="none", max_steps=2, logging_steps=1
    )
    trainer.noiser.score.weight.data *= 100
    trainer.train()
    assert all(torch.isfinite(torch.tensor(log["loss"])) for log in log_of(trainer) if "loss" in log)


def test_surprise_is_refused_on_a_stream(make_trainer, dataset):
    with pytest.raises(ValueError, match="which are unknown for a stream"):
        make_trainer(data=dataset.to_iterable_dataset(), noiser_reward="surprise")


# ---- health ----


def test_a_collapse_is_named_logged_and_can_stop_the_run(make_trainer, caplog):
    # an encoder that forgets, by a learning rate that is far too high, beside a noiser that likes one residue
    trainer = make_trainer(
        max_length=64,
        max_steps=40, logging_steps=4, learning_rate=0.5, max_grad_norm=0.0, on_collapse="stop",
        noiser_learning_rate=0.0, collapse_margin=0.1, collapse_enrichment=1.2, lr_scheduler_type="constant",
    )  # fmt: skip
    trainer.noiser.score.weight.data *= 10
    trainer.train()
    assert trainer.collapsed_at is not None and trainer.state.global_step == trainer.collapsed_at < 40
    assert [log["collapse"] for log in log_of(trainer) if "collapse" in log][-1] == 1.0
    assert sum("collapse at step" in record.message for record in caplog.records) == 1


def test_a_healthy_run_rings_no_alarm(make_trainer, caplog):
    trainer = make_trainer(max_steps=20, logging_steps=1, on_collapse="stop")
    trainer.train()
    assert trainer.state.global_step == 20 and trainer.collapsed_at is None
    logs = [log for log in log_of(trainer) if "collapse" in log]
    assert len(logs) == 20 and not any(log["collapse"] for log in logs)
    assert all(log["random_loss_above_best"] >= 0 for log in logs)


@pytest.mark.parametrize("update", ["alternate", "reversal"])
def test_comparing_half_batches_changes_nothing_else(make_trainer, update):
    settings = {"noiser_update": update, "max_steps": 6, "dropout": 0.1, "logging_steps": 1}
    quiet = make_trainer(folder="quiet", noiser_cosine_steps=0, **settings)
    quiet.train()
    watched = make_trainer(folder="watched", noiser_cosine_steps=3, **settings)
    watched.train()
    assert largest_difference(parameters_of(quiet), parameters_of(watched)) == 0
    cosines = {log["step"]: log["noiser_cosine"] for log in log_of(watched) if "noiser_cosine" in log}
    assert set(cosines) == {1, 4} and all(-1 <= value <= 1 for value in cosines.values())
    assert not any("noiser_cosine" in log for log in log_of(quiet))


def test_half_batches_that_are_the_same_pull_the_same_way(make_trainer, proteins):
    same = datasets.Dataset.from_dict({"sequence": [proteins[0][:60]] * 8})
    keys = torch.arange(4).repeat_interleave(2)

    class Same(HookedTrainer):
        def noiser_reward(self, inputs, noise, items, step):
            return super().noiser_reward(inputs, keys[: len(noise)], items, step)

    # both halves draw the same masks
    trainer = make_trainer(cls=Same, data=same, max_length=64, max_steps=1, logging_steps=1, noiser_reward="credit")
    trainer.train()
    assert log_of(trainer)[0]["noiser_cosine"] == pytest.approx(1, abs=1e-4)
