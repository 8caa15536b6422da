"""Small tasks that can be learned from the residues alone."""

import json

import numpy as np

from adversarial_mlm.downstream.tasks import load_own_task, own_task

LETTERS = "ADEGKLNQRSTV"
HYDROPHOBIC = "AGLV"


def label_of(kind, sequence):
    if kind == "regression":
        return 40.0 + 10.0 * sum(letter in HYDROPHOBIC for letter in sequence) / len(sequence)
    if kind == "classification":
        return "long" if len(sequence) > 15 else "few" if sequence.count("K") < 2 else "many"
    return "".join("h" if letter in HYDROPHOBIC else "p" for letter in sequence)


def toy_task(folder, kind, train=192, others=48, lengths=(6, 15)):
    """Write and load a task: the share of some residues, whether there are two K, or which residues those are."""
    generator = np.random.default_rng(5)
    paths = {}
    for split, number in {"train": train, "valid": others, "test": others + 1}.items():
        sequences = [
            "".join(generator.choice(list(LETTERS), generator.integers(lengths[0], lengths[1] + 1)))
            for _ in range(number)
        ]
        rows = [{"sequence": sequence, "label": label_of(kind, sequence)} for sequence in sequences]
        folder.mkdir(parents=True, exist_ok=True)
        paths[f"{split}_file"] = folder / f"{split}.jsonl"
        paths[f"{split}_file"].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_own_task(own_task(kind, "label"), **paths)
