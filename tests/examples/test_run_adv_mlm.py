"""The script as users start it."""

import json
import os
import re
import runpy
import signal
import sys
import time

import pytest

from adversarial_mlm.saving import checkpoint_manifest
from adversarial_mlm.saving.hub import files_of_model
from adversarial_mlm.saving.run_folder import RunFolder
from tests.helpers.exhaustive import exhaustive


@pytest.fixture
def call(repository, monkeypatch, capsys):
    """Call the script's `main` in this process; returns the exit status and what it wrote to stderr."""
    monkeypatch.chdir(repository)

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["examples/run_adv_mlm.py", *words])
        try:
            status = runpy.run_path("examples/run_adv_mlm.py")["main"]()
        except SystemExit as stop:
            status = stop.code
        return status, capsys.readouterr().err

    return call


@pytest.mark.slow
def test_the_demo_prints_its_block_and_fails_when_it_has_learned_nothing(interpreter, tmp_path):
    result = interpreter.run(
        "examples/run_adv_mlm.py", "examples/recipes/demo.yaml",
        "--max_steps", "2", "--eval_strategy", "no", "--max_eval_records", "30",
        "--per_device_train_batch_size", "4", "--logging_steps", "1", "--output_dir", str(tmp_path / "run"),
        "--noiser_steps", "1",
    )  # fmt: skip
    assert result.returncode == 1, result.stderr[-2000:]
    for words in (
        "members     cross-entropy", "families    cross-entropy", "background predictor", "masked by it",
        "it masks most", "residues/s", "Checkpoint", "README.md", "metrics.jsonl", "FAILED      members",
        f"Report      {tmp_path}/run/report.html",
    ):  # fmt: skip
        assert words in result.stdout, words
    assert "](mask_policy.png)" in (tmp_path / "run" / "README.md").read_text()
    sent = files_of_model(str(tmp_path / "run"))
    assert {"mask_policy.png", "report.png", "report.html"} <= sent.keys() and RunFolder(
        str(tmp_path / "run")
    ).others() == []
    assert "Traceback" not in result.stderr
    assert "2,240 records read" in result.stderr + result.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["examples/recipes/demo.yaml", "--learnin_rate", "1"], "did you mean 'learning_rate'"),
        (["--train_data", "README.md", "--output_dir", "{tmp}"], "README.md"),
        (["--train_data", "nowhere.fasta", "--output_dir", "{tmp}"], "nowhere.fasta"),
    ],
)
def test_a_mistake_ends_in_one_sentence_and_status_2(call, tmp_path, words, sentence):
    status, said = call(*[word.replace("{tmp}", str(tmp_path)) for word in words])
    assert status == 2
    last = said.strip().splitlines()[-1]
    assert last.startswith("run_adv_mlm.py: ") and sentence in last and "Traceback" not in said


@pytest.mark.slow
def test_a_run_whose_numbers_are_no_longer_finite_ends_in_one_sentence_and_status_1(call, tmp_path):
    status, said = call(
        "examples/recipes/demo.yaml", "--learning_rate", "1e30", "--warmup_steps", "0", "--max_steps", "9",
        "--eval_strategy", "no", "--per_device_train_batch_size", "4", "--logging_steps", "3", "--noiser_steps", "1",
        "--max_skipped_updates", "2", "--output_dir", str(tmp_path / "run"), "--use_cpu", "true",
    )  # fmt: skip
    assert status == 1, said[-2000:]
    assert "run_adv_mlm.py: stopped at step 3: the last 2 updates of the encoder" in said and "Traceback" not in said
    updates = json.load(open(tmp_path / "run" / "nonfinite_records.json"))["updates"]
    assert [(entry["update"], len(entry["records"]), len(entry["ids"])) for entry in updates] == [(2, 4, 4), (3, 4, 4)]


SMALL = {
    "cluster_table": "", "holdout_families": 0, "holdout_members": 0, "background_gate": "", "eval_strategy": "no",
    "per_device_train_batch_size": 2, "max_length": 32, "noiser_steps": 1, "encoder_steps": 2, "use_cpu": "true",
    "logging_steps": 1, "disable_tqdm": "true", "report": "false",
}  # fmt: skip


def words_of(tmp_path, **more) -> list[str]:
    options = {**SMALL, "output_dir": tmp_path / "run", "cache_dir": tmp_path / "cache", **more}
    return ["examples/recipes/demo.yaml", *(word for k, v in options.items() for word in (f"--{k}", str(v)))]


@pytest.mark.slow
def test_a_signal_ends_training_with_a_checkpoint_one_sentence_and_its_status(interpreter, tmp_path):
    process = interpreter.start("examples/run_adv_mlm.py", *words_of(tmp_path, max_steps=100_000))
    while not (tmp_path / "run" / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 143, said[-2000:]
    found = re.search(r"stopped by SIGTERM after step (\d+) of 100,000; to resume from (\S+), run: python (.*)", said)
    assert found and "Traceback" not in said
    assert checkpoint_manifest.verify(found[2])["step"] == int(found[1])
    assert found[3] == f"examples/run_adv_mlm.py {tmp_path}/run/recipe.yaml --resume_from_checkpoint latest"
    assert not (tmp_path / "run" / "model.safetensors").exists(), "there is no result yet"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("during", "number"),
    [
        ("load_data", signal.SIGTERM),
        ("evaluate_saved", signal.SIGINT),
        exhaustive("load_data", signal.SIGINT),
        exhaustive("evaluate_saved", signal.SIGTERM),
    ],
)
def test_a_signal_before_or_after_training_ends_in_one_sentence(call, tmp_path, monkeypatch, during, number):
    monkeypatch.setattr(f"adversarial_mlm.recipes.run.{during}", lambda *args, **kwargs: os.kill(os.getpid(), number))
    status, said = call(*words_of(tmp_path, max_steps=2))
    assert status == 128 + number
    last = said.splitlines()[-1]
    assert last.startswith(f"run_adv_mlm.py: stopped by {number.name} before or after training")
    assert (tmp_path / "run" / "model.safetensors").exists() == (during == "evaluate_saved")
