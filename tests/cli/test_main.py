import ast
import os
import signal
import subprocess
import sys
import types
from importlib import util

import pytest

from adversarial_mlm.cli.command_parser import CommandParser
from adversarial_mlm.cli.main import COMMANDS, main
from adversarial_mlm.utils.errors import CorpusError, WritingError
from adversarial_mlm.utils.version import __version__


@pytest.fixture
def command(monkeypatch):
    """Add a command `try` that calls a function."""

    def add(run) -> None:
        module = types.ModuleType("tests.try_command", "Try something.\n\nNot shown.")
        module.EXAMPLES, module.IF_STOPPED, module.run = ("adv-mlm try",), "nothing is lost", lambda args: run()
        module.add_arguments = add_arguments
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(COMMANDS, "try", (module.__name__, "try something"))

    return add


def add_arguments(parser) -> None:
    parser.add_argument("file", nargs="?", help="the file")
    parser.add_argument("--size", type=int, default=3, help="how large (default: %(default)s)")
    parser.add_argument("--share", type=float, help="which part")
    parser.add_argument_group("what few people need").add_argument("--rare", help="a rare option")


def test_the_help_lists_every_command_with_its_line(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 24
    for name, (_, line) in COMMANDS.items():
        assert f"  {name} " in shown and line in shown


def test_the_help_and_those_of_the_commands_import_nothing_heavy(repository):
    code = (
        "import sys; from adversarial_mlm.cli.main import COMMANDS, main; main(['--help'])\n"
        "assert not {f'adversarial_mlm.cli.{name}' for name in COMMANDS} & set(sys.modules)\n"
        "for name in COMMANDS: main([name, '--help'])\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'numpy', 'pyarrow') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=repository)
    assert shown.stdout.splitlines()[-1:] == ["[]"], shown.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_what_the_table_promises(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "110")
    path = util.find_spec(COMMANDS[name][0]).origin
    tree = ast.parse(open(path, encoding="utf-8").read())
    assert ast.get_docstring(tree)
    assert main([name, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 120
    start = lines.index("examples:") + 1
    assert lines[start - 2 : start + 4 : 5] == ["", ""] and all(lines[start : start + 3])
    assert any(f"adv-mlm {name} " in line for line in lines)


def test_the_version_is_printed(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"adv-mlm {__version__}\n"


@pytest.mark.parametrize(
    "words, sentence",
    [
        ([], "no command is given; there are train, evaluate, "),
        (["prepair"], "there is no command 'prepair'; did you mean 'prepare'?"),
        (["--verson"], "there is no option '--verson'"),
        (["try", "--siz", "4"], "unknown option 'siz'; did you mean 'size'?"),
        (["try", "--size", "much"], "--size must be a whole number, got 'much'; adv-mlm try --help shows how"),
        (["try", "--share", "40%"], "--share must be a number, got '40%': write 0.4 for 40 %"),
        (["embed", "--modle", "runs/mine"], "unknown option 'modle'; did you mean 'model'?"),
        (["embed", "--model_name_or_path=m"], "unknown option 'model_name_or_path'; did you mean 'model'?"),
        (["score", "--output", "a.tsv"], "unknown option 'output'; did you mean 'out'?"),
        (["mask", "--fasta", "a.fasta"], "unknown option 'fasta'; did you mean 'protein'?"),
        (["help"], "there is no command 'help'; there are train, "),
        (["try", "--size", "null"], "--size must be a whole number, got 'null'"),
        (["try", "a", "b"], "'b' is not an option: write options as --name value"),
    ],
)
def test_a_mistake_in_the_words_is_one_sentence_and_status_2(words, sentence, command, capsys):
    command(lambda: 0)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"adv-mlm: {sentence}") and len(said.splitlines()) == 1


def test_null_is_no_value_for_an_option_that_has_none_by_default():
    parser = CommandParser("adv-mlm try", "Try something.", (), False)
    add_arguments(parser)
    parser.add_argument("--few", type=int, choices=(1, 2))
    args = parser.read(["null", "--rare", "a", "--few", "NULL", "--rare=null"])
    assert args.rare is None and args.few is None and args.file == "null"


def test_the_help_of_a_command_shows_its_groups_only_on_request(command, capsys):
    command(lambda: 0)
    assert main(["try", "--help"]) == 0
    short = capsys.readouterr().out
    assert "Try something." in short and "  adv-mlm try\n" in short and "--size N" in short and "(default: 3)" in short
    assert (
        "--rare" not in short
        and "adv-mlm try --help all lists all options, in groups." in short
        and "Not shown" not in short
    )
    for words in (["try", "--help", "all"], ["try", "--help=all"], ["try", "a", "-h", "all"]):
        assert main(words) == 0
        assert "what few people need:\n  --rare TEXT" in capsys.readouterr().out


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
