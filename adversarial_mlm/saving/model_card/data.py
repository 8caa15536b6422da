"""The training data: sources, what was removed, and which proteins were held out."""

from adversarial_mlm.data import CleaningCounts
from adversarial_mlm.saving.model_card.facts import CardFacts
from adversarial_mlm.saving.model_card.text import is_hub_name, percent, without_paths
from adversarial_mlm.utils.counts import count


def training_proteins(facts: CardFacts) -> str:
    """Number of training proteins, in words."""
    proteins = facts.data.proteins
    return "a stream of proteins" if proteins is None else count(proteins, "protein")


def hub_datasets(facts: CardFacts) -> list[str]:
    """Names of the training datasets on the Hub; empty if the data came from files."""
    names = () if facts.recipe is None else facts.recipe.train_data
    # a source that is not on the disk and has the form owner/name was read from the Hub
    return list(names) if len(names) == 1 and "/" in names[0] and is_hub_name(names[0]) else []


def licence(facts: CardFacts) -> str:
    """The licence of the data as given, on one line; empty if none was given."""
    given = None if facts.recipe is None else facts.recipe.data_license
    return without_paths(" ".join(given.split())) if given else ""


def data_facts(facts: CardFacts) -> list[str]:
    """Sources, counts and removed proteins, one line each."""
    data, recipe, counts = facts.data, facts.recipe, facts.data.counts
    told = []
    if recipe is None:
        told.append("sources: unknown, because the dataset was passed to the trainer in Python")
    else:
        told.append("sources: " + ", ".join(f"`{without_paths(source)}`" for source in recipe.train_data))
        if "cleaning" in counts:
            told.append(f"cleaning: {_cleaned(counts['cleaning'], recipe.min_length)}")
    if data.streamed:
        told.append("the data were streamed, so the number of proteins is unknown")
    if data.proteins is not None:
        told.append(f"training set: {count(data.proteins, 'protein')}")
    for name, number in counts.items():
        if name.startswith("removed_as_identical_to_") and number:
            of = name.removeprefix("removed_as_identical_to_")
            held_out = "a held-out protein" if of == "held_out" else f"a protein of the held-out set *{of}*"
            told.append(f"removed from the training set: {count(number, 'protein')} identical to {held_out}")
    if counts.get("not_in_cluster_table"):
        told.append(
            f"not in the cluster table: {count(counts['not_in_cluster_table'], 'protein')}; each was treated as a "
            "separate family"
        )
    return told


def _cleaned(counts: dict[str, int], min_length: int) -> str:
    told = CleaningCounts(**counts).summary()
    return told.replace("dropped as too short", f"dropped as too short (fewer than {count(min_length, 'residue')})")


def held_out_facts(facts: CardFacts) -> list[str]:
    """Size of each held-out set, and how it was held out, one line each; empty if there are none."""
    return [f"held-out set *{name}*: {_size(facts, name)}, {_how(facts, name)}" for name in facts.data.held_out]


def _size(facts: CardFacts, name: str) -> str:
    size = facts.data.held_out[name]
    if size is None:
        return "a stream of proteins"
    found = facts.data.counts.get("held_out_records_found", {}).get(name, size)
    return f"{size:,} of {count(found, 'protein')}" if found != size else count(size, "protein")


def kind(facts: CardFacts, name: str) -> str:
    """How a set was held out: `families`, `members`, `sample` (at random), `file`, or `python` (unknown)."""
    recipe = facts.recipe
    if recipe is None:
        return "python"
    made = {
        "families": recipe.holdout_families,
        "members": recipe.holdout_members,
        "sample": recipe.holdout_random,
    }
    return name if made.get(name) else "file"


def _how(facts: CardFacts, name: str) -> str:
    recipe, how = facts.recipe, kind(facts, name)
    if recipe is None:
        return "passed to the trainer in Python"
    if how == "families":
        return (
            f"whole families from `{without_paths(recipe.cluster_table or '')}`, about "
            f"{percent(recipe.holdout_families)} of all proteins; none of their proteins is in the training set"
        )
    if how == "members":
        families = "each remaining family" if recipe.holdout_families else "each family"
        return f"{percent(recipe.holdout_members)} of {families} with at least 5 proteins, at random"
    if how == "sample":
        return f"{percent(recipe.holdout_random)} of all proteins, at random; their relatives are in the training set"
    sources = ", ".join(f"`{without_paths(source)}`" for source in facts.data.counts[f"source_{name}"])
    told = f"{sources}: {CleaningCounts(**facts.data.counts[f'cleaning_{name}']).summary()}"
    return told + ("; copies of these proteins may be in the training set" if recipe.streaming else "")
