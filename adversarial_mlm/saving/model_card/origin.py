"""What training started from, which parameters were trained, and adapters."""

import os

from adversarial_mlm.saving.model_card.facts import AdapterFacts, CardFacts
from adversarial_mlm.saving.model_card.text import is_hub_name, without_paths
from adversarial_mlm.utils.counts import count


def adapter_summary(facts: CardFacts) -> str:
    """Kind, rank and modules of the encoder's adapters; empty if it has none."""
    return "; ".join(_summary(adapter) for adapter in facts.encoder.adapters)


def _summary(adapter: AdapterFacts) -> str:
    told = adapter.kind
    if adapter.rank:
        told += f" of rank {adapter.rank}" + (" (some modules have another rank)" if adapter.has_other_ranks else "")
    if adapter.alpha:
        told += f" and alpha {adapter.alpha:g}"
    told += _modules(" on ", adapter.modules)
    return told + _modules("; fully trained: ", adapter.saved_modules)


def _modules(before: str, names: tuple[str, ...]) -> str:
    """Names of modules, or a pattern; empty if there are none."""
    if not names:
        return ""
    if len(names) > 12:
        return f"{before}{len(names)} modules (see `adapter_config.json`)"
    return before + ", ".join(f"`{name}`" for name in names)


def started_from(facts: CardFacts) -> str | None:
    """Folder or name on the Hub that training started from, as it was given; `None` for random weights."""
    # with a recipe, the encoder's name may be the run's own output folder
    if facts.base_model or facts.recipe is not None:
        return facts.base_model or None
    return facts.encoder.name


def base_model(facts: CardFacts) -> str | None:
    """The same without the path of a folder."""
    name = started_from(facts)
    if name is None or facts.base_model or is_hub_name(name):
        return name and without_paths(name)
    return os.path.basename(os.path.abspath(name)) or "/"


def base_on_hub(facts: CardFacts) -> str | None:
    """The same if it is a name on the Hub, otherwise `None`."""
    name = started_from(facts)
    return name if name is not None and is_hub_name(name) else None


def what_was_trained(facts: CardFacts) -> str | None:
    """How many parameters were trained, and which; `None` if all that the loss reaches were trained."""
    encoder = facts.encoder
    if not encoder.partly_trained:
        return None
    told = f"trained parameters: {encoder.trained_parameters:,} of {encoder.parameters:,}"
    if encoder.adapters:
        share = encoder.trained_parameters / encoder.parameters
        told += f" ({100 * share:.3g} %), those of the adapter"
    elif encoder.trained_layers is not None:
        told += f", those of {_last_layers(encoder.trained_layers, encoder.config.num_hidden_layers)}the head"
        if encoder.has_tied_output:
            told += " (without its output weights, which are tied to the embeddings)"
    return told + "; all others were frozen"


def _last_layers(kept: int, total: int) -> str:
    if kept == 0:
        return ""
    return f"the last {'' if kept == 1 else f'{kept} '}of its {count(total, 'layer')} and of "
