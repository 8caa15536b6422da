"""Mutated files of a model through the loader.

With the tests a few hundred, the same ones every time; FUZZ_EXAMPLES sets how many of each file, and others are drawn
every time, from a seed that is printed. FUZZ_SEED repeats them.
"""

import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st

from adversarial_mlm.models.loading import CheckpointError, load_encoder
from adversarial_mlm.models.tokenization_protein import ByteTable

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
SEED = int(os.environ.get("FUZZ_SEED") or random.SystemRandom().randrange(1 << 32)) if EXAMPLES else 0

VALUES = [None, True, False, 0, 1, -1, 7, 0.5, -2.5, float("nan"), "", "x", "\ud800", "gelu", "a\nb", "x" * 2000]
VALUES += [[], [1], ["x"], {}, {"x": 1}, {"a": {"b": None}}, "bert", "roberta", "esm", "theirs--x.Y", [[["A", 0]]]]
PLACES = st.integers(0, 1 << 20)
BYTE_CHANGES = st.tuples(
    st.sampled_from(["replace", "insert", "delete", "cut"]), PLACES, st.binary(min_size=1, max_size=4)
)
VALUE_CHANGES = st.tuples(st.sampled_from(["set", "drop", "add"]), PLACES, st.sampled_from(VALUES))
CHANGES = st.lists(st.one_of(VALUE_CHANGES, BYTE_CHANGES), min_size=1, max_size=3)


def holders(value) -> list[tuple]:
    """Every place in a JSON document, as what holds it and under which key."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [place for key in keys for place in ((value, key), *holders(value[key]))]


def change_value(document, kind: str, place: int, value) -> None:
    places = holders(document)
    if not places:
        return
    holder, key = places[place % len(places)]
    if kind == "set":
        holder[key] = value
    elif kind == "drop":
        del holder[key]
    elif isinstance(holder, dict):
        names = [
            "auto_map",
            "quantization_config",
            "transformers_weights",
            "is_decoder",
            "tokenizer_class",
            "use_fast",
        ]
        holder[names[place % len(names)]] = value
    else:
        holder.insert(key, value)


def change_bytes(data: bytes, kind: str, place: int, what: bytes) -> bytes:
    at = place % (len(data) + 1)
    if kind == "cut":
        return data[:at]
    return data[:at] + (b"" if kind == "delete" else what) + data[at + (0 if kind == "insert" else len(what)) :]


def mutate(data: bytes, changes: list[tuple]) -> bytes:
    for kind, place, what in changes:
        if kind not in ("set", "drop", "add"):
            data = change_bytes(data, kind, place, what)
            continue
        try:
            document = json.loads(data)
        except ValueError:
            continue
        change_value(document, kind, place, what)
        data = json.dumps(document).encode()
    return data


def mutate_header(data: bytes, changes: list[tuple]) -> bytes:
    """Change the header of a safetensors file, whose length stands in the first eight bytes."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = mutate(data[8:end], changes)
    return len(header).to_bytes(8, "little") + header + data[end:]


def largest_number(data: bytes) -> float:
    """Of a JSON document: a size by which a network would be built before it is found not to fit."""
    try:
        document = json.loads(data)
    except ValueError:
        return 0
    values = [holder[key] for holder, key in holders(document)]
    return max((abs(value) for value in values if isinstance(value, int | float) and value == value), default=0)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_mutated_model_is_loaded_or_refused_in_one_sentence(save_encoder, name):
    whole, outcomes = Path(save_encoder("bert")), Counter()
    folder = whole.parent / "mutated"
    shutil.copytree(whole, folder)
    original = (whole / name).read_bytes()
    if EXAMPLES:
        print(f"FUZZ_SEED={SEED}")

    @seed(SEED)
    @settings(
        max_examples=int(EXAMPLES or 75),
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(CHANGES)
    def run(changes):
        data = mutate_header(original, changes) if name == "model.safetensors" else mutate(original, changes)
        assume(name != "config.json" or largest_number(data) <= 1000)
        (folder / name).write_bytes(data)
        try:
            model, tokenizer = load_encoder(str(folder))
        except CheckpointError as error:
            message = str(error)
            assert message.startswith(f"model_name_or_path is {folder}, ") and len(message.splitlines()) == 1
            assert len(message) < 1000 and message.encode()
            outcomes["refused"] += 1
        else:
            assert model.num_parameters() > 0 and ByteTable.from_tokenizer(tokenizer)
            outcomes["loaded"] += 1

    run()
    assert outcomes["refused"] > 5 and outcomes["loaded"] > 0, outcomes
