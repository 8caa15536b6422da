"""One value of a record: to a sequence, a number, a class, or the classes of residues.

A function here that cannot read a value raises a `ValueError` whose message completes the sentence 'column "..." ...';
the caller knows file, record and column, and says them.
"""

import json
import math
from typing import Any

import numpy as np

from adversarial_mlm.models.tokenization_protein import VOCABULARY
from adversarial_mlm.utils.errors import shorten

UNSEEN_LABEL = -1
"""Label of a class that train never saw: scored, and never right."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)

# The files of TAPE's first release hold numbers of a vocabulary of 29 tokens: that of the tokenizer without <unk>.
_OLD_VOCABULARY = tuple(token for token in VOCABULARY if token != "<unk>")
_FIRST_RESIDUE = next(index for index, token in enumerate(_OLD_VOCABULARY) if len(token) == 1)


def read_sequence(value: Any) -> str:
    """Read a sequence: text, a list of letters, or numbers of the 29-token vocabulary of TAPE's first release."""
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return "".join(value)
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise ValueError(f"holds {shorten(str(value)[:200])} where a sequence must stand")
    wrong = [item for item in value if not _FIRST_RESIDUE <= item < len(_OLD_VOCABULARY)]
    if wrong:
        raise ValueError(
            f"holds the number {wrong[0]} in a sequence, but the numbers of residues in TAPE's vocabulary of "
            f"{len(_OLD_VOCABULARY)} tokens are {_FIRST_RESIDUE} to {len(_OLD_VOCABULARY) - 1}"
        )
    return "".join(_OLD_VOCABULARY[item] for item in value)


def read_text(value: Any) -> str | None:
    """Read an id or a remark as text, without the characters that JSON can spell and Arrow cannot hold."""
    value = _unwrap(value)
    return None if value is None else str(value).encode("utf-8", "replace").decode("utf-8")


def read_whole_number(value: Any) -> int | None:
    """Read a remark that is a whole number of 32 bits."""
    text = read_text(value)
    try:
        number = None if text in (None, "") else float(text)
    except ValueError:
        number = math.nan
    if number is not None and (not number.is_integer() or abs(number) >= 2**31):
        raise ValueError(f"holds {shorten(text)} where a whole number must stand")
    return None if number is None else int(number)


def read_number(value: Any) -> float:
    """Read the target of a regression: a finite number, its text, or a list of one."""
    value = _unwrap(value)
    if value is None or value == "":
        raise ValueError("is empty")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"holds {shorten(str(value)[:200])} where one number must stand")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise ValueError(f"holds {shorten(str(value)[:200])} where a number must stand") from None
    if not math.isfinite(number) or abs(number) > _FLOAT32_MAX:
        raise ValueError(f"holds {number!r}, which is not a finite number of 32 bits")
    return number


def read_class(value: Any) -> str:
    """Read the name of a class: text, a whole number, or a list of one."""
    value = _unwrap(value)
    if value is None or value == "":
        raise ValueError("is empty")
    return _class_name(value)


def read_residue_classes(value: Any, missing: tuple[int, ...]) -> list[str | None]:
    """Read the classes of the residues: text of one letter each, or a list of names or numbers (also as JSON text).

    None and the numbers in `missing` stand for residues without a class, and become None.
    """
    value = _plain(value)
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise ValueError(f"holds {shorten(value)}, which is not a list") from None
    if isinstance(value, str):
        return list(value)
    if not isinstance(value, list):
        raise ValueError("is empty" if value is None else f"holds {shorten(str(value))} where a list must stand")
    return [None if item is None or item in missing else _class_name(item) for item in value]


def read_mask(value: Any) -> np.ndarray | None:
    """Read which residues count: ones and zeros in a list or a text; None if it is not known."""
    value = _plain(value)
    if value is None:
        return None
    if isinstance(value, str):
        value = [{"0": 0, "1": 1}.get(letter) for letter in value]
    if not isinstance(value, list) or not all(item in (0, 1) for item in value):
        raise ValueError("holds something else than ones and zeros")
    return np.array(value, dtype=bool)


def sorted_classes(names: set[str]) -> list[str]:
    """Put class names in order: by number if all are whole numbers, else by text."""
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
        raise ValueError(f"holds {shorten(str(value)[:200])} where the name or number of a class must stand")
    return str(value)


def _plain(value: Any) -> Any:
    """Turn arrays into lists, and bytes into text."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list) and value and isinstance(value[0], bytes):
        value = [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _unwrap(value: Any) -> Any:
    """Take the value out of a list of one, as TAPE writes targets."""
    value = _plain(value)
    if isinstance(value, list):
        if len(value) != 1:
            raise ValueError(f"holds a list of {len(value)} values where one must stand")
        return _plain(value[0])
    return value
