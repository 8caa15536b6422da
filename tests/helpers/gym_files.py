"""Small files in the layouts of ProteinGym and FLIP."""

import csv

import numpy as np

LETTERS = "ACDEFGHIKLMNPQRSTVWY"
HEADER = ["mutant", "mutated_sequence", "DMS_score", "DMS_score_bin"]


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    return path


def protein(length, seed=0):
    return "".join(np.random.default_rng(seed).choice(list(LETTERS), length))


def mutated(target, text):
    sequence = list(target)
    for part in text.split(":"):
        sequence[int(part[1:-1]) - 1] = part[-1]
    return "".join(sequence)


def substitutions(target, number, depth=1, seed=0):
    """Rows of an assay with distinct variants of at most `depth` substitutions."""
    generator = np.random.default_rng(seed)
    found = {}
    while len(found) < number:
        places = np.sort(generator.choice(len(target), generator.integers(1, depth + 1), replace=False))
        new = [generator.choice([letter for letter in LETTERS if letter != target[place]]) for place in places]
        text = ":".join(f"{target[place]}{place + 1}{letter}" for place, letter in zip(places, new, strict=True))
        score = round(float(generator.normal()), 2)
        found[text] = [text, mutated(target, text), score, int(score > 0)]
    return list(found.values())


def indels(target, number, seed=0):
    """Rows of an assay with distinct insertions and deletions."""
    generator = np.random.default_rng(seed)
    found = {}
    while len(found) < number:
        place, size = generator.integers(len(target) - 3), generator.integers(1, 3)
        inserted = "".join(generator.choice(list(LETTERS), size))
        text = target[:place] + (target[place + size :] if generator.random() < 0.5 else inserted + target[place:])
        score = round(float(generator.normal()), 2)
        found[text] = [text, score, int(score > 0)]
    return list(found.values())


def write_reference(path, assays):
    """Write a reference file with the columns that matter, of (DMS_id, protein, function, target_seq)."""
    header = ["DMS_id", "DMS_filename", "UniProt_ID", "taxon", "target_seq", "coarse_selection_type"]
    rows = [[name, f"{name}.csv", owner, "Human", target, function] for name, owner, function, target in assays]
    return write_csv(path, header, rows)
