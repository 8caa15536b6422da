#!/usr/bin/env python
"""Evaluate an encoder on TAPE's tasks, or on your own table.

    accelerate launch examples/run_tape.py --task fluorescence --model_name_or_path OUT --data_dir DIR
    accelerate launch examples/run_tape.py --task all --model_name_or_path OUT --data_dir DIR --seeds 0 1 2
    accelerate launch examples/run_tape.py --mode finetune --task stability --model_name_or_path OUT --data_dir DIR \\
        --output_dir runs/stability --grid learning_rate=1e-5,1e-4 --seeds 0 1 2
    accelerate launch examples/run_tape.py --task regression --train_file mine.csv --target brightness \\
        --model_name_or_path OUT

A frozen probe is the default. `--help` lists all options. The printed table compares every result with baselines, and
marks a result that does not beat them with `!`. `adv-mlm evaluate` is the same command, without a clone.
"""

from adversarial_mlm.utils import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # the imports take seconds

import sys
from pathlib import Path

from adversarial_mlm.cli import evaluate
from adversarial_mlm.cli.endings import set_up_logging


def main() -> int:
    """Evaluate an encoder; returns the exit status, see [`evaluate.start`][adversarial_mlm.cli.evaluate.start]."""
    set_up_logging()
    return evaluate.start(sys.argv[1:], Path(sys.argv[0]).name)


if __name__ == "__main__":
    sys.exit(interrupts.leave(main()))
