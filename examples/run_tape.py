#!/usr/bin/env python
"""Evaluate an encoder on TAPE's tasks, or on your own table.

    accelerate launch examples/run_tape.py --task fluorescence --model_name_or_path OUT --data_dir DIR
    accelerate launch examples/run_tape.py --task all --model_name_or_path OUT --data_dir DIR --seeds 0 1 2
    accelerate launch examples/run_tape.py --mode finetune --task stability --model_name_or_path OUT --data_dir DIR \\
        --output_dir runs/stability --grid learning_rate=1e-5,1e-4 --seeds 0 1 2
    accelerate launch examples/run_tape.py --task regression --train_file mine.csv --target brightness \\
        --model_name_or_path OUT

A frozen probe is the default. `--help` lists all options. The printed table compares every result with baselines, and
marks a result that does not beat them with `!`.
"""

import logging
import os
import sys
from pathlib import Path

from transformers.utils import logging as transformers_logging

from adversarial_mlm.downstream.command_line import parse_arguments, refuse
from adversarial_mlm.downstream.results import add_to_card, read_results, table, write_results
from adversarial_mlm.downstream.run import run


def main() -> int:
    """Evaluate an encoder; returns the exit status: 0, or 2 for a mistake in the input."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    args, settings = parse_arguments(sys.argv[1:])
    first = int(os.environ.get("RANK", "0")) == 0
    if not first and args.mode != "finetune":
        return 0  # only fine-tuning uses several processes
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    program = Path(sys.argv[0]).name
    try:
        if args.output_dir:
            read_results(args.output_dir)  # reports a damaged file before any work is done
        if args.update_card and not os.path.isfile(os.path.join(args.model_name_or_path, "README.md")):
            raise ValueError(
                f"update_card is true, but there is no README.md in {args.model_name_or_path}: leave the option out"
            )
        results = run(args, settings)
        if first:
            print(table(results))
        if first and args.output_dir:
            print(f"\nResults     {write_results(args.output_dir, results)}")
        if first and args.update_card:
            print(f"Card        {args.model_name_or_path}: {add_to_card(args.model_name_or_path, results)} figures")
    except (ValueError, OSError) as error:
        refuse(program, str(error).rstrip("."))
    return 0


if __name__ == "__main__":
    sys.exit(main())
