"""Train several ways of masking with the same budget, paired by seed and batch, and write the tables of a study.

You can kill it at any time: the same command resumes. To use several cores or GPUs, start it several times.
"""

import argparse
import os
from collections.abc import Sequence

from adversarial_mlm.cli import recipe_list
from adversarial_mlm.cli.endings import failed, stopped
from adversarial_mlm.utils import interrupts
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import AdversarialMLMError, WritingError
from adversarial_mlm.utils.spelling import nearest

EXAMPLES = (
    "adv-mlm compare my.yaml --dry_run",
    "adv-mlm compare my.yaml --output_dir runs/mine --learning_rate 3e-4",
    "adv-mlm compare my.yaml --selection_only",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `--help` shows; options of `adv-mlm train` come after them, and are passed to all arms."""
    parser.add_argument("recipe", nargs="?", help="YAML file of a comparison, or the name of a recipe of the package")
    parser.add_argument(recipe_list.WORD, action="store_true", help="list the recipes of the package")
    parser.add_argument("--dry_run", action="store_true", help="print the plan with its cost and exit")
    parser.add_argument("--meter", metavar="MODEL", help="measure the arms by gradients at a trained encoder and exit")
    parser.add_argument("--output_dir", metavar="DIR", help="replaces output_dir of the recipe")
    parser.add_argument("--data_dir", metavar="DIR", help="replaces tasks.data_dir of the recipe")
    parser.add_argument("--selection_only", action="store_true", help="leave the confirmation part for later")
    for name in ("markdown", "json", "plot"):
        parser.add_argument(f"--{name}", metavar="FILE", help=f"also write the report as {name} to this file")


def whole_help(program: str) -> str:
    """Return the help with all options: those of a comparison, and those of pre-training, in groups."""
    from adversarial_mlm.comparison.compare import build_parser
    from adversarial_mlm.recipes.recipe import OPTIONS

    of_training = OPTIONS.parser("the options of `adv-mlm train` below are passed to all arms", program)
    return f"{build_parser(program).format_help()}\n{of_training.format_help()}"


def _misspelt(words: Sequence[str]) -> str:
    """Return a sentence about the first word that is no option of `train`, but nearly one of this command."""
    from adversarial_mlm.comparison.compare import build_parser
    from adversarial_mlm.recipes.recipe import OPTIONS

    own = [text.lstrip("-") for text in build_parser()._option_string_actions]
    for name in (word[2:].partition("=")[0] for word in words if word.startswith("--")):
        near = None if name in OPTIONS.fields else nearest(name, own)
        if near:
            return f"unknown option '{name}' on the command line; did you mean '{near}'?"
    return ""


def start(words: Sequence[str], program: str) -> int:
    """Make a comparison.

    Args:
        words (`Sequence[str]`): The command line without the program's name.
        program (`str`): The program's name, for messages.

    Returns:
        `int`, the exit status:

        - 0: this process is done. Others may still be training.
        - 1: a result could not be written.
        - 2: a mistake in the input.
        - 143 after SIGTERM, 130 after SIGINT.
    """
    if recipe_list.asks_for_list(words):
        print(recipe_list.recipe_list(comparison=True))
        return 0
    from transformers.utils import logging as transformers_logging

    from adversarial_mlm.comparison.compare import compare, dry_run, meter, parse_arguments
    from adversarial_mlm.recipes.shipped import with_instructions

    args, rest = parse_arguments(list(words), program)
    misspelt = _misspelt(rest)
    if misspelt:
        return failed(program, misspelt, 2)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return failed(
            program,
            "a comparison trains each run in one process: start this command several times to use several devices",
            2,
        )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        with interrupts.raised():
            if args.dry_run:
                print(dry_run(args, rest))
                return 0
            if args.meter is not None:
                print(meter(args, rest))
                return 0
            outcome = compare(args, rest)
    except AdversarialMLMError as error:
        return failed(program, with_instructions(str(error), args.recipe), 1 if isinstance(error, WritingError) else 2)
    except KeyboardInterrupt as stop:
        return stopped(program, stop, "start the same command to resume")
    if outcome.elsewhere:
        print(
            f"{count(outcome.elsewhere, 'run')} {verb(outcome.elsewhere, 'is', 'are')} still training in other "
            "processes; "
            "the last of these writes the tables"
        )
        return 0
    print(outcome.tables)
    print("\n".join(f"Written     {path}" for path in outcome.files))
    return 0
