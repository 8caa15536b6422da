#!/usr/bin/env python
"""Select a few families with many members each from a corpus, for small studies.

    python examples/make_family_cut.py corpus.fasta.gz clusters.tsv.gz cut/

writes `cut/proteins.fasta` and `cut/clusters.tsv`. On such a set, a small encoder soon learns more than the frequency
of each residue. On a sample of the same size from all families it does not.
"""

import argparse
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from adversarial_mlm.data import CorpusError, load_corpus, read_cluster_table


def main() -> int:
    """Write the selected families; returns the exit status: 0, or 2 for a mistake in the input."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("proteins", help="FASTA file, or any other source of proteins")
    parser.add_argument("clusters", help="TSV with the columns `id` and `cluster`")
    parser.add_argument("output_dir")
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
    args = parser.parse_args()
    try:
        clusters = read_cluster_table(args.clusters)
        proteins = load_corpus(args.proteins, streaming=True).dataset
        records = [(row["id"], row["sequence"]) for row in proteins if row["id"] in clusters]
    except CorpusError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    sizes = Counter(clusters[name] for name, _ in records)
    fitting = sorted(name for name, size in sizes.items() if args.min_members <= size <= args.max_members)
    short = "" if args.max_median_length is None else f" and a median of at most {args.max_median_length} residues"
    if short:
        lengths = defaultdict(list)
        for name, sequence in records:
            lengths[clusters[name]].append(len(sequence))
        fitting = [name for name in fitting if np.median(lengths[name]) <= args.max_median_length]
    if len(fitting) < args.families:
        print(
            f"{parser.prog}: {args.proteins} has only {len(fitting)} families of {args.min_members} to "
            f"{args.max_members} members{short}, but --families is {args.families}: lower it, or widen the limits",
            file=sys.stderr,
        )
        return 2
    chosen = set(np.random.default_rng(args.seed).permutation(fitting)[: args.families].tolist())
    kept = [(name, sequence) for name, sequence in records if clusters[name] in chosen]
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "proteins.fasta").write_text("".join(f">{name}\n{sequence}\n" for name, sequence in kept))
    table = "".join(f"{name}\t{clusters[name]}\n" for name, _ in kept)
    (folder / "clusters.tsv").write_text("id\tcluster\n" + table)
    print(f"{len(kept)} proteins of {len(chosen)} families in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
