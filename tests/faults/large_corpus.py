"""Does memory grow with the corpus? A real run on a synthetic FASTA of 100,000 and of 2,000,000 sequences.

    python tests/faults/large_corpus.py [--records 2000000] [--folder FOLDER]

Each size is started twice in processes of their own: cold, where the run builds its memory-mapped copy, and warm,
where it finds it. Printed are the seconds from the start of the process to the first update, and the peak of the
anonymous resident memory (without the page cache) of the run and its workers together. Exit status 1 where the
larger corpus needs more than 1.2 times as much as the smaller.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SMALL, LARGE, MOST = 100_000, 2_000_000, 1.2
_RESIDUES = np.frombuffer(b"ALGVESIKRDTPNQFYMHCW", dtype=np.uint8)
_SHARES = np.array(
    [8.3, 9.7, 7.1, 6.9, 6.7, 6.6, 5.9, 5.8, 5.5, 5.5, 5.4, 4.7, 4.1, 3.9, 3.9, 2.9, 2.4, 2.3, 1.4, 1.1]
)
_RECORDS_AT_ONCE = 20_000
_SECONDS_BETWEEN_LOOKS = 0.05


def write_fasta(path: str, records: int, seed: int = 0) -> None:
    """Write proteins with the composition of Swiss-Prot and lengths of 30 to 512 residues, 90 in the mean."""
    generator = np.random.default_rng(seed)
    # drawing from a table of letters in their shares is ten times as fast as drawing with probabilities
    table = np.repeat(_RESIDUES, np.round(_SHARES / _SHARES.sum() * 4096).astype(int))
    with open(path, "wb") as file:
        for start in range(0, records, _RECORDS_AT_ONCE):
            lengths = np.clip(30 + generator.gamma(1.0, 60.0, min(_RECORDS_AT_ONCE, records - start)), 30, 512)
            ends = np.cumsum(lengths.astype(int)).tolist()
            letters = table[generator.integers(len(table), size=ends[-1], dtype=np.uint16)].tobytes()
            file.write(
                b"".join(
                    b">sp|S%07d|SYNTH\n%b\n" % (start + index, letters[begin:end])
                    for index, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))
                )
            )


def run(folder: str, records: int) -> dict:
    """Write a corpus and train on it, cold and warm.

    Args:
        folder (`str`): For the corpus, its copy and the runs; has to exist.
        records (`int`): Sequences.

    Returns:
        `dict`: `records`, `fasta_bytes`, and for `cold` and `warm` a dictionary with `first_update_seconds` and
        `peak_anonymous_bytes`.

    Raises:
        RuntimeError: If a run fails; with its last words.
    """
    fasta, held_out = os.path.join(folder, f"{records}.fasta"), os.path.join(folder, "held_out.fasta")
    for path, number, seed in ((fasta, records, 0), (held_out, 200, 1)):  # in a process of its own, for its memory
        subprocess.run([sys.executable, __file__, "--write", path, str(number), str(seed)], check=True)
    found: dict = {"records": records, "fasta_bytes": os.path.getsize(fasta)}
    for start in ("cold", "warm"):
        output = os.path.join(folder, f"run-{records}-{start}")
        found[start] = _measure(_command(fasta, held_out, output, os.path.join(folder, f"cache-{records}")), output)
    return found


def _command(fasta: str, held_out: str, output: str, cache: str) -> list[str]:
    options = {
        **{"train_data": fasta, "validation_data": held_out, "cache_dir": cache, "output_dir": output},
        **{"encoder": "tiny", "noiser": "tiny", "max_length": 128, "per_device_train_batch_size": 16, "max_steps": 3},
        **{"noiser_steps": 1, "encoder_steps": 1, "logging_steps": 1, "save_strategy": "no", "use_cpu": True},
        **{
            "dataloader_num_workers": 1,
            "disable_tqdm": True,
            "report_to": "none",
            "report": False,
            "lr_scheduler_type": "constant",
        },
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, str(ROOT / "examples" / "run_adv_mlm.py"), *words]


def _measure(command: list[str], output: str) -> dict:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    log, peak, first = Path(output, "metrics.jsonl"), 0, None
    with open(f"{output}.console.txt", "w+", encoding="utf-8") as console:  # a run's folder must be its own
        begin = time.monotonic()
        process = subprocess.Popen(command, env=environment, stdout=console, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, sum(map(_anonymous_bytes, _with_children(process.pid))))
            if first is None and log.is_file() and log.stat().st_size:
                first = time.monotonic() - begin
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if process.returncode or first is None:
            console.seek(0)
            raise RuntimeError(f"exit status {process.returncode}: {console.read()[-2000:]}")
    return {"first_update_seconds": round(first, 2), "peak_anonymous_bytes": peak}


def _with_children(pid: int) -> list[int]:
    pids = [pid]
    for parent in pids:  # grows while it is walked through
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                pids += map(int, Path(f"/proc/{parent}/task/{task}/children").read_text().split())
        except OSError:  # it has ended
            continue
    return pids


def _anonymous_bytes(pid: int) -> int:
    # `Pss_Anon`: a page that forked workers share counts once, where their `RssAnon` would count it for each of them
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:")), 0)


def compare(folder: str, small: int = SMALL, large: int = LARGE) -> dict:
    """Both sizes, and how many times the memory of the smaller the larger needs, `ratio` by `cold` and `warm`."""
    found = {"small": run(folder, small), "large": run(folder, large)}
    found["ratio"] = {
        start: found["large"][start]["peak_anonymous_bytes"] / found["small"][start]["peak_anonymous_bytes"]
        for start in ("cold", "warm")
    }
    return found


def report(found: dict) -> str:
    """The figures, a line each."""
    lines = [
        f"{found[size]['records']:>9,} sequences, {start}: first update after "
        f"{found[size][start]['first_update_seconds']:.1f} s, peak anonymous memory "
        f"{found[size][start]['peak_anonymous_bytes'] / 2**20:,.0f} MiB"
        for size in ("small", "large")
        for start in ("cold", "warm")
    ]
    ratios = ", ".join(f"{start} {ratio:.2f}" for start, ratio in found["ratio"].items())
    return "\n".join([*lines, f"memory of the larger by that of the smaller: {ratios} (at most {MOST})"])


def main() -> int:
    """Compare two sizes; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=LARGE, help="sequences of the larger corpus")
    parser.add_argument("--folder", help="where to write, by default a temporary folder")
    parser.add_argument("--write", nargs=3, metavar=("FILE", "RECORDS", "SEED"), help="write a FASTA, and no more")
    args = parser.parse_args()
    if args.write:
        write_fasta(args.write[0], int(args.write[1]), int(args.write[2]))
        return 0
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = compare(folder, large=args.records)
    print(report(found))
    print(json.dumps(found))
    return int(max(found["ratio"].values()) > MOST)


if __name__ == "__main__":
    sys.exit(main())
