"""The command `adv-mlm`, also `python -m adversarial_mlm`."""

import argparse
import importlib
import logging
import sys

from adversarial_mlm.utils import interrupts
from adversarial_mlm.utils.errors import AdversarialMLMError, Interrupted, WritingError

COMMANDS = {"prepare": "adversarial_mlm.cli.prepare"}
"""Each command is a module with a docstring (its description), `HELP`, `add_arguments`, `run` and `IF_STOPPED`."""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv (`list[str]`, *optional*): The words after the program's name. By default those of this program's command
            line; a signal then ends it in one sentence already while it starts.

    Returns:
        `int`: The exit status: 0 for success, 1 if a file could not be written, 2 for a mistake in the input, 143
        after SIGTERM, 130 after SIGINT.
    """
    if argv is None:
        interrupts.end_at_once("adv-mlm")
    commands = {name: importlib.import_module(module) for name, module in COMMANDS.items()}
    parser = argparse.ArgumentParser(prog="adv-mlm", description="Tools for pre-training protein language models.")
    subparsers = parser.add_subparsers(dest="command", required=True)
    for name, module in commands.items():
        module.add_arguments(subparsers.add_parser(name, help=module.HELP, description=module.__doc__))
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        with interrupts.raised():
            return commands[args.command].run(args)
    except AdversarialMLMError as error:
        print(f"adv-mlm: {error}", file=sys.stderr)
        return 1 if isinstance(error, WritingError) else 2
    except Interrupted as stop:
        print(f"adv-mlm: stopped by {stop.signal.name}; {commands[args.command].IF_STOPPED}", file=sys.stderr)
        return interrupts.exit_status(stop.signal)
