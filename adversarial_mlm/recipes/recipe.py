"""Recipes: one YAML file with every option of a run, and command-line overrides on top of it.

Built on `HfArgumentParser`, which reads a YAML file or a command line but not both, and leaves a YAML `1e-4` a string.
Here the file is turned into the command line that would say the same, and the user's own words come after it.
"""

import argparse
import dataclasses
import difflib
import json
import math
import os
import re
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import yaml
from transformers import HfArgumentParser

from adversarial_mlm.downstream import probe_callback
from adversarial_mlm.masking.rules import SELECTIONS
from adversarial_mlm.masking.sampling import SAMPLERS
from adversarial_mlm.models import presets
from adversarial_mlm.models.configuration_noiser import BACKBONES, VIEWS
from adversarial_mlm.recipes.yaml_file import read_yaml, refuse
from adversarial_mlm.saving.model_card import LICENSES
from adversarial_mlm.saving.run_files import RECIPE_FILE
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.utils.errors import RecipeError

_TAKE_MAPPINGS = tuple(AdversarialMLMTrainingArguments._VALID_DICT_FIELDS)
_REASONS = (
    ("invalid int value:", "must be a whole number and not"),
    ("invalid float value:", "must be a number and not"),
    ("Truthy value expected: got (.*) but expected one of.*", r"must be true or false and not '\1'"),
)
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
_LOOKS_LIKE_OPTION = re.compile(r"-(?!\d+$|\d*\.\d+$)")


@dataclass
class DataArguments:
    """Where the proteins come from, and which of them are held out."""

    train_data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "FASTA, parquet, jsonl or csv files, globs, a folder of `adv-mlm prepare` or `datasets`, or a "
            "Hub dataset's name."
        },
    )
    validation_data: list[str] = field(
        default_factory=list, metadata={"help": "Held-out data of its own; `name=source` for sets with names."}
    )
    sequence_column: str = field(default="sequence", metadata={"help": "Column with the proteins, in tables."})
    id_column: str | None = field(default=None, metadata={"help": "Column with the ids, in tables."})
    dataset_split: str = field(default="train", metadata={"help": "Split of a Hub dataset or a `datasets` folder."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    streaming: bool = field(default=False, metadata={"help": "Read on the fly and write no memory-mapped copy."})
    cache_dir: str | None = field(default=None, metadata={"help": "Where the memory-mapped copy goes."})
    min_length: int = field(default=10, metadata={"help": "Drop shorter proteins (residues); they are counted."})
    allow_nucleotides: bool = field(
        default=False, metadata={"help": "Take files whose letters are nearly all A, C, G, T, U or N, too."}
    )
    max_length: int = field(default=512, metadata={"help": "Longest row in tokens; longer proteins are cropped."})
    cluster_table: str | None = field(
        default=None, metadata={"help": "TSV of `id` and `cluster`, for holding out by family."}
    )
    holdout_families: float = field(default=0.0, metadata={"help": "Share held out as whole families."})
    holdout_members: float = field(
        default=0.0, metadata={"help": "Share held out of each remaining family of 5 and more."}
    )
    holdout_random: float = field(
        default=0.0, metadata={"help": "Share held out at random, as `sample`; families then leak."}
    )
    holdout_seed: int = field(
        default=0, metadata={"help": "Of the choice of held-out proteins; `seed` leaves it alone."}
    )
    max_eval_records: int | None = field(
        default=None, metadata={"help": "Evaluate on this many proteins of each held-out set, always the same ones."}
    )
    data_license: str | None = field(
        default=None, metadata={"help": "Licence of the data, in your own words, for the model card."}
    )


@dataclass
class ModelArguments:
    """The two networks: fresh ones of a size, or trained ones to start from."""

    encoder: str | None = field(
        default=None, metadata={"help": "Size of a fresh encoder: tape-38m (the default), tape-92m, small or tiny."}
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Start from this masked language model, with its tokenizer: folder or Hub name."},
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of it on the Hub."})
    trained_layers: int | None = field(
        default=None, metadata={"help": "Of model_name_or_path, train the last so many layers and the head only."}
    )
    noiser: str | None = field(
        default=None, metadata={"help": "Size of a fresh noiser: paper (the default), small or tiny."}
    )
    noiser_name_or_path: str | None = field(
        default=None, metadata={"help": "Start from this noiser: its folder, or a model's with one in noiser/."}
    )
    noiser_view: str | None = field(
        default=None,
        metadata={"help": f"What the noiser sees: {', '.join(VIEWS)}; full by default.", "choices": VIEWS},
    )
    noiser_backbone: str | None = field(
        default=None,
        metadata={"help": f"What it reads with: {', '.join(BACKBONES)}; gru by default.", "choices": BACKBONES},
    )
    model_license: str | None = field(
        default=None, metadata={"help": "Licence of the model for its card, by the Hub's identifier (apache-2.0 …)."}
    )


@dataclass
class MaskingArguments:
    """What is masked, and how."""

    preset: str | None = field(
        default=None,
        metadata={
            "help": "Options of a whole game: paper, paper-literal, blind or fast, or recommended, which is random "
            "masks; single options win over it."
        },
    )
    masking: Literal["adversarial", "random"] = field(
        default="adversarial",
        metadata={"help": "`random` is the baseline: the sum of both rates, all of it at random."},
    )
    adversarial_rate: float = field(default=0.1, metadata={"help": "Share of the residues that the noiser masks."})
    random_rate: float = field(default=0.1, metadata={"help": "Share of the residues masked at random."})
    mask_options: list[float] = field(
        default_factory=lambda: [0.8, 0.1, 0.1],
        metadata={"help": "Shares of [MASK], keep and replace among the random masks."},
    )
    learned_options: bool = field(
        default=True, metadata={"help": "Whether the noiser also chooses how to mask; else it only writes [MASK]."}
    )
    sampler: str = field(
        default="rss",
        metadata={"help": f"How positions are drawn: {', '.join(SAMPLERS)}.", "choices": tuple(SAMPLERS)},
    )
    selection: str = field(
        default="topk", metadata={"help": "topk, or threshold as Algorithm 3 prints it.", "choices": tuple(SELECTIONS)}
    )
    gated: bool = field(default=True, metadata={"help": "Whether rss stops at each row's own budget."})
    temperature: float = field(default=1.0, metadata={"help": "Of the relaxed choices."})
    candidate_rate: float | None = field(
        default=None, metadata={"help": "noiser_view blind: share of candidates; by default random + 2 adversarial."}
    )


@dataclass
class RunArguments:
    """How the run treats its folder, and when it counts as failed."""

    overwrite_output_dir: bool = field(default=False, metadata={"help": "Replace an earlier run in output_dir."})
    background_gate: str | None = field(
        default=None,
        metadata={
            "help": "Name of a held-out set on which the encoder must end below the cross-entropy of the background "
            "predictor; otherwise the run ends with exit status 1."
        },
    )


@dataclass
class ProbeArguments:
    """Frozen probes on downstream tasks while training goes on."""

    probe_tasks: list[str] = field(
        default_factory=list,
        metadata={"help": "Tasks of TAPE to probe the encoder on, such as fluorescence; none by default."},
    )
    probe_data_dir: str | None = field(default=None, metadata={"help": "Folder with their data."})
    probe_steps: int | None = field(
        default=None, metadata={"help": "Updates of the encoder between two probes; 1,000 by default."}
    )
    probe_max_records: int | None = field(
        default=None, metadata={"help": "Records of each split that a probe uses; 1,000 by default."}
    )


@dataclass
class Recipe:
    """Every option of a run."""

    data: DataArguments
    model: ModelArguments
    masking: MaskingArguments
    run: RunArguments
    probe: ProbeArguments
    training: AdversarialMLMTrainingArguments

    def resolved(self) -> dict[str, Any]:
        """All options as plain values: a recipe that gives the same run.

        Without tokens, and without `resume_from_checkpoint`, which is about one start of a run and not about the run.
        """
        ours = {}
        for part in (self.data, self.model, self.masking, self.run, self.probe):
            ours.update(dataclasses.asdict(part))
        theirs = {
            name: value
            for name, value in self.training.to_dict().items()
            if not name.endswith("_token") and name != "resume_from_checkpoint" and value is not None
        }
        return {**{name: value for name, value in ours.items() if value not in (None, [])}, **theirs}

    def save(self, folder: str) -> str:
        """Write `recipe.yaml` into the folder; returns its path."""
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, RECIPE_FILE)
        with open(path, "w", encoding="utf-8") as file:
            # through JSON, which has no enums, tuples or subclasses of str for the YAML writer to choke on
            plain = json.loads(json.dumps(self.resolved(), default=str))
            yaml.safe_dump(plain, file, sort_keys=False, allow_unicode=True)
        return path


_PARTS = (
    *(DataArguments, ModelArguments, MaskingArguments, RunArguments, ProbeArguments),
    AdversarialMLMTrainingArguments,
)


def parse_recipe(argv: list[str]) -> Recipe:
    """Read `[recipe.yaml] [--option value ...]`; what comes on the command line wins.

    A mistake ends the program with exit status 2 and one sentence that names the file or option.

    Args:
        argv (`list[str]`): The command line without the program's name.

    Returns:
        [`Recipe`]
    """
    parser = _parser()
    words, from_file, path = list(argv), [], ""
    try:
        if words and not words[0].startswith("-"):
            path = words.pop(0)
            from_file = _words_of_options(parser, read_yaml(path), path)
        return _recipe(parser, from_file, words, path)
    except RecipeError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def recipe_of(options: dict[str, Any], words: list[str], source: str) -> Recipe:
    """The recipe that a YAML file with these options would be, for a program that makes recipes itself.

    Args:
        options (`dict[str, Any]`): As YAML gives them.
        words (`list[str]`): A command line of options that win over them.
        source (`str`): What a sentence about a mistake calls the options.

    Raises:
        RecipeError: If an option is not known or out of range.
    """
    parser = _parser()
    return _recipe(parser, _words_of_options(parser, options, source), list(words), source)


def _parser() -> HfArgumentParser:
    return HfArgumentParser(
        _PARTS, allow_abbrev=False, usage="%(prog)s [recipe.yaml] [--option value ...]", exit_on_error=False
    )


def _recipe(parser: HfArgumentParser, from_file: list[str], words: list[str], path: str) -> Recipe:
    for size, trained in (("encoder", "model_name_or_path"), ("noiser", "noiser_name_or_path")):
        if _says(words, trained) and not _says(words, size):
            from_file = without_option(from_file, size)  # what to start from beats the file's size of a fresh one
    # a preset comes just before the options that were said together with it, so that the command line's beats the file
    source = f"{path}: " if path else ""
    from_file = [*_words_of_preset(parser, from_file, source), *from_file]
    words = [*_words_of_preset(parser, words), *words]
    for part, where in ((from_file, f"in {path}"), (words, "on the command line")):
        _check_words(parser, part, where)
    try:
        *parts, rest = parser.parse_args_into_dataclasses(
            args=[*from_file, *words], return_remaining_strings=True, look_for_args_file=False
        )
    except (ValueError, TypeError, ImportError, RuntimeError) as error:  # of the many checks of TrainingArguments
        refuse(f"{source}{error}")
    if rest:
        _refuse_unknown(rest[0])
    recipe = Recipe(*parts)
    for name, value in ((name, value) for part in parts for name, value in vars(part).items()):
        if any(isinstance(item, float) and math.isnan(item) for item in (value if type(value) is list else [value])):
            refuse(f"{source}the option '{name}' is not a number")
    if not recipe.data.train_data:
        refuse(f"{source}train_data is missing: name the file, folder or dataset with the proteins")
    if recipe.data.max_eval_records is not None and recipe.data.max_eval_records < 1:
        refuse(f"{source}max_eval_records must be at least 1, got {recipe.data.max_eval_records}")
    _check_license(recipe.model)
    probes = recipe.probe
    try:
        probe_callback.check_options(
            probes.probe_tasks, probes.probe_data_dir, probes.probe_steps, probes.probe_max_records
        )
    except ValueError as error:
        refuse(f"{source}{error}")
    # an empty text is how to unset a recipe's option on the command line
    recipe.run.background_gate = recipe.run.background_gate or None
    for name in ("encoder", "noiser", "model_name_or_path", "noiser_name_or_path"):
        setattr(recipe.model, name, getattr(recipe.model, name) or None)
    return recipe


def option_of(word: str) -> str:
    """The option that a word of a command line names, as `--max-length` and `--max_length=9`; empty for a value."""
    return word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else ""


def _says(words: list[str], option: str) -> bool:
    return any(option_of(word) == option for word in words)


def without_option(words: list[str], option: str) -> list[str]:
    """The words of a command line without an option that takes one value."""
    places = [index for index, word in enumerate(words) if option_of(word) == option]
    values = {index + 1 for index in places if "=" not in words[index]}
    return [word for index, word in enumerate(words) if index not in {*places, *values}]


def _check_license(model: ModelArguments) -> None:
    """Refuse a licence that would make the card invalid on the Hub."""
    if not model.model_license:
        model.model_license = None  # how to unset it on the command line
        return
    model.model_license = model.model_license.lower()
    if model.model_license not in LICENSES:
        near = difflib.get_close_matches(model.model_license, LICENSES, n=1, cutoff=0.5)
        refuse(
            f"model_license '{model.model_license}' is no licence identifier of the Hub; use "
            + (f"'{near[0]}' if that is meant, or 'other'" if near else "'other' for one that it does not list"),
        )


def _check_words(parser: HfArgumentParser, words: list[str], where: str) -> None:
    """Refuse a value of the wrong type, and say where it comes from."""
    try:
        parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        name = (error.argument_name or "").split("/")[0].lstrip("-")
        reason = error.message
        for pattern, ours in _REASONS:
            reason = re.sub(pattern, ours, reason)
        refuse(f"the option '{name}' {where}: {reason}")


def _words_of_preset(parser: HfArgumentParser, words: list[str], source: str = "") -> list[str]:
    """The command line that says what the preset named in these words says."""
    name = None
    for word, following in zip(words, [*words[1:], ""], strict=False):
        if word == "--preset":
            name = following
        elif word.startswith("--preset="):
            name = word.partition("=")[2]
    if name is None:
        return []
    try:
        return _words_of_options(parser, presets.game(name), f"the preset {name}")
    except ValueError as error:
        refuse(f"{source}{error}")


def _words_of_options(parser: HfArgumentParser, options: dict[str, Any], path: str) -> list[str]:
    words, known = [], _option_names()
    for name in options:
        if name not in known:
            _refuse_unknown(str(name), path)
    takes_many = {action.dest for action in parser._actions if action.nargs in ("+", "*")}
    # YAML reads a bare `no` as false
    has_no = {action.dest for action in parser._actions if "no" in (action.choices or ())}
    for name, value in options.items():
        mistake = _mistake(name, value, name in takes_many)
        if mistake:
            refuse(f"the option '{name}' in {path} {mistake}")
        if value is False and name in has_no:
            value = "no"
        items = value if isinstance(value, list) else [] if value is None else [value]
        texts = [json.dumps(item) if isinstance(item, dict) else str(item) for item in items]
        if name not in takes_many or any(text.startswith("-") and "@" in text for text in texts):
            # in one word, as a path or a ramp that begins with a dash would look like an option
            words.extend([f"--{name}={' '.join(texts)}"] if texts else [])
        elif texts:
            words.extend([f"--{name}", *texts])
    return words


def _mistake(name: str, value: Any, takes_many: bool) -> str | None:
    """What is wrong with a value that YAML gave, apart from what the parser of words can see."""
    items = value if isinstance(value, list) else [value]
    if value is None or not items:
        default = _defaults()[name]
        nothing = default is None or default in ("", "none") or default == []
        return None if nothing else "has no value; leave the line out for its default"
    if len(items) > 1 and not takes_many:
        return f"takes one value, and {len(items)} are given"
    if isinstance(value, dict) and name in _TAKE_MAPPINGS:
        try:
            json.dumps(value)
        except TypeError as error:
            return f"holds what JSON cannot hold ({error})"
        return None
    if name in _TAKE_MAPPINGS and name.endswith("_kwargs"):
        return "takes a mapping of names to values"
    for item in items:
        if isinstance(item, list | dict | set | bytes) or item is None:
            return "takes plain values, and no list, mapping or null inside"
        if _CONTROL_CHARACTER.search(str(item)):
            return "holds a line break or another control character"
        if takes_many and _LOOKS_LIKE_OPTION.match(str(item)) and "@" not in str(item):
            return f"holds {str(item)!r}, which would be read as an option"
    return None


def _defaults() -> dict[str, Any]:
    fields = [item for part in _PARTS for item in dataclasses.fields(part) if item.init]
    return {
        item.name: item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        for item in fields
    }


def _option_names() -> list[str]:
    return list(_defaults())


def _refuse_unknown(word: str, path: str | None = None) -> NoReturn:
    name = word.lstrip("-").split("=")[0].replace("-", "_")
    where = f"in {path}" if path else "on the command line"
    if not word.startswith("-") and path is None:
        refuse(f"cannot make sense of '{word}' on the command line; options look like --name value")
    near = difflib.get_close_matches(name, _option_names(), n=1, cutoff=0.5)
    refuse(f"unknown option '{name}' {where}" + (f"; did you mean '{near[0]}'?" if near else ""))
