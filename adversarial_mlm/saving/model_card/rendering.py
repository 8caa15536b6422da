"""Rendering the card from its facts and the template."""

import functools
import os
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import ModelCard, ModelCardData

from adversarial_mlm.saving.model_card import data, origin, training
from adversarial_mlm.saving.model_card.facts import CardFacts
from adversarial_mlm.saving.model_card.limits import limits
from adversarial_mlm.saving.model_card.results import Figures
from adversarial_mlm.saving.model_card.text import percent
from adversarial_mlm.saving.run_files import CARD_FILE, POLICY_PICTURE, REPORT_PICTURE
from adversarial_mlm.utils import atomic_files

TEMPLATE = Path(__file__).with_name("template.md")
PLACEHOLDER = "PATH-OR-NAME-OF-THIS-MODEL"
BASE_PLACEHOLDER = "PATH-OR-NAME-OF-THE-ENCODER"
EXAMPLE = "MKTAYIAKQRQISFVKSHFSRQ"


def write(facts: CardFacts, folder: str | os.PathLike, figures: dict[str, float] | None = None) -> None:
    """Write the model card `README.md` into a folder.

    It shows the picture `mask_policy.png` of a report, otherwise `report.png`, if there is one in the folder.

    Args:
        facts ([`CardFacts`]): Facts of the run.
        folder (`str` or path): The folder of the saved model.
        figures (`dict`, *optional*): Figures of these weights, as `Trainer.evaluate` returns them. By default, the
            newest ones that were logged up to the step of these weights.
    """
    atomic_files.replace_text(os.path.join(folder, CARD_FILE), str(render(facts, figures, folder)))


def render(facts: CardFacts, figures: dict[str, float] | None, folder: str | os.PathLike) -> ModelCard:
    """Return the card that [`write`] writes."""
    history = [entry for entry in facts.log_history if entry["step"] <= facts.step]
    newest = Figures(history if figures is None else [figures], facts.step)
    text = _template().render(
        card_data=_metadata(facts, newest).to_yaml(),
        name=facts.name,
        version=facts.environment.versions["adversarial-mlm"],
        noiser=facts.noiser is not None,
        chooses_proteins=facts.rules.protein_share is not None,
        noiser_is_trained=facts.noiser is not None and facts.noiser.update != "none",
        adapter=origin.adapter_summary(facts),
        base_model=origin.base_model(facts),
        policy_picture=_picture(folder, POLICY_PICTURE),
        report_picture=_picture(folder, REPORT_PICTURE),
        proteins=data.training_proteins(facts),
        **_usage(facts),
        **_tables(facts, newest),
    )
    return ModelCard(text)


@functools.cache  # a card is written at every checkpoint
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _picture(folder: str | os.PathLike, name: str) -> str:
    """The name of a picture if it is in the folder, otherwise an empty text. Cards refer to their own folder alone."""
    return name if os.path.isfile(os.path.join(folder, name)) else ""


def _metadata(facts: CardFacts, figures: Figures) -> ModelCardData:
    results = figures.eval_results(facts.eval_mask_rate, facts.eval_mask_seed)
    tags = ["protein", "protein-language-model", "masked-language-modeling"]
    return ModelCardData(
        library_name="peft" if facts.encoder.adapters else "transformers",
        pipeline_tag="fill-mask",
        widget=[{"text": _masked_example(facts)}],  # on the page of the Hub
        license=None if facts.recipe is None else facts.recipe.model_license,
        base_model=origin.base_on_hub(facts),
        datasets=data.hub_datasets(facts) or None,
        tags=tags + (["adversarial-masking"] if facts.noiser is not None else []),
        metrics=["perplexity", "accuracy"] if results else None,  # names of metrics on the Hub
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def _masked_example(facts: CardFacts) -> str:
    """The example with a mask, as the tokenizer takes it."""
    inputs = facts.inputs
    residues = list(EXAMPLE[: inputs.max_residues])
    residues[_position(facts)] = inputs.mask_token
    return (" " if inputs.spaced else "").join(residues)


def _position(facts: CardFacts) -> int:
    """The position that the snippets mask, counted from 0."""
    return min(9, facts.inputs.max_residues - 1)


def _usage(facts: CardFacts) -> dict[str, Any]:
    """Values for the code examples."""
    inputs, window = facts.inputs, f"protein[:{facts.inputs.max_residues}]"
    return {
        "location": facts.hub_id or PLACEHOLDER,
        "is_placeholder": not facts.hub_id,
        "base_placeholder": BASE_PLACEHOLDER,
        "base_on_hub": origin.base_on_hub(facts),
        "example": EXAMPLE[: inputs.max_residues],
        "text": f'" ".join({window})' if inputs.spaced else window,
        "masked_example": _masked_example(facts),
        "position": _position(facts),
        "between": " " if inputs.spaced else "",
        "hidden_size": facts.encoder.config.hidden_size,
    }


def _tables(facts: CardFacts, figures: Figures) -> dict[str, Any]:
    """Tables and lists of the sections."""
    return {
        "parameters": training.millions(facts.encoder.parameters),
        "architecture": training.architecture(facts),
        "step": figures.step,
        "random_table": figures.random_table(),
        "background": figures.has_background,
        "context_gap": figures.has_context_gap,
        "noiser_table": figures.noiser_table(),
        "mask_percent": percent(facts.eval_mask_rate),
        "mask_token": facts.inputs.mask_token,
        "data_facts": data.data_facts(facts),
        "data_licence": data.licence(facts),
        "model_licence": None if facts.recipe is None else facts.recipe.model_license,
        "held_out_facts": data.held_out_facts(facts),
        "encoder_facts": training.encoder_facts(facts),
        "noiser_facts": training.noiser_facts(facts),
        "command": training.launch_command(facts),
        "options": training.options(facts),
        "option_changes": training.option_changes(facts),
        "environment": training.environment(facts),
        "limits": limits(facts, figures),
    }
