"""Invalid combinations of options of `examples/run_tape.py`: conditions, and an error message for each."""

from collections.abc import Callable
from typing import Any

from adversarial_mlm.downstream.arguments import TapeArguments
from adversarial_mlm.downstream.definitions import CONTACTS, KINDS, TASKS
from adversarial_mlm.downstream.finetune_settings import FinetuneSettings
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.options import defaults_of
from adversarial_mlm.utils.spelling import did_you_mean

_OF_RESIDUES = {"token_classification", *(name for name, task in TASKS.items() if task.kind == "token_classification")}
Rule = tuple[Callable[[Any], Any], str]


def _is_set(name: str) -> Callable[[Any], bool]:
    return lambda args: getattr(args, name) != defaults_of(args)[name]


def _both(first: Callable[[Any], Any], second: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda args: first(args) and second(args)


def _below(name: str, least: int) -> Rule:
    return (
        lambda args: getattr(args, name) is not None and getattr(args, name) < least,
        f"{name} must be at least {least}, got {{{name}}}",
    )


def _only_with(modes: tuple[str, ...], *names: str) -> list[Rule]:
    sentence = f"is set, but only has an effect with mode {' or '.join(modes)}: remove it"
    return [(_both(lambda args: args.mode not in modes, _is_set(name)), f"{name} {sentence}") for name in names]


_ALWAYS: list[Rule] = [
    (lambda a: len(set(a.task)) < len(a.task), "task names a task twice: {task}"),
    (
        lambda a: len(set(a.seeds)) < len(a.seeds) or not a.seeds or min(a.seeds) < 0,
        "seeds must be one or more different numbers of at least 0, got {seeds}",
    ),
    *(_below("max_records", 1), _below("batch_tokens", 1), _below("max_train_residues", 1)),
    *(_below("bootstrap_samples", 0), _below("split_seed", 0)),
    (
        lambda a: a.mode == "baselines" and a.model_name_or_path,
        "model_name_or_path is given, but mode baselines uses no encoder: remove it",
    ),
    (
        lambda a: a.mode != "baselines" and not a.model_name_or_path,
        "model_name_or_path is missing: give the encoder's folder or its name on the Hub",
    ),
    (
        lambda a: a.group_column is not None and not a.bootstrap_samples,
        "group_column is given, but bootstrap_samples is 0, so there are no intervals: remove one of them",
    ),
    (
        lambda a: a.mode == "finetune" and not a.output_dir,
        "output_dir is missing: mode finetune saves its models there",
    ),
    (
        lambda a: a.update_card and a.mode == "baselines",
        "update_card is set, but mode baselines has no result of an encoder: remove it",
    ),
]
_OWN_TASK: list[Rule] = [
    (
        lambda a: len(a.task) > 1,
        "task {own} is for your own table and cannot be combined with other tasks: evaluate it separately",
    ),
    (lambda a: a.train_file is None, "train_file is missing: task {own} needs it"),
    (lambda a: a.target is None, "target is missing: task {own} needs it"),
    (
        lambda a: a.data_dir is not None,
        "data_dir is given, but only applies to TAPE's tasks, and task is {own}: use train_file",
    ),
    (
        lambda a: a.file_prefix is not None,
        "file_prefix is given, but only applies to TAPE's tasks, and task is {own}: remove it",
    ),
    (_is_set("labels"), "labels is {labels}, but secondary_structure is not among the tasks: remove it"),
    (
        lambda a: a.mutations_column and _is_set("sequence_column")(a),
        "sequence_column is given, but with mutations_column the sequences come from the mutations: remove one",
    ),
    (
        lambda a: a.valid_file and a.test_file and a.split_seed,
        "split_seed is given, but with valid_file and test_file nothing is split at random: remove it",
    ),
]
_OF_OWN_TASKS = (
    *("train_file", "valid_file", "test_file", "split_column", "split_seed", "sequence_column", "id_column"),
    *("mask_column", "mutations_column"),
)
_OF_OWN_TASKS_AND_TAPE = (*_OF_OWN_TASKS, "target", "labels", "file_prefix")
_FOR_ONE_TASK = "is given, but only applies to a single task, and there are {tasks}: evaluate them separately"
_TAPES_TASKS: list[Rule] = [
    *(
        (_is_set(name), f"{name} is given, but only applies to your own table (task {', '.join(KINDS)}): remove it")
        for name in _OF_OWN_TASKS
    ),
    (lambda a: a.data_dir is None, "data_dir is missing: give the folder with the data of TAPE's tasks"),
    (lambda a: a.file_prefix is not None and len(a.task) > 1, f"file_prefix {_FOR_ONE_TASK}"),
    (lambda a: a.target is not None and len(a.task) > 1, f"target {_FOR_ONE_TASK}"),
    (
        lambda a: a.target is not None and a.task == ["secondary_structure"],
        "target is given, but secondary_structure takes labels: use --labels ss3 or ss8",
    ),
    (
        lambda a: _is_set("labels")(a) and "secondary_structure" not in a.task,
        "labels is {labels}, but secondary_structure is not among the tasks: remove it",
    ),
]
_BENCHMARK: list[Rule] = [
    (lambda a: a.data_dir is None, "data_dir is missing: give the folder with the files of benchmark {benchmark}"),
    (lambda a: len(set(a.only)) < len(a.only), "only names one twice: {only}"),
]
_PROTEINGYM: list[Rule] = [
    (lambda a: a.mode != "zero_shot", "mode is {mode}, but benchmark proteingym only has mode zero_shot: remove it"),
    (lambda a: a.task, "task is given, but benchmark proteingym has tasks of its own: remove it"),
    (lambda a: a.reference_file is None, "reference_file is missing: give the benchmark's list of assays"),
    (lambda a: a.output_dir is None, "output_dir is missing: benchmark proteingym writes its scores there"),
    *(
        (_is_set(name), f"{name} is set, but has no effect with benchmark proteingym: remove it")
        for name in (*_OF_OWN_TASKS_AND_TAPE, "wild_type", "offset", "max_records", "group_column")
    ),
]
_FLIP: list[Rule] = [
    (lambda a: a.mode == "zero_shot", "mode is zero_shot, but benchmark flip only has the other modes: choose one"),
    (
        lambda a: a.task and (len(a.task) > 1 or a.task[0] not in KINDS),
        f"task is {{task}}, but with benchmark flip it can only be the kind of all splits: {', '.join(KINDS)}",
    ),
    (lambda a: a.reference_file is not None, "reference_file is given, but only applies to proteingym: remove it"),
    *(
        (_is_set(name), f"{name} is set, but benchmark flip has columns and splits of its own: remove it")
        for name in _OF_OWN_TASKS_AND_TAPE
        if name != "split_seed"
    ),
]
_NO_BENCHMARK: list[Rule] = [
    (_is_set(name), f"{name} is set, but only has an effect with a benchmark: remove it")
    for name in ("reference_file", "only", "one_pass")
]
_NOT_FOR_CONTACTS = (
    *("labels", "target", "valid_file", "split_column", "layer", "feature_dtype", "max_train_residues"),
    *("batch_tokens", "feature_cache_dir", "use_feature_cache", "group_column"),
)
_CONTACTS: list[Rule] = [
    (lambda a: len(a.task) > 1, "task contacts cannot be combined with other tasks: evaluate it separately"),
    (
        lambda a: a.mode not in ("probe", "baselines"),
        "mode is {mode}, but task contacts reads attention maps and trains nothing else: leave out mode",
    ),
    *(
        (_is_set(name), f"{name} is given, but has no effect with task contacts: remove it")
        for name in _NOT_FOR_CONTACTS
    ),
    (
        lambda a: a.data_dir is None and a.test_file is None,
        "test_file is missing: give a table, a structure or a folder of structures; or TAPE's folder as data_dir",
    ),
    (
        lambda a: a.data_dir is not None and (a.train_file or a.test_file),
        "data_dir is given, but the files are named, too: remove data_dir, or train_file and test_file",
    ),
    (lambda a: a.file_prefix and a.data_dir is None, "file_prefix only applies to the files in data_dir: remove it"),
    (
        lambda a: a.split_seed and a.train_file is not None,
        "split_seed is given, but with train_file nothing is split at random: remove it",
    ),
    _below("contact_train_proteins", 1),
]
_OF_CONTACTS: list[Rule] = [
    (_is_set(name), f"{name} is given, but only applies to task contacts: remove it")
    for name in ("contacts_column", "contact_train_proteins")
]
_EFFECT: list[Rule] = [
    *_only_with(("probe",), "layer", "feature_dtype", "max_train_residues", "feature_cache_dir", "use_feature_cache"),
    *_only_with(("probe", "finetune"), "seeds", "untrained"),
    *_only_with(("probe", "zero_shot", "finetune"), "model_revision", "use_cpu"),
    *_only_with(("probe", "zero_shot"), "batch_tokens"),
    *_only_with(("finetune",), "grid"),
    *_only_with(("zero_shot",), "marginals", "wild_type", "mutations_column", "offset", "one_pass"),
    (
        lambda a: a.offset and not a.mutations_column,
        "offset is {offset}, but only changes the positions in mutations_column, which is missing: remove it",
    ),
    (
        lambda a: _is_set("max_train_residues")(a) and not a.benchmark and not _OF_RESIDUES & {*a.task},
        "max_train_residues is set, but no task has labels of residues: remove it",
    ),
    (
        lambda a: not a.use_feature_cache and a.feature_cache_dir,
        "feature_cache_dir is given, but use_feature_cache is false: remove one of them",
    ),
    (
        lambda a: a.mode == "finetune" and a.use_cpu,
        "use_cpu is set, but mode finetune takes its device from accelerate: use accelerate launch --cpu",
    ),
    *(
        (
            lambda a, name=name: a.mode == "zero_shot" and getattr(a, name),
            f"{name} is given, but mode zero_shot only reads train_file and trains nothing: remove it",
        )
        for name in ("valid_file", "test_file", "split_column", "split_seed", "mask_column", "id_column")
    ),
]


def _rules_of(args: TapeArguments, own: str | None) -> list[Rule]:
    if args.benchmark:
        return [*_BENCHMARK, *_OF_CONTACTS, *(_PROTEINGYM if args.benchmark == "proteingym" else _FLIP)]
    if CONTACTS in args.task:
        return [*_NO_BENCHMARK, *_CONTACTS]
    return [*_NO_BENCHMARK, *_OF_CONTACTS, *(_OWN_TASK if own else _TAPES_TASKS)]


def check_arguments(args: TapeArguments, settings: FinetuneSettings) -> None:
    """Check that the options of a command line can be combined, and that each has an effect.

    Raises:
        RecipeError: If not; the message names the option.
    """
    known = (*TASKS, CONTACTS, *KINDS)
    if not args.task and not args.benchmark:
        raise RecipeError(f"task is missing: choose one of {', '.join(TASKS)}, all, {CONTACTS}, or {', '.join(KINDS)}")
    for name in args.task:
        if name not in known:
            raise RecipeError(f"there is no task '{name}'{did_you_mean(name, (*known, 'all'))}")
    own = next((name for name in args.task if name in KINDS), None)
    for breaks, sentence in (*_ALWAYS, *_rules_of(args, own), *_EFFECT):
        if breaks(args):
            raise RecipeError(sentence.format(**vars(args), own=own, tasks=len(args.task)))
    for name, default in defaults_of(settings).items():
        elsewhere = args.mode != "finetune" and (name != "max_length" or args.mode == "baselines")
        if elsewhere and getattr(settings, name) != default:
            raise RecipeError(f"{name} is set, but only has an effect with mode finetune: remove it")
