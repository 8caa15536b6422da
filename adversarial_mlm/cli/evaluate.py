"""Evaluate an encoder on TAPE's tasks, on ProteinGym or FLIP, or on your own table.

A frozen probe is the default. The printed table compares every result with baselines, and marks a result that does not
beat them with `!`.
"""

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from adversarial_mlm.cli.endings import failed, stopped
from adversarial_mlm.utils import interrupts
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import RecipeError, WritingError

if TYPE_CHECKING:
    from adversarial_mlm.downstream.arguments import TapeArguments
    from adversarial_mlm.downstream.finetune_settings import FinetuneSettings

EXAMPLES = (
    "adv-mlm evaluate --task all --data_dir DIR --model_name_or_path runs/mine --seeds 0 1 2",
    "adv-mlm evaluate --task regression --train_file my.csv --target brightness --model_name_or_path runs/mine",
    "adv-mlm evaluate --benchmark proteingym --data_dir DMS --reference_file R --model_name_or_path M --output_dir O",
)

COMMON_OPTIONS = (
    (
        "task",
        "NAME ...",
        "secondary_structure, remote_homology, fluorescence, stability; all for these four; contacts; or for your "
        "own table: regression, classification, token_classification.",
    ),
    ("model_name_or_path", "MODEL", "Encoder: a folder or a name on the Hub."),
    (
        "mode",
        "MODE",
        "probe: a linear head on the frozen encoder; finetune: train encoder and head; zero_shot: score "
        "substitutions without training; baselines: no encoder.",
    ),
    (
        "benchmark",
        "NAME",
        "Instead of task: proteingym (score the assays of reference_file in data_dir, without training), or flip (all "
        "splits below data_dir).",
    ),
    ("data_dir", "DIR", "Folder with the data of TAPE's tasks, or of a benchmark."),
    ("reference_file", "FILE", "proteingym: the benchmark's list of assays, such as DMS_substitutions.csv."),
    ("train_file", "FILE", "Own table: CSV, TSV, JSON lines or Parquet; contacts: also structures and TAPE's files."),
    ("target", "COLUMN", "Column with the labels; required for your own table."),
    ("split_column", "COLUMN", "Own table: column of train_file with train, valid or test."),
    ("seeds", "N ...", "Seeds of fine-tuning, of encoders without pre-training, and of draws."),
    ("output_dir", "DIR", "Folder for results.json and fine-tuned models."),
    ("update_card", "true", "Write the results into the model card in the folder model_name_or_path."),
)
"""The options that `--help` shows: name, value, text."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `--help` shows."""
    for name, value, text in COMMON_OPTIONS:
        parser.add_argument(f"--{name}", metavar=value, help=text)


def whole_help(program: str) -> str:
    """Return the help with all options, in groups."""
    from adversarial_mlm.downstream.arguments import OPTIONS

    return OPTIONS.parser(program=program).format_help()


def start(words: Sequence[str], program: str) -> int:
    """Evaluate an encoder.

    Args:
        words (`Sequence[str]`): The command line without the program's name.
        program (`str`): The program's name, for messages.

    Returns:
        `int`, the exit status: 0; 1 if a result could not be written; 2 for a mistake in the input; 143 after SIGTERM;
        130 after SIGINT.
    """
    from transformers.utils import logging as transformers_logging

    from adversarial_mlm.downstream.command_line import parse_arguments

    args, settings = parse_arguments(list(words), program)
    first = int(os.environ.get("RANK", "0")) == 0
    if not first and args.mode != "finetune":
        return 0  # only fine-tuning uses several processes
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with interrupts.raised():
            evaluate_and_report(args, settings, first)
    except (ValueError, OSError) as error:
        return failed(program, str(error).rstrip("."), 1 if isinstance(error, WritingError) else 2)
    except KeyboardInterrupt as stop:
        kept = f"what is complete is in {args.output_dir}: " if args.output_dir else ""
        return stopped(program, stop, f"{kept}start the same command to continue")
    return 0


def evaluate_and_report(args: "TapeArguments", settings: "FinetuneSettings", first: bool) -> None:
    """Evaluate, print the table, and write the results of each task when it is complete.

    Args:
        args ([`TapeArguments`]): Options of the command line.
        settings ([`FinetuneSettings`]): Options of fine-tuning.
        first (`bool`): Whether this is the first process, which alone prints and writes results.
    """
    from adversarial_mlm.downstream.contacts.results import contact_table
    from adversarial_mlm.downstream.definitions import CONTACTS
    from adversarial_mlm.downstream.proteingym.results import gym_table
    from adversarial_mlm.downstream.results import RESULTS_FILE, add_to_card, table, take_output_dir, write_results
    from adversarial_mlm.downstream.run import run

    folder, model = args.output_dir or "", args.model_name_or_path or ""
    writes = first and bool(folder)
    if writes:
        take_output_dir(folder)
    if args.update_card and not os.path.isfile(os.path.join(model, "README.md")):
        raise RecipeError(f"update_card is true, but there is no README.md in {model}: leave the option out")
    results = run(args, settings, (lambda records: write_results(folder, records)) if writes else lambda records: None)
    if first:
        of_kind = contact_table if args.task == [CONTACTS] else gym_table if args.benchmark == "proteingym" else table
        print(of_kind(results))
    if writes:
        print(f"\nResults     {os.path.join(folder, RESULTS_FILE)}")
    if first and args.update_card:
        print(f"Card        {model}: {count(add_to_card(model, results), 'figure')}")
