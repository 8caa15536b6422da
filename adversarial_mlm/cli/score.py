"""Score proteins by pseudo-log-likelihood, the mutants of a table, or all single substitutions of a protein.

The result is a table: in the file `--out`, else on the standard output. The last line on the terminal counts what was
scored, and what was not and why.
"""

import argparse
import logging
import math
import os
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from adversarial_mlm.cli.inference_inputs import (
    add_computation,
    cell,
    check_computation,
    check_outputs,
    is_file,
    load_model,
    mistakes_in_one_sentence,
    one_protein,
    table_writer,
    writing,
)
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import CorpusError, RecipeError, shorten
from adversarial_mlm.utils.home import path_argument
from adversarial_mlm.utils.progress import progress_bar

if TYPE_CHECKING:
    from adversarial_mlm.data.all_records import ProteinRecord
    from adversarial_mlm.inference.mutant_tables import MutantScore

EXAMPLES = (
    "adv-mlm score --model runs/demo --fasta proteins.fasta --out scores.tsv",
    "adv-mlm score --model runs/demo --mutants dms.csv --wild_type wt.fasta --out mutants.tsv",
    "adv-mlm score --model runs/demo --saturation --wild_type MKTAYIAKQR --out all.tsv --figure all.png",
)
IF_STOPPED = "no file is written: start the same command again"

logger = logging.getLogger(__name__)

_MARGINALS = ("masked", "wild_type", "mutant")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--model", required=True, type=path_argument, help="encoder: a folder or a name on the Hub")
    parser.add_argument("--fasta", nargs="+", type=path_argument, help="score these proteins: FASTA files, or tables")
    parser.add_argument(
        "--mutants", type=path_argument, help="score the mutants of this table: CSV, TSV, JSON, Parquet"
    )
    parser.add_argument("--saturation", action="store_true", help="score all single substitutions of the wild type")
    parser.add_argument("--wild_type", type=path_argument, help="the wild type: a sequence, or a FASTA file")
    parser.add_argument("--offset", type=int, help="number to subtract from positions; 23 if they begin at 24")
    parser.add_argument(
        "--marginals", choices=_MARGINALS, help="what the encoder reads to score a substitution (default: masked)"
    )
    parser.add_argument(
        "--one_pass", action="store_true", help="proteins: read each once without masks, a cheap approximation"
    )
    parser.add_argument("--out", type=path_argument, help="table to write, .tsv or .csv (default: standard output)")
    parser.add_argument("--figure", type=path_argument, help="saturation: heat map to write, .png")
    parser.add_argument("--overwrite", action="store_true", help="replace --out and --figure if they exist")
    tables = parser.add_argument_group("tables")
    tables.add_argument("--mutant_column", help="column with mutants such as A12T:G15S (default: mutant)")
    tables.add_argument("--wild_type_column", help="column with the wild type, or with its id in the file --wild_type")
    tables.add_argument("--keep_columns", nargs="+", default=[], help="columns of --mutants to copy into the result")
    tables.add_argument("--sequence_column", help="table of --fasta: column with the proteins (default: sequence)")
    tables.add_argument("--id_column", help="table of --fasta: column with the ids")
    tables.add_argument("--id", help="id of the wild type in a file --wild_type of several proteins")
    tables.add_argument(
        "--allow_nucleotides", action="store_true", help="--fasta: also accept files that look like DNA or RNA"
    )
    add_computation(parser)


def run(args: argparse.Namespace) -> int:
    """Score, write the table, print a summary, and return the exit status.

    Raises:
        AdversarialMLMError: If an option, a file or the model cannot be used, or if nothing could be scored.
    """
    _check_options(args)
    with mistakes_in_one_sentence():
        if args.saturation:
            return _score_saturation(args)
        return _score_mutants(args) if args.mutants else _score_proteins(args)


def _check_options(args: argparse.Namespace) -> None:
    jobs = [name for name in ("fasta", "mutants", "saturation") if getattr(args, name)]
    if len(jobs) != 1:
        given = " and ".join(f"--{name}" for name in jobs) or "none of them"
        raise RecipeError(f"give one of --fasta, --mutants and --saturation; given is {given}")
    applies = {
        "wild_type": ("mutants", "saturation"),
        "offset": ("mutants", "saturation"),
        "marginals": ("mutants", "saturation"),
        "one_pass": ("fasta",),
        "figure": ("saturation",),
        "mutant_column": ("mutants",),
        "wild_type_column": ("mutants",),
        "keep_columns": ("mutants",),
        "sequence_column": ("fasta",),
        "id_column": ("fasta",),
        "allow_nucleotides": ("fasta",),
        "id": ("mutants", "saturation"),
    }
    for name, to in applies.items():
        value = getattr(args, name)
        is_given = value is not None and value is not False and value != []
        if is_given and jobs[0] not in to:
            raise RecipeError(f"--{name} does not apply to --{jobs[0]}, only to --{' and --'.join(to)}: remove it")
    if args.saturation and args.wild_type is None:
        raise RecipeError("--saturation needs --wild_type, a sequence or a FASTA file")
    if args.mutants and args.wild_type is None and args.wild_type_column is None:
        raise RecipeError("--mutants needs --wild_type, a sequence or a FASTA file, or --wild_type_column")
    if args.id is not None and args.wild_type_column is not None:
        raise RecipeError("--id and --wild_type_column both name the wild type: remove one")
    check_computation(args)
    check_outputs(args, [*(args.fasta or []), args.mutants, args.wild_type])


def _score_proteins(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from adversarial_mlm.data.all_records import AllRecords
    from adversarial_mlm.inference.pseudo_likelihood import PseudoLikelihood, pseudo_log_likelihoods

    records = AllRecords(
        args.fasta,
        sequence_column=args.sequence_column or "sequence",
        id_column=args.id_column,
        allow_nucleotides=args.allow_nucleotides,
    )
    model, tokenizer = load_model(args)
    waiting: deque[ProteinRecord] = deque()  # those that are not scored yet

    def sequences() -> Iterator[str]:
        for record in records:
            waiting.append(record)
            yield record.sequence

    scores = pseudo_log_likelihoods(
        model,
        tokenizer,
        sequences(),
        one_pass=args.one_pass,
        max_length=args.max_length,
        batch_tokens=args.batch_tokens,
    )
    proteins = without = residues = left_out = 0
    total = 0.0
    pll = "one_pass_pll" if args.one_pass else "pll"
    columns = ("id", "residues", pll, "one_pass_pseudo_perplexity" if args.one_pass else "pseudo_perplexity", "note")
    with table_writer(args.out, columns) as write:
        for score in tqdm(scores, unit=" proteins", disable=None):
            value = cell(score.pll, 10) if score.residues else ""
            record = waiting.popleft()
            note = record.reason or _note(score)
            write([record.id, score.residues, value, cell(score.pseudo_perplexity), note])
            proteins, without = proteins + 1, without + (score.residues == 0)
            residues, left_out, total = residues + score.residues, left_out + score.left_out, total + score.pll
    together = PseudoLikelihood(residues, total)
    summary = f"{count(proteins, 'protein')}, {count(residues, 'residue')}, {pll} {cell(total, 8)}"
    if residues:
        summary += f", {columns[3]} over all residues {cell(together.pseudo_perplexity, 4)}"
    if left_out:
        summary += f"; not counted: {count(left_out, 'residue')} ambiguous or unknown"
    if without:
        summary += f"; without a score: {count(without, 'protein')} in which no residue counts"
    logger.info("%s: %s", args.out or "standard output", summary)
    if not residues:
        raise CorpusError(f"{records.name}: no protein has a residue that counts.")
    return 0


def _note(score) -> str:
    if not score.residues:
        return "no residue counts"
    return f"{count(score.left_out, 'residue')} not counted: ambiguous or unknown" if score.left_out else ""


def _score_mutants(args: argparse.Namespace) -> int:
    from adversarial_mlm.inference.mutant_tables import NO_WILD_TYPE, MutantScore, score_mutants
    from adversarial_mlm.inference.variant_effects import check_wild_type

    by_id: dict[str, str] | None = None
    if args.wild_type is not None and args.wild_type_column is not None:
        by_id = _wild_types_by_id(args.wild_type)
    single = (
        check_wild_type(one_protein(args.wild_type, "--wild_type", args.id)[1])
        if by_id is None and args.wild_type
        else None
    )
    column = args.mutant_column or "mutant"
    rows = _read_mutants(args, column)
    wild_types: str | list[str]
    if single is not None:
        wild_types = single
    else:
        wild_types = [row[2] if by_id is None else by_id.get(row[2], "") for row in rows]
    model, tokenizer = load_model(args)
    marginals = args.marginals or _MARGINALS[0]
    with progress_bar(_what_is_read(marginals)) as progress:
        scores = score_mutants(
            model,
            tokenizer,
            wild_types,
            [row[1] for row in rows],
            marginals=marginals,
            offset=args.offset or 0,
            max_length=args.max_length,
            batch_tokens=args.batch_tokens,
            progress=progress,
        )
    if by_id is not None:
        missing = f"the id is not in {os.path.basename(args.wild_type)}"
        scores = [
            MutantScore(None, NO_WILD_TYPE, missing) if row[2] not in by_id else score
            for row, score in zip(rows, scores, strict=True)
        ]
    names = ["row", column, *([args.wild_type_column] if args.wild_type_column else []), *args.keep_columns]
    with table_writer(args.out, [*names, "score", "reason"]) as write:
        for (where, text, wild_type, kept), score in zip(rows, scores, strict=True):
            own = [wild_type] if args.wild_type_column else []
            write([where, text, *own, *kept, cell(score.score, 8), score.explanation])
    return _report_mutants(args, rows, scores, single)


def _what_is_read(marginals: str) -> str:
    return "variants" if marginals == "mutant" else "positions"


def _wild_types_by_id(path: str) -> dict[str, str]:
    from adversarial_mlm.cli.inference_inputs import proteins_of_file

    if not is_file(path):
        raise RecipeError(
            f"--wild_type is {shorten(path)}, but with --wild_type_column it must be a file with the proteins of the "
            "ids in this column: give a file, or remove one of the two"
        )
    by_id: dict[str, str] = {}
    for identifier, sequence in proteins_of_file(path):
        if by_id.setdefault(identifier, sequence) != sequence:
            raise CorpusError(f"{path}: the id {shorten(identifier)} has two different sequences: rename one.")
    return by_id


def _read_mutants(args: argparse.Namespace, column: str) -> list[tuple[str, str, str, list[str]]]:
    """Return (place, mutant, wild type or its id, columns to keep) of every row."""
    from adversarial_mlm.downstream.labels import read_sequence, read_words
    from adversarial_mlm.downstream.reading import read_records
    from adversarial_mlm.utils.errors import one_line

    wanted = {column: "--mutant_column"}
    if args.wild_type_column:
        wanted.setdefault(args.wild_type_column, "--wild_type_column")
    for kept in args.keep_columns:
        wanted.setdefault(kept, "--keep_columns")
    rows = []
    for where, values in read_records(args.mutants, wanted):
        name = column
        try:
            mutant = read_words(values[column])
            wild_type = ""
            if args.wild_type_column:
                name = args.wild_type_column
                wild_type = read_sequence(values[name]).strip() if values[name] is not None else ""
        except ValueError as error:
            raise CorpusError(f'{args.mutants}: {where}: column "{name}" {one_line(error)}.') from error
        rows.append((where, mutant, wild_type, [_text(values[kept]) for kept in args.keep_columns]))
    return rows


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _report_mutants(args: argparse.Namespace, rows: list, scores: "list[MutantScore]", wild_type: str | None) -> int:
    """Print how many mutants have a score, and by reason how many have none."""
    from adversarial_mlm.downstream.left_out import LeftOut
    from adversarial_mlm.inference.mutations import OTHER_RESIDUE, OUTSIDE

    without = LeftOut()
    for (where, text, *_), score in zip(rows, scores, strict=True):
        if score.score is None:
            without.add(score.reason, f"{where}: {shorten(text)}{f', {score.detail}' if score.detail else ''}")
    scored = len(rows) - without.total
    summary = f"{scored:,} of {count(len(rows), 'mutant')} {verb(scored, 'has', 'have')} a score"
    if without.total:
        reasons = [
            f"{number:,} {reason} ({'first: ' * (number > 1)}{without.first[reason]})"
            for reason, number in without.counts.items()
        ]
        summary += f"; without a score: {'; '.join(reasons)}"
    misfits = without.counts.get(OTHER_RESIDUE, 0) + without.counts.get(OUTSIDE, 0)
    if wild_type is not None and 2 * misfits >= len(rows):
        summary += _offset_hint(args, rows, wild_type)
    if not scored:
        raise CorpusError(f"{args.mutants}: {summary}.")
    logger.info("%s: %s", args.out or "standard output", summary)
    return 0


def _offset_hint(args: argparse.Namespace, rows: list, wild_type: str) -> str:
    from adversarial_mlm.inference.mutations import likely_offset, parse_mutations

    parsed = [parse_mutations(text) for _, text, *_ in rows]
    better = likely_offset(wild_type, [variant for variant in parsed if not isinstance(variant, str)])
    if better is None or better == (args.offset or 0):
        return "; check --wild_type and --offset"
    return f"; the positions fit with --offset {better}"


def _score_saturation(args: argparse.Namespace) -> int:
    from adversarial_mlm.inference.mutant_tables import SATURATION_COLUMNS, saturation_matrix, saturation_rows
    from adversarial_mlm.inference.variant_effects import check_wild_type

    name, text = one_protein(args.wild_type, "--wild_type", args.id)
    wild_type, marginals = check_wild_type(text), args.marginals or _MARGINALS[0]
    if args.figure:
        from adversarial_mlm.reports import drawing, score_plots

        drawing.check_drawable(len(wild_type), "a heat map")
    model, tokenizer = load_model(args)
    with progress_bar(_what_is_read(marginals)) as progress:
        matrix = saturation_matrix(
            model,
            tokenizer,
            wild_type,
            marginals=marginals,
            max_length=args.max_length,
            batch_tokens=args.batch_tokens,
            progress=progress,
        )
    first = 1 + (args.offset or 0)
    with table_writer(args.out, SATURATION_COLUMNS) as write:
        for row in saturation_rows(wild_type, matrix, first):
            write(row)
        if args.figure:  # both files are written, or none
            title = f"{name + ', ' if name else ''}{count(len(wild_type), 'residue')}, "
            with writing(args.figure):
                score_plots.draw_saturation(
                    wild_type, matrix, args.figure, f"{title}{marginals.replace('_', ' ')} marginals", first
                )
    without = sum(math.isnan(row[0]) for row in matrix)
    scored = len(wild_type) - without
    summary = f"{scored:,} of {count(len(wild_type), 'position')} {verb(scored, 'has', 'have')} scores"
    if without:
        summary += f"; {without:,} {verb(without, 'has', 'have')} none, because of an ambiguous or unknown residue"
    logger.info("%s: %s", args.out or "standard output", summary)
    if args.figure:
        logger.info("%s: heat map", args.figure)
    return 0
