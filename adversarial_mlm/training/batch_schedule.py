"""The size of an update, which may change during a run, and the records at which each update begins.

Everything is a function of the number of updates, so no position in the data has to be saved.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

from adversarial_mlm.utils.ramp import split_points


@dataclass(frozen=True)
class BatchStage:
    """A range of updates that have the same size.

    Attributes:
        first_update: Number of its first update, from 0.
        size: Size of an update: records of the global batch from [`read_stages`], micro-batches of one process from
            [`accumulation`].
    """

    first_update: int
    size: int


def read_stages(points: Sequence[str], name: str, max_steps: int) -> list[BatchStage]:
    """Read the sizes of the global batch.

    Args:
        points (`Sequence[str]`): One number, as `["128"]`, or `size@step` points, as `["128@0", "256@80%"]`. A step is
            a number of updates or a share of `max_steps`. The first step is 0.
        name (`str`): Name of the option, for messages.
        max_steps (`int`): Updates of the run.

    Raises:
        ValueError: If the points cannot be read, if a step is not in the run, or if there are several points but no
            `max_steps`.
    """
    words = " ".join(map(str, points)).split()
    if len(words) > 1 and max_steps < 1:
        raise ValueError(f"{name} has several sizes, which needs max_steps: set it in place of num_train_epochs")
    try:
        stages = [BatchStage(_update(step, max_steps), int(size)) for size, step in split_points(points)]
    except ValueError:
        stages = []
    starts = [stage.first_update for stage in stages]
    rising = all(a < b for a, b in zip(starts, starts[1:], strict=False))
    if not stages or starts[0] != 0 or not rising or min(stage.size for stage in stages) < 1:
        raise ValueError(
            f"{name} must be one number of sequences, or size@step points such as 128@0 256@80%, with steps that rise "
            f"from 0; got '{' '.join(words)}'"
        )
    if len(stages) > 1 and starts[-1] >= max_steps:
        raise ValueError(f"{name} changes at update {starts[-1]:,}, but max_steps is {max_steps:,}: use earlier steps")
    return stages


def _update(step: str, max_steps: int) -> int:
    if not step.endswith("%"):
        return int(step)
    share = float(step.removesuffix("%"))
    if not 0 <= share < 100:
        raise ValueError
    return round(max_steps * share / 100)


def accumulation(stages: Sequence[BatchStage], name: str, batch_size: int, num_processes: int) -> list[BatchStage]:
    """Convert the sizes of stages from records of the global batch to micro-batches of one process.

    Args:
        stages (`Sequence[BatchStage]`): In records, from [`read_stages`].
        name (`str`): Name of the option, for messages.
        batch_size (`int`): Records of a micro-batch.
        num_processes (`int`): Number of processes.

    Raises:
        ValueError: If a global batch is not a multiple of the micro-batches of all processes.
    """
    at_a_time = batch_size * num_processes
    for stage in stages:
        if stage.size % at_a_time:
            raise ValueError(
                f"{name} is {stage.size}, but must be a multiple of {at_a_time}: per_device_train_batch_size "
                f"({batch_size}) times the number of processes ({num_processes})"
            )
    return [BatchStage(stage.first_update, stage.size // at_a_time) for stage in stages]


@dataclass(frozen=True)
class Pass:
    """Successive updates of the same size in one epoch of the data. The stock loop treats it as an epoch.

    Attributes:
        epoch: Epoch of the data.
        first: Its first micro-batch in that epoch.
        stop: The micro-batch after its last one.
        accumulation: Micro-batches per update. The last update of an epoch may have fewer.
    """

    epoch: int
    first: int
    stop: int
    accumulation: int

    @property
    def updates(self) -> int:
        """Number of updates."""
        return math.ceil((self.stop - self.first) / self.accumulation)


class EpochPasses:
    """Which micro-batches belong to which update.

    The last update of an epoch takes the micro-batches that are left. A new stage continues in the same epoch, so no
    record is skipped or read twice.

    Args:
        batches_per_epoch (`int`): Micro-batches per epoch on one process.
        stages (`Sequence[BatchStage]`): In micro-batches, from [`accumulation`].
    """

    def __init__(self, batches_per_epoch: int, stages: Sequence[BatchStage]):
        self.batches_per_epoch, self.stages = batches_per_epoch, list(stages)
        self._starts = [stage.first_update for stage in stages]
        self._positions = [(0, 0)]  # epoch and micro-batch at which each stage begins
        for before, stage in zip(self.stages, self.stages[1:], strict=False):
            self._positions.append(
                self._after(*self._positions[-1], before.size, stage.first_update - before.first_update)
            )

    def _after(self, epoch: int, batch: int, size: int, updates: int) -> tuple[int, int]:
        rest = math.ceil((self.batches_per_epoch - batch) / size)  # updates to the end of the epoch
        if updates < rest:
            return epoch, batch + updates * size
        epochs, updates = divmod(updates - rest, math.ceil(self.batches_per_epoch / size))
        return epoch + 1 + epochs, updates * size

    def _stage_of(self, update: int) -> int:
        return bisect.bisect_right(self._starts, update) - 1

    def position(self, update: int) -> tuple[int, int]:
        """Epoch and micro-batch at which an update begins."""
        stage = self.stages[self._stage_of(update)]
        return self._after(*self._positions[self._stage_of(update)], stage.size, update - stage.first_update)

    def at(self, update: int) -> Pass:
        """The rest of a pass, from the given update on."""
        number = self._stage_of(update)
        (epoch, first), size, stop = self.position(update), self.stages[number].size, self.batches_per_epoch
        if number + 1 < len(self.stages):
            stop = min(stop, first + (self._starts[number + 1] - update) * size)
        return Pass(epoch, first, stop, size)

    def index(self, update: int) -> int:
        """Number of passes that end before an update."""
        cut = sum(batch > 0 for _, batch in self._positions[: self._stage_of(update) + 1])  # epochs cut by a new stage
        return self.position(update)[0] + cut


def micro_steps_before(update: int, stages: Sequence[BatchStage]) -> int:
    """Number of micro-batches of one process before an update, if all updates are complete."""
    stops = [stage.first_update for stage in stages[1:]] + [update]
    return sum(
        stage.size * max(min(update, stop) - stage.first_update, 0) for stage, stop in zip(stages, stops, strict=True)
    )
