import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_nan_on_one_process_of_two_skips_the_update_on_both_and_leaves_them_identical(repository, tmp_path):
    script = repository / "tests" / "faults" / "nan_on_one_rank.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=600)
    assert done.stdout, done.stderr[-3000:]
    assert json.loads(done.stdout) == {
        "skipped": [1, 1],  # updates of the encoder and of the noiser
        "ranks_identical": True,
        "equals_left_out": True,
        "stopped_with": 1,
        "ranks_named": [0, 1],
        "ok": True,
    }
    assert done.returncode == 0
