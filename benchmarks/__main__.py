"""Run benchmarks from the command line: `python -m benchmarks NAME`."""

import argparse
import inspect
import json
import sys
import time
from pathlib import Path

from adversarial_mlm.utils.hardware import machine

from . import adapters, embed, encode, limit, noiser, sampler, scaling, step_cost, throughput
from .gpu import command
from .measuring import Row

NAMES = {
    "step_cost": step_cost,
    "sampler": sampler,
    "throughput": throughput,
    "encode": encode,
    "embed": embed,
    "limit": limit,
    "peft": adapters,
    "noiser": noiser,
    "scaling": scaling,
}

_PREFACE = """# How fast is it?

Written by `make bench`. Ours and the peer alternate in one process, so both see the same load of the machine. The
ratio is ours ÷ peer, unless the row says otherwise: the median over pairs of neighbouring measurements, with its 95 %
interval. The peer is what you would use instead, with the same model, data, optimizer and precision. The figures
belong to one machine; ratios carry over better to others.

On a CPU, our advantage over the stock trainer that groups by length comes from dropout alone, which ours draws faster
(`quick_cpu_dropout`). The rows without dropout show what is left
([why](../docs/scaling.md#why-is-the-stock-trainer-that-groups-by-length-fast)).

"""
_VERDICTS = {None: "", True: "met", False: "**missed**"}


def table(rows: list[Row], facts: dict) -> str:
    """Return the rows as a Markdown table, with a line about the machine below."""
    lines = [
        "| what | ours | peer | unit | ratio | 95 % interval | repetitions | target | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        low, high = row.spread
        target = row.target.replace("<=", "≤").replace(">=", "≥")
        lines.append(
            f"| {row.name}{f' ({row.note})' if row.note else ''} | {row.ours:,.4g} | {row.peer:,.4g} | {row.unit} "
            f"| {row.ratio:.3g} | {low:.3g} to {high:.3g} | {row.repetitions} | {target} "
            f"| {_VERDICTS[row.met]} |"
        )
    machine_line = ", ".join(f"{name} {value}" for name, value in facts.items())
    return "\n".join([*lines, "", f"Machine: {machine_line}."])


def write(rows: list[Row], facts: dict, json_file: str | None, markdown_file: str | None) -> None:
    """Write the rows so far, each file as a whole or not at all."""
    figures = {"machine": facts, "rows": [row.as_dict() for row in rows]}
    for file, text in (
        (json_file, json.dumps(figures, indent=2, ensure_ascii=False)),
        (markdown_file, f"{_PREFACE}{table(rows, facts)}"),
    ):
        if file:
            part = Path(f"{file}.part")
            part.write_text(f"{text}\n", encoding="utf-8")
            part.replace(file)


def main() -> None:
    """Run one benchmark or all of them. `gpu` is for a machine with a GPU, and has options of its own."""
    if sys.argv[1:2] == ["gpu"]:
        sys.exit(command.main(sys.argv[2:]))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("name", choices=(*NAMES, "all"))
    parser.add_argument("--json", metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--markdown", metavar="FILE", help="also write the table to this file")
    parser.add_argument("--corpus", metavar="FILE", help="file with proteins (default: the demo's)")
    parser.add_argument("--repetitions", type=int, help="repetitions (default: what each benchmark needs)")
    args = parser.parse_args()
    rows: list[Row] = []
    facts = machine()
    for name in NAMES if args.name == "all" else (args.name,):
        job, start = NAMES[name].run, time.perf_counter()
        wanted = {"corpus": args.corpus, "repetitions": args.repetitions}
        known = inspect.signature(job).parameters
        for row in job(**{option: value for option, value in wanted.items() if value is not None and option in known}):
            rows.append(row)
            write(rows, facts, args.json, args.markdown)  # a benchmark that is stopped keeps its rows
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(table(rows, facts))


if __name__ == "__main__":
    main()
