"""Small logs, as runs write them."""

import json
import math

import pytest
import yaml

from adversarial_mlm.reports import at_end, plots, run_report

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def training_entry(step: int, noiser: bool = True, counts: bool = True) -> dict:
    entry = {
        "loss": 3.0 - step / 100, "grad_norm": 1.5, "learning_rate": 1e-3, "mask_rate": 0.2, "share_mask": 0.8,
        "share_keep": 0.1, "share_replace": 0.1, "residues_per_second": 1000.0, "seconds_data": 0.5,
        "seconds_encoder": 3.0, "skipped_updates": 0.0, "epoch": 0.1, "step": step,
    }  # fmt: skip
    if not noiser:
        return entry
    entry |= {
        "adversarial_loss": 3.1 - step / 100, "random_loss": 2.9 - step / 100, "gap": 0.2, "mask_gap": 0.1,
        "entropy": 0.9, "enrichment_max": 1.5, "noiser_grad_norm": 0.1, "noiser_learning_rate": 2e-3,
        "seconds_noiser": 2.0, "noiser_skipped_updates": 0.0,
        **{f"enrichment_{letter}": 1.0 for letter in LETTERS}, "enrichment_W": 1.0 + step / 10,
    }  # fmt: skip
    if counts:
        entry |= {
            "residues_by_position": [100] * 20,
            "masks_by_position": [10] * 19 + [20],
            "replacements": {"from": "AW", "to": LETTERS, "counts": [[0, 12] + [0] * 18, [0] * 19 + [3]]},
        }
    return entry


def evaluation(step: int, name: str, loss: float, noiser: bool = True) -> dict:
    figures = {"loss": loss, "perplexity": math.exp(loss), "background_loss": 2.9, "runtime": 0.5}
    if noiser:
        figures |= {"adversarial_loss": 2.8, "random_loss": 2.7, "mask_gap": 0.05}
    return {**{f"eval_{name}_{key}": value for key, value in figures.items()}, "step": step}


def log(noiser: bool = True, counts: bool = True, steps: int = 40) -> list[dict]:
    entries = []
    for step in range(10, steps + 1, 10):
        entries.append(training_entry(step, noiser, counts))
        if step % 20 == 0:
            entries += [evaluation(step, name, 3.0 - step / 100, noiser) for name in ("families", "members")]
    return [*entries, {"train_runtime": 40.0, "train_loss": 2.8, "step": steps}]


@pytest.fixture
def quick(monkeypatch):
    """Two pictures are enough to see what is written where."""
    few = [picture for picture in plots.PICTURES if picture.name in ("positions", "learning_rates")]
    for module in (run_report, at_end):
        monkeypatch.setattr(module, "PICTURES", few)
    monkeypatch.setattr(run_report, "overview", plots.positions)


@pytest.fixture
def write_run(tmp_path):
    """Write a run's log and options; returns its folder as a text."""

    def write(name: str = "mine", entries: list[dict] | None = None, **options) -> str:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        lines = [json.dumps(entry) + "\n" for entry in (log() if entries is None else entries)]
        (folder / "metrics.jsonl").write_text("".join(lines))
        recipe = {"train_data": ["a.fasta"], "max_steps": 40, "output_dir": str(folder), **options}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return str(folder)

    return write
