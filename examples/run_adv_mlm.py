#!/usr/bin/env python
"""Pre-train a protein language model against a trainable masker.

    accelerate launch examples/run_adv_mlm.py examples/recipes/demo.yaml
    accelerate launch examples/run_adv_mlm.py my_recipe.yaml --learning_rate 3e-4 --output_dir runs/mine

Every option can be set in the recipe or on the command line, which wins. `--help` lists them. Without any argument,
the demo runs.
"""

from adversarial_mlm.utils import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # the imports take seconds

import logging
import os
import sys
from pathlib import Path

from accelerate import PartialState
from transformers.utils import logging as transformers_logging

from adversarial_mlm.recipes.recipe import Recipe, parse_recipe
from adversarial_mlm.recipes.run import evaluate_saved, interruption, pretrain, push_saved
from adversarial_mlm.reports import summary
from adversarial_mlm.utils.errors import AdversarialMLMError, Interrupted, NonFiniteError, WritingError

ROOT = Path(__file__).resolve().parent.parent
DEMO = "examples/recipes/demo.yaml"


def main() -> int:
    """Run a recipe.

    Returns:
        `int`, the exit status: 0 if the run is complete; 1 if it missed its gate, was stopped by the collapse alarm
        or by updates that were not finite, could not be written, or could not be pushed to the Hub; 2 for a mistake in
        the input; 143 after SIGTERM; 130 after SIGINT.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    argv = sys.argv[1:]
    if not argv:
        os.chdir(ROOT)
        print(f"no recipe given: running the demo, {DEMO}")
        argv = [DEMO]
    recipe = parse_recipe(argv)
    transformers_logging.disable_progress_bar()  # of loading and saving, not of training
    try:
        with interrupts.raised():
            return train_and_report(recipe)
    except NonFiniteError as error:  # on all processes at once
        if PartialState().is_main_process:
            failed(str(error), 1)
        PartialState().destroy_process_group()
        return 1
    except AdversarialMLMError as error:
        return failed(str(error), 1 if isinstance(error, WritingError) else 2)
    except Interrupted as stop:
        folder = recipe.training.output_dir
        return failed(
            f"stopped by {stop.signal.name} before or after training; all files in {folder} are complete",
            interrupts.exit_status(stop.signal),
        )


def failed(sentence: str, status: int) -> int:
    """Print why a run ended; returns the exit status."""
    print(f"{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr)
    return status


def train_and_report(recipe: Recipe) -> int:
    """Train, evaluate, push and report."""
    trainer = pretrain(recipe)
    if trainer.interrupted_by is not None:
        status = interrupts.exit_status(trainer.interrupted_by)
        if trainer.is_world_process_zero():
            failed(interruption(trainer), status)
        trainer.accelerator.wait_for_everyone()  # if one process is gone, its launcher ends the others
        trainer.accelerator.end_training()
        return status
    figures = evaluate_saved(recipe, trainer)
    pushed = push_saved(trainer)
    gate = recipe.run.background_gate
    if trainer.is_world_process_zero():
        history, folder = trainer.state.log_history, recipe.training.output_dir
        print(summary.summary(figures, history, folder, gate, trainer.collapsed_at, pushed))
    stopped = trainer.collapsed_at is not None and recipe.training.on_collapse == "stop"
    not_pushed = pushed is not None and pushed.failure is not None
    missed = gate is not None and not summary.passes_gate(figures, gate)
    trainer.accelerator.end_training()  # without this, a process may end with an abort
    return 1 if stopped or missed or not_pushed else 0


if __name__ == "__main__":
    sys.exit(main())
