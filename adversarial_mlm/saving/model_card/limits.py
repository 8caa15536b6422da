"""What a model cannot do, or is not known to do."""

from adversarial_mlm.saving.model_card import data
from adversarial_mlm.saving.model_card.facts import CardFacts
from adversarial_mlm.saving.model_card.origin import base_model
from adversarial_mlm.saving.model_card.results import Figures
from adversarial_mlm.saving.model_card.text import count
from adversarial_mlm.saving.model_card.training import preset_name


def limits(facts: CardFacts, figures: Figures) -> list[str]:
    """The limits of these weights, one or two sentences each."""
    told = []
    if preset_name(facts) is not None:
        told.append(
            "The architecture is BERT's, and not that of TAPE's transformer, which normalises before each layer "
            "(pre-LN): figures published for TAPE's are of another network, even where the sizes are the same."
        )
    if facts.encoder.has_pooler:
        told.append(
            "There is no trained pooler, as masked-language modelling does not train one: without "
            "`add_pooling_layer=False`, `AutoModel` adds one with random weights. Take the mean over the residues."
        )
    if facts.encoder.has_contact_head:
        told.append(
            "Its contact head (`predict_contacts`) was not trained, as masked-language modelling does not reach it."
        )
    told.append(_reach(facts))
    told += _of_the_figures(facts, figures)
    if facts.collapsed_at is not None:
        told.append(_collapse(facts.collapsed_at, facts.step))
    return told


def _reach(facts: CardFacts) -> str:
    told = f"It was trained on {data.training_proteins(facts)}"
    told += f", in windows of at most {count(facts.inputs.max_residues, 'residue')}"
    if base_model(facts) is None:
        told += ". What it makes of other kinds of sequences is not known"
    else:
        told += f", starting from the weights of `{base_model(facts)}`, whose own limits it has, too"
    positions, reached = getattr(facts.encoder.config, "max_position_embeddings", None), facts.inputs.max_length
    if preset_name(facts) is not None and positions > reached:
        told += (
            f"; the embeddings of positions {reached:,} to {positions - 1:,} are untrained, so that longer "
            "sequences have to be cut"
        )
    return told + "."


def _of_the_figures(facts: CardFacts, figures: Figures) -> list[str]:
    if not figures.by_set:
        return [
            "It was not evaluated on held-out proteins: how well it does on proteins that it has not seen is unknown."
        ]
    kinds = {data.kind(facts, name) for name in figures.by_set}
    told = [
        "The figures say how well single hidden residues are recovered, and not how useful the embeddings are for any "
        "other task. They are of one run with one seed, and so come without a spread."
    ]
    if "members" in kinds:
        told.append(
            "*members* are proteins whose relatives were trained on, so that their figures say little about new "
            "families" + ("; those of *families* do." if "families" in kinds else ".")
        )
    if "sample" in kinds:
        told.append(
            "*sample* was held out at random: relatives of these proteins are in the training data, and its figures "
            "flatter."
        )
    if kinds & {"file", "python"}:
        told.append(
            "Whether proteins in the training data are related to the held-out ones was not checked, other than for "
            "identical sequences."
            if "file" in kinds and facts.recipe is not None and not facts.recipe.streaming
            else "Whether proteins in the training data are related to the held-out ones was not checked."
        )
    return told


def _collapse(at: int, step: int) -> str:
    if at <= step:
        return (
            f"**The game collapsed** at update {at:,}: the loss on random masks rose while the noiser masked one "
            "residue over and over. The encoder may know less than it did before; `metrics.jsonl` has the figures."
        )
    return f"The game collapsed at update {at:,}, after these weights were saved."
