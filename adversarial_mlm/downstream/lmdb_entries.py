"""Read entries of TAPE's LMDB folders, which are pickles, without executing code from them.

A pickle is a program. [`load_plain`] runs only the instructions that build plain values, and refuses all others. The
functions with which numpy pickles arrays are replaced by our own. They build arrays of numbers and text from bytes in
the pickle, and nothing else.
"""

import math
import pickle
import re
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any, ClassVar

import numpy as np

from adversarial_mlm.utils.errors import shorten

_MAX_BYTES = 64 * 2**20
_MAX_DEPTH = 16

_PLAIN_DTYPE = re.compile(r"[<>|=]?[biufSU?]\d{0,4}")
_ARRAY_CLASS = "numpy.ndarray"


def load_plain(data: bytes) -> Any:
    """Load a pickle of plain values: None, numbers, text, bytes, lists, tuples, dictionaries and numpy arrays.

    Args:
        data (`bytes`): the pickle, of any protocol, from Python 2 or 3 and numpy 1 or 2.

    Returns:
        The value. Tuples become lists, numpy scalars become Python values. Arrays contain numbers, booleans or text.

    Raises:
        `ValueError`: if the pickle is damaged, or contains or calls anything else; the message is the reason.
    """
    if len(data) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES // 2**20} MiB")
    try:
        value = _PlainUnpickler(BytesIO(data), encoding="latin1").load()
        return _Finisher(len(data)).finish(value, 0)
    except pickle.UnpicklingError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # other or damaged pickles raise errors of many classes
        raise ValueError(f"it is not a pickle of plain values ({type(error).__name__})") from error


class _DType:
    """Replaces `numpy.dtype` during unpickling."""

    def __init__(self, name: str, *_: Any):
        if not isinstance(name, str) or not _PLAIN_DTYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"it contains an array of the type {shorten(str(name))}")
        self.dtype = np.dtype(name)
        if self.dtype.itemsize == 0:
            raise pickle.UnpicklingError("it contains an array whose values have no size")

    def set_state(self, state: tuple) -> None:
        _, byte_order, base, names, fields, *_ = state
        if base is not None or names is not None or fields is not None:
            raise pickle.UnpicklingError("it contains an array of a composed type")
        self.dtype = self.dtype.newbyteorder(byte_order)


class _Array:
    """Replaces `numpy.ndarray` during unpickling."""

    def __init__(self):
        self.values: np.ndarray | None = None

    def set_state(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        self.fill(data, dtype, shape, "F" if is_fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
        data = _as_bytes(data)
        shape = shape if isinstance(shape, tuple) else (shape,)
        # bounded, because an array without values could otherwise become any number of empty lists
        if not all(type(side) is int and 0 <= side <= max(1, len(data)) for side in shape):
            raise pickle.UnpicklingError("it contains an array of an impossible shape")
        if type(dtype) is not _DType or math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise pickle.UnpicklingError("it contains an array whose data do not fit its shape and type")
        flat = np.frombuffer(data, dtype.dtype) if data else np.zeros(0, dtype.dtype)
        self.values = flat.reshape(shape, order=order)
        return self.values


def _as_bytes(data: Any) -> bytes:
    if isinstance(data, str):  # Python 2 has one type for text and bytes
        return data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("it contains an array of Python objects")
    return bytes(data)


def _new_array(array_class: Any, *_: Any) -> _Array:
    """Replace numpy's `_reconstruct`: return an array that the following state fills."""
    if array_class is not _ARRAY_CLASS:
        raise pickle.UnpicklingError("it contains an array of an unknown class")
    return _Array()


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.fill(data, dtype, shape, order)
    return array


def _scalar(dtype: Any, data: Any) -> Any:
    return _Array().fill(data, dtype, (1,), "C")[0].item()


def _encode(text: str, encoding: str) -> bytes:
    """Replace `codecs.encode`, with which the oldest protocols write bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it contains bytes in the encoding {shorten(str(encoding))}")
    return text.encode("latin-1")


def _new_bytes(data: bytes = b"") -> bytes:
    return _as_bytes(data)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ARRAY_CLASS,
    ("numpy", "dtype"): lambda *arguments: _DType(*arguments),
    ("_codecs", "encode"): _encode,
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1, numpy 2
    _ALLOWED[f"{_core}.multiarray", "_reconstruct"] = _new_array
    _ALLOWED[f"{_core}.multiarray", "scalar"] = _scalar
    _ALLOWED[f"{_core}.numeric", "_frombuffer"] = _array_from_buffer
for _builtins in ("builtins", "__builtin__"):
    _ALLOWED[_builtins, "bytes"] = _ALLOWED[_builtins, "bytearray"] = _new_bytes


# Python's own unpickler: instructions can be removed from it, and it allocates no memory for a large memo index, as
# the one in C does.
class _PlainUnpickler(pickle._Unpickler):
    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)
    for _instruction in (
        *(pickle.PERSID, pickle.BINPERSID, pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ),
        *(pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
    ):
        del dispatch[_instruction[0]]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {shorten(f'{module}.{name}')}, which is not allowed")
        return _ALLOWED[module, name]

    def _fill(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) not in (_Array, _DType):
            raise pickle.UnpicklingError("it fills something that is not an array")
        target.set_state(state)

    def _read_bytearray(self) -> None:
        # the original allocates the size that the pickle names before checking it
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(size))

    dispatch[pickle.BUILD[0]] = _fill
    dispatch[pickle.BYTEARRAY8[0]] = _read_bytearray


class _Finisher:
    """Convert what the unpickler has built into plain values, and refuse everything else."""

    def __init__(self, budget: int):
        # a value takes at least one byte; a small pickle could repeat a value until it is huge
        self.budget = budget

    def finish(self, value: Any, depth: int) -> Any:
        self.budget -= 1
        if depth > _MAX_DEPTH or self.budget < 0:
            raise pickle.UnpicklingError("its values are nested too deeply, or repeat each other endlessly")
        kind = type(value)
        if value is None or kind in (str, bytes, bool, float):
            return value
        if kind is int and abs(value) < 2**63:
            return value
        if kind is _Array and value.values is not None:
            return value.values
        if kind in (list, tuple):
            return [self.finish(item, depth + 1) for item in value]
        if kind is dict:
            return {self.finish(key, depth + 1): self.finish(item, depth + 1) for key, item in value.items()}
        raise pickle.UnpicklingError(f"it contains a value of the type {kind.__name__}")
