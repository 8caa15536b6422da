"""The command line of `examples/run_tape.py`."""

import sys
from dataclasses import dataclass
from typing import NoReturn, get_type_hints

from adversarial_mlm.downstream.argument_checks import check_arguments
from adversarial_mlm.downstream.definitions import KINDS, RESIDUE_CLASSES, TASKS, Task, own_task
from adversarial_mlm.downstream.finetune_settings import FinetuneSettings
from adversarial_mlm.inference.embeddings import DTYPES
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.options import (
    OptionSet,
    Source,
    did_you_mean,
    documented,
    option,
    read_value,
)

MODES = ("probe", "finetune", "zero_shot", "baselines")
MARGINALS = ("masked", "wild_type")


@dataclass
class TapeArguments:
    """What is evaluated, on what, and where results go."""

    task: list[str] = option(
        [], f"{', '.join(TASKS)}; all for the four; or for a task of one's own: {', '.join(KINDS)}."
    )
    mode: str = option(
        "probe",
        "probe: a linear head on the frozen encoder; finetune; zero_shot: substitutions scored by the masked language "
        "model as it is; baselines: without an encoder.",
        MODES,
    )
    model_name_or_path: str | None = option(None, "The encoder: folder or Hub name.")
    model_revision: str | None = option(None, "Branch, tag or commit of it on the Hub.")
    data_dir: str | None = option(None, "Folder with the data of TAPE's tasks.")
    file_prefix: str | None = option(None, "Another beginning of the files' names, for one of TAPE's tasks.")
    labels: str = option("ss3", "secondary_structure: 3 or 8 states.", tuple(RESIDUE_CLASSES))
    target: str | None = option(None, "Column with the labels; needed for an own task.")
    train_file: str | None = option(None, "Own task: CSV, TSV, JSON lines or parquet.")
    valid_file: str | None = option(None, "Own task: validation data.")
    test_file: str | None = option(None, "Own task: test data.")
    split_column: str | None = option(None, "Own task: column of train_file that says train, valid or test.")
    split_seed: int = option(0, "Own task: of a random split, where there is none.")
    sequence_column: str = option("sequence", "Own task: column with the proteins.")
    id_column: str | None = option(None, "Own task: column with the ids.")
    mask_column: str | None = option(None, "Own token_classification: column that says which residues count.")
    max_records: int | None = option(None, "Use at most so many records of each split.")
    seeds: list[int] = option([0], "Of what is random: fine-tuning, fresh encoders, draws.")
    grid: list[str] = option([], "finetune: search over options first, as learning_rate=1e-5,1e-4.")
    untrained: bool = option(True, "Also evaluate the same encoder without pre-training, as a baseline.")
    layer: int | None = option(None, "probe: layer that is read; by default the output.")
    feature_dtype: str = option("bfloat16", "probe: precision of the encoder.", tuple(DTYPES))
    max_train_residues: int = option(200_000, "probe: residues that a head of residues is fitted on.")
    batch_tokens: int | None = option(None, "probe, zero_shot: tokens in a batch.")
    feature_cache_dir: str | None = option(None, "probe: where features are kept; by default below HF_HOME.")
    use_feature_cache: bool = option(True, "probe: whether features are kept.")
    marginals: str = option(
        "masked", "zero_shot: each position masked in turn, or one reading of the wild type.", MARGINALS
    )
    wild_type: str | None = option(None, "zero_shot: the wild type as text; fluorescence has its own.")
    mutations_column: str | None = option(
        None, "zero_shot, own task: substitutions such as A12G:L30F, instead of sequences."
    )
    bootstrap_samples: int = option(1000, "Resamples for the intervals; 0 for none.")
    output_dir: str | None = option(None, "Where results.json and fine-tuned models go.")
    update_card: bool = option(False, "Write the results into the card in model_name_or_path, a folder.")
    use_cpu: bool = option(False, "Use the CPU even where there is a GPU (finetune: accelerate launch --cpu).")


OPTIONS = OptionSet(
    *(TapeArguments, FinetuneSettings),
    without=("seed",),  # which is one of the seeds
    helps={name: f"finetune: {text}" for name, text in documented(FinetuneSettings).items()},
)
"""All options of the command line."""


def parse_arguments(argv: list[str]) -> tuple[TapeArguments, FinetuneSettings]:
    """Read the command line; options of fine-tuning are those of [`FinetuneSettings`].

    A mistake ends the program with exit status 2 and one sentence that names the option.

    Args:
        argv (`list[str]`): The command line without the program's name.
    """
    parser = OPTIONS.parser()
    try:
        args, settings = OPTIONS.build(OPTIONS.read_words(argv, parser))
        args.task = list(TASKS) if args.task == ["all"] else args.task
        check_arguments(args, settings)
    except ValueError as error:
        refuse(parser.prog, str(error))
    return args, settings


def refuse(program: str, message: str) -> NoReturn:
    """End the program with exit status 2 and a sentence."""
    print(f"{program}: {message}", file=sys.stderr)
    sys.exit(2)


def read_grid(words: list[str]) -> dict[str, list]:
    """`["learning_rate=1e-5,1e-4"]` to `{"learning_rate": [1e-5, 1e-4]}`, by the types of [`FinetuneSettings`].

    Raises:
        [`RecipeError`]: If a word is not of this form or a value does not fit.
    """
    kinds = get_type_hints(FinetuneSettings)
    grid: dict[str, list] = {}
    for word in words:
        name, _, values = word.partition("=")
        if not values:
            raise RecipeError(f"grid is '{word}', but must look like learning_rate=1e-5,1e-4")
        if name not in kinds:
            raise RecipeError(f"grid names '{name}', which is no option of fine-tuning{did_you_mean(name, kinds)}")
        if name in grid:
            raise RecipeError(f"grid names '{name}' twice")
        grid[name] = [read_value(kinds[name], value, Source("grid"), name) for value in values.split(",")]
    return grid


def own_task_of(args: TapeArguments) -> Task:
    """The description of a user's own task."""
    return own_task(
        args.task[0],
        args.target,
        sequence_column=args.sequence_column,
        id_column=args.id_column,
        mask_column=args.mask_column,
    )
