"""The script as users start it."""

import json
import runpy
import signal
import sys
import time

import pytest
import yaml
from transformers.utils import logging as transformers_logging

from tests.helpers.preloaded import Program


@pytest.fixture
def recipe(repository, tmp_path):
    data = repository / "examples" / "data"
    content = {
        "corpus": "the demo's proteins",
        "output_dir": str(tmp_path / "study"),
        "seeds": [0],
        "measured_turns": 1,
        "plot": False,
        "common": {
            "train_data": [str(data / "demo.fasta")],
            "cluster_table": str(data / "demo_clusters.tsv"),
            "holdout_members": 0.1,
            "max_eval_records": 40,
            "cache_dir": str(tmp_path / "cache"),
            "max_length": 32,
            "encoder": "tiny",
            "per_device_train_batch_size": 2,
            "logging_steps": 2,
            "save_steps": 2,
            "disable_tqdm": True,
            "use_cpu": True,
        },
        "arms": {
            "random": {"options": {"masking": "random", "mask_options": [0.9, 0.05, 0.05]}},
            "game": {
                "options": {"preset": "blind", "noiser": "tiny", "adversarial_rate": 0.1, "random_rate": 0.1},
                "against": "random",
            },
        },
        "budgets": {"updates": {"equal": "updates", "updates": 12}},
    }
    path = tmp_path / "compare.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture
def start(interpreter, repository, recipe, tmp_path):
    def start(*words: str) -> Program:
        return interpreter.start(repository / "examples" / "compare_masking.py", recipe, *words, folder=tmp_path)

    return start


def finish(process: Program, status: int = 0) -> tuple[str, str]:
    said = process.communicate()
    assert process.returncode == status, said[1]
    return said


def wait_for(path_of, process: Program) -> None:
    end = time.monotonic() + 200
    while not path_of() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[1]


@pytest.mark.slow
def test_killed_stopped_and_started_again_it_comes_to_its_tables(start, tmp_path):
    runs = tmp_path / "study" / "runs"
    process = start()
    wait_for(lambda: list(runs.glob("random/*/*/checkpoint-*")), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(runs.glob("*/*/*/result.json"))

    process = start()
    wait_for(lambda: list(runs.glob("game/*/*/checkpoint-*")), process)
    process.send_signal(signal.SIGTERM)
    _, errors = finish(process, 143)
    assert "stopped by SIGTERM; start the same command to resume" in errors and "Traceback" not in errors
    assert "resuming from" in errors  # the random run, from its checkpoint

    output, errors = finish(start())
    assert "resuming from" in errors and "[2 of 2] game/seed-0/12-updates" in errors
    assert "game − random" in output and f"Written     {tmp_path}/study/study.md" in output


@pytest.mark.exhaustive  # tests/comparison/test_compare.py has runs that another process is at
@pytest.mark.slow
def test_two_processes_share_the_runs_of_one_folder(start, tmp_path):
    both = [start(), start()]
    outputs = [finish(process)[0] for process in both]
    assert any("## How do I read this report?" in output for output in outputs)
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    assert all(len(arm["seeds"]) == 1 for arm in study["arms"])
    assert not list((tmp_path / "study").glob("runs/*/*/*/.checkpoint*"))


@pytest.fixture
def call(repository, recipe, monkeypatch, capsys):
    """Call the script's `main` in this process; returns the exit status and what it wrote to stderr."""

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["examples/compare_masking.py", str(recipe), *words])
        try:
            status = runpy.run_path(str(repository / "examples" / "compare_masking.py"))["main"]()
        except SystemExit as stop:
            status = stop.code
        return status, capsys.readouterr().err

    verbosity = transformers_logging.get_verbosity()
    yield call
    transformers_logging.set_verbosity(verbosity)
    transformers_logging.enable_progress_bar()


def test_a_mistake_ends_with_status_2_and_one_sentence(call, recipe):
    recipe.write_text(recipe.read_text().replace("against", "agianst"))
    status, errors = call()
    assert status == 2
    assert errors.splitlines()[-1].endswith("unknown option 'arms.game.agianst'; did you mean 'against'?")
    assert errors.splitlines()[-1].startswith("compare_masking.py: ") and "Traceback" not in errors


def test_an_unknown_option_on_the_command_line_is_named(call):
    status, errors = call("--learning_rat", "1")
    assert status == 2
    assert "unknown option 'learning_rat' on the command line; did you mean 'learning_rate'?" in errors
    assert "Traceback" not in errors
