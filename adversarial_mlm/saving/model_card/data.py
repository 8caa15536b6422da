"""What the training data were, what was left out of them, and which proteins were held out."""

from typing import TYPE_CHECKING

from torch.utils.data import IterableDataset

from adversarial_mlm.data import CleaningCounts
from adversarial_mlm.saving.model_card.text import count, is_hub_name, percent, table, without_paths

if TYPE_CHECKING:
    from adversarial_mlm.training.trainer import AdversarialMLMTrainer


def training_proteins(trainer: "AdversarialMLMTrainer") -> int | None:
    """How many proteins were trained on; `None` of a stream."""
    dataset = trainer.train_dataset
    return None if dataset is None or isinstance(dataset, IterableDataset) else len(dataset)


def hub_datasets(trainer: "AdversarialMLMTrainer") -> list[str]:
    """Names on the Hub of the training data."""
    recipe = trainer.run_facts.get("recipe")
    names = [] if recipe is None else recipe.data.train_data
    # what was read, is not on the disk and looks like a name was on the Hub
    return list(names) if len(names) == 1 and "/" in names[0] and is_hub_name(names[0]) else []


def licence(trainer: "AdversarialMLMTrainer") -> str:
    """The licence of the data, as given."""
    recipe = trainer.run_facts.get("recipe")
    given = None if recipe is None else recipe.data.data_license
    return without_paths(" ".join(given.split())) if given else ""


def data_facts(trainer: "AdversarialMLMTrainer") -> list[str]:
    """Sources, counts and what was dropped, a sentence each."""
    proteins = training_proteins(trainer)
    recipe, facts = trainer.run_facts.get("recipe"), trainer.run_facts.get("data", {})
    told = []
    if recipe is None:
        told.append("sources: the data were given to the trainer in Python, and it was not told where they are from")
    else:
        told.append("sources: " + ", ".join(f"`{without_paths(source)}`" for source in recipe.data.train_data))
    if "cleaning" in facts:
        told.append(f"cleaning: {_cleaned(facts['cleaning'], recipe.data.min_length)}")
    if isinstance(trainer.train_dataset, IterableDataset):
        told.append("the data were read as a stream, so that their number was not known beforehand")
    if proteins is not None:
        told.append(f"trained on: {count(proteins, 'protein')}")
    for name, number in facts.items():
        if name.startswith("removed_as_identical_to_") and number:
            of = name.removeprefix("removed_as_identical_to_").replace("held_out", "held-out")
            told.append(f"taken out of training: {count(number, 'protein')} identical to one of the {of} proteins")
    if facts.get("not_in_cluster_table"):
        told.append(
            f"not in the table of families: {count(facts['not_in_cluster_table'], 'protein')}, each of which counts "
            "as a family of its own"
        )
    return told


def _cleaned(counts: dict[str, int], min_length: int) -> str:
    told = CleaningCounts(**counts).summary()
    return told.replace("dropped as too short", f"dropped as too short (fewer than {count(min_length, 'residue')})")


def held_out_table(trainer: "AdversarialMLMTrainer") -> str:
    """The held-out sets, their sizes and how they were held out; empty where there is none."""
    datasets = trainer.eval_dataset
    if datasets is None:
        return ""
    datasets = datasets if isinstance(datasets, dict) else {"validation": datasets}
    return table(
        ("held-out set", "proteins", "how it was held out"),
        [(name, _size(trainer, name, dataset), _how(trainer, name)) for name, dataset in datasets.items()],
    )


def _size(trainer: "AdversarialMLMTrainer", name: str, dataset) -> str:
    if isinstance(dataset, IterableDataset):
        return "a stream"
    found = trainer.run_facts.get("data", {}).get("held_out_records_found", {}).get(name, len(dataset))
    return f"{len(dataset):,}" + (f" of {found:,}" if found != len(dataset) else "")


def kind(trainer: "AdversarialMLMTrainer", name: str) -> str:
    """How a set was held out: `families`, `members`, `sample` (at random) or `file`; `python` for what nobody told."""
    recipe = trainer.run_facts.get("recipe")
    if recipe is None:
        return "python"
    made = {
        "families": recipe.data.holdout_families,
        "members": recipe.data.holdout_members,
        "sample": recipe.data.holdout_random,
    }
    return name if made.get(name) else "file"


def _how(trainer: "AdversarialMLMTrainer", name: str) -> str:
    how = kind(trainer, name)
    if how == "python":
        return "given to the trainer in Python"
    data, facts = trainer.run_facts["recipe"].data, trainer.run_facts["data"]
    if how == "families":
        return (
            f"whole families, about {percent(data.holdout_families)} of the proteins, "
            f"by `{without_paths(data.cluster_table)}`; nothing of these families is trained on"
        )
    if how == "members":
        return f"{percent(data.holdout_members)} of the members of each other family of 5 and more, at random"
    if how == "sample":
        return f"{percent(data.holdout_random)} of the proteins, at random; their relatives are trained on"
    sources = ", ".join(f"`{without_paths(source)}`" for source in facts[f"source_{name}"])
    told = f"{sources}: {CleaningCounts(**facts[f'cleaning_{name}']).summary()}"
    return told + ("; copies of these in the training data were not looked for" if data.streaming else "")
