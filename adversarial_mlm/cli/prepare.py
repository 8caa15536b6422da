"""Clean FASTA files once, with several processes, into a folder for train_data and validation_data.

If the command is stopped, run it again to continue. A compressed file is read by a single process.
"""

import argparse

from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import CorpusError
from adversarial_mlm.utils.home import path_argument

EXAMPLES = (
    "adv-mlm prepare uniref50.fasta --output_dir corpora/uniref50",
    "adv-mlm prepare 'parts/*.fasta.gz' --output_dir corpora/parts --workers 8",
    "adv-mlm train pretrain --train_data corpora/uniref50",
)
IF_STOPPED = "complete parts are kept: start the same command to continue"

_PART_MEGABYTES = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("source", nargs="+", type=path_argument, help="FASTA files or patterns")
    parser.add_argument("--output_dir", required=True, type=path_argument, help="folder for the prepared corpus")
    parser.add_argument("--min_length", type=int, default=10, help="drop shorter proteins (default: %(default)s)")
    parser.add_argument("--allow_nucleotides", action="store_true", help="also accept files that look like DNA or RNA")
    parser.add_argument("--workers", type=int, help="processes (default: one for each CPU)")
    parser.add_argument(
        "--part_megabytes",
        type=int,
        default=_PART_MEGABYTES,
        help="size of the parts of an uncompressed file; a stop loses up to one part per process "
        "(default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Prepare a corpus, print what was cleaned, and return the exit status.

    Raises:
        CorpusError: If an option or a file cannot be used.
    """
    from adversarial_mlm.data import prepare_corpus
    from adversarial_mlm.data.cleaning import CleaningCounts

    if args.part_megabytes < 1:
        raise CorpusError(f"part_megabytes must be at least 1, got {args.part_megabytes}")
    manifest = prepare_corpus(
        args.source,
        args.output_dir,
        min_length=args.min_length,
        allow_nucleotides=args.allow_nucleotides,
        workers=args.workers,
        part_bytes=args.part_megabytes << 20,
    )
    print(
        f"{args.output_dir}: {CleaningCounts(**manifest['counts']).summary()}; "
        f"{count(manifest['residues'], 'residue')}"
    )
    return 0
