import builtins
import contextlib
import os
import pickle
import pickletools
import random
import struct
import tracemalloc

import numpy as np
import pytest

from adversarial_mlm.downstream.lmdb_entries import load_plain

RECORD = {
    "primary": "MKVLA",
    "id": b"1abc-A",
    "protein_length": 5,
    "large": 2**40,
    "score": 1.5,
    "nothing": None,
    "flags": [True, False],
    "pair": (1, "two"),
    "ss3": np.arange(5, dtype=np.int32) % 3,
    "profile": np.random.default_rng(0).random((5, 30)).astype(np.float32),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">i4"),
    "mask": np.array([True, False]),
    "names": np.array(["ab", "c"]),
    "bytes": np.array([b"ab", b"c"]),
    "empty": np.zeros(0),
    "numpy integer": np.int64(7),
    "numpy float": np.float32(0.5),
    "numpy text": np.str_("abc"),
}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert found[name].dtype == value.dtype, name
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        else:
            assert found[name] == (list(value) if isinstance(value, tuple) else value), name


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_and_arrays_come_back(protocol):
    assert_same(load_plain(pickle.dumps(RECORD, protocol=protocol)), RECORD)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_numpy_1_are_read(protocol):
    def old_names(data):
        # A name is a line in the old protocol, and preceded by its length in the new one.
        data = data.replace(b"numpy._core.", b"numpy.core.")
        return data.replace(b"\x8c\x16numpy.core.multiarray", b"\x8c\x15numpy.core.multiarray")

    record = {name: RECORD[name] for name in ("ss3", "profile", "numpy float")}
    data = old_names(pickle.dumps(record, protocol=protocol))
    assert b"numpy.core.multiarray" in data
    # The frame's length of protocol 4 changes with the names.
    if protocol == 4:
        data = data[:3] + struct.pack("<Q", len(data) - 11) + data[11:]
    assert_same(load_plain(data), record)


def test_pickles_of_python_2_are_read():
    assert load_plain(b"(dp0\nS'primary'\np1\nS'MKV'\np2\nsS'n'\nI3\ns.") == {"primary": "MKV", "n": 3}


class Call:
    """A pickle of this calls a function when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def object_array(item):
    array = np.empty(1, dtype=object)
    array[0] = item
    return array


# Each writes a file when it is loaded by pickle itself, which the test makes sure of.
HOSTILE = {
    "os.system": lambda path: Call(os.system, f"echo > '{path}'"),
    "eval": lambda path: Call(eval, f"open({str(path)!r}, 'w').close()"),
    "exec": lambda path: Call(exec, f"open({str(path)!r}, 'w').close()"),
    "open": lambda path: Call(builtins.open, str(path), "w"),
    "import": lambda path: Call(os.makedirs, str(path)),
    "numpy": lambda path: Call(np.save, str(path), 1.0),
    "inside a record": lambda path: {"primary": "MKV", "ss3": [1, (2, Call(os.makedirs, str(path)))]},
    "as a key": lambda path: {(1, Call(os.system, f"echo > '{path}'")): 1},
    "in an array of objects": lambda path: {"ss3": object_array(Call(os.makedirs, str(path)))},
    "in an array of records": lambda path: np.array(
        [(1, Call(os.makedirs, str(path)))], dtype=[("a", int), ("b", "O")]
    ),
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, name, protocol):
    control, target = tmp_path / "control.npy", tmp_path / "target.npy"
    pickle.loads(pickle.dumps(HOSTILE[name](control), protocol=protocol))
    assert control.exists(), "the payload works"
    with pytest.raises(ValueError, match="asks for|array of"):
        load_plain(pickle.dumps(HOSTILE[name](target), protocol=protocol))
    assert not target.exists()


GLOBAL_EVAL = b"cbuiltins\neval\n"

# What `pickle.dumps` would not write; each with the reason for which it is refused.
CRAFTED = {
    "instance by name": (b"(S'1+1'\nibuiltins\neval\n.", "not a pickle of plain values"),
    "object from the stack": (b"(" + GLOBAL_EVAL + b"S'1+1'\no.", "builtins.eval"),
    "an admitted function as an object": (b"(c_codecs\nencode\nS'a'\nS'latin1'\no.", "not a pickle of plain values"),
    "new object": (b"\x80\x02cbuiltins\nlist\n)\x81.", "builtins.list"),
    "extension registry": (b"\x80\x02\x82\x01.", "not a pickle of plain values"),
    "persistent id": (b"Pexternal\n.", "not a pickle of plain values"),
    "attribute of an admitted name": (b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.", "asks for"),
    "state of an admitted function": (
        b"\x80\x02c_codecs\nencode\n}\x8c\x0c__defaults__N\x85sb.",
        "fills something that is not an array",
    ),
    "an admitted function as the value": (b"\x80\x02c_codecs\nencode\n.", "type function"),
    "a set": (pickle.dumps({1, 2}), "type set"),
    "a class": (b"\x80\x02cbuiltins\nobject\n.", "builtins.object"),
    "another encoding": (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "rot13"),
    "huge buffer": (
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R.",
        "array of Python objects",
    ),
    "huge byte array": (b"\x80\x05\x96" + struct.pack("<Q", 2**38) + b".", "not a pickle of plain values"),
    "huge memo index": (b"\x80\x02Nr\xff\xff\xff\xff.", None),
    "huge integer": (pickle.dumps(10**6000), "type int"),
    "ends too early": (pickle.dumps(RECORD)[:-30], "not a pickle of plain values"),
    "nothing": (b"", "not a pickle of plain values"),
    "text": (b"primary,log_fluorescence", "not a pickle of plain values"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_pickles_are_refused_with_the_reason(name):
    data, reason = CRAFTED[name]
    if reason is None:  # harmless where memory is not reserved in advance
        assert load_plain(data) is None
        return
    with pytest.raises(ValueError, match=reason):
        load_plain(data)


def array_pickle(dtype="f4", shape=(2,), data=b"\0" * 8, state_of_dtype=None):
    """A pickle of an array with fields of choice."""

    class DType:
        def __reduce__(self):
            return np.dtype, (dtype, False, True), state_of_dtype or (3, "<", None, None, None, -1, -1, 0)

    class Array:
        def __reduce__(self):
            reconstruct = np.zeros(1).__reduce__()[0]
            return reconstruct, (np.ndarray, (0,), b"b"), (1, shape, DType(), False, data)

    return pickle.dumps(Array())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"shape": (3,)}, "do not fit"),
        ({"shape": (-1, -2)}, "impossible shape"),
        ({"shape": (0, 10**12), "data": b""}, "impossible shape"),
        ({"shape": (10**12, 0), "data": b""}, "impossible shape"),
        ({"shape": ("2",)}, "impossible shape"),
        ({"data": [1, 2]}, "Python objects"),
        ({"dtype": "O8"}, "type 'O8'"),
        ({"dtype": "f4,O"}, "type 'f4,O'"),
        ({"dtype": "V8"}, "type 'V8'"),
        ({"dtype": "U0", "shape": (10**9,), "data": b""}, "no size|impossible"),
        ({"dtype": "c16", "shape": (1,), "data": b"\0" * 16}, "type 'c16'"),
        ({"state_of_dtype": (3, "<", None, ("a",), {"a": 1}, 8, 1, 0)}, "composed type"),
        ({"state_of_dtype": (3, "<", ("f4", (2,)), None, None, 8, 1, 0)}, "composed type"),
    ],
)
def test_arrays_that_cannot_be_are_refused(options, reason):
    assert load_plain(array_pickle()).tolist() == [0.0, 0.0]
    with pytest.raises(ValueError, match=reason):
        load_plain(array_pickle(**options))


def test_depth_and_repetition_are_bounded():
    deep = []
    for _ in range(200):
        deep = [deep]
    laughs = ["ha"]
    for _ in range(12):
        laughs = [laughs] * 10
    endless = []
    endless.append(endless)
    for value in (deep, laughs, endless):
        with pytest.raises(ValueError, match="nested too deeply, or repeat"):
            load_plain(pickle.dumps(value))
    with pytest.raises(ValueError, match="not a pickle of plain values|nested too deeply"):
        load_plain(b"(" * 100_000 + b"t" * 99_999 + b".")


def test_a_pickle_that_is_too_large_is_not_even_looked_at(monkeypatch):
    monkeypatch.setattr("adversarial_mlm.downstream.lmdb_entries._MAX_BYTES", 2**20)
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        load_plain(pickle.dumps(b"\0" * 2**20))


@pytest.mark.parametrize("protocol", [2, 5])
def test_damaged_pickles_give_a_value_or_a_reason(protocol):
    data = pickle.dumps(RECORD, protocol=protocol)
    generator = random.Random(0)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(data)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        try:
            load_plain(bytes(damaged))
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 100


def test_no_instruction_reserves_memory_that_the_pickle_only_claims():
    """Every instruction with a size or an index of its own, with the largest that fits."""
    sized = [opcode for opcode in pickletools.opcodes if opcode.arg is not None and opcode.arg.n not in (0, -1)]
    assert {"BYTEARRAY8", "LONG_BINPUT", "BINUNICODE8", "FRAME", "LONG4"} <= {opcode.name for opcode in sized}
    tracemalloc.start()
    for opcode in sized:
        width = {"BYTEARRAY8": 8, "BINBYTES8": 8, "BINUNICODE8": 8, "FRAME": 8}.get(opcode.name, 4)
        for claim in (2**31 - 1, 2**36):
            size = struct.pack("<Q", claim)[:width]
            with contextlib.suppress(ValueError):
                load_plain(b"\x80\x05N" + opcode.code.encode("latin-1") + size + b"N.")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
