import json
import math

import pytest
import torch
from transformers import TrainerCallback

from adversarial_mlm.training.metrics_log import BriefProgressCallback, Clock, Means, MetricsFile


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (10, 20, 30)) + '{"step": 4')
    return MetricsFile(str(path))


def steps_in(file: MetricsFile) -> list[int]:
    return [json.loads(line)["step"] for line in open(file.path)]


def test_a_fresh_run_drops_an_earlier_ones_entries(file):
    file.begin(resumed_step=None)
    file.append({"step": 1})
    assert steps_in(file) == [1]


def test_a_resumed_run_drops_what_comes_after_its_checkpoint_and_half_a_line(file):
    file.begin(resumed_step=20)
    file.append({"step": 25})
    assert steps_in(file) == [10, 20, 25]


def test_what_json_cannot_say_becomes_null(tmp_path):
    file = MetricsFile(str(tmp_path / "metrics.jsonl"))
    file.append({"step": 0, "loss": math.nan, "perplexity": math.inf})
    assert open(file.path).read() == '{"step": 0, "loss": null, "perplexity": null}\n'


def test_means_start_anew_after_reading_and_join_the_processes():
    means = Means("loss", "norm", "seldom")
    means.add(loss=torch.tensor(1.0), norm=torch.tensor(5.0))
    means.add(loss=torch.tensor(3.0))
    other_process = torch.tensor([[8.0, 1], [0, 0], [0, 0]], dtype=torch.float64)
    assert means.read(lambda sums: sums + other_process) == {"loss": 4.0, "norm": 5.0}
    assert means.read(lambda sums: sums) == {}


def test_a_mean_over_more_residues_counts_more():
    means = Means("loss")
    means.add(torch.tensor(3), loss=torch.tensor(1.0))
    means.add(torch.tensor(1), loss=torch.tensor(5.0))
    means.add(torch.tensor(0), loss=torch.tensor(math.nan))
    assert means.read(lambda sums: sums) == {"loss": 2.0}


def test_the_clock_counts_only_what_was_started():
    clock = Clock()
    clock.stop("encoder")
    assert clock.read() == {}
    with clock("data"):
        pass
    clock.start("encoder")
    assert set(clock.read()) == {"data"}
    clock.stop("encoder")
    assert clock.read()["encoder"] > 0


def test_the_console_shows_the_main_figures_only(monkeypatch):
    shown = []
    monkeypatch.setattr(
        "transformers.trainer_callback.ProgressCallback.on_log", lambda *a, logs, **k: shown.append(logs)
    )
    logs = {
        "loss": 1.0,
        "enrichment_A": 2.0,
        "eval_members_perplexity": 3.0,
        "seconds_data": 4.0,
        "enrichment_max": 5.0,
    }
    BriefProgressCallback().on_log(None, None, None, logs=logs)
    assert set(shown[0]) == {"loss", "eval_members_perplexity", "enrichment_max"}


@pytest.mark.parametrize("disable_tqdm", [False, True])
def test_in_a_notebook_the_main_figures_take_the_place_of_the_stock_table(make_trainer, monkeypatch, disable_tqdm):
    class NotebookProgressCallback(TrainerCallback):
        """As transformers chooses it in a notebook."""

    monkeypatch.setattr("transformers.trainer.DEFAULT_PROGRESS_CALLBACK", NotebookProgressCallback)
    names = {type(one).__name__ for one in make_trainer(disable_tqdm=disable_tqdm).callback_handler.callbacks}
    assert ("BriefPrinterCallback" if disable_tqdm else "BriefProgressCallback") in names
    assert not names & {"NotebookProgressCallback", "PrinterCallback", "ProgressCallback"}
