"""The saving and loading side of the trainer: what a checkpoint holds, how it appears, and going on from one."""

import json
import logging
import os
import tempfile
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from adversarial_mlm.saving import checkpoint_manifest, checkpoint_store, model_card, resume
from adversarial_mlm.saving.run_files import ARGUMENTS_FILE, NOISER_FOLDER
from adversarial_mlm.utils import atomic_files, distributed
from adversarial_mlm.utils.errors import CheckpointError
from adversarial_mlm.utils.signals import GracefulStop

logger = logging.getLogger(__name__)


class Checkpointing:
    """The part of [`AdversarialMLMTrainer`] that saves, loads and stops. It is of no use alone.

    A checkpoint is written beside its place by process 0, with a manifest, and gets its name when it has reached the
    disk (see [`checkpoint_folders`]). One that cannot be written, for want of space say, is warned of and counted;
    training goes on, and the next save tries again.

    SIGTERM and SIGINT let [`train`] finish the update and save, whatever `save_strategy` says, and return.

    Attributes:
        interrupted_by (`signal.Signals`, *optional*): The signal by which the last call of [`train`] was stopped.
        last_checkpoint (`str`, *optional*): The checkpoint that was written last, or that training went on from.
        failed_saves (`int`): Checkpoints that could not be written.
    """

    interrupted_by = None
    last_checkpoint: str | None = None
    failed_saves = 0
    _read_ahead: tuple[str, dict] | None = None
    _stop: GracefulStop | None = None
    _saved_step: int | None = None

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        """Train as `Trainer.train` does.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): A checkpoint's folder, or `True` or `"latest"` for
                the newest complete one in `output_dir`.
            *args, **kwargs: As for `Trainer.train`.

        Returns:
            `TrainOutput`; if a signal stopped training, of the steps until then (see `interrupted_by`).

        Raises:
            CheckpointError: If the checkpoint is damaged or does not fit this run, or if there is none.
        """
        checkpoint = self._choose_checkpoint(resume_from_checkpoint)
        if self.is_world_process_zero():
            for name in checkpoint_store.remove_left_over(self.args.output_dir):
                logger.warning(f"the save of {name} was cut off; what it had left was removed")
        self.last_checkpoint, self._saved_step, self.interrupted_by = checkpoint, None, None
        self._stop = GracefulStop(self.args.ddp_timeout_delta)
        self.add_callback(self._stop)
        try:
            with self._stop.listening():
                output = super().train(checkpoint, *args, **kwargs)
        finally:
            self.remove_callback(self._stop)
            stop, self._stop = self._stop, None
        self.interrupted_by = stop.signal
        return output

    # ---- Saving ----

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Encoder and tokenizer at the root, the noiser in `noiser/`, the card, the arguments as JSON.

        The stock trainer's `training_args.bin` is not written: it is a pickle and may hold a token.
        """
        if self.args.should_save:
            with atomic_files.replacing_files(self.args.output_dir if output_dir is None else output_dir) as folder:
                self._write_model(folder, state_dict)

    def _write_model(self, folder: str, state_dict: dict | None = None) -> None:
        self.model.save_pretrained(folder, state_dict=state_dict)
        tokenizer = self.processing_class if self.processing_class is not None else self.data_collator.tokenizer
        tokenizer.save_pretrained(folder)
        if self.noiser is not None:
            self.noiser.save_pretrained(os.path.join(folder, NOISER_FOLDER))
        with open(os.path.join(folder, ARGUMENTS_FILE), "w", encoding="utf-8") as file:
            json.dump(self.args.to_dict(), file, indent=2, sort_keys=True, default=str)
        model_card.write(self.card_facts(), folder)

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        if self.hp_search_backend is None and trial is None:
            self.store_flos()
        run_folder = self._get_output_dir(trial=trial)
        folder = checkpoint_store.folder_of(run_folder, self.state.global_step)
        generators = {} if self.args.save_only_model else self._generators()
        failure, best = distributed.on_main_process(lambda: self._try_to_write(folder, generators))
        self.state.best_model_checkpoint = best
        self._saved_step = self.state.global_step
        if failure is not None:
            self._count_failed_save(folder, failure)
            return
        self.last_checkpoint = folder
        if self.args.push_to_hub:
            self._push_from_checkpoint(folder)
        if self.is_world_process_zero():
            self._rotate(run_folder)

    def _try_to_write(self, folder: str, generators: dict[str, bytes | str]) -> tuple[str | None, str | None]:
        """Write a checkpoint on process 0.

        Returns:
            `str`, why that failed, and `str`, the checkpoint of the best model.
        """
        staging, best_before = checkpoint_store.staging_of(folder), self.state.best_model_checkpoint
        try:
            checkpoint_store.discard(staging)
            os.makedirs(staging)
            self._note_best(folder)
            self._write_checkpoint(staging, generators)
            checkpoint_manifest.write(
                staging,
                step=self.state.global_step,
                number=checkpoint_store.next_number(os.path.dirname(folder)),
                processes=self.args.world_size,
            )
            checkpoint_store.publish(staging, folder)
        except atomic_files.ERRORS as error:
            if not atomic_files.is_about_writing(error):
                raise
            failure = atomic_files.reason(error, staging)
            checkpoint_store.discard(staging)  # so that there is room for the log, and the next try
            self.state.best_model_checkpoint = best_before
            return failure, best_before
        return None, self.state.best_model_checkpoint

    def _write_checkpoint(self, folder: str, generators: dict[str, bytes | str]) -> None:
        """Everything but the manifest; as `Trainer._save_checkpoint` does."""
        self._write_model(folder)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(folder)
            self._save_scaler(folder)
        for name, content in generators.items():
            if isinstance(content, str):
                raise OSError(content)
            Path(folder, name).write_bytes(content)
        for callback in (*self.callback_handler.callbacks, self.control):
            if isinstance(callback, ExportableState):
                name, states = type(callback).__name__, self.state.stateful_callbacks
                if isinstance(states[name], list):
                    states[name].append(callback.state())
                else:
                    states[name] = callback.state()
        self.state.save_to_json(os.path.join(folder, TRAINER_STATE_NAME))

    def _generators(self) -> dict[str, bytes | str]:
        """The states of the random generators of all processes: name of a file → content, or why there is none.

        They are gathered, so that one process alone writes into the run's folder, on whatever machine the others are.
        """
        try:
            with tempfile.TemporaryDirectory() as folder:
                self._save_rng_state(folder)
                own = {path.name: path.read_bytes() for path in Path(folder).iterdir()}
        except atomic_files.ERRORS as error:
            if not atomic_files.is_about_writing(error):
                raise
            reason = atomic_files.reason(error, tempfile.gettempdir())
            own = {f"rng_state_{self.args.process_index}.pth": f"{reason} in {tempfile.gettempdir()}"}
        return {name: content for files in distributed.gather(own) for name, content in files.items()}

    def _note_best(self, folder: str) -> None:
        if not self.state.best_global_step:
            return
        best = checkpoint_store.folder_of(os.path.dirname(folder), self.state.best_global_step)
        if best == folder or os.path.isdir(best):
            self.state.best_model_checkpoint = best

    def _count_failed_save(self, folder: str, failure: str) -> None:
        self.failed_saves += 1
        if self.is_world_process_zero():
            kept = f"{self.last_checkpoint} stays" if self.last_checkpoint else "there is no earlier one"
            logger.warning(
                f"the checkpoint {folder} could not be written ({failure}); {kept}, training goes on, and the next "
                "save tries again"
            )

    def _rotate(self, run_folder: str) -> None:
        try:
            checkpoint_store.rotate(run_folder, self.args.save_total_limit, self.state.best_model_checkpoint)
        except OSError as error:
            logger.warning(f"old checkpoints in {run_folder} could not be removed ({error.strerror or error})")

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._reward is not None and self.args.should_save:
            self._reward.save(output_dir)

    def create_model_card(self, *args, **kwargs) -> None:
        """Write the card of this package into the output folder."""
        if self.is_world_process_zero():
            model_card.write(self.card_facts(), self.args.output_dir)

    # ---- Stopping ----

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args, **kwargs) -> None:
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        if self._stop.signal is None:
            return
        if self._saved_step != self.state.global_step:
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        self.control.should_training_stop = True  # after the save, as a checkpoint keeps the control, too

    def _run_epoch(self, *args, **kwargs) -> None:
        if self.state.global_step >= self.state.max_steps:
            # gone on from its last checkpoint; the stock loop would make one more update
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _finalize_training(self, *args, **kwargs):
        # with a limit of 1 the stock trainer would now remove the newest checkpoint in favour of the best
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            output = super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit
        if self.failed_saves and self.is_world_process_zero():
            logger.warning(f"{self.failed_saves} checkpoints could not be written")
        return output

    # ---- Going on ----

    def _choose_checkpoint(self, wanted: str | bool | None) -> str | None:
        if wanted is None or wanted is False:
            return None
        if self._read_ahead is not None and self._read_ahead[0] == wanted:
            return wanted  # checked a moment ago
        choose = latest_checkpoint if is_latest(wanted) else named_checkpoint
        folder = self.args.output_dir if is_latest(wanted) else wanted
        checkpoint = distributed.on_main_process(lambda: choose(folder))
        self._check_everyone_has(checkpoint)
        return checkpoint

    def check_checkpoint(self, checkpoint: str) -> None:
        """Make sure that this run can go on from a checkpoint whose manifest was verified, without loading it.

        Its weights are kept for [`train`], which so need not read them again.

        Raises:
            CheckpointError: See [`resume.check_resumable`] and [`resume.read_weights`].
        """
        self._check_everyone_has(checkpoint)
        self._check_states(checkpoint)
        self._read_ahead = (checkpoint, self._read_networks(checkpoint))

    def _check_everyone_has(self, checkpoint: str) -> None:
        path = Path(checkpoint, TRAINER_STATE_NAME)
        contents = distributed.gather(path.read_bytes() if path.is_file() else b"")
        others = [rank for rank, content in enumerate(contents) if content != contents[0]]
        if others:
            raise CheckpointError(
                f"the checkpoint {checkpoint} is not there, or another one, for process {others[0]}: all machines "
                "must see the same one, in a shared folder or as copies"
            )

    def _check_states(self, checkpoint: str) -> None:
        given = self.optimizer
        optimizer = self.create_optimizer()
        self.optimizer = given  # training makes its own when the networks are where they belong
        tokenizer, has_scaler = self.data_collator.tokenizer, self.accelerator.scaler is not None
        resume.check_resumable(checkpoint, self.noiser, tokenizer, optimizer, has_scaler)
        self._say_other_processes(checkpoint)

    def _say_other_processes(self, checkpoint: str) -> None:
        if not checkpoint_manifest.has_manifest(checkpoint) or not self.is_world_process_zero():
            return
        then, now = checkpoint_manifest.read(checkpoint)["processes"], self.args.world_size
        if then != now:
            logger.warning(
                f"the checkpoint {checkpoint} was written by {then} processes and this run has {now}: it goes on with "
                "other dropout, and with the same batches only if batch × accumulation × processes is the same"
            )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        read_ahead, self._read_ahead = self._read_ahead, None
        if read_ahead is not None and read_ahead[0] == resume_from_checkpoint:
            self._load_networks(resume_from_checkpoint, read_ahead[1])
            return
        self._check_states(resume_from_checkpoint)
        self._load_networks(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._load_networks(self.state.best_model_checkpoint)
        self.loaded_best_step = checkpoint_store.step_of(self.state.best_model_checkpoint)

    def _load_networks(self, checkpoint: str, states: dict[str, dict[str, torch.Tensor]] | None = None) -> None:
        states = self._read_networks(checkpoint) if states is None else states
        if "encoder" in states:
            self.model.load_state_dict(states["encoder"])
        else:
            super()._load_from_checkpoint(checkpoint)
        if self.noiser is not None:
            self.noiser.load_state_dict(states["noiser"])

    def _read_networks(self, checkpoint: str) -> dict[str, dict[str, torch.Tensor]]:
        """States of `encoder` and `noiser` in a checkpoint; adapters are left to the stock trainer."""
        states = {}
        if isinstance(self.model, PreTrainedModel):
            states["encoder"] = resume.read_weights(checkpoint, self.model)
        if self.noiser is not None:
            states["noiser"] = resume.read_weights(os.path.join(checkpoint, NOISER_FOLDER), self.noiser)
        return states


def is_latest(wanted: str | bool) -> bool:
    """Whether `resume_from_checkpoint` asks for the newest checkpoint: `latest` or `true`."""
    return str(wanted).lower() in ("latest", "true")


def latest_checkpoint(run_folder: str) -> str:
    """The newest complete checkpoint of a run; says which later ones it passes over, and why.

    Raises:
        CheckpointError: If there is none.
    """
    checkpoint, passed_over = checkpoint_store.newest_complete(run_folder)
    if checkpoint is None and passed_over:
        raise CheckpointError(f"there is no complete checkpoint in {run_folder}: {'; '.join(passed_over)}")
    if checkpoint is None:
        raise CheckpointError(f"there is no checkpoint in {run_folder}")
    for reason in passed_over:
        logger.warning(f"passed over: {reason}")
    logger.info(f"going on from {checkpoint}, the newest complete checkpoint")
    return checkpoint


def named_checkpoint(folder: str) -> str:
    """A checkpoint that was asked for by its name, after a look at its manifest; one without it is taken with a word.

    Raises:
        CheckpointError: If there is none, or if it is damaged.
    """
    checkpoint_store.recover(os.path.dirname(os.path.abspath(folder)))
    if not os.path.isdir(folder):
        raise CheckpointError(f"there is no such folder as {folder}")
    if checkpoint_manifest.has_manifest(folder):
        checkpoint_manifest.verify(folder)
    else:
        logger.warning(
            f"the checkpoint {folder} has no {checkpoint_manifest.MANIFEST_FILE}, as one of an earlier version or "
            "another tool; whether it is complete cannot be told"
        )
    return folder
