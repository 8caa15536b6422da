import json
import logging

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from adversarial_mlm.training.callbacks import EpochMarker, MetricsLog, RewardTracker, ShortProteinsWarning, StepTimer
from adversarial_mlm.training.collapse import CollapseAlarm
from adversarial_mlm.training.metrics_log import Clock, MetricsFile
from adversarial_mlm.training.optimizer import LearningRateOf


@pytest.fixture
def args(tmp_path):
    return TrainingArguments(output_dir=str(tmp_path), use_cpu=True, logging_steps=10)


@pytest.fixture
def state():
    return TrainerState(global_step=3, max_steps=8, epoch=17.0, is_world_process_zero=True)


def entry(state: TrainerState, **logs) -> dict:
    """Log an entry as the stock trainer does."""
    state.log_history.append({**logs, "step": state.global_step})
    return logs


def test_the_epoch_is_that_of_the_data_and_a_streams_is_left_alone(args, state):
    EpochMarker(lambda updates: updates / 4).on_step_end(args, state, TrainerControl())
    assert state.epoch == 0.75
    EpochMarker(lambda updates: None).on_step_end(args, state, TrainerControl())
    assert state.epoch == 0.75


@pytest.mark.parametrize("rate", [0.5, torch.tensor(0.5)])
def test_the_rate_of_an_update_stays_when_the_schedule_moves_on(args, state, rate):
    encoder, noiser = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    groups = [{"params": network.parameters(), "lr": lr} for network, lr in ((encoder, 0.1), (noiser, rate))]
    optimizer = torch.optim.SGD(groups)
    tracker = LearningRateOf(noiser)
    assert tracker.latest != tracker.latest  # nan
    tracker.on_pre_optimizer_step(args, state, TrainerControl(), optimizer=optimizer)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.1 ** (step + 1))
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.05) and tracker.latest == 0.5


def test_the_time_of_a_step_ends_with_it(args, state):
    clock = Clock()
    clock.start("encoder")
    StepTimer(clock).on_step_end(args, state, TrainerControl())
    assert clock.read().keys() == {"encoder"}
    StepTimer(clock).on_step_end(args, state, TrainerControl())
    assert clock.read() == {}


@pytest.mark.parametrize(("resumed_at", "kept"), [(0, []), (2, [1, 2])])
def test_a_log_begins_anew_or_after_the_checkpoint(args, state, tmp_path, resumed_at, kept):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"loss": 1.0, "step": {step}}}\n' for step in (1, 2, 3)))
    state.global_step = resumed_at
    callback = MetricsLog(MetricsFile(str(path)))
    callback.on_train_begin(args, state, TrainerControl())
    state.global_step = 4
    callback.on_log(args, state, TrainerControl(), logs=entry(state, loss=0.5))
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [*kept, 4]


def test_counts_are_written_to_the_file_and_not_into_the_history(args, state, tmp_path):
    path = tmp_path / "metrics.jsonl"
    callback = MetricsLog(MetricsFile(str(path)), lambda: {"masks_by_position": [1, 2]})
    callback.on_log(args, state, TrainerControl(), logs=entry(state, loss=0.5))
    assert json.loads(path.read_text())["masks_by_position"] == [1, 2]
    assert "masks_by_position" not in state.log_history[-1]  # trackers and checkpoints


def test_the_last_updates_are_logged_whatever_the_interval(args, state, tmp_path):
    callback, control = MetricsLog(MetricsFile(str(tmp_path / "metrics.jsonl"))), TrainerControl()
    callback.on_step_end(args, state, control)
    assert not control.should_log
    state.global_step = state.max_steps
    callback.on_step_end(args, state, control)
    assert control.should_log


def test_processes_but_the_first_write_no_log(args, state, tmp_path):
    state.is_world_process_zero = False
    callback = MetricsLog(MetricsFile(str(tmp_path / "metrics.jsonl")))
    callback.on_log(args, state, TrainerControl(), logs=entry(state, loss=0.5))
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_reward_hears_of_every_update_and_whether_it_was_left_out(args, state):
    heard = []

    class Game:
        encoder = torch.nn.Linear(1, 1)

        class reward:
            after_encoder_update = staticmethod(lambda encoder, skipped: heard.append((encoder, bool(skipped))))

    skipped = iter([torch.tensor(False), torch.tensor(True)])
    callback = RewardTracker(Game, lambda: next(skipped))
    for _ in range(2):
        callback.on_step_end(args, state, TrainerControl())
    assert heard == [(Game.encoder, False), (Game.encoder, True)]


def test_short_proteins_of_a_stream_are_warned_of_once(args, state, caplog):
    callback = ShortProteinsWarning()
    with caplog.at_level(logging.WARNING):
        for short in (0, 2, 5):
            callback.on_log(args, state, TrainerControl(), logs=entry(state, loss=3.0, rows_without_mask=short))
    (message,) = caplog.messages
    assert message.startswith("2 proteins of the updates up to step 3 are so short")


@pytest.mark.parametrize("stop", [False, True])
def test_a_collapse_is_warned_of_once_and_stops_the_run_where_that_is_asked_for(args, state, caplog, stop):
    callback, control = CollapseAlarm("full", stop), TrainerControl()
    figures = {"random_loss_above_best": 0.3, "enrichment_max": 4.0}
    with caplog.at_level(logging.WARNING):
        callback.on_log(args, state, control, logs=entry(state, collapse=0.0, **figures))
        assert not control.should_training_stop
        for _ in range(2):
            callback.on_log(args, state, control, logs=entry(state, collapse=1.0, **figures))
    (message,) = caplog.messages
    assert message.startswith("collapse at step 3: the loss on random masks is 0.30 nats above its best")
    assert control.should_training_stop is stop
