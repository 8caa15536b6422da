"""What `train` says about how to go on."""

import shlex
import signal
from types import SimpleNamespace

import pytest

from adversarial_mlm.cli import train
from adversarial_mlm.recipes.run import interruption


@pytest.mark.parametrize(
    ("script", "environment", "how"),
    [
        ("/usr/bin/adv-mlm", {}, "run: adv-mlm train"),
        ("/site-packages/adversarial_mlm/__main__.py", {}, "run: python -m adversarial_mlm train"),
        ("examples/run_adv_mlm.py", {}, "run: python examples/run_adv_mlm.py"),
        ("my scripts/run.py", {}, "run: python 'my scripts/run.py'"),
        (
            "/site-packages/adversarial_mlm/__main__.py",
            {"WORLD_SIZE": "2"},
            "run with the same launcher and its options: -m adversarial_mlm train",
        ),
        (
            "examples/run_adv_mlm.py",
            {"ACCELERATE_MIXED_PRECISION": "bf16"},
            "run with the same launcher and its options: examples/run_adv_mlm.py",
        ),
    ],
)
def test_a_program_knows_how_it_was_started(monkeypatch, script, environment, how):
    monkeypatch.setattr("sys.argv", [script, "train", "demo"])
    for name in ("WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert train._how_to_start() == how


def stopped_run(folder: str, checkpoint: str | None, step: int = 5) -> SimpleNamespace:
    return SimpleNamespace(
        state=SimpleNamespace(global_step=step, max_steps=9),
        args=SimpleNamespace(output_dir=folder),
        interrupted_by=signal.SIGINT,
        last_checkpoint=checkpoint,
    )


def test_the_sentence_about_a_stopped_run_ends_in_a_whole_command():
    said = interruption(stopped_run("runs/my run", "runs/my run/checkpoint-5"), "run: adv-mlm train")
    assert said.startswith("stopped by SIGINT after step 5 of 9; to resume from runs/my run/checkpoint-5, run: ")
    command = ["adv-mlm", "train", "runs/my run/recipe.yaml", "--resume_from_checkpoint", "latest"]
    assert shlex.split(said.partition("run: ")[2]) == command


def test_a_run_that_could_save_nothing_here_starts_again_where_it_came_from():
    said = interruption(stopped_run("b", "a/checkpoint-2"))
    words = "b/recipe.yaml --resume_from_checkpoint a/checkpoint-2 --overwrite_output_dir true"
    assert said.endswith(f"; to resume from a/checkpoint-2, run: adv-mlm train {words}")
    assert interruption(stopped_run("b", None)).endswith("; there is no checkpoint to resume from")
    assert "training is complete; its result in b was not evaluated" in interruption(stopped_run("b", None, step=9))
