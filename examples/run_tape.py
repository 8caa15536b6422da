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

from adversarial_mlm.utils import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # the imports take seconds

import logging
import os
import sys
from pathlib import Path

from transformers.utils import logging as transformers_logging

from adversarial_mlm.downstream.arguments import TapeArguments
from adversarial_mlm.downstream.command_line import parse_arguments
from adversarial_mlm.downstream.finetune_settings import FinetuneSettings
from adversarial_mlm.downstream.results import RESULTS_FILE, add_to_card, table, take_output_dir, write_results
from adversarial_mlm.downstream.run import run
from adversarial_mlm.utils.errors import Interrupted, RecipeError, WritingError


def main() -> int:
    """Evaluate an encoder.

    Returns:
        `int`, the exit status: 0; 1 if a result could not be written; 2 for a mistake in the input; 143 after SIGTERM;
        130 after SIGINT.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for client in ("httpx", "httpx2"):
        logging.getLogger(client).setLevel(logging.WARNING)
    args, settings = parse_arguments(sys.argv[1:])
    first = int(os.environ.get("RANK", "0")) == 0
    if not first and args.mode != "finetune":
        return 0  # only fine-tuning uses several processes
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with interrupts.raised():
            evaluate_and_report(args, settings, first)
    except (ValueError, OSError) as error:
        return failed(str(error).rstrip("."), 1 if isinstance(error, WritingError) else 2)
    except Interrupted as stop:
        kept = f"what is complete is in {args.output_dir}: " if args.output_dir else ""
        return failed(
            f"stopped by {stop.signal.name}; {kept}start the same command to continue",
            interrupts.exit_status(stop.signal),
        )
    return 0


def evaluate_and_report(args: TapeArguments, settings: FinetuneSettings, first: bool) -> None:
    """Evaluate, print the table, and write the results of each task when it is complete.

    Args:
        args ([`TapeArguments`]): Options of the command line.
        settings ([`FinetuneSettings`]): Options of fine-tuning.
        first (`bool`): Whether this is the first process, which alone prints and writes results.
    """
    folder, writes = args.output_dir, first and bool(args.output_dir)
    if writes:
        take_output_dir(folder)
    if args.update_card and not os.path.isfile(os.path.join(args.model_name_or_path, "README.md")):
        raise RecipeError(
            f"update_card is true, but there is no README.md in {args.model_name_or_path}: leave the option out"
        )
    results = run(args, settings, (lambda records: write_results(folder, records)) if writes else lambda records: None)
    if first:
        print(table(results))
    if writes:
        print(f"\nResults     {os.path.join(folder, RESULTS_FILE)}")
    if first and args.update_card:
        print(f"Card        {args.model_name_or_path}: {add_to_card(args.model_name_or_path, results)} figures")


def failed(sentence: str, status: int) -> int:
    """Print why the evaluation ended; returns the exit status."""
    print(f"{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
