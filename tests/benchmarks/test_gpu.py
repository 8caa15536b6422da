"""The benchmark of GPUs: rows are written as they are measured, and all that a CPU can try is tried in small."""

import json

import pytest
import torch

from adversarial_mlm.training import packed_attention
from benchmarks.gpu import ceilings, command, gates, training_rows
from benchmarks.gpu.journal import Journal, Planned
from benchmarks.gpu.setting import Setting
from benchmarks.gpu.steps import StepSeconds, flops_of_rows
from benchmarks.scaling import flops_of_a_token
from tests.helpers.exhaustive import exhaustive
from tests.helpers.packed_kernels import with_cpu_kernels

SMALL = Setting(miniature=True, device=torch.device("cpu"))


@pytest.fixture
def kernels(monkeypatch):
    """The kernels of packed rows, on a CPU."""
    monkeypatch.setattr(packed_attention, "_missing_kernel", lambda device: None)
    library = with_cpu_kernels()
    yield
    library._destroy()


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_each_row_is_in_the_file_before_the_next_one_begins(tmp_path):
    seen, now = [], [0.0]

    def takes(seconds, result):
        def measure():
            seen.append([row["row"] for row in lines_of(tmp_path)] if seen else [])
            now[0] += seconds
            if isinstance(result, Exception):
                raise result
            return result

        return measure

    journal = Journal(tmp_path, seconds=100, clock=lambda: now[0])
    journal.run(
        [
            Planned("a", 10, takes(60, {"speed": 1.5})),
            Planned("b", 10, takes(5, ValueError("no\nkernel"))),
            Planned("c", 50, takes(0, {})),
            Planned("d", 1, takes(0, {}), needs="it needs CUDA"),
            Planned("e", 20, takes(1, {"speed": 2.0})),
        ]
    )
    assert seen == [[], ["a"], ["a", "b", "c", "d"]]
    status = {row["row"]: row["status"] for row in lines_of(tmp_path)}
    assert status == {"a": "measured", "b": "failed", "c": "late", "d": "not run", "e": "measured"}
    assert journal.rows == lines_of(tmp_path)
    assert journal.rows[1]["why"] == "ValueError: no kernel"
    assert journal.rows[2]["why"] == "it needs about 50 s, and 35 s are left"
    assert journal.figure("a", "speed") == 1.5 and journal.figure("b", "speed") is None


def test_a_stopped_run_keeps_its_rows(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Journal(tmp_path, 100).run([Planned("a", 1, lambda: {"x": 1}), Planned("b", 1, stop)])
    assert [row["row"] for row in lines_of(tmp_path)] == ["a"]


def test_the_plan_names_each_row_once_and_says_which_need_a_gpu():
    plan = command.plan(SMALL)
    names = [row.name for row in plan]
    assert len(set(names)) == len(names)
    needs_cuda = {row.name for row in plan if row.needs == "it needs CUDA"}
    assert all("packed" in name or "wait" in name or "tf32" in name or "flash" in name for name in needs_cuda)
    grid = [name for name in names if name.startswith("train")]
    assert len(grid) == 2 * 3 * 4 * 2  # shapes, precisions, ways of reading, tokens


def test_targets_follow_from_the_rows(tmp_path):
    journal, (shape, tokens) = Journal(tmp_path, 1), (SMALL.shapes[0], SMALL.tokens[-1])
    peers = list(training_rows.PEERS)
    for name, figures in {
        command.grid_name(shape, "bf16", "packed", tokens): {"tokens_per_s": 300.0},
        command.grid_name(shape, "bf16", "padded", tokens): {"tokens_per_s": 150.0},
        command.peer_name(peers[0], True): {"ratio": 1.4},
        command.peer_name(peers[1], True): {"ratio": 0.9},
        "fast ÷ random": {"ratio": 1.1},
    }.items():
        journal.write({"row": name, "status": "measured", **figures})
    found = {row["row"]: (row["value"], row["met"]) for row in command.targets(journal, SMALL)}
    assert found == {
        "target: packed + compile: MFU": (None, None),
        "target: ours ÷ the best peer that was measured": (0.9, False),
        "target: fast ÷ random": (1.1, True),
        "target: packed ÷ padded": (2.0, True),
    }


def test_the_command_writes_figures_facts_and_targets(tmp_path, capsys):
    assert command.main(["--miniature", "--out", str(tmp_path), "--rows", "product, "]) == 0
    rows = {row["row"]: row for row in lines_of(tmp_path)}
    assert rows["machine"]["torch"] == torch.__version__ and rows["product, fp32"]["tflops"] > 0
    assert "0 rows were late: none" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["--miniature", "--out", str(tmp_path), "--rows", "no such row"])
    assert "no row has 'no such row' in its name" in capsys.readouterr().err


def test_lengths_of_a_kind_fill_a_micro_batch():
    setting = Setting(device=torch.device("cpu"))
    lengths = setting.lengths("swiss-prot", 20_000)
    assert 255 < lengths.mean() < 285 and lengths.max() == 510
    assert set(setting.lengths("all 512", 3)) == {510}
    assert 0.9 < setting.rows("swiss-prot", 65536) * (lengths.mean() + 2) / 65536 < 1.02
    dataset = SMALL.dataset("swiss-prot", 20)
    assert [len(sequence) for sequence in dataset["sequence"]] == dataset["length"]


def test_flops_of_rows_are_those_of_their_tokens(make_encoder):
    config, lengths = make_encoder().config, torch.tensor([7, 30])
    wanted = sum(3 * n * sum(flops_of_a_token(config, n)) for n in lengths.tolist())
    assert flops_of_rows(config, lengths) == pytest.approx(wanted)


def test_busy_counts_overlapping_kernels_once():
    watch = StepSeconds(torch.device("cpu"), 3)
    watch.kernels, watch.profiled_seconds = [(0.0, 10.0), (5.0, 20.0), (30.0, 40.0)], 60e-6
    assert watch.busy() == pytest.approx(0.5)


@pytest.mark.parametrize(("shape", "reading"), [("tiny", "chunks"), exhaustive("tiny", "padded")])
def test_a_cell_of_the_grid_is_measured(shape, reading):
    found = training_rows.grid_row(SMALL, shape, "fp32", reading, SMALL.tokens[0])
    assert found["slowest"] <= found["tokens_per_s"] <= found["fastest"]
    assert 150 < found["tokens_per_step"] <= 300 and found["model_tflops"] > 0


def test_packed_rows_are_measured_and_their_gates_pass_with_kernels(kernels):
    found = training_rows.grid_row(SMALL, "esm-tiny", "fp32", "packed", SMALL.tokens[0])
    assert found["tokens_per_s"] > 0
    assert gates.packed_is_padded(SMALL, "esm-tiny", None) == {"agrees": True}
    assert gates.dropout_keeps_the_mean(SMALL.device, torch.float32)["farthest_in_standard_errors"] < 6


def test_a_kernel_whose_dropout_does_not_scale_fails_its_gate(kernels, monkeypatch):
    plain = gates.packed_attention

    def unscaled(*args, **kwargs):
        attended, weights = plain(*args, **kwargs)
        return attended * (1 - args[5]), weights

    monkeypatch.setattr(gates, "packed_attention", unscaled)
    with pytest.raises(AssertionError, match="standard errors from the value without dropout"):
        gates.dropout_keeps_the_mean(SMALL.device, torch.float32)


def test_masks_of_another_device_are_compared(monkeypatch):
    for compiler in (None, "eager"):
        assert gates.masks_are_those_of_the_cpu(SMALL.device, compiler)["different"] == 0
    plain, calls = gates.DataCollatorForRandomMLM.corrupt, []

    def other_the_second_time(self, batch, keys):
        calls.append(keys)
        return plain(self, batch, keys + len(calls) - 1)

    monkeypatch.setattr(gates.DataCollatorForRandomMLM, "corrupt", other_the_second_time)
    with pytest.raises(AssertionError, match="positions differ in input_ids"):
        gates.masks_are_those_of_the_cpu(SMALL.device)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_every_row_that_needs_no_gpu_runs_in_small(tmp_path):
    assert command.main(["--miniature", "--seconds", "3000", "--out", str(tmp_path)]) == 0
    rows = lines_of(tmp_path)
    assert not [row for row in rows if row["status"] in ("failed", "late")]
    assert sum(row["status"] == "measured" for row in rows) > 25


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_bare_loop_runs_compiled_in_small(kernels):
    assert ceilings.bare_loop(SMALL, "tiny", SMALL.tokens[0])["tokens_per_s"] > 0
