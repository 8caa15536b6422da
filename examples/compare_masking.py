#!/usr/bin/env python
"""Compare ways of pre-training: many runs, paired by seed and batch, under equal budgets, on the same tasks.

    accelerate launch examples/compare_masking.py examples/recipes/compare_small.yaml --dry_run
    accelerate launch examples/compare_masking.py examples/recipes/compare_small.yaml
    accelerate launch examples/compare_masking.py mine.yaml --output_dir runs/mine --learning_rate 3e-4

Options that are not its own go to all arms. It can be killed at any moment: the same command goes on. Started several
times with the same folder, each process takes the next run that no other is at, and the last one makes the tables.
docs/comparing.md tells how to write a recipe.
"""

import logging
import os
import sys
from pathlib import Path

from transformers.utils import logging as transformers_logging

from adversarial_mlm.comparison.compare import compare, dry_run, parse_arguments
from adversarial_mlm.data import CorpusError
from adversarial_mlm.recipes.recipe import RecipeError
from adversarial_mlm.utils import signals
from adversarial_mlm.utils.atomic_files import WritingError


def main() -> int:
    """Make a comparison; returns the exit status: 0, also where other processes are still at some runs, 1 where a
    result could not be written, 2 for a mistake in the input, 143 where SIGTERM and 130 where SIGINT stopped it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    args, words = parse_arguments(sys.argv[1:])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return failed("a run has one process here; start the command itself several times to use several devices", 2)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with signals.raised():
            if args.dry_run:
                print(dry_run(args, words))
                return 0
            outcome = compare(args, words)
    except (CorpusError, RecipeError) as error:
        return failed(str(error), 2)
    except WritingError as error:
        return failed(str(error), 1)
    except signals.Interrupted as stop:
        return failed(
            f"stopped by {stop.signal.name}; the same command goes on where it was", signals.exit_status(stop.signal)
        )
    if outcome.elsewhere:
        print(f"{outcome.elsewhere} runs are under way in other processes, the last of which makes the tables")
        return 0
    print(outcome.tables)
    print("\n".join(f"Written     {path}" for path in outcome.files))
    return 0


def failed(sentence: str, status: int) -> int:
    """Say why it ended."""
    print(f"{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
