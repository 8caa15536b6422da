import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adversarial_mlm.utils import interrupts
from adversarial_mlm.utils.errors import Interrupted

ROOT = Path(__file__).parents[2]


def handlers():
    return [signal.getsignal(number) for number in interrupts.SIGNALS]


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_signal_is_raised_once_and_the_handlers_come_back(number):
    before = handlers()
    with pytest.raises(Interrupted) as raised, interrupts.raised():
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # as by a terminal and a launcher
    assert raised.value.signal == number and handlers() == before
    assert [interrupts.exit_status(number) for number in interrupts.SIGNALS] == [143, 130]


def test_a_signal_that_was_to_be_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.raised():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def run(code: str) -> subprocess.CompletedProcess:
    """Run a program that imports only this module, which takes a tenth of a second."""
    command = [
        sys.executable,
        "-c",
        f"import os, signal, sys, time\nfrom adversarial_mlm.utils import interrupts\n{code}",
    ]
    return subprocess.run(command, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("number", interrupts.SIGNALS)
def test_a_program_that_starts_ends_in_one_sentence(number):
    result = run(
        f"interrupts.end_at_once('prog')\nprint('told', end='')\nos.kill(os.getpid(), {number:d})\ntime.sleep(9)"
    )
    assert (result.returncode, result.stdout, result.stderr) == (
        128 + number,
        "told",
        f"prog: stopped by {number.name}\n",
    )


def test_a_second_signal_ends_the_program_at_once_without_a_second_sentence():
    result = run(
        "interrupts.ONE_AND_THE_SAME = 0.2\ninterrupts.end_at_once('prog')\n"
        "try:\n"
        "    with interrupts.raised():\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "except interrupts.Interrupted:\n"
        "    print('prog: stopped', file=sys.stderr)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"  # passed on by a launcher
        "    time.sleep(0.3)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(9)"
    )
    assert (result.returncode, result.stderr) == (130, "prog: stopped\n")


def test_this_module_is_imported_before_anything_that_takes_time():
    result = run("print(*[name for name in ('numpy', 'torch', 'datasets', 'transformers') if name in sys.modules])")
    assert result.stdout == "\n" and result.returncode == 0, result.stderr
    for script in (ROOT / "examples").glob("*.py"):
        lines = script.read_text().splitlines()
        imports = [line for line in lines if line.startswith(("import ", "from "))]
        assert imports[0] == "from adversarial_mlm.utils import interrupts", script
        assert lines.index("    interrupts.end_at_once()  # the imports take seconds") < lines.index(imports[1]), (
            script
        )


@pytest.mark.parametrize(("status", "daemon", "waits"), [(130, False, False), (130, True, False), (0, False, True)])
def test_a_program_that_a_signal_stopped_does_not_wait_for_its_threads(status, daemon, waits):
    result = run(
        "import atexit, threading\natexit.register(print, 'cleaned')\n"
        f"threading.Thread(target=time.sleep, args=(0.6,), daemon={daemon}).start()\nbegan = time.monotonic()\n"
        f"atexit.register(lambda: print(time.monotonic() - began > 0.5))\nsys.exit(interrupts.leave({status}))"
    )
    assert (result.returncode, result.stdout.split()) == (status, [str(waits), "cleaned"]), result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_leaves_sigint_to_its_parent_and_ends_at_sigterm():
    with interrupts.raised():
        worker = os.fork()
        if worker == 0:
            time.sleep(20)
            os._exit(0)
        time.sleep(0.05)
        os.kill(worker, signal.SIGINT)
        time.sleep(0.05)
        assert os.waitpid(worker, os.WNOHANG) == (0, 0)
        os.kill(worker, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == -signal.SIGTERM


def test_a_process_that_is_started_while_sigint_is_held_back_never_gets_it():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('still here')"
    with pytest.raises(Interrupted), interrupts.raised():
        with interrupts.held_back():
            os.kill(os.getpid(), signal.SIGINT)  # arrives at the end of the block
            worker = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            assert worker.stdout == "still here\n"
        pytest.fail("the signal was lost")
