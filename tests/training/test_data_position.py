"""Sizes of updates that change in the run, and going on at the place in the data."""

import json

import datasets
import pytest
import torch
from transformers.trainer_callback import DefaultFlowCallback

from adversarial_mlm.data.order import NOISER_STREAM, EncoderBatchSampler, RecordOrder
from tests.helpers.exhaustive import exhaustive
from tests.helpers.hooked_trainer import HookedTrainer
from tests.helpers.trainer_helpers import StopAfter, check_resumption, largest_difference, log_of, parameters_of

# of 40 records in batches of 4 an epoch has 10 micro-batches: 7 updates of one, 2 of what is left of the epoch (two
# and one), then 5 of two in every epoch
STAGES = ["4@0", "8@50%"]
BOUNDARY, LAST = 7, 14
GAMES = {
    "alternate": {"noiser_steps": 3, "encoder_steps": 4},
    "reversal": {"noiser_update": "reversal", "noiser_every": 2, "noiser_config": {"view": "blind"}},
}


class Recorder(HookedTrainer):
    """Notes the rows of every update of both networks."""

    def __init__(self, *args, **kwargs):
        self.encoders, self.noisers = [], []
        super().__init__(*args, **kwargs)

    def update_noiser(self, update, batches, *others):
        self.noisers.append([ids_of(row) for batch in batches for row in batch["input_ids"]])
        super().update_noiser(update, batches, *others)

    def get_batch_samples(self, *args):
        batches, items = super().get_batch_samples(*args)
        self.encoders.append([ids_of(row) for batch in batches for row in batch["input_ids"]])
        return batches, items


def ids_of(row: torch.Tensor) -> tuple[int, ...]:
    return tuple(row[row > 0].tolist())  # without padding, so that it tells which protein it is


@pytest.fixture
def short_proteins(proteins):
    """40 different proteins that are not cropped."""
    return datasets.Dataset.from_dict({"sequence": [sequence[: 20 + i] for i, sequence in enumerate(proteins[:40])]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("game", "stops", "workers"),
    [
        ("alternate", (BOUNDARY - 1, BOUNDARY, BOUNDARY + 1), 0),
        ("alternate", (BOUNDARY + 1,), 2),
        ("reversal", (BOUNDARY,), 0),
        exhaustive("alternate", (3, 11), 0),
        exhaustive("alternate", (3,), 2),
        exhaustive("reversal", (3, BOUNDARY - 1, BOUNDARY + 1, 11), 0),
    ],
)
def test_a_run_with_stages_resumes_bitwise_before_at_and_after_the_change(make_trainer, game, stops, workers):
    settings = {
        "dropout": 0.1,
        "max_steps": LAST,
        "global_batch_size": STAGES,
        "dataloader_num_workers": workers,
        "logging_steps": 1,
        **GAMES[game],
    }

    def compare(*trainers):
        logs = [[entry for entry in log_of(trainer) if "loss" in entry] for trainer in trainers]
        for key in ("step", "epoch", "loss", "learning_rate", "noiser_reward"):
            assert [entry.get(key) for entry in logs[0]] == [entry.get(key) for entry in logs[1]]

    check_resumption(make_trainer, stops, compare, **settings)


def test_both_networks_read_every_record_once_an_epoch_over_the_change(make_trainer, short_proteins):
    trainer = make_trainer(
        max_length=64,
        cls=Recorder,
        data=short_proteins,
        max_steps=LAST,
        global_batch_size=STAGES,
        logging_steps=1,
        **GAMES["alternate"],
    )
    records = {ids_of(row): i for i, row in enumerate(trainer.data_collator(short_proteins)["input_ids"])}
    assert len(records) == 40
    trainer.train()
    assert [len(update) for update in trainer.encoders] == [4] * 7 + [8, 4] + [8] * 5
    read = [records[row] for update in trainer.encoders for row in update]
    assert sorted(read[:40]) == sorted(read[40:]) == list(range(40))
    # noiser updates 0-2 come before update 0, 3-5 before 4, both of the first stage; 6-8 and 9-11 before 8 and 12
    assert [len(update) for update in trainer.noisers] == [4] * 6 + [8] * 6
    read = [records[row] for update in trainer.noisers for row in update]
    assert read == [key % 40 for key in RecordOrder(40, 42, NOISER_STREAM).keys(0, 72)]
    told = [entry["epoch"] for entry in log_of(trainer) if "loss" in entry]
    assert told == pytest.approx([0.1 * n for n in (1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 14, 16, 18, 20)])


@pytest.mark.slow
@pytest.mark.parametrize("game", ["alternate", exhaustive("reversal")])
def test_stages_are_the_same_however_they_are_accumulated(make_trainer, game):
    settings = {"double": True, "max_steps": LAST, "optim": "adamw_torch", "global_batch_size": STAGES, **GAMES[game]}
    whole = make_trainer(folder="whole", per_device_train_batch_size=4, **settings)
    parts = make_trainer(folder="parts", per_device_train_batch_size=2, **settings)
    start = parameters_of(whole)
    whole.train()
    parts.train()
    assert largest_difference(parameters_of(whole), parameters_of(parts)) < 1e-10
    assert largest_difference(parameters_of(whole), start) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        exhaustive({"noiser_config": {"view": "context"}}, id="context"),
        pytest.param(
            {"noiser_reward": "credit", "loss_scope": "all", "masking_rules": {"sampler": "gumbel_topk"}}, id="credit"
        ),
        exhaustive({"noiser_update": "reversal", "importance_exponent": 1.0}, id="reversal"),
        pytest.param(
            {"noiser_update": "reversal", "noiser_config": {"view": "blind"}, "noiser_reward": "reducible"}, id="blind"
        ),
        exhaustive({"masking": "random"}, id="random"),
    ],
)
def test_what_fills_up_a_batch_has_no_part_in_training(make_trainer, monkeypatch, settings):
    settings = {"double": True, "optim": "adamw_torch", **settings}
    plain = make_trainer(folder="plain", **settings)
    plain.train()
    keys_of = EncoderBatchSampler.__iter__
    monkeypatch.setattr(EncoderBatchSampler, "__iter__", lambda s: (k + [~key for key in k[:3]] for k in keys_of(s)))
    filled = make_trainer(folder="filled", **settings)
    assert len(next(iter(filled.get_train_dataloader()))["input_ids"]) == 7
    filled.train()
    assert largest_difference(parameters_of(plain), parameters_of(filled)) < 1e-10
    for a, b in zip(log_of(plain), log_of(filled), strict=True):
        names = {"loss", "mask_rate", "gap", "noiser_reward", "enrichment_max", "rows_without_mask", "entropy"}
        for key in names & a.keys():
            assert a[key] == pytest.approx(b[key], rel=1e-6, abs=1e-9)


def test_a_run_of_one_size_is_the_run_with_that_accumulation(make_trainer):
    runs = [
        make_trainer(folder=folder, max_steps=6, **settings)
        for folder, settings in (("a", {"gradient_accumulation_steps": 2}), ("b", {"global_batch_size": 8}))
    ]
    for trainer in runs:
        trainer.train()
    assert largest_difference(*map(parameters_of, runs)) == 0


def test_the_learning_rate_has_one_schedule_over_all_stages(make_trainer):
    settings = {"masking": "random", "max_steps": 14, "logging_steps": 1}
    changing = make_trainer(folder="changing", global_batch_size=STAGES, **settings)
    plain = make_trainer(folder="plain", **settings)
    changing.train()
    plain.train()
    rates = [[entry["learning_rate"] for entry in log_of(t) if "learning_rate" in entry] for t in (changing, plain)]
    assert rates[0] == rates[1] and len(rates[0]) == 14


def test_a_resume_reads_nothing_that_was_read_before(make_trainer, short_proteins):
    class Counted(list):
        reads = 0

        def __getitem__(self, index):
            Counted.reads += 1
            return super().__getitem__(index)

    settings = {"masking": "random", "data": Counted(short_proteins), "max_steps": 9}
    stopped = make_trainer(save_strategy="steps", save_steps=8, **settings)
    stopped.add_callback(StopAfter(8))
    stopped.train()
    Counted.reads = 0
    resumed = make_trainer(**settings)
    resumed._background = torch.zeros(len(resumed.data_collator.vocabulary.residue_ids))  # which reads all of them
    Counted.reads = 0
    resumed.train(resume_from_checkpoint=True)
    # the batch of the last update, the one that is read ahead, and twice 16 records that identify the dataset
    assert Counted.reads <= 8 + 2 * 16


def test_a_run_can_go_on_in_another_split(make_trainer, caplog):
    settings = {"double": True, "optim": "adamw_torch", "max_steps": 6, "global_batch_size": 4}
    straight = make_trainer(folder="straight", **settings)
    straight.train()
    stopped = make_trainer(folder="stopped", save_strategy="steps", save_steps=3, **settings)
    stopped.add_callback(StopAfter(3))
    stopped.train()
    resumed = make_trainer(folder="stopped", per_device_train_batch_size=1, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert largest_difference(parameters_of(straight), parameters_of(resumed)) < 1e-10
    assert "epochs in" not in caplog.text


def test_a_run_that_goes_on_with_other_batches_says_where(make_trainer, caplog):
    make_trainer("random", max_steps=3, save_strategy="steps", save_steps=3).train()
    resumed = make_trainer("random", max_steps=4, global_batch_size=8)
    resumed.train(resume_from_checkpoint=True)
    assert "had read 0.3000 epochs in 3 updates" in caplog.text and "after 0.6000 epochs" in caplog.text


def test_a_finished_run_is_not_trained_further(make_trainer):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 4}
    finished = make_trainer(**settings)
    finished.train()
    again = make_trainer(**settings)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    assert largest_difference(parameters_of(finished), parameters_of(again)) == 0


def test_what_is_saved_says_the_sizes_once(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=4, global_batch_size=["4@0", "8@2"], save_strategy="steps", save_steps=4)
    trainer.train()
    saved = json.loads((tmp_path / "run" / "checkpoint-4" / "training_args.json").read_text())
    assert saved["global_batch_size"] == ["4@0", "8@2"] and saved["gradient_accumulation_steps"] == 1
    card = (tmp_path / "run" / "checkpoint-4" / "README.md").read_text()
    assert "`gradient_accumulation_steps`" not in card and "`global_batch_size`" in card
    assert "4 of 4 encoder updates, batch size 4, 8 from update 2 (" in card


def test_the_place_in_the_data_is_known_to_all_callbacks(make_trainer):
    trainer = make_trainer("random", max_steps=3)
    names = [type(callback).__name__ for callback in trainer.callback_handler.callbacks]
    assert names.index("EpochMarker") < names.index(DefaultFlowCallback.__name__)


def test_another_dataset_may_take_the_place_of_the_first(make_trainer, dataset):
    trainer = make_trainer("random", max_steps=3, logging_steps=1)
    trainer.train_dataset = dataset.select(range(10))
    trainer.train()
    assert [entry["epoch"] for entry in log_of(trainer) if "loss" in entry] == pytest.approx([0.4, 0.8, 1.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"global_batch_size": 6}, "global_batch_size is 6, but must be a multiple of 4"),
        ({"ignore_data_skip": True}, "ignore_data_skip is not supported"),
        (
            {"dataloader_drop_last": True, "per_device_train_batch_size": 41},
            "dataloader_drop_last drops all of the 40",
        ),
    ],
)
def test_what_does_not_go_with_the_data_is_refused(make_trainer, settings, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**settings)


def test_the_size_of_updates_cannot_change_in_a_stream(make_trainer, dataset):
    stream = dataset.to_iterable_dataset()
    with pytest.raises(ValueError, match="global_batch_size cannot change in a stream"):
        make_trainer(data=stream, global_batch_size=["4@0", "8@2"])
    trainer = make_trainer(data=stream, masking="random", global_batch_size=8)
    assert trainer.args.gradient_accumulation_steps == 2
