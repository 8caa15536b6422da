# PYTHON_ARGCOMPLETE_OK
"""The command `adv-mlm`, also `python -m adversarial_mlm`."""

import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from adversarial_mlm.cli.command_parser import CommandParser, asks_for_help, build_parser, overview
from adversarial_mlm.cli.endings import failed, set_up_logging, stopped
from adversarial_mlm.utils import interrupts
from adversarial_mlm.utils.errors import AdversarialMLMError, WritingError
from adversarial_mlm.utils.spelling import did_you_mean
from adversarial_mlm.utils.version import __version__

PROGRAM = "adv-mlm"

COMMANDS = {
    "train": ("adversarial_mlm.cli.train", "pre-train an encoder from a recipe; `adv-mlm train demo` runs the demo"),
    "evaluate": ("adversarial_mlm.cli.evaluate", "evaluate an encoder on TAPE's tasks or on your own table"),
    "embed": ("adversarial_mlm.cli.embed", "write a vector for each protein, or for each residue"),
    "score": ("adversarial_mlm.cli.score", "score proteins and substitutions with an encoder"),
    "mask": ("adversarial_mlm.cli.mask", "show which residues of a protein a noiser masks"),
    "demo": (
        "adversarial_mlm.cli.demo",
        "open a page to play with a model: masks, answers, substitutions",
    ),
    "report": ("adversarial_mlm.cli.report", "draw what happened in a run, or in several runs"),
    "compare": ("adversarial_mlm.cli.compare", "train several ways of masking with the same budget, and compare them"),
    "card": ("adversarial_mlm.cli.card", "write the model card of a run anew"),
    "prepare": ("adversarial_mlm.cli.prepare", "clean FASTA files once, with several processes, for train_data"),
}
"""Commands: name → (module, one line of help). A module is imported when its command is called, or its help is shown.

Each module imports at its start only what takes no time (neither torch nor transformers nor numpy), and has

- a docstring: its first paragraph is the purpose that `--help` shows;
- `EXAMPLES`: three command lines;
- `add_arguments(parser)`: adds the arguments. `--help` shows those that are added to the parser itself (about ten),
  and `--help all` also those of its groups, `parser.add_argument_group(title)`;
- `IF_STOPPED`: the end of the sentence about a signal, after "stopped by SIGINT; ";
- `run(args) -> int`: does the work and returns the exit status. It raises [`AdversarialMLMError`] for a mistake in the
  input (exit status 2) and [`WritingError`] if a file cannot be written (exit status 1).

A command whose options are an [`OptionSet`] has two other functions in place of `IF_STOPPED` and `run`, and its
`add_arguments` only serves `--help`: `start(words, program) -> int` reads the words and does the work, and
`whole_help(program) -> str` returns the text of `--help all`.
"""


def main(argv: list[str] | None = None) -> int:
    """Run a command.

    Args:
        argv (`list[str]`, *optional*): The words after the program's name. By default those of this program's command
            line; a signal then ends it in one sentence already while it starts.

    Returns:
        `int`: The exit status: 0 for success; 1 if a file could not be written, or if a run of `train` failed (see
        [`train.start`][adversarial_mlm.cli.train.start]); 2 for a mistake in the input; 143 after SIGTERM; 130 after
        SIGINT.
    """
    if argv is None:
        interrupts.end_at_once(PROGRAM)
    words = sys.argv[1:] if argv is None else list(argv)
    if "_ARGCOMPLETE" in os.environ:
        from adversarial_mlm.cli import completion

        completion.complete(PROGRAM, COMMANDS, os.environ["COMP_LINE"].split()[1:])
    try:
        status = _run(words)
        return interrupts.leave(status) if argv is None else status
    except BrokenPipeError:  # the output went to a program that has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(words: Sequence[str]) -> int:
    if words and words[0] == "--version":
        print(f"{PROGRAM} {__version__}")
        return 0
    if words and words[0] in ("--help", "-h"):
        print(overview(PROGRAM, {name: line for name, (_, line) in COMMANDS.items()}), end="")
        return 0
    if not words or words[0] not in COMMANDS:
        return failed(PROGRAM, _no_command(words), 2)
    name, *rest = words
    module = importlib.import_module(COMMANDS[name][0])
    parser = build_parser(module, f"{PROGRAM} {name}")
    help_wanted = asks_for_help(rest)
    if help_wanted:
        whole = help_wanted == "all"
        print(module.whole_help(parser.prog) if whole and hasattr(module, "start") else parser.help(whole), end="")
        return 0
    set_up_logging()
    if hasattr(module, "start"):
        return module.start(rest, PROGRAM)
    return _run_module(module, parser, rest)


def _no_command(words: Sequence[str]) -> str:
    if not words:
        return f"no command is given; there are {', '.join(COMMANDS)}; {PROGRAM} --help describes them"
    kind = "option" if words[0].startswith("-") else "command"
    hint = did_you_mean(words[0], COMMANDS)
    more = "" if hint.endswith("?") else f"; {PROGRAM} --help describes them"
    return f"there is no {kind} '{words[0]}'{hint}{more}"


def _run_module(module: ModuleType, parser: CommandParser, words: Sequence[str]) -> int:
    try:
        args = parser.read(words)
        with interrupts.raised():
            return module.run(args)
    except AdversarialMLMError as error:
        return failed(PROGRAM, str(error), 1 if isinstance(error, WritingError) else 2)
    except KeyboardInterrupt as stop:
        return stopped(PROGRAM, stop, module.IF_STOPPED)
