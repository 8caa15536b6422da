#!/usr/bin/env python
"""Select a few families with many members each from a corpus, for small studies.

    python examples/make_family_cut.py corpus.fasta.gz clusters.tsv.gz cut/

writes `cut/proteins.fasta` and `cut/clusters.tsv`. On such a set, a small encoder soon learns more than the frequency
of each residue. On a sample of the same size from all families it does not.
"""

from adversarial_mlm.utils import interrupts

if __name__ == "__main__":
    interrupts.end_at_once()  # the imports take seconds

import argparse
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from adversarial_mlm.data import CorpusError, load_corpus, read_cluster_table
from adversarial_mlm.utils import atomic_files
from adversarial_mlm.utils.errors import Interrupted, RecipeError
from adversarial_mlm.utils.home import path_argument

PROTEINS, CLUSTERS = "proteins.fasta", "clusters.tsv"


def main() -> int:
    """Write the selected families.

    Returns:
        `int`, the exit status: 0; 1 if a file could not be written; 2 for a mistake in the input; 143 after SIGTERM;
        130 after SIGINT.
    """
    parser = build_parser()
    args = parser.parse_args()
    try:
        with interrupts.raised():
            make_cut(args)
    except (CorpusError, RecipeError) as error:
        return failed(str(error), 2)
    except OSError as error:  # of writing; readers raise CorpusError
        return failed(f"output_dir {args.output_dir} cannot be written to ({error.strerror or error})", 1)
    except Interrupted as stop:
        return failed(f"stopped by {stop.signal.name}; the cut was not written", interrupts.exit_status(stop.signal))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("proteins", type=path_argument, help="FASTA file, or any other source of proteins")
    parser.add_argument("clusters", type=path_argument, help="TSV with the columns `id` and `cluster`")
    parser.add_argument("output_dir", type=path_argument)
    parser.add_argument("--families", type=int, default=40, help="Number of families (default: %(default)s)")
    parser.add_argument(
        "--min_members", type=int, default=150, help="Least members of a family (default: %(default)s)"
    )
    parser.add_argument("--max_members", type=int, default=400, help="Most members of a family (default: %(default)s)")
    parser.add_argument(
        "--max_median_length",
        type=int,
        help="Longest median length of a family, in residues; whole proteins then fit in short rows",
    )
    parser.add_argument("--seed", type=int, default=0, help="Seed of the choice of families (default: %(default)s)")
    return parser


def make_cut(args: argparse.Namespace) -> None:
    """Choose families, and write their proteins and clusters.

    Raises:
        CorpusError: If a file cannot be read.
        RecipeError: If there are too few families, or if a file would be overwritten.
        OSError: If a file cannot be written.
    """
    folder = Path(args.output_dir)
    existing = [name for name in (PROTEINS, CLUSTERS) if (folder / name).exists()]
    if existing:
        raise RecipeError(f"output_dir {folder} already contains {' and '.join(existing)}: choose another folder")
    clusters = read_cluster_table(args.clusters)
    proteins = load_corpus(args.proteins, streaming=True).dataset
    records = [(row["id"], row["sequence"]) for row in proteins if row["id"] in clusters]
    chosen = choose_families(args, records, clusters)
    kept = [(name, sequence) for name, sequence in records if clusters[name] in chosen]
    table = "".join(f"{name}\t{clusters[name]}\n" for name, _ in kept)
    atomic_files.replace_text(folder / PROTEINS, "".join(f">{name}\n{sequence}\n" for name, sequence in kept))
    atomic_files.replace_text(folder / CLUSTERS, "id\tcluster\n" + table)
    print(f"{len(kept)} proteins of {len(chosen)} families in {folder}")


def choose_families(args: argparse.Namespace, records: list[tuple[str, str]], clusters: dict[str, str]) -> set[str]:
    """Choose families of the sizes asked for, at random.

    Raises:
        RecipeError: If there are too few.
    """
    sizes = Counter(clusters[name] for name, _ in records)
    fitting = sorted(name for name, size in sizes.items() if args.min_members <= size <= args.max_members)
    short = "" if args.max_median_length is None else f" and a median of at most {args.max_median_length} residues"
    if short:
        lengths = defaultdict(list)
        for name, sequence in records:
            lengths[clusters[name]].append(len(sequence))
        fitting = [name for name in fitting if np.median(lengths[name]) <= args.max_median_length]
    if args.families < 1 or args.seed < 0:
        raise RecipeError(f"families must be at least 1 and seed at least 0, got {args.families} and {args.seed}")
    if len(fitting) < args.families:
        raise RecipeError(
            f"{args.proteins} has only {len(fitting)} families of {args.min_members} to {args.max_members} "
            f"members{short}, but --families is {args.families}: lower it, or widen the limits"
        )
    return set(np.random.default_rng(args.seed).permutation(fitting)[: args.families].tolist())


def failed(sentence: str, status: int) -> int:
    """Print why there is no cut; returns the exit status."""
    print(f"{Path(sys.argv[0]).name}: {sentence}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(interrupts.leave(main()))
