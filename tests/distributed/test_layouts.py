"""A global batch of 8 proteins of different lengths, split over processes and accumulation in every way."""

import json
import sys

import pytest
from safetensors.torch import load_file

from tests.helpers.launching import ROOT, accelerate, run

LAYOUTS = {"2 x 4": (2, 4), "4 x 2": (4, 2), "2 x 2, accumulated twice": (2, 2)}
GAMES = ("alternate", "reversal", "credit", "stages")
ON_TWO = ("checkpointed", "checkpointed-reversal", "compiled", "stream")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a layout's runs, all games in one start."""
    folders = {}

    def train(processes: int, batch_size: int, games: tuple[str, ...] = (*GAMES, *ON_TWO)) -> str:
        if (processes, batch_size) not in folders:
            folder = str(tmp_path_factory.mktemp("splits"))
            launch = [sys.executable]
            if processes > 1:
                launch = accelerate("cpu.yaml", "--num_processes", str(processes))
            result = run(
                [
                    *launch,
                    str(ROOT / "tests" / "distributed" / "train.py"),
                    folder,
                    str(processes),
                    str(batch_size),
                    *games,
                ],
                900,
            )
            assert result.returncode == 0, result.stderr[-3000:]
            folders[processes, batch_size] = folder
        return folders[processes, batch_size]

    return train


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_split_of_a_batch_trains_the_same_networks(trained, layout):
    processes, batch_size = LAYOUTS[layout]
    games = (*GAMES, *ON_TWO) if layout == "2 x 4" else GAMES
    for game in games:
        alone, split = f"{trained(1, 8)}/{game}", f"{trained(processes, batch_size, games)}/{game}"
        one = load_file(f"{alone}/rank0.safetensors")
        for rank in range(processes):
            other = load_file(f"{split}/rank{rank}.safetensors")
            assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-10, game
        assert compare_logs(f"{alone}/metrics.jsonl", f"{split}/metrics.jsonl") > 20


def compare_logs(*files: str) -> int:
    """How many figures both have, which must be the same."""
    compared = 0
    for a, b in zip(*([json.loads(line) for line in open(file)] for file in files), strict=True):
        for key in ("loss", "gap", "noiser_reward", "mask_rate", "eval_loss", "eval_accuracy", "eval_masked_residues",
            "eval_few_loss", "eval_few_gap", "eval_few_residues"):  # fmt: skip
            assert (key in a) == (key in b)
            if key in a:
                assert a[key] == pytest.approx(b[key], rel=1e-6, abs=1e-9)
                compared += 1
    return compared
