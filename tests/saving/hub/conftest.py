import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.hub_server import TOKEN, HubServer

HERE = Path(__file__).parent


@pytest.fixture
def server():
    with HubServer() as server:
        yield server


@pytest.fixture
def run(server, repository, tmp_path):
    """Run a program with the real client pointed at the server; returns the finished process."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess:
        result = subprocess.run(
            [sys.executable, *words],
            cwd=repository,
            env={
                **os.environ,
                "PYTHONPATH": str(repository),
                "OMP_NUM_THREADS": "1",
                "HF_ENDPOINT": server.url,
                "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_XET": "1",
                "HF_HUB_DISABLE_TELEMETRY": "1",
                "HF_HOME": str(tmp_path / "hf_home"),
                "HF_TOKEN": TOKEN,
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert TOKEN not in result.stdout + result.stderr
        return result

    return run


@pytest.fixture
def train(run, tmp_path):
    """A run of `train.py`; returns its process and what it wrote about its pushes."""

    def train(final_pushes: int = 1, silence_limit: float = 60.0, **arguments):
        arguments = {"output_dir": str(tmp_path / "run"), "save_strategy": "steps", "save_steps": 2, **arguments}
        settings = {"arguments": arguments, "final_pushes": final_pushes, "silence_limit": silence_limit}
        result = run(str(HERE / "train.py"), json.dumps(settings))
        assert result.returncode == 0, result.stderr[-2000:]
        return result, json.loads((tmp_path / "run.json").read_text())

    return train
