"""The command line of `adv-mlm evaluate` and `examples/run_tape.py`."""

from adversarial_mlm.downstream.argument_checks import check_arguments
from adversarial_mlm.downstream.arguments import OPTIONS, TapeArguments
from adversarial_mlm.downstream.definitions import TASKS
from adversarial_mlm.downstream.finetune_settings import FinetuneSettings


def parse_arguments(argv: list[str], program: str | None = None) -> tuple[TapeArguments, FinetuneSettings]:
    """Parse the command line, including the options of [`FinetuneSettings`].

    A mistake ends the program with exit status 2 and a message that names the option.

    Args:
        argv (`list[str]`): The command line without the program's name.
        program (`str`, *optional*): The program's name, for messages; by default that of the script.
    """
    parser = OPTIONS.parser(program=program)
    try:
        said = OPTIONS.read_words(argv, parser)
        if said.get("benchmark") == "proteingym":
            said.setdefault("mode", "zero_shot")  # the only one that it has
        args, settings = OPTIONS.build(said)
        args.task = list(TASKS) if args.task == ["all"] else args.task
        check_arguments(args, settings)
    except ValueError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return args, settings
