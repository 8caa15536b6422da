"""The short form of `make faults`."""

import json
import subprocess

import pytest

from tests.helpers.exhaustive import exhaustive


@pytest.fixture
def run_faults(interpreter, tmp_path):
    def run_faults(*words: str) -> tuple[subprocess.CompletedProcess, dict]:
        folders = ("--folder", tmp_path, "--output", tmp_path / "faults.json")
        result = interpreter.run("-m", "tests.faults.run_faults", *words, *folders, timeout=600)
        return result, json.loads((tmp_path / "faults.json").read_text())

    return run_faults


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "kinds"), [(2, ("0", "3")), exhaustive(4, ())], ids=["alternate on 1 and reversal on 2", "all"]
)
def test_a_killed_run_goes_on_bitwise_as_if_it_had_never_stopped(run_faults, kills, kinds):
    result, facts = run_faults("--only", "kills", "--kills", str(kills), "--kinds", *kinds)
    assert result.returncode == 0, result.stdout[-3000:]
    count = facts["kills"]["kills"]
    assert result.stdout.splitlines()[-1] == f"kills: {count}, resumed: {count}, bitwise equal: {count}"
    assert count >= kills and facts["kills"]["on_two_processes"] > 0
    assert all(kill["different"] == [] for kill in facts["kills"]["each"])


@pytest.mark.exhaustive  # `make faults` runs it, too
def test_a_full_disk_leaves_earlier_checkpoints_whole_and_is_said_in_one_sentence(run_faults):
    result, facts = run_faults("--only", "disk_fills", "files_are_limited")
    assert result.returncode == 0, result.stdout[-3000:] + json.dumps(facts, indent=1)
    assert facts["files_are_limited"]["passed"] and facts["files_are_limited"]["saves_that_failed"] == 4
    if "skipped" in facts["disk_fills"]:
        pytest.skip(facts["disk_fills"]["skipped"])
    assert facts["disk_fills"]["passed"]
