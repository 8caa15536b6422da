#!/usr/bin/env python
"""Compare ways of masking: train many arms, paired by seed and batch, under equal budgets, and evaluate all of them.

    accelerate launch examples/compare_masking.py examples/recipes/compare_small.yaml --dry_run
    accelerate launch examples/compare_masking.py examples/recipes/compare_small.yaml
    accelerate launch examples/compare_masking.py mine.yaml --output_dir runs/mine --learning_rate 3e-4

Options that this script does not know are passed to all arms. You can kill it at any time: the same command resumes.
To use several cores or GPUs, start it several times with the same folder. Each process takes the next free run, and
the last one writes the tables. docs/comparing.md explains recipes. `adv-mlm compare` is the same command, without a
clone.
"""

from adversarial_mlm.utils import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # the imports take seconds

import sys
from pathlib import Path

from adversarial_mlm.cli import compare
from adversarial_mlm.cli.endings import set_up_logging


def main() -> int:
    """Make a comparison; returns the exit status, see [`compare.start`][adversarial_mlm.cli.compare.start]."""
    set_up_logging()
    return compare.start(sys.argv[1:], Path(sys.argv[0]).name)


if __name__ == "__main__":
    sys.exit(interrupts.leave(main()))
