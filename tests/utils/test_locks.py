import os
import subprocess
import sys
import time

import pytest

from adversarial_mlm.utils.locks import try_lock, unlock_all_below

HOLD = """
import os, sys, time
from adversarial_mlm.utils.locks import try_lock
assert try_lock(sys.argv[1])
if os.fork() == 0:
    time.sleep(60)  # a worker that outlives its process
    os._exit(0)
print("held", flush=True)
time.sleep(60)
"""


def test_a_process_gets_its_own_lock_again(tmp_path):
    assert try_lock(str(tmp_path)) and try_lock(str(tmp_path))


def test_a_folder_that_was_removed_and_made_again_is_locked_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    assert try_lock(str(folder))
    unlock_all_below(str(tmp_path))
    os.remove(folder / ".lock")
    assert try_lock(str(folder)) and (folder / ".lock").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_another_process_has_the_lock_until_it_is_killed_whatever_it_leaves(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline().strip() == "held"
    assert not try_lock(str(tmp_path))
    holder.kill()
    holder.wait()
    deadline = time.monotonic() + 10
    while not (free := try_lock(str(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert free
