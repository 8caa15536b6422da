import copy
import csv
import gzip
import json
import logging
import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader

from adversarial_mlm import corpus as corpus_module
from adversarial_mlm.corpus import (
    CleanedSequence,
    CleaningCounts,
    CorpusError,
    clean_sequence,
    load_corpus,
    read_cluster_table,
    remove_shared_sequences,
    split_corpus,
)

DEMO = Path(__file__).parents[1] / "examples/data/demo.fasta"
DEMO_CLUSTERS = Path(__file__).parents[1] / "examples/data/demo_clusters.tsv"

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
    ("empty", "", None),
    ("only-stops", "**--", None),
]
CLEAN_ROWS = [(name, clean, len(clean)) for name, _, clean in RECORDS if clean is not None]
COUNTS = CleaningCounts(
    records_read=10,
    records_kept=7,
    lower_case=1,
    stops_removed=2,
    gaps_removed=2,
    whitespace_removed=1,
    unknown_residues=2,
    records_with_unknown=1,
    dropped_empty=2,
    dropped_too_short=1,
)


def fasta_text(records=RECORDS):
    return "".join(f">{name} some description\n{sequence}\n" for name, sequence, *_ in records)


def random_records(number, seed=0, prefix="r"):
    generator = random.Random(seed)
    return [(f"{prefix}{index}", "".join(generator.choices("ACDEFGHIKLMNPQRSTVWY", k=30))) for index in range(number)]


def rows_of(dataset):
    return [(row["id"], row["sequence"], row["length"]) for row in dataset]


def write_fasta(path):
    path.write_text(fasta_text())


def write_fasta_gz(path):
    path.write_bytes(gzip.compress(fasta_text().encode()))


def write_parquet(path):
    pq.write_table(pa.table({"id": [r[0] for r in RECORDS], "sequence": [r[1] for r in RECORDS]}), path)


def json_objects():
    return [{"id": name, "sequence": sequence, "other": 1.5} for name, sequence, _ in RECORDS]


def write_json_lines(path):
    path.write_text("\n".join(json.dumps(item) for item in json_objects()))


def write_json_lines_gz(path):
    path.write_bytes(gzip.compress("\n".join(json.dumps(item) for item in json_objects()).encode()))


def write_json_list(path):
    path.write_text(json.dumps(json_objects(), indent=2))


def write_csv(path, delimiter=","):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["remark", "id", "sequence"])
        writer.writerows(["a, b", name, sequence] for name, sequence, _ in RECORDS)


def write_tsv(path):
    write_csv(path, delimiter="\t")


def write_csv_gz(path):
    write_csv(path)
    path.write_bytes(gzip.compress(path.read_bytes()))


def write_folder(path):
    Dataset.from_list(json_objects()).save_to_disk(str(path))


def write_dict_folder(path):
    DatasetDict({"train": Dataset.from_list(json_objects())}).save_to_disk(str(path))


WRITERS = {
    "a.fasta": write_fasta,
    "a.FA": write_fasta,
    "a.faa.gz": write_fasta_gz,
    "a.parquet": write_parquet,
    "a.jsonl": write_json_lines,
    "b.json": write_json_lines,
    "a.jsonl.gz": write_json_lines_gz,
    "a.json": write_json_list,
    "a.csv": write_csv,
    "a.csv.gz": write_csv_gz,
    "a.tsv": write_tsv,
    "folder": write_folder,
    "dict_folder": write_dict_folder,
}


# ---------------------------------------------------------------------------------------------------------------------
# Cleaning
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", CleanedSequence("")),
        ("ABCDEFGHIKLMNOPQRSTUVWXYZ", CleanedSequence("ABCDEFGHIKLMNOPQRSTUVWXYZ")),
        ("mkV", CleanedSequence("MKV", lower_case=True)),
        ("MKV*", CleanedSequence("MKV", stops=True)),
        ("M-K.V", CleanedSequence("MKV", gaps=True)),
        (" M\tK\u00a0V\r\n", CleanedSequence("MKV", whitespace=True)),
        ("MJK", CleanedSequence("M?K", unknown=1)),
        ("mjk", CleanedSequence("M?K", lower_case=True, unknown=1)),
        ("M7?\u00e9\u017fK", CleanedSequence("M????K", unknown=4)),  # a long s is not an S
        ("<mask>", CleanedSequence("?MASK?", lower_case=True, unknown=2)),
        ("*-. ", CleanedSequence("", stops=True, gaps=True, whitespace=True)),
        ("a *-J", CleanedSequence("A?", True, True, True, True, 1)),
    ],
)
def test_clean_sequence_table(text, expected):
    assert clean_sequence(text) == expected


def test_counts_add_and_are_readable():
    assert (COUNTS + CleaningCounts(records_read=1)).records_read == 11
    assert COUNTS.as_dict()["unknown_residues"] == 2
    summary = COUNTS.summary()
    assert "\n" not in summary and "10 records read, 7 kept" in summary and "1 dropped as too short" in summary
    assert CleaningCounts(records_read=1000, records_kept=1000).summary() == "1,000 records read, 1,000 kept"


# ---------------------------------------------------------------------------------------------------------------------
# Every way in
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows_and_counts(tmp_path, name, streaming):
    WRITERS[name](tmp_path / name)
    corpus = load_corpus(str(tmp_path / name), streaming=streaming, cache_dir=str(tmp_path / "cache"))
    assert rows_of(corpus.dataset) == CLEAN_ROWS
    assert corpus.counts == COUNTS
    assert corpus.source == str(tmp_path / name)
    assert corpus.dataset.column_names == ["id", "sequence", "length"]
    assert corpus.dataset.features["length"].dtype == "int32"
    assert (tmp_path / "cache").exists() is not streaming


def test_memory_mapped_dataset_lies_in_the_named_cache(tmp_path):
    write_fasta(tmp_path / "a.fasta")
    corpus = load_corpus(tmp_path / "a.fasta", cache_dir=str(tmp_path / "cache"))
    (file,) = corpus.dataset.cache_files
    assert Path(file["filename"]).parent == tmp_path / "cache" / "adversarial_mlm"


def test_globs_and_lists_of_files(tmp_path):
    for part in range(3):
        (tmp_path / f"part{part}.fasta").write_text(f">p{part}\n{'M' * 12}\n")
    cache_dir = str(tmp_path / "cache")
    expected = [(f"p{part}", "M" * 12, 12) for part in range(3)]
    assert rows_of(load_corpus(str(tmp_path / "part*.fasta"), cache_dir=cache_dir).dataset) == expected
    listed = [str(tmp_path / "part2.fasta"), tmp_path / "part[01].fasta"]
    assert rows_of(load_corpus(listed, cache_dir=cache_dir).dataset) == [expected[2], *expected[:2]]


def test_table_columns_by_name_and_row_numbers_as_ids(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("primary,Entry\nMKVLAAGIVG,P1\nMK,P2\nMKVLAAGIVC,P3\n")
    cache_dir = str(tmp_path / "cache")
    numbered = load_corpus(str(path), sequence_column="primary", cache_dir=cache_dir)
    assert numbered.dataset["id"][:] == ["0", "2"]
    named = load_corpus(str(path), sequence_column="primary", id_column="Entry", cache_dir=cache_dir)
    assert named.dataset["id"][:] == ["P1", "P3"]


def test_missing_values_count_as_empty(tmp_path):
    pq.write_table(pa.table({"id": [7, None], "sequence": [None, "MKVLAAGIVG"]}), tmp_path / "a.parquet")
    corpus = load_corpus(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path))
    assert rows_of(corpus.dataset) == [("1", "MKVLAAGIVG", 10)]
    assert corpus.counts.dropped_empty == 1


def test_min_length_is_honoured(tmp_path):
    write_fasta(tmp_path / "a.fasta")
    corpus = load_corpus(str(tmp_path / "a.fasta"), min_length=15, cache_dir=str(tmp_path))
    assert corpus.dataset["id"][:] == ["clean", "lower"]
    assert corpus.counts.dropped_too_short == 6
    everything = load_corpus(str(tmp_path / "a.fasta"), min_length=0, cache_dir=str(tmp_path))
    assert everything.counts.dropped_too_short == 0 and everything.counts.dropped_empty == 2


def test_split_of_a_folder_with_several(tmp_path):
    splits = {"train": Dataset.from_list(json_objects()[:1]), "test": Dataset.from_list(json_objects()[1:2])}
    DatasetDict(splits).save_to_disk(str(tmp_path / "folder"))
    corpus = load_corpus(str(tmp_path / "folder"), dataset_split="test", cache_dir=str(tmp_path))
    assert corpus.dataset["id"][:] == ["lower"]
    with pytest.raises(CorpusError, match=r"folder.*'valid'.*dataset_split.*'train', 'test'"):
        load_corpus(str(tmp_path / "folder"), dataset_split="valid", cache_dir=str(tmp_path))


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_dataset(tmp_path, monkeypatch, streaming):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        dataset = Dataset.from_list(json_objects())
        return dataset.to_iterable_dataset(num_shards=2) if kwargs["streaming"] else dataset

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    cache_dir = str(tmp_path)
    corpus = load_corpus(
        "owner/name", dataset_config="c", dataset_split="test", streaming=streaming, cache_dir=cache_dir
    )
    assert rows_of(corpus.dataset) == CLEAN_ROWS
    assert corpus.counts == COUNTS
    assert calls == [(("owner/name", "c"), {"split": "test", "streaming": streaming, "cache_dir": cache_dir})]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (">sp|A0AJR1|ACP_LISW6 Acyl carrier\nMK\n", "A0AJR1"),
        (">tr|Q9|Q9_HUMAN\nMK\n", "Q9"),
        (">UniRef50_P1 n=3\nMK\n", "UniRef50_P1"),
        (">  spaced\tout\nMK\n", "spaced"),
        (">gi|5|ref|X| thing\nMK\n", "gi|5|ref|X|"),
        (">\nMK\n", "0"),
    ],
)
def test_fasta_ids(tmp_path, text, expected):
    (tmp_path / "a.fasta").write_text(text)
    assert load_corpus(str(tmp_path / "a.fasta"), min_length=1, cache_dir=str(tmp_path)).dataset[0]["id"] == expected


FASTA_VARIANTS = {
    "several lines": b">a one\nMKVLA\nAGIVG\n\nLC\n>b\nMKVLAAGIVG\n",
    "CRLF": b">a one\r\nMKVLA\r\nAGIVGLC\r\n>b\r\nMKVLAAGIVG\r\n",
    "old Mac": b">a one\rMKVLA\rAGIVGLC\r>b\rMKVLAAGIVG\r",
    "no last line end": b">a one\nMKVLAAGIVGLC\n>b\nMKVLAAGIVG",
    "blank lines first": b"\n\n>a\nMKVLAAGIVGLC\n>b\nMKVLAAGIVG\n",
    "byte order mark": b"\xef\xbb\xbf>a\nMKVLAAGIVGLC\n>b\nMKVLAAGIVG\n",
    "Latin-1 header": b">a prot\xe9ine \xb5\nMKVLAAGIVGLC\n>b \xa0 x\nMKVLAAGIVG\n",
    "same id twice": b">a\nMKVLAAGIVGLC\n>b\nMKVLAAGIVG\n",
    "gzip members joined": gzip.compress(b">a\nMKVLAAGIVGLC\n") + gzip.compress(b">b\nMKVLAAGIVG\n"),
}


@pytest.mark.parametrize("variant", FASTA_VARIANTS)
def test_fasta_variants_read_alike(tmp_path, variant):
    (tmp_path / "a.fasta").write_bytes(FASTA_VARIANTS[variant])
    corpus = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path))
    assert rows_of(corpus.dataset) == [("a", "MKVLAAGIVGLC", 12), ("b", "MKVLAAGIVG", 10)]
    assert corpus.counts == CleaningCounts(records_read=2, records_kept=2)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_fasta_ids_outside_ascii(tmp_path, encoding):
    # "à" in UTF-8 ends with the byte that is a no-break space in Latin-1: the id must not end there.
    (tmp_path / "a.fasta").write_bytes(">\u00e0bc d\nMKVLAAGIVG\n".encode(encoding))
    assert load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path)).dataset[0]["id"] == "\u00e0bc"


def test_header_without_sequence_is_counted(tmp_path):
    (tmp_path / "a.fasta").write_text(">a\n>b\nMKVLAAGIVG\n>c\n")
    corpus = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path))
    assert corpus.dataset["id"][:] == ["b"]
    assert corpus.counts == CleaningCounts(records_read=3, records_kept=1, dropped_empty=2)


# ---------------------------------------------------------------------------------------------------------------------
# Wrong input
# ---------------------------------------------------------------------------------------------------------------------

GOOD_GZ = gzip.compress(fasta_text(random_records(3000)).encode())

# name of the file, its bytes, what the message says besides the name
WRONG_FILES = {
    "empty fasta": ("x.fasta", b"", "empty"),
    "blank fasta": ("x.fasta", b"\n \n", "no FASTA record"),
    "empty gz": ("x.fasta.gz", gzip.compress(b""), "empty"),
    "not a fasta": ("x.fasta", b"hello\nworld\n", r"not a FASTA.*line 1 .*'hello'"),
    "text before": ("x.fasta", b"\nsome words\n>a\nMKVLAAGIVG\n", "line 2 .*'some words'"),
    "fastq": ("x.fasta", b"@a\nACGT\n+\n!!!!\n", "not a FASTA"),
    "comment": ("x.fasta", b">a\nMKVLA\n;AGIVG\n", "line 3 "),
    "hash line": ("x.fasta", b">a\nMKVLA\n# AGIVG\n", "line 3 "),
    "lost line end": ("x.fasta", b">a\nMKVLA\n>b\nAGIVG>c\nMMM\n", "record 2, .* line 5.*line end is missing"),
    "binary": ("x.fasta", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary"),
    "UTF-16": ("x.fasta", ">a\nMKV\n".encode("utf-16"), "UTF-16"),
    "damaged gz": ("x.fasta.gz", b"\x1f\x8b\x08\0garbage", r"compressed file"),
    "bytes changed in gz": ("x.fasta.gz", GOOD_GZ[:2000] + b"\xff" * 40 + GOOD_GZ[2040:], "damaged"),
    "empty parquet": ("x.parquet", b"", "empty"),
    "not parquet": ("x.parquet", b"id,sequence\n", "could not be read"),
    "empty json": ("x.json", b"", "empty"),
    "empty list": ("x.json", b"[]", "no records"),
    "broken json line": ("x.jsonl", b'{"sequence": "MKVLAAGIVG"}\n{"sequence": \n', "line 2 .*not a JSON object"),
    "broken json list": ("x.json", b'[{"sequence": "MKVLAAGIVG"},\n', "not a JSON list"),
    "json number": ("x.jsonl", b"17\n", "line 1 is not a JSON object"),
    "json no column": ("x.jsonl", b'{"primary": "MKV"}', 'line 1.*no column "sequence".*"primary"'),
    "json wrong type": ("x.jsonl", b'{"sequence": ["M", "K"]}', 'column "sequence" holds list'),
    "empty csv": ("x.csv", b"", "empty"),
    "csv header only": ("x.csv", b"id,sequence\n", "no records"),
    "csv no column": ("x.csv", b"Entry,primary\nP1,MKV\n", 'no column "sequence".*"Entry", "primary"'),
    "csv ragged": ("x.csv", b"id,sequence\na,MKVLAAGIVG\nb\n", "line 3 has 1 fields"),
    "csv open quote": ("x.csv", b'id,sequence\na,"MKVLAAGIVG\n', "could not be read"),
    "csv Latin-1": ("x.csv", b"id,sequence\n\xe9,MKVLAAGIVG\n", "UTF-8"),
    "tsv with commas": ("x.tsv", b"id,sequence\na,MKVLAAGIVG\n", '"id,sequence"'),
    "no known ending": ("x.sdf", b"anything", "ending"),
    "parquet gz": ("x.parquet.gz", b"anything", "ending"),
    "nothing left": ("x.fasta", b">a\nMKV\n>b\n\n", "min_length=10.*2 records read, 0 kept"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_files_are_refused_by_name(tmp_path, case, streaming):
    name, content, message = WRONG_FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=rf"(?s){name}.*{message}") as caught:
        corpus = load_corpus(str(tmp_path / name), streaming=streaming, cache_dir=str(tmp_path / "cache"))
        list(corpus.dataset)
    assert "\n" not in str(caught.value)
    left = list((tmp_path / "cache").glob("adversarial_mlm/*"))
    assert not left, "a failed start leaves nothing in the cache"


@pytest.mark.parametrize("streaming", [False, True])
def test_truncated_gzip_is_refused_with_the_line(tmp_path, streaming):
    (tmp_path / "x.fasta.gz").write_bytes(GOOD_GZ[: len(GOOD_GZ) // 2])
    with pytest.raises(CorpusError, match=r"x\.fasta\.gz.*ends too early after line \d"):
        list(load_corpus(str(tmp_path / "x.fasta.gz"), streaming=streaming, cache_dir=str(tmp_path)).dataset)


def test_empty_and_foreign_files_are_refused_before_streaming_starts(tmp_path):
    write_fasta(tmp_path / "a.fasta")
    (tmp_path / "b.fasta").write_bytes(b"no header\n")
    with pytest.raises(CorpusError, match="b.fasta"):
        load_corpus(str(tmp_path / "*.fasta"), streaming=True)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("missing.fasta", {}, "missing.fasta.*no such file"),
        ("folder/missing.csv", {}, "missing.csv.*no such file"),
        ("*.fasta", {}, r"\*\.fasta.*no file matches"),
        ([], {}, "source is empty"),
        ("", {}, "source is empty"),
        (["a.csv", "b.jsonl"], {}, "b.jsonl.*one format"),
        (["a.csv", "a.csv"], {}, "a.csv.*more than once"),
        (["a.csv", "folder"], {}, "folder"),
        ("folder", {}, "folder.*save_to_disk"),
        ("a.csv", {"min_length": -1}, "min_length"),
        ("a.csv", {"dataset_split": "test"}, "dataset_split='test'.*a.csv"),
        ("a.csv", {"dataset_config": "x"}, "dataset_config='x'.*a.csv"),
        ("a.csv", {"id_column": "Entry"}, 'a.csv.*no column "Entry".*id_column.*"remark", "id", "sequence"'),
        ("c.fasta", {"id_column": "Entry"}, "id_column='Entry'.*c.fasta"),
        ("c.fasta", {"sequence_column": "primary"}, "sequence_column='primary'.*c.fasta"),
    ],
)
def test_wrong_options_are_named(tmp_path, monkeypatch, source, options, message):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    write_csv(tmp_path / "a.csv")
    write_json_lines(tmp_path / "b.jsonl")
    (tmp_path / "c.fasta").mkdir() if source == "*.fasta" else write_fasta(tmp_path / "c.fasta")
    with pytest.raises(CorpusError, match=message):
        load_corpus(source, **options, cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("writer", [write_parquet, write_folder])
def test_missing_column_of_typed_tables(tmp_path, writer):
    writer(tmp_path / "x.parquet")
    with pytest.raises(CorpusError, match='x.parquet.*no column "primary".*sequence_column.*"id", "sequence"'):
        load_corpus(str(tmp_path / "x.parquet"), sequence_column="primary", cache_dir=str(tmp_path))


def test_failing_hub_name_says_that_neither_exists(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach\nthe Hub.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(CorpusError, match=r"owner/name: no file or folder.*Hub dataset.*ConnectionError: Couldn't"):
        load_corpus("owner/name")


def test_unwritable_cache_names_the_folder_and_the_option(tmp_path):
    write_fasta(tmp_path / "a.fasta")
    (tmp_path / "occupied").write_text("a file, not a folder")
    with pytest.raises(CorpusError, match="occupied.*cache_dir"):
        load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path / "occupied"))


# ---------------------------------------------------------------------------------------------------------------------
# Cache
# ---------------------------------------------------------------------------------------------------------------------


def test_second_start_uses_the_cache_and_keeps_the_counts(tmp_path, monkeypatch):
    write_fasta(tmp_path / "a.fasta")
    first = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path / "cache"))

    def no_reading(*args):
        raise AssertionError("the file was read again")

    monkeypatch.setattr(corpus_module, "_read_rows", no_reading)
    second = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path / "cache"))
    assert second.counts == first.counts == COUNTS
    assert rows_of(second.dataset) == CLEAN_ROWS
    assert second.dataset.cache_files == first.dataset.cache_files
    assert sorted(path.suffix for path in (tmp_path / "cache/adversarial_mlm").iterdir()) == [".arrow", ".json"]


def test_changed_file_is_read_anew(tmp_path):
    path = tmp_path / "a.fasta"
    path.write_text(">a\nMKVLAAGIVG\n")
    assert rows_of(load_corpus(str(path), cache_dir=str(tmp_path)).dataset) == [("a", "MKVLAAGIVG", 10)]
    before = path.stat()
    path.write_text(">a\nMKVLAAGIVC\n")  # of the same size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert rows_of(load_corpus(str(path), cache_dir=str(tmp_path)).dataset) == [("a", "MKVLAAGIVC", 10)]


def test_half_a_cache_entry_is_not_trusted(tmp_path):
    write_fasta(tmp_path / "a.fasta")
    load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path / "cache"))
    (counts_file,) = (tmp_path / "cache/adversarial_mlm").glob("*.json")
    counts_file.write_text('{"records_read": ')
    assert load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path / "cache")).counts == COUNTS


def test_starts_at_once_do_not_disturb_each_other(tmp_path):
    (tmp_path / "a.fasta").write_text(fasta_text(random_records(2000)))

    def start(_):
        corpus = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path / "cache"))
        return rows_of(corpus.dataset), corpus.counts

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(start, range(4)))
    assert all(result == results[0] for result in results) and results[0][1].records_kept == 2000
    assert sorted(path.suffix for path in (tmp_path / "cache/adversarial_mlm").iterdir()) == [".arrow", ".json"]


def test_many_batches_keep_the_order(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "_ROWS_PER_BATCH", 7)
    monkeypatch.setattr(corpus_module, "_RESIDUES_PER_BATCH", 100)
    records = random_records(50)
    (tmp_path / "a.fasta").write_text(fasta_text(records))
    corpus = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path))
    assert [(identifier, sequence) for identifier, sequence, _ in rows_of(corpus.dataset)] == records


# ---------------------------------------------------------------------------------------------------------------------
# Streaming
# ---------------------------------------------------------------------------------------------------------------------


def identity(examples):
    return examples


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_streaming_workers_give_the_rows_and_counts_of_the_memory_mapped_corpus(tmp_path, start_method):
    for part in range(3):
        dirty = [(f"{part}-{name}", sequence, clean) for name, sequence, clean in RECORDS]
        (tmp_path / f"{part}.fasta").write_text(fasta_text(dirty + random_records(100, seed=part, prefix=f"{part}-")))
    source = str(tmp_path / "*.fasta")
    mapped = load_corpus(source, cache_dir=str(tmp_path))
    streamed = load_corpus(source, streaming=True)
    assert streamed.counts == CleaningCounts()
    loader = DataLoader(
        streamed.dataset, batch_size=16, num_workers=2, multiprocessing_context=start_method, collate_fn=identity
    )
    epochs = 2 if start_method == "fork" else 1
    for _ in range(epochs):  # counts do not grow with epochs
        rows = [(row["id"], row["sequence"], row["length"]) for batch in loader for row in batch]
        assert Counter(rows) == Counter(rows_of(mapped.dataset))
        assert streamed.counts == mapped.counts


def test_streaming_a_folder_in_workers(tmp_path):
    Dataset.from_dict({"sequence": [s for _, s in random_records(2500)]}).save_to_disk(str(tmp_path / "folder"))
    mapped = load_corpus(str(tmp_path / "folder"), cache_dir=str(tmp_path))
    streamed = load_corpus(str(tmp_path / "folder"), streaming=True)
    assert streamed.dataset.num_shards == 3
    loader = DataLoader(streamed.dataset, batch_size=None, num_workers=2)
    assert Counter(rows_of(loader)) == Counter(rows_of(mapped.dataset))
    assert streamed.counts == mapped.counts


def test_streaming_counts_are_live_and_survive_copies(tmp_path):
    write_fasta(tmp_path / "a.fasta")
    streamed = load_corpus(str(tmp_path / "a.fasta"), streaming=True)
    rows = iter(copy.deepcopy(streamed.dataset).shuffle(seed=0, buffer_size=1))
    next(rows)
    assert 0 < streamed.counts.records_kept < COUNTS.records_kept
    assert len(list(rows)) == COUNTS.records_kept - 1
    assert streamed.counts == COUNTS


def test_errors_in_workers_keep_their_sentence(tmp_path):
    for part in range(2):
        (tmp_path / f"{part}.fasta").write_text(fasta_text(random_records(20)) + ">bad\nMKV>worse\n")
    # One worker: torch waits five seconds for each when one has failed.
    loader = DataLoader(load_corpus(str(tmp_path / "*.fasta"), streaming=True).dataset, batch_size=None, num_workers=1)
    with pytest.raises(CorpusError, match=r"\d\.fasta: record 21, .*a line end is missing"):
        list(loader)


# ---------------------------------------------------------------------------------------------------------------------
# Held-out data
# ---------------------------------------------------------------------------------------------------------------------


def family_corpus(families=40, members=10, seed=0):
    """Records `f<family>-<member>` in a shuffled order, and their cluster table."""
    records = random_records(families * members, seed=seed)
    rows = [
        {"id": f"f{index // members}-{index % members}", "sequence": sequence, "length": len(sequence)}
        for index, (_, sequence) in enumerate(records)
    ]
    random.Random(seed).shuffle(rows)
    return Dataset.from_list(rows), {row["id"]: row["id"].split("-")[0] for row in rows}


def test_families_and_members_are_held_out():
    dataset, clusters = family_corpus()
    splits = split_corpus(dataset, clusters=clusters, family_fraction=0.1, member_fraction=0.2, seed=1)
    assert list(splits.held_out) == ["families", "members"]
    families = Counter(clusters[identifier] for identifier in splits.held_out["families"]["id"])
    members = Counter(clusters[identifier] for identifier in splits.held_out["members"]["id"])
    train = Counter(clusters[identifier] for identifier in splits.train["id"])
    assert set(families.values()) == {10} and len(families) == 4  # 10 % of 400 records
    assert not families.keys() & (members.keys() | train.keys())
    assert members.keys() == train.keys() and set(members.values()) == {2} and set(train.values()) == {8}
    assert splits.train.column_names == dataset.column_names


def test_splits_are_deterministic_and_follow_the_seed():
    dataset, clusters = family_corpus()
    options = {"clusters": clusters, "family_fraction": 0.1, "member_fraction": 0.1, "random_fraction": 0.1}
    first, again = split_corpus(dataset, **options), split_corpus(dataset, **options)
    other = split_corpus(dataset, **options, seed=1)
    for name in ("families", "members", "random"):
        assert first.held_out[name]["id"][:] == again.held_out[name]["id"][:]
        assert first.held_out[name]["id"][:] != other.held_out[name]["id"][:]
    assert first.train["id"][:] == again.train["id"][:]
    reordered = split_corpus(dataset.select(range(len(dataset) - 1, -1, -1)), **options)
    assert set(reordered.held_out["families"]["id"]) == set(first.held_out["families"]["id"])


def test_small_families_give_no_members_and_large_ones_at_least_one():
    dataset, clusters = family_corpus(families=10, members=4)
    with pytest.raises(CorpusError, match="member_fraction=0.5.*no family with 5"):
        split_corpus(dataset, clusters=clusters, member_fraction=0.5)
    dataset, clusters = family_corpus(families=10, members=5)
    few = split_corpus(dataset, clusters=clusters, member_fraction=0.01)
    assert Counter(clusters[identifier] for identifier in few.held_out["members"]["id"]) == {
        family: 1 for family in clusters.values()
    }
    most = split_corpus(dataset, clusters=clusters, member_fraction=0.99)
    assert set(Counter(clusters[identifier] for identifier in most.train["id"]).values()) == {1}


def test_a_large_family_does_not_swell_the_held_out_set():
    dataset, clusters = family_corpus()
    clusters = {identifier: "big" if int(family[1:]) < 20 else family for identifier, family in clusters.items()}
    for seed in range(10):
        splits = split_corpus(dataset, clusters=clusters, family_fraction=0.1, seed=seed)
        assert 40 <= len(splits.held_out["families"]) <= 60
    with pytest.raises(CorpusError, match="family_fraction.*smallest family has 400"):
        split_corpus(dataset, clusters=dict.fromkeys(clusters, "all"), family_fraction=0.1)


def test_random_records_are_held_out_with_a_warning(caplog):
    dataset, _ = family_corpus()
    with caplog.at_level(logging.WARNING, logger="adversarial_mlm.corpus"):
        splits = split_corpus(dataset, random_fraction=0.05)
    assert len(splits.held_out["random"]) == 20 and len(splits.train) == 380
    assert not set(splits.held_out["random"]["id"]) & set(splits.train["id"])
    assert "optimistic" in caplog.text


def test_verbatim_twins_of_held_out_records_leave_train(caplog):
    dataset, _ = family_corpus(families=20, members=5)
    twins = dataset.map(lambda row: {"id": row["id"] + "-twin"})
    dataset = datasets.concatenate_datasets([dataset, twins])
    with caplog.at_level(logging.WARNING, logger="adversarial_mlm.corpus"):
        splits = split_corpus(dataset, random_fraction=0.2, seed=3)
    held_out = set(splits.held_out["random"]["sequence"])
    assert splits.duplicates_removed > 0 and not held_out & set(splits.train["sequence"])
    assert len(splits.train) + len(splits.held_out["random"]) + splits.duplicates_removed == len(dataset)
    assert f"{splits.duplicates_removed} records were taken out of train" in caplog.text


def test_sequences_of_a_validation_file_leave_train():
    dataset, _ = family_corpus(families=4)
    rest, removed = remove_shared_sequences(dataset, dataset.select(range(5)))
    assert removed == 5 and rest["id"][:] == dataset["id"][5:]
    assert remove_shared_sequences(rest, dataset.select(range(5))) == (rest, 0)
    with pytest.raises(CorpusError, match="All 40 records"):
        remove_shared_sequences(dataset, dataset)


def test_records_missing_in_the_table_are_families_of_their_own(caplog):
    dataset, clusters = family_corpus(families=20, members=5)
    listed = {identifier: family for identifier, family in clusters.items() if family != "f3"}
    with caplog.at_level(logging.WARNING, logger="adversarial_mlm.corpus"):
        splits = split_corpus(dataset, clusters=listed, family_fraction=0.3)
    assert splits.missing_in_clusters == 5 and "5 of 100 records are not in the cluster table" in caplog.text
    with pytest.raises(CorpusError, match="None of the 100 record ids"):
        split_corpus(dataset, clusters={"other": "family"}, family_fraction=0.3)


def test_nothing_asked_nothing_held_out():
    dataset, clusters = family_corpus(families=2)
    splits = split_corpus(dataset, clusters=clusters)
    assert splits.held_out == {} and len(splits.train) == len(dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family_fraction": 0.1}, "family_fraction=0.1 needs a cluster table"),
        ({"member_fraction": 0.1}, "member_fraction=0.1 needs a cluster table"),
        ({"random_fraction": 1.0}, "random_fraction must be"),
        ({"random_fraction": -0.1}, "random_fraction must be"),
        ({"clusters": {"f0-0": "f0"}, "family_fraction": 0.6, "random_fraction": 0.5}, "add up"),
        ({"random_fraction": 0.1, "seed": -1}, "seed"),
    ],
)
def test_wrong_split_options_are_named(options, message):
    dataset, _ = family_corpus(families=2)
    with pytest.raises(CorpusError, match=message):
        split_corpus(dataset, **options)


def test_streamed_corpus_cannot_be_split(tmp_path):
    write_fasta(tmp_path / "a.fasta")
    with pytest.raises(CorpusError, match="streaming=False"):
        split_corpus(load_corpus(str(tmp_path / "a.fasta"), streaming=True).dataset, random_fraction=0.1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.tsv", b"id\tcluster\na\tf1\nb\tf1\na\tf1\n\n"),
        ("c.csv", b"id,cluster\r\na,f1\r\nb,f1\r\n"),
        ("c.tsv.gz", gzip.compress(b"cluster\tremark\tid\nf1\t\ta\nf1\tx\tb\n")),
    ],
)
def test_cluster_tables(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_cluster_table(tmp_path / name) == {"a": "f1", "b": "f1"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "could not be read.*No such file"),
        (b"", "empty"),
        (b"id\tcluster\n", "no line after its header"),
        (b"P1\tP2\n", '"id" and "cluster"'),
        (b"id\tcluster\na\tf1\na\tf2\n", "line 3 puts a in cluster f2.*f1"),
        (b"id\tcluster\na\n", "line 2"),
        (b"id\tcluster\na\t\n", "line 2"),
        (gzip.compress(b"id\tcluster\n" + os.urandom(5000).hex().encode())[:-500], "ends too early"),
    ],
)
def test_wrong_cluster_tables_are_refused_by_name(tmp_path, content, message):
    if content is not None:
        (tmp_path / "c.tsv").write_bytes(content)
    with pytest.raises(CorpusError, match=rf"c\.tsv.*{message}"):
        read_cluster_table(tmp_path / "c.tsv")


# ---------------------------------------------------------------------------------------------------------------------
# Real data
# ---------------------------------------------------------------------------------------------------------------------


def test_demo_data_loads_and_splits_by_family(tmp_path):
    corpus = load_corpus(str(DEMO), cache_dir=str(tmp_path))
    clusters = read_cluster_table(DEMO_CLUSTERS)
    assert corpus.counts == CleaningCounts(records_read=2240, records_kept=2240)
    assert set(corpus.dataset["id"]) == clusters.keys() and len(set(clusters.values())) == 133
    assert corpus.dataset[0]["id"] == "A0AJR1" and corpus.dataset[0]["length"] == 77

    splits = split_corpus(corpus.dataset, clusters=clusters, family_fraction=0.1, member_fraction=0.1)
    families = {clusters[identifier] for identifier in splits.held_out["families"]["id"]}
    train = {clusters[identifier] for identifier in splits.train["id"]}
    members = {clusters[identifier] for identifier in splits.held_out["members"]["id"]}
    assert splits.missing_in_clusters == 0
    assert not families & (train | members) and members <= train
    assert 0.1 <= len(splits.held_out["families"]) / 2240 <= 0.15
    assert 0.08 <= len(splits.held_out["members"]) / 2240 <= 0.12
