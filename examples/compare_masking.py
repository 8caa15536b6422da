#!/usr/bin/env python
"""Compare ways of masking: train many arms, paired by seed and batch, under equal budgets, and evaluate all of them.

    accelerate launch examples/compare_masking.py examples/recipes/compare_small.yaml --dry_run
    accelerate launch examples/compare_masking.py examples/recipes/compare_small.yaml
    accelerate launch examples/compare_masking.py mine.yaml --output_dir runs/mine --learning_rate 3e-4

Options that this script does not know are passed to all arms. You can kill it at any time: the same command resumes.
To use several cores or GPUs, start it several times with the same folder. Each process takes the next free run, and
the last one writes the tables. docs/comparing.md explains recipes.
"""

from adversarial_mlm.utils import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # the imports take seconds

import logging
import os
import sys
from pathlib import Path

from transformers.utils import logging as transformers_logging

from adversarial_mlm.comparison.compare import compare, dry_run, parse_arguments
from adversarial_mlm.utils.errors import AdversarialMLMError, Interrupted, WritingError


def main() -> int:
    """Make a comparison.

    Returns:
        `int`, the exit status: 0 if this process is done, even if others are still training; 1 if a result could not
        be written; 2 for a mistake in the input; 143 after SIGTERM; 130 after SIGINT.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    args, words = parse_arguments(sys.argv[1:])
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return failed(
            "a comparison trains each run in one process: start this command several times to use several devices", 2
        )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with interrupts.raised():
            if args.dry_run:
                print(dry_run(args, words))
                return 0
            outcome = compare(args, words)
    except AdversarialMLMError as error:
        return failed(str(error), 1 if isinstance(error, WritingError) else 2)
    except Interrupted as stop:
        return failed(
            f"stopped by {stop.signal.name}; start the same command to resume", interrupts.exit_status(stop.signal)
        )
    if outcome.elsewhere:
        print(f"{outcome.elsewhere} runs are still training in other processes; the last of these writes the tables")
        return 0
    print(outcome.tables)
    print("\n".join(f"Written     {path}" for path in outcome.files))
    return 0


def failed(sentence: str, status: int) -> int:
    """Print why the comparison ended; returns the exit status."""
    print(f"{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
