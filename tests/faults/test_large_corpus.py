"""Short forms of `large_corpus.py`, which itself takes minutes."""

import json
import subprocess
import sys

import pytest

from tests.faults import large_corpus

START_UP = """
import sys, threading, time
from tests.faults.large_corpus import _anonymous_bytes
from adversarial_mlm.recipes.recipe import parse_recipe
from adversarial_mlm.recipes.data import count_short_proteins, load_data
from adversarial_mlm.masking.corruption import MaskingRules

def start(fasta):
    recipe = parse_recipe(["--train_data", fasta, "--validation_data", "held_out.fasta", "--cache_dir", "cache"])
    data = load_data(recipe.data)
    count_short_proteins(data, MaskingRules(random_rate=0.2), "cache")
    assert len(data.train) > 0 and data.facts["removed_as_identical_to_validation"] == 20
    return data

def look():
    while True:
        peaks.append(_anonymous_bytes("self"))
        time.sleep(0.01)

start("small.fasta")
peaks = [_anonymous_bytes("self")]
threading.Thread(target=look, daemon=True).start()
kept = [start("large.fasta"), start("large.fasta")]
print(max(peaks) - peaks[0])
"""


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_start_needs_less_than_36_bytes_for_each_record(tmp_path):
    """A list of Python's numbers would need 40, the records themselves 109 and more."""
    for name, records in (("small", 5_000), ("large", 500_000)):
        large_corpus.write_fasta(str(tmp_path / f"{name}.fasta"), records)
    # rows that stand in both corpora, so that some have to be left out of each
    first = (tmp_path / "small.fasta").read_text().splitlines(keepends=True)[:40]
    (tmp_path / "held_out.fasta").write_text("".join(first))
    large = tmp_path / "large.fasta"
    large.write_bytes(b"".join(line.replace(">sp|S", ">sp|T").encode() for line in first) + large.read_bytes())
    environment = {"PYTHONPATH": str(large_corpus.ROOT), "OMP_NUM_THREADS": "1"}
    environment["HF_HOME"] = str(tmp_path / "hf")
    command = [sys.executable, "-c", START_UP]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    assert int(found.stdout) < 36 * 500_000


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_run_is_measured_cold_and_warm(tmp_path):
    found = large_corpus.run(str(tmp_path), 2_000)
    for start in ("cold", "warm"):
        assert found[start]["first_update_seconds"] > 0
        assert found[start]["peak_anonymous_bytes"] > 100 << 20  # PyTorch alone
    assert json.loads(json.dumps(found)) == found and found["fasta_bytes"] > 2_000 * 100


def test_a_run_that_fails_is_told_with_its_last_words(tmp_path, monkeypatch):
    monkeypatch.setattr(large_corpus, "_command", lambda *args: ["python3", "-c", "raise SystemExit('no luck')"])
    with pytest.raises(RuntimeError, match="exit status 1: no luck"):
        large_corpus.run(str(tmp_path), 100)


def test_memory_that_grows_gives_exit_status_1(monkeypatch, capsys):
    def measured(folder, records):
        part = {"first_update_seconds": 1.0, "peak_anonymous_bytes": 10**8 + 21 * records}
        return {"records": records, "fasta_bytes": 1, "cold": part, "warm": part}

    monkeypatch.setattr(large_corpus, "run", measured)
    monkeypatch.setattr("sys.argv", ["large_corpus.py"])
    assert large_corpus.main() == 1
    told = capsys.readouterr().out
    assert told.count("first update after 1.0 s") == 4 and "cold 1.39, warm 1.39" in told
    monkeypatch.setattr("sys.argv", ["large_corpus.py", "--records", "1000000"])
    assert large_corpus.main() == 0


def test_the_synthetic_proteins_are_fit_to_train_on(tmp_path):
    large_corpus.write_fasta(str(tmp_path / "a.fasta"), 25_000)
    lines = (tmp_path / "a.fasta").read_text().splitlines()
    lengths = [len(line) for line in lines[1::2]]
    assert len(lines) == 50_000 and len(set(lines[::2])) == 25_000
    assert 30 <= min(lengths) and max(lengths) <= 512 and 80 < sum(lengths) / 25_000 < 100
    letters = "".join(lines[1::2])
    assert 0.09 < letters.count("L") / len(letters) < 0.105 and 0.008 < letters.count("W") / len(letters) < 0.014
