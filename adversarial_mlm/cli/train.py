"""Pre-train an encoder against a noiser, or with random masks.

A recipe is a YAML file, or the name of one in the package. Options of the command line override it.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adversarial_mlm.cli import recipe_list
from adversarial_mlm.cli.endings import failed, stopped
from adversarial_mlm.utils import interrupts
from adversarial_mlm.utils.errors import AdversarialMLMError, NonFiniteError, WritingError

if TYPE_CHECKING:
    from adversarial_mlm.recipes.recipe import Recipe

EXAMPLES = (
    "adv-mlm train demo",
    "adv-mlm train quick --train_data my.fasta --output_dir runs/mine",
    "accelerate launch -m adversarial_mlm train my.yaml --resume_from_checkpoint latest",
)

COMMON_OPTIONS = (
    (
        "train_data",
        "FILE ...",
        "FASTA, Parquet, JSON lines or CSV files, globs, a folder of `adv-mlm prepare` or `datasets`, or the "
        "name of a Hub dataset.",
    ),
    ("output_dir", "DIR", "Folder of the run: encoder, noiser/, log, card."),
    (
        "preset",
        "NAME",
        "A set of options: paper, paper-literal, blind, fast, chosen-proteins, or recommended (random masks). Options "
        "given next to it override it.",
    ),
    ("model_name_or_path", "MODEL", "Masked language model to start from, with its tokenizer: folder or Hub name."),
    ("encoder", "SIZE", "Size of a new encoder: tape-38m (the default), tape-92m, small or tiny."),
    ("holdout_random", "SHARE", "Share to hold out at random, as the set `sample`; their families stay in training."),
    ("max_steps", "N", "Number of encoder updates."),
    ("learning_rate", "X", "Peak learning rate of the encoder."),
    ("per_device_train_batch_size", "N", "Sequences in one forward pass of one process."),
    ("resume_from_checkpoint", "latest", "Continue a run from its newest checkpoint."),
)
"""The options that `--help` shows: name, value, text."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `--help` shows."""
    parser.add_argument("recipe", nargs="?", help="YAML file, or the name of a recipe of the package")
    parser.add_argument(recipe_list.WORD, action="store_true", help="list the recipes of the package")
    for name, value, text in COMMON_OPTIONS:
        parser.add_argument(f"--{name}", metavar=value, help=text)


def whole_help(program: str) -> str:
    """Return the help with all options, in groups."""
    from adversarial_mlm.recipes.recipe import OPTIONS, USAGE

    return OPTIONS.parser(USAGE, program).format_help()


def start(words: Sequence[str], program: str) -> int:
    """Run a recipe.

    Args:
        words (`Sequence[str]`): The command line without the program's name: a recipe and options.
        program (`str`): The program's name, for messages.

    Returns:
        `int`, the exit status:

        - 0: the run is complete.
        - 1: it missed its gate, could not be written, or could not be pushed to the Hub. Or it was stopped by the
          collapse alarm, or by updates that were not finite.
        - 2: a mistake in the input.
        - 143 after SIGTERM, 130 after SIGINT.
    """
    if recipe_list.asks_for_list(words):
        print(recipe_list.recipe_list(comparison=False))
        return 0
    if not words:
        return failed(program, "no recipe is given: try `train demo`; --list lists the recipes of the package", 2)
    from accelerate import PartialState
    from transformers.utils import logging as transformers_logging

    from adversarial_mlm.recipes.recipe import parse_recipe
    from adversarial_mlm.recipes.shipped import with_instructions

    recipe = parse_recipe(list(words), program)
    transformers_logging.disable_progress_bar()  # of loading and saving, not of training
    try:
        with interrupts.raised():
            return train_and_report(recipe, program)
    except NonFiniteError as error:  # on all processes at once
        if PartialState().is_main_process:
            failed(program, str(error), 1)
        PartialState().destroy_process_group()
        return 1
    except AdversarialMLMError as error:
        status = 1 if isinstance(error, WritingError) else 2
        return status if error.told_elsewhere else failed(program, with_instructions(str(error), words[0]), status)
    except KeyboardInterrupt as stop:
        folder = recipe.training.output_dir
        return stopped(program, stop, f"all files in {folder} are complete", "before or after training")


def _how_to_start() -> str:
    """Say how to start this program again, up to the recipe. What a launcher was given is not known here."""
    script = sys.argv[0]
    of_package = os.path.basename(script) == "__main__.py"
    is_script = script.endswith(".py") and not of_package
    words = shlex.quote(script) if is_script else "-m adversarial_mlm train"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 or "ACCELERATE_MIXED_PRECISION" in os.environ:
        return f"run with the same launcher and its options: {words}"
    return f"run: python {words}" if is_script or of_package else "run: adv-mlm train"


def train_and_report(recipe: "Recipe", program: str) -> int:
    """Train, evaluate, push and report; returns the exit status."""
    from adversarial_mlm.recipes.run import evaluate_saved, interruption, pretrain, push_saved
    from adversarial_mlm.reports import at_end, summary

    reports = recipe.run.report
    trainer = pretrain(recipe, before_training=at_end.send_pictures if reports else None)
    if trainer.interrupted_by is not None:
        status = interrupts.exit_status(trainer.interrupted_by)
        if trainer.is_world_process_zero():
            failed(program, interruption(trainer, _how_to_start()), status)
        trainer.accelerator.wait_for_everyone()  # if one process is gone, its launcher ends the others
        trainer.accelerator.end_training()
        return status
    lines: list[str] = []
    before_card = (lambda: lines.append(at_end.report_line(recipe.output_dir))) if reports else None
    figures = evaluate_saved(recipe, trainer, before_card)
    pushed = push_saved(trainer)
    gate = recipe.run.background_gate
    if trainer.is_world_process_zero():
        history, folder = trainer.state.log_history, recipe.training.output_dir
        print(summary.summary(figures, history, folder, gate, trainer.collapsed_at, pushed, *lines))
    stopped = trainer.collapsed_at is not None and recipe.training.on_collapse == "stop"
    not_pushed = pushed is not None and pushed.failure is not None
    missed = gate is not None and not summary.passes_gate(figures, gate)
    trainer.accelerator.end_training()  # without this, a process may end with an abort
    return 1 if stopped or missed or not_pushed else 0
