"""Recipes: a YAML file with all options of a run. Options on the command line override it."""

import dataclasses
import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from adversarial_mlm.downstream import probe_callback
from adversarial_mlm.masking.mask_rate import CURVES, MaskRate
from adversarial_mlm.masking.protein_choice import PROTEIN_SHARE
from adversarial_mlm.masking.rules import SELECTIONS
from adversarial_mlm.masking.sampling import SAMPLERS
from adversarial_mlm.models import presets
from adversarial_mlm.models.adapters import lora_settings
from adversarial_mlm.models.configuration_noiser import BACKBONES, VIEWS
from adversarial_mlm.recipes.other_names import OTHER_NAMES
from adversarial_mlm.recipes.refusals import explained, with_origin
from adversarial_mlm.recipes.shipped import read_recipe
from adversarial_mlm.saving.model_card.licenses import LICENSES
from adversarial_mlm.saving.run_files import RECIPE_FILE
from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments
from adversarial_mlm.utils.counts import verb
from adversarial_mlm.utils.errors import RecipeError
from adversarial_mlm.utils.option_sets import OptionSet
from adversarial_mlm.utils.options import Source, option, refuse, required
from adversarial_mlm.utils.spelling import nearest

logger = logging.getLogger(__name__)

# options without an effect where no noiser masks, beside those whose names begin with noiser
_OF_A_NOISER = (
    *("learned_options", "sampler", "selection", "gated", "temperature", "candidate_rate"),
    *("adversarial_share", "reversal_strength", "importance_exponent"),
)


@dataclass
class DataArguments:
    """Source of the proteins, and which of them are held out."""

    train_data: list[str] = option(
        [],
        "FASTA, Parquet, JSON lines or CSV files, globs, a folder of `adv-mlm prepare` or `datasets`, or the name of "
        "a Hub dataset.",
        path=True,
    )
    validation_data: list[str] = option([], "Separate held-out data; write `name=source` to name a set.", path=True)
    sequence_column: str = option("sequence", "Tables: column with the proteins.")
    id_column: str | None = option(None, "Tables: column with the ids.")
    dataset_split: str = option("train", "Split of a Hub dataset or a `datasets` folder.")
    dataset_config: str | None = option(None, "Configuration of a Hub dataset.")
    streaming: bool = option(False, "Read the data during training, without a memory-mapped copy.")
    cache_dir: str | None = option(None, "Folder of the memory-mapped copy.", path=True)
    min_length: int = option(10, "Drop proteins with fewer residues.")
    allow_nucleotides: bool = option(False, "Also accept files that look like DNA or RNA.")
    max_length: int = option(512, "Largest number of tokens in a row; longer proteins are cropped at random.")
    cluster_table: str | None = option(None, "TSV with `id` and `cluster` (family), to hold out by family.", path=True)
    holdout_families: float = option(0.0, "Share of the proteins to hold out as whole families.")
    holdout_members: float = option(0.0, "Share of the members to hold out of each other family of at least 5.")
    holdout_random: float = option(
        0.0, "Share to hold out at random, as the set `sample`; their families stay in training."
    )
    holdout_seed: int = option(0, "Seed of the choice of held-out proteins, independent of `seed`.")
    max_eval_records: int | None = option(
        None, "Evaluate on so many random proteins of each held-out set, always the same ones."
    )
    data_license: str | None = option(None, "Licence of the data for the model card, in your own words.")


@dataclass
class ModelArguments:
    """The two networks: new ones of a given size, or trained ones."""

    encoder: str | None = option(None, "Size of a new encoder: tape-38m (the default), tape-92m, small or tiny.")
    model_name_or_path: str | None = option(
        None, "Masked language model to start from, with its tokenizer: folder or Hub name.", path=True
    )
    model_revision: str | None = option(None, "Branch, tag or commit of model_name_or_path on the Hub.")
    dropout: float | None = option(
        None,
        "Dropout of the encoder, of layers and attention; 0 for large corpora. By default that of model_name_or_path, "
        "or 0.1 for a new encoder.",
    )
    trained_layers: int | None = option(
        None, "Train only the last so many layers of model_name_or_path, and the head."
    )
    peft: str | None = option(
        None, "lora: train adapters only; output_dir gets the adapter, which needs model_name_or_path."
    )
    lora_rank: int | None = option(None, "peft lora: rank of the adapters; 8 by default.")
    lora_alpha: float | None = option(None, "peft lora: scale, divided by the rank; 2 × lora_rank by default.")
    lora_dropout: float | None = option(None, "peft lora: dropout of the adapters' inputs; 0 by default.")
    lora_target_modules: list[str] = option(
        [],
        "peft lora: last parts of the names of linear modules, or all-linear; by default the queries and values of "
        "BERT, ESM, RoBERTa and ModernBERT.",
    )
    merge_adapter: bool = option(
        False, "peft lora: also write encoder and adapter as one model into output_dir/merged at the end."
    )
    noiser: str | None = option(None, "Size of a new noiser: paper (the default), small or tiny.")
    noiser_name_or_path: str | None = option(
        None, "Noiser to start from: its folder, or a model's folder with noiser/.", path=True
    )
    noiser_view: str | None = option(
        None, f"What the noiser sees of the protein: {', '.join(VIEWS)}; full by default.", VIEWS
    )
    noiser_backbone: str | None = option(
        None, f"Network of the noiser: {', '.join(BACKBONES)}; gru by default.", BACKBONES
    )
    model_license: str | None = option(
        None, "Licence of the model for its card, as an identifier of the Hub such as apache-2.0."
    )


WITH_NOISER = ("adversarial", "chosen_proteins")
"""Values of `masking` that use a noiser."""


@dataclass
class MaskingArguments:
    """Which residues are masked, and how."""

    preset: str | None = option(
        None,
        "A set of options: paper, paper-literal, blind, fast, chosen-proteins, or recommended (random masks). Options "
        "given next to it override it.",
    )
    masking: Literal["adversarial", "random", "span", "stratified", "weighted", "chosen_proteins"] = option(
        "adversarial",
        "`random` is the baseline: random masks only, at the sum of both rates. Others without a noiser: `span` "
        "(neighbours), `stratified` (all residues of a protein in turn), `weighted` (by mask_weights). "
        "`chosen_proteins`: random masks in proteins that a noiser chooses.",
    )
    protein_share: float | None = option(
        None, "masking chosen_proteins: share of the proteins of an update that are trained on; 0.5 by default."
    )
    span_length: float | None = option(None, "masking span: mean length of the spans; 3 by default.")
    mask_weights: list[str] = option(
        [], "masking weighted: tables with `id` and a list of weights, one for each residue.", path=True
    )
    mask_weights_column: str = option("weights", "Column of mask_weights with the lists.")
    adversarial_rate: float = option(0.1, "Share of the residues that the noiser masks.")
    random_rate: float = option(0.1, "Share of the residues masked at random.")
    mask_rate: list[str] = option(
        [],
        "Mask rate in place of the sum of both rates, which keep their proportion: `40%`, a range for each protein "
        "`10%-90%`, or rate@step points `75%@0 15%@100%`, with steps in updates or in % of the run.",
    )
    mask_rate_curve: str = option("linear", f"How points of mask_rate are joined: {', '.join(CURVES)}.", CURVES)
    mask_options: list[float] = option(
        [0.8, 0.1, 0.1], "Corruption mix of the random masks: shares of [MASK], keep, replace."
    )
    learned_options: bool = option(True, "Whether the noiser also chooses how to mask; otherwise it only uses [MASK].")
    sampler: str = option("rss", f"How the noiser's positions are drawn: {', '.join(SAMPLERS)}.", SAMPLERS)
    selection: str = option("topk", "topk, or threshold as printed in Algorithm 3.", SELECTIONS)
    gated: bool = option(True, "Whether rss stops at the budget of each row.")
    temperature: float = option(1.0, "Temperature of the relaxed choices.")
    candidate_rate: float | None = option(
        None, "noiser_view blind: share of candidates; by default random_rate + 2 adversarial_rate."
    )

    @property
    def has_noiser(self) -> bool:
        """Whether there is a noiser."""
        return self.masking in WITH_NOISER

    @property
    def trained_share(self) -> float:
        """Share of the proteins of an update that are trained on."""
        if self.masking != "chosen_proteins":
            return 1.0
        return PROTEIN_SHARE if self.protein_share is None else self.protein_share

    @property
    def chooses_positions(self) -> bool:
        """Whether a noiser chooses which residues are masked."""
        return self.masking == "adversarial"


@dataclass
class RunArguments:
    """Overwriting an earlier run, and the condition for success."""

    overwrite_output_dir: bool = option(False, "Delete an earlier run in output_dir.")
    background_gate: str | None = option(
        None,
        "Held-out set on which the encoder's final cross-entropy must be below the background predictor's; otherwise "
        "the exit status is 1.",
    )
    report: bool = option(True, "Draw what happened into report.html and report.png at the end; needs matplotlib.")


@dataclass
class ProbeArguments:
    """Frozen probes on downstream tasks during training."""

    probe_tasks: list[str] = option([], "TAPE tasks to probe the encoder on, such as fluorescence; none by default.")
    probe_data_dir: str | None = option(None, "Folder with the data of the tasks.", path=True)
    probe_steps: int | None = option(None, "Encoder updates between two probes; 1,000 by default.")
    probe_max_records: int | None = option(None, "Maximum number of records of each split; 1,000 by default.")


@dataclass
class Recipe:
    """All options of a run."""

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

    def options(self) -> dict[str, Any]:
        """Return all options, also those that are not set, as plain values."""
        found = {}
        for part in (self.data, self.model, self.masking, self.run, self.probe):
            found.update(dataclasses.asdict(part))
        return {**found, **self.training.to_dict()}

    def resolved(self) -> dict[str, Any]:
        """Return the options that are set, as a recipe for the same run.

        Tokens are left out, and so is `resume_from_checkpoint`, which only concerns one start of the run.
        """
        theirs = self.training.to_dict().keys()
        return {
            name: value
            for name, value in self.options().items()
            if not name.endswith("_token")
            and name != "resume_from_checkpoint"
            and value is not None
            and (value != [] or name in theirs)
        }

    def save(self, folder: str, remarks: Iterable[str] = ()) -> str:
        """Write `recipe.yaml` into a folder, and return its path.

        Args:
            folder (`str`): Need not exist.
            remarks (`Iterable[str]`, *optional*): Lines for a comment at the top.
        """
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, RECIPE_FILE)
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"# {' '.join(remark.split())}\n" for remark in remarks)
            # through JSON, because the YAML writer does not support enums, tuples and subclasses of str
            plain = json.loads(json.dumps(self.resolved(), default=str))
            yaml.safe_dump(plain, file, sort_keys=False, allow_unicode=True)
        return path


OPTIONS = OptionSet(
    *(DataArguments, ModelArguments, MaskingArguments, RunArguments, ProbeArguments),
    AdversarialMLMTrainingArguments,
    paths=(
        *("output_dir", "resume_from_checkpoint", "accelerator_config", "deepspeed", "fsdp_config"),
        "reference_model",
    ),
    other_names=OTHER_NAMES,
)
"""All options of a recipe."""

_SIZE_OF_FRESH = {"model_name_or_path": "encoder", "noiser_name_or_path": "noiser"}


USAGE = "%(prog)s [recipe.yaml] [--option value ...]"


def parse_recipe(argv: list[str], program: str | None = None) -> Recipe:
    """Read `[recipe.yaml] [--option value ...]`. Options of the command line override those of the file.

    After a mistake the program ends with exit status 2, and prints a sentence that names the file or option.

    Args:
        argv (`list[str]`): The command line without the program's name. In place of a file it may have the name of a
            recipe of the package, see [`read_recipe`].
        program (`str`, *optional*): The program's name, for messages; by default that of the script.

    Returns:
        [`Recipe`]
    """
    parser = OPTIONS.parser(USAGE, program)
    words, from_file, path = list(argv), {}, ""
    try:
        if words and not words[0].startswith("-"):
            path = words.pop(0)
            from_file = OPTIONS.read(read_recipe(path), Source(path))
        said = OPTIONS.read_words(words, parser)
        recipe = build_recipe(from_file, said, path)
    except RecipeError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    _warn_of_no_effect(recipe, said)
    return recipe


def _warn_of_no_effect(recipe: Recipe, said: Mapping[str, Any]) -> None:
    """Name options of the command line that are for a noiser, or for one that chooses positions, if there is none."""
    masking = recipe.masking
    of_any = () if masking.has_noiser else tuple(name for name in said if name.startswith("noiser"))
    unused = sorted(f"--{name}" for name in said if name in (*of_any, *_OF_A_NOISER))
    if not masking.chooses_positions and unused:
        # only a warning, because one command line may be used with several presets
        logger.warning(
            "%s %s no effect, because masking is %s, without a noiser%s",
            " and ".join(unused),
            verb(len(unused), "has", "have"),
            masking.masking,
            " that chooses positions" if masking.has_noiser else "",
        )


def recipe_of(options: Mapping[str, Any], words: list[str], source: str) -> Recipe:
    """Build a recipe from options instead of a YAML file.

    Args:
        options (`Mapping[str, Any]`): The content of the YAML file.
        words (`list[str]`): Options on a command line, which override the others.
        source (`str`): Name of the options in error messages.

    Raises:
        RecipeError: If an option is unknown or out of range.
    """
    return build_recipe(OPTIONS.read(options, Source(source)), OPTIONS.read_words(words), source)


def build_recipe(from_file: Mapping[str, Any], said: Mapping[str, Any], path: str) -> Recipe:
    """Build a recipe from the options of a file and of a command line.

    The command line overrides the file. Options override a preset from the same source. A preset on the command line
    also overrides the file's options.

    Args:
        from_file (`Mapping[str, Any]`): Result of `OPTIONS.read`.
        said (`Mapping[str, Any]`): Result of `OPTIONS.read_words`.
        path (`str`): The file, for messages; empty if there is none.

    Raises:
        RecipeError: If an option is out of range.
    """
    # a trained network on the command line overrides the size of a new one in the file
    replaced = {size for trained, size in _SIZE_OF_FRESH.items() if said.get(trained) and size not in said}
    if "preset" in said and said["preset"] is None:
        replaced.add("preset")
    from_file = {name: value for name, value in from_file.items() if name not in replaced}
    levels = (_options_of_preset(from_file, path), from_file, _options_of_preset(said, ""), said)
    try:
        recipe = Recipe(*OPTIONS.build({name: value for level in levels for name, value in level.items()}))
        _check(recipe)
    except Exception as error:  # from the checks of TrainingArguments, and of libraries
        refuse(with_origin(explained(error, {**from_file, **said}), from_file, said, path))
    return recipe


def _options_of_preset(said: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the options of the preset that these options name."""
    if said.get("preset") is None:
        return {}
    try:
        return OPTIONS.read(presets.game(said["preset"]), Source(f"the preset {said['preset']}"))
    except ValueError as error:
        refuse(f"{path}: {error}" if path else str(error))


def _check(recipe: Recipe) -> None:
    """Check the options together. An empty text unsets an option, because a command line has no other way."""
    data, model, probe = recipe.data, recipe.model, recipe.probe
    of_masks = ((recipe.masking, "mask_rate"), (recipe.masking, "mask_weights"))
    for part, name in ((data, "validation_data"), (probe, "probe_tasks"), *of_masks):
        setattr(part, name, [] if getattr(part, name) == [""] else getattr(part, name))
    for name in ("train_data", "validation_data"):
        if "" in getattr(data, name):
            raise RecipeError(f"{name} contains an empty text: remove it")
    if not data.train_data:
        raise RecipeError("train_data is missing: give the file, folder or dataset with the proteins")
    if data.max_eval_records is not None and data.max_eval_records < 1:
        raise RecipeError(f"max_eval_records must be at least 1, got {data.max_eval_records}")
    recipe.run.background_gate = recipe.run.background_gate or None
    if str(recipe.training.resume_from_checkpoint).lower() in ("", "false", "no", "off"):
        recipe.training.resume_from_checkpoint = None
    for name in ("encoder", "noiser", "model_name_or_path", "noiser_name_or_path", "model_license", "peft"):
        setattr(model, name, getattr(model, name) or None)
    _check_license(model)
    _check_adapters(model)
    _check_masks(recipe.masking)
    probe_callback.check_options(probe.probe_tasks, probe.probe_data_dir, probe.probe_steps, probe.probe_max_records)


def _check_adapters(model: ModelArguments) -> None:
    lora_settings(model)
    if model.peft is None:
        if model.merge_adapter:
            raise RecipeError("merge_adapter is true, but peft is not set, so there is no adapter: remove it")
        return
    if not model.model_name_or_path:
        raise RecipeError(f"peft is {model.peft}, but model_name_or_path is missing: give the encoder to adapt")
    if model.trained_layers is not None:
        raise RecipeError(f"peft is {model.peft}, which freezes the encoder's layers: remove trained_layers")


def _check_masks(masking: MaskingArguments) -> None:
    of_one = (("span_length", "span"), ("mask_weights", "weighted"), ("protein_share", "chosen_proteins"))
    for name, of in of_one:
        if getattr(masking, name) not in (None, []) and masking.masking != of:
            raise RecipeError(f"{name} only applies to masking: {of}, but masking is {masking.masking}: remove it")
    if masking.masking == "weighted" and not masking.mask_weights:
        raise RecipeError("masking is weighted, but mask_weights is missing: give tables with weights of residues")
    if masking.mask_weights_column != "weights" and not masking.mask_weights:
        raise RecipeError("mask_weights_column is given, but mask_weights is not: remove it, or set mask_weights")
    if masking.mask_rate:
        MaskRate(masking.mask_rate, masking.mask_rate_curve)
    elif masking.mask_rate_curve != "linear":
        raise RecipeError(
            f"mask_rate_curve is {masking.mask_rate_curve}, but mask_rate is not given: leave it out, or set mask_rate"
        )


def _check_license(model: ModelArguments) -> None:
    """Check that the Hub knows the licence; otherwise it rejects the card."""
    if model.model_license is None:
        return
    model.model_license = model.model_license.lower()
    if model.model_license not in LICENSES:
        near = nearest(model.model_license, LICENSES)
        remedy = f"'{near}' or 'other'" if near else "'other'"
        raise RecipeError(
            f"model_license '{model.model_license}' is not a licence identifier of the Hub: use {remedy}"
        )
