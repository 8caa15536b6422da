"""What a session of pytest leaves in the system's temporary folder: nothing, also if it fails."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ENDINGS = {"as it should": "", "with an error": "raise SystemError", "with its fork": "os.fork() or sys.exit(1)"}
SCRIPT = """
import os, subprocess, sys, tempfile
from tests.helpers import temporary_folder
print(temporary_folder.take())
child = "import os, tempfile; print(tempfile.mkdtemp(prefix='left-'), flush=True); os.kill(os.getpid(), 9)"
subprocess.run([sys.executable, "-c", child])
{ending}
assert tempfile.TemporaryFile()
"""


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS)
def test_files_of_a_session_and_of_its_killed_children_go_with_it(tmp_path, repository, ending):
    environment = {**os.environ, "PYTHONPATH": str(repository), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", SCRIPT.format(ending=ending)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    folder, left = result.stdout.splitlines()
    assert Path(folder).parent == tmp_path and Path(left).parent == Path(folder)
    assert not result.stderr or "SystemError" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_this_session_has_a_temporary_folder_of_its_own():
    assert Path(tempfile.gettempdir()).name.startswith("adv-mlm-")
    assert Path(os.environ["HF_HOME"]).parent == Path(tempfile.gettempdir())
