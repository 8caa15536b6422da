"""The short form of `make faults`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.exhaustive import exhaustive

ROOT = Path(__file__).parents[2]


def run_faults(tmp_path, *words) -> tuple[subprocess.CompletedProcess, dict]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.faults.run_faults", "--folder", str(tmp_path), *words]
    command += ["--output", str(tmp_path / "faults.json")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    return result, json.loads((tmp_path / "faults.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "kinds"), [(2, ("0", "3")), exhaustive(4, ())], ids=["alternate on 1 and reversal on 2", "all"]
)
def test_a_killed_run_goes_on_bitwise_as_if_it_had_never_stopped(tmp_path, kills, kinds):
    result, facts = run_faults(tmp_path, "--only", "kills", "--kills", str(kills), "--kinds", *kinds)
    assert result.returncode == 0, result.stdout[-3000:]
    count = facts["kills"]["kills"]
    assert result.stdout.splitlines()[-1] == f"kills: {count}, resumed: {count}, bitwise equal: {count}"
    assert count >= kills and facts["kills"]["on_two_processes"] > 0
    assert all(kill["different"] == [] for kill in facts["kills"]["each"])


@pytest.mark.exhaustive  # `make faults` runs it, too
def test_a_full_disk_leaves_earlier_checkpoints_whole_and_is_said_in_one_sentence(tmp_path):
    result, facts = run_faults(tmp_path, "--only", "disk_fills", "files_are_limited")
    assert result.returncode == 0, result.stdout[-3000:] + json.dumps(facts, indent=1)
    assert facts["files_are_limited"]["passed"] and facts["files_are_limited"]["saves_that_failed"] == 4
    if "skipped" in facts["disk_fills"]:
        pytest.skip(facts["disk_fills"]["skipped"])
    assert facts["disk_fills"]["passed"]
