"""The command `adv-mlm`, also `python -m adversarial_mlm`."""

import argparse
import logging
import sys

from adversarial_mlm.cli import prepare
from adversarial_mlm.utils.errors import AdversarialMLMError, WritingError

COMMANDS = {"prepare": prepare}
"""Each command is a module with a docstring (its description), `HELP`, `add_arguments` and `run`."""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Returns:
        `int`: The exit status: 0 for success, 1 if a file could not be written, 2 for a mistake in the input.
    """
    parser = argparse.ArgumentParser(prog="adv-mlm", description="Tools for pre-training protein language models.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        module.add_arguments(subparsers.add_parser(name, help=module.HELP, description=module.__doc__))
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return COMMANDS[args.command].run(args)
    except AdversarialMLMError as error:
        print(f"adv-mlm: {error}", file=sys.stderr)
        return 1 if isinstance(error, WritingError) else 2
