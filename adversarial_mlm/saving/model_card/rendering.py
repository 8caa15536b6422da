"""The card itself."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from huggingface_hub import ModelCard, ModelCardData

from adversarial_mlm import __version__
from adversarial_mlm.saving.model_card import data, origin, training
from adversarial_mlm.saving.model_card.limits import limits
from adversarial_mlm.saving.model_card.results import Figures
from adversarial_mlm.saving.model_card.text import count, percent
from adversarial_mlm.saving.run_files import CARD_FILE

if TYPE_CHECKING:
    from adversarial_mlm.training.trainer import AdversarialMLMTrainer

TEMPLATE = Path(__file__).with_name("template.md")
PLACEHOLDER = "PATH-OR-NAME-OF-THIS-MODEL"
BASE_PLACEHOLDER = "PATH-OR-NAME-OF-THE-ENCODER"
EXAMPLES = ("MKTAYIAKQRQISFVKSHFSRQ", "GSHMASMTGGQQMGRGS")


def write(trainer: "AdversarialMLMTrainer", output_dir: str, figures: dict | None = None) -> None:
    """Render the card of a run as it stands into `output_dir/README.md`.

    Args:
        trainer ([`AdversarialMLMTrainer`]): Its `run_facts`, where set, are told in the card: `recipe` ([`Recipe`]),
            `data` (`dict`, what `data.json` holds), `command` (`str`, what started the run) and `base_model` (`str`,
            what training started from; without a recipe, by default the name that the encoder was loaded by).
        output_dir (`str`): Where the model is saved.
        figures (`dict`, *optional*): Of an evaluation of these weights; the default takes the newest that were logged
            up to the step of these weights.
    """
    # newline fixed, so that the same card comes out on every system
    with open(os.path.join(output_dir, CARD_FILE), "w", encoding="utf-8", newline="\n") as file:
        file.write(str(_render(trainer, figures)))


def _render(trainer: "AdversarialMLMTrainer", figures: dict | None) -> ModelCard:
    step = trainer.state.global_step if trainer.loaded_best_step is None else trainer.loaded_best_step
    history = [entry for entry in trainer.state.log_history if entry["step"] <= step]
    newest = Figures(history if figures is None else [figures], step)
    hub_id = trainer.hub_model_id
    name = (hub_id or Path(trainer.args.output_dir).name).rpartition("/")[2].strip(".") or "protein-encoder"
    proteins = data.training_proteins(trainer)
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        card_data=_metadata(trainer, name, newest).to_yaml(),
        name=name,
        version=__version__,
        noiser=trainer.noiser is not None,
        noiser_is_trained=trainer.args.noiser_update != "none",
        adapter=origin.adapter_summary(trainer.model),
        base_model=origin.base_model(trainer),
        proteins="a stream of proteins" if proteins is None else count(proteins, "protein"),
        **_usage(trainer, hub_id),
        **_tables(trainer, step, newest),
    )
    return ModelCard(text)


def _metadata(trainer: "AdversarialMLMTrainer", name: str, figures: Figures) -> ModelCardData:
    recipe = trainer.run_facts.get("recipe")
    results = figures.eval_results(trainer.args.eval_mask_rate, trainer.args.eval_mask_seed)
    tags = ["protein", "protein-language-model", "masked-language-modeling"]
    return ModelCardData(
        library_name="peft" if origin.adapters(trainer.model) else "transformers",
        pipeline_tag="fill-mask",
        license=None if recipe is None else recipe.model.model_license,
        base_model=origin.base_on_hub(trainer),
        datasets=data.hub_datasets(trainer) or None,
        tags=tags + (["adversarial-masking"] if trainer.noiser is not None else []),
        metrics=["perplexity", "accuracy"] if results else None,  # names that the Hub knows
        model_name=name if results else None,
        eval_results=results or None,
    )


def _usage(trainer: "AdversarialMLMTrainer", hub_id: str | None) -> dict:
    """What the snippets need."""
    encoder = trainer.data_collator.sequence_encoder
    return {
        "location": hub_id or PLACEHOLDER,
        "is_placeholder": not hub_id,
        "base_placeholder": BASE_PLACEHOLDER,
        "base_on_hub": origin.base_on_hub(trainer),
        "examples": [protein[: encoder.max_residues] for protein in EXAMPLES],
        "place": min(9, encoder.max_residues - 1),
        "spaced": encoder.table.spaced,
        "between": " " if encoder.table.spaced else "",
        "max_length": encoder.max_length,
        "window": encoder.max_residues,
        "hidden_size": trainer.model.config.hidden_size,
        "pooler": training.has_pooler(trainer.model),
        "rules": trainer.data_collator.rules,
    }


def _tables(trainer: "AdversarialMLMTrainer", step: int, figures: Figures) -> dict:
    """What the sections tell."""
    recipe = trainer.run_facts.get("recipe")
    return {
        "architecture": training.architecture(trainer),
        "step": figures.step,
        "random_table": figures.random_table(),
        "background": figures.has_background,
        "noiser_table": figures.noiser_table(),
        "mask_percent": percent(trainer.args.eval_mask_rate),
        "mask_token": trainer.data_collator.tokenizer.mask_token,
        "data_facts": data.data_facts(trainer),
        "data_licence": data.licence(trainer),
        "model_licence": None if recipe is None else recipe.model.model_license,
        "held_out_table": data.held_out_table(trainer),
        "encoder_facts": training.encoder_facts(trainer, step),
        "noiser_facts": [] if trainer.noiser is None else training.noiser_facts(trainer),
        "command": training.launch_command(trainer),
        "options": training.options(trainer),
        "environment": training.environment(trainer, step),
        "limits": limits(trainer, step, figures),
    }
