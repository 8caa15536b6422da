"""Write a vector for each protein of a file, or for each residue, with any encoder.

If the command is stopped, run it again to continue.
"""

import argparse
from typing import TYPE_CHECKING

from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import CheckpointError
from adversarial_mlm.utils.home import path_argument

if TYPE_CHECKING:
    from adversarial_mlm.inference.embed_file import Summary

EXAMPLES = (
    "adv-mlm embed --model runs/demo --fasta proteins.fasta --out proteins.parquet",
    "adv-mlm embed --model facebook/esm2_t6_8M_UR50D --fasta a.fasta.gz --out residues.h5 --per_residue",
    "adv-mlm embed --model runs/demo --fasta variants.csv --out variants.npz --layer -2 --pooling max",
)
IF_STOPPED = "complete parts are kept: start the same command to continue"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--model", required=True, type=path_argument, help="folder of an encoder, or its name on the Hub"
    )
    parser.add_argument(
        "--fasta",
        required=True,
        nargs="+",
        type=path_argument,
        help="FASTA files, or tables (.csv, .tsv, .jsonl, .parquet) with a column sequence",
    )
    parser.add_argument("--out", required=True, type=path_argument, help="file to write: .parquet, .npz or .h5")
    parser.add_argument("--per_residue", action="store_true", help="keep a vector for every residue")
    parser.add_argument("--pooling", help="mean (default), max or cls: how residues become one vector")
    parser.add_argument("--layer", type=int, default=-1, help="0 for the embeddings, -1 for the last layer (default)")
    parser.add_argument("--dtype", default="float32", help="float32 (default), or bf16 for speed")
    parser.add_argument("--max_length", type=int, help="tokens to read at once (default: what the encoder can)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    more = parser.add_argument_group("more options")
    more.add_argument("--overlap", type=int, help="residues that windows over a long protein share (default: half)")
    more.add_argument("--output_dtype", default="float32", help="float32 (default), or float16 for half the size")
    more.add_argument("--batch_tokens", type=int, help="tokens in a batch (default: 4,096 on a CPU, 65,536 on a GPU)")
    more.add_argument(
        "--torch_compile", action="store_true", help="compile the encoder first: a minute, worth it for large files"
    )
    more.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    more.add_argument("--revision", help="branch, tag or commit on the Hub")
    more.add_argument("--sequence_column", default="sequence", help="column of a table with the sequences")
    more.add_argument("--id_column", help="column of a table with the ids (default: id, else row numbers)")
    more.add_argument("--allow_nucleotides", action="store_true", help="also accept files that look like DNA or RNA")


def run(args: argparse.Namespace) -> int:
    """Embed the proteins, print what was written, and return the exit status.

    Raises:
        AdversarialMLMError: If an option, the model or a file cannot be used.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        summary = _embed(args)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("model_name_or_path", "--model", 1)) from error
    rate = f", {summary.computed / summary.seconds:,.1f} proteins/s" if summary.computed else ""
    print(f"{args.out}: {count(summary.proteins, 'protein')}{rate}")
    return 0


def _embed(args: argparse.Namespace) -> "Summary":
    from adversarial_mlm.inference.embed_file import embed_file
    from adversarial_mlm.inference.protein_embeddings import EmbeddingOptions

    return embed_file(
        args.model,
        args.fasta,
        args.out,
        options=EmbeddingOptions(
            per_residue=args.per_residue,
            pooling=args.pooling,
            layer=args.layer,
            max_length=args.max_length,
            overlap=args.overlap,
            dtype=args.dtype,
            batch_tokens=args.batch_tokens,
            torch_compile=args.torch_compile,
        ),
        output_dtype=args.output_dtype,
        overwrite=args.overwrite,
        revision=args.revision,
        device=args.device,
        sequence_column=args.sequence_column,
        id_column=args.id_column,
        allow_nucleotides=args.allow_nucleotides,
    )
