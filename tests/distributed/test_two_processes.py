import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("game", ["alternate", "reversal", "credit", "stream"])
def test_two_processes_train_as_one_does(tmp_path, game):
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    alone, together = str(tmp_path / "alone"), str(tmp_path / "together")
    script = str(HERE / "train.py")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(HERE / "gloo.yaml")]
    launch += ["--main_process_port", str(free_port())]  # another test may run beside this one
    for command in ([sys.executable, script, alone, "1", game], [*launch, script, together, "2", game]):
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-3000:]
    one = load_file(f"{alone}/rank0.safetensors")
    for rank in range(2):
        other = load_file(f"{together}/rank{rank}.safetensors")
        assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-10
    logs = [[json.loads(line) for line in open(f"{folder}/metrics.jsonl")] for folder in (alone, together)]
    compared = 0
    for a, b in zip(*logs, strict=True):
        for key in ("loss", "gap", "noiser_pay", "mask_rate", "eval_loss", "eval_accuracy", "eval_masked_residues",
            "eval_few_loss", "eval_few_gap", "eval_few_residues"):  # fmt: skip
            assert (key in a) == (key in b)
            if key in a:
                assert a[key] == pytest.approx(b[key], rel=1e-6, abs=1e-9)
                compared += 1
    assert compared > 20
