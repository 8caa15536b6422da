"""A small real run in processes of its own, forked from one that has everything imported, so that a start is cheap."""

import json
import logging
import os
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers.trainer_pt_utils import safe_globals

from adversarial_mlm import AdversarialMLMTrainer, presets
from adversarial_mlm.recipes.recipe import RecipeError, parse_recipe
from adversarial_mlm.recipes.run import pretrain
from adversarial_mlm.utils.atomic_files import WritingError

ROOT = Path(__file__).resolve().parents[2]
STEPS, SAVE_STEPS = 24, 4
GAMES = {
    "alternate": {"noiser_update": "alternate", "noiser_steps": 2, "encoder_steps": 3, "noiser_reward": "loss"},
    "reversal": {"noiser_update": "reversal", "noiser_reward": "loss"},
}

_ENCODER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_NOISER = {"embedding_size": 8, "hidden_size": 12, "num_hidden_layers": 1}
_PATIENCE = 600  # seconds; a run takes a few, on a machine that does nothing else
collected: dict[int, int] = {}  # id → exit status of processes that are gone


@dataclass
class Run:
    """A run: where it writes, which game it plays, on how many processes."""

    folder: Path
    game: str
    world: int
    options: dict = field(default_factory=dict)
    attempts: int = 0

    @property
    def output(self) -> Path:
        return self.folder / "run"

    def log(self, rank: int) -> str:
        """What a process of the newest attempt wrote to its terminal."""
        return (self.folder / f"attempt-{self.attempts}-rank-{rank}.txt").read_text(errors="replace")

    def words(self) -> list[str]:
        """The command line of this run."""
        options = {
            "train_data": str(ROOT / "examples" / "data" / "demo.fasta"),
            "output_dir": str(self.output),
            "cache_dir": str(self.folder.parent / "cache"),
            "encoder": "tiny",
            "noiser": "tiny",
            "max_length": 32,
            "max_steps": STEPS,
            "save_strategy": "steps",
            "save_steps": SAVE_STEPS,
            "save_total_limit": 2,
            "per_device_train_batch_size": 4 // self.world,
            "gradient_accumulation_steps": 2,
            "learning_rate": 1e-3,
            "logging_steps": 3,
            "use_cpu": "true",
            "disable_tqdm": "true",
            **GAMES[self.game],
            **self.options,
        }
        return [word for name, value in options.items() for word in (f"--{name}", str(value))]

    def start(self, *more: str, before=None) -> list[int]:
        """Start all processes; returns their ids. `before` is called in each of them first."""
        self.attempts += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        port = _free_port()
        return [self._fork(rank, port, more, before) for rank in range(self.world)]

    def go_on(self, before=None) -> list[int]:
        """Start again from the newest checkpoint; where a kill came before the first, anew."""
        resumes = any(self.output.glob("checkpoint-[0-9]*"))
        how = "--resume_from_checkpoint=latest" if resumes else "--overwrite_output_dir=true"
        return self.start(*how.split("="), before=before)

    def _fork(self, rank: int, port: int, more: tuple[str, ...], before) -> int:
        log = os.open(self.folder / f"attempt-{self.attempts}-rank-{rank}.txt", os.O_WRONLY | os.O_CREAT)
        sys.stdout.flush()
        process = os.fork()
        if process:
            os.close(log)
            collected.pop(process, None)
            return process
        status = 70
        try:
            os.dup2(log, 1)
            os.dup2(log, 2)
            status = self._train(rank, port, more, before)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _train(self, rank: int, port: int, more: tuple[str, ...], before) -> int:
        if self.world > 1:
            names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.world, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
        torch.set_num_threads(1)
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        presets.ENCODERS["tiny"], presets.NOISERS["tiny"] = _ENCODER, _NOISER
        train = AdversarialMLMTrainer.train

        def say_and_train(*args, **kwargs):
            print("networks and data are there", flush=True)
            return train(*args, **kwargs)

        AdversarialMLMTrainer.train = say_and_train
        if before is not None:
            before()
        try:
            trainer = pretrain(parse_recipe([*self.words(), *more]))
        except (RecipeError, WritingError) as error:
            print(f"ended: {error}")
            return 2 if isinstance(error, RecipeError) else 1
        assert trainer.accelerator.num_processes == self.world
        trainer.accelerator.end_training()
        return 0


def wait(processes: list[int], patience: float = _PATIENCE) -> list[int]:
    """Exit status of each process, negative for a signal; what takes too long is killed."""
    until = time.monotonic() + patience
    while not all(process in collected for process in processes):
        for process in processes:
            if process not in collected:
                found, status = os.waitpid(process, os.WNOHANG)
                if found:
                    collected[process] = os.waitstatus_to_exitcode(status)
                elif time.monotonic() > until:
                    os.kill(process, signal.SIGKILL)
        time.sleep(0.002)
    return [collected[process] for process in processes]


def differences(run: Run, reference: Run, last_checkpoint: int = STEPS) -> list[str]:
    """Names of what is not bitwise the same in the results of two runs, and in the state of their last checkpoints."""
    found = []
    for name in ("model.safetensors", "noiser/model.safetensors"):
        ours, theirs = load_file(run.output / name), load_file(reference.output / name)
        found += [f"{name}: {key}" for key in theirs if not torch.equal(ours[key], theirs[key])]
    for path in sorted((reference.output / f"checkpoint-{last_checkpoint}").glob("*.pt*")):
        with safe_globals():
            theirs = torch.load(path, weights_only=True)
            ours = torch.load(run.output / path.parent.name / path.name, weights_only=True)
        if not _same(ours, theirs):
            found.append(path.name)
    return found


def steps_logged(run: Run) -> list[int]:
    """Steps of the training entries of a run's log."""
    entries = [json.loads(line) for line in open(run.output / "metrics.jsonl")]
    return [entry["step"] for entry in entries if "learning_rate" in entry]


def _same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return bool((a == b).all()) if hasattr(a, "all") else a == b


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
