"""Two launches of two processes each, into one folder."""

import os
import signal
import subprocess
import time

import pytest

from tests.helpers.launching import ENVIRONMENT, ROOT, accelerate, run


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_second_launch_is_refused_in_one_sentence_while_the_first_trains(tmp_path):
    folder, script = tmp_path / "run", str(ROOT / "examples" / "run_adv_mlm.py")
    words = ["--train_data", str(ROOT / "examples" / "data" / "demo.fasta"), "--output_dir", str(folder)]
    words += ["--encoder", "tiny", "--noiser", "tiny", "--max_length", "32", "--per_device_train_batch_size", "2"]
    words += ["--max_steps", "100000", "--logging_steps", "1", "--disable_tqdm", "true", "--report_to", "none"]
    first = subprocess.Popen(
        [*accelerate("cpu.yaml"), script, *words],
        env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 200
        while not (folder / "metrics.jsonl").exists() and first.poll() is None and time.monotonic() < end:
            time.sleep(0.1)
        second = run([*accelerate("cpu.yaml"), script, *words, "--overwrite_output_dir", "true"])
        assert second.returncode != 0
        assert second.stderr.count(f"run_adv_mlm.py: output_dir {folder} is in use by another command") == 1
        assert first.poll() is None
    finally:
        os.killpg(first.pid, signal.SIGTERM)
        said = first.communicate(timeout=120)[1]
    assert said.count("stopped by SIGTERM after step") == 1, said[-2000:]
    assert f"run with the same launcher and its options: {script} {folder}/recipe.yaml --resume_from" in said
