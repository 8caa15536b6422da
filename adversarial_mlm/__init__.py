"""Pre-training of protein language models against a trainable masker."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# name → module; loaded at first use, because torch and transformers take seconds to import
_PLACES = {
    "AdversarialMLMTrainer": "trainer",
    "AdversarialMLMTrainingArguments": "training_args",
    "BrightAndDark": "metrics",
    "DataCollatorForAdversarialMLM": "data_collator",
    "DataCollatorForRandomMLM": "data_collator",
    "HomologyAccuracy": "metrics",
    "MeanSquaredError": "metrics",
    "NoiserConfig": "configuration_noiser",
    "NoiserModel": "modeling_noiser",
    "ResidueAccuracy": "metrics",
    "SequenceAccuracy": "metrics",
    "SpearmanCorrelation": "metrics",
    "build_protein_tokenizer": "tokenization_protein",
    "load_corpus": "corpus",
    "presets": "presets",
    "split_corpus": "corpus",
}

__all__ = [
    "AdversarialMLMTrainer",
    "AdversarialMLMTrainingArguments",
    "BrightAndDark",
    "DataCollatorForAdversarialMLM",
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
    "load_corpus",
    "presets",
    "split_corpus",
]

if TYPE_CHECKING:
    from . import presets
    from .configuration_noiser import NoiserConfig
    from .corpus import load_corpus, split_corpus
    from .data_collator import DataCollatorForAdversarialMLM, DataCollatorForRandomMLM
    from .metrics import (
        BrightAndDark,
        HomologyAccuracy,
        MeanSquaredError,
        ResidueAccuracy,
        SequenceAccuracy,
        SpearmanCorrelation,
    )
    from .modeling_noiser import NoiserModel
    from .tokenization_protein import build_protein_tokenizer
    from .trainer import AdversarialMLMTrainer
    from .training_args import AdversarialMLMTrainingArguments


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module = importlib.import_module(f".{_PLACES[name]}", __name__)
    return module if name == _PLACES[name] else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
