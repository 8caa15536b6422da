"""The options of `examples/run_tape.py`, and what they describe: a grid, a task of the user's own table."""

from dataclasses import dataclass
from typing import get_type_hints

from adversarial_mlm.downstream.definitions import CONTACTS, KINDS, RESIDUE_CLASSES, TASKS, Task, own_task
from adversarial_mlm.downstream.finetune_settings import FinetuneSettings
from adversarial_mlm.inference.frozen_encoder import AUTO, DTYPES
from adversarial_mlm.inference.variant_effects import MARGINALS
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.option_sets import OptionSet
from adversarial_mlm.utils.options import Source, documented, option, read_value, required
from adversarial_mlm.utils.spelling import did_you_mean

MODES = ("probe", "finetune", "zero_shot", "baselines")
BENCHMARKS = ("proteingym", "flip")


@dataclass
class TapeArguments:
    """What to evaluate, on which data, and where to write results."""

    task: list[str] = option(
        [],
        f"{', '.join(TASKS)}; all for these four; {CONTACTS}; or for your own table: {', '.join(KINDS)}.",
    )
    benchmark: str | None = option(
        None,
        "Instead of task: proteingym (score the assays of reference_file in data_dir, without training), or flip (all "
        "splits below data_dir).",
        BENCHMARKS,
    )
    reference_file: str | None = option(
        None, "proteingym: the benchmark's list of assays, such as DMS_substitutions.csv.", path=True
    )
    only: list[str] = option([], "benchmark: evaluate only these assays (DMS_id) or splits (such as gb1-sampled).")
    mode: str = option(
        "probe",
        "probe: a linear head on the frozen encoder; finetune: train encoder and head; zero_shot: score substitutions "
        "without training; baselines: no encoder.",
        MODES,
    )
    model_name_or_path: str | None = option(None, "Encoder: a folder or a name on the Hub.", path=True)
    model_revision: str | None = option(None, "Branch, tag or commit of the encoder on the Hub.")
    data_dir: str | None = option(None, "Folder with the data of TAPE's tasks, or of a benchmark.", path=True)
    file_prefix: str | None = option(None, "Another prefix of the file names, for one of TAPE's tasks.")
    labels: str = option("ss3", "secondary_structure: labels with 3 or 8 states.", tuple(RESIDUE_CLASSES))
    target: str | None = option(None, "Column with the labels; required for your own table.")
    train_file: str | None = option(
        None, "Own table: CSV, TSV, JSON lines or Parquet; contacts: also structures and TAPE's files.", path=True
    )
    valid_file: str | None = option(None, "Own table: validation data.", path=True)
    test_file: str | None = option(None, "Own table, contacts: test data.", path=True)
    split_column: str | None = option(None, "Own table: column of train_file with train, valid or test.")
    split_seed: int = option(0, "Own table, contacts: seed of a random split, if no split is given.")
    sequence_column: str = option("sequence", "Own table, contacts: column with the proteins.")
    id_column: str | None = option(None, "Own table, contacts: column with the ids.")
    mask_column: str | None = option(
        None, "Own table, token_classification and contacts: column with 1 for residues that count, 0 for others."
    )
    group_column: str | None = option(
        None, "Column with groups, such as wild types: the intervals resample them instead of single proteins."
    )
    contacts_column: str = option(
        "contacts", "contacts: column with the pairs of residues in contact, counted from 1: [[1, 9], [3, 20]]."
    )
    contact_train_proteins: int = option(20, "contacts: number of proteins that the regression is fitted on.")
    max_records: int | None = option(None, "Maximum number of records of each split.")
    seeds: list[int] = option([0], "Seeds of fine-tuning, of encoders without pre-training, and of draws.")
    grid: list[str] = option([], "finetune: values to search over first, such as learning_rate=1e-5,1e-4.")
    untrained: bool = option(True, "Whether to evaluate the encoder without pre-training as a baseline.")
    layer: int | None = option(None, "probe: layer to read; by default the output.")
    feature_dtype: str = option(
        AUTO, "probe: precision of the encoder; auto: bfloat16 on GPUs that have it, else float32.", (AUTO, *DTYPES)
    )
    max_train_residues: int = option(200_000, "probe: maximum number of residues to fit a head of residues on.")
    batch_tokens: int | None = option(None, "probe, zero_shot: tokens in a batch.")
    feature_cache_dir: str | None = option(
        None, "probe: cache folder of the features; by default below HF_HOME.", path=True
    )
    use_feature_cache: bool = option(True, "probe: whether to cache features.")
    marginals: str = option(
        "masked",
        "zero_shot: mask each position in turn, or read the wild type once, or each mutant once, without masks.",
        MARGINALS,
    )
    one_pass: bool = option(False, "proteingym, indels: read each variant once without masks, a cheap approximation.")
    wild_type: str | None = option(None, "zero_shot: sequence of the wild type; not needed for fluorescence.")
    mutations_column: str | None = option(
        None, "zero_shot, own table: column with substitutions such as A12G:L30F, instead of sequences."
    )
    offset: int = option(
        0, "zero_shot, mutations_column: number to subtract from the positions; 23 if the wild type begins at 24."
    )
    bootstrap_samples: int = option(1000, "Number of resamples for the intervals; 0 for none.")
    output_dir: str | None = option(None, "Folder for results.json and fine-tuned models.", path=True)
    update_card: bool = option(False, "Write the results into the model card in the folder model_name_or_path.")
    use_cpu: bool = option(False, "Use the CPU even if there is a GPU (for finetune: accelerate launch --cpu).")


OTHER_NAMES = {
    **dict.fromkeys(("tasks", "task_name"), "task"),
    **dict.fromkeys(
        ("model", "model_path", "model_name", "encoder", "checkpoint", "pretrained"), "model_name_or_path"
    ),
    "tokenizer_name": "model_name_or_path has its own tokenizer, which is used",
    "revision": "model_revision",
    **dict.fromkeys(("data", "data_path", "tape_dir", "dataset"), "data_dir"),
    **dict.fromkeys(("train_data", "train", "input", "csv", "table", "file"), "train_file"),
    **dict.fromkeys(
        ("validation_file", "validation_data", "valid_data", "val_file", "eval_file", "dev_file"), "valid_file"
    ),
    "test_data": "test_file",
    **dict.fromkeys(("label", "label_column", "target_column", "y"), "target"),
    **dict.fromkeys(("text_column", "text_column_name", "seq_column", "sequence_col"), "sequence_column"),
    **dict.fromkeys(("mutant", "mutations", "mutant_column", "variant_column"), "mutations_column"),
    **dict.fromkeys(("wildtype", "wt", "wt_sequence"), "wild_type"),
    **dict.fromkeys(("seed", "random_seed"), "seeds"),
    **dict.fromkeys(("lr", "learn_rate"), "learning_rate"),
    **dict.fromkeys(("epochs", "num_epochs", "num_train_epochs", "n_epochs"), "max_epochs"),
    **dict.fromkeys(("steps", "num_steps"), "max_steps"),
    **dict.fromkeys(
        ("bs", "train_batch_size", "per_device_train_batch_size", "per_gpu_train_batch_size"), "batch_size"
    ),
    **dict.fromkeys(("gradient_accumulation_steps", "grad_accum", "accumulation_steps"), "gradient_accumulation"),
    **dict.fromkeys(("warmup", "num_warmup_steps"), "warmup_steps"),
    "wd": "weight_decay",
    **dict.fromkeys(("early_stopping_patience", "early_stopping"), "patience"),
    **dict.fromkeys(("max_seq_length", "max_seq_len", "max_len", "block_size"), "max_length"),
    **dict.fromkeys(("max_samples", "max_train_samples", "limit"), "max_records"),
    **dict.fromkeys(("no_cuda", "cpu"), "use_cpu"),
    **dict.fromkeys(("device", "gpu", "cuda"), "a GPU is used where there is one, unless use_cpu is true"),
    **dict.fromkeys(("output", "out", "out_dir", "save_dir", "results_dir"), "output_dir"),
    **dict.fromkeys(("freeze", "freeze_encoder"), "frozen_encoder"),
    **dict.fromkeys(("use_peft", "peft_type", "use_lora", "lora", "adapter"), "peft"),
    **dict.fromkeys(("lora_r", "r", "rank"), "lora_rank"),
    **dict.fromkeys(("target_modules", "lora_targets"), "lora_target_modules"),
    **dict.fromkeys(("bootstrap", "n_bootstrap"), "bootstrap_samples"),
    "dropout": "head_dropout",
    **dict.fromkeys(("reference", "mapping_file", "dms_mapping", "dms_reference_file_path"), "reference_file"),
    **dict.fromkeys(("assays", "assay", "dms_id", "splits", "split"), "only"),
    **dict.fromkeys(("groups", "group", "cluster_column", "group_by"), "group_column"),
}
"""What options of `run_tape` are called in other tools, see [`did_you_mean`]."""

OPTIONS = OptionSet(
    *(TapeArguments, FinetuneSettings),
    without=("seed",),  # set by `seeds`
    helps={name: f"finetune: {text}" for name, text in documented(FinetuneSettings).items()},
    other_names=OTHER_NAMES,
)
"""All options of the command line."""


def read_grid(words: list[str]) -> dict[str, list]:
    """Parse `["learning_rate=1e-5,1e-4"]` to `{"learning_rate": [1e-5, 1e-4]}`, by the types of [`FinetuneSettings`].

    Raises:
        [`RecipeError`]: If a word has another form, or a value has the wrong type.
    """
    kinds = get_type_hints(FinetuneSettings)
    grid: dict[str, list] = {}
    for word in words:
        name, _, values = word.partition("=")
        if not values:
            raise RecipeError(f"grid is '{word}', but must look like learning_rate=1e-5,1e-4")
        if name not in kinds:
            raise RecipeError(f"grid names '{name}', which is not an option of fine-tuning{did_you_mean(name, kinds)}")
        if name in grid:
            raise RecipeError(f"grid names '{name}' twice")
        grid[name] = [read_value(kinds[name], value, Source("grid"), name) for value in values.split(",")]
    return grid


def own_task_of(args: TapeArguments) -> Task:
    """Describe the task of the user's own table."""
    return own_task(
        args.task[0],
        required(args.target, "target"),
        sequence_column=args.sequence_column,
        id_column=args.id_column,
        mask_column=args.mask_column,
    )
