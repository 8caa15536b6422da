"""SIGKILL at random moments of a small real run, saves included; each is gone on from to the end and compared."""

import os
import random
import shutil
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.faults.small_run import GAMES, STEPS, Run, collected, differences, steps_logged, wait

KINDS = tuple((game, processes) for game in GAMES for processes in (1, 2))
_LONGEST_SAVE = 0.15  # seconds after the start of a save within which it is killed
_LAUNCHERS_PATIENCE = 1.0  # seconds after which a launcher ends the processes that one has left behind


@dataclass
class Kill:
    """One kill and what became of the run.

    Attributes:
        game: `noiser_update`.
        processes: How many trained together.
        workers: Of each process's loader.
        moment: When it was to come.
        victims: `all`, or the number of the one process that was killed.
        cut_off_a_save: Whether half a checkpoint was left.
        resumed_from: The checkpoint that the next start found, or `None`: it started anew.
        resumed: Whether that start went on to the end.
        exit_statuses: Of its processes; -9 of one that took too long.
        different: What was not bitwise the same then.
    """

    game: str
    processes: int
    workers: int
    moment: str
    victims: str
    cut_off_a_save: bool
    resumed_from: str | None
    resumed: bool = False
    exit_statuses: list[int] | None = None
    different: list[str] | None = None

    @property
    def equal(self) -> bool:
        return self.resumed and not self.different


def run_kills(folder: Path, count: int, seed: int, kinds: tuple[tuple[str, int], ...] = KINDS) -> list[Kill]:
    """Kill runs until that many kills have hit one, in some games on some numbers of processes in turn."""
    chance = random.Random(seed)
    references = {}
    for game, world in kinds:
        reference = Run(folder / f"straight-{game}-{world}", game, world)
        processes = reference.start()
        _wait_for_beginning(reference, processes)
        started = time.monotonic()
        assert wait(processes) == [0] * world, reference.log(0)
        references[game, world] = reference, time.monotonic() - started
    kills, attempts = [], 0
    while len(kills) < count:
        game, world = kinds[attempts % len(kinds)]
        in_save = attempts // len(kinds) % 2 == 0
        twice = attempts // len(kinds) % 3 == 2
        attempts += 1
        workers = {"dataloader_num_workers": 2 if attempts % 3 == 0 else 0}  # which change nothing
        run = Run(folder / f"killed-{attempts}", game, world, workers)
        reference, seconds = references[game, world]
        kills += _one_run(run, reference, seconds, chance, in_save, twice)
        shutil.rmtree(run.folder)
        print(f"  {len(kills)} kills after {attempts} runs", flush=True)
    return kills


def _one_run(
    run: Run, reference: Run, seconds: float, chance: random.Random, in_save: bool, twice: bool
) -> list[Kill]:
    """Kill a run, and perhaps the start after that, too; then let it come to its end."""
    kills, processes = [], run.start()
    for _ in range(1 + twice):
        kill = _kill(run, processes, seconds, chance, in_save)
        if kill is None:  # it had come to its end
            break
        kills.append(kill)
        print(
            f"  {kill.game} on {kill.processes}: SIGKILL to {kill.victims} {kill.moment}, {_found(kill)}", flush=True
        )
        processes = run.go_on()
    statuses = wait(processes)
    for kill in kills:
        kill.resumed, kill.exit_statuses = statuses == [0] * run.world, statuses
        if kill.resumed:
            kill.different = differences(run, reference)
            if steps_logged(run) != steps_logged(reference):
                kill.different.append("metrics.jsonl")
    if kills and not kills[-1].equal:
        print(f"  exit statuses {statuses}, different: {kills[-1].different}; {run.log(0)[-3000:]}", flush=True)
    return kills


def _found(kill: Kill) -> str:
    left = "half a save left, " if kill.cut_off_a_save else ""
    return left + (f"on from {kill.resumed_from}" if kill.resumed_from else "before the first checkpoint: anew")


def _kill(run: Run, processes: list[int], seconds: float, chance: random.Random, in_save: bool) -> Kill | None:
    victims = chance.choice([processes, [chance.choice(processes)]])
    if in_save:
        number, delay = chance.randint(1, STEPS // 4), chance.uniform(0, _LONGEST_SAVE)
        moment = f"{1000 * delay:.0f} ms into save {number}"
        reached = _wait_for_save(run, processes, number)
        time.sleep(delay)
    else:
        delay = chance.uniform(0, seconds)
        moment = f"{delay:.2f} s after its beginning"
        reached = _wait_for_beginning(run, processes) and _alive(processes, delay)
    if not reached or not _alive(processes, 0):
        return None
    for process in victims:
        os.kill(process, signal.SIGKILL)
    left_behind = [process for process in processes if process not in victims]
    if left_behind and not _all_gone(left_behind, _LAUNCHERS_PATIENCE):
        for process in left_behind:
            os.kill(process, signal.SIGTERM)
    statuses = wait(processes, patience=10)
    if -signal.SIGKILL not in statuses:
        return None
    names = sorted((int(path.name.split("-")[1]), path.name) for path in run.output.glob("checkpoint-[0-9]*"))
    return Kill(
        game=run.game,
        processes=run.world,
        workers=run.options["dataloader_num_workers"],
        moment=moment,
        victims="all" if len(victims) == run.world else f"process {processes.index(victims[0])}",
        cut_off_a_save=any(run.output.glob(".checkpoint-*.incomplete")),
        resumed_from=names[-1][1] if names else None,
    )


def _wait_for_save(run: Run, processes: list[int], number: int) -> bool:
    """Wait until a save begins for that time; `False` where the run ends before."""
    seen = set()
    while _alive(processes, 0.0005):
        seen |= {path.name for path in run.output.glob(".checkpoint-*.incomplete")}
        if len(seen) >= number:
            return True
    return False


def _wait_for_beginning(run: Run, processes: list[int]) -> bool:
    """Wait until the start is over and training about to begin; `False` where the run ends before."""
    while _alive(processes, 0.002):
        if "networks and data are there" in run.log(0):
            return True
    return False


def _alive(processes: list[int], seconds: float) -> bool:
    """Whether all processes still run after a while."""
    until = time.monotonic() + seconds
    while True:
        if any(_is_gone(process) for process in processes):
            return False
        if time.monotonic() >= until:
            return True
        time.sleep(min(0.01, max(seconds, 0.0005)))


def _all_gone(processes: list[int], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not all(_is_gone(process) for process in processes):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def _is_gone(process: int) -> bool:
    # without collecting its status, which `wait` does
    return process in collected or os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def summary(kills: list[Kill]) -> dict:
    """The counts of `faults.json`."""
    return {
        "kills": len(kills),
        "resumed": sum(kill.resumed for kill in kills),
        "bitwise_equal": sum(kill.equal for kill in kills),
        "before_the_first_checkpoint": sum(kill.resumed_from is None for kill in kills),
        "in_a_save": sum(kill.cut_off_a_save for kill in kills),
        "on_two_processes": sum(kill.processes == 2 for kill in kills),
        "each": [asdict(kill) for kill in kills],
    }
