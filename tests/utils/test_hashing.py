"""The values are on users' disks, in names of cached files, manifests and results: these tests hold them."""

import hashlib
from datetime import date

import numpy as np
import pytest
import torch

from adversarial_mlm.utils.hashing import (
    array_checksum,
    file_checksum,
    fingerprint,
    fingerprint_of_parts,
    random_key,
    state_checksum,
)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_file_checksum(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(content := b"MKV" * 100_000)
    assert file_checksum(path) == file_checksum(str(path)) == sha256(content)
    with pytest.raises(FileNotFoundError):
        file_checksum(tmp_path / "b")


def test_array_checksum_is_of_the_values_in_row_order():
    array = np.arange(6, dtype="<i4").reshape(2, 3)
    assert array_checksum(array) == sha256(array.tobytes())
    assert array_checksum(array.T) == sha256(array.T.copy().tobytes())
    assert array_checksum(array[:, ::2]) == sha256(array[:, ::2].tobytes())


def test_state_checksum():
    state = {"w": torch.arange(6.0).reshape(2, 3), "s": torch.tensor(3)}
    found = state_checksum(state)
    assert found == "1c8beff63c4d26b1769002a97fda5734f1439b2907b478a11a576955943a3421"
    assert state_checksum(dict(reversed(state.items()))) == found
    assert state_checksum({**state, "w": state["w"].reshape(3, 2)}) != found
    assert state_checksum({**state, "w": state["w"] + 1}) != found
    halves = state["w"].bfloat16()
    assert state_checksum({"w": halves}) == sha256(b"w (2, 3) " + halves.view(torch.int16).numpy().tobytes())


def test_fingerprint_of_plain_data():
    content = {"b": [1, 2.5, None], "a": {"x": date(2024, 1, 2)}}
    text = b'{"a": {"x": "2024-01-02"}, "b": [1, 2.5, null]}'
    assert fingerprint(content) == sha256(text)[:32]
    assert fingerprint({"a": content["a"], "b": content["b"]}, digits=16) == sha256(text)[:16]
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_fingerprint_of_parts():
    parts = ["MKV\n", b"\x00\x01", memoryview(np.arange(3))]
    whole = b"MKV\n\x00\x01" + np.arange(3).tobytes()
    assert fingerprint_of_parts(iter(parts)) == sha256(whole)[:32]
    assert fingerprint_of_parts(parts, digits=64) == sha256(whole)
    assert fingerprint_of_parts([]) == sha256(b"")[:32]


def test_random_key():
    names = list("abcdefgh")
    assert random_key(7, "a", size=16) == hashlib.blake2b(b"7:a", digest_size=16).digest()
    assert len(random_key(7, "a")) == 64
    order = sorted(names, key=lambda name: random_key(1, name))
    assert order != names and order != sorted(names, key=lambda name: random_key(2, name))
    assert [name for name in order if name in "aceg"] == sorted("aceg", key=lambda name: random_key(1, name))
