"""Encoders in miniature as other people publish them, each with a tokenizer of its own."""

from pathlib import Path

from tokenizers import Tokenizer, models, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertTokenizer,
    EsmConfig,
    EsmForMaskedLM,
    EsmTokenizer,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from adversarial_mlm import build_protein_tokenizer

SIZES = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO"  # in ESM's order


def write_vocabulary(folder: Path, tokens) -> str:
    (folder / "vocab.txt").write_text("\n".join(tokens))
    return str(folder / "vocab.txt")


def esm_tokenizer(folder: Path) -> EsmTokenizer:
    """ESM's own class, which is not a fast one, over ESM-2's vocabulary."""
    tokens = ["<cls>", "<pad>", "<eos>", "<unk>", *LETTERS, ".", "-", "<null_1>", "<mask>"]
    return EsmTokenizer(write_vocabulary(folder, tokens))


def prot_bert_tokenizer(folder: Path) -> BertTokenizer:
    """BERT's own class over ProtBert's vocabulary: a protein without spaces is one word, and an unknown one."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"LAGVESIKRDTPNQFYMHCWXUBZO"]
    return BertTokenizer(write_vocabulary(folder, tokens), do_lower_case=False)


def roberta_tokenizer() -> PreTrainedTokenizerFast:
    """RoBERTa's special tokens: the padding has the id 1, and the mask the last one."""
    vocabulary = {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", *LETTERS, "<mask>"])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = {
        "bos": "<s>",
        "pad": "<pad>",
        "eos": "</s>",
        "unk": "<unk>",
        "cls": "<s>",
        "sep": "</s>",
        "mask": "<mask>",
    }
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{f"{kind}_token": t for kind, t in names.items()})


def bert(folder: Path, **overrides):
    return BertForMaskedLM(BertConfig(vocab_size=30, **{**SIZES, **overrides})), build_protein_tokenizer()


def prot_bert(folder: Path, **overrides):
    return BertForMaskedLM(BertConfig(vocab_size=30, **{**SIZES, **overrides})), prot_bert_tokenizer(folder)


def esm(folder: Path, **overrides):
    settings = {"position_embedding_type": "rotary", "token_dropout": True, "hidden_dropout_prob": 0.0, **overrides}
    config = EsmConfig(vocab_size=33, pad_token_id=1, mask_token_id=32, **SIZES, **settings)
    return EsmForMaskedLM(config), esm_tokenizer(folder)


def roberta(folder: Path, **overrides):
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    config = RobertaConfig(vocab_size=30, max_position_embeddings=130, **tokens, **{**SIZES, **overrides})
    return RobertaForMaskedLM(config), roberta_tokenizer()


def modernbert(folder: Path, **overrides):
    # its embedding table is rounded up beyond the vocabulary, as theirs are
    tokens = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
    config = ModernBertConfig(vocab_size=64, **tokens, **{**SIZES, **overrides})
    return ModernBertForMaskedLM(config), build_protein_tokenizer()


BUILDERS = {"bert": bert, "prot_bert": prot_bert, "esm": esm, "roberta": roberta, "modernbert": modernbert}
