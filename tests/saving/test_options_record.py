"""Options of a checkpoint and of a run that resumes from it, as plain values."""

import json
import logging

import pytest

from adversarial_mlm.saving import options_record
from adversarial_mlm.saving.options_record import OptionsRecord, Resumption
from adversarial_mlm.saving.resume_options import RULES, Effect
from adversarial_mlm.utils.errors import CheckpointError

# a run as `Recipe.options` gives it, with those options that others depend on
RUN = {
    **{"masking": "adversarial", "encoder": None, "noiser": None, "noiser_view": None, "noiser_backbone": None},
    **{"model_name_or_path": None, "noiser_name_or_path": None, "random_rate": 0.1, "adversarial_rate": 0.1},
    **{"seed": 42, "data_seed": None, "lr_scheduler_type": "linear", "max_length": 512, "learning_rate": 1e-4},
    **{"noiser_reward": "loss", "adversarial_share": ["1"], "noiser_learning_rate": 1e-4, "temperature": 1.0},
    **{"global_batch_size": [], "gradient_accumulation_steps": 1, "lr_scheduler_kwargs": None},
}
DATA = {"train": {"records": 40, "sample": "a"}, "held_out": {"members": {"records": 5, "sample": "b"}}}


def changes(**now):
    before = {**RUN, **dict.fromkeys(now.keys() - RUN.keys())}
    return options_record.check("r/checkpoint-4", before, {**RUN, **now})


# ---- the file ----


def test_what_is_written_is_read_again(tmp_path):
    resumptions = (Resumption(4, {"learning_rate": (0.1, 0.01)}), Resumption(6, {"encoder": (None, "tiny")}))
    written = OptionsRecord({"learning_rate": 0.01, "mask_options": (0.8, 0.1, 0.1)}, DATA, resumptions)
    options_record.write(str(tmp_path), written)
    read = options_record.read(str(tmp_path))
    assert read == OptionsRecord({"learning_rate": 0.01, "mask_options": [0.8, 0.1, 0.1]}, DATA, resumptions)
    assert str(read.resumptions[1]) == "after update 6: encoder not set -> tiny"


def test_no_token_is_written(tmp_path):
    options_record.write(str(tmp_path), OptionsRecord({"hub_token": "hf_secret", "seed": 1}))
    assert "secret" not in (tmp_path / "options.json").read_text()
    assert options_record.read(str(tmp_path)).options == {"seed": 1}


def test_an_earlier_version_recorded_the_options_of_the_trainer_and_the_form_of_the_noiser(tmp_path):
    (tmp_path / "training_args.json").write_text('{"learning_rate": 0.1}')
    (tmp_path / "noiser").mkdir()
    (tmp_path / "noiser" / "config.json").write_text('{"view": "blind", "backbone": "gru"}')
    record = options_record.read(str(tmp_path))
    assert record.options == {"learning_rate": 0.1, "noiser_view": "blind", "noiser_backbone": "gru"}
    assert record.data is None and record.resumptions == ()
    with pytest.raises(CheckpointError, match="^noiser_view is full and was blind: "):
        options_record.check("r/checkpoint-4", record.options, {**RUN, "learning_rate": 0.1})


def test_another_tool_recorded_nothing(tmp_path):
    assert options_record.read(str(tmp_path)).options == {}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 1}',
        '{"format": 1, "options": [1], "data": null, "resumptions": []}',
        '{"format": 1, "options": {}, "data": null, "resumptions": [{"step": 4}]}',
        '{"format": 1, "options": {"adversarial_share": ["x@y"]}, "data": null, "resumptions": []}',
        '{"format": 1, "options": {"masking": "random", "random_rate": "x"}, "data": null, "resumptions": []}',
    ],
)
def test_a_damaged_record_is_refused(tmp_path, text):
    (tmp_path / "options.json").write_text(text)
    with pytest.raises(CheckpointError, match="has a damaged options.json"):
        options_record.read(str(tmp_path))


def test_the_record_of_a_later_version_is_refused(tmp_path):
    (tmp_path / "options.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(CheckpointError, match="was written by a later version of this package"):
        options_record.read(str(tmp_path))


# ---- what has changed ----


@pytest.mark.parametrize(
    "now",
    [
        {},
        {"encoder": "tape-38m", "noiser": "paper", "noiser_view": "full", "noiser_backbone": "gru"},
        {"data_seed": 42},
        {"adversarial_share": ["1.0"]},
        {"adversarial_share": ["1@0"]},
        {"lr_scheduler_kwargs": {}},
        {"learning_rate": 0.0001, "temperature": 1},
        {"activation_checkpointing": False},
        {"an_option_of_tomorrow": None},
    ],
)
def test_other_words_for_the_same_are_no_change(now):
    assert changes(**now) == {}


def test_without_a_noiser_only_the_sum_of_the_rates_counts():
    run = {**RUN, "masking": "random"}
    other = {"random_rate": 0.05, "adversarial_rate": 0.15, "noiser_learning_rate": 1.0, "temperature": 2.0}
    assert options_record.changes_of(run, {**run, **other}) == {}
    assert options_record.changes_of(run, {**run, "random_rate": 0.2}) == {"random_rate": (0.2, 0.3)}


def test_the_form_of_a_loaded_noiser_is_not_guessed():
    loaded = {"noiser_name_or_path": "n"}
    before = {**RUN, **loaded, "noiser_view": "blind"}
    assert options_record.changes_of(before, {**RUN, **loaded}) == {}


def test_an_accumulation_that_follows_from_the_global_batch_is_not_compared():
    assert list(changes(global_batch_size=["8"], gradient_accumulation_steps=2)) == ["global_batch_size"]


# ---- what is refused ----


@pytest.mark.parametrize("name", [name for rule in RULES if rule.effect is Effect.REFUSED for name in rule.options])
def test_an_option_that_cannot_change_is_named_with_both_values(name):
    values = {"masking": ("adversarial", "random"), "streaming": (False, True), "fp16": (False, True)}
    before, now = values.get(name, ("one", "two"))
    run, other = {**RUN, name: before}, {**RUN, name: now}
    with pytest.raises(CheckpointError) as refusal:
        options_record.check("r/checkpoint-4", run, other)
    told = str(refusal.value)
    shown = [options_record.shown(value) for value in (now, before)]
    assert f"{name} is {shown[0]} and was {shown[1]}" in told and "\n" not in told
    assert "resumes from the checkpoint r/checkpoint-4 cannot change" in told
    assert told.endswith("start a new run from its weights (model_name_or_path: r/checkpoint-4)")


def test_several_are_named_together():
    with pytest.raises(
        CheckpointError, match="^seed is 1 and was 42, data_seed is 1 and was 42: .*the earlier values"
    ):
        changes(seed=1)


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_learning_rate_that_is_part_of_the_checkpoint_cannot_change(schedule):
    run = {**RUN, "lr_scheduler_type": schedule}
    for other in ({"learning_rate": 1.0}, {"lr_scheduler_type": "linear"}, {"lr_scheduler_kwargs": {"factor": 0.1}}):
        with pytest.raises(CheckpointError, match=f"^{next(iter(other))} is "):
            options_record.check("c", run, {**run, **other})
    assert options_record.check("c", run, {**run, "weight_decay": 1.0}) == {}
    with pytest.raises(CheckpointError, match=f"^lr_scheduler_type is {schedule} and was linear"):
        changes(lr_scheduler_type=schedule)


def test_the_positions_of_a_new_encoder_cannot_change():
    assert changes(max_length=128) == {"max_length": (512, 128)}
    with pytest.raises(CheckpointError, match="^max_length is 1024 and was 512"):
        changes(max_length=1024)
    loaded = {**RUN, "model_name_or_path": "esm"}
    assert options_record.check("c", loaded, {**loaded, "max_length": 1024}) == {"max_length": (512, 1024)}


def test_a_reward_with_a_slow_encoder_cannot_begin_later():
    assert changes(noiser_reward="credit") == {"noiser_reward": ("loss", "credit")}
    with pytest.raises(CheckpointError, match="^noiser_reward is reducible and was loss"):
        changes(noiser_reward="reducible")
    slow = {**RUN, "noiser_reward": "reducible"}
    assert options_record.check("c", slow, RUN) == {"noiser_reward": ("reducible", "loss")}


# ---- data ----


def test_files_that_moved_are_no_change():
    moved = {"train_data": (["a"], ["b"]), "min_length": (10, 11), "validation_data": (["c"], ["d"])}
    rate = {"learning_rate": (0.1, 0.2)}
    assert options_record.check_data("c", DATA, DATA, {**moved, **rate}) == (rate, False)


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"records": 41, "sample": "a"}, r"\(41 records instead of 40; min_length is 11 and was 10\)"),
        ({"records": 40, "sample": "b"}, "40 records as before, but other sequences or another order"),
        (None, "only one reads a stream"),
    ],
)
def test_other_training_proteins_are_refused(train, words):
    with pytest.raises(CheckpointError, match=words):
        options_record.check_data("c", DATA, {**DATA, "train": train}, {"min_length": (10, 11)})


def test_the_records_of_a_stream_are_not_compared_and_that_is_said(caplog):
    stream = {"train": None, "held_out": {}}
    assert options_record.check_data("c", stream, stream, {}) == ({}, False)
    assert not caplog.messages
    changed = {"train_data": (["a"], ["b"])}
    assert options_record.check_data("c", stream, stream, changed) == (changed, False)
    assert "train_data is b and was a: whether the training proteins are the same cannot be checked" in caplog.text


def test_other_held_out_proteins_are_said(caplog):
    held_out = {"validation_data": (["a"], ["b"])}
    other = {**DATA, "held_out": {}}
    assert options_record.check_data("c", DATA, other, held_out) == (held_out, True)
    assert "figures from before and after cannot be compared" in caplog.text


# ---- updates that are left ----


def test_a_change_needs_an_update(caplog):
    rate = {"learning_rate": (0.1, 0.2)}
    options_record.check_updates("c", 4, 5, rate)
    options_record.check_updates("c", 4, 4, {"max_steps": (10, 4), "eval_mask_rate": (0.1, 0.2)})
    with pytest.raises(
        CheckpointError, match="^learning_rate is 0.2 and was 0.1: this would have no effect, .*max_st"
    ):
        options_record.check_updates("c", 4, 4, rate)
    with pytest.raises(CheckpointError, match="has made 4 updates, but the run has only 3: set max_steps"):
        options_record.check_updates("c", 4, 3, {})


# ---- what is said ----


def test_changes_are_logged_and_warnings_say_what_they_mean(caplog):
    told = changes(learning_rate=1e-5, noiser_steps=3, encoder_steps=2, logging_steps=7)
    with caplog.at_level(logging.INFO):
        options_record.report("c", RUN, told)
    information, warning = caplog.records
    assert information.message == (
        "options that differ from those of the checkpoint c: learning_rate 0.0001 -> 1e-05, "
        "noiser_steps not set -> 3, encoder_steps not set -> 2"
    )
    assert warning.levelname == "WARNING" and "the noiser's updates are numbered" in warning.message
    assert warning.message.startswith("noiser_steps is 3 and was not set, encoder_steps is 2 and was not set: ")


@pytest.mark.parametrize(
    ("options", "words"), [({}, "does not record its options"), ({"seed": 1}, "only records the")]
)
def test_a_checkpoint_that_does_not_tell_its_options_is_said(caplog, options, words):
    options_record.report("c", options, {})
    assert words in caplog.text and "were not compared" in caplog.text


def test_the_best_checkpoint_is_compared_with_figures_of_its_kind():
    assert not options_record.forgets_best({"learning_rate": (1, 2), "random_rate": (1, 2)}, "eval_members_loss")
    assert options_record.forgets_best({"random_rate": (1, 2)}, "eval_members_random_loss")
    assert options_record.forgets_best({"eval_mask_rate": (1, 2)}, "eval_members_loss")
    assert options_record.forgets_best({"metric_for_best_model": ("a", "b")}, "b")


def test_the_loss_on_random_masks_is_compared_since_the_masks_changed():
    resumptions = [Resumption(4, {"random_rate": (1, 2)}), Resumption(6, {"learning_rate": (1, 2)})]
    assert options_record.comparable_from(resumptions) == 4 and options_record.comparable_from([]) == 0


def test_the_model_that_a_run_started_from_stays_known():
    resumptions = [
        Resumption(4, {"model_name_or_path": ("a", "b")}),
        Resumption(6, {"model_name_or_path": ("b", "c")}),
    ]
    assert options_record.first_value(resumptions, "model_name_or_path") == "a"
    assert options_record.first_value(resumptions, "seed") is None
