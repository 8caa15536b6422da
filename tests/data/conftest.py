import csv
import gzip
import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from adversarial_mlm.data import CleaningCounts

# One record of every kind: (id, sequence as found, sequence after cleaning or None where it is dropped).
RECORDS = [
    ("clean", "MKVLAAGIVGLCAKAYNNDE", "MKVLAAGIVGLCAKAYNNDE"),
    ("lower", "mkvlaagivglcEEEE", "MKVLAAGIVGLCEEEE"),
    ("stop", "MKVLAAGIVGLC*", "MKVLAAGIVGLC"),
    ("gaps", "MKV--LAAGI..VGLC", "MKVLAAGIVGLC"),
    ("blank", "MKVLA AGIVGLC", "MKVLAAGIVGLC"),
    ("unknown", "MKVLAJ1AGIVGLC", "MKVLA??AGIVGLC"),
    ("rare", "MKVLAUOBZXAGIV", "MKVLAUOBZXAGIV"),
    ("short", "MKV", None),
    ("no-residues", "???123JJJ???", None),
    ("empty", "", None),
    ("only-stops", "**--", None),
]
OBJECTS = [{"id": name, "sequence": sequence, "other": 1.5} for name, sequence, _ in RECORDS]


def as_fasta(records=RECORDS, prefix=""):
    return "".join(f">{prefix}{name} some description\n{sequence}\n" for name, sequence, *_ in records)


def as_csv(delimiter):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["remark", "id", "sequence"])
    writer.writerows(["a, b", name, sequence] for name, sequence, _ in RECORDS)
    return text.getvalue()


TEXTS = {
    "FASTA": as_fasta(),
    "JSON lines": "\n".join(json.dumps(item) for item in OBJECTS),
    "JSON list": json.dumps(OBJECTS, indent=2),
    "CSV": as_csv(","),
    "TSV": as_csv("\t"),
}


@pytest.fixture
def objects():
    """The records as dictionaries, before cleaning."""
    return [dict(item) for item in OBJECTS]


@pytest.fixture
def clean_rows():
    """What must remain of the records."""
    return [(name, clean, len(clean)) for name, _, clean in RECORDS if clean is not None]


@pytest.fixture
def counts():
    """What cleaning must count in the records."""
    return CleaningCounts(
        records_read=11,
        records_kept=7,
        lower_case=1,
        stops_removed=2,
        gaps_removed=2,
        whitespace_removed=1,
        unknown_residues=14,
        records_with_unknown=2,
        dropped_empty=2,
        dropped_no_residues=1,
        dropped_too_short=1,
    )


@pytest.fixture
def write_records():
    """Write the records to a path in one of the formats; a name that ends with `.gz` is compressed."""

    def write(path, file_format="FASTA"):
        if file_format == "parquet":
            pq.write_table(pa.table({"id": [r[0] for r in RECORDS], "sequence": [r[1] for r in RECORDS]}), path)
        elif file_format == "folder":
            Dataset.from_list(OBJECTS).save_to_disk(str(path))
        elif file_format == "folder of splits":
            DatasetDict({"train": Dataset.from_list(OBJECTS)}).save_to_disk(str(path))
        else:
            data = TEXTS[file_format].encode()
            path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
        return str(path)

    return write


@pytest.fixture
def fasta_text():
    """FASTA text of records, by default of those with one of every kind."""
    return as_fasta


@pytest.fixture
def random_records():
    """Draw (id, sequence) pairs that are clean."""

    def draw(number, seed=0, prefix="r"):
        letters = random.Random(seed)
        return [
            (f"{prefix}{index}", "".join(letters.choices("ACDEFGHIKLMNPQRSTVWY", k=30))) for index in range(number)
        ]

    return draw


@pytest.fixture
def rows_of():
    """The rows of a dataset as tuples."""
    return lambda dataset: [(row["id"], row["sequence"], row["length"]) for row in dataset]
