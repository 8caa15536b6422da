"""Starting several processes."""

import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from accelerate.state import AcceleratorState, PartialState

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


@contextlib.contextmanager
def forked_launch(number: int, work: Callable[[], object]) -> Iterator[list[tuple[object, bool]]]:
    """Forks of this process form one distributed run on the CPU; they end with the context.

    Args:
        number (`int`): How many.
        work (`Callable`): What each of them does.

    Returns:
        By rank: what `work` returned, or the message of its `ValueError`, and whether it is told elsewhere.
    """
    context = multiprocessing.get_context("fork")
    results, over, port = context.SimpleQueue(), context.Event(), free_port()

    def member(rank: int) -> None:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(number))
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState(cpu=True)
        try:
            outcome = work(), False
        except ValueError as error:
            outcome = str(error), getattr(error, "told_elsewhere", False)
        results.put((rank, outcome))
        over.wait(60)
        os._exit(0)

    members = [context.Process(target=member, args=(rank,), daemon=True) for rank in range(number)]
    for process in members:
        process.start()
    try:
        yield [outcome for _, outcome in sorted(results.get() for _ in members)]
    finally:
        over.set()
        for process in members:
            process.join()
