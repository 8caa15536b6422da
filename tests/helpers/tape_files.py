"""Small files in exactly the layouts in which TAPE publishes its data."""

import gzip
import json
import pickle
from pathlib import Path

import lmdb
import numpy as np
import pytest

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
SPLITS = {
    "secondary_structure": ("train", "valid", "cb513", "ts115", "casp12"),
    "remote_homology": (
        "train",
        "valid",
        "test_fold_holdout",
        "test_superfamily_holdout",
        "test_family_holdout",
    ),
    "fluorescence": ("train", "valid", "test"),
    "stability": ("train", "valid", "test"),
}


def tape_record(task, index, generator):
    """One record with TAPE's fields, as TAPE's converter leaves it: arrays, bytes and numbers."""
    length = int(generator.integers(12, 30))
    record = {"primary": "".join(generator.choice(list(LETTERS), length)), "protein_length": length}
    if task == "secondary_structure":
        ss8 = generator.integers(8, size=length).astype(np.int32)
        return record | {
            "id": f"{index}abc-A".encode(),
            "evolutionary": generator.random((length, 30)).astype(np.float32),
            "ss3": np.array([0, 0, 0, 1, 1, 2, 2, 2], np.int32)[ss8],
            "ss8": ss8,
            "disorder": np.ones(length, np.int32),
            "interface": np.zeros(length, np.int32),
            "phi": generator.random(length).astype(np.float32),
            "psi": generator.random(length).astype(np.float32),
            "rsa": generator.random(length).astype(np.float32),
            "asa_max": generator.random(length).astype(np.float32),
            "valid_mask": (generator.random(length) < 0.8).astype(np.float32),
        }
    if task == "remote_homology":
        return record | {
            "id": f"d{index}abca_".encode(),
            "class_label": 0,
            "fold_label": index % 3,
            "superfamily_label": index % 5,
            "family_label": index % 7,
            "evolutionary": generator.random((length, 20)).astype(np.float32),
            "secondary_structure": np.eye(3, dtype=np.float32)[generator.integers(3, size=length)],
            "solvent_accessibility": np.eye(2, dtype=np.float32)[generator.integers(2, size=length)],
        }
    value = generator.random(1).astype(np.float32)
    if task == "fluorescence":
        return record | {"log_fluorescence": value, "num_mutations": index % 4}
    return record | {
        "stability_score": value,
        "id": f"HHH_{index}.pdb".encode(),
        "topology": b"HHH",
        "parent": b"HHH_0.pdb",
    }


@pytest.fixture
def tape_records():
    """Records by split with TAPE's fields, the same ones each time; in all splits of other length."""

    def make(task, records=12):
        generator = np.random.default_rng(11)
        return {
            split: [tape_record(task, index, generator) for index in range(records + number)]
            for number, split in enumerate(SPLITS[task])
        }

    return make


def as_json(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.decode() if isinstance(value, bytes) else value


def write_lmdb(path, records, protocol=3, layout="num_examples"):
    with lmdb.open(str(path), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for index, record in enumerate(records):
            transaction.put(str(index).encode(), pickle.dumps(record, protocol=protocol))
        if layout == "num_examples":
            transaction.put(b"num_examples", pickle.dumps(len(records), protocol=protocol))
        else:
            transaction.put(b"keys", pickle.dumps([str(index).encode() for index in range(len(records))]))


@pytest.fixture
def write_split():
    """Write records as `path` + ending, in the layout that the ending names."""

    def write(path, ending, records, **options):
        path = Path(f"{path}{ending}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if ending == ".lmdb":
            write_lmdb(path, records, **options)
            return path
        objects = [{name: as_json(value) for name, value in record.items()} for record in records]
        if ".jsonl" in ending:
            data = "".join(json.dumps(item) + "\n" for item in objects).encode()
        else:
            data = json.dumps(objects).encode()
        path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
        return path

    return write


@pytest.fixture
def write_task(tmp_path, tape_records, write_split):
    """Write a whole task as TAPE does, and return its folder."""

    def write(task, ending=".json", folder="", records=12, prefix=None, change=None):
        splits = tape_records(task, records)
        if change:
            change(splits)
        for split, found in splits.items():
            write_split(tmp_path / folder / f"{prefix or task}_{split}", ending, found)
        return tmp_path

    return write


@pytest.fixture
def learnable(write_split, tmp_path):
    """A folder with tasks whose labels follow from the residues: the share of K, which of D and W is more frequent,
    and whether a residue is followed by one of the first half of the alphabet."""

    def write(train=150, others=60):
        generator = np.random.default_rng(5)
        for task, target in (
            ("fluorescence", "log_fluorescence"),
            ("remote_homology", "fold_label"),
            ("secondary_structure", "ss3"),
        ):
            for split in SPLITS[task]:
                records = []
                for index in range(train if split == "train" else others):
                    weights = generator.dirichlet(np.ones(len(LETTERS)))
                    length = 40 if task == "fluorescence" else int(generator.integers(30, 50))
                    sequence = "".join(generator.choice(list(LETTERS), length, p=weights))
                    label = {
                        "log_fluorescence": sequence.count("K") / length + 0.01 * generator.normal(),
                        "fold_label": int(sequence.count("D") > sequence.count("W")),
                        "ss3": "".join("H" if after in LETTERS[:10] else "C" for after in sequence[1:] + "Y"),
                    }[target]
                    records.append({"id": str(index), "primary": sequence, target: label, "num_mutations": index % 4})
                write_split(tmp_path / task / f"{task}_{split}", ".jsonl", records)
        return tmp_path

    return write
