"""Read one value of a record: a sequence, a number, a class, or the classes of residues.

A function that cannot read a value raises a `ValueError` whose message completes the sentence 'column "..." ...'. The
caller adds file, record and column. A missing value (empty, null, NA, NaN, ...) is `None`, whatever was asked for.
"""

import json
import math
import re
from collections.abc import Collection
from decimal import Decimal
from typing import Any

import numpy as np

from adversarial_mlm.data.cleaning import is_missing as is_missing_text
from adversarial_mlm.data.cleaning import sequence_text
from adversarial_mlm.models.tokenization_protein import VOCABULARY
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import shorten

UNSEEN_LABEL = -1
"""Label of a class that train lacks: it counts, and is always wrong."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)

# TAPE's first release uses numbers of a 29-token vocabulary: that of the tokenizer without <unk>.
_OLD_VOCABULARY = tuple(token for token in VOCABULARY if token != "<unk>")
_FIRST_RESIDUE = next(index for index, token in enumerate(_OLD_VOCABULARY) if len(token) == 1)

# not "007", which may be a code; but "1.0", because pandas writes whole numbers so next to missing values
_WHOLE_NUMBER = re.compile(r"([+-]?)(0|[1-9][0-9]*)(?:\.0*)?")
_IGNORED_NAME = "-100"

_MASK_VALUES = {"0": False, "1": True, "False": False, "True": True}

# items and separators of a list as text
_LIST_PARTS = re.compile(r"\"[^\"]*\"|'[^']*'|[^\s,;]+|[,;]")
# what R, numpy and PyTorch write around a list
_CALL = re.compile(
    r"(?:c|list|tuple|(?:np\.|numpy\.)?array|(?:torch\.)?tensor)\((.*?)(?:,\s*dtype\s*=[^()\[\]]*)?\)", re.S
)


def read_sequence(value: Any) -> str:
    """Read a sequence: text, a list of letters, or token numbers of TAPE's first release (29 tokens)."""
    value = to_python(value)
    if not isinstance(value, list) or not value or not all(type(item) is int for item in value):
        return sequence_text(value)
    wrong = [item for item in value if not _FIRST_RESIDUE <= item < len(_OLD_VOCABULARY)]
    if wrong:
        raise ValueError(
            f"contains the number {wrong[0]} in a sequence, but the numbers of residues in TAPE's vocabulary of "
            f"{len(_OLD_VOCABULARY)} tokens are {_FIRST_RESIDUE} to {len(_OLD_VOCABULARY) - 1}"
        )
    return "".join(_OLD_VOCABULARY[item] for item in value)


def read_text(value: Any) -> str | None:
    """Read an id or a remark as text, without characters that Arrow cannot store."""
    value = _unwrap(value)
    return None if value is None else str(value).encode("utf-8", "replace").decode("utf-8")


def read_words(value: Any) -> str:
    """Read a text, or a list of texts, which are joined by white space; a missing value is empty."""
    value = to_python(value)
    if isinstance(value, list):
        return " ".join(str(to_python(item)) for item in value)
    return "" if is_missing(value) else str(value)


def read_whole_number(value: Any) -> int | None:
    """Read a remark that is a 32-bit whole number."""
    text = read_text(value)
    if text is None or is_missing(_unwrap(value)):
        return None
    try:
        number = _parse_number(text)
    except ValueError:
        number = math.nan
    if not number.is_integer() or abs(number) >= 2**31:
        raise ValueError(f"contains {shorten(text)}, but must contain a whole number of 32 bits")
    return int(number)


def read_number(value: Any) -> float | None:
    """Read a regression target: a finite number, a number as text, or a list of one; `None` if it is missing."""
    value = _unwrap_label(value)
    if is_missing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(f"contains {_quoted(value)}, but must contain one number")
    try:
        number = _parse_number(value) if isinstance(value, str) else float(value)
    except (ValueError, OverflowError):
        hint = ""
        if isinstance(value, str) and "," in value:
            hint = " with a decimal point, such as 0.5, and without commas"
        raise ValueError(f"contains {_quoted(value)}, but must contain a number{hint}") from None
    if not math.isfinite(number) or abs(number) > _FLOAT32_MAX:
        raise ValueError(f"contains {number!r}, but must contain a finite number of 32 bits")
    return number


def _parse_number(text: str) -> float:
    if "_" in text:  # Python reads 1_2 as 12
        raise ValueError(text)
    return float(text.replace("\N{MINUS SIGN}", "-"))


def read_class(value: Any) -> str | None:
    """Read the name of a class: text, a whole number, or a list of one. `None` if it is missing or -100."""
    name = _class_name(_unwrap_label(value))
    return None if name == _IGNORED_NAME else name


def read_residue_classes(value: Any, residues: int, missing: Collection[str] = ()) -> list[str | None] | None:
    """Read the classes of residues; `None` if there is no value.

    The value is a list of names or numbers, also as text (JSON, or as Python, numpy or R write it), or a text with one
    letter for each residue. White space between letters does not count.

    Args:
        value: The value as found in a table.
        residues (`int`): The number of residues. It decides whether `"HH EC"` is two names or four letters.
        missing (`Collection[str]`, *optional*): Names that mark residues without a class, besides missing values and
            -100. These residues become `None`.
    """
    value = to_python(value)
    if is_missing(value):
        return None
    if isinstance(value, str):
        text = value.strip()
        if _is_list(text):
            value = _items(text)
            if len(value) == residues - 1 and text[-1] in ",;":
                value.append(None)  # the last residue has no label
        else:
            words = text.split()
            value = words if len(words) == residues else list("".join(words))
    if not isinstance(value, list):
        raise ValueError(f"contains {_quoted(value)}, but must contain a list")
    unlabelled = {_IGNORED_NAME, *missing}
    names = map(_class_name, value)
    return [None if name in unlabelled else name for name in names]


def read_mask(value: Any) -> np.ndarray | None:
    """Read a mask of the residues that count: ones and zeros, or true and false; `None` if there is none.

    The value is a list, also as text (JSON, or as Python, numpy or R write it), or a text of ones and zeros.
    """
    value = to_python(value)
    if is_missing(value):
        return None
    if isinstance(value, str):
        text = value.strip()
        if _is_list(text):
            value = _items(text)
        else:
            words = text.split()
            value = list("".join(words)) if set("".join(words)) <= set("01") else words
    if not isinstance(value, list):
        raise ValueError(f"contains {_quoted(value)}, but must contain a list of ones and zeros")
    mask = np.empty(len(value), dtype=bool)
    for index, item in enumerate(value):
        try:
            mask[index] = _MASK_VALUES[_class_name(item) or ""]
        except (KeyError, ValueError):
            raise ValueError(f"contains {_quoted(item)}, but must contain only ones and zeros") from None
    return mask


def read_mark(value: Any) -> bool | None:
    """Read a mark of a row: true or false, false if it is missing; `None` if it is anything else."""
    if is_missing(value):
        return False
    return _MASK_VALUES.get(str(value).strip().capitalize())


def sorted_classes(names: set[str]) -> list[str]:
    """Sort class names: by number if all are whole numbers, else by text."""
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(names)


def _class_name(value: Any) -> str | None:
    """Return the name of a class, the same one for `0`, `0.0`, `"0"` and `"0.0"`; `None` if it is missing."""
    if type(value) is int or (isinstance(value, str) and len(value) == 1 and value.isascii() and not value.isspace()):
        return str(value)
    value = to_python(value)
    if is_missing(value):
        return None
    if isinstance(value, float | Decimal) and -(2**63) < value < 2**63 and value == int(value):
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"contains {_quoted(value)}, but must contain the name or number of a class")
    text = value.strip().encode("utf-8", "replace").decode("utf-8")
    if text.lower() in ("true", "false"):
        return text.capitalize()
    whole = _WHOLE_NUMBER.fullmatch(text)
    if whole is None:
        return text
    return "-" * (whole[1] == "-" and whole[2] != "0") + whole[2]


def _is_list(text: str) -> bool:
    """Whether a text is a list of names, and not one letter for each residue, which may be a bracket."""
    words = text.split()
    in_brackets = text.startswith("(") and len(words) > 1 and max(map(len, words)) > 1
    return in_brackets or text.startswith("[") or bool(re.search("[,;]", text) or _CALL.fullmatch(text))


def _items(text: str) -> list[Any]:
    """Split a list as text: JSON, or items that are separated by commas, semicolons or white space."""
    call = _CALL.fullmatch(text)
    if call and call[1].strip():
        # R writes whole numbers as 7L
        text = re.sub(r"(?<=[0-9])L\b", "", call[1].strip()) if text.startswith("c(") else call[1].strip()
    if text.startswith("["):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list):
            return found
    inner = text[1:-1] if text[0] + text[-1] in ("[]", "()") else text
    if "..." in inner or "\N{HORIZONTAL ELLIPSIS}" in inner:
        raise ValueError(f"contains {shorten(text)}, a list that was shortened with dots")
    parts = _LIST_PARTS.findall(inner)
    if any(part[0] not in "\"'" and not _is_balanced(part) for part in parts):
        raise ValueError(f"contains {shorten(text)}, which is not a list")
    if "," not in parts and ";" not in parts:
        return list(map(_unquote, parts))
    items: list[str | None] = []
    words: list[str] = []
    for part in parts:
        if part in (",", ";"):
            items.append(" ".join(words) or None)
            words = []
        else:
            words.append(_unquote(part))
    return [*items, " ".join(words)] if words else items


def _is_balanced(text: str) -> bool:
    """Whether every bracket of a name has its partner in it; a list that was not understood has some that have not."""
    return text[0] not in "[]{}" and all(text.count(one) == text.count(other) for one, other in ("()", "[]", "{}"))


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def is_missing(value: Any) -> bool:
    """Whether a value says that nothing is known: None, NaN, or a text such as `NA` (see [`is_missing_text`])."""
    if isinstance(value, str):
        return is_missing_text(value)
    if isinstance(value, Decimal):
        return value.is_nan()
    return value is None or (isinstance(value, float) and math.isnan(value))


def to_python(value: Any) -> Any:
    """Convert arrays to lists, scalars of numpy to Python's, and bytes to text."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list) and any(isinstance(item, bytes) for item in value):
        value = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _unwrap(value: Any) -> Any:
    """Unpack a list of one value, as TAPE writes targets."""
    value = to_python(value)
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(f"contains a list of {count(len(value), 'value')}, but must contain one")
        return to_python(value[0])
    return value


def _unwrap_label(value: Any) -> Any:
    """Unpack a list of one value, also as text such as `"[0.5]"`."""
    value = to_python(value)
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value  # the name of a class may begin with a bracket
    return _unwrap(value)


def _quoted(value: Any) -> str:
    return shorten(str(value)[:200])
