"""Recipes: one YAML file with every option of a run, and command-line overrides on top of it."""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from adversarial_mlm.downstream import probe_callback
from adversarial_mlm.masking.rules import SELECTIONS
from adversarial_mlm.masking.sampling import SAMPLERS
from adversarial_mlm.models import presets
from adversarial_mlm.models.configuration_noiser import BACKBONES, VIEWS
from adversarial_mlm.recipes.yaml_file import read_yaml
from adversarial_mlm.saving.model_card.licenses import LICENSES
from adversarial_mlm.saving.run_files import RECIPE_FILE
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.options import OptionSet, Source, nearest, option, refuse, required


@dataclass
class DataArguments:
    """Where the proteins come from, and which of them are held out."""

    train_data: list[str] = option(
        [],
        "FASTA, parquet, jsonl or csv files, globs, a folder of `adv-mlm prepare` or `datasets`, or a Hub dataset's "
        "name.",
    )
    validation_data: list[str] = option([], "Held-out data of its own; `name=source` for sets with names.")
    sequence_column: str = option("sequence", "Column with the proteins, in tables.")
    id_column: str | None = option(None, "Column with the ids, in tables.")
    dataset_split: str = option("train", "Split of a Hub dataset or a `datasets` folder.")
    dataset_config: str | None = option(None, "Configuration of a Hub dataset.")
    streaming: bool = option(False, "Read on the fly and write no memory-mapped copy.")
    cache_dir: str | None = option(None, "Where the memory-mapped copy goes.")
    min_length: int = option(10, "Drop shorter proteins (residues); they are counted.")
    allow_nucleotides: bool = option(False, "Take files whose letters are nearly all A, C, G, T, U or N, too.")
    max_length: int = option(512, "Longest row in tokens; longer proteins are cropped.")
    cluster_table: str | None = option(None, "TSV of `id` and `cluster`, for holding out by family.")
    holdout_families: float = option(0.0, "Share held out as whole families.")
    holdout_members: float = option(0.0, "Share held out of each remaining family of 5 and more.")
    holdout_random: float = option(0.0, "Share held out at random, as `sample`; families then leak.")
    holdout_seed: int = option(0, "Of the choice of held-out proteins; `seed` leaves it alone.")
    max_eval_records: int | None = option(
        None, "Evaluate on this many proteins of each held-out set, always the same ones."
    )
    data_license: str | None = option(None, "Licence of the data, in your own words, for the model card.")


@dataclass
class ModelArguments:
    """The two networks: fresh ones of a size, or trained ones to start from."""

    encoder: str | None = option(None, "Size of a fresh encoder: tape-38m (the default), tape-92m, small or tiny.")
    model_name_or_path: str | None = option(
        None, "Start from this masked language model, with its tokenizer: folder or Hub name."
    )
    model_revision: str | None = option(None, "Branch, tag or commit of it on the Hub.")
    trained_layers: int | None = option(
        None, "Of model_name_or_path, train the last so many layers and the head only."
    )
    noiser: str | None = option(None, "Size of a fresh noiser: paper (the default), small or tiny.")
    noiser_name_or_path: str | None = option(
        None, "Start from this noiser: its folder, or a model's with one in noiser/."
    )
    noiser_view: str | None = option(None, f"What the noiser sees: {', '.join(VIEWS)}; full by default.", VIEWS)
    noiser_backbone: str | None = option(
        None, f"What it reads with: {', '.join(BACKBONES)}; gru by default.", BACKBONES
    )
    model_license: str | None = option(
        None, "Licence of the model for its card, by the Hub's identifier (apache-2.0 …)."
    )


@dataclass
class MaskingArguments:
    """What is masked, and how."""

    preset: str | None = option(
        None,
        "Options of a whole game: paper, paper-literal, blind or fast, or recommended, which is random masks; single "
        "options win over it.",
    )
    masking: Literal["adversarial", "random"] = option(
        "adversarial", "`random` is the baseline: the sum of both rates, all of it at random."
    )
    adversarial_rate: float = option(0.1, "Share of the residues that the noiser masks.")
    random_rate: float = option(0.1, "Share of the residues masked at random.")
    mask_options: list[float] = option([0.8, 0.1, 0.1], "Shares of [MASK], keep and replace among the random masks.")
    learned_options: bool = option(True, "Whether the noiser also chooses how to mask; else it only writes [MASK].")
    sampler: str = option("rss", f"How positions are drawn: {', '.join(SAMPLERS)}.", SAMPLERS)
    selection: str = option("topk", "topk, or threshold as Algorithm 3 prints it.", SELECTIONS)
    gated: bool = option(True, "Whether rss stops at each row's own budget.")
    temperature: float = option(1.0, "Of the relaxed choices.")
    candidate_rate: float | None = option(
        None, "noiser_view blind: share of candidates; by default random + 2 adversarial."
    )


@dataclass
class RunArguments:
    """How the run treats its folder, and when it counts as failed."""

    overwrite_output_dir: bool = option(False, "Replace an earlier run in output_dir.")
    background_gate: str | None = option(
        None,
        "Name of a held-out set on which the encoder must end below the cross-entropy of the background predictor; "
        "otherwise the run ends with exit status 1.",
    )


@dataclass
class ProbeArguments:
    """Frozen probes on downstream tasks while training goes on."""

    probe_tasks: list[str] = option(
        [], "Tasks of TAPE to probe the encoder on, such as fluorescence; none by default."
    )
    probe_data_dir: str | None = option(None, "Folder with their data.")
    probe_steps: int | None = option(None, "Updates of the encoder between two probes; 1,000 by default.")
    probe_max_records: int | None = option(None, "Records of each split that a probe uses; 1,000 by default.")


@dataclass
class Recipe:
    """Every option of a run."""

    data: DataArguments
    model: ModelArguments
    masking: MaskingArguments
    run: RunArguments
    probe: ProbeArguments
    training: AdversarialMLMTrainingArguments

    @property
    def output_dir(self) -> str:
        """The folder of the run."""
        return required(self.training.output_dir, "output_dir")

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


OPTIONS = OptionSet(
    *(DataArguments, ModelArguments, MaskingArguments, RunArguments, ProbeArguments),
    AdversarialMLMTrainingArguments,
)
"""All options of a recipe."""

_SIZE_OF_FRESH = {"model_name_or_path": "encoder", "noiser_name_or_path": "noiser"}


def parse_recipe(argv: list[str]) -> Recipe:
    """Read `[recipe.yaml] [--option value ...]`; what comes on the command line wins.

    A mistake ends the program with exit status 2 and one sentence that names the file or option.

    Args:
        argv (`list[str]`): The command line without the program's name.

    Returns:
        [`Recipe`]
    """
    parser = OPTIONS.parser("%(prog)s [recipe.yaml] [--option value ...]")
    words, from_file, path = list(argv), {}, ""
    try:
        if words and not words[0].startswith("-"):
            path = words.pop(0)
            from_file = OPTIONS.read(read_yaml(path), Source(path))
        return build_recipe(from_file, OPTIONS.read_words(words, parser), path)
    except RecipeError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")


def recipe_of(options: Mapping[str, Any], words: list[str], source: str) -> Recipe:
    """The recipe that a YAML file with these options would be, for a program that makes recipes itself.

    Args:
        options (`Mapping[str, Any]`): As YAML gives them.
        words (`list[str]`): A command line of options that win over them.
        source (`str`): What a sentence about a mistake calls the options.

    Raises:
        RecipeError: If an option is not known or out of range.
    """
    return build_recipe(OPTIONS.read(options, Source(source)), OPTIONS.read_words(words), source)


def build_recipe(from_file: Mapping[str, Any], said: Mapping[str, Any], path: str) -> Recipe:
    """A recipe of the options of a file and those of a command line.

    The command line wins over the file. A preset comes just before the options that were said together with it, so
    the preset of a command line wins over the file's options.

    Args:
        from_file (`Mapping[str, Any]`): From `OPTIONS.read`.
        said (`Mapping[str, Any]`): From `OPTIONS.read_words`.
        path (`str`): The file, for messages; empty if there is none.

    Raises:
        RecipeError: If an option is out of range.
    """
    # a network to start from, on the command line, wins over the size of a fresh one in the file
    replaced = {size for trained, size in _SIZE_OF_FRESH.items() if trained in said and size not in said}
    from_file = {name: value for name, value in from_file.items() if name not in replaced}
    levels = (_options_of_preset(from_file, path), from_file, _options_of_preset(said, ""), said)
    try:
        recipe = Recipe(*OPTIONS.build({name: value for level in levels for name, value in level.items()}))
        _check(recipe)
    except (ValueError, TypeError, ImportError, RuntimeError) as error:  # of the many checks of TrainingArguments
        refuse(f"{path}: {error}" if path else str(error))
    return recipe


def _options_of_preset(said: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The options of the preset that is among these options."""
    if "preset" not in said:
        return {}
    try:
        return OPTIONS.read(presets.game(said["preset"]), Source(f"the preset {said['preset']}"))
    except ValueError as error:
        refuse(f"{path}: {error}" if path else str(error))


def _check(recipe: Recipe) -> None:
    """Refuse what does not go together. An empty text unsets an option: a command line has no other way."""
    data, model, probe = recipe.data, recipe.model, recipe.probe
    if not data.train_data:
        raise RecipeError("train_data is missing: name the file, folder or dataset with the proteins")
    if data.max_eval_records is not None and data.max_eval_records < 1:
        raise RecipeError(f"max_eval_records must be at least 1, got {data.max_eval_records}")
    recipe.run.background_gate = recipe.run.background_gate or None
    for name in ("encoder", "noiser", "model_name_or_path", "noiser_name_or_path", "model_license"):
        setattr(model, name, getattr(model, name) or None)
    _check_license(model)
    probe_callback.check_options(probe.probe_tasks, probe.probe_data_dir, probe.probe_steps, probe.probe_max_records)


def _check_license(model: ModelArguments) -> None:
    """Refuse a licence that would make the card invalid on the Hub."""
    if model.model_license is None:
        return
    model.model_license = model.model_license.lower()
    if model.model_license not in LICENSES:
        near = nearest(model.model_license, LICENSES)
        remedy = f"'{near}' if that is meant, or 'other'" if near else "'other' for one that it does not list"
        raise RecipeError(f"model_license '{model.model_license}' is no licence identifier of the Hub; use {remedy}")
