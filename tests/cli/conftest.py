import pytest
import torch
from transformers import BertForMaskedLM

from adversarial_mlm import NoiserConfig, NoiserModel, presets

RECIPE = "adversarial_rate: 0.2\nrandom_rate: 0.1\nsampler: gumbel_topk\nlearned_options: false\n"


@pytest.fixture(scope="session")
def trained(tmp_path_factory, tokenizer) -> str:
    """The folder of a run: an encoder and a `blind` noiser of a few thousand random weights, with a recipe."""
    folder = tmp_path_factory.mktemp("run")
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
