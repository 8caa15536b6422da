"""What a model cannot do, or what is not known about it."""

from adversarial_mlm.saving.model_card import data
from adversarial_mlm.saving.model_card.facts import CardFacts
from adversarial_mlm.saving.model_card.origin import base_model
from adversarial_mlm.saving.model_card.results import Figures
from adversarial_mlm.saving.model_card.training import preset_name
from adversarial_mlm.utils.counts import count


def limits(facts: CardFacts, figures: Figures) -> list[str]:
    """The limits of these weights, a few sentences each."""
    told = []
    if preset_name(facts) is not None:
        told.append(
            "The architecture is BERT. TAPE's transformer is a different network (pre-LN). Results published for it "
            "do not apply."
        )
    if facts.encoder.has_pooler:
        told.append(
            "There is no trained pooler. Without `add_pooling_layer=False`, `AutoModel` adds one with random weights."
        )
    if facts.encoder.has_contact_head:
        told.append(
            "The contact head (`predict_contacts`) was not trained, because the masked-language-modelling loss does "
            "not use it."
        )
    told.append(_training_range(facts))
    told += _of_the_figures(facts, figures)
    if facts.collapsed_at is not None:
        told.append(_collapse(facts.collapsed_at, facts.step))
    return told


def _training_range(facts: CardFacts) -> str:
    told = f"It was trained on {data.training_proteins(facts)}"
    told += f", in windows of at most {count(facts.inputs.max_residues, 'residue')}. "
    if base_model(facts) is None:
        told += "How it behaves on other kinds of sequences is unknown."
    else:
        told += f"It inherits the limits of `{base_model(facts)}`, whose weights it started from."
    positions, trained = getattr(facts.encoder.config, "max_position_embeddings", 0), facts.inputs.max_length
    if preset_name(facts) is not None and positions > trained:
        told += (
            f" The embeddings of token positions {trained:,} to {positions - 1:,} are untrained: cut longer sequences."
        )
    return told


def _of_the_figures(facts: CardFacts, figures: Figures) -> list[str]:
    if not figures.by_set:
        return ["It was not evaluated on held-out proteins. How well it works on unseen proteins is unknown."]
    kinds = {data.kind(facts, name) for name in figures.by_set}
    told = [
        "The results say how well masked residues are predicted, not how useful the embeddings are. They come from "
        "one run with one seed, so their spread is unknown."
    ]
    if "members" in kinds:
        told.append(
            "The held-out *members* have relatives in the training set. Their results say little about new families"
            + ("; use those of *families* for that." if "families" in kinds else ".")
        )
    if "sample" in kinds:
        told.append(
            "The held-out set *sample* was chosen at random. Its proteins have relatives in the training set, so its "
            "results are too optimistic for new families."
        )
    if kinds & {"file", "python"}:
        told.append(
            "Held-out proteins may have relatives in the training set: only identical sequences were removed from it."
            if "file" in kinds and facts.recipe is not None and not facts.recipe.streaming
            else "Held-out proteins may have copies or relatives in the training set. This was not checked."
        )
    return told


def _collapse(at: int, step: int) -> str:
    if at <= step:
        return (
            f"**Training collapsed** at encoder update {at:,}: the loss on random masks rose while the noiser masked "
            "some residues far more often than others. The encoder may have become worse. See `metrics.jsonl`."
        )
    return f"Training collapsed at encoder update {at:,}, after these weights were saved."
