"""A comparison in miniature: networks of a few thousand parameters, a few updates."""

import copy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from adversarial_mlm import presets
from adversarial_mlm.comparison import compare as compare_module

_GAME = {
    "preset": "blind", "noiser": "tiny", "adversarial_rate": 0.1, "random_rate": 0.1, "noiser_learning_rate": 1e-3,
}  # fmt: skip


@pytest.fixture
def options(repository, cache_dir, tmp_path, monkeypatch) -> dict:
    """What a small recipe says."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setitem(presets.ENCODERS, "tiny", sizes)
    monkeypatch.setitem(presets.NOISERS, "tiny", {"embedding_size": 8, "hidden_size": 12, "num_hidden_layers": 1})
    data = repository / "examples" / "data"
    return {
        "corpus": "the demo's proteins",
        "output_dir": str(tmp_path / "study"),
        "seeds": [0, 1],
        "measured_turns": 2,
        "plot": False,
        "common": {
            "train_data": [str(data / "demo.fasta")],
            "cluster_table": str(data / "demo_clusters.tsv"),
            "holdout_families": 0.1,
            "holdout_members": 0.1,
            "max_eval_records": 60,
            "cache_dir": cache_dir,
            "max_length": 64,
            "encoder": "tiny",
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_steps": 2,
            "disable_tqdm": True,
            "use_cpu": True,
        },
        "arms": {
            "random": {"options": {"masking": "random", "mask_options": [0.9, 0.05, 0.05]}},
            "game": {"options": dict(_GAME), "against": "random"},
        },
        "budgets": {"updates": {"equal": "updates", "updates": 3}},
    }


@pytest.fixture
def write(options, tmp_path):
    """Write the recipe, with changes by dotted key (`None` takes a key away); returns its path."""

    def write(changes: dict | None = None) -> str:
        content = copy.deepcopy(options)
        for key, value in (changes or {}).items():
            *path, last = key.split(".")
            place = content
            for name in path:
                place = place.setdefault(name, {})
            if value is None:
                place.pop(last)
            else:
                place[last] = value
        (tmp_path / "compare.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return str(tmp_path / "compare.yaml")

    return write


@pytest.fixture
def prepared(write):
    """Recipe, arms' recipes and proteins, as a comparison begins with them."""

    def prepare(changes: dict | None = None) -> SimpleNamespace:
        args, words = compare_module.parse_arguments([write(changes)])
        recipe, recipes, data = compare_module.prepare(args, words)
        return SimpleNamespace(recipe=recipe, recipes=recipes, data=data)

    return prepare


@pytest.fixture
def compare(write):
    """Make a whole comparison in this process."""

    def compare(changes: dict | None = None, *words: str) -> compare_module.Outcome:
        return compare_module.compare(*compare_module.parse_arguments([write(changes), *words]))

    return compare


@pytest.fixture(scope="session")
def _finished_folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("comparison") / "study"


@pytest.fixture
def finished(compare, _finished_folder) -> Path:
    """The folder of the comparison without changes, which is made once; tests leave it as it is."""
    if not (_finished_folder / "study.md").exists():
        compare({"output_dir": str(_finished_folder)})
    return _finished_folder


@pytest.fixture
def compared(finished, tmp_path) -> Path:
    """A copy of that folder in the place where `compare` writes."""
    return Path(shutil.copytree(finished, tmp_path / "study"))
