import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.hub_server import TOKEN, HubServer
from tests.helpers.preloaded import Preloaded, preloaded

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def port() -> Iterator[int]:
    """Where every test's own server listens, one after the other: libraries read the address when they are imported.

    No other program may take the port between two servers.
    """
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


@pytest.fixture
def server(port):
    with HubServer(port) as server:
        yield server


@pytest.fixture(scope="session")
def environment(port, tmp_path_factory) -> dict[str, str]:
    """Variables that point the real client at the server."""
    return {
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(tmp_path_factory.mktemp("hf_home")),
        "HF_TOKEN": TOKEN,
    }


@pytest.fixture
def run(server, environment, repository, tmp_path):
    """Run a program with the real client pointed at the server; returns the finished process."""

    def run(*words: str, **more: str) -> subprocess.CompletedProcess:
        own = {"PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "hf_home")}
        result = subprocess.run(
            [sys.executable, *words],
            cwd=repository,
            env={**os.environ, **environment, **own, **more},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert TOKEN not in result.stdout + result.stderr
        return result

    return run


@pytest.fixture(scope="session")
def interpreter_with_hub(environment) -> Iterator[Preloaded]:
    with preloaded(**environment) as interpreter:
        yield interpreter


@pytest.fixture
def train(server, interpreter_with_hub, tmp_path):
    """A run of `train.py`; returns its process and what it wrote about its pushes."""

    def train(final_pushes: int = 1, silence_limit: float = 60.0, **arguments):
        arguments = {"output_dir": str(tmp_path / "run"), "save_strategy": "steps", "save_steps": 2, **arguments}
        settings = {"arguments": arguments, "final_pushes": final_pushes, "silence_limit": silence_limit}
        result = interpreter_with_hub.run(HERE / "train.py", json.dumps(settings))
        assert TOKEN not in result.stdout + result.stderr
        assert result.returncode == 0, result.stderr[-2000:]
        return result, json.loads((tmp_path / "run.json").read_text())

    return train
