import time

import pytest

from tests.helpers.launching import ROOT, accelerate, run

SMALL = ["--encoder", "tiny", "--noiser", "tiny", "--max_steps", "1", "--per_device_train_batch_size", "2"]
SMALL += ["--max_length", "32", "--holdout_random", "0", "--report", "false", "--disable_tqdm", "true"]


@pytest.mark.slow
def test_what_stops_one_process_at_the_start_stops_the_other_with_the_same_words_until_both_train(tmp_path):
    data = ["--train_data", str(ROOT / "examples" / "data" / "demo.fasta"), *SMALL]
    script = str(ROOT / "tests" / "distributed" / "fail.py")
    began = time.perf_counter()
    result = run([*accelerate("cpu.yaml"), script, str(tmp_path / "run"), *data])
    assert result.returncode != 0 and time.perf_counter() - began < 120  # gloo itself would wait for half an hour
    for rank, name in enumerate(("first", "second")):
        assert f"{name}, rank {rank}: the Hub does not take the token" in result.stderr
        assert f"{name}, rank {1 - rank}: process {rank} stopped: the Hub does not take the token" in result.stderr
    for rank in range(2):
        assert f"both, rank {rank}: nowhere.fasta: there is no such file" in result.stderr
        assert f"neither, rank {rank}: trained 1\n" in result.stderr


@pytest.mark.exhaustive
@pytest.mark.slow
def test_data_that_are_missing_are_said_and_nobody_waits(tmp_path):
    words = ["--train_data", str(tmp_path / "nowhere.fasta"), "--output_dir", str(tmp_path / "run"), *SMALL]
    result = run([*accelerate("cpu.yaml"), str(ROOT / "examples" / "run_adv_mlm.py"), *words], timeout=120)
    assert result.returncode != 0
    assert "nowhere.fasta: there is no such file" in result.stderr
    assert "run_adv_mlm.py:" in result.stderr and "CorpusError" not in result.stderr
