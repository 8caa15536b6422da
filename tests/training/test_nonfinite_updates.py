"""Updates that are not finite, precisions, checkpointed activations."""

import json
import math

import datasets
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from adversarial_mlm.training.update_guard import NonFiniteError
from tests.helpers.exhaustive import exhaustive
from tests.helpers.trainer_helpers import largest_difference, log_of, parameters_of
from tests.helpers.watched_trainer import ALWAYS, Watched, watched

GAMES = {
    "alternate": {"noiser_steps": 2, "encoder_steps": 2},
    "reversal": {"noiser_update": "reversal", "noiser_every": 2},
    "credit": {"noiser_steps": 2, "encoder_steps": 2, "noiser_reward": "credit"},
}


@pytest.mark.parametrize(
    "game, optim, fault",
    [
        ("alternate", "adamw_torch", math.inf),
        ("reversal", "adamw_torch_fused", math.inf),
        ("credit", "adafactor", math.nan),
        exhaustive("alternate", "adamw_torch_fused", math.nan),
        exhaustive("credit", "adamw_torch_fused", math.inf),
    ],
)
def test_a_run_with_bad_updates_is_the_run_that_leaves_them_out(make_trainer, game, optim, fault):
    bad = {("encoder", 0), ("encoder", 2), ("encoder", 5)}
    if game != "reversal":
        bad |= {("noiser", 1), ("noiser", 3)}
    settings = {**GAMES[game], "optim": optim, "max_steps": 6, "logging_steps": 6, "dropout": 0.1}
    spoiled = make_trainer(cls=watched(spoiled=bad, fault=fault), folder="spoiled", **settings)
    spoiled.train()
    without = make_trainer(cls=watched(left_out=bad), folder="without", **settings)
    without.train()
    assert largest_difference(parameters_of(spoiled), parameters_of(without)) == 0
    entry = log_of(spoiled)[0]
    assert entry["skipped_updates"] == 3
    assert entry["noiser_skipped_updates"] == 2  # with reversal it moves at steps 0, 2 and 4, and two of them are bad
    assert log_of(without)[0]["skipped_updates"] == 0


def test_a_noiser_that_shares_backward_is_held_back_with_the_encoder(make_trainer):
    trainer = make_trainer(cls=watched(spoiled={("encoder", 1)}), noiser_update="reversal", max_steps=2)
    states = []
    check = trainer.check
    trainer.check = lambda *args: (states.append(parameters_of(trainer)), check(*args))[1]
    trainer.train()
    assert largest_difference(states[1], parameters_of(trainer)) == 0 < largest_difference(states[0], states[1])
    assert {int(state["step"]) for state in trainer.optimizer.state.values()} == {1}


def test_the_log_has_the_means_of_the_updates_that_were_made(make_trainer):
    settings = {"encoder_steps": 1, "noiser_steps": 1, "max_steps": 6, "gradient_accumulation_steps": 2}
    spoiled, bad = {("encoder", 1), ("noiser", 2), ("encoder", 4), ("encoder", 5)}, {1, 4, 5}
    each = make_trainer(max_length=64, cls=watched(spoiled=spoiled), folder="each", logging_steps=1, **settings)
    each.train()
    some = make_trainer(max_length=64, cls=watched(spoiled=spoiled), folder="some", logging_steps=4, **settings)
    result = some.train()
    single = [entry for entry in log_of(each) if "loss" in entry]
    assert [entry["loss"] is None for entry in single] == [step in bad for step in range(6)]
    first = log_of(some)[0]
    made = [single[step] for step in range(4) if step not in bad]
    for name in ("loss", "adversarial_loss", "random_loss", "entropy", "enrichment_A"):
        mean = sum(entry[name] for entry in made) / len(made)
        assert first[name] == pytest.approx(mean, rel=0.05) and math.isfinite(first[name])
    assert first["loss"] == pytest.approx(sum(entry["loss"] for entry in made) / 3, rel=1e-5)
    rewards = [entry["noiser_reward"] for entry in single[:4] if "noiser_reward" in entry]
    assert len(rewards) == 3 and first["noiser_reward"] == pytest.approx(sum(rewards) / 3, rel=1e-5)
    assert (first["skipped_updates"], first["noiser_skipped_updates"]) == (1, 1)
    last = log_of(some)[-1]
    assert (last["train_skipped_updates"], last["train_noiser_skipped_updates"]) == (3, 1)
    assert result.training_loss == pytest.approx(
        sum(single[s]["loss"] for s in range(6) if s not in bad) / 3, rel=1e-5
    )


def test_nothing_waits_for_the_device_between_two_entries_of_the_log(make_trainer):
    reads = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if "_local_scalar_dense" in str(function):
                reads.append(args)
            return function(*args, **(kwargs or {}))

    class Guarded(Watched):
        def check(self, norms, optimizer=None):
            with Reads():
                return super().check(norms, optimizer)

        def _get_grad_norm(self, *args, **kwargs):
            with Reads():
                return super()._get_grad_norm(*args, **kwargs)

        def get_batch_samples(self, *args, **kwargs):
            step = self.optimizer.optimizer.step

            def counted(*args, **kwargs):
                with Reads():
                    return step(*args, **kwargs)

            self.optimizer.optimizer.step = counted
            batches = super().get_batch_samples(*args, **kwargs)
            return batches

    bad = {("encoder", 1), ("noiser", 1)}
    make_trainer(cls=type("Guarded", (Guarded,), {"spoiled": bad}), max_steps=4, logging_steps=4).train()
    assert reads == []
    make_trainer(cls=type("Guarded", (Guarded,), {"spoiled": bad}), max_steps=1, optim="adamw_torch").train()
    assert reads  # an optimizer without the flag is asked on the host, which is what this test can see


# ---- the end of a run ----


@pytest.mark.parametrize("network", ["encoder", "noiser"])
def test_a_run_in_which_nothing_is_finite_stops_and_names_the_records(make_trainer, dataset, network):
    bad = {place for place in ALWAYS if place[0] == network and place[1] >= 2}
    settings = {"encoder_steps": 1, "noiser_steps": 1, "gradient_accumulation_steps": 2, "logging_steps": 5}
    trainer = make_trainer(cls=watched(spoiled=bad), max_steps=40, max_skipped_updates=3, **settings)
    with pytest.raises(NonFiniteError, match=f"stopped at step 5: .*last 3 updates of the {network} .*json names"):
        trainer.train()
    found = json.load(open(f"{trainer.args.output_dir}/nonfinite_records.json"))
    assert found["step"] == 5 and [entry["update"] for entry in found["updates"]] == [3, 4, 5]
    assert all(entry["network"] == network and entry["rank"] == 0 for entry in found["updates"])
    records = [record for entry in found["updates"] for record in entry["records"]]
    assert len(records) == len(set(records)) == 24  # 2 micro-batches of 4 proteins each, and no epoch has ended
    assert [name for entry in found["updates"] for name in entry["ids"]] == [dataset[r]["id"] for r in records]
    assert log_of(trainer)[-1]["step"] == 5  # the entry that led to it is there
    assert all(torch.isfinite(value).all() for value in parameters_of(trainer).values())


def test_the_named_records_are_those_of_the_batch(make_trainer, dataset):
    rows = []

    class Kept(Watched):
        spoiled = ALWAYS

        def compute_loss(self, model, inputs, **kwargs):
            rows.extend(self.data_collator.tokenizer.batch_decode(inputs["input_ids"], skip_special_tokens=True))
            return super().compute_loss(model, inputs, **kwargs)

    trainer = make_trainer(cls=Kept, max_steps=9, max_skipped_updates=2, logging_steps=2, noiser_update="none")
    with pytest.raises(NonFiniteError):
        trainer.train()
    found = json.load(open(f"{trainer.args.output_dir}/nonfinite_records.json"))
    records = [record for entry in found["updates"] for record in entry["records"]]
    windows = [row.replace(" ", "") for row in rows]
    assert len(windows) == 8
    assert all(window in dataset[record]["sequence"] for window, record in zip(windows, records, strict=True))


@pytest.mark.parametrize("columns, expected", [(["id", "sequence"], True), (["sequence"], False)])
def test_records_of_a_stream_are_named_by_their_places_and_ids(make_trainer, dataset, columns, expected):
    stream = dataset.select_columns(columns).to_iterable_dataset()
    assert isinstance(stream, datasets.IterableDataset)
    trainer = make_trainer(
        "random",
        cls=watched(spoiled=ALWAYS),
        data=stream,
        max_steps=9,
        max_skipped_updates=2,
        logging_steps=2,
        train_sampling_strategy="sequential",
    )
    with pytest.raises(NonFiniteError):
        trainer.train()
    found = json.load(open(f"{trainer.args.output_dir}/nonfinite_records.json"))
    assert [entry["records"] for entry in found["updates"]] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    names = [entry["ids"] for entry in found["updates"]]
    assert names == ([[str(i) for i in range(4)], [str(i) for i in range(4, 8)]] if expected else [None, None])


def test_a_run_that_recovers_or_has_no_limit_goes_on(make_trainer):
    bad = {("encoder", step) for step in range(7)}
    trainer = make_trainer(cls=watched(spoiled=bad), max_steps=8, max_skipped_updates=3, logging_steps=8)
    trainer.train()
    assert trainer.state.global_step == 8
    trainer = make_trainer(cls=watched(spoiled=ALWAYS), max_steps=8, max_skipped_updates=0, logging_steps=1)
    before = parameters_of(trainer)
    trainer.train()
    assert trainer.state.global_step == 8 and largest_difference(before, parameters_of(trainer)) == 0
    assert log_of(trainer)[-1]["train_skipped_updates"] == 8


def test_a_run_that_never_logs_is_looked_at_in_the_end(make_trainer):
    trainer = make_trainer(cls=watched(spoiled=ALWAYS), max_steps=4, max_skipped_updates=3, logging_strategy="no")
    with pytest.raises(NonFiniteError, match="stopped at step 4"):
        trainer.train()
