"""Pre-training of protein language models against a trainable masker."""

import importlib
from typing import TYPE_CHECKING

from adversarial_mlm.utils.version import __version__

# name → module; loaded at first use, because torch and transformers take seconds to import
_PLACES = {
    "AdversarialMLMTrainer": "training.trainer",
    "AdversarialMLMTrainingArguments": "training.training_args",
    "BrightAndDark": "downstream.metrics",
    "DataCollatorForAdversarialMLM": "masking.data_collator",
    "DataCollatorForChosenProteinsMLM": "masking.protein_collator",
    "DataCollatorForRandomMLM": "masking.data_collator",
    "HomologyAccuracy": "downstream.metrics",
    "MeanSquaredError": "downstream.metrics",
    "NoiserConfig": "models.configuration_noiser",
    "NoiserModel": "models.modeling_noiser",
    "ResidueAccuracy": "downstream.metrics",
    "SequenceAccuracy": "downstream.metrics",
    "SpearmanCorrelation": "downstream.metrics",
    "build_protein_tokenizer": "models.tokenization_protein",
    "embed_proteins": "inference.protein_embeddings",
    "load_corpus": "data",
    "presets": "models.presets",
    "split_corpus": "data",
}

__all__ = [
    "AdversarialMLMTrainer",
    "AdversarialMLMTrainingArguments",
    "BrightAndDark",
    "DataCollatorForAdversarialMLM",
    "DataCollatorForChosenProteinsMLM",
    "DataCollatorForRandomMLM",
    "HomologyAccuracy",
    "MeanSquaredError",
    "NoiserConfig",
    "NoiserModel",
    "ResidueAccuracy",
    "SequenceAccuracy",
    "SpearmanCorrelation",
    "__version__",
    "build_protein_tokenizer",
    "embed_proteins",
    "load_corpus",
    "presets",
    "split_corpus",
]

if TYPE_CHECKING:
    from adversarial_mlm.data import load_corpus, split_corpus
    from adversarial_mlm.downstream.metrics import (
        BrightAndDark,
        HomologyAccuracy,
        MeanSquaredError,
        ResidueAccuracy,
        SequenceAccuracy,
        SpearmanCorrelation,
    )
    from adversarial_mlm.inference.protein_embeddings import embed_proteins
    from adversarial_mlm.masking.data_collator import DataCollatorForAdversarialMLM, DataCollatorForRandomMLM
    from adversarial_mlm.masking.protein_collator import DataCollatorForChosenProteinsMLM
    from adversarial_mlm.models import presets
    from adversarial_mlm.models.configuration_noiser import NoiserConfig
    from adversarial_mlm.models.modeling_noiser import NoiserModel
    from adversarial_mlm.models.tokenization_protein import build_protein_tokenizer
    from adversarial_mlm.training.trainer import AdversarialMLMTrainer
    from adversarial_mlm.training.training_args import AdversarialMLMTrainingArguments


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module = importlib.import_module(f".{_PLACES[name]}", __name__)
    return module if name == "presets" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
