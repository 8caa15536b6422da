"""The command `adv-mlm`, also `python -m adversarial_mlm`."""

import argparse
import logging
import sys

from adversarial_mlm.data import prepare_corpus
from adversarial_mlm.data.cleaning import CleaningCounts
from adversarial_mlm.data.prepare import PART_BYTES
from adversarial_mlm.utils.errors import CorpusError


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status: 0, or 2 for a mistake in the input."""
    parser = argparse.ArgumentParser(prog="adv-mlm", description="Tools for pre-training protein language models.")
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser(
        "prepare",
        help="clean FASTA files once, by several processes, for train_data",
        description="Clean FASTA files into a folder that train_data and validation_data take. Started again after a "
        "stop, it goes on where it was. A compressed file is read by one process.",
    )
    prepare.add_argument("source", nargs="+", help="FASTA files or patterns")
    prepare.add_argument("--output_dir", required=True, help="folder for the prepared corpus")
    prepare.add_argument("--min_length", type=int, default=10, help="drop shorter proteins (default: %(default)s)")
    prepare.add_argument("--allow_nucleotides", action="store_true", help="take files that seem to be DNA or RNA, too")
    prepare.add_argument("--workers", type=int, help="processes (default: one for each CPU)")
    prepare.add_argument(
        "--part_megabytes",
        type=int,
        default=PART_BYTES >> 20,
        help="size of the parts of a plain file, and what a stop loses of each process (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if args.part_megabytes < 1:
            raise CorpusError(f"part_megabytes must be 1 or more, and not {args.part_megabytes}.")
        manifest = prepare_corpus(
            args.source,
            args.output_dir,
            min_length=args.min_length,
            allow_nucleotides=args.allow_nucleotides,
            workers=args.workers,
            part_bytes=args.part_megabytes << 20,
        )
    except CorpusError as error:
        print(f"adv-mlm: {error}", file=sys.stderr)
        return 2
    print(f"{args.output_dir}: {CleaningCounts(**manifest['counts']).summary()}; {manifest['residues']:,} residues")
    return 0
