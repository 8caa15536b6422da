"""What means something on a GPU only; `make gpu-test` runs it. The gates are those of `python -m benchmarks gpu`."""

import sys
from pathlib import Path

import datasets
import pytest
import torch

from adversarial_mlm.utils.hardware import sent
from benchmarks.gpu import gates
from benchmarks.gpu.setting import Setting
from tests.helpers.launching import ENVIRONMENT, ROOT, run
from tests.helpers.trainer_helpers import build_trainer, check_resumption, log_of, parameters_of

pytestmark = pytest.mark.gpu
BLIND = {
    "noiser_update": "reversal",
    "noiser_reward": "credit",
    "noiser_config": {"view": "blind"},
    "masking_rules": {"sampler": "gumbel_topk", "learned_options": False},
}
RUNS = {"random": {"masking": "random"}, "paper": {}, "blind": BLIND}
PRECISIONS = {"fp32": {"bf16": False, "tf32": False}, "bf16": {"bf16": True}, "fp16": {"bf16": False, "fp16": True}}


@pytest.fixture(autouse=True)
def device() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("it needs a CUDA GPU")
    return torch.device("cuda")


@pytest.fixture
def make_trainer(tmp_path, tokenizer, make_encoder, make_noiser, proteins):
    """Trainers on the GPU; their batches have padding."""
    dataset = datasets.Dataset.from_dict({"sequence": [p[: 20 + 7 * i % 40] for i, p in enumerate(proteins[:40])]})

    def make(**settings):
        settings = {"use_cpu": False, "dropout": 0.1, "logging_steps": 1, **settings}
        return build_trainer(tmp_path, tokenizer, make_encoder, make_noiser, dataset, **settings)

    return make


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("game", RUNS)
def test_a_resumed_run_is_bitwise_the_straight_one(make_trainer, game, precision):
    check_resumption(make_trainer, (2,), **RUNS[game], **PRECISIONS[precision])


@pytest.mark.parametrize("game", RUNS)
def test_fp16_trains_both_networks_with_a_scaler_that_is_saved(make_trainer, game):
    trainer = make_trainer(**RUNS[game], **PRECISIONS["fp16"], save_strategy="steps", save_steps=12, max_steps=12)
    before = parameters_of(trainer)
    trainer.train()
    assert all(entry["loss"] > 0 for entry in log_of(trainer) if "loss" in entry)
    after = parameters_of(trainer)
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name].cpu(), after[name].cpu())}
    assert changed == ({"encoder"} if game == "random" else {"encoder", "noiser"})
    assert Path(trainer.args.output_dir, "checkpoint-12", "scaler.pt").is_file()


@pytest.mark.parametrize("game", gates.GAMES)
def test_no_update_waits_for_the_gpu(game):
    assert gates.updates_wait_for_nothing(Setting(miniature=True), game)["waits"] == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("shape", ["tape-38m", "esm2-150m"])
def test_packed_rows_give_logits_and_gradients_of_padded_ones(shape, precision):
    dtype = torch.bfloat16 if precision == "bf16" else None
    assert gates.packed_is_padded(Setting(), shape, dtype) == {"agrees": True}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_of_packed_attention_keeps_the_mean(device, dtype):
    assert gates.dropout_keeps_the_mean(device, dtype)["farthest_in_standard_errors"] <= gates.STANDARD_ERRORS


@pytest.mark.parametrize("compiler", [None, "inductor"])
def test_masks_are_those_of_a_cpu(device, compiler):
    assert gates.masks_are_those_of_the_cpu(device, compiler)["different"] == 0


def test_batches_are_pinned_and_a_copy_has_the_values_that_were_there(make_trainer, device):
    batch = next(iter(make_trainer(masking="random").get_train_dataloader()))
    assert all(tensor.is_pinned() for tensor in batch.values())
    values, busy = torch.arange(1 << 20), torch.randn(4096, 4096, device=device)
    for _ in range(20):
        busy = busy @ busy
    copy = sent(values, device)
    assert torch.equal(copy.cpu(), values)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_processes_train_over_nccl(tmp_path, monkeypatch, processes):
    if torch.cuda.device_count() < processes:
        pytest.skip(f"it needs {processes} CUDA GPUs")
    monkeypatch.setitem(ENVIRONMENT, "NCCL_DEBUG", "VERSION")
    done = run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}",
            str(ROOT / "examples" / "run_adv_mlm.py"), "--train_data", str(ROOT / "examples" / "data" / "demo.fasta"),
            "--output_dir", str(tmp_path / "run"), "--encoder", "tiny", "--noiser", "tiny", "--max_steps", "3",
            "--per_device_train_batch_size", "4", "--global_batch_size", "8", "--logging_steps", "1",
            "--report_to", "none", "--max_eval_records", "20",
        ]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "NCCL version" in done.stdout + done.stderr
    accumulated = 8 // (4 * processes)
    assert f"batch size 8 (4 per device, {accumulated} accumulation step" in (tmp_path / "run/README.md").read_text()
