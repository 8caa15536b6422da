"""The script as users start it."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def run(repository, tmp_path):
    def run(*words: str, launcher: bool = False) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--num_processes", "1"]
        command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        script = [str(repository / "examples" / "run_adv_mlm.py"), *words]
        return subprocess.run(
            (command if launcher else [sys.executable]) + script,
            cwd=repository,
            env={**os.environ, "PYTHONPATH": str(repository)},
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.slow
def test_the_demo_prints_its_block_and_fails_when_it_has_learned_nothing(run, tmp_path):
    result = run(
        "examples/recipes/demo.yaml", "--max_steps", "2", "--eval_strategy", "no", "--max_eval_records", "30",
        "--per_device_train_batch_size", "4", "--logging_steps", "1", "--output_dir", str(tmp_path / "run"),
        "--noiser_steps", "1",
        launcher=True,
    )  # fmt: skip
    assert result.returncode == 1, result.stderr[-2000:]
    for words in (
        "members     cross-entropy", "families    cross-entropy", "background predictor", "masked by it",
        "it masks most", "residues/s", "Checkpoint", "README.md", "metrics.jsonl", "FAILED      members",
    ):  # fmt: skip
        assert words in result.stdout, words
    assert "Traceback" not in result.stderr
    assert "2,240 records read" in result.stderr + result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["examples/recipes/demo.yaml", "--learnin_rate", "1"], "did you mean 'learning_rate'"),
        (["--train_data", "README.md", "--output_dir", "{tmp}"], "README.md"),
        (["--train_data", "nowhere.fasta", "--output_dir", "{tmp}"], "nowhere.fasta"),
    ],
)
def test_a_mistake_ends_in_one_sentence_and_status_2(run, tmp_path, words, sentence):
    result = run(*[word.replace("{tmp}", str(tmp_path)) for word in words])
    assert result.returncode == 2
    assert sentence in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_run_whose_numbers_are_no_longer_finite_ends_in_one_sentence_and_status_1(run, tmp_path):
    result = run(
        "examples/recipes/demo.yaml", "--learning_rate", "1e30", "--warmup_steps", "0", "--max_steps", "9",
        "--eval_strategy", "no", "--per_device_train_batch_size", "4", "--logging_steps", "3", "--noiser_steps", "1",
        "--max_skipped_updates", "2", "--output_dir", str(tmp_path / "run"), "--use_cpu", "true",
    )  # fmt: skip
    assert result.returncode == 1, result.stderr[-2000:]
    assert "run_adv_mlm.py: stopped at step 3: the last 2 updates of the encoder" in result.stderr
    assert "Traceback" not in result.stderr
    updates = json.load(open(tmp_path / "run" / "nonfinite_records.json"))["updates"]
    assert [(entry["update"], len(entry["records"]), len(entry["ids"])) for entry in updates] == [(2, 4, 4), (3, 4, 4)]
