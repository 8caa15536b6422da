"""Commands and snippets in Markdown pages: where they are, and whether they could run.

A block of code is in a fence, or indented by four spaces after an empty line. Each block is one of these:

- output: a fence with the language `text`, `bibtex` or `json`;
- marked: an HTML comment `<!-- not run: REASON -->` stands in front of it. It is only parsed;
- to run: all others. They are parsed, too.
"""

import ast
import functools
import importlib
import importlib.util
import re
import shlex
import subprocess
import tomllib
import typing
from dataclasses import dataclass
from pathlib import Path

from accelerate.commands.launch import launch_command_parser

from adversarial_mlm.cli.command_parser import build_parser
from adversarial_mlm.cli.main import COMMANDS, PROGRAM
from adversarial_mlm.comparison.compare import parse_arguments
from adversarial_mlm.comparison.recipe import ComparisonRecipe, read_comparison
from adversarial_mlm.downstream.arguments import OPTIONS as EVALUATE_OPTIONS
from adversarial_mlm.recipes.recipe import OPTIONS as TRAIN_OPTIONS
from adversarial_mlm.recipes.shipped import read_recipe
from adversarial_mlm.recipes.yaml_file import read_yaml
from adversarial_mlm.utils.option_sets import OptionSet
from adversarial_mlm.utils.options import Source, read_value
from benchmarks.__main__ import NAMES as BENCHMARKS
from benchmarks.gpu import command as gpu_benchmark

ROOT = Path(__file__).parents[2]
OUTPUT = ("text", "bibtex", "json")
SHELL = ("", "bash", "sh")
"""Languages of commands; an indented block has none."""

OTHER_PROGRAMS = {".", "cd", "git", "hf", "mkdir", "pre-commit", "printf", "rm", "sbatch", "squeue", "twine"}
"""Programs whose words are not checked."""

_MARK = re.compile(r"<!-- not run: ((?:(?!-->).)+?) -->\s*$", flags=re.DOTALL)
_BETWEEN = {"&&", "||", ";", "|"}
_SCRIPTS = {"run_adv_mlm.py": "train", "run_tape.py": "evaluate", "compare_masking.py": "compare"}
_PLACEHOLDER = "…"


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        page: Path of the page in the repository.
        line: Its first line in the page, from 1.
        language: As written behind the fence; empty without one.
        text: The code, without the fence or the indent.
        reason: Why it is not run, if it is marked.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """All pages with commands or snippets for readers, as paths in the repository."""
    patterns = ("README.md", "CONTRIBUTING.md", "docs/*.md", "model_cards/**/*.md", "examples/**/*.md")
    found = {path for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def blocks(page: str) -> list[Block]:
    """The blocks of code of a page that are not output."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found, start = [], 0
    while start < len(lines):
        fence = re.match(r"(\s*)(```+)(\S*)", lines[start])
        if fence:
            end = next(row for row in range(start + 1, len(lines)) if lines[row].strip() == fence[2])
            found.append((start + 1, fence[3], [line.removeprefix(fence[1]) for line in lines[start + 1 : end]]))
            start = end + 1
        elif lines[start].startswith("    ") and (start == 0 or not lines[start - 1].strip()):
            end = start
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            found.append((start, "", [line.removeprefix("    ") for line in lines[start:end]]))
            start = end
        else:
            start += 1
    return [
        Block(page, row + 1, language, "\n".join(code).strip("\n") + "\n", _reason(lines, row, language))
        for row, language, code in found
        if language not in OUTPUT
    ]


def _reason(lines: list[str], row: int, language: str) -> str | None:
    before = "\n".join(lines[: row - 1 if language or lines[row - 1].startswith("```") else row]).rstrip()
    mark = _MARK.search(before[-300:])
    return " ".join(mark[1].split()) if mark else None


def commands(text: str) -> list[list[str]]:
    """The commands of a block of shell code, without comments, assignments and redirections."""
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split, lexer.commenters = True, "#"
        found.append([])
        for word in lexer:
            if word in _BETWEEN or word == "&":
                found.append([])
            else:
                found[-1].append(word)
    return [words for words in map(_bare, found) if words]


def _bare(words: list[str]) -> list[str]:
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    ends = [index for index, word in enumerate(words) if word in (">", ">>", "<")]
    return words[: ends[0]] if ends else words


def check(block: Block) -> None:
    """Parse a block: raises an error if it could not run."""
    if block.language == "python":
        _check_python(block.text)
    elif block.language == "yaml":
        _check_yaml(block.text)
    elif block.language in SHELL:
        result = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        for words in commands(block.text):
            _check_command(words)
    else:
        raise AssertionError(f"is in {block.language}, which nothing checks; put output into a fence of `text`")


def _check_python(code: str) -> None:
    """It compiles, and what it imports exists, as far as the packages are installed."""
    for node in ast.walk(ast.parse(code)):
        names = [(alias.name, ()) for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [(node.module, tuple(alias.name for alias in node.names))]
        for module, members in names:
            if importlib.util.find_spec(module.partition(".")[0]) is None:
                continue  # an optional package
            loaded = importlib.import_module(module)
            for member in members:
                assert hasattr(loaded, member) or importlib.util.find_spec(f"{module}.{member}"), (module, member)


def _check_yaml(text: str) -> None:
    """Its keys are options of a recipe, or those of a comparison, which may be a part of one."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        content = read_yaml(str(path))
        if "arms" in content:
            read_comparison(str(path))
        elif content.keys() <= (hints := typing.get_type_hints(ComparisonRecipe)).keys():
            for name, value in content.items():
                read_value(hints[name], value, Source(str(path)), name)
        else:
            TRAIN_OPTIONS.read(content, Source(str(path)))


@functools.cache
def _parser(options: OptionSet):
    return options.parser()


def _check_command(words: list[str]) -> None:
    program, rest = words[0].rpartition("/")[2], words[1:]
    if program == PROGRAM:
        check_adv_mlm(rest)
    elif program == "accelerate":
        _check_accelerate(rest)
    elif program in ("python", "python3"):
        _check_interpreter(rest)
    elif program == "sbatch":  # a script, a recipe, an output_dir, options
        assert (ROOT / rest[0]).is_file(), rest[0]
        check_adv_mlm(["train", rest[1], "--output_dir", *rest[2:]])
    elif program == "make":
        targets = re.findall(r"(?m)^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"))
        assert {word for word in rest if "=" not in word} <= set(targets), words
    elif program == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        named = re.findall(r"(?:^|[ '.])(?:\.|adversarial-mlm)\[([\w,]+)\]", " ".join(rest))
        assert {extra for group in named for extra in group.split(",")} <= set(extras), words
    else:
        assert program in OTHER_PROGRAMS, f"{program} is not a known program; put output into a fence of `text`"


def check_adv_mlm(words: list[str]) -> None:
    """Parse the words of `adv-mlm`: the command, its recipe and its options exist, and values fit."""
    if words[0] in ("--help", "--version"):
        return
    name, *rest = words
    assert name in COMMANDS, f"adv-mlm has no command {name}"
    if "--help" in rest or "--list" in rest or rest == [_PLACEHOLDER]:
        return
    rest = [word for word in rest if word != _PLACEHOLDER]
    if name == "train":
        _check_recipe(rest[0], comparison=False)
        TRAIN_OPTIONS.read_words(rest[1:], _parser(TRAIN_OPTIONS))
    elif name == "evaluate":
        EVALUATE_OPTIONS.read_words(rest, _parser(EVALUATE_OPTIONS))
    elif name == "compare":
        _check_recipe(rest[0], comparison=True)
        _, of_training = parse_arguments(rest, PROGRAM)
        TRAIN_OPTIONS.read_words(of_training, _parser(TRAIN_OPTIONS))
    else:
        build_parser(importlib.import_module(COMMANDS[name][0]), f"{PROGRAM} {name}").read(rest)


def _check_recipe(word: str, comparison: bool) -> None:
    if not re.search(r"[./]", word) or (ROOT / word).exists():
        read_recipe(str(ROOT / word) if (ROOT / word).is_file() else word, comparison)


def _check_accelerate(words: list[str]) -> None:
    assert words[0] == "launch", words
    args = launch_command_parser().parse_args(words[1:])
    rest = list(args.training_script_args)
    if args.module:
        assert args.training_script == "adversarial_mlm", args.training_script
        check_adv_mlm(rest)
    else:
        assert (ROOT / args.training_script).is_file(), args.training_script
        check_adv_mlm([_SCRIPTS[Path(args.training_script).name], *rest])
    if args.config_file:
        assert (ROOT / args.config_file).is_file(), args.config_file


def _check_interpreter(words: list[str]) -> None:
    if words[:2] == ["-m", "adversarial_mlm"]:
        check_adv_mlm(words[2:])
    elif words[:2] == ["-m", "benchmarks"]:
        if words[2] == "gpu":
            gpu_benchmark.build_parser().parse_args(words[3:])
        else:
            assert words[2] in (*BENCHMARKS, "all"), words
    elif words[:1] == ["-c"]:
        _check_python(words[1])
    elif words[:2] == ["-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words[2:] if word.startswith("tests")), words
    elif words[:1] == ["-m"]:
        assert words[1] in ("build", "http.server", "pip", "venv"), words
    else:
        assert (ROOT / words[0]).is_file(), words
