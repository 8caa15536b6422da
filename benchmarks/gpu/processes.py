"""Two processes beside one: how much an update is longer because gradients are summed over them.

`python -m benchmarks.gpu.processes FILE` is one of the processes; [`scaling`] starts them.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from .setting import Setting
from .steps import StepSeconds, steps_of
from .training_rows import ours

_ROOT = Path(__file__).parents[2]


def scaling(setting: Setting) -> dict:
    """Seconds of an update with the same rows per process, for one process and for two."""
    alone, together = (_seconds(setting, number) for number in (1, 2))
    return {
        "one_s": alone,
        "two_s": together,
        "exposed_all_reduce_s": together - alone,
        "share_of_twice_the_speed": alone / together,
    }


def _seconds(setting: Setting, processes: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "seconds.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command.append(f"--log-dir={folder}")  # without it, the launcher leaves a folder behind
        command += ["-m", "benchmarks.gpu.processes", str(file), *(["--miniature"] if setting.miniature else [])]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(f"{processes} processes failed: {done.stderr[-400:]}")
        return json.loads(file.read_text(encoding="utf-8"))


def _main() -> None:
    setting = Setting(miniature="--miniature" in sys.argv)
    reading = "packed" if setting.device.type == "cuda" else "chunks"
    trainer = ours(setting, setting.shapes[0], "bf16", reading, setting.tokens[-1])
    watch = StepSeconds(setting.device, steps_of(setting) + 2)  # without its profile
    trainer.add_callback(watch)
    trainer.train()
    if trainer.is_world_process_zero():
        Path(sys.argv[1]).write_text(json.dumps(statistics.median(watch.seconds[setting.warm_up :])))
    trainer.accelerator.end_training()


if __name__ == "__main__":
    _main()
