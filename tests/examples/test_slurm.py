"""The scripts for Slurm, with stand-ins for its commands."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from adversarial_mlm.recipes.recipe import parse_recipe
from tests.helpers.launching import free_port

SCRIPTS = {"one_node.sbatch": 1, "several_nodes.sbatch": 2}
# each task is a process of the stand-in, which notes their ids; its status is the highest of theirs
COMMANDS = {
    "srun": """
[ "$1" = --kill-on-bad-exit=1 ] || exit 90
shift
for task in $(seq 0 $((SLURM_NTASKS - 1))); do
    SLURM_PROCID=$task SLURM_LOCALID=$((task % SLURM_NTASKS_PER_NODE)) "$@" &
    echo $! >> "$STATE/tasks"
done
highest=0
for task in $(cat "$STATE/tasks"); do
    wait "$task"; status=$?
    [ "$status" -le "$highest" ] || highest=$status
done
exit "$highest"
""",
    "scancel": 'echo "$*" >> "$STATE/scancel"; kill -TERM $(cat "$STATE/tasks")',
    "scontrol": """
echo "$*" >> "$STATE/scontrol"
if [ "$*" = "show hostnames $SLURM_JOB_NODELIST" ]; then printf '127.0.0.1\\nother-node\\n'; fi
""",
}
# in place of the program: notes how it was started, and waits for TERM if it is told to
PYTHON = """
printf '%s\\n' "$RANK $LOCAL_RANK $WORLD_SIZE $MASTER_ADDR $MASTER_PORT $*" >> "$STATE/started"
[ -e "$STATE/waits" ] || exit 0
trap 'exit 143' TERM
touch "$STATE/waiting-$RANK"
while :; do sleep 0.02; done
"""


@pytest.fixture
def job(repository, tmp_path):
    """Starts a script as Slurm would on a cluster; gives the process of the batch shell."""
    bin_folder, state = tmp_path / "bin", tmp_path / "state"
    bin_folder.mkdir()
    state.mkdir()

    def write(name: str, text: str) -> None:
        (bin_folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (bin_folder / name).chmod(0o755)

    for name, text in COMMANDS.items():
        write(name, text)

    def job(script: str, *words: str, python: str = PYTHON, **variables: str) -> subprocess.Popen:
        write("python", python)
        (state / "tasks").unlink(missing_ok=True)
        of_script = options_of(repository / "examples" / "slurm" / script)
        nodes, tasks = int(of_script["nodes"]), int(variables.pop("tasks", of_script["ntasks-per-node"]))
        environment = {
            **os.environ,
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(repository),
            "STATE": str(state),
            "SLURM_JOB_ID": str(free_port() % 10000),
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_NTASKS": str(nodes * tasks),
            "SLURM_NTASKS_PER_NODE": str(tasks),
            "SLURM_CPUS_PER_TASK": "1",
            **variables,
        }
        return subprocess.Popen(
            ["bash", str(repository / "examples" / "slurm" / script), *words],
            cwd=without_environment(repository, tmp_path),
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    return job


def without_environment(repository, tmp_path):
    """A folder like the clone, in which no `.venv` hides the stand-ins."""
    clone = tmp_path / "clone"
    clone.mkdir(exist_ok=True)
    if not (clone / "examples").exists():
        (clone / "examples").symlink_to(repository / "examples")
    return clone


def options_of(script) -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script.read_text(), flags=re.M)
    return dict(found)


def finish(process: subprocess.Popen, status: int, timeout: float = 20) -> str:
    said = "".join(process.communicate(timeout=timeout))
    assert process.returncode == status, said
    return said


def wait_for(condition, process: subprocess.Popen, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert condition(), process.poll()


@pytest.mark.parametrize(("script", "nodes"), SCRIPTS.items())
def test_a_script_asks_for_a_process_per_gpu_for_a_signal_and_for_its_next_turn(repository, script, nodes):
    path = repository / "examples" / "slurm" / script
    for part in (path, path.with_name("train.sh")):
        assert subprocess.run(["bash", "-n", str(part)]).returncode == 0
    options = options_of(path)
    assert int(options["nodes"]) == nodes and options["ntasks-per-node"] == options["gpus-per-node"]
    assert options["signal"] == "B:TERM@120" and "requeue" in options and options["open-mode"] == "append"
    assert f"examples/slurm/{script}" in (repository / "docs" / "distributed.md").read_text()


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_process_gets_its_rank_and_a_command_that_our_parser_reads(job, tmp_path, demo_fasta, script):
    output_dir = str(tmp_path / "run")
    finish(job(script, "quick", output_dir, "--train_data", str(demo_fasta)), 0)
    started = sorted(line.split() for line in (tmp_path / "state" / "started").read_text().splitlines())
    tasks = SCRIPTS[script] * 4
    assert [line[:3] for line in started] == [[str(n), str(n % 4), str(tasks)] for n in range(tasks)]
    assert len({tuple(line[3:]) for line in started}) == 1 and started[0][3] == "127.0.0.1"
    assert started[0][5:8] == ["-m", "adversarial_mlm", "train"]
    assert parse_recipe(started[0][8:], "train").training.output_dir == output_dir
    assert "requeue" not in (tmp_path / "state" / "scontrol").read_text()


def test_term_reaches_all_processes_and_the_job_waits_for_its_next_turn(job, tmp_path):
    state = tmp_path / "state"
    (state / "waits").touch()
    process = job("several_nodes.sbatch", "quick", str(tmp_path / "run"))
    wait_for(lambda: len(list(state.glob("waiting-*"))) == 8, process)
    process.send_signal(signal.SIGTERM)
    finish(process, 143)
    job_id = (state / "scancel").read_text().split()[-1]
    assert (state / "scancel").read_text() == f"--signal=TERM {job_id}\n"
    assert (state / "scontrol").read_text().splitlines()[-1] == f"requeue {job_id}"


@pytest.mark.parametrize(
    ("checkpoint", "restarts", "words"),
    [
        (True, "1", ["--resume_from_checkpoint", "latest"]),
        (True, "0", ["--resume_from_checkpoint", "latest"]),
        (False, "1", ["--overwrite_output_dir", "true"]),
        (False, "0", []),
    ],
)
def test_a_job_goes_on_from_the_newest_checkpoint_if_there_is_one(job, tmp_path, checkpoint, restarts, words):
    folder = tmp_path / "run"
    (folder / "checkpoint-20" if checkpoint else folder).mkdir(parents=True)
    finish(job("one_node.sbatch", "quick", str(folder), SLURM_RESTART_COUNT=restarts), 0)
    started = (tmp_path / "state" / "started").read_text().splitlines()[0].split()
    assert started[5:] == ["-m", "adversarial_mlm", "train", "quick", "--output_dir", str(folder), *words]


def test_a_failure_is_not_repeated(job, tmp_path):
    finish(job("one_node.sbatch", "quick", str(tmp_path / "run"), python="exit 2"), 2)
    assert "requeue" not in (tmp_path / "state" / "scontrol").read_text()
    said = finish(job("one_node.sbatch", "quick"), 1)
    assert "give a recipe and an output_dir" in said


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_real_run_of_two_processes_stops_with_a_checkpoint_and_goes_on(job, tmp_path, demo_fasta):
    folder, python = tmp_path / "run", f'exec "{sys.executable}" "$@"'
    words = ["quick", str(folder), "--train_data", str(demo_fasta), "--max_steps", "100000", "--use_cpu", "true"]
    words += ["--encoder", "tiny", "--noiser", "tiny", "--max_length", "32", "--per_device_train_batch_size", "2"]
    words += ["--logging_steps", "1", "--save_strategy", "no", "--eval_strategy", "no", "--report_to", "none"]
    words += ["--disable_tqdm", "true", "--max_eval_records", "20", "--report", "false"]
    process = job("one_node.sbatch", *words, python=python, tasks="2")
    wait_for((folder / "metrics.jsonl").exists, process, 200)
    process.send_signal(signal.SIGTERM)
    said = finish(process, 143, 120)
    (checkpoint,) = folder.glob("checkpoint-*")
    step = int(checkpoint.name.split("-")[1])
    assert f"stopped by SIGTERM after step {step}" in said
    assert "requeue" in (tmp_path / "state" / "scontrol").read_text()
    words[words.index("100000")] = str(step + 2)
    said = finish(
        job("one_node.sbatch", *words, python=python, tasks="2", SLURM_RESTART_COUNT="1"), 0, 200
    )  # fmt: skip
    assert "resuming from" in said and f"checkpoint-{step}" in said
