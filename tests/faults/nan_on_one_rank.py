"""A loss that is nan on one process of two: both skip the update, stay identical, and go on.

    python tests/faults/nan_on_one_rank.py FOLDER

It trains three times on two processes of the CPU: with the fault, with those updates simply left out, and with nothing
but faults. `run` does the same from Python.
"""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "tests" / "distributed" / "gloo.yaml"

MAX_STEPS, LIMIT = 8, 3
BAD = {("encoder", 3), ("noiser", 2)}
BAD_RANK = 1


def run(folder: str | Path) -> dict:
    """Train and compare.

    Args:
        folder (`str` or `Path`): For the runs; made where it is not there.

    Returns:
        `dict`: `skipped` (updates of the encoder and of the noiser, by the log), `ranks_identical` (parameters,
        moments and counts of both processes, bitwise), `equals_left_out` (the same, to the run that left the updates
        out), `stopped_with` (exit status of the run in which all is bad), `ranks_named` (the processes whose records
        its file names) and `ok` (all is as it should be).
    """
    folder = Path(folder)
    for mode in ("spoiled", "left_out"):
        _launch(folder, mode, 0)
    states = {(mode, rank): load_file(folder / mode / f"rank{rank}.safetensors")
              for mode in ("spoiled", "left_out") for rank in range(2)}  # fmt: skip
    with open(folder / "spoiled" / "metrics.jsonl") as file:
        entries = [json.loads(line) for line in file]
    skipped = [
        sum(int(entry.get(key, 0)) for entry in entries) for key in ("skipped_updates", "noiser_skipped_updates")
    ]
    status = _launch(folder, "always", 1)
    with open(folder / "always" / "nonfinite_records.json") as file:
        named = json.load(file)["updates"]
    result = {
        "skipped": skipped,
        "ranks_identical": all(_same(states[mode, 0], states[mode, 1]) for mode in ("spoiled", "left_out")),
        "equals_left_out": _same(states["spoiled", 0], states["left_out", 0]),
        "stopped_with": status,
        "ranks_named": sorted({entry["rank"] for entry in named if entry["records"]}),
    }
    finite = all(torch.isfinite(value).all() for value in states["spoiled", 0].values())
    expected = {"skipped": [1, 1], "ranks_identical": True, "equals_left_out": True, "stopped_with": 1}
    return {**result, "ok": finite and result == {**expected, "ranks_named": [0, 1]}}


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _launch(folder: Path, mode: str, status: int) -> int:
    """Train on two processes; returns the exit status.

    Raises:
        RuntimeError: If it is not `status`; with the end of what the processes said.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)]
    command += ["--main_process_port", str(port), __file__, str(folder / mode), mode]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode != status:
        raise RuntimeError(f"{mode}: exit status {done.returncode} and not {status}: {done.stderr[-3000:]}")
    return done.returncode


def _train(output_dir: str, mode: str) -> int:
    """One process of a run."""
    import datasets
    from accelerate import PartialState
    from transformers import BertForMaskedLM

    from adversarial_mlm import (
        AdversarialMLMTrainer,
        AdversarialMLMTrainingArguments,
        DataCollatorForAdversarialMLM,
        NoiserModel,
        build_protein_tokenizer,
        presets,
    )
    from adversarial_mlm.finite import NonFiniteError
    from adversarial_mlm.tokenization_protein import ResidueVocabulary

    class Faulty(AdversarialMLMTrainer):
        now = None

        def compute_loss(self, *args, **kwargs):
            self.now = ("encoder", self.state.global_step)
            return super().compute_loss(*args, **kwargs)

        def _noiser_update(self, update, batches):
            self.now = ("noiser", update)
            return super()._noiser_update(update, batches)

        def _read(self, *args, **kwargs):
            outputs, losses, weights = super()._read(*args, **kwargs)
            bad = mode == "always" or (mode == "spoiled" and self.now in BAD)
            if bad and self.accelerator.process_index == BAD_RANK:
                losses = losses * math.nan
            return outputs, losses, weights

        def _judge(self, norms):
            optimizer = self.optimizer.optimizer
            step, skipped = optimizer.step, super()._judge(norms)

            def nothing(*args, **kwargs):
                optimizer.step = step

            if mode == "left_out" and self.now in BAD:
                optimizer.step = nothing
            return skipped

    generator = torch.Generator().manual_seed(0)
    letters = "ACDEFGHIKLMNPQRSTVWY"
    proteins = [
        "".join(letters[i] for i in torch.randint(20, (int(n),), generator=generator))
        for n in torch.randint(20, 60, (37,), generator=generator)
    ]
    tokenizer = build_protein_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    encoder = BertForMaskedLM(presets.encoder_config("tiny", **sizes))
    vocabulary = ResidueVocabulary.from_tokenizer(tokenizer)
    noiser = NoiserModel(presets.noiser_config("tiny", vocabulary, embedding_size=8, hidden_size=8))
    trainer = Faulty(
        model=encoder,
        args=AdversarialMLMTrainingArguments(
            output_dir=output_dir,
            max_steps=MAX_STEPS,
            noiser_steps=2,
            encoder_steps=2,
            max_skipped_updates=LIMIT,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=1e-3,
            noiser_learning_rate=1e-3,
            logging_steps=2,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            report_to=[],
        ),
        data_collator=DataCollatorForAdversarialMLM(tokenizer, noiser=noiser, max_length=50),
        train_dataset=datasets.Dataset.from_dict({"id": [str(i) for i in range(37)], "sequence": proteins}),
        processing_class=tokenizer,
    )
    assert trainer.accelerator.num_processes == 2, trainer.accelerator.num_processes
    try:
        trainer.train()
    except NonFiniteError as error:
        print(error, file=sys.stderr)
        PartialState().destroy_process_group()
        return 1
    state = {}
    for network, module in (("encoder", trainer.model), ("noiser", trainer.noiser)):
        for name, parameter in module.named_parameters():
            state[f"{network}.{name}"] = parameter.detach().contiguous()
            for key, value in trainer.optimizer.state[parameter].items():
                state[f"{network}.{name}.{key}"] = value.contiguous()
    save_file(state, f"{output_dir}/rank{trainer.accelerator.process_index}.safetensors")
    trainer.accelerator.end_training()  # gloo's threads may abort a process that ends without
    return 0


def main() -> int:
    """The two ways in: a process of a run, or all of it; returns the exit status, 0 where all is as it should be."""
    if "RANK" in os.environ:
        return _train(*sys.argv[1:])
    result = run(sys.argv[1])
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
