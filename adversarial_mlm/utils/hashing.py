"""Hashes: checksums of files, arrays and weights, fingerprints of plain data, and random orders of names.

Names of cached files, manifests and results on users' disks contain these values, so they must never change. A
checksum has 64 hexadecimal digits of SHA-256. A fingerprint has the first of these digits.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def file_checksum(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        OSError: If the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_checksum(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's values in memory, without shape and dtype."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def state_checksum(state: "Mapping[str, torch.Tensor]") -> str:
    """Return the SHA-256 of the names, shapes and values of tensors on the CPU, independent of their order."""
    import torch  # the import takes seconds, and reading a corpus does not need it

    def parts() -> Iterable[str | bytes | memoryview]:
        for name, tensor in sorted(state.items()):
            yield f"{name} {tuple(tensor.shape)} "
            yield tensor.contiguous().view(torch.uint8).numpy().data if tensor.ndim else str(tensor.item())

    return fingerprint_of_parts(parts(), digits=64)


def fingerprint(content: Any, digits: int = 32) -> str:
    """Return hexadecimal digits that depend on plain data, but not on the order of the keys of a `dict`.

    Args:
        content: Any value that JSON supports. Other objects are hashed by their `str`.
        digits (`int`, *optional*, defaults to 32): At most 64.
    """
    return fingerprint_of_parts([json.dumps(content, sort_keys=True, default=str)], digits)


def fingerprint_of_parts(parts: Iterable[str | bytes | memoryview], digits: int = 32) -> str:
    """Return hexadecimal digits that depend on texts and bytes, joined without separators.

    Args:
        parts: Texts or bytes. They are read one after the other, which saves memory for large data.
        digits (`int`, *optional*, defaults to 32): At most 64.
    """
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()[:digits]


def random_key(seed: int, name: str, size: int = 64) -> bytes:
    """Return a key to sort names into a random order. The order of two names does not depend on other names.

    Args:
        seed (`int`): Seed of the order.
        name (`str`): The name to sort.
        size (`int`, *optional*, defaults to 64): Bytes of the key, 1 to 64. The order depends on it.
    """
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=size).digest()
