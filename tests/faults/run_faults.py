"""Break small real runs in many ways, and see that they go on as if nothing had happened: `make faults`.

    python -m tests.faults.run_faults [--kills 32] [--seed 0] [--folder DIR] [--output faults.json] [--only NAME ...]

Ends with one line, `kills: N, resumed: N, bitwise equal: N`, and exit status 1 where those differ or another scenario
failed.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults import full_disk, kills, large_corpus, nan_on_one_rank


def nan_on_one_process(folder: Path) -> dict:
    """A nan on one process of two."""
    facts = nan_on_one_rank.run(folder)
    return {"skipped_updates": facts.pop("skipped"), **facts, "passed": bool(facts["ok"])}


def two_million_sequences(folder: Path) -> dict:
    """Memory with 2,000,000 sequences beside that with 100,000."""
    facts = large_corpus.compare(str(folder))
    print(large_corpus.report(facts))
    return {**facts, "passed": max(facts["ratio"].values()) <= large_corpus.MOST}


# name → what is done in an empty folder; gives facts with `passed`, or raises NotPermitted
SCENARIOS: dict[str, Callable[[Path], dict]] = {
    "disk_fills": full_disk.disk_fills,
    "files_are_limited": full_disk.files_are_limited,
    "nan_on_one_process": nan_on_one_process,
    "two_million_sequences": two_million_sequences,
}


def main(argv: list[str]) -> int:
    """Run what is asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=32, help="how many kills must have hit a run")
    parser.add_argument("--kinds", type=int, nargs="*", help="numbers of the kinds of runs to kill; all by default")
    parser.add_argument("--seed", type=int, default=0, help="of their moments and victims")
    parser.add_argument("--folder", type=Path, help="for the runs; a temporary one by default")
    parser.add_argument("--output", type=Path, default=Path("faults.json"))
    parser.add_argument("--only", nargs="*", default=["kills", *SCENARIOS], choices=["kills", *SCENARIOS])
    args = parser.parse_args(argv)
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        kinds = [kills.KINDS[number] for number in args.kinds or range(len(kills.KINDS))]
        results = run_all(args.folder or Path(temporary), args.only, args.kills, args.seed, tuple(kinds))
    args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    for name in SCENARIOS.keys() & results.keys():
        print(f"{name}: {results[name].get('skipped') or ('passed' if results[name]['passed'] else 'FAILED')}")
    failed = [name for name in SCENARIOS.keys() & results.keys() if results[name].get("passed") is False]
    counts = results.get("kills")
    if counts:
        print(
            f"of the kills {counts['in_a_save']} cut off a save, {counts['on_two_processes']} hit a run on two "
            f"processes, {counts['before_the_first_checkpoint']} came before the first checkpoint (started anew)"
        )
        numbers = counts["kills"], counts["resumed"], counts["bitwise_equal"]
        print("kills: {}, resumed: {}, bitwise equal: {}".format(*numbers))
        if len(set(numbers)) > 1:
            return 1
    return 1 if failed else 0


def run_all(folder: Path, names: list[str], count: int, seed: int, kinds: tuple[tuple[str, int], ...]) -> dict:
    """Facts of every scenario by its name."""
    results = {"seed": seed}
    for name in names:
        print(f"{name} ...", flush=True)
        started, place = time.monotonic(), folder / name
        place.mkdir(parents=True)
        if name == "kills":
            facts = kills.summary(kills.run_kills(place, count, seed, kinds))
        else:
            try:
                facts = SCENARIOS[name](place)
            except full_disk.NotPermitted as reason:
                facts = {"skipped": f"skipped, not permitted here ({reason})"}
        results[name] = {"seconds": round(time.monotonic() - started, 1), **facts}
    return results


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
