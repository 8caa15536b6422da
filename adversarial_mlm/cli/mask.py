"""Show for each residue of a protein how often a trained noiser masks it, and how hard it is for the encoder.

The terminal shows the protein in colour. `--out` writes a table, `--figure` a picture with a sequence track.
"""

import argparse
import contextlib
import logging
from collections.abc import Iterator

from adversarial_mlm.cli.inference_inputs import (
    add_computation,
    cell,
    check_computation,
    check_outputs,
    load_model,
    mistakes_in_one_sentence,
    one_protein,
    table_writer,
    writing,
)
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import CheckpointError
from adversarial_mlm.utils.home import path_argument
from adversarial_mlm.utils.progress import progress_bar

EXAMPLES = (
    "adv-mlm mask --model runs/demo --protein MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ",
    "adv-mlm mask --model runs/demo --protein proteins.fasta --id P12345 --out masks.tsv",
    "adv-mlm mask --model runs/demo --protein protein.fasta --figure masks.png",
)
IF_STOPPED = "nothing is written: start the same command again"

logger = logging.getLogger(__name__)

_COLUMNS = ("position", "residue", "probability", "mask", "keep", "replace", "favourite")
_OF_ENCODER = ("loss", "entropy", "answer")
_RULES = (
    "adversarial_rate",
    "random_rate",
    "candidate_rate",
    "sampler",
    "selection",
    "temperature",
    "learned_options",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--model", required=True, type=path_argument, help="model with a noiser: folder or Hub name")
    parser.add_argument("--protein", required=True, type=path_argument, help="a sequence, or a FASTA file or table")
    parser.add_argument("--id", help="id of the protein in a file of several")
    parser.add_argument("--out", type=path_argument, help="table to write, .tsv or .csv")
    parser.add_argument("--figure", type=path_argument, help="figure to write, .png")
    parser.add_argument("--overwrite", action="store_true", help="replace --out and --figure if they exist")
    parser.add_argument(
        "--draws",
        type=int,
        default=32,
        help="random candidate sets, from which a blind noiser chooses, to average over (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default: %(default)s)")
    rules = parser.add_argument_group("rules of masking (default: those of the recipe next to the model)")
    rules.add_argument("--adversarial_rate", type=float, help="share of the residues that the noiser masks")
    rules.add_argument("--random_rate", type=float, help="share of the residues masked at random")
    rules.add_argument("--candidate_rate", type=float, help="blind noiser: share of candidates")
    rules.add_argument("--sampler", help="how positions are drawn: rss, gumbel_topk or logistic_topk")
    rules.add_argument("--selection", help="topk or threshold")
    rules.add_argument("--temperature", type=float, help="temperature of the relaxed choices")
    rules.add_argument(
        "--learned_options",
        type=_boolean,
        metavar="BOOL",
        help="whether the noiser also chooses how to mask; otherwise it only uses [MASK]",
    )
    add_computation(parser)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text} must be true or false")
    return text.lower() == "true"


def run(args: argparse.Namespace) -> int:
    """Show the protein, write table and figure, and return the exit status.

    Raises:
        AdversarialMLMError: If an option, the protein or the model cannot be used, or if the model has no noiser.
    """
    check_computation(args)
    check_outputs(args, [args.protein])
    with mistakes_in_one_sentence():
        return _show(args)


def _show(args: argparse.Namespace) -> int:
    from rich.console import Console

    from adversarial_mlm.inference.mask_view import view_masks
    from adversarial_mlm.reports import drawing, mask_plots

    name, sequence = one_protein(args.protein, "--protein", args.id)
    if args.figure:
        drawing.check_drawable(len(sequence), "a figure")
    model, tokenizer = load_model(args)
    noiser, rules, origin = _noiser_and_rules(args)
    with progress_bar("reads") as progress:
        view = view_masks(
            model,
            tokenizer,
            noiser.to(model.device).eval(),
            rules,
            sequence,
            draws=args.draws,
            seed=args.seed,
            max_length=args.max_length,
            batch_tokens=args.batch_tokens,
            progress=progress,
        )
    name = name or "protein"
    notes = _notes(view, rules, origin)
    console = Console(highlight=False)
    console.print(mask_plots.mask_text(view), soft_wrap=True)
    for note in notes:
        console.print(note, markup=False, soft_wrap=True)
    with _table(args, view) if args.out else contextlib.nullcontext():  # both files are written, or none
        if args.figure:
            title = f"{name}, {count(len(view.sequence), 'residue')}\n{view.method}"
            with writing(args.figure):
                mask_plots.draw_masks(view, args.figure, title)
    for path, what in ((args.out, "table"), (args.figure, "figure")):
        if path:
            console.print(f"{path}: {what}", markup=False, soft_wrap=True)
    return 0


def _noiser_and_rules(args: argparse.Namespace):
    from adversarial_mlm.models.loading import load_noiser
    from adversarial_mlm.recipes.saved_rules import saved_rules

    try:
        noiser = load_noiser(args.model, args.revision)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("noiser_name_or_path", "--model", 1)) from error
    given = {name: getattr(args, name) for name in _RULES}
    rules, origin = saved_rules(args.model, noiser.config, args.revision, **given)
    if not origin and args.adversarial_rate is None:
        logger.warning(
            "%s has no recipe.yaml, so the default rates are used: adversarial_rate %g, random_rate %g",
            *(args.model, rules.adversarial_rate, rules.random_rate),
        )
    return noiser, rules, origin


def _notes(view, rules, origin: str) -> list[str]:
    """Return what a reader has to know about the figures, one sentence each."""
    from adversarial_mlm.reports import mask_plots

    residues = len(view.sequence)
    notes = [
        f"The noiser masks {view.budget:,} of {count(residues, 'residue')}: {_most_masked(view)} most often.",
        f"Probability of a mask: {view.method}.",
        "Loss and entropy: of the encoder where the residue alone is [MASK]; mean "
        f"{float(view.loss[view.loss == view.loss].mean()):.2f} and {float(view.entropy.mean()):.2f} nats.",
    ]
    if rules.blind:
        share = view.candidates / residues
        notes.append(f"A residue can only be masked where it is a candidate, so at most {share:.2f} of the time.")
    if mask_plots.only_masks(view):
        notes.append("This noiser only uses [MASK].")
    else:
        notes.append("How it masks a residue most often: _ by [MASK], = by keeping it, a letter by this residue.")
    if view.parts > 1:
        notes.append(f"The noiser read the protein in {view.parts} parts, because it is longer than its max_length.")
    return notes


def _most_masked(view) -> str:
    most = sorted(range(len(view.sequence)), key=lambda index: view.probability[index], reverse=True)[:3]
    return ", ".join(f"{view.sequence[index]}{index + 1} ({view.probability[index]:.2f})" for index in most)


@contextlib.contextmanager
def _table(args: argparse.Namespace, view) -> Iterator[None]:
    """Write the table when the context ends without an error."""
    with table_writer(args.out, [*_COLUMNS, *_OF_ENCODER, "draws", "method"]) as write:
        for index, residue in enumerate(view.sequence):
            write(
                [
                    *(index + 1, residue, cell(view.probability[index])),
                    *(cell(share) for share in view.corruption[index]),
                    *(view.favourite[index], cell(view.loss[index]), cell(view.entropy[index]), view.answer[index]),
                    *(view.draws, view.method),
                ]
            )
        yield
