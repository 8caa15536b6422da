import argparse
import types

import pytest

from adversarial_mlm.cli.main import COMMANDS, main
from adversarial_mlm.utils.errors import CorpusError, WritingError


def test_the_help_lists_every_command_with_its_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0
    assert all(name in shown and module.HELP in " ".join(shown.split()) for name, module in COMMANDS.items())


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["prepair"])
    assert stop.value.code == 2 and "invalid choice: 'prepair'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, status", [(CorpusError("a.fasta: there is no such file"), 2), (WritingError("out: no space left"), 1)]
)
def test_an_error_is_one_sentence_and_a_status(error, status, monkeypatch, capsys):
    def run(args: argparse.Namespace) -> int:
        raise error

    command = types.SimpleNamespace(__doc__="Fail.", HELP="fail", add_arguments=lambda parser: None, run=run)
    monkeypatch.setitem(COMMANDS, "fail", command)
    assert main(["fail"]) == status
    assert capsys.readouterr().err == f"adv-mlm: {error}\n"
