"""A loss that is nan on one process of two: both skip the update, stay identical, and go on.

    python tests/faults/nan_on_one_rank.py FOLDER

Two processes of the CPU train three times: with the fault, with those updates simply left out, and with nothing but
faults. `run` does the same from Python.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "examples" / "accelerate_configs" / "cpu.yaml"
PROCESS = Path(__file__).parent / "nan_run.py"


def launch(folder: Path) -> int:
    """Train on two processes, started by accelerate; returns the exit status of the last of the three runs.

    Raises:
        RuntimeError: If the first two did not come to their end; with the end of what the processes said.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)]
    command += ["--main_process_port", str(port), str(PROCESS), str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    if not (folder / "always" / "nonfinite_records.json").exists():
        raise RuntimeError(f"exit status {done.returncode}: {done.stderr[-3000:]}")
    return done.returncode


def run(folder: str | Path, launch: Callable[[Path], int] = launch) -> dict:
    """Train and compare.

    Args:
        folder (`str` or `Path`): For the runs; made where it is not there.
        launch (`Callable`, *optional*): Trains on two processes in another way.

    Returns:
        `dict`: `skipped` (updates of the encoder and of the noiser, by the log), `ranks_identical` (parameters,
        moments and counts of both processes, bitwise), `equals_left_out` (the same, to the run that left the updates
        out), `stopped_with` (exit status of the run in which all is bad), `ranks_named` (the processes whose records
        its file names) and `ok` (all is as it should be).
    """
    folder = Path(folder)
    status = launch(folder)
    states = {(mode, rank): load_file(folder / mode / f"rank{rank}.safetensors")
              for mode in ("spoiled", "left_out") for rank in range(2)}  # fmt: skip
    with open(folder / "spoiled" / "metrics.jsonl") as file:
        entries = [json.loads(line) for line in file]
    skipped = [
        sum(int(entry.get(key, 0)) for entry in entries) for key in ("skipped_updates", "noiser_skipped_updates")
    ]
    with open(folder / "always" / "nonfinite_records.json") as file:
        named = json.load(file)["updates"]
    result = {
        "skipped": skipped,
        "ranks_identical": all(_same(states[mode, 0], states[mode, 1]) for mode in ("spoiled", "left_out")),
        "equals_left_out": _same(states["spoiled", 0], states["left_out", 0]),
        "stopped_with": status,
        "ranks_named": sorted({entry["rank"] for entry in named if entry["records"]}),
    }
    finite = all(torch.isfinite(value).all() for value in states["spoiled", 0].values())
    expected = {"skipped": [1, 1], "ranks_identical": True, "equals_left_out": True, "stopped_with": 1}
    return {**result, "ok": finite and result == {**expected, "ranks_named": [0, 1]}}


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def main() -> int:
    """Returns the exit status: 0 where all is as it should be."""
    result = run(sys.argv[1])
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
