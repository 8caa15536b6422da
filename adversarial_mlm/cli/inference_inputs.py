"""What the commands that use a trained model share: options, the model, one protein, and a table as output."""

import argparse
import contextlib
import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import (
    AdversarialMLMError,
    CheckpointError,
    CorpusError,
    RecipeError,
    WritingError,
    one_line,
    shorten,
)
from adversarial_mlm.utils.tables import cell as cell  # the commands write their tables with it

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_ENDINGS = {".tsv": "\t", ".csv": ","}
_SHORTEST_NUCLEOTIDES = 12


def add_computation(parser: argparse.ArgumentParser) -> None:
    """Add the options about model and device that few people need."""
    group = parser.add_argument_group("computation")
    group.add_argument("--revision", help="branch, tag or commit of a model on the Hub")
    group.add_argument("--max_length", type=int, help="largest number of tokens in a row (default: the model's)")
    group.add_argument("--batch_tokens", type=int, help="tokens in a batch (default: 4,096 on a CPU, 65,536 on a GPU)")
    group.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")


def check_computation(args: argparse.Namespace) -> None:
    """Refuse numbers of tokens below 1.

    Raises:
        RecipeError: If there is one.
    """
    for name in ("max_length", "batch_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise RecipeError(f"--{name} must be at least 1, got {value}")


def load_model(args: argparse.Namespace) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Load the encoder of `--model` in evaluation mode, on `--device`, and its tokenizer.

    Raises:
        RecipeError: If there is no such device.
        CheckpointError: If it cannot be loaded, or has no masked-language-modelling head.
    """
    import torch
    from transformers.utils import logging as transformers_logging

    from adversarial_mlm.inference.protein_embeddings import default_device
    from adversarial_mlm.models.loading import load_encoder
    from adversarial_mlm.utils.hardware import on_device

    transformers_logging.disable_progress_bar()
    try:
        model, tokenizer = load_encoder(args.model, args.revision, needs_head=True)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace("model_name_or_path", "--model", 1)) from error
    try:
        return on_device(model, torch.device(args.device or default_device())).eval(), tokenizer
    except (RuntimeError, AssertionError) as error:  # PyTorch lacks this kind of device, or the machine does
        raise RecipeError(f"--device is {args.device}, which cannot be used: {one_line(error)}") from error


@contextlib.contextmanager
def mistakes_in_one_sentence() -> Iterator[None]:
    """Turn errors about values of options into errors that end a command in one sentence."""
    try:
        yield
    except AdversarialMLMError:
        raise
    except ValueError as error:
        raise RecipeError(one_line(error)) from error


def one_protein(text: str, option: str, identifier: str | None = None) -> tuple[str, str]:
    """Return (id, sequence) of a protein that is given as a sequence or as a file.

    Args:
        text (`str`): A sequence, or a FASTA file or table.
        option (`str`): The option that gives it, for messages.
        identifier (`str`, *optional*): The id of the protein in a file of several.

    Raises:
        CorpusError: If the file cannot be read, or does not contain exactly one protein (of this id), or if the
            sequence is one of nucleotides.
    """
    if not is_file(text):
        if identifier is not None:
            raise CorpusError(f"--id is {identifier}, but {option} is a sequence: give a file, or remove --id.")
        _refuse_nucleotides(text, option)
        return "", text
    name, sequence = _protein_of_file(text, identifier)
    _refuse_nucleotides(sequence, f"{option} {text}")
    return name, sequence


def _protein_of_file(text: str, identifier: str | None) -> tuple[str, str]:
    proteins = proteins_of_file(text, first=None if identifier is not None else 2, allow_nucleotides=True)
    if identifier is None:
        if len(proteins) > 1:
            raise CorpusError(f"{text}: contains several proteins: choose one with --id.")
        return proteins[0]
    found = [protein for protein in proteins if protein[0] == identifier]
    if len(found) != 1:
        number = "no protein" if not found else count(len(found), "protein")
        raise CorpusError(f"{text}: contains {number} of id {identifier}: --id must name one.")
    return found[0]


def _refuse_nucleotides(text: str, option: str) -> None:
    """Refuse DNA and RNA; a short peptide, or one of few kinds of residues, such as GAGAGA, passes."""
    letters = text.upper()
    nucleotides = sum(letters.count(letter) for letter in "ACGTUN")
    if len(letters) >= _SHORTEST_NUCLEOTIDES and {*"ACG"} < {*letters} and nucleotides > 0.95 * len(letters):
        raise CorpusError(f"{option} is {shorten(text)}, which seems to be nucleotides: give a protein.")


def is_file(text: str) -> bool:
    """Whether an option names a file, and not a sequence. The name of a missing file has a dot or a slash."""
    return os.path.exists(text) or "/" in text or "." in text


def proteins_of_file(path: str, first: int | None = None, allow_nucleotides: bool = False) -> list[tuple[str, str]]:
    """Return (id, sequence) of the first proteins of a file, by default of all."""
    from itertools import islice

    from adversarial_mlm.data.all_records import AllRecords

    return [
        (record.id, record.sequence) for record in islice(AllRecords(path, allow_nucleotides=allow_nucleotides), first)
    ]


@contextlib.contextmanager
def table_writer(path: str | None, columns: Sequence[str]) -> Iterator[Callable]:
    """Yield a function that writes a row of a table, after a header with the columns.

    Args:
        path (`str`, *optional*): A `.tsv` or `.csv` file, complete or not there; by default the rows go to standard
            output.
        columns (`Sequence[str]`): Names of the columns.

    Raises:
        WritingError: If the file cannot be written.
    """
    from adversarial_mlm.utils import atomic_files

    if path is None:
        writer = csv.writer(sys.stdout, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        yield writer.writerow
        return
    with writing(path), atomic_files.replacing_file(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text, delimiter=_ENDINGS[_ending(path)], lineterminator="\n")
        writer.writerow(columns)
        yield writer.writerow
        text.flush()
        text.detach()


def check_outputs(args: argparse.Namespace, inputs: Sequence[str | None]) -> None:
    """Check the names of the files to write, `--out` and `--figure`.

    Args:
        args (`argparse.Namespace`): With `out`, `figure` and `overwrite`.
        inputs (`Sequence[str]`): Files that must not be replaced; `None` is skipped.

    Raises:
        RecipeError: If one has another ending, is a folder or one of the inputs, or exists without `--overwrite`.
    """
    for option, endings in (("out", tuple(_ENDINGS)), ("figure", (".png",))):
        path = getattr(args, option)
        if path is None:
            continue
        if _ending(path) not in endings:
            raise RecipeError(f"--{option} is {path}, but must end in {' or '.join(endings)}")
        if os.path.isdir(path):
            raise RecipeError(f"--{option} is {path}, which is a folder: name a file")
        if any(other and os.path.realpath(other) == os.path.realpath(path) for other in inputs):
            raise RecipeError(f"--{option} is {path}, which is also an input: name another file")
        if os.path.lexists(path) and not args.overwrite:
            raise RecipeError(f"--{option} is {path}, which exists: name another file, or add --overwrite")


@contextlib.contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn an error of the system into one about the file.

    Raises:
        WritingError: If the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise WritingError(f"{path}: could not be written: {error.strerror or one_line(error)}") from error


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()
