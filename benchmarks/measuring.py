"""Taking turns with a peer, and what is reported of it."""

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from adversarial_mlm.utils.statistics import median_interval


@dataclass
class Row:
    """One line of the table.

    Attributes:
        name: What was measured.
        ours: Our figure, the median.
        peer: The peer's figure, the median.
        unit: Of both.
        ratio: The median of the ratios of neighbouring repetitions, in the direction that the target is about.
        spread: An interval that holds the median ratio with a probability of at least 95 %, or all ratios where there
            are fewer than six.
        repetitions: Of each side.
        target: What the ratio should be at most (`"<= 0.5"`) or at least (`">= 1.6"`); empty where there is none.
        note: What the peer is, or what else has to be known.
    """

    name: str
    ours: float
    peer: float
    unit: str
    ratio: float
    spread: tuple[float, float]
    repetitions: int
    target: str
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the ratio reaches its target."""
        if not self.target:
            return None
        sign, number = self.target.split()
        return self.ratio <= float(number) if sign == "<=" else self.ratio >= float(number)

    def as_dict(self) -> dict:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "met": self.met}


def seconds(job: Callable[[], object], times: int = 1) -> float:
    """How long a job takes, in the mean of so many times, with the garbage of earlier ones collected before."""
    gc.collect()
    _wait()
    start = time.perf_counter()
    for _ in range(times):
        job()
    _wait()
    return (time.perf_counter() - start) / times


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternate(jobs: Sequence[Callable[[], float]], repetitions: int, warm_up: int = 1) -> list[list[float]]:
    """Let jobs take turns, so that whatever else this machine does falls on all of them.

    Args:
        jobs (`Sequence[Callable]`): Each does its work once and returns its figure; see [`seconds`].
        repetitions (`int`): Turns that count.
        warm_up (`int`, *optional*, defaults to 1): Turns before that do not.

    Returns:
        `list[list[float]]`: The figures of each job, one for every turn.
    """
    for _ in range(warm_up):
        for job in jobs:
            job()
    turns = []
    for turn in range(repetitions):
        order = range(len(jobs)) if turn % 2 == 0 else reversed(range(len(jobs)))  # neither is always first
        figures = {index: jobs[index]() for index in order}
        turns.append([figures[index] for index in range(len(jobs))])
    return [list(figures) for figures in zip(*turns, strict=True)]


def timed(*jobs: Callable[[], object], times: int = 1) -> list[Callable[[], float]]:
    """Jobs for [`alternate`] whose figures are their seconds; short ones are done several times in each turn."""
    return [lambda job=job: seconds(job, times) for job in jobs]


def compare(
    name: str,
    ours: Sequence[float],
    peer: Sequence[float],
    unit: str,
    target: str,
    *,
    inverse: bool = False,
    note: str = "",
) -> Row:
    """The row of two series of figures that were taken in turns.

    Args:
        name (`str`): See [`Row`].
        ours (`Sequence[float]`): Our figures.
        peer (`Sequence[float]`): The peer's, of the same turns.
        unit (`str`): Of both.
        target (`str`): `"<= number"`, `">= number"`, or empty.
        inverse (`bool`, *optional*, defaults to `False`): Whether the ratio is peer ÷ ours and not ours ÷ peer.
        note (`str`, *optional*): See [`Row`].
    """
    ratios = [(theirs / mine) if inverse else (mine / theirs) for mine, theirs in zip(ours, peer, strict=True)]
    return Row(
        name=name,
        ours=statistics.median(ours),
        peer=statistics.median(peer),
        unit=unit,
        ratio=statistics.median(ratios),
        spread=median_interval(ratios),
        repetitions=len(ratios),
        target=target,
        note=note,
    )
