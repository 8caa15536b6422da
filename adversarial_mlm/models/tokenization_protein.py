"""Tokens of proteins: TAPE's vocabulary as a fast tokenizer, the residues of any tokenizer, and a fast byte table.

- [`build_protein_tokenizer`] returns a HuggingFace fast tokenizer with TAPE's 30-token IUPAC vocabulary. It is saved
  with the model, and `AutoTokenizer.from_pretrained` loads it without this package.
- [`ResidueVocabulary`] tells which tokens of a tokenizer are residues.
- [`ByteTable`] replaces any tokenizer with one token per residue by a table from letters to ids, which is many times
  faster. The data collators use only this table.

The table and its tokenizer differ in one respect. The tokenizer reads `<mask>` in a sequence as the mask token, which
a fill-mask pipeline needs (`"MK<mask>T"`). The table reads it as six characters (`<unk> M A S K <unk>`), because
sequences in files contain no masks.
"""

import json
import os
import string
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.tokenization_utils_base import TOKENIZER_CONFIG_FILE

from adversarial_mlm.utils.arguments import check_class
from adversarial_mlm.utils.atomic_files import replace_text
from adversarial_mlm.utils.errors import CorpusError, shorten

__all__ = [
    "AMBIGUOUS_RESIDUES",
    "IGNORED_BYTE",
    "STANDARD_RESIDUES",
    "VOCABULARY",
    "ByteTable",
    "ResidueVocabulary",
    "build_protein_tokenizer",
    "save_tokenizer",
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
"""The 30 tokens of TAPE; the index of a token is its id."""

STANDARD_RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
"""The 20 standard amino acids."""

AMBIGUOUS_RESIDUES = "BZXUO"
"""Residues that are rare or not one of the 20: Asx, Glx, any residue, selenocysteine and pyrrolysine."""

IGNORED_BYTE = -1
"""Entry of a [`ByteTable`] for white space, which has no token."""


def build_protein_tokenizer(model_max_length: int = 512) -> PreTrainedTokenizerFast:
    """Build the tokenizer of TAPE's IUPAC vocabulary: one token per residue, `<cls> residues <sep>`.

    Lower-case letters become upper-case, and ASCII white space is ignored. Any other character outside the vocabulary
    becomes one `<unk>`. Padding and truncation are on the right. The tokenizer returns `input_ids` and
    `attention_mask`. Decoding joins the letters without spaces.

    Args:
        model_max_length (`int`, *optional*, defaults to 512):
            Longest row in tokens after `truncation=True`, with `<cls>` and `<sep>`.

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
    # BPE without merges splits into single characters, several times faster than WordLevel after a Split
    model = models.BPE(vocab=token_ids, merges=[], unk_token=_SPECIAL_TOKENS["unk_token"], fuse_unk=False)
    backend = Tokenizer(model)
    # the library has no upper-case normalizer; special tokens such as "<mask>" are separated before this runs
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


def save_tokenizer(
    tokenizer: PreTrainedTokenizerBase, folder: str | os.PathLike, model_max_length: int | None = None
) -> None:
    """Write a tokenizer that Transformers 4 can load, too, unless it has a class of its own.

    Transformers 5 names the class of a fast tokenizer `TokenizersBackend`. Version 4 only knows the old name,
    `PreTrainedTokenizerFast`, and version 5 accepts it.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Any tokenizer.
        folder (`str`):
            Exists.
        model_max_length (`int`, *optional*):
            The length in tokens with which the encoder was trained, to which `truncation=True` cuts; by default the
            tokenizer's own. The tokenizer itself does not change.
    """
    tokenizer.save_pretrained(folder)
    path = Path(folder, TOKENIZER_CONFIG_FILE)
    found = json.loads(path.read_text(encoding="utf-8"))
    settings = {**found} if model_max_length is None else {**found, "model_max_length": model_max_length}
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    if settings != found:
        replace_text(path, json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class ResidueVocabulary:
    """The residues and special tokens of a tokenizer, as ids.

    Attributes:
        vocab_size (`int`):
            Largest id + 1, with added tokens.
        pad_token_id (`int`):
            Id of the padding token.
        mask_token_id (`int`):
            Id of the mask token.
        unk_token_id (`int`, *optional*):
            Id of the unknown token; `None` if the tokenizer has none.
        residue_ids (`tuple[int, ...]`):
            Ids that may be masked: `STANDARD_RESIDUES` in this order, then those `AMBIGUOUS_RESIDUES` that are tokens.
        replacement_ids (`tuple[int, ...]`):
            Ids that may replace a residue: `STANDARD_RESIDUES` in this order.
        residue_letters (`dict[int, str]`):
            Letter of each id in `residue_ids`, in the same order.
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
        """Read the vocabulary of a tokenizer with one token per residue.

        Args:
            tokenizer (`PreTrainedTokenizerBase`):
                From [`build_protein_tokenizer`], or another one such as ESM's.

        Returns:
            `ResidueVocabulary`: Its residues and special tokens.

        Raises:
            `ValueError`: If the tokenizer lacks a mask token, a padding token or a standard residue.
        """
        check_class("tokenizer", tokenizer, PreTrainedTokenizerBase)
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
    """A table from letters to the token ids of a tokenizer.

    Attributes:
        ids (`np.ndarray` of shape `(256,)`, int64, read-only):
            Token id of each Latin-1 byte; [`IGNORED_BYTE`] for white space. Lower-case letters have the ids of
            upper-case ones. Bytes without a token have the id of the unknown token.
        prefix (`tuple[int, ...]`):
            Special tokens that the tokenizer puts before a protein.
        suffix (`tuple[int, ...]`):
            Special tokens that the tokenizer puts after a protein.
        spaced (`bool`):
            Whether the tokenizer needs spaces between residues (`"M K T"`), as ProtBert's does.
    """

    ids: np.ndarray = field(hash=False, compare=False)
    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    spaced: bool

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> "ByteTable":
        """Make the table of a tokenizer, and check that both give the same ids.

        Args:
            tokenizer (`PreTrainedTokenizerBase`):
                Any tokenizer with one token per residue, with or without spaces between residues.

        Returns:
            `ByteTable`

        Raises:
            `ValueError`: If the tokenizer has no unknown token, or does not have one token per residue.
        """
        check_class("tokenizer", tokenizer, PreTrainedTokenizerBase)
        unknown = _required_token_id(tokenizer, "unk")
        vocabulary = tokenizer.get_vocab()
        _check_residues(vocabulary)
        ids = np.array([vocabulary.get(chr(byte), unknown) for byte in range(256)], dtype=np.int64)
        ids[np.isin(ids, tokenizer.all_special_ids)] = unknown  # no character in a file is a special token
        ids[list(string.ascii_lowercase.encode())] = ids[list(string.ascii_uppercase.encode())]
        ids[list(_WHITE_SPACE.encode())] = IGNORED_BYTE
        ids.setflags(write=False)
        prefix, suffix = _surrounding_tokens(tokenizer, ids[ord("A")])
        return cls(ids, prefix, suffix, spaced=_needs_spaces(tokenizer, ids))

    def encode(self, sequence: str) -> np.ndarray:
        """Encode a protein.

        Args:
            sequence (`str`):
                The protein, in upper or lower case. White space is ignored; each unknown character becomes one
                unknown token.

        Returns:
            `np.ndarray`: `(residues,)` int64 token ids, without special tokens.

        Raises:
            [`CorpusError`]: If the sequence is not text.
        """
        if not isinstance(sequence, str):
            raise CorpusError(f"a sequence must be text, but is {shorten(str(sequence)[:200])}.")
        # "replace" turns characters outside Latin-1 into "?"
        ids = self.ids[np.frombuffer(sequence.encode("latin-1", "replace"), dtype=np.uint8)]
        return ids[ids != IGNORED_BYTE] if not sequence.isalpha() else ids


def _surrounding_tokens(tokenizer: PreTrainedTokenizerBase, residue: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens that the tokenizer puts before and after a protein."""
    ids = list(tokenizer("A", verbose=False)["input_ids"])
    if ids.count(residue) != 1:
        raise ValueError(
            "the tokenizer does not encode the residue A as one token between special tokens; it gives "
            f"{tokenizer.convert_ids_to_tokens(ids)}"
        )
    position = ids.index(residue)
    return tuple(ids[:position]), tuple(ids[position + 1 :])


def _needs_spaces(tokenizer: PreTrainedTokenizerBase, ids: np.ndarray) -> bool:
    """Whether the tokenizer needs spaces between residues to give one token for each."""
    vocabulary = tokenizer.get_vocab()
    letters = [letter for letter in STANDARD_RESIDUES + AMBIGUOUS_RESIDUES if letter in vocabulary]
    # all pairs of letters, to find tokenizers that merge some of them
    proteins = ["".join(first + second for second in letters) for first in letters]
    wanted = [ids[list(protein.encode())].tolist() for protein in proteins]
    for spaced, separator in ((False, ""), (True, " ")):
        texts = [separator.join(protein) for protein in proteins]
        # verbose=False: no warning if the row is longer than model_max_length
        given = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        if [list(row) for row in given] == wanted:
            return spaced
    row = next(index for index, row in enumerate(given) if list(row) != wanted[index])
    raise ValueError(
        f"the tokenizer does not read one residue as one token, with or without spaces: {proteins[row][:4]}... "
        f"becomes {tokenizer.convert_ids_to_tokens(list(given[row][:4]))}"
    )
