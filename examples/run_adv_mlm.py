#!/usr/bin/env python
"""Pre-train a protein language model against a trainable masker.

    accelerate launch examples/run_adv_mlm.py examples/recipes/demo.yaml
    accelerate launch examples/run_adv_mlm.py my_recipe.yaml --learning_rate 3e-4 --output_dir runs/mine

Every option can be set in the recipe or on the command line, which wins. `--help` lists them. Without any argument,
the demo runs. `adv-mlm train` is the same command, without a clone of the repository.
"""

from adversarial_mlm.utils import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # the imports take seconds

import os
import sys
from pathlib import Path

from adversarial_mlm.cli import train
from adversarial_mlm.cli.endings import set_up_logging

ROOT = Path(__file__).resolve().parent.parent
DEMO = "examples/recipes/demo.yaml"


def main() -> int:
    """Run a recipe; returns the exit status, see [`train.start`][adversarial_mlm.cli.train.start]."""
    set_up_logging()
    argv = sys.argv[1:]
    if not argv:
        os.chdir(ROOT)
        print(f"no recipe given: running the demo, {DEMO}")
        argv = [DEMO]
    return train.start(argv, Path(sys.argv[0]).name)


if __name__ == "__main__":
    sys.exit(interrupts.leave(main()))
