"""Configuration of the noiser."""

import math

from transformers import PreTrainedConfig

from adversarial_mlm.models.tokenization_protein import (
    AMBIGUOUS_RESIDUES,
    STANDARD_RESIDUES,
    VOCABULARY,
    ResidueVocabulary,
)

BACKBONES = ("gru", "conv", "transformer")
VIEWS = ("full", "context", "blind")


class NoiserConfig(PreTrainedConfig):
    """Configuration of a [`NoiserModel`]; the defaults are the paper's noiser.

    The paper describes "a 3-layer GRU with a 1024 input embedding layer and 512 output layer". This is implemented as
    an embedding of width 1024 and a bidirectional GRU with 256 units in each direction. `bidirectional=False` gives
    one direction with 512 units.

    Args:
        vocab_size (`int`, *optional*, defaults to 30): Number of tokens of the tokenizer.
        embedding_size (`int`, *optional*, defaults to 1024): Width of the token embedding.
        hidden_size (`int`, *optional*, defaults to 512): Width of the output, both directions together.
        num_hidden_layers (`int`, *optional*, defaults to 3): Number of layers.
        backbone (`str`, *optional*, defaults to `"gru"`): `"gru"` (the paper), `"conv"` (residual dilated
            convolutions, which process all positions at once) or `"transformer"` (a ModernBERT).
        view (`str`, *optional*, defaults to `"full"`): What the noiser sees. `"full"`: all residues (the paper).
            `"context"`: all residues except the one that is scored; `gru` only. `"blind"`: propose, then choose. A
            random candidate set is hidden from the noiser, and it chooses among these candidates. Because it does not
            see their residues, its choice cannot reveal them to the encoder.
        bidirectional (`bool`, *optional*, defaults to `True`): Whether the GRU reads in both directions.
        kernel_size (`int`, *optional*, defaults to 5): Kernel size of the convolutions, odd. Layer l has dilation 2^l.
        num_attention_heads (`int`, *optional*, defaults to 8): Attention heads of the transformer.
        hidden_dropout_prob (`float`, *optional*, defaults to 0.0): Dropout between layers.
        residue_ids (`list[int]`, *optional*): Tokens that may be masked. Defaults to the 25 residues of TAPE's
            vocabulary.
        replacement_ids (`list[int]`, *optional*): Tokens that may replace a residue, with one option score each.
            Defaults to the 20 standard residues of TAPE's vocabulary.
        mask_token_id (`int`, *optional*, defaults to 1): Token of the [MASK] option.
        initial_mask_options (`list[float]`, *optional*, defaults to `[0.8, 0.1, 0.1]`): Corruption mix ([MASK], keep,
            replace) of an untrained noiser.
        pad_token_id (`int`, *optional*, defaults to 0): Token of padding.

    Raises:
        ValueError: If there is no such backbone or view, if backbone, view and `hidden_size` do not fit together, if
            the shares are not positive or do not sum to 1, or if an id is not in the vocabulary.
    """

    model_type = "adversarial_mlm_noiser"

    def __init__(
        self,
        vocab_size: int = 30,
        embedding_size: int = 1024,
        hidden_size: int = 512,
        num_hidden_layers: int = 3,
        backbone: str = "gru",
        view: str = "full",
        bidirectional: bool = True,
        kernel_size: int = 5,
        num_attention_heads: int = 8,
        hidden_dropout_prob: float = 0.0,
        residue_ids: list[int] | None = None,
        replacement_ids: list[int] | None = None,
        mask_token_id: int = 1,
        initial_mask_options: list[float] | None = None,
        pad_token_id: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.backbone = backbone
        self.view = view
        self.bidirectional = bidirectional
        self.kernel_size = kernel_size
        self.num_attention_heads = num_attention_heads
        self.hidden_dropout_prob = hidden_dropout_prob
        standard, ambiguous = ([VOCABULARY.index(x) for x in y] for y in (STANDARD_RESIDUES, AMBIGUOUS_RESIDUES))
        self.residue_ids = standard + ambiguous if residue_ids is None else list(residue_ids)
        self.replacement_ids = standard if replacement_ids is None else list(replacement_ids)
        self.mask_token_id = mask_token_id
        self.initial_mask_options = [0.8, 0.1, 0.1] if initial_mask_options is None else list(initial_mask_options)
        self.pad_token_id = pad_token_id
        self._check()

    def _check(self) -> None:
        for name, known in (("backbone", BACKBONES), ("view", VIEWS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'")
        if self.view == "context" and self.backbone != "gru":
            raise ValueError(f"the view 'context' needs the backbone gru, but the backbone is {self.backbone}")
        if self.backbone == "gru" and self.bidirectional and self.hidden_size % 2:
            raise ValueError(f"hidden_size is {self.hidden_size}, but must be even for a bidirectional noiser")
        if self.backbone == "conv" and not self.kernel_size % 2:
            raise ValueError(f"kernel_size is {self.kernel_size}, but must be odd")
        if self.backbone == "transformer" and self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size is {self.hidden_size}, but for a transformer it must be a multiple of "
                f"twice its num_attention_heads ({self.num_attention_heads})"
            )
        shares = self.initial_mask_options
        if len(shares) != 3 or min(shares) <= 0 or not math.isclose(sum(shares), 1.0, abs_tol=1e-6):
            raise ValueError(f"initial_mask_options must be three positive shares that sum to 1, got {shares}")
        ids = [*self.residue_ids, *self.replacement_ids, self.mask_token_id, self.pad_token_id]
        if min(ids) < 0 or max(ids) >= self.vocab_size:
            raise ValueError(
                "residue_ids, replacement_ids, mask_token_id and pad_token_id must be between 0 and "
                f"vocab_size - 1 = {self.vocab_size - 1}"
            )

    @classmethod
    def from_tokenizer(cls, tokenizer, **kwargs) -> "NoiserConfig":
        """A configuration with the vocabulary, residues and special tokens of a tokenizer.

        Args:
            tokenizer (`PreTrainedTokenizerBase`): It must have a mask token, a padding token and the 20 standard
                residues.
            **kwargs: Any other argument of [`NoiserConfig`].

        Raises:
            ValueError: If the tokenizer lacks one of these tokens.
        """
        return cls.from_vocabulary(ResidueVocabulary.from_tokenizer(tokenizer), **kwargs)

    @classmethod
    def from_vocabulary(cls, vocabulary: ResidueVocabulary, **kwargs) -> "NoiserConfig":
        """As [`NoiserConfig.from_tokenizer`], but from the vocabulary of a tokenizer."""
        return cls(**cls._token_fields(vocabulary), **kwargs)

    @staticmethod
    def _token_fields(vocabulary: ResidueVocabulary) -> dict:
        return {
            "vocab_size": vocabulary.vocab_size,
            "residue_ids": list(vocabulary.residue_ids),
            "replacement_ids": list(vocabulary.replacement_ids),
            "mask_token_id": vocabulary.mask_token_id,
            "pad_token_id": vocabulary.pad_token_id,
        }

    def check_vocabulary(self, vocabulary: ResidueVocabulary) -> None:
        """Check that a vocabulary is the one that this noiser was made for.

        Raises:
            ValueError: If it is not; the message names the first field that differs.
        """
        for name, wanted in self._token_fields(vocabulary).items():
            if getattr(self, name) != wanted:
                raise ValueError(
                    f"the noiser was made for another tokenizer: its {name} is {getattr(self, name)}, "
                    f"the tokenizer's is {wanted}"
                )
