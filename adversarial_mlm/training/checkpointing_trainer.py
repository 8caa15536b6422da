"""A trainer whose runs survive: atomic checkpoints, exact resuming, signals that save, one commit for every push.

It knows nothing of the game. [`AdversarialMLMTrainer`] is built on it.
"""

import logging
import signal
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_utils import SaveStrategy, compare_trainer_and_checkpoint_args

from adversarial_mlm.masking.data_collator import DataCollatorForRandomMLM
from adversarial_mlm.models.adapters import load_weights as load_adapter
from adversarial_mlm.models.modeling_noiser import NoiserModel
from adversarial_mlm.saving import checkpoint_contents, options_record, resume
from adversarial_mlm.saving.checkpoint_store import CheckpointStore, is_latest, named_checkpoint, step_of
from adversarial_mlm.saving.hub import HubUploader
from adversarial_mlm.saving.options_record import OptionsRecord, Resumption
from adversarial_mlm.saving.run_files import MERGED_FOLDER, output_folder
from adversarial_mlm.training.optimizer import hyperparameters, set_hyperparameters
from adversarial_mlm.training.precision import apply_tf32
from adversarial_mlm.training.run_options import identity_of_data
from adversarial_mlm.utils import atomic_files, distributed
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import NonFiniteError
from adversarial_mlm.utils.signals import GracefulStop

logger = logging.getLogger(__name__)


class CheckpointingTrainer(Trainer):
    """Saves, resumes and pushes an encoder and, where there is one, a noiser.

    A checkpoint is atomic: process 0 writes it into a hidden folder with a manifest, and renames the folder when its
    content is on the disk. If a checkpoint cannot be written (for lack of space, for example), the trainer warns and
    counts it, continues training, and tries again at the next save. SIGTERM and SIGINT let [`train`] finish the
    update, save (whatever `save_strategy` says), and return.

    A subclass writes its card in `_write_card`, and more files of a checkpoint in `_save_more`.

    Args:
        noiser ([`NoiserModel`], *optional*): Saved and loaded together with the encoder.
        args (`TrainingArguments`): Arguments.
        **kwargs: As for `transformers.Trainer`.

    Attributes:
        store ([`CheckpointStore`]): The checkpoints in `output_dir`.
        uploads ([`HubUploader`]): The pushes.
        interrupted_by (`signal.Signals`, *optional*): The signal that stopped the last call of [`train`].
        last_checkpoint (`str`, *optional*): The checkpoint that was written last, or from which training resumed.
        failed_saves (`int`): Checkpoints that could not be written.
        loaded_best_step (`int`, *optional*): Step of the best checkpoint, if it was loaded at the end.
        saved_files (`list[str]`): Paths of the files that the last [`save_model`] wrote into its folder.
        merge_adapter (`bool`): Whether [`save_model`] also writes encoder and adapter as one model into `merged/`.
        resumptions (`list[Resumption]`): Where this run was resumed with other options than before.
    """

    # the stock trainer declares these as anything that it can be given
    model: PreTrainedModel
    data_collator: DataCollatorForRandomMLM
    processing_class: PreTrainedTokenizerBase | None
    hub_model_id: str | None  # type: ignore[assignment]  # upstream only says None

    def __init__(self, noiser: NoiserModel | None, args: TrainingArguments, **kwargs):
        self.noiser = noiser
        self.store = CheckpointStore(output_folder(args))
        self.uploads = HubUploader(args)  # the stock trainer makes the repository ready at once
        self.interrupted_by: signal.Signals | None = None
        self.last_checkpoint: str | None = None
        self.loaded_best_step: int | None = None
        self.failed_saves = 0
        self.saved_files: list[str] = []
        self.merge_adapter = False
        self.resumptions: list[Resumption] = []
        self._resumed = OptionsRecord({})  # what the checkpoint tells from which training resumes
        self._starts_best_anew = False
        self._own_hyperparameters: list[dict] = []
        self._read_ahead: tuple[str, dict] | None = None  # a checkpoint and its weights
        self._stop: GracefulStop | None = None  # while training
        self._saved_step: int | None = None
        super().__init__(args=args, **kwargs)
        self._optimizer_is_given = self.optimizer is not None

    def run_options(self) -> dict[str, Any]:
        """All options of the run, for its checkpoints."""
        return self.args.to_dict()

    def _write_card(self, folder: str) -> None:
        """Write a model card into a folder."""

    def _save_more(self, folder: str) -> None:
        """Write what else a resumed run needs into a checkpoint."""

    # ---- The run ----

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
        if checkpoint is None:
            self.resumptions, self._resumed, self._starts_best_anew = [], OptionsRecord({}), False
        if self.is_world_process_zero():
            for name in self.store.remove_left_over():
                logger.warning(f"the save of {name} was interrupted; its incomplete folder was removed")
        self.last_checkpoint, self._saved_step, self.interrupted_by = checkpoint, None, None
        stop = self._stop = GracefulStop(self.args.ddp_timeout_delta)
        self.add_callback(stop)
        apply_tf32(self.args)
        try:
            with stop.listening():
                output = super().train(checkpoint, *args, **kwargs)
        finally:
            self.remove_callback(stop)
            self._stop = None
        self.interrupted_by = stop.signal
        return output

    def _init_training_state(self, max_steps, *args):
        # Stock: takes the whole state from the checkpoint, also logging_steps, eval_steps, save_steps and the batch
        # size, and warns of changes. Changed: the options of this run count.
        stock_log = logging.getLogger(compare_trainer_and_checkpoint_args.__module__)
        stock_log.addFilter(_is_not_about_options)
        try:
            begin = super()._init_training_state(max_steps, *args)
        finally:
            stock_log.removeFilter(_is_not_about_options)
        self.state.compute_steps(self.args, max_steps)
        self.state.train_batch_size = self._train_batch_size
        if self._starts_best_anew and self.state.best_metric is not None:
            self.state.best_metric = self.state.best_model_checkpoint = self.state.best_global_step = None
            if self.is_world_process_zero():
                logger.warning("the evaluation has changed, so the best checkpoint is chosen anew")
        return begin

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        # Stock: makes optimizer and schedule where there are none, and loads their states with their old options.
        # Changed: the options of this run count, except for a schedule that the user has passed.
        if resume_from_checkpoint is not None and not self._optimizer_is_given:
            self.optimizer = None  # of an earlier call
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if resume_from_checkpoint is not None and self._created_lr_scheduler:
            assert self.optimizer is not None and self.lr_scheduler is not None  # the stock method has made them
            set_hyperparameters(self.optimizer, self.lr_scheduler, self._own_hyperparameters)
        return prepared

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """As in `Trainer`; notes the options of the optimizer before a checkpoint is loaded into it."""
        optimizer = self.optimizer if optimizer is None else optimizer
        assert optimizer is not None  # as in the stock method, it has been made
        self._own_hyperparameters = hyperparameters(optimizer)
        return super().create_scheduler(num_training_steps, optimizer)

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args, **kwargs) -> None:
        # Stock: logs, evaluates and saves when due. Added: save and stop after a signal. A callback cannot do that,
        # because with `save_strategy: best` the stock method sets `should_save` itself.
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        if self._stop is None or self._stop.signal is None:
            return
        if self._saved_step != self.state.global_step:
            self._save_checkpoint(model, trial)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        self.control.should_training_stop = True  # after the save, because a checkpoint keeps the control, too

    def _finalize_training(self, *args, **kwargs):
        # Stock: logs the mean loss, loads the best model, removes checkpoints. Changed: our own store removes them,
        # because with a limit of 1 the stock trainer keeps the best and not the newest. Added: wait for the pushes.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            output = super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit = limit
        self.uploads.finish(is_stopped=lambda: self._stop is not None and self._stop.received)
        if self.failed_saves and self.is_world_process_zero():
            logger.warning(f"{count(self.failed_saves, 'checkpoint')} could not be written")
        return output

    # ---- Saving ----

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write encoder and tokenizer, the noiser in `noiser/`, the card, and the arguments as JSON; all or nothing.

        The stock trainer's `training_args.bin` is not written: it is a pickle and may hold a token.

        Args:
            output_dir (`str`, *optional*): Defaults to `output_dir` of the arguments.
        """
        target = output_folder(self.args) if output_dir is None else output_dir
        if self.args.should_save:
            with atomic_files.replacing_files(target) as folder:
                self._write_model(folder, with_merged=self.merge_adapter)
                paths = [path for path in Path(folder).rglob("*") if path.is_file()]
                self.saved_files = sorted(path.relative_to(folder).as_posix() for path in paths)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def check_weights(self) -> None:
        """Make sure that the weights are finite, as they are to be saved.

        A run of few updates can end with others: the update that spoils them is itself made, and those after it are
        left out.

        Raises:
            NonFiniteError: Naming a tensor that is not.
        """
        networks = {"encoder": self.model} | ({} if self.noiser is None else {"noiser": self.noiser})
        for kind, network in networks.items():
            for name, tensor in network.state_dict().items():
                if not torch.isfinite(tensor).all():
                    raise NonFiniteError(
                        f"the weights of the {kind} are not finite after step {self.state.global_step} ({name}), and "
                        "were not saved; a lower learning rate may help"
                    )

    def _write_model(self, folder: str, with_merged: bool = False) -> None:
        tokenizer = self.processing_class if self.processing_class is not None else self.data_collator.tokenizer
        max_length = self.data_collator.sequence_encoder.max_length
        checkpoint_contents.write_networks(folder, self.model, tokenizer, self.noiser, self.args.to_dict(), max_length)
        if with_merged:
            checkpoint_contents.write_merged(str(Path(folder, MERGED_FOLDER)), self.model, tokenizer, max_length)
        self._write_card(folder)

    def create_model_card(self, *args, **kwargs) -> None:
        """Write the card of this package into the output folder."""
        if self.is_world_process_zero():
            self._write_card(output_folder(self.args))

    def _save_checkpoint(self, model: nn.Module, trial) -> None:
        # Stock: every process writes its part into the checkpoint's folder. Replaced: process 0 writes all into a
        # hidden folder with a manifest, then renames it. A failure is counted, and training continues.
        if self.hp_search_backend is None and trial is None:
            self.store_flos()
        store, step = CheckpointStore(self._get_output_dir(trial=trial)), self.state.global_step
        generators = {}
        if not self.args.save_only_model:
            generators = checkpoint_contents.generator_states(self._save_rng_state, self.args.process_index)
        failure, best = distributed.on_main_process(lambda: self._write_checkpoint(store, step, generators))
        self.state.best_model_checkpoint = best
        self._saved_step = step
        if failure is not None:
            self._count_failed_save(store.folder_of(step), failure)
            return
        self.last_checkpoint = folder = store.folder_of(step)
        if self.args.push_to_hub and self.is_world_process_zero():
            self._push_checkpoint(folder)
        if self.is_world_process_zero():
            store.rotate(self.args.save_total_limit, self.state.best_model_checkpoint)

    def _write_checkpoint(
        self, store: CheckpointStore, step: int, generators: dict[str, bytes | str]
    ) -> tuple[str | None, str | None]:
        """Write a checkpoint; returns why that failed, if it did, and the checkpoint of the best model."""
        best_before = self.state.best_model_checkpoint

        def fill(folder: str) -> None:
            if self.state.best_global_step and store.will_have(self.state.best_global_step, step):
                self.state.best_model_checkpoint = store.folder_of(self.state.best_global_step)
            self._write_model(folder)
            if not self.args.save_only_model:
                self._save_optimizer_and_scheduler(folder)
                self._save_scaler(folder)
                self._save_more(folder)
                options_record.write(
                    folder, OptionsRecord(self.run_options(), self._identity_of_data(), tuple(self.resumptions))
                )
            callbacks = [*self.callback_handler.callbacks, self.control]
            checkpoint_contents.write_state(folder, self.state, callbacks, generators)

        failure = store.write(step, fill, processes=self.args.world_size)
        if failure is not None:
            self.state.best_model_checkpoint = best_before
        return failure, self.state.best_model_checkpoint

    def _count_failed_save(self, folder: str, failure: str) -> None:
        self.failed_saves += 1
        if self.is_world_process_zero():
            kept = f"{self.last_checkpoint} is kept" if self.last_checkpoint else "there is no earlier one"
            logger.warning(
                f"the checkpoint {folder} could not be written ({failure}); {kept}, training continues, and the next "
                "save tries again"
            )

    # ---- Resuming ----

    def _choose_checkpoint(self, wanted: str | bool | None) -> str | None:
        if wanted is None or wanted is False:
            return None
        if self._read_ahead is not None and self._read_ahead[0] == wanted:
            return self._read_ahead[0]  # checked a moment ago
        choose = self.store.latest if is_latest(wanted) else lambda: named_checkpoint(str(wanted))
        checkpoint = distributed.on_main_process(choose)
        resume.check_everyone_has(checkpoint)
        return checkpoint

    def check_checkpoint(self, checkpoint: str) -> None:
        """Make sure that this run can resume from a checkpoint whose manifest was verified.

        The weights are read and kept for [`train`].

        Raises:
            CheckpointError: See [`resume.check_resumable`] and [`resume.read_weights`].
        """
        resume.check_everyone_has(checkpoint)
        self._check_states(checkpoint)
        self._read_ahead = (checkpoint, resume.read_networks(checkpoint, self.model, self.noiser))

    def _identity_of_data(self) -> dict[str, Any]:
        return identity_of_data(self.train_dataset, self.eval_dataset)

    def _planned_updates(self) -> int:
        if self.args.max_steps > 0:
            return self.args.max_steps
        return self.set_initial_training_values(self.args, self.get_train_dataloader())[-1]

    def _check_states(self, checkpoint: str) -> None:
        record = options_record.read(checkpoint)
        changes = options_record.check(checkpoint, record.options, self.run_options())
        changes, other_held_out = options_record.check_data(checkpoint, record.data, self._identity_of_data(), changes)
        given = self.optimizer
        optimizer = self.create_optimizer()
        self.optimizer = given  # training makes its own when the networks are where they belong
        tokenizer, has_scaler = self.data_collator.tokenizer, self.accelerator.scaler is not None
        step = resume.check_resumable(checkpoint, self.noiser, tokenizer, optimizer, has_scaler)
        options_record.check_updates(checkpoint, step, self._planned_updates(), changes)
        options_record.report(checkpoint, record.options, changes)
        told = options_record.listed(changes)
        self.resumptions = [*record.resumptions, *([Resumption(step, told)] if told else [])]
        metric = self.args.metric_for_best_model
        self._resumed = record
        self._starts_best_anew = other_held_out or options_record.forgets_best(changes, metric)
        if self.is_world_process_zero():
            resume.warn_of_other_processes(checkpoint, self.args.world_size)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # Stock: loads those weights of the encoder that fit. Replaced: all tensors of both networks.
        read_ahead, self._read_ahead = self._read_ahead, None
        if read_ahead is not None and read_ahead[0] == resume_from_checkpoint:
            self._load_networks(resume_from_checkpoint, read_ahead[1])
            return
        self._check_states(resume_from_checkpoint)
        self._load_networks(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        # Stock: loads those weights of the encoder that fit. Replaced: all tensors of both networks.
        best = self.state.best_model_checkpoint
        if best is not None:  # as the stock trainer has made sure
            self._load_networks(best)
            self.loaded_best_step = step_of(best)

    def _load_networks(self, checkpoint: str, states: dict[str, dict[str, torch.Tensor]] | None = None) -> None:
        states = resume.read_networks(checkpoint, self.model, self.noiser) if states is None else states
        if "encoder" in states:
            self.model.load_state_dict(states["encoder"])
        elif "adapter" in states:
            load_adapter(f"the checkpoint {checkpoint} has an adapter", self.model, states["adapter"])
        else:
            super()._load_from_checkpoint(checkpoint)
        if self.noiser is not None:
            self.noiser.load_state_dict(states["noiser"])

    # ---- The Hub ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository where there is none, and make sure that the token may write to it.

        Raises:
            ValueError: If it may not, if the repository's name is not possible, or if the Hub cannot be used.
        """
        if self.is_world_process_zero():
            self.hub_model_id = None
            self.hub_model_id = self.uploads.create_repo(token=token, private=private)

    def push_to_hub(  # type: ignore[override]  # upstream does not declare that it may return a future or None
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> CommitInfo | Future | None:
        """Save the networks as they are into `output_dir`, and send what is there to the Hub in one commit.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`): Of the commit.
            blocking (`bool`, *optional*, defaults to `True`): Whether to wait for the end of the upload.
            token (`str`, *optional*): Defaults to `hub_token`, and that to the one of `hf auth login`.
            revision (`str`, *optional*): The branch; defaults to `hub_revision`, and that to `main`.
            private (`bool`, *optional*): Whether a new repository is private; defaults to `hub_private_repo`.

        Returns:
            `CommitInfo`, or a `Future` of it if not `blocking`; `None` on all processes but the first.

        Raises:
            ValueError: If there was no `push_to_hub` in the arguments, and the repository cannot be made ready.
            PushError: If the push fails; the files in `output_dir` are then complete. If not `blocking` it is the
                future that raises it.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        return self.push_output_dir(commit_message, blocking=blocking, token=token, revision=revision)

    def push_output_dir(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
    ) -> CommitInfo | Future | None:
        """As [`push_to_hub`], but without saving first: for an `output_dir` that was saved and then added to."""
        if not self.is_world_process_zero():
            return None
        return self.uploads.push_output_dir(commit_message, blocking=blocking, token=token, revision=revision)

    def _push_checkpoint(self, checkpoint: str) -> None:
        by_steps = self.args.save_strategy == SaveStrategy.STEPS
        step = self.state.global_step
        when = f"step {step}" if by_steps else f"epoch {int(self.state.epoch)}"
        if self.uploads.push_checkpoint(checkpoint, step, f"Training in progress, {when}"):
            self.callback_handler.on_push_begin(self.args, self.state, self.control)


def _is_not_about_options(record: logging.LogRecord) -> bool:
    """Whether a log record is not the stock warning about options that differ; we report what each of them means."""
    return "arguments do not match" not in record.getMessage()
