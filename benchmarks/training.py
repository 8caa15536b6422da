"""Build the trainers that are measured."""

import atexit
import functools
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    set_seed,
)

from adversarial_mlm import (
    AdversarialMLMTrainer,
    AdversarialMLMTrainingArguments,
    DataCollatorForAdversarialMLM,
    DataCollatorForRandomMLM,
    NoiserModel,
    build_protein_tokenizer,
    load_corpus,
    presets,
)
from adversarial_mlm.models.tokenization_protein import STANDARD_RESIDUES

DEMO_PROTEINS = Path(__file__).parent.parent / "examples" / "data" / "demo.fasta"
MAX_LENGTH = 512
_MEDIAN, _LOG_DEVIATION = 240, 0.75  # of the lengths of proteins


def proteins(path: str | None) -> Dataset:
    """Return the proteins of a file, or those of the demo."""
    return load_corpus(str(path or DEMO_PROTEINS)).dataset


def proteins_of_one_length(path: str | None, length: int) -> Dataset:
    """Return the first `length` residues of each protein that is long enough. All batches then cost the same."""
    whole = proteins(path).filter(lambda row: row["length"] >= length)
    return whole.map(lambda row: {"sequence": row["sequence"][:length], "length": length})


def lengths_like_swiss_prot(number: int, longest: int = MAX_LENGTH - 2) -> np.ndarray:
    """Return random lengths in residues whose mean is that of Swiss-Prot after a crop to 512 tokens: 270."""
    drawn = np.exp(np.random.default_rng(0).normal(np.log(_MEDIAN), _LOG_DEVIATION, number))
    return drawn.astype(int).clip(5, longest)


def random_proteins(lengths: np.ndarray) -> Dataset:
    """Return proteins of some lengths, of random residues."""
    ids = np.random.default_rng(1).integers(0, len(STANDARD_RESIDUES), int(lengths.sum()))
    letters = np.frombuffer(STANDARD_RESIDUES.encode(), dtype=np.uint8)[ids].tobytes().decode()
    ends = lengths.cumsum()
    sequences = [letters[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    return Dataset.from_dict({"sequence": sequences, "length": lengths.tolist()})


def fresh_encoder(size: str, **overrides) -> BertForMaskedLM:
    """Return an encoder with the same random weights each time."""
    set_seed(0)
    return BertForMaskedLM(presets.encoder_config(size, **overrides))


def our_trainer(
    dataset: Dataset,
    size: str,
    game: str | None,
    steps: int,
    *,
    batch_size: int,
    noiser: Mapping | None = None,
    encoder: Mapping | None = None,
    model: PreTrainedModel | None = None,
    **settings,
) -> AdversarialMLMTrainer:
    """Return a trainer of a fresh encoder with a preset's noiser, or with random masks at the same rate.

    Args:
        dataset (`Dataset`): The proteins.
        size (`str`): Name of the encoder's size.
        game (`str`, *optional*): Name of the preset; without it, random masks.
        steps (`int`): Encoder updates.
        batch_size (`int`): Proteins per update.
        noiser (`Mapping`, *optional*): Options that differ from the paper's noiser.
        encoder (`Mapping`, *optional*): Options that differ from the encoder's size.
        model (`PreTrainedModel`, *optional*): An encoder in place of one of this size.
        **settings: Training arguments that differ from the preset's.
    """
    tokenizer = build_protein_tokenizer(model_max_length=MAX_LENGTH)
    rules = presets.game(game or "paper")
    arguments = {name: rules[name] for name in rules if name in AdversarialMLMTrainingArguments.__dataclass_fields__}
    if game is None:
        rate = rules["random_rate"] + rules["adversarial_rate"]
        collator = DataCollatorForRandomMLM(tokenizer, max_length=MAX_LENGTH, random_rate=rate)
        arguments = {}
    else:
        masking = (
            "adversarial_rate",
            "random_rate",
            "learned_options",
            "sampler",
            "selection",
            "gated",
            "temperature",
        )
        config = presets.noiser_config(
            **{"name": "paper", "view": rules["noiser_view"], **(noiser or {})},
            vocabulary=DataCollatorForRandomMLM(tokenizer).vocabulary,
        )
        collator = DataCollatorForAdversarialMLM(
            tokenizer,
            NoiserModel(config),
            max_length=MAX_LENGTH,
            **{name: rules[name] for name in masking if name in rules},
        )
    return AdversarialMLMTrainer(
        model=fresh_encoder(size, **(encoder or {})) if model is None else model,
        args=AdversarialMLMTrainingArguments(**{**arguments, **_common(steps, batch_size), **settings}),
        data_collator=collator,
        train_dataset=dataset,
        processing_class=tokenizer,
    )


def stock_trainer(
    dataset: Dataset, size: str, steps: int, batch_size: int, model: PreTrainedModel | None = None, **settings
) -> Trainer:
    """Return the stock trainer with the stock collator, on proteins that are already tokenized."""
    tokenizer = build_protein_tokenizer(model_max_length=MAX_LENGTH)
    tokenized = dataset.map(
        lambda rows: {**tokenizer(rows["sequence"], truncation=True, max_length=MAX_LENGTH)},
        batched=True,
        remove_columns=dataset.column_names,
    )
    tokenized = tokenized.map(lambda rows: {"length": [len(ids) for ids in rows["input_ids"]]}, batched=True)
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.2)
    arguments = {**_common(steps, batch_size), "learning_rate": 1e-4, "weight_decay": 0.01, **settings}
    return Trainer(
        model=fresh_encoder(size) if model is None else model,
        args=TrainingArguments(**arguments),
        data_collator=collator,
        train_dataset=tokenized,
    )


class CountedRows:
    """Notes the tokens of every row that a trainer reads. Nothing is read back from a device before it is asked for.

    Args:
        trainer (`Trainer`): Its `get_batch_samples` is wrapped.
    """

    def __init__(self, trainer: Trainer):
        self._masks: list[list[torch.Tensor]] = []
        plain = trainer.get_batch_samples

        def get_batch_samples(*args, **kwargs):
            batches, items = plain(*args, **kwargs)
            self._masks.append([batch.get("attention_mask", torch.ones_like(batch["input_ids"])) for batch in batches])
            return batches, items

        trainer.get_batch_samples = get_batch_samples

    def lengths(self) -> list[torch.Tensor]:
        """Return the tokens of the rows of every step, special tokens included."""
        return [torch.cat([mask.sum(dim=1).cpu() for mask in masks]) for masks in self._masks]

    def residues(self) -> list[int]:
        """Return the residues of every step: two tokens of a row are special."""
        return [int((lengths - 2).sum()) for lengths in self.lengths()]


@functools.cache
def _folder() -> str:
    """Make a folder for all trainers of this process, which goes with the process."""
    folder = tempfile.mkdtemp(prefix="benchmark-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _common(steps: int, batch_size: int) -> dict:
    return {
        "output_dir": tempfile.mkdtemp(dir=_folder()),
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "logging_steps": 10**9,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
    }
