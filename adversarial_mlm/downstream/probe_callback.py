"""Frozen probes of the encoder during pre-training."""

import logging
import time
from collections.abc import Sequence
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

from adversarial_mlm.downstream.probes import ProbeSettings, probe
from adversarial_mlm.downstream.scoring import headline_name, headline_score
from adversarial_mlm.downstream.tasks import TASKS, load_task

logger = logging.getLogger(__name__)


class ProbeCallback(TrainerCallback):
    """Fit a frozen probe on tasks at regular intervals, and log its metric on valid.

    The metrics are logged as `probe_<task>_<metric>`, such as `probe_fluorescence_spearman`, with `probe_seconds`.
    Trackers and `metrics.jsonl` get them like any other. They are computed on valid; test sets are not used. The first
    process does the work and the others wait. Training is not affected: no random number is drawn, and modules return
    to their mode.

    Args:
        trainer ([`AdversarialMLMTrainer`]): The trainer of the encoder.
        tasks (`Sequence[str]`): Names of TAPE's tasks.
        data_dir (`str`): The folder with their data.
        every (`int`, defaults to 1000): Encoder updates between two probes.
        max_records (`int`, defaults to 1000): Maximum number of records of each split.
        max_length (`int`, *optional*): Tokens that the encoder reads at once; by default its tokenizer's limit.

    Raises:
        [`CorpusError`]: If a task is unknown, or its data cannot be read.
        ValueError: If `every` or `max_records` is not positive.
    """

    def __init__(
        self,
        trainer: Trainer,
        tasks: Sequence[str],
        data_dir: str,
        every: int = 1000,
        max_records: int = 1000,
        max_length: int | None = None,
    ):
        for name, value in (("every", every), ("max_records", max_records)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.trainer, self.every = trainer, every
        tokenizer = trainer.processing_class or getattr(trainer.data_collator, "tokenizer", None)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError("the trainer has no tokenizer: give it one as processing_class")
        self.tokenizer = tokenizer
        self.settings = ProbeSettings(max_length=max_length)
        self.data = {}
        for task in tasks:
            data = load_task(task, data_dir, max_records=max_records)
            # test sets are not encoded
            data.splits = {split: data.splits[split] for split in ("train", "valid")}
            self.data[task] = data

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Fit the probes if the step is a multiple of `every`."""
        if state.global_step % self.every:
            return
        accelerator = self.trainer.accelerator
        clock = getattr(self.trainer, "_clock", None)
        if clock is not None:
            clock.stop("encoder")  # the time of the probes is not the encoder's
        figures: list[Any] = [self._figures() if accelerator.is_main_process else None]
        if accelerator.num_processes > 1:
            broadcast_object_list(figures)
        wants_log = control.should_log
        self.trainer.log(figures[0])
        control.should_log = wants_log  # `log` resets it

    def _figures(self) -> dict[str, float]:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        modes = {module: module.training for module in model.modules()}
        model.eval()
        began = time.monotonic()
        figures = {}
        for name, data in self.data.items():
            result = probe(data, model.base_model, self.tokenizer, self.settings)
            labels = data.splits["valid"]["label"][:]
            score = headline_score(data.task.kind, result.predictions["valid"], labels)
            figures[f"probe_{name}_{headline_name(data, 'valid')}"] = score
        for module, training in modes.items():
            module.training = training
        figures["probe_seconds"] = time.monotonic() - began
        return figures


def check_options(
    tasks: Sequence[str], data_dir: str | None, every: int | None, max_records: int | None, prefix: str = "probe_"
) -> None:
    """Check that the probe options of a recipe fit together.

    Raises:
        ValueError: If they do not.
    """
    given = {"data_dir": data_dir, "steps": every, "max_records": max_records}
    if not tasks:
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{prefix}{name} is given, but there are no {prefix}tasks: set them, or remove it")
        return
    for task in tasks:
        if task not in TASKS:
            raise ValueError(f"{prefix}tasks names {task}, but must be among {', '.join(TASKS)}")
    if len(set(tasks)) < len(tasks):
        raise ValueError(f"{prefix}tasks names a task twice: {', '.join(tasks)}")
    if data_dir is None:
        raise ValueError(
            f"{prefix}tasks is given, but {prefix}data_dir is missing: set it to the folder with their data"
        )
    for name, number in (("steps", every), ("max_records", max_records)):
        if number is not None and number < 1:
            raise ValueError(f"{prefix}{name} must be at least 1, got {number}")
