"""Measure jobs alternately with a peer, and report their ratio."""

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
        unit: Unit of both.
        ratio: Median of the ratios of neighbouring repetitions, in the direction of the target.
        spread: An interval that contains the median ratio with a probability of at least 95 %; the range of all ratios
            if there are fewer than six.
        repetitions: Repetitions of each side.
        target: Upper (`"<= 0.5"`) or lower (`">= 1.6"`) bound on the ratio; empty if there is none.
        note: What the peer is, or another remark.
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
        """Whether the ratio meets its target; `None` without a target."""
        if not self.target:
            return None
        sign, number = self.target.split()
        return self.ratio <= float(number) if sign == "<=" else self.ratio >= float(number)

    def as_dict(self) -> dict:
        """Return plain values for JSON."""
        return {**dataclasses.asdict(self), "met": self.met}


def seconds(job: Callable[[], object], times: int = 1) -> float:
    """Return the mean seconds of a job over `times` repetitions. Garbage is collected before."""
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
    """Run jobs alternately, which spreads the other load of the machine over all of them.

    Args:
        jobs (`Sequence[Callable]`): Each does its work once and returns its figure; see [`seconds`].
        repetitions (`int`): Rounds that are measured.
        warm_up (`int`, *optional*, defaults to 1): Rounds before these, which are not.

    Returns:
        `list[list[float]]`: The figures of each job, one per round.
    """
    for _ in range(warm_up):
        for job in jobs:
            job()
    rounds = []
    for number in range(repetitions):
        order = range(len(jobs)) if number % 2 == 0 else reversed(range(len(jobs)))  # no job is always first
        figures = {index: jobs[index]() for index in order}
        rounds.append([figures[index] for index in range(len(jobs))])
    return [list(figures) for figures in zip(*rounds, strict=True)]


def timed(*jobs: Callable[[], object], times: int = 1) -> list[Callable[[], float]]:
    """Return jobs for [`alternate`] that measure their seconds, over `times` executions in each round."""
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
    """Return the row for two series of figures that were measured alternately.

    Args:
        name (`str`): See [`Row`].
        ours (`Sequence[float]`): Our figures.
        peer (`Sequence[float]`): The peer's figures of the same rounds.
        unit (`str`): Unit of both.
        target (`str`): `"<= number"`, `">= number"`, or empty.
        inverse (`bool`, *optional*, defaults to `False`): Whether the ratio is peer ÷ ours instead of ours ÷ peer.
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
