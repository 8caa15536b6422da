"""A rehearsal of the start of training, before anything of an earlier run is touched.

Libraries find out late that an option has a value they do not take. A loader does so when its first batch is asked
for, an optimizer and a schedule when they are made. Here all of them are made once and given up again.
"""

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedModel

from adversarial_mlm.recipes.refusals import explained
from adversarial_mlm.training.trainer import AdversarialMLMTrainer
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.utils.errors import AdversarialMLMError, RecipeError
from adversarial_mlm.utils.options import defaults_of

# which options are read where; a message names those of them that are set
_OF_LOADERS = ("dataloader_", "per_device_")
_OF_OPTIMIZER = ("optim", "adam_", "learning_rate", "weight_decay", "noiser_learning_rate", "noiser_weight_decay")
_OF_SCHEDULE = ("lr_scheduler", "warmup", "max_steps", "num_train_epochs", "noiser_learning_rate_factor")


def rehearse(trainer: AdversarialMLMTrainer) -> None:
    """Make loaders, a batch of each, optimizer and schedule, as training will; all of them are given up again.

    Args:
        trainer ([`AdversarialMLMTrainer`]): Before training.

    Raises:
        RecipeError: If a library does not take the value of an option, naming the options that are set.
    """
    given = trainer.optimizer, trainer.lr_scheduler
    with _naming(trainer.args, _OF_LOADERS):
        loader = trainer.get_train_dataloader()
        _take_one(loader, isinstance(trainer.train_dataset, IterableDataset))
        held_out = trainer.eval_dataset if isinstance(trainer.eval_dataset, dict) else {}
        for dataset in held_out.values():
            _take_one(trainer.get_eval_dataloader(dataset), isinstance(dataset, IterableDataset))
    with _naming(trainer.args, _OF_OPTIMIZER):
        trainer.create_optimizer()
    with _naming(trainer.args, _OF_SCHEDULE):
        max_steps = trainer.set_initial_training_values(trainer.args, loader)[-1]
        trainer.create_scheduler(max_steps)
    trainer.optimizer, trainer.lr_scheduler = given
    trainer.accelerator.free_memory()


def check_optimizer(args: AdversarialMLMTrainingArguments, encoder: PreTrainedModel) -> None:
    """Look up the optimizer, as the trainer does when it is made.

    Raises:
        RecipeError: If a package is missing, or if an option of the optimizer has a value that it does not take.
    """
    with _naming(args, ("optim",)):
        AdversarialMLMTrainer.get_optimizer_cls_and_kwargs(args, encoder)


def _take_one(loader: DataLoader, streamed: bool) -> None:
    iterator = iter(loader)
    if not streamed:  # a stream would read from its source, and has no end to ask for
        next(iterator, None)


@contextlib.contextmanager
def _naming(args: AdversarialMLMTrainingArguments, beginnings: tuple[str, ...]) -> Iterator[None]:
    """Turn what a library raises in here into one sentence that names the options that are set."""
    try:
        yield
    except (AdversarialMLMError, MemoryError):
        raise
    except Exception as error:  # of libraries, of which there is no list to keep
        options = set_options(args, beginnings)
        words = set(re.findall(r"\w+", str(error)))
        named = {name: value for name, value in options.items() if name.partition("_")[2] in words}
        raise RecipeError(explained(error, named or options)) from error


def set_options(args: AdversarialMLMTrainingArguments, beginnings: str | tuple[str, ...] = "") -> dict[str, Any]:
    """Return the options with these beginnings whose value is not the default."""
    defaults = defaults_of(args)
    values = {name: getattr(args, name) for name in defaults if name.startswith(beginnings)}
    return {name: value for name, value in values.items() if value != defaults[name]}
