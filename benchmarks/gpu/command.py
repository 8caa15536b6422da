"""`python -m benchmarks gpu`: the plan of all rows, and its targets."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import datasets
import torch

from adversarial_mlm.utils.hardware import machine

from . import ceilings, gates, processes, training_rows
from .journal import Journal, Planned
from .setting import Setting

_CUDA, _TWO = "it needs CUDA", "it needs two GPUs"
_COMPILING = 60  # seconds, an estimate


def grid_name(shape: str, precision: str, reading: str, tokens: int) -> str:
    """Name of a row of the grid."""
    return f"train {shape}, {precision}, {reading}, {tokens} tokens"


def peer_name(peer: str, with_dropout: bool) -> str:
    """Name of a row beside a peer."""
    return f"ours ÷ {peer}, {'with' if with_dropout else 'without'} dropout"


def plan(setting: Setting) -> list[Planned]:
    """All rows, those first that say most."""
    cuda = "" if setting.device.type == "cuda" else _CUDA
    return [
        *_ceilings(setting, cuda),
        *_gates(setting, cuda),
        *_grid(setting, cuda, ("bf16",), setting.tokens[-1:]),
        *_peers(setting, cuda),
        *_games(setting),
        *_lengths(setting, cuda),
        *_rest(setting, cuda),
        *_grid(setting, cuda, ("bf16",), setting.tokens[:1]),
        *_grid(setting, cuda, ("tf32", "fp32"), setting.tokens[::-1]),
    ]


def _ceilings(setting: Setting, cuda: str) -> list[Planned]:
    return [
        Planned("product, bf16", 5, partial(ceilings.product, setting, torch.bfloat16)),
        Planned("product, tf32", 5, partial(ceilings.product, setting, torch.float32, tf32=True), cuda),
        Planned("product, fp32", 8, partial(ceilings.product, setting, torch.float32)),
        Planned("copy", 3, partial(ceilings.copy, setting)),
    ]


def _gates(setting: Setting, cuda: str) -> list[Planned]:
    rows = [Planned("masks are those of a CPU", 3, partial(gates.masks_are_those_of_the_cpu, setting.device))]
    compiler = setting.compiler.get("torch_compile_backend", "inductor")
    compiled = partial(gates.masks_are_those_of_the_cpu, setting.device, compiler)
    rows.append(Planned("compiled masks are those of a CPU", _COMPILING, compiled))
    for precision, dtype in (("fp32", None), ("bf16", torch.bfloat16)):
        for shape in setting.shapes:
            measure = partial(gates.packed_is_padded, setting, shape, dtype)
            rows.append(Planned(f"packed is padded, {shape}, {precision}", 4, measure, cuda))
        dropout = partial(gates.dropout_keeps_the_mean, setting.device, dtype or torch.float32)
        rows.append(Planned(f"dropout of packed attention keeps the mean, {precision}", 3, dropout, cuda))
    for game in gates.GAMES:
        measure = partial(gates.updates_wait_for_nothing, setting, game)
        rows.append(Planned(f"no wait for the GPU in three updates, {game}", 6, measure, cuda))
    return rows


def _grid(setting: Setting, cuda: str, precisions: Sequence[str], tokens: Sequence[int]) -> list[Planned]:
    return [
        Planned(
            grid_name(shape, precision, reading, number),
            10 + _COMPILING * reading.endswith("compile"),
            partial(training_rows.grid_row, setting, shape, precision, reading, number),
            cuda if "packed" in reading or precision == "tf32" else "",
        )
        for number in tokens
        for precision in precisions
        for shape in setting.shapes
        for reading in training_rows.READINGS
    ]


def _peers(setting: Setting, cuda: str) -> list[Planned]:
    bare = partial(ceilings.bare_loop, setting, setting.shapes[0], setting.tokens[-1])
    return [
        *(
            Planned(
                peer_name(peer, with_dropout),
                25 + _COMPILING * ("compiled" in peer),
                partial(training_rows.beside_a_peer, setting, peer, with_dropout),
                training_rows.missing_for_peer(setting, peer),
            )
            for with_dropout in (True, False)
            for peer in training_rows.PEERS
        ),
        Planned("bare loop, packed and compiled", 10 + _COMPILING, bare, cuda),
    ]


def _games(setting: Setting) -> list[Planned]:
    return [
        Planned(f"{game} ÷ random", 15, partial(training_rows.game_over_random, setting, game))
        for game in ("fast", "paper")
    ]


def _lengths(setting: Setting, cuda: str) -> list[Planned]:
    shape, tokens = setting.shapes[0], setting.tokens[-1]
    reading = "chunks" if cuda else "packed"
    return [
        Planned(
            f"lengths {kind}, {shape}, bf16, {reading}",
            10,
            partial(training_rows.grid_row, setting, shape, "bf16", reading, tokens, kind),
        )
        for kind in ("30 to 100", "swiss-prot", "all 512")
    ]


def _rest(setting: Setting, cuda: str) -> list[Planned]:
    can_pair = setting.miniature and cuda or torch.cuda.device_count() >= 2
    largest = partial(training_rows.largest_micro_batch, setting, setting.shapes[0])
    return [
        Planned("largest micro-batch, bf16, packed, all 512", 40, largest, cuda),
        Planned("two processes ÷ one", 60, partial(processes.scaling, setting), "" if can_pair else _TWO),
    ]


def targets(journal: Journal, setting: Setting) -> list[dict]:
    """The first targets, at the larger micro-batch in bf16; without a figure where its row was not measured."""
    shape, tokens = setting.shapes[0], setting.tokens[-1]

    def train(reading: str, key: str) -> float | None:
        return journal.figure(grid_name(shape, "bf16", reading, tokens), key)

    packed, padded = train("packed", "tokens_per_s"), train("padded", "tokens_per_s")
    peers = [
        journal.figure(peer_name(peer, True), "ratio") for peer in training_rows.PEERS if peer.startswith("stock")
    ]
    measured = [ratio for ratio in peers if ratio is not None]
    found = {
        "packed + compile: MFU": (train("packed + compile", "mfu"), ">=", 0.30),
        "ours ÷ the best peer that was measured": (min(measured, default=None), ">=", 1.0),
        "fast ÷ random": (journal.figure("fast ÷ random", "ratio"), "<=", 1.15),
        "packed ÷ padded": (packed / padded if packed and padded else None, ">=", 1.5),
    }
    rows = []
    for name, (value, sign, bound) in found.items():
        met = None if value is None else value >= bound if sign == ">=" else value <= bound
        rows.append(
            {"row": f"target: {name}", "status": "target", "bound": f"{sign} {bound}", "value": value, "met": met}
        )
    return rows


def build_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=main.__doc__)
    parser.add_argument("--seconds", type=float, default=540, help="time of all rows (default: 540)")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of rows.jsonl")
    parser.add_argument("--corpus", metavar="FILE", help="file with proteins (default: lengths like Swiss-Prot's)")
    parser.add_argument("--miniature", action="store_true", help="everything in small, to try it on a CPU")
    parser.add_argument("--rows", metavar="WORDS", default="", help="only rows whose name contains this")
    return parser


def main(words: Sequence[str]) -> int:
    """Measure all that fits into the time, and append each row to `rows.jsonl` as it is measured."""
    parser = build_parser()
    args = parser.parse_args(words)
    setting = Setting(miniature=args.miniature, corpus=args.corpus)
    if setting.device.type == "cpu" and not args.miniature:
        parser.error("there is no CUDA device: use --miniature to try all rows in small")
    rows = [row for row in plan(setting) if args.rows in row.name]
    if not rows:
        parser.error(f"no row has '{args.rows}' in its name")
    datasets.disable_progress_bars()
    journal = Journal(Path(args.out), args.seconds)
    journal.write({"row": "machine", "status": "facts", **machine(), "miniature": args.miniature})
    journal.run(rows)
    for row in targets(journal, setting):
        journal.write(row)
    late = [row["row"] for row in journal.rows if row["status"] == "late"]
    failed = [row["row"] for row in journal.rows if row["status"] == "failed"]
    print(
        f"{len(late)} rows were late: {'; '.join(late) or 'none'}\n{len(failed)} failed: {'; '.join(failed) or 'none'}"
    )
    print(f"Written     {journal.path}")
    return 1 if failed else 0
