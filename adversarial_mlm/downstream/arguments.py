"""The command line of `examples/run_tape.py`."""

import dataclasses
import difflib
import inspect
import re
from dataclasses import dataclass, field, fields
from typing import NoReturn

from transformers import HfArgumentParser

from adversarial_mlm.downstream.definitions import KINDS, RESIDUE_CLASSES, TASKS, Task, own_task
from adversarial_mlm.downstream.finetune_settings import FinetuneSettings
from adversarial_mlm.inference.embeddings import DTYPES
from adversarial_mlm.utils.errors import CorpusError

MODES = ("probe", "finetune", "zero_shot", "baselines")
MARGINALS = ("masked", "wild_type")

_OF_RESIDUES = {"token_classification", *(name for name, task in TASKS.items() if task.kind == "token_classification")}


@dataclass
class TapeArguments:
    """What is evaluated, on what, and where results go."""

    task: list[str] = field(
        default_factory=list,
        metadata={"help": f"{', '.join(TASKS)}; all for the four; or for a task of one's own: {', '.join(KINDS)}."},
    )
    mode: str = field(
        default="probe",
        metadata={
            "help": "probe: a linear head on the frozen encoder; finetune; zero_shot: substitutions scored by the "
            "masked language model as it is; baselines: without an encoder.",
            "choices": MODES,
        },
    )
    model_name_or_path: str | None = field(default=None, metadata={"help": "The encoder: folder or Hub name."})
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of it on the Hub."})
    data_dir: str | None = field(default=None, metadata={"help": "Folder with the data of TAPE's tasks."})
    file_prefix: str | None = field(
        default=None, metadata={"help": "Another beginning of the files' names, for one of TAPE's tasks."}
    )
    labels: str = field(
        default="ss3", metadata={"help": "secondary_structure: 3 or 8 states.", "choices": tuple(RESIDUE_CLASSES)}
    )
    target: str | None = field(default=None, metadata={"help": "Column with the labels; needed for an own task."})
    train_file: str | None = field(default=None, metadata={"help": "Own task: CSV, TSV, JSON lines or parquet."})
    valid_file: str | None = field(default=None, metadata={"help": "Own task: validation data."})
    test_file: str | None = field(default=None, metadata={"help": "Own task: test data."})
    split_column: str | None = field(
        default=None, metadata={"help": "Own task: column of train_file that says train, valid or test."}
    )
    split_seed: int = field(default=0, metadata={"help": "Own task: of a random split, where there is none."})
    sequence_column: str = field(default="sequence", metadata={"help": "Own task: column with the proteins."})
    id_column: str | None = field(default=None, metadata={"help": "Own task: column with the ids."})
    mask_column: str | None = field(
        default=None, metadata={"help": "Own token_classification: column that says which residues count."}
    )
    max_records: int | None = field(default=None, metadata={"help": "Use at most so many records of each split."})
    seeds: list[int] = field(
        default_factory=lambda: [0],
        metadata={"help": "Of what is random: fine-tuning, fresh encoders, draws."},
    )
    grid: list[str] = field(
        default_factory=list, metadata={"help": "finetune: search over options first, as learning_rate=1e-5,1e-4."}
    )
    untrained: bool = field(
        default=True, metadata={"help": "Also evaluate the same encoder without pre-training, as a baseline."}
    )
    layer: int | None = field(default=None, metadata={"help": "probe: layer that is read; by default the output."})
    feature_dtype: str = field(
        default="bfloat16", metadata={"help": "probe: precision of the encoder.", "choices": tuple(DTYPES)}
    )
    max_train_residues: int = field(
        default=200_000, metadata={"help": "probe: residues that a head of residues is fitted on."}
    )
    batch_tokens: int | None = field(default=None, metadata={"help": "probe, zero_shot: tokens in a batch."})
    feature_cache_dir: str | None = field(
        default=None, metadata={"help": "probe: where features are kept; by default below HF_HOME."}
    )
    use_feature_cache: bool = field(default=True, metadata={"help": "probe: whether features are kept."})
    marginals: str = field(
        default="masked",
        metadata={"help": "zero_shot: each position masked in turn, or one reading of the wild type.",
                  "choices": MARGINALS},
    )  # fmt: skip
    wild_type: str | None = field(
        default=None, metadata={"help": "zero_shot: the wild type as text; fluorescence has its own."}
    )
    mutations_column: str | None = field(
        default=None, metadata={"help": "zero_shot, own task: substitutions such as A12G:L30F, instead of sequences."}
    )
    bootstrap_samples: int = field(default=1000, metadata={"help": "Resamples for the intervals; 0 for none."})
    output_dir: str | None = field(default=None, metadata={"help": "Where results.json and fine-tuned models go."})
    update_card: bool = field(
        default=False, metadata={"help": "Write the results into the card in model_name_or_path, a folder."}
    )
    use_cpu: bool = field(
        default=False, metadata={"help": "Use the CPU even where there is a GPU (finetune: accelerate launch --cpu)."}
    )


def parse_arguments(argv: list[str]) -> tuple[TapeArguments, FinetuneSettings]:
    """Read the command line; options of fine-tuning are those of [`FinetuneSettings`].

    A mistake ends the program with exit status 2 and one sentence that names the option.

    Args:
        argv (`list[str]`): The command line without the program's name.
    """
    # the parser writes into the fields of what it is given, where FinetuneSettings has its types
    helps = _described(FinetuneSettings)
    options = [
        (option.name, option.type, field(default=option.default, metadata={"help": f"finetune: {helps[option.name]}"}))
        for option in fields(FinetuneSettings)
        if option.name != "seed"  # which is one of the seeds
    ]
    parts = (TapeArguments, dataclasses.make_dataclass("FinetuneOptions", options))
    parser = HfArgumentParser(parts, allow_abbrev=False, usage="%(prog)s --option value")
    try:
        args, given, rest = parser.parse_args_into_dataclasses(
            args=argv, return_remaining_strings=True, look_for_args_file=False
        )
        if rest:
            raise ValueError(_unknown(rest[0]))
        settings = FinetuneSettings(**dataclasses.asdict(given))
        _check(args, settings)
    except ValueError as error:
        refuse(parser.prog, str(error))
    return args, settings


def _described(settings: type) -> dict[str, str]:
    """Option → what its docstring says of it."""
    entries = re.findall(r"^    (\w+) \(.*?\): (.*(?:\n {8}.*)*)", inspect.getdoc(settings), flags=re.MULTILINE)
    return {name: " ".join(text.split()).replace("`", "").replace("%", "%%") for name, text in entries}


def refuse(program: str, message: str) -> NoReturn:
    """End the program with exit status 2 and a sentence."""
    HfArgumentParser(TapeArguments, prog=program).exit(2, f"{program}: {message}\n")


def _unknown(word: str) -> str:
    name = word.lstrip("-").split("=")[0].replace("-", "_")
    if not word.startswith("-"):
        return f"cannot make sense of '{word}' on the command line; options look like --name value"
    known = [option.name for part in (TapeArguments, FinetuneSettings) for option in fields(part)]
    known.remove("seed")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"unknown option '{name}' on the command line" + (f"; did you mean '{near[0]}'?" if near else "")


def _check(args: TapeArguments, settings: FinetuneSettings) -> None:
    args.task = list(TASKS) if args.task == ["all"] else args.task
    known = (*TASKS, *KINDS)
    if not args.task:
        raise ValueError(f"task is missing: name one of {', '.join(TASKS)}, all, or {', '.join(KINDS)}")
    for name in args.task:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else f"; the tasks are {', '.join(known)} and all"
            raise ValueError(f"there is no task '{name}'" + hint)
    if len(set(args.task)) < len(args.task):
        raise ValueError("task names one task twice")
    if len(set(args.seeds)) < len(args.seeds) or not args.seeds or min(args.seeds) < 0:
        raise ValueError(f"seeds must be different numbers from 0 on, at least one, got {args.seeds}")
    for name, least in (
        *(("max_records", 1), ("batch_tokens", 1), ("max_train_residues", 1)),
        *(("bootstrap_samples", 0), ("split_seed", 0)),
    ):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if args.mode == "baselines":
        if args.model_name_or_path:
            raise ValueError("model_name_or_path is given, but mode: baselines uses no encoder")
    elif not args.model_name_or_path:
        raise ValueError("model_name_or_path is missing: name the encoder's folder or its name on the Hub")
    if args.mode == "finetune" and not args.output_dir:
        raise ValueError("output_dir is missing: mode: finetune saves its models there")
    if args.update_card and args.mode == "baselines":
        raise ValueError("update_card is set, but mode: baselines has no result of an encoder")
    _check_own_task(args)
    _check_effect(args, settings)


_OF_OWN_TASKS = (
    *("train_file", "valid_file", "test_file", "split_column", "split_seed", "sequence_column", "id_column"),
    *("mask_column", "mutations_column"),
)


def _check_own_task(args: TapeArguments) -> None:
    own = [name for name in args.task if name in KINDS]
    if own and len(args.task) > 1:
        raise ValueError(f"task {own[0]} is one's own and cannot go together with others in one call")
    if own:
        for name in ("train_file", "target"):
            if getattr(args, name) is None:
                raise ValueError(f"{name} is missing, which task {own[0]} needs")
        for name in ("data_dir", "file_prefix"):
            if getattr(args, name) is not None:
                raise ValueError(f"{name} is given, but belongs to TAPE's tasks, and task is {own[0]}")
        if args.labels != "ss3":
            raise ValueError(f"labels is {args.labels}, but secondary_structure is not among the tasks")
        if args.mutations_column and args.sequence_column != _defaults(TapeArguments)["sequence_column"]:
            raise ValueError("sequence_column is given, but with mutations_column sequences follow from the mutations")
        if args.valid_file and args.test_file and args.split_seed:
            raise ValueError("split_seed is given, but with valid_file and test_file nothing is split at random")
        return
    given = [name for name in _OF_OWN_TASKS if getattr(args, name) != _defaults(TapeArguments)[name]]
    if given:
        raise ValueError(f"{given[0]} is given, but belongs to a task of one's own ({', '.join(KINDS)})")
    if args.data_dir is None:
        raise ValueError("data_dir is missing: the folder with the data of TAPE's tasks")
    for name in ("file_prefix", "target"):
        if getattr(args, name) is not None and len(args.task) > 1:
            raise ValueError(f"{name} is given, which is for one task, but there are {len(args.task)}")
    if args.target is not None and args.task == ["secondary_structure"]:
        raise ValueError("target is given, but secondary_structure takes labels: ss3 or ss8")
    if args.labels != "ss3" and "secondary_structure" not in args.task:
        raise ValueError(f"labels is {args.labels}, but secondary_structure is not among the tasks")


def _check_effect(args: TapeArguments, settings: FinetuneSettings) -> None:
    """An option that is set, and belongs to another mode."""
    for names, modes in (
        (("layer", "feature_dtype", "max_train_residues", "feature_cache_dir", "use_feature_cache"), ("probe",)),
        (("seeds", "untrained"), ("probe", "finetune")),
        (("model_revision", "use_cpu"), ("probe", "zero_shot", "finetune")),
        (("batch_tokens",), ("probe", "zero_shot")),
        (("grid",), ("finetune",)),
        (("marginals", "wild_type", "mutations_column"), ("zero_shot",)),
    ):
        for name in names:
            if getattr(args, name) != _defaults(TapeArguments)[name] and args.mode not in modes:
                raise ValueError(f"{name} is set, but has an effect with mode: {' or '.join(modes)} only")
    if args.max_train_residues != _defaults(TapeArguments)["max_train_residues"] and not _OF_RESIDUES & {*args.task}:
        raise ValueError("max_train_residues is set, but no task has labels of residues")
    if not args.use_feature_cache and args.feature_cache_dir:
        raise ValueError("feature_cache_dir is given, but with use_feature_cache: false nothing is kept")
    if args.mode == "finetune" and args.use_cpu:
        raise ValueError("use_cpu is set, but with mode: finetune the device is chosen by accelerate launch --cpu")
    if args.mode == "zero_shot":
        for name in ("valid_file", "test_file", "split_column", "split_seed", "mask_column", "id_column"):
            if getattr(args, name):
                raise ValueError(f"{name} is given, but mode: zero_shot reads train_file alone and trains nothing")
    for name, default in _defaults(FinetuneSettings).items():
        if getattr(settings, name) == default:
            continue
        if name == "max_length" and args.mode in ("probe", "zero_shot"):
            continue
        if args.mode != "finetune":
            raise ValueError(f"{name} is set, but has an effect with mode: finetune only")


def _defaults(part: type) -> dict:
    return {
        option.name: option.default_factory() if option.default is dataclasses.MISSING else option.default
        for option in fields(part)
    }


def read_grid(words: list[str]) -> dict[str, list]:
    """`["learning_rate=1e-5,1e-4"]` to `{"learning_rate": [1e-5, 1e-4]}`, by the types of [`FinetuneSettings`].

    Raises:
        [`CorpusError`]: if a word is not of this form or a value does not fit.
    """
    options = {option.name: option for option in fields(FinetuneSettings)}
    grid = {}
    for word in words:
        name, equals, values = word.partition("=")
        if not equals or not values:
            raise CorpusError(f"grid is '{word}', but must look like learning_rate=1e-5,1e-4.")
        if name not in options:
            near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else "."
            raise CorpusError(f"grid names '{name}', which is no option of fine-tuning{hint}")
        if name in grid:
            raise CorpusError(f"grid names '{name}' twice.")
        grid[name] = [_value(name, options[name].type, value) for value in values.split(",")]
    return grid


def _value(name: str, kind: object, text: str) -> object:
    wanted = next(one for one in (bool, int, float, str) if kind in (one, one | None))
    try:
        if wanted is bool:
            return {"true": True, "false": False}[text.lower()]
        return wanted(text)
    except (ValueError, KeyError):
        raise CorpusError(f"grid has {name}={text}, where {wanted.__name__} must stand.") from None


def own_task_of(args: TapeArguments) -> Task:
    """The description of a user's own task."""
    return own_task(
        args.task[0],
        args.target,
        sequence_column=args.sequence_column,
        id_column=args.id_column,
        mask_column=args.mask_column,
    )
