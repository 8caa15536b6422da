"""Callbacks of a pre-training run; others are in `collapse`, `optimizer` and `utils.signals`."""

import logging
from collections.abc import Callable

import torch
from transformers import TrainerCallback

from adversarial_mlm.training.metrics_log import Clock, MetricsFile
from adversarial_mlm.training.noiser_game import NoiserGame
from adversarial_mlm.training.teacher import Teacher
from adversarial_mlm.utils.counts import count, verb

logger = logging.getLogger(__name__)


class EpochMarker(TrainerCallback):
    """Corrects `state.epoch`, which the stock trainer counts in passes of its loop.

    Args:
        epochs_after (`Callable[[int], float | None]`): Epochs of the data that so many updates have read; `None` for a
            stream, whose epochs stay as the stock trainer counts them.
    """

    def __init__(self, epochs_after: Callable[[int], float | None]):
        self.epochs_after = epochs_after

    def on_step_end(self, args, state, control, **kwargs):
        epoch = self.epochs_after(state.global_step)
        if epoch is not None:
            state.epoch = epoch


class StepTimer(TrainerCallback):
    """Ends the time of the encoder's update, before other callbacks and evaluations take theirs.

    Args:
        clock ([`Clock`]): Its phase `encoder` is stopped.
    """

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_step_end(self, args, state, control, **kwargs):
        self.clock.stop("encoder")


class MetricsLog(TrainerCallback):
    """Writes every log entry to `metrics.jsonl`, and has the last updates logged if `logging_steps` would not.

    Args:
        file ([`MetricsFile`]): The file.
        counts (`Callable[[], dict]`, *optional*): More for the newest entry, which trackers do not understand.
    """

    def __init__(self, file: MetricsFile, counts: Callable[[], dict] = dict):
        self.file, self.counts = file, counts

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.file.begin(state.global_step or None)

    def on_step_end(self, args, state, control, **kwargs):
        if args.logging_strategy == "steps" and state.global_step >= state.max_steps:
            control.should_log = True

    def on_log(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            self.file.append(state.log_history[-1] | self.counts())


class RewardTracker(TrainerCallback):
    """Tells the noiser's reward of every update of the encoder; a slow copy of the encoder follows it.

    Args:
        game ([`NoiserGame`]): Has the reward and the encoder.
        skipped (`Callable[[], torch.Tensor]`): Whether the latest update was left out.
    """

    def __init__(self, game: NoiserGame, skipped: Callable[[], torch.Tensor]):
        self.game, self.skipped = game, skipped

    def on_step_end(self, args, state, control, **kwargs):
        self.game.reward.after_encoder_update(self.game.encoder, self.skipped())


class Follower(TrainerCallback):
    """Tells a teacher of every update of the encoder.

    Args:
        teacher ([`Teacher`]): The teacher.
        encoder (`nn.Module`): The encoder.
        skipped (`Callable[[], torch.Tensor]`): Whether the latest update was left out.
    """

    def __init__(self, teacher: Teacher, encoder: torch.nn.Module, skipped: Callable[[], torch.Tensor]):
        self.teacher, self.encoder, self.skipped = teacher, encoder, skipped

    def on_step_end(self, args, state, control, **kwargs):
        self.teacher.after_encoder_update(self.encoder, self.skipped())


class ShortProteinsWarning(TrainerCallback):
    """Warns once of proteins in a stream that are too short for any mask; `rows_without_mask` in the log counts them.

    For a dataset whose lengths are known the recipe warns before training.
    """

    def __init__(self):
        self._warned = False

    def on_log(self, args, state, control, logs=None, **kwargs):
        short = (logs or {}).get("rows_without_mask", 0)
        if not short or self._warned or "loss" not in logs:
            return
        self._warned = True
        if state.is_world_process_zero:
            short = round(short)
            logger.warning(
                f"{count(short, 'protein')} of the updates up to step {state.global_step} {verb(short, 'is', 'are')} "
                f"so short that no residue of {verb(short, 'it', 'them')} is masked; `rows_without_mask` in the log "
                "counts them"
            )
