import logging
from types import SimpleNamespace

import pytest
from transformers import TrainerCallback

from adversarial_mlm.reports import at_end
from adversarial_mlm.utils.errors import MissingPackageError

pytest.importorskip("matplotlib")


class TensorBoardCallback(TrainerCallback):
    """As that of transformers, but with a writer that keeps what it is given."""

    def __init__(self):
        self.images, self.texts = {}, {}
        self.tb_writer = SimpleNamespace(
            add_image=lambda tag, pixels, step, dataformats: self.images.update({tag: (pixels, step)}),
            add_text=lambda tag, text, step: self.texts.update({tag: text}),
        )


@pytest.fixture
def ended(quick):
    """End training with some callbacks."""

    def end(folder: str, *callbacks: TrainerCallback, first: bool = True) -> None:
        state = SimpleNamespace(is_world_process_zero=first, global_step=40)
        at_end.PicturesForTrackers(lambda: list(callbacks), folder).on_train_end(None, state, None)

    return end


def test_the_line_names_the_page(write_run, quick):
    folder = write_run()
    assert at_end.report_line(folder) == f"Report      {folder}/report.html"


def test_a_report_that_fails_is_one_line_with_the_command(write_run, monkeypatch):
    folder = write_run()
    with open(f"{folder}/report.html", "w") as file:
        file.write("mine")
    line = at_end.report_line(folder)
    assert line.startswith("NO REPORT   RecipeError: ") and line.endswith(f"to try again: adv-mlm report {folder}")
    monkeypatch.setattr(at_end, "write_report", lambda *words: 1 / 0)
    assert at_end.report_line("x") == "NO REPORT   ZeroDivisionError: division by zero; to try again: adv-mlm report x"


def test_without_matplotlib_the_line_says_how_to_get_the_report(monkeypatch):
    def missing(*words):
        raise MissingPackageError("no matplotlib")

    monkeypatch.setattr(at_end, "write_report", missing)
    assert at_end.report_line("runs/x") == (
        "No report   it needs matplotlib: pip install 'adversarial-mlm[plot]', then adv-mlm report runs/x"
    )


def test_trackers_get_the_pictures_and_the_results(write_run, ended):
    tracker = TensorBoardCallback()
    ended(write_run(), TrainerCallback(), tracker)
    assert list(tracker.images) == ["report/positions", "report/learning_rates"]
    pixels, step = tracker.images["report/positions"]
    assert pixels.shape == (480, 975, 3) and pixels.dtype == "uint8" and step == 40
    assert "| mine | complete, 40 updates | families | 2.600 |" in tracker.texts["report/results"]


def test_only_the_first_process_sends_pictures(write_run, ended):
    tracker = TensorBoardCallback()
    ended(write_run(), tracker, first=False)
    assert not tracker.images


def test_a_tracker_that_fails_is_a_warning(write_run, ended, caplog):
    broken, working = TensorBoardCallback(), TensorBoardCallback()
    broken.tb_writer.add_image = None
    with caplog.at_level(logging.WARNING):
        ended(write_run(), broken, working)
        ended("nowhere", working)
    assert "could not be sent to TensorBoard" in caplog.text and "could not be drawn" in caplog.text
    assert working.images


def test_pictures_are_sent_before_trackers_close():
    trainer = SimpleNamespace(
        callback_handler=SimpleNamespace(callbacks=[TensorBoardCallback()]), args=SimpleNamespace(output_dir="x")
    )
    at_end.send_pictures(trainer)
    assert isinstance(trainer.callback_handler.callbacks[0], at_end.PicturesForTrackers)


def test_the_events_of_tensorboard_hold_the_pictures(write_run, ended, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from torch.utils.tensorboard import SummaryWriter

    tracker = TensorBoardCallback()
    tracker.tb_writer = SummaryWriter(str(tmp_path / "events"))
    ended(write_run(), tracker)
    tracker.tb_writer.close()
    events = accumulator.EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert events.Tags()["images"] == ["report/positions", "report/learning_rates"]
    assert events.Images("report/positions")[0].width == 975
    assert "report/results/text_summary" in events.Tags()["tensors"]


def test_trackio_keeps_the_pictures(write_run, ended, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio")
    trackio.init(project="reports", name="mine")
    ended(write_run(), type("TrackioCallback", (TrainerCallback,), {"_trackio": trackio})())
    trackio.finish()
    assert list((tmp_path / "trackio").rglob("*.png"))


def test_wandb_keeps_the_pictures_offline(write_run, ended, tmp_path):
    wandb = pytest.importorskip("wandb")
    run = wandb.init(project="reports", mode="offline", dir=str(tmp_path))
    ended(write_run(), type("WandbCallback", (TrainerCallback,), {"_wandb": wandb})())
    run.finish()
    assert list(tmp_path.rglob("positions*.png"))
