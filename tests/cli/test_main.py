import importlib
import os
import signal
import sys
import types

import pytest

from adversarial_mlm.cli.main import COMMANDS, main
from adversarial_mlm.utils.errors import CorpusError, WritingError


@pytest.fixture
def command(monkeypatch):
    """Add a command `try` that calls a function."""

    def add(run) -> None:
        module = types.ModuleType("tests.try_command", "Try something.")
        module.HELP, module.IF_STOPPED, module.run = "try something", "nothing is lost", lambda args: run()
        module.add_arguments = lambda parser: None
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(COMMANDS, "try", module.__name__)

    return add


def test_the_help_lists_every_command_with_its_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    for name, module in COMMANDS.items():
        assert name in shown and importlib.import_module(module).HELP in shown


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["prepair"])
    assert stop.value.code == 2 and "invalid choice: 'prepair'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, status", [(CorpusError("a.fasta: there is no such file"), 2), (WritingError("out: no space left"), 1)]
)
def test_an_error_is_one_sentence_and_a_status(error, status, command, capsys):
    def fail() -> int:
        raise error

    command(fail)
    assert main(["try"]) == status
    assert capsys.readouterr().err == f"adv-mlm: {error}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_one_sentence_and_a_status(number, command, capsys):
    command(lambda: os.kill(os.getpid(), number))
    assert main(["try"]) == 128 + number
    assert capsys.readouterr().err == f"adv-mlm: stopped by {number.name}; nothing is lost\n"
