import dataclasses
import os
import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_python_examples_run_one_after_the_other(repository, tmp_path):
    (tmp_path / "examples").symlink_to(repository / "examples")
    blocks = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    for code in blocks:
        result = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(repository)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "my-model" / "noiser" / "model.safetensors").exists()


def test_every_option_that_the_readme_names_exists(repository):
    from adversarial_mlm.downstream.arguments import TapeArguments
    from adversarial_mlm.downstream.finetune import FinetuneSettings
    from adversarial_mlm.recipes.recipe import _option_names

    text = (repository / "README.md").read_text()
    named = set(re.findall(r"--([a-z_]+)", text)) - {"help", "multi_gpu", "num_processes"}
    of_tasks = {field.name for part in (TapeArguments, FinetuneSettings) for field in dataclasses.fields(part)}
    assert named <= set(_option_names()) | of_tasks and len(named) > 8


@pytest.mark.slow
def test_the_frozen_collators_example_runs_beside_a_saved_run(repository, tmp_path, save_encoder, make_noiser):
    (tmp_path / "examples").symlink_to(repository / "examples")
    (tmp_path / "runs").mkdir()
    os.rename(save_encoder("bert"), tmp_path / "runs" / "demo")
    make_noiser(view="blind").save_pretrained(tmp_path / "runs" / "demo" / "noiser")
    blocks = re.findall(r"```python\n(.*?)```", (repository / "docs" / "other_models.md").read_text(), flags=re.DOTALL)
    (code,) = [block for block in blocks if "frozen=True" in block]
    (tmp_path / "example.py").write_text(code)
    result = subprocess.run(
        [sys.executable, "example.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "runs" / "stock" / "checkpoint-4" / "model.safetensors").exists()
