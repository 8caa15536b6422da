"""How many records an update of the encoder takes, which may change once or more in a run, and where they begin.

All of it follows from the number of updates made, so that nothing about the position in the data has to be saved.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class BatchStage:
    """Updates of one size.

    Attributes:
        first_update: Number of the first of them, counted from 0.
        size: Records of the global batch in [`read_stages`], micro-batches of one process from there on.
    """

    first_update: int
    size: int


def read_stages(points: Sequence[str], name: str, max_steps: int) -> list[BatchStage]:
    """Read sizes of the global batch: one number, or `size@step` points, a step in updates or as `80%` of all.

    Args:
        points (`Sequence[str]`): As `["128"]` or `["128@0", "256@80%"]`. The first step is 0.
        name (`str`): Of the option, for messages.
        max_steps (`int`): Updates of the run.

    Raises:
        ValueError: If that is not what the words are, if a step lies beyond the run, or if its end is not known.
    """
    words = " ".join(map(str, points)).split()
    if len(words) > 1 and max_steps < 1:
        raise ValueError(f"{name} changes in the run, which needs max_steps in place of num_train_epochs")
    plain = [f"{words[0]}@0"] if len(words) == 1 and "@" not in words[0] else words
    try:
        pairs = [word.split("@") for word in plain]
        stages = [BatchStage(_update(step, max_steps), int(size)) for size, step in pairs]
    except ValueError:
        stages = []
    starts = [stage.first_update for stage in stages]
    rising = all(a < b for a, b in zip(starts, starts[1:], strict=False))
    if not stages or starts[0] != 0 or not rising or min(stage.size for stage in stages) < 1:
        raise ValueError(
            f"{name} must be one number of sequences, or size@step points whose steps rise from 0 and are numbers of "
            f"updates or shares of max_steps such as 80%; got '{' '.join(words)}'"
        )
    if len(stages) > 1 and starts[-1] >= max_steps:
        raise ValueError(f"{name} changes at update {starts[-1]:,}, but max_steps is {max_steps:,}")
    return stages


def _update(step: str, max_steps: int) -> int:
    if not step.endswith("%"):
        return int(step)
    share = float(step.removesuffix("%"))
    if not 0 <= share < 100:
        raise ValueError
    return round(max_steps * share / 100)


def accumulation(stages: Sequence[BatchStage], name: str, batch_size: int, num_processes: int) -> list[BatchStage]:
    """The micro-batches of one process that make the global batches of some stages.

    Raises:
        ValueError: If a global batch is no multiple of what all processes read at a time.
    """
    at_a_time = batch_size * num_processes
    for stage in stages:
        if stage.size % at_a_time:
            read = "1 process reads" if num_processes == 1 else f"{num_processes} processes read"
            raise ValueError(
                f"{name} is {stage.size}, which is no multiple of the {at_a_time} sequences that {read} at a time "
                f"(per_device_train_batch_size {batch_size}); change one of the three"
            )
    return [BatchStage(stage.first_update, stage.size // at_a_time) for stage in stages]


@dataclass(frozen=True)
class Pass:
    """Successive updates of one size from one epoch of the data.

    Attributes:
        epoch: Of the data.
        first: Micro-batch of that epoch with which it begins.
        stop: Micro-batch before which it ends.
        accumulation: Micro-batches of an update; fewer are left to the last one of an epoch.
    """

    epoch: int
    first: int
    stop: int
    accumulation: int

    @property
    def updates(self) -> int:
        """Updates in it."""
        return math.ceil((self.stop - self.first) / self.accumulation)


class EpochPasses:
    """Which micro-batches belong to which update.

    An epoch ends with an update of what is left of it. A stage goes on where the one before stopped, within the same
    epoch, so that no record is lost or read twice.

    Args:
        batches_per_epoch (`int`): Micro-batches of an epoch on one process.
        stages (`Sequence[BatchStage]`): In micro-batches, see [`accumulation`].
    """

    def __init__(self, batches_per_epoch: int, stages: Sequence[BatchStage]):
        self.batches_per_epoch, self.stages = batches_per_epoch, list(stages)
        self._starts = [stage.first_update for stage in stages]
        self._places = [(0, 0)]  # epoch and micro-batch at which each stage begins
        for before, stage in zip(self.stages, self.stages[1:], strict=False):
            self._places.append(self._after(*self._places[-1], before.size, stage.first_update - before.first_update))

    def _after(self, epoch: int, batch: int, size: int, updates: int) -> tuple[int, int]:
        rest = math.ceil((self.batches_per_epoch - batch) / size)  # updates to the end of the epoch
        if updates < rest:
            return epoch, batch + updates * size
        epochs, updates = divmod(updates - rest, math.ceil(self.batches_per_epoch / size))
        return epoch + 1 + epochs, updates * size

    def _stage_of(self, update: int) -> int:
        return bisect.bisect_right(self._starts, update) - 1

    def place(self, update: int) -> tuple[int, int]:
        """Epoch and micro-batch at which an update begins."""
        stage = self.stages[self._stage_of(update)]
        return self._after(*self._places[self._stage_of(update)], stage.size, update - stage.first_update)

    def at(self, update: int) -> Pass:
        """What is left from an update on of the pass that it belongs to."""
        number = self._stage_of(update)
        (epoch, first), size, stop = self.place(update), self.stages[number].size, self.batches_per_epoch
        if number + 1 < len(self.stages):
            stop = min(stop, first + (self._starts[number + 1] - update) * size)
        return Pass(epoch, first, stop, size)

    def index(self, update: int) -> int:
        """How many passes end before an update."""
        cut = sum(batch > 0 for _, batch in self._places[: self._stage_of(update) + 1])  # epochs cut by a new stage
        return self.place(update)[0] + cut


def micro_steps_before(update: int, stages: Sequence[BatchStage]) -> int:
    """Micro-batches of one process before an update, where every update is whole."""
    stops = [stage.first_update for stage in stages[1:]] + [update]
    return sum(
        stage.size * max(min(update, stop) - stage.first_update, 0) for stage, stop in zip(stages, stops, strict=True)
    )
