"""A real Chromium without a window, driven by Playwright, and the page of `adv-mlm demo` in a process of its own."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")  # it runs as root in containers


@contextlib.contextmanager
def chromium() -> Iterator:
    """Start the machine's own browser; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra test is not installed")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("there is no Chromium: `make browser` installs it where apt-get may")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=_OPTIONS)
        yield browser
        browser.close()


@contextlib.contextmanager
def served(repository: Path, *words: str) -> Iterator[str]:
    """Start `adv-mlm demo` as a person would; yields its address, and stops it by SIGINT as Ctrl-C does."""
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "adversarial_mlm", "demo", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+)/?  \(stop with Ctrl-C\)\n", line)
        assert found, line + (process.communicate()[1] if process.poll() is not None or not line else "")
        yield found[1]
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130 and said == "adv-mlm: stopped by SIGINT; the page is closed\n", said
    finally:
        process.kill()
        process.wait()
