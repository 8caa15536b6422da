import json
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks import __main__ as entry
from benchmarks import throughput
from benchmarks.measuring import alternate, compare
from benchmarks.memory import peak_bytes
from benchmarks.sampler import textbook_rss


def test_jobs_take_turns_and_neither_is_always_first():
    order = []

    def job(name):
        return lambda: order.append(name) or float(len(order))

    figures = alternate([job("a"), job("b")], repetitions=3, warm_up=1)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"]
    assert figures == [[3, 6, 7], [4, 5, 8]]  # each job has its own


@pytest.mark.parametrize(
    "target, met", [("<= 0.5", True), ("<= 0.4", False), (">= 0.5", True), (">= 0.6", False), ("", None)]
)
def test_a_row_knows_whether_its_target_is_met(target, met):
    row = compare("x", [1.0, 2.0, 3.0], [2.0, 4.0, 6.0], "s", target)
    assert (row.ours, row.peer, row.ratio, row.met) == (2.0, 4.0, 0.5, met)
    assert compare("x", [1.0], [4.0], "s", ">= 4", inverse=True).ratio == 4.0


def test_memory_counts_what_is_held_at_one_moment():
    def one_after_the_other():
        for _ in range(5):
            torch.ones(1 << 20)

    def together():
        return [torch.ones(1 << 20) for _ in range(5)]

    assert 4 << 20 <= peak_bytes(one_after_the_other) < 10 << 20
    assert peak_bytes(together) >= 20 << 20


def test_the_textbook_loop_is_what_ours_computes():
    from adversarial_mlm.masking.sampling import rss

    generator = torch.Generator().manual_seed(0)
    scores, noise = (torch.randn(3, 40, generator=generator, dtype=torch.float64) for _ in range(2))
    ours = rss(scores, torch.ones(3, 40, dtype=torch.bool), torch.full((3,), 6), noise)
    assert torch.allclose(textbook_rss(scores, noise, 6), ours, atol=1e-9)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_entry_point_writes_figures_and_machine(repository, tmp_path):
    command = [sys.executable, "-m", "benchmarks", "encode", "--repetitions", "2", "--json", str(tmp_path / "b.json")]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "b.json").read_text())
    assert found["machine"]["torch"] == torch.__version__
    assert [row["unit"] for row in found["rows"]] == ["residues/s"] * 2 and found["rows"][0]["ours"] > 0
    assert "| encode and collate, one core" in done.stdout


def test_a_stopped_benchmark_keeps_the_rows_that_it_has_measured(tmp_path, monkeypatch):
    def run():
        yield compare("first", [1.0], [2.0], "s", "")
        raise KeyboardInterrupt

    monkeypatch.setitem(entry.NAMES, "encode", SimpleNamespace(run=run))
    files = {"--json": tmp_path / "b.json", "--markdown": tmp_path / "b.md"}
    words = [str(word) for pair in files.items() for word in pair]
    monkeypatch.setattr(sys, "argv", ["benchmarks", "encode", *words])
    with pytest.raises(KeyboardInterrupt):
        entry.main()
    assert [row["name"] for row in json.loads(files["--json"].read_text())["rows"]] == ["first"]
    assert "| first | 1 | 2 | s | 0.5 |" in files["--markdown"].read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "b.md"]


def test_the_grouped_peer_has_enough_proteins_to_group():
    """So it pads hardly at all."""
    lengths, size = torch.tensor(throughput._proteins(None)["length"]), throughput._BATCH
    assert len(lengths) >= 4 * 50 * size
    random.seed(0)
    torch.manual_seed(0)
    batches = torch.tensor(get_length_grouped_indices(lengths.tolist(), size))[: 50 * size].view(-1, size)
    read = (lengths[batches].max(dim=1).values * size).sum() / lengths[batches].sum()
    assert read < 1.05


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_trainers_are_compared_with_and_without_dropout(monkeypatch):
    for name, value in {"SIZE": "tiny", "_BATCH": 2, "_MEGA_BATCH": 3}.items():
        monkeypatch.setattr(throughput, name, value)
    rows = list(throughput.run(repetitions=3))
    assert [row.repetitions for row in rows] == [3] * 4
    assert [bool(row.target) for row in rows] == [True, True, False, True]
    assert "no dropout: ours ÷ stock, grouped by length" in rows[2].name and rows[3].name.startswith("wait for data")
