"""TAPE's 30-token IUPAC vocabulary: a fast tokenizer, its byte table, and what counts as a residue.

The vocabulary exists in two forms that agree residue by residue:

- [`build_protein_tokenizer`] returns an ordinary HuggingFace fast tokenizer. It is saved beside a model, and
  `AutoTokenizer.from_pretrained` loads it where this package is not installed.
- [`encode_sequence`] looks bytes up in [`BYTE_TABLE`]. It knows residues only, without `<cls>`, `<sep>`, padding or
  truncation, and is 50 to 100 times faster, which is why the data collators use it where they can.

They differ on one thing, on purpose. The tokenizer reads the text of a special token inside a sequence as that token,
so that `"MK<mask>T"` works in a fill-mask pipeline. The byte table reads the same six characters as characters
(`<unk> M A S K <unk>`), since a sequence from a file has no masks.
"""

import json
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = [
    "AMBIGUOUS_RESIDUES",
    "BYTE_TABLE",
    "IGNORED_BYTE",
    "STANDARD_RESIDUES",
    "VOCABULARY",
    "ResidueVocabulary",
    "build_protein_tokenizer",
    "encode_sequence",
    "has_byte_table",
]

_SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "mask_token": "<mask>",
    "cls_token": "<cls>",
    "sep_token": "<sep>",
    "unk_token": "<unk>",
}
_LETTERS = "ABCDEFGHIKLMNOPQRSTUVWXYZ"  # no J
_WHITE_SPACE = " \t\n\r\v\f"

VOCABULARY: tuple[str, ...] = (*_SPECIAL_TOKENS.values(), *_LETTERS)
"""The 30 tokens; a token's index is its id, as in TAPE."""

STANDARD_RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
"""The 20 standard amino acids."""

AMBIGUOUS_RESIDUES = "BZXUO"
"""Asx, Glx, any residue, selenocysteine and pyrrolysine: residues, but rare or not resolved to one of the 20."""

IGNORED_BYTE = 255
"""The entry of [`BYTE_TABLE`] for white space, which has no token."""


def build_protein_tokenizer(model_max_length: int = 512) -> PreTrainedTokenizerFast:
    """Build the tokenizer of TAPE's IUPAC vocabulary: one token per character, as `<cls> residues <sep>`.

    Lower-case letters are read as upper-case ones and ASCII white space is ignored. Every other character that is
    not in the vocabulary gives one `<unk>`. Padding and truncation act on the right, and only `input_ids` and
    `attention_mask` are returned. Decoding joins the letters without spaces.

    Args:
        model_max_length (`int`, *optional*, defaults to 512):
            Longest input in tokens, `<cls>` and `<sep>` included, that `truncation=True` leaves.

    Returns:
        `PreTrainedTokenizerFast`: A tokenizer that `AutoTokenizer` loads without this package and without remote code.

    Raises:
        `ValueError`: If `model_max_length` leaves no room for a residue between `<cls>` and `<sep>`.
    """
    if model_max_length < 3:
        raise ValueError(f"model_max_length must be at least 3 (<cls>, one residue, <sep>), got {model_max_length}.")
    return PreTrainedTokenizerFast(
        tokenizer_object=_build_backend(),
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        padding_side="right",
        truncation_side="right",
        clean_up_tokenization_spaces=False,
        **_SPECIAL_TOKENS,
    )


def _build_backend() -> Tokenizer:
    token_ids = {token: index for index, token in enumerate(VOCABULARY)}
    # BPE without merges splits into single characters by itself, several times faster than WordLevel behind a Split.
    model = models.BPE(vocab=token_ids, merges=[], unk_token=_SPECIAL_TOKENS["unk_token"], fuse_unk=False)
    backend = Tokenizer(model)
    # The library has no upper-case normalizer. Special tokens are cut out before this runs, so "<mask>" stays whole.
    drop_white_space = normalizers.Replace(Regex(f"[{_WHITE_SPACE}]+"), "")
    upper_case = [normalizers.Replace(letter.lower(), letter) for letter in _LETTERS]
    backend.normalizer = normalizers.Sequence([drop_white_space, *upper_case])
    backend.post_processor = processors.TemplateProcessing(
        single="<cls> $A <sep>",
        pair="<cls> $A <sep> $B:1 <sep>:1",
        special_tokens=[(token, token_ids[token]) for token in ("<cls>", "<sep>")],
    )
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(_SPECIAL_TOKENS.values()))
    return backend


def _build_byte_table() -> np.ndarray:
    table = np.full(256, VOCABULARY.index(_SPECIAL_TOKENS["unk_token"]), dtype=np.uint8)
    for letter in _LETTERS:
        table[[ord(letter), ord(letter.lower())]] = VOCABULARY.index(letter)
    table[[ord(character) for character in _WHITE_SPACE]] = IGNORED_BYTE
    table.setflags(write=False)
    return table


BYTE_TABLE: np.ndarray = _build_byte_table()
"""`(256,)` uint8, read-only: from a Latin-1 byte to its token id, or to [`IGNORED_BYTE`] for white space."""

_TRANSLATION = BYTE_TABLE.tobytes()
_IGNORED = bytes([IGNORED_BYTE])


def encode_sequence(sequence: str) -> np.ndarray:
    """Encode the residues of a protein with [`BYTE_TABLE`].

    Equals `tokenizer(sequence, add_special_tokens=False)["input_ids"]` for the tokenizer of
    [`build_protein_tokenizer`], except that the text of a special token is read as plain characters.

    Args:
        sequence (`str`):
            The protein, in either case; white space is ignored and every unknown character gives one `<unk>`.

    Returns:
        `np.ndarray`: `(residues,)` uint8 token ids, writable, without `<cls>` and `<sep>`.
    """
    # "replace" turns what is not Latin-1 into "?", which is unknown too. A bytearray makes the result writable.
    token_ids = bytearray(sequence.encode("latin-1", "replace")).translate(_TRANSLATION)
    if IGNORED_BYTE in token_ids:
        token_ids = token_ids.translate(None, _IGNORED)
    return np.frombuffer(token_ids, dtype=np.uint8)


def has_byte_table(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether [`encode_sequence`] may stand in for `tokenizer`.

    True only for a tokenizer with the vocabulary, special tokens, normalizer and template of
    [`build_protein_tokenizer`], however it was made or loaded. Settings that do not change the ids of a residue
    (`model_max_length`, the side of padding) are free.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Any tokenizer.

    Returns:
        `bool`: Whether the two give the same ids.
    """
    # A subclass may override the encoding in Python. A wrong "no" costs speed, a wrong "yes" would change the data.
    if type(tokenizer) is not PreTrainedTokenizerFast:
        return False
    if any(getattr(tokenizer, name) != token for name, token in _SPECIAL_TOKENS.items()):
        return False
    # Comparing vocabularies first spares serialising those of a hundred thousand words.
    if tokenizer.get_vocab() != {token: index for index, token in enumerate(VOCABULARY)}:
        return False
    behaviour = _encoding_behaviour(tokenizer.backend_tokenizer)
    return behaviour is not None and behaviour == _reference_behaviour()


@cache
def _reference_behaviour() -> dict | None:
    return _encoding_behaviour(_build_backend())


def _encoding_behaviour(backend: Tokenizer) -> dict | None:
    """What decides the ids of a text, or `None` where that includes Python code.

    Padding and truncation are left out: they are the state of the latest call.
    """
    try:
        serialised = json.loads(backend.to_str())
    except Exception:  # the library raises nothing narrower for a component written in Python
        return None
    return {
        part: serialised[part] for part in ("model", "normalizer", "pre_tokenizer", "post_processor", "added_tokens")
    }


@dataclass(frozen=True)
class ResidueVocabulary:
    """What a residue is, in the ids of one tokenizer.

    Attributes:
        vocab_size (`int`):
            `len(tokenizer)`, added tokens included.
        pad_token_id (`int`):
            Id of the padding token.
        mask_token_id (`int`):
            Id of the mask token.
        unk_token_id (`int`, *optional*):
            Id of the unknown token, or `None` where the tokenizer has none.
        residue_ids (`tuple[int, ...]`):
            Ids that may be masked: the 20 standard residues in the order of `STANDARD_RESIDUES`, then those of
            `AMBIGUOUS_RESIDUES` that are single tokens.
        replacement_ids (`tuple[int, ...]`):
            Ids that may replace a residue: the 20 standard ones, in the order of `STANDARD_RESIDUES`.
        residue_letters (`dict[int, str]`):
            The letter of every id in `residue_ids`, in the same order, for reports.
    """

    vocab_size: int
    pad_token_id: int
    mask_token_id: int
    unk_token_id: int | None
    residue_ids: tuple[int, ...]
    replacement_ids: tuple[int, ...]
    residue_letters: dict[int, str] = field(hash=False)

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> "ResidueVocabulary":
        """Read the ids off a tokenizer that has one token per residue.

        Args:
            tokenizer (`PreTrainedTokenizerBase`):
                The tokenizer of [`build_protein_tokenizer`], or another one such as ESM's.

        Returns:
            `ResidueVocabulary`: Its residues and special tokens.

        Raises:
            `ValueError`: If the tokenizer lacks a mask token, a padding token or a standard residue.
        """
        vocabulary = tokenizer.get_vocab()
        missing = [letter for letter in STANDARD_RESIDUES if letter not in vocabulary]
        if missing:
            raise ValueError(f"The tokenizer has no single token for the standard residue(s) {', '.join(missing)}.")
        residue_letters = {
            vocabulary[letter]: letter for letter in STANDARD_RESIDUES + AMBIGUOUS_RESIDUES if letter in vocabulary
        }
        return cls(
            vocab_size=len(tokenizer),
            pad_token_id=_required_token_id(tokenizer, "pad"),
            mask_token_id=_required_token_id(tokenizer, "mask"),
            unk_token_id=tokenizer.unk_token_id,
            residue_ids=tuple(residue_letters),
            replacement_ids=tuple(vocabulary[letter] for letter in STANDARD_RESIDUES),
            residue_letters=residue_letters,
        )


def _required_token_id(tokenizer: PreTrainedTokenizerBase, kind: str) -> int:
    token_id = getattr(tokenizer, f"{kind}_token_id")
    if token_id is None:
        raise ValueError(f"The tokenizer has no {kind} token: set `tokenizer.{kind}_token` first.")
    return token_id
