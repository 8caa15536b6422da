"""What the training data were, what was left out of them, and which proteins were held out."""

from adversarial_mlm.data import CleaningCounts
from adversarial_mlm.saving.model_card.facts import CardFacts
from adversarial_mlm.saving.model_card.text import count, is_hub_name, percent, table, without_paths


def training_proteins(facts: CardFacts) -> str:
    """How many proteins were trained on, in words."""
    proteins = facts.data.proteins
    return "a stream of proteins" if proteins is None else count(proteins, "protein")


def hub_datasets(facts: CardFacts) -> list[str]:
    """Names on the Hub of the training data."""
    names = () if facts.recipe is None else facts.recipe.train_data
    # what was read, is not on the disk and looks like a name was on the Hub
    return list(names) if len(names) == 1 and "/" in names[0] and is_hub_name(names[0]) else []


def licence(facts: CardFacts) -> str:
    """The licence of the data, as given."""
    given = None if facts.recipe is None else facts.recipe.data_license
    return without_paths(" ".join(given.split())) if given else ""


def data_facts(facts: CardFacts) -> list[str]:
    """Sources, counts and what was dropped, a sentence each."""
    data, recipe, counts = facts.data, facts.recipe, facts.data.counts
    told = []
    if recipe is None:
        told.append("sources: the data were given to the trainer in Python, and it was not told where they are from")
    else:
        told.append("sources: " + ", ".join(f"`{without_paths(source)}`" for source in recipe.train_data))
        if "cleaning" in counts:
            told.append(f"cleaning: {_cleaned(counts['cleaning'], recipe.min_length)}")
    if data.streamed:
        told.append("the data were read as a stream, so that their number was not known beforehand")
    if data.proteins is not None:
        told.append(f"trained on: {count(data.proteins, 'protein')}")
    for name, number in counts.items():
        if name.startswith("removed_as_identical_to_") and number:
            of = name.removeprefix("removed_as_identical_to_").replace("held_out", "held-out")
            told.append(f"taken out of training: {count(number, 'protein')} identical to one of the {of} proteins")
    if counts.get("not_in_cluster_table"):
        told.append(
            f"not in the table of families: {count(counts['not_in_cluster_table'], 'protein')}, each of which counts "
            "as a family of its own"
        )
    return told


def _cleaned(counts: dict[str, int], min_length: int) -> str:
    told = CleaningCounts(**counts).summary()
    return told.replace("dropped as too short", f"dropped as too short (fewer than {count(min_length, 'residue')})")


def held_out_table(facts: CardFacts) -> str:
    """The held-out sets, their sizes and how they were held out; empty where there is none."""
    if not facts.data.held_out:
        return ""
    return table(
        ("held-out set", "proteins", "how it was held out"),
        [(name, _size(facts, name), _how(facts, name)) for name in facts.data.held_out],
    )


def _size(facts: CardFacts, name: str) -> str:
    size = facts.data.held_out[name]
    if size is None:
        return "a stream"
    found = facts.data.counts.get("held_out_records_found", {}).get(name, size)
    return f"{size:,}" + (f" of {found:,}" if found != size else "")


def kind(facts: CardFacts, name: str) -> str:
    """How a set was held out: `families`, `members`, `sample` (at random) or `file`; `python` for what nobody told."""
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
        return "given to the trainer in Python"
    if how == "families":
        return (
            f"whole families, about {percent(recipe.holdout_families)} of the proteins, "
            f"by `{without_paths(recipe.cluster_table or '')}`; nothing of these families is trained on"
        )
    if how == "members":
        return f"{percent(recipe.holdout_members)} of the members of each other family of 5 and more, at random"
    if how == "sample":
        return f"{percent(recipe.holdout_random)} of the proteins, at random; their relatives are trained on"
    sources = ", ".join(f"`{without_paths(source)}`" for source in facts.data.counts[f"source_{name}"])
    told = f"{sources}: {CleaningCounts(**facts.data.counts[f'cleaning_{name}']).summary()}"
    return told + ("; copies of these in the training data were not looked for" if recipe.streaming else "")
