"""The proteins of a recipe: read, clean and split them, and collect facts about them."""

import functools
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.utils.data import IterableDataset

from adversarial_mlm.data import (
    Corpus,
    count_lengths,
    load_corpus,
    read_cluster_table,
    remove_shared_sequences,
    split_corpus,
)
from adversarial_mlm.data.residue_weights import ResidueWeights, check_residue_weights, read_residue_weights
from adversarial_mlm.data.sources import file_shards
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.recipes.recipe import DataArguments, Recipe
from adversarial_mlm.saving.run_files import DATA_FILE
from adversarial_mlm.utils.counts import count, verb
from adversarial_mlm.utils.errors import RecipeError

logger = logging.getLogger(__name__)


@dataclass
class ProteinData:
    """Training and held-out proteins, and facts about them.

    Attributes:
        train (`Dataset` or `IterableDataset`): Training proteins, with a column `sequence`.
        held_out (`dict[str, Dataset]`): Held-out sets by name.
        facts (`dict`): Sources, counts of the cleaning and sizes, as plain values.
        corpus ([`Corpus`]): The training proteins before splitting. The counts of a stream grow during training.
    """

    train: Dataset | IterableDataset
    held_out: dict[str, Dataset]
    facts: dict
    corpus: Corpus

    def card_facts(self) -> dict:
        """Return the facts for the model card: those of `data.json`, but for a stream without its counts so far."""
        streamed = isinstance(self.train, IterableDataset)
        return self.facts if streamed else {**self.facts, "cleaning": self.corpus.counts.as_dict()}

    def save_facts(self, folder: str) -> None:
        """Write `data.json`: the facts, and the counts of the cleaning so far."""
        facts = {**self.facts, "cleaning": self.corpus.counts.as_dict()}
        Path(folder, DATA_FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def load_data(args: DataArguments) -> ProteinData:
    """Read, clean and split the proteins of a recipe.

    Raises:
        RecipeError: If options contradict each other.
        CorpusError: If the data cannot be read.
    """
    _check_holdout(args)
    corpus = _load(args, args.train_data, streaming=args.streaming)
    facts: dict[str, Any] = {"train_data": args.train_data}
    train, held_out = _hold_out(args, corpus.dataset, facts)
    train = _add_validation(args, train, held_out, facts)
    if not args.streaming:
        facts["train_records"] = len(train)
    facts["held_out_records_found"] = {name: len(dataset) for name, dataset in held_out.items()}
    held_out = {name: _at_most(part, args.max_eval_records, args.holdout_seed) for name, part in held_out.items()}
    facts["held_out_records"] = {name: len(dataset) for name, dataset in held_out.items()}
    return ProteinData(train, held_out, facts, corpus)


def _holds_out(args: DataArguments) -> bool:
    return any((args.holdout_families, args.holdout_members, args.holdout_random))


def _check_holdout(args: DataArguments) -> None:
    """Check that the options of held-out proteins are in range and do not contradict each other."""
    by_family = args.holdout_families or args.holdout_members
    if args.cluster_table and not by_family:
        raise RecipeError(
            "cluster_table is given, but neither holdout_families nor holdout_members is set: set one, or remove "
            "cluster_table"
        )
    for name in ("holdout_families", "holdout_members", "holdout_random"):
        if not 0 <= getattr(args, name) < 1:
            raise RecipeError(f"{name} must be at least 0 and less than 1, got {getattr(args, name)}")
    if by_family and not args.cluster_table:
        raise RecipeError(
            "holdout_families and holdout_members need cluster_table, a table with the family of each protein"
        )
    if args.holdout_seed < 0:
        raise RecipeError(f"holdout_seed must be at least 0, got {args.holdout_seed}")
    if args.streaming and _holds_out(args):
        raise RecipeError("streaming cannot hold out proteins: use validation_data instead of the holdout options")
    if args.max_eval_records is not None and not (_holds_out(args) or args.validation_data):
        # only a warning, because a recipe may set it and the command line turn off the held-out sets
        logger.warning("max_eval_records has no effect, because no proteins are held out")


def _hold_out(args: DataArguments, proteins: Any, facts: dict[str, Any]) -> tuple[Any, dict[str, Dataset]]:
    """Return training proteins and held-out sets by the holdout options, and add counts to `facts`."""
    if not _holds_out(args):
        return proteins, {}
    splits = split_corpus(
        proteins,
        clusters=read_cluster_table(args.cluster_table) if args.cluster_table else None,
        clusters_name=args.cluster_table or "the cluster table",
        holdout_families=args.holdout_families,
        holdout_members=args.holdout_members,
        holdout_random=args.holdout_random,
        holdout_seed=args.holdout_seed,
        cache_dir=args.cache_dir,
    )
    facts["removed_as_identical_to_held_out"] = splits.duplicates_removed
    facts["not_in_cluster_table"] = splits.missing_in_clusters
    return splits.train, dict(splits.held_out)


def _add_validation(args: DataArguments, train: Any, held_out: dict[str, Dataset], facts: dict[str, Any]) -> Any:
    """Read `validation_data` into `held_out`, and return the training proteins without the sequences in it."""
    for name, sources in _by_name(args.validation_data).items():
        if name in held_out:
            raise RecipeError(
                f"validation_data has a set named {name}, but the holdout options make one of the same name: rename it"
            )
        validation = _load(args, sources, streaming=False)
        held_out[name] = validation.dataset
        facts[f"source_{name}"] = sources
        facts[f"cleaning_{name}"] = validation.counts.as_dict()
        if not args.streaming:
            train, removed = remove_shared_sequences(train, validation.dataset, cache_dir=args.cache_dir)
            facts[f"removed_as_identical_to_{name}"] = removed
    return train


def _by_name(sources: list[str]) -> dict[str, list[str]]:
    """Convert `["homologs=a.fasta", "b.fasta"]` to `{"homologs": ["a.fasta"], "validation": ["b.fasta"]}`."""
    named: dict[str, list[str]] = {}
    for source in sources:
        name, equals, path = source.partition("=")
        if equals and name.isidentifier() and not os.path.exists(source):
            named.setdefault(name, []).append(path)
        else:
            named.setdefault("validation", []).append(source)
    return named


def _load(args: DataArguments, source: list[str], streaming: bool) -> Corpus:
    corpus = load_corpus(
        source,
        sequence_column=args.sequence_column,
        id_column=args.id_column,
        dataset_split=args.dataset_split,
        dataset_config=args.dataset_config,
        min_length=args.min_length,
        allow_nucleotides=args.allow_nucleotides,
        streaming=streaming,
        cache_dir=args.cache_dir,
    )
    if not streaming:  # a stream is counted while training reads it
        logger.info("%s: %s", corpus.source, corpus.counts.summary())
    return corpus


def _at_most(dataset: Dataset, limit: int | None, seed: int) -> Dataset:
    if limit is None or len(dataset) <= limit:
        return dataset
    chosen = np.random.default_rng([seed, limit]).permutation(len(dataset))[:limit]
    return dataset.select(np.sort(chosen))


def weights_of(recipe: Recipe) -> ResidueWeights | None:
    """Read the weights of a recipe; `None` if it has none.

    Raises:
        CorpusError: If they cannot be read.
    """
    masking = recipe.masking
    if not masking.mask_weights:
        return None
    files = tuple((shard.name, os.stat(shard.name).st_mtime_ns) for shard in file_shards(masking.mask_weights))
    return _read_weights(files, masking.mask_weights_column, recipe.data.id_column or "id")


@functools.lru_cache(maxsize=1)  # a run builds its collator twice
def _read_weights(files: tuple[tuple[str, int], ...], column: str, id_column: str) -> ResidueWeights:
    return read_residue_weights([name for name, _ in files], column, id_column)


def check_weights(data: ProteinData, weights: ResidueWeights | None) -> None:
    """Check that every training protein has its weights. Those of a stream are checked while it is read.

    Raises:
        CorpusError: If not; the message has the number of proteins, and names the first one.
    """
    if weights is not None and isinstance(data.train, Dataset):
        check_residue_weights(data.train, weights)


def count_short_proteins(data: ProteinData, rules: MaskingRules, cache_dir: str | None) -> None:
    """Log how many proteins are so short that a budget of masks rounds to 0. A stream is not counted.

    With a `mask_rate` that changes, the budget is that of the lowest rate.
    """
    if not isinstance(data.train, Dataset):
        return
    if rules.schedule is not None:
        rules = rules.with_mask_rate(rules.schedule.lowest, rules.schedule.lowest)
    lengths, records = count_lengths(data.train, cache_dir)
    adversarial, by_chance = (budget.numpy() for budget in rules.budgets(torch.from_numpy(lengths.astype(np.int64))))
    for fact, without, what in (
        ("too_short_for_any_mask", adversarial + by_chance == 0, "none of their residues is masked"),
        ("too_short_for_the_noiser", (adversarial == 0) & (by_chance > 0), "the noiser masks none of their residues"),
    ):
        number = int(records[without].sum())
        if number and (rules.adversarial_rate or fact == "too_short_for_any_mask"):
            data.facts[fact] = number
            logger.warning(
                f"{number:,} of {count(len(data.train), 'protein')} {verb(number, 'is', 'are')} so short (at most "
                f"{count(int(lengths[without].max()), 'residue')}) "
                f"that {what}: the budget rounds to 0"
            )
