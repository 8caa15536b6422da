"""Python programs in forks of an interpreter that has imported what they need: a start then costs no imports.

The interpreter is a process of its own, which has computed nothing before it forks. A fork of pytest's process might
hang, or could not train where there is a GPU.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.launching import ENVIRONMENT, ROOT, free_port

_PAUSE = 0.01  # seconds between two looks at whether a program has ended
_MODULES = (
    "adversarial_mlm.cli.compare",
    "adversarial_mlm.cli.train",
    "adversarial_mlm.comparison.compare",
    "adversarial_mlm.recipes.run",
    "tests.faults.run_faults",
    "torch._dynamo",
    "transformers.models.bert.modeling_bert",
    "transformers.models.esm.modeling_esm",
)


class Preloaded:
    """The interpreter that forks. [`preloaded`] makes one and ends it."""

    def __init__(self, environment: dict[str, str], folder: Path):
        self._environment, self._folder, self._started = environment, folder, 0
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__], cwd=ROOT, env=environment, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def start(self, *words: str | Path, folder: Path | None = None, **environment: str) -> "Program":
        """Start a program.

        Args:
            *words (`str` or `Path`): The script, or `-m` and a module, and its arguments.
            folder (`Path`, *optional*): Its working directory; by default the repository.
            **environment (`str`): Variables beside those of the interpreter. What was imported has read its own.
        """
        self._started += 1
        program = Program(self, self._folder / str(self._started))
        job = {"words": [str(word) for word in words], "folder": str(folder or ROOT), "output": str(program.output)}
        program.pid = self.ask({**job, "environment": {**self._environment, **environment}})
        return program

    def run(self, *words: str | Path, timeout: float = 300, **options) -> subprocess.CompletedProcess:
        """Run a program to its end, see [`start`]."""
        program = self.start(*words, **options)
        output, errors = program.communicate(timeout)
        return subprocess.CompletedProcess([str(word) for word in words], program.returncode, output, errors)

    def launch(self, number: int, *words: str | Path, timeout: float = 300) -> list[subprocess.CompletedProcess]:
        """Run a program on one or several processes of the CPU, as a launcher does; returns them by rank."""
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(number)}
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), **common} for rank in range(number)]
        programs = [self.start(*words, **(rank if number > 1 else {}), ACCELERATE_USE_CPU="true") for rank in ranks]
        said = [program.communicate(timeout) for program in programs]
        return [
            subprocess.CompletedProcess([str(word) for word in words], program.returncode, *texts)
            for program, texts in zip(programs, said, strict=True)
        ]

    def ask(self, job: dict) -> int | None:
        """Send a job to the interpreter, and return its answer."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        answer = self._server.stdout.readline()
        assert answer, f"the interpreter has ended with status {self._server.wait()}"
        return json.loads(answer)

    def close(self) -> None:
        self._server.communicate(timeout=60)


class Program:
    """A program that runs, or has run, as a fork; as `subprocess.Popen` in what it offers."""

    pid: int
    returncode: int | None = None

    def __init__(self, interpreter: Preloaded, output: Path):
        self._interpreter, self.output = interpreter, output

    def poll(self) -> int | None:
        """The exit status, negative for a signal; `None` while the program runs."""
        if self.returncode is None:
            self.returncode = self._interpreter.ask({"poll": self.pid})
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for the end; returns what the program wrote to stdout and to stderr.

        Raises:
            subprocess.TimeoutExpired: After `timeout` seconds. The program is killed then.
        """
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(_PAUSE)
        output, errors = (self.output.with_suffix(f".{stream}").read_text() for stream in ("out", "err"))
        return output, errors


@contextlib.contextmanager
def preloaded(**environment: str) -> Iterator[Preloaded]:
    """Start an interpreter that has imported what trains, compares and pushes.

    Args:
        **environment (`str`): Variables of its environment that libraries read when they are imported.
    """
    with tempfile.TemporaryDirectory(prefix="preloaded-") as folder:
        interpreter = Preloaded({**ENVIRONMENT, **environment}, Path(folder))
        yield interpreter
        interpreter.close()


# ---- In the interpreter itself ----


def _serve() -> None:
    """Import, then fork for every job on stdin, and answer on stdout."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what an import prints is no answer
    for name in _MODULES:
        importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        if "poll" in job:
            found, status = os.waitpid(job["poll"], os.WNOHANG)
            print(json.dumps(os.waitstatus_to_exitcode(status) if found else None), file=answers)
            continue
        process = os.fork()
        if not process:
            answers.close()
            return _become(**job)
        print(process, file=answers)


def _become(words: list[str], folder: str, output: str, environment: dict[str, str]) -> None:
    """Be the program, in the fork."""
    for number, path, mode in ((0, os.devnull, os.O_RDONLY), (1, f"{output}.out", os.O_WRONLY | os.O_CREAT),
                               (2, f"{output}.err", os.O_WRONLY | os.O_CREAT)):  # fmt: skip
        opened = os.open(path, mode)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    _serve()
