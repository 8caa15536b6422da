"""Read one value of a record: a sequence, a number, a class, or the classes of residues.

A function that cannot read a value raises a `ValueError` whose message completes the sentence 'column "..." ...'. The
caller adds file, record and column.
"""

import json
import math
from typing import Any

import numpy as np

from adversarial_mlm.models.tokenization_protein import VOCABULARY
from adversarial_mlm.utils.errors import shorten

UNSEEN_LABEL = -1
"""Label of a class that train lacks: it counts, and is always wrong."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)

# TAPE's first release uses numbers of a 29-token vocabulary: that of the tokenizer without <unk>.
_OLD_VOCABULARY = tuple(token for token in VOCABULARY if token != "<unk>")
_FIRST_RESIDUE = next(index for index, token in enumerate(_OLD_VOCABULARY) if len(token) == 1)


def read_sequence(value: Any) -> str:
    """Read a sequence: text, a list of letters, or token numbers of TAPE's first release (29 tokens)."""
    value = _to_python(value)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "".join(value)
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise ValueError(f"contains {shorten(str(value)[:200])}, but must contain a sequence")
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


def read_whole_number(value: Any) -> int | None:
    """Read a remark that is a 32-bit whole number."""
    text = read_text(value)
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer() or abs(number) >= 2**31:
        raise ValueError(f"contains {shorten(text)}, but must contain a whole number of 32 bits")
    return int(number)


def read_number(value: Any) -> float:
    """Read a regression target: a finite number, a number as text, or a list of one."""
    value = _unwrap(value)
    if value is None or value == "":
        raise ValueError("is empty")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"contains {shorten(str(value)[:200])}, but must contain one number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"contains {shorten(str(value)[:200])}, but must contain a number") from None
    if not math.isfinite(number) or abs(number) > _FLOAT32_MAX:
        raise ValueError(f"contains {number!r}, but must contain a finite number of 32 bits")
    return number


def read_class(value: Any) -> str:
    """Read the name of a class: text, a whole number, or a list of one."""
    value = _unwrap(value)
    if value is None or value == "":
        raise ValueError("is empty")
    return _class_name(value)


def read_residue_classes(value: Any, missing: tuple[int, ...]) -> list[str | None]:
    """Read the classes of residues: a text with one letter each, or a list of names or numbers (also as JSON text).

    None and the numbers in `missing` mark residues without a class, and become None.
    """
    value = _to_python(value)
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"contains {shorten(value)}, which is not a list") from None
    if isinstance(value, str):
        return list(value)
    if not isinstance(value, list):
        raise ValueError("is empty" if value is None else f"contains {shorten(str(value))}, but must contain a list")
    return [None if item is None or item in missing else _class_name(item) for item in value]


def read_mask(value: Any) -> np.ndarray | None:
    """Read a mask of the residues that count: ones and zeros in a list or a text; None if there is none."""
    value = _to_python(value)
    if value is None:
        return None
    if isinstance(value, str):
        value = [{"0": 0, "1": 1}.get(letter) for letter in value]
    if not isinstance(value, list) or not all(item in (0, 1) for item in value):
        raise ValueError("must contain only ones and zeros")
    return np.array(value, dtype=bool)


def sorted_classes(names: set[str]) -> list[str]:
    """Sort class names: by number if all are whole numbers, else by text."""
    try:
        return sorted(names, key=int)
    except ValueError:
        return sorted(names)


def _class_name(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and value.strip().lower() not in ("", "nan"):
        return value.strip().encode("utf-8", "replace").decode("utf-8")
    if not isinstance(value, int):
        raise ValueError(f"contains {shorten(str(value)[:200])}, but must contain the name or number of a class")
    return str(value)


def _to_python(value: Any) -> Any:
    """Convert arrays to lists, and bytes to text."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        value = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _unwrap(value: Any) -> Any:
    """Unpack a list of one value, as TAPE writes targets."""
    value = _to_python(value)
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(f"contains a list of {len(value)} values, but must contain one")
        return _to_python(value[0])
    return value
