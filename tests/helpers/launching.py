"""Starting several processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "examples" / "accelerate_configs"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def free_port() -> int:
    """A port for one test alone, as another may run beside it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def accelerate(config: str, *options: str) -> list[str]:
    """The words before those of a script."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config)]
    return [*launch, "--main_process_port", str(free_port()), *options]


def run(command: list[str], timeout: float = 300) -> subprocess.CompletedProcess:
    """Run to the end."""
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout)
