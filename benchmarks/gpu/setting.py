"""What is measured: shapes, lengths, sizes; in full on a GPU, or in small to try all of it on a CPU."""

from dataclasses import dataclass, field

import numpy as np
import torch
from datasets import Dataset
from transformers import EsmConfig, EsmForMaskedLM, PreTrainedModel, set_seed

from adversarial_mlm import build_protein_tokenizer
from adversarial_mlm.models.tokenization_protein import ResidueVocabulary

from ..training import fresh_encoder, lengths_like_swiss_prot, proteins, random_proteins

# published dense bf16 products, in TFLOP/s, by a part of the name
_PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0, "4090": 165.0}
_ESM = {"hidden_size": 640, "num_hidden_layers": 30, "num_attention_heads": 20, "intermediate_size": 2560}
_SMALL_ESM = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


@dataclass(frozen=True)
class Setting:
    """Sizes of the rows.

    Attributes:
        miniature: Whether all is small, to run on a CPU.
        corpus: File with proteins; without it, random residues with lengths like those of Swiss-Prot.
    """

    miniature: bool = False
    corpus: str | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def shapes(self) -> tuple[str, ...]:
        return ("tiny", "esm-tiny") if self.miniature else ("tape-38m", "esm2-150m")

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of a micro-batch, the larger one last."""
        return (256, 512) if self.miniature else (8192, 65536)

    @property
    def warm_up(self) -> int:
        return 1 if self.miniature else 3

    @property
    def steps(self) -> int:
        return 2 if self.miniature else 6

    @property
    def longest(self) -> int:
        """Residues of the longest protein."""
        return 40 if self.miniature else 510

    @property
    def compiler(self) -> dict:
        """Options of compilation: in small, the graph is traced but no code is generated."""
        return {"torch_compile": True, **({"torch_compile_backend": "eager"} if self.miniature else {})}

    def lengths(self, kind: str, number: int) -> np.ndarray:
        """Residues of some proteins: `swiss-prot`, `30 to 100`, or `all 512`."""
        generator = np.random.default_rng(0)
        if kind == "all 512":
            return np.full(number, self.longest)
        if kind == "30 to 100":
            return generator.integers(30, 101, number).clip(max=self.longest)
        found = lengths_like_swiss_prot(number)
        return found.clip(max=self.longest) if not self.miniature else (found // 10).clip(5, self.longest)

    def dataset(self, kind: str, number: int) -> Dataset:
        """Proteins of a kind of lengths, see [`lengths`]."""
        if self.corpus and kind == "swiss-prot":
            whole = proteins(self.corpus)
            return whole.shuffle(seed=0).select(range(min(number, len(whole))))
        return random_proteins(self.lengths(kind, number))

    def rows(self, kind: str, tokens: int) -> int:
        """How many proteins have about so many tokens."""
        return max(int(tokens / (self.lengths(kind, 2000).mean() + 2)), 2)

    def encoder(self, shape: str, **overrides) -> PreTrainedModel:
        """A fresh encoder of a shape, with its usual dropout."""
        if not shape.startswith("esm"):
            return fresh_encoder(shape, **overrides)
        set_seed(0)
        vocabulary = ResidueVocabulary.from_tokenizer(build_protein_tokenizer())
        tokens = {"vocab_size": vocabulary.vocab_size, "pad_token_id": vocabulary.pad_token_id}
        tokens["mask_token_id"] = vocabulary.mask_token_id
        sizes = _ESM if shape == "esm2-150m" else _SMALL_ESM
        rotary = {"position_embedding_type": "rotary", "token_dropout": True, "emb_layer_norm_before": False}
        none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return EsmForMaskedLM(EsmConfig(**tokens, **sizes, **rotary, **none, **overrides))

    def peak_tflops(self) -> float | None:
        """Published bf16 peak of the GPU, in TFLOP/s; `None` if it is not in the table."""
        if self.device.type != "cuda":
            return None
        name = torch.cuda.get_device_name(self.device)
        return next((peak for part, peak in _PEAKS.items() if part in name), None)
