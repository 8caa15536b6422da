"""The folder of a run in miniature: an encoder and a noiser of a few thousand random weights, with a recipe."""

from pathlib import Path

import torch
from transformers import BertForMaskedLM, PreTrainedTokenizerBase

from adversarial_mlm import NoiserConfig, NoiserModel, presets

RECIPE = "adversarial_rate: 0.2\nrandom_rate: 0.1\nsampler: gumbel_topk\nlearned_options: false\n"


def save_run(folder: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """Save such a run, with a `blind` noiser; returns the folder."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    encoder = BertForMaskedLM(presets.encoder_config("tiny", **sizes))
    torch.nn.init.normal_(encoder.bert.embeddings.word_embeddings.weight)
    noiser = NoiserModel(NoiserConfig.from_tokenizer(tokenizer, embedding_size=8, hidden_size=12, view="blind"))
    torch.nn.init.normal_(noiser.score.weight)
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    noiser.save_pretrained(folder / "noiser")
    (folder / "recipe.yaml").write_text(RECIPE)
    return str(folder)
