"""The report that a run makes at its end, and the pictures that it sends to trackers. Neither can fail the run."""

import importlib
import logging
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback

from adversarial_mlm.reports.drawing import LIGHT, png
from adversarial_mlm.reports.plots import PICTURES
from adversarial_mlm.reports.report_tables import Table, results
from adversarial_mlm.reports.run_log import read_run
from adversarial_mlm.reports.run_report import write_report
from adversarial_mlm.saving.run_files import output_folder
from adversarial_mlm.utils.errors import MissingPackageError, one_line
from adversarial_mlm.utils.extras import require
from adversarial_mlm.utils.tables import markdown_table

if TYPE_CHECKING:
    from transformers import Trainer

logger = logging.getLogger(__name__)

_TAG = "report/"


def report_line(folder: str) -> str:
    """Write the report on a run into its folder.

    Returns:
        `str`: A line for the summary of the run: the path of the page, or why there is none and how to get it.
    """
    command = f"adv-mlm report {folder}"
    try:
        page = write_report([folder], folder)[0]
    except MissingPackageError:
        return f"No report   it needs matplotlib: pip install 'adversarial-mlm[plot]', then {command}"
    except Exception as error:  # the run is complete, whatever happens here
        return f"NO REPORT   {type(error).__name__}: {one_line(error)}; to try again: {command}"
    return f"Report      {page}"


class PicturesForTrackers(TrainerCallback):
    """Sends the pictures and the table of results to TensorBoard, Trackio and Weights & Biases when training ends.

    It has to come before their own callbacks, which close their runs then. Without matplotlib, it does nothing. A
    failure is a warning.

    Args:
        callbacks (`Callable[[], list]`): Returns the trainer's callbacks.
        folder (`str`): The run's folder.
    """

    def __init__(self, callbacks: Callable[[], list[TrainerCallback]], folder: str):
        self.callbacks, self.folder = callbacks, folder

    def on_train_end(self, args, state, control, **kwargs):
        trackers = [one for one in self.callbacks() if type(one).__name__ in _SENDERS]
        if not trackers or not state.is_world_process_zero:
            return
        try:
            require("matplotlib", "plot", "the report")
            pictures, table = dict(_pictures(self.folder)), results([read_run(self.folder)])
        except MissingPackageError:
            return
        except Exception as error:
            logger.warning(f"the pictures of the run could not be drawn for the trackers ({one_line(error)})")
            return
        for tracker in trackers:
            name = type(tracker).__name__
            try:
                _SENDERS[name](tracker, pictures, table, state.global_step)
            except Exception as error:
                kind = name.removesuffix("Callback")
                logger.warning(f"the pictures of the run could not be sent to {kind} ({one_line(error)})")


def send_pictures(trainer: "Trainer") -> None:
    """Let a trainer send its pictures to its trackers, see [`PicturesForTrackers`]."""
    handler = trainer.callback_handler
    handler.callbacks.insert(0, PicturesForTrackers(lambda: handler.callbacks, output_folder(trainer.args)))


def _pictures(folder: str) -> Iterator[tuple[str, np.ndarray]]:
    """Name of each picture, and its pixels `(height, width, 3)`, uint8."""
    from PIL import Image  # matplotlib needs it, too

    runs = [read_run(folder)]
    for picture in PICTURES:
        figure = picture.draw(runs, LIGHT)
        if figure is not None:
            yield picture.name, np.asarray(Image.open(BytesIO(png(figure))).convert("RGB"))


def _to_tensorboard(tracker: Any, pictures: dict[str, np.ndarray], table: Table, step: int) -> None:
    if tracker.tb_writer is None:
        return
    for name, pixels in pictures.items():
        tracker.tb_writer.add_image(_TAG + name, pixels, step, dataformats="HWC")
    tracker.tb_writer.add_text(f"{_TAG}results", markdown_table(table.header, table.rows), step)


def _to_trackio(tracker: Any, pictures: dict[str, np.ndarray], table: Table, step: int) -> None:
    trackio, pandas = tracker._trackio, importlib.import_module("pandas")  # which trackio needs, too
    content: dict[str, Any] = {_TAG + name: trackio.Image(pixels) for name, pixels in pictures.items()}
    content[f"{_TAG}results"] = trackio.Table(dataframe=pandas.DataFrame(table.rows, columns=table.header))
    trackio.log(content)


def _to_wandb(tracker: Any, pictures: dict[str, np.ndarray], table: Table, step: int) -> None:
    wandb = tracker._wandb
    content: dict[str, Any] = {_TAG + name: wandb.Image(pixels) for name, pixels in pictures.items()}
    content[f"{_TAG}results"] = wandb.Table(columns=table.header, data=table.rows)
    wandb.log(content)


_SENDERS = {
    "TensorBoardCallback": _to_tensorboard,
    "TrackioCallback": _to_trackio,
    "WandbCallback": _to_wandb,
}
