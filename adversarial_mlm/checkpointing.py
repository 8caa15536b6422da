"""The saving and loading side of the trainer: what a checkpoint holds, and going on from one."""

import json
import os

import torch
from torch import nn
from transformers import PreTrainedModel

from . import checkpoints, model_card
from .checkpoints import NOISER_FOLDER

ARGUMENTS_FILE = "training_args.json"


class Checkpointing:
    """The half of [`AdversarialMLMTrainer`] that saves and loads. It is of no use alone."""

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Encoder and tokenizer at the root, the noiser in `noiser/`, the card, the arguments as JSON.

        The stock trainer's `training_args.bin` is not written: it is a pickle and may hold a token.
        """
        if not self.args.should_save:
            return
        output_dir = self.args.output_dir if output_dir is None else output_dir
        os.makedirs(output_dir, exist_ok=True)
        self.model.save_pretrained(output_dir, state_dict=state_dict)
        tokenizer = self.processing_class if self.processing_class is not None else self.data_collator.tokenizer
        tokenizer.save_pretrained(output_dir)
        if self.noiser is not None:
            self.noiser.save_pretrained(os.path.join(output_dir, NOISER_FOLDER))
        with open(os.path.join(output_dir, ARGUMENTS_FILE), "w", encoding="utf-8") as file:
            json.dump(self.args.to_dict(), file, indent=2, sort_keys=True, default=str)
        model_card.write(self, output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._reward is not None and self.args.should_save:
            self._reward.save(output_dir)

    def create_model_card(self, *args, **kwargs) -> None:
        """Write the card of this package into the output folder."""
        if self.is_world_process_zero():
            model_card.write(self, self.args.output_dir)

    def check_checkpoint(self, checkpoint: str) -> None:
        """Make sure that this run can go on from a checkpoint, without loading it.

        Raises:
            CheckpointError: See [`checkpoints.check_resumable`] and [`checkpoints.read_weights`].
        """
        self._check_states(checkpoint)
        self._read_networks(checkpoint)

    def _check_states(self, checkpoint: str) -> None:
        given = self.optimizer
        optimizer = self.create_optimizer()
        self.optimizer = given  # training makes its own when the networks are where they belong
        tokenizer, has_scaler = self.data_collator.tokenizer, self.accelerator.scaler is not None
        checkpoints.check_resumable(checkpoint, self.noiser, tokenizer, optimizer, has_scaler)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self._check_states(resume_from_checkpoint)
        self._load_networks(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._load_networks(self.state.best_model_checkpoint)
        self.loaded_best_step = self.state.best_global_step

    def _load_networks(self, checkpoint: str) -> None:
        states = self._read_networks(checkpoint)
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
            states["encoder"] = checkpoints.read_weights(checkpoint, self.model)
        if self.noiser is not None:
            states["noiser"] = checkpoints.read_weights(os.path.join(checkpoint, NOISER_FOLDER), self.noiser)
        return states
