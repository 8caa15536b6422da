"""Each configuration is started for real, on the CPU where it is meant for GPUs."""

import os
import socket
import subprocess
import sys
import time

import pytest
from accelerate.commands.config.config_args import load_config_from_file

NAMES = ("one_machine.yaml", "several_machines.yaml", "cpu.yaml")


@pytest.fixture
def configs(repository):
    return repository / "examples" / "accelerate_configs"


@pytest.fixture
def start(repository, configs, tmp_path):
    """Start the demo's script for two updates; gives the process."""

    def start(config: str, port: int, *options: str) -> subprocess.Popen:
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(configs / config)]
        launch += ["--num_processes", "2", "--main_process_port", str(port), *options]
        script = [str(repository / "examples" / "run_adv_mlm.py"), "examples/recipes/demo.yaml"]
        script += ["--max_steps", "2", "--eval_strategy", "no", "--max_eval_records", "30", "--logging_steps", "1"]
        script += ["--per_device_train_batch_size", "4", "--noiser_steps", "1", "--background_gate", ""]
        script += ["--use_cpu", "true", "--output_dir", str(tmp_path / "run")]
        return subprocess.Popen(
            [*launch, *script],
            cwd=repository,
            env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture
def port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_the_folder_holds_what_the_docs_name(configs, repository):
    assert sorted(path.name for path in configs.iterdir()) == sorted(NAMES)
    text = (repository / "docs" / "distributed.md").read_text()
    assert all(name in text for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_accelerate_reads_them(configs, name):
    config = load_config_from_file(str(configs / name))
    assert config.distributed_type == "MULTI_GPU" and config.mixed_precision == "no"
    assert config.use_cpu == (name == "cpu.yaml")
    assert config.num_processes % config.num_machines == 0
    assert (config.num_machines > 1) == (name == "several_machines.yaml")


def assert_two_processes_trained(output: str, status: int, folder) -> None:
    assert status == 0, output[-3000:]
    card = (folder / "README.md").read_text()
    assert "2 of 2 encoder updates, batch size 8 (4 per device, 1 accumulation step, 2 processes)" in card


@pytest.mark.exhaustive  # tests/distributed/test_failing_start.py starts one machine, too
@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_machine.yaml", "cpu.yaml"])
def test_one_machine_starts(start, port, tmp_path, name):
    process = start(name, port)
    output, _ = process.communicate(timeout=300)
    assert_two_processes_trained(output, process.returncode, tmp_path / "run")


@pytest.mark.exhaustive
@pytest.mark.slow
def test_two_machines_meet(start, port, tmp_path):
    first = start("several_machines.yaml", port, "--machine_rank", "0", "--main_process_ip", "127.0.0.1")
    while first.poll() is None and not is_open(port):  # on one host the second would else take it first
        time.sleep(0.2)
    second = start("several_machines.yaml", port, "--machine_rank", "1", "--main_process_ip", "127.0.0.1")
    for process in (first, second):
        output, _ = process.communicate(timeout=300)
        assert_two_processes_trained(output, process.returncode, tmp_path / "run")


def is_open(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
