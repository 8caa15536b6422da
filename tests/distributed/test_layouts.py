"""A global batch of 8 proteins of different lengths, split over processes and accumulation in every way."""

import json

import pytest
from safetensors.torch import load_file

from tests.helpers.exhaustive import exhaustive
from tests.helpers.launching import ROOT

GAMES = ("alternate", "reversal", "credit", "stages")
CHECKPOINTED = ("checkpointed", "checkpointed-reversal")
# name → processes, and the size of a process's batch in every game
LAYOUTS = {
    "2 x 2 accumulated twice, a stream 2 x 4": (2, {**dict.fromkeys(GAMES, 2), "stream": 4, "chosen": 1}),
    "2 x 4": (2, {**dict.fromkeys(GAMES + CHECKPOINTED, 4), "chosen": 6}),
    "4 x 2": (4, {**dict.fromkeys(GAMES, 2), "chosen": 3}),
    "2 x 4 compiled": (2, {"compiled": 4}),  # tests/training/test_precision.py compiles on one process
}


@pytest.fixture(scope="module")
def trained(interpreter, tmp_path_factory):
    """Start games on some processes with some batch sizes; returns the folder of the runs."""

    def train(processes: int, batch_sizes: dict[str, int]) -> str:
        folder = str(tmp_path_factory.mktemp("splits"))
        words = [f"{game}={size}" for game, size in batch_sizes.items()]
        script = ROOT / "tests" / "distributed" / "train.py"
        for result in interpreter.launch(processes, script, folder, str(processes), *words, timeout=900):
            assert result.returncode == 0, result.stderr[-3000:]
        return folder

    return train


@pytest.fixture(scope="module")
def alone(trained):
    """Train games on one process without accumulation, each once; returns game → folder."""
    folders = {}

    def train(games: list[str]) -> dict[str, str]:
        missing = [game for game in games if game not in folders]
        if missing:
            folder = trained(1, {game: 12 if game == "chosen" else 8 for game in missing})
            folders.update({game: f"{folder}/{game}" for game in missing})
        return folders

    return train


@pytest.mark.slow
@pytest.mark.parametrize("layout", [next(iter(LAYOUTS)), *map(exhaustive, list(LAYOUTS)[1:])])
def test_every_split_of_a_batch_trains_the_same_networks(trained, alone, layout):
    processes, batch_sizes = LAYOUTS[layout]
    references, split = alone(list(batch_sizes)), trained(processes, batch_sizes)
    for game in batch_sizes:
        one = load_file(f"{references[game]}/rank0.safetensors")
        for rank in range(processes):
            other = load_file(f"{split}/{game}/rank{rank}.safetensors")
            assert max((one[name] - other[name]).abs().max().item() for name in one) < 1e-10, game
        assert compare_logs(f"{references[game]}/metrics.jsonl", f"{split}/{game}/metrics.jsonl") > 20


def compare_logs(*files: str) -> int:
    """How many figures both have. All but times and those of one process's own half batches must be the same."""
    compared = 0
    for a, b in zip(*([json.loads(line) for line in open(file)] for file in files), strict=True):
        assert a.keys() == b.keys()
        for key in a:
            if "second" in key or "runtime" in key or key in ("noiser_cosine", "total_flos"):
                continue
            counts = isinstance(a[key], list | dict)
            assert a[key] == (b[key] if counts else pytest.approx(b[key], rel=1e-6, abs=1e-9)), key
            compared += 1
    return compared
