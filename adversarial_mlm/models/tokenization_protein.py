"""Tokens of proteins: TAPE's vocabulary as a fast tokenizer, the byte table of any tokenizer, what is a residue.

- [`build_protein_tokenizer`] returns an ordinary HuggingFace fast tokenizer with TAPE's 30-token IUPAC vocabulary. It
  is saved beside a model, and `AutoTokenizer.from_pretrained` loads it where this package is not installed.
- [`ByteTable`] does the work of a tokenizer that has one token per residue, whoever made it, by one look into a table
  for each letter. That is many times faster, and the data collators use nothing else.

A table differs from its tokenizer on one thing, on purpose. The tokenizer reads the text of a special token inside a
sequence as that token, so that `"MK<mask>T"` works in a fill-mask pipeline. The table reads the same six characters as
characters (`<unk> M A S K <unk>`), since a sequence from a file has no masks.
"""

import string
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = [
    "AMBIGUOUS_RESIDUES",
    "IGNORED_BYTE",
    "STANDARD_RESIDUES",
    "VOCABULARY",
    "ByteTable",
    "ResidueVocabulary",
    "build_protein_tokenizer",
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

IGNORED_BYTE = -1
"""The entry of a [`ByteTable`] for white space, which has no token."""


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


@dataclass(frozen=True)
class ResidueVocabulary:
    """What a residue is, in the ids of one tokenizer.

    Attributes:
        vocab_size (`int`):
            One more than the largest id, added tokens included.
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
        _check_residues(vocabulary)
        residue_letters = {
            vocabulary[letter]: letter for letter in STANDARD_RESIDUES + AMBIGUOUS_RESIDUES if letter in vocabulary
        }
        return cls(
            vocab_size=max(vocabulary.values()) + 1,
            pad_token_id=_required_token_id(tokenizer, "pad"),
            mask_token_id=_required_token_id(tokenizer, "mask"),
            unk_token_id=tokenizer.unk_token_id,
            residue_ids=tuple(residue_letters),
            replacement_ids=tuple(vocabulary[letter] for letter in STANDARD_RESIDUES),
            residue_letters=residue_letters,
        )


def _check_residues(vocabulary: dict[str, int]) -> None:
    missing = [letter for letter in STANDARD_RESIDUES if letter not in vocabulary]
    if missing:
        raise ValueError(f"The tokenizer has no single token for the standard residue(s) {', '.join(missing)}.")


def _required_token_id(tokenizer: PreTrainedTokenizerBase, kind: str) -> int:
    token_id = getattr(tokenizer, f"{kind}_token_id")
    if token_id is None:
        raise ValueError(f"The tokenizer has no {kind} token: set `tokenizer.{kind}_token` first.")
    return token_id


@dataclass(frozen=True)
class ByteTable:
    """From letters to the ids of one tokenizer, without calling it.

    Attributes:
        ids (`np.ndarray` of shape `(256,)`, int64, read-only):
            From a Latin-1 byte to its token id, or to [`IGNORED_BYTE`] for white space. Lower-case letters have the
            ids of upper-case ones; what is no token has the id of the unknown token.
        prefix (`tuple[int, ...]`):
            Special tokens that the tokenizer puts before a protein.
        suffix (`tuple[int, ...]`):
            Special tokens that it puts after one.
        spaced (`bool`):
            Whether the tokenizer itself needs the residues with spaces between them (`"M K T"`), as ProtBert's does.
    """

    ids: np.ndarray = field(hash=False, compare=False)
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    spaced: bool

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> "ByteTable":
        """Read the table off a tokenizer, and make sure that the tokenizer gives the same ids.

        Args:
            tokenizer (`PreTrainedTokenizerBase`):
                Any tokenizer that reads one residue as one token, with or without spaces between them.

        Returns:
            `ByteTable`

        Raises:
            `ValueError`: If the tokenizer lacks a standard residue, reads residues otherwise, or has no unknown token.
        """
        unknown = _required_token_id(tokenizer, "unk")
        vocabulary = tokenizer.get_vocab()
        _check_residues(vocabulary)
        ids = np.array([vocabulary.get(chr(byte), unknown) for byte in range(256)], dtype=np.int64)
        ids[np.isin(ids, tokenizer.all_special_ids)] = unknown  # a character of a file is no padding and no mask
        ids[list(string.ascii_lowercase.encode())] = ids[list(string.ascii_uppercase.encode())]
        ids[list(_WHITE_SPACE.encode())] = IGNORED_BYTE
        ids.setflags(write=False)
        prefix, suffix = _surrounding_tokens(tokenizer, ids[ord("A")])
        return cls(ids, prefix, suffix, spaced=_needs_spaces(tokenizer, ids))

    def encode(self, sequence: str) -> np.ndarray:
        """Encode a protein.

        Args:
            sequence (`str`):
                The protein, in either case; white space is ignored and every unknown character gives one unknown
                token.

        Returns:
            `np.ndarray`: `(residues,)` int64 token ids, without special tokens.
        """
        # "replace" turns what is not Latin-1 into "?"
        ids = self.ids[np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)]
        return ids[ids != IGNORED_BYTE] if not sequence.isalpha() else ids


def _surrounding_tokens(tokenizer: PreTrainedTokenizerBase, residue: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer puts before and after a protein of the one residue A."""
    ids = list(tokenizer("A", verbose=False)["input_ids"])
    if ids.count(residue) != 1:
        raise ValueError(
            "the tokenizer does not encode the residue A as one token between special tokens; it gives "
            f"{tokenizer.convert_ids_to_tokens(ids)}"
        )
    place = ids.index(residue)
    return tuple(ids[:place]), tuple(ids[place + 1 :])


def _needs_spaces(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> bool:
    """Whether the tokenizer gives one token for each residue only if there are spaces between them."""
    vocabulary = tokenizer.get_vocab()
    letters = [letter for letter in STANDARD_RESIDUES + AMBIGUOUS_RESIDUES if letter in vocabulary]
    # every letter beside every other, so that a tokenizer which has merged any two of them is found out
    proteins = ["".join(first + second for second in letters) for first in letters]
    wanted = [ids[list(protein.encode())].tolist() for protein in proteins]
    for spaced, separator in ((False, ""), (True, " ")):
        texts = [separator.join(protein) for protein in proteins]
        # not verbose: a short model_max_length is no matter of this look
        given = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        if [list(row) for row in given] == wanted:
            return spaced
    row = next(index for index, row in enumerate(given) if list(row) != wanted[index])
    raise ValueError(
        f"the tokenizer does not read one residue as one token, with or without spaces: {proteins[row][:4]}... "
        f"becomes {tokenizer.convert_ids_to_tokens(list(given[row][:4]))}"
    )
