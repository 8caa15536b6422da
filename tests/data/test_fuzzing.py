"""Mutated files through every reader.

With the tests a few files each, the same ones every time; `make fuzz` sets FUZZ_EXAMPLES (files of each reader) and
draws other files every time, from a seed that it prints. FUZZ_SEED repeats them.
"""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import math
import os
import re
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from adversarial_mlm.data import CorpusError, load_corpus, read_cluster_table
from adversarial_mlm.downstream.definitions import own_task
from adversarial_mlm.downstream.reading import read_records
from adversarial_mlm.downstream.records import read_split
from adversarial_mlm.recipes.recipe import parse_recipe
from tests.helpers.fuzzing import EXAMPLES, SEED, fuzz_settings

PROTEINS = [
    ("sp|P1|ONE_HUMAN", "MKVLAAGIVGLCAKAYNNDE"),
    ("two", "mkvlaagivglcEEEE"),
    ("three", "MKV--LAAGI..VGLC*"),
    ("four", "MKVLAJ1AGIVGLC"),
    ("five", "MKVLAUOBZXAGIV"),
    ("six", "MKV"),
    ("seven", ""),
    ("eight", "????????????"),
    ("nine", "XXXXXXXXXXXXXXXXXXXX"),
    ("n\u00e4chste", "WYVWYVWYVWYVMM"),
]
GENES = [(f"gene{index}", "ATGGCNTTAGCAUACG" * 3) for index in range(4)]


def fasta(records: list[tuple[str, str]]) -> str:
    return "".join(f">{name} words\n{text[:12]}\n{text[12:]}\n" for name, text in records)


def table(records: list[tuple[str, str]], delimiter: str) -> str:
    lines = [("remark", "id", "sequence"), *((f'"a{delimiter} b"', *record) for record in records)]
    return "".join(delimiter.join(line) + "\n" for line in lines)


def objects(records: list[tuple[str, str]]) -> list[dict]:
    return [{"id": name, "sequence": text, "other": [1.5, None]} for name, text in records]


def parquet(records: list[tuple[str, str]], **options) -> bytes:
    file = io.BytesIO()
    names, texts = zip(*records, strict=True)
    pq.write_table(pa.table({"id": names, "sequence": [text or None for text in texts]}), file, **options)
    return file.getvalue()


MEASURED = [
    (name, text, 0.5 * index - 1, "HEC-"[index % 4] * len(text)) for index, (name, text) in enumerate(PROTEINS[:5])
]


def task_table(delimiter: str) -> str:
    """A table for downstream tasks: a number, and a letter per residue."""
    quote = '"' if delimiter == "\t" else "'"
    rows = [("id", "sequence", "y", "ss", "x", "x"), *((*row, "", quote) for row in MEASURED)]
    return "".join(delimiter.join(map(str, row)) + "\n" for row in rows)


TASK_OBJECTS = [dict(zip(("id", "sequence", "y", "ss"), row, strict=True)) for row in MEASURED]


def by_column(records: list[dict]) -> str:
    """The records as pandas writes them into JSON."""
    return json.dumps({name: {str(row): record[name] for row, record in enumerate(records)} for name in records[0]})


def compressed(data: bytes, how: str) -> bytes:
    """Compress a file."""
    if how in ("zstd", "lz4"):
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, how) as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()
    if how == "zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(zipfile.ZipInfo("a.fasta"), data)
        return file.getvalue()
    return {"gzip": lambda data: gzip.compress(data, mtime=0), "bzip2": bz2.compress, "xz": lzma.compress}[how](data)


COMPRESSIONS = ["gzip", "bzip2", "xz", "zstd", "lz4", "zip"]

RECIPE = """\
# a recipe
train_data: [a.fasta, "b*.fasta"]
validation_data: [near=c.fasta]
streaming: false
min_length: 10
mask_options: [0.8, 0.1, 0.1]
cluster_table: null
holdout_families: 0.1
adversarial_share: [0@0, 1@1000]
encoder: tiny
noiser_view: blind
learned_options: no
max_steps: 300
learning_rate: 1e-3
lr_scheduler_kwargs: {num_cycles: 2}
save_strategy: no
report_to: []
output_dir: runs/fuzz
use_cpu: true
"""
MORE_RECIPE = "preset: blind\nmax_steps: -1\nmax_eval_records: 0\n? [a]\n: &a {b: c}\nseed: 0x1F\nencoder: *a\n- a\n"
MORE_RECIPE += "accelerator_config: {a: 2020-01-01, b: !!set {c}}\n"

TEXTS = {
    "FASTA": [fasta(PROTEINS), fasta(PROTEINS * 2), fasta(GENES)],
    "CSV": [table(PROTEINS, ","), table(PROTEINS[:5], ","), table(GENES, ",")],
    "TSV": [table(PROTEINS, "\t"), table(PROTEINS[:5], "\t"), table(GENES, "\t")],
    "JSON lines": ["".join(json.dumps(item) + "\n" for item in objects(r)) for r in (PROTEINS, PROTEINS[:5], GENES)],
    "JSON list": [json.dumps(objects(r), indent=1) for r in (PROTEINS, PROTEINS[:5], GENES)],
    "task CSV": [task_table(","), "sep=;\n" + task_table(";")],
    "task TSV": [task_table("\t")],
    "task JSON": [json.dumps(TASK_OBJECTS), by_column(TASK_OBJECTS), "\n".join(map(json.dumps, TASK_OBJECTS))],
    "cluster table": ["id\tcluster\n" + "".join(f"{name}\tc{i // 3}\n" for i, (name, _) in enumerate(PROTEINS))],
    "recipe": [RECIPE, RECIPE + "preset: paper\n"],
}
BASES = {name: [text.encode() for text in texts] for name, texts in TEXTS.items()}
BASES["FASTA.gz"] = BASES["compressed"] = BASES["FASTA"]
BASES["parquet"] = [
    parquet(PROTEINS * 5),
    parquet(PROTEINS, compression="gzip", use_dictionary=False, data_page_version="2.0"),
    parquet(GENES, compression="zstd", row_group_size=2),
]
TASK_FILE = io.BytesIO()
pq.write_table(pa.Table.from_pylist(TASK_OBJECTS), TASK_FILE)
BASES["task parquet"] = [TASK_FILE.getvalue()]
ENDINGS = {"FASTA": "fasta", "FASTA.gz": "fasta.gz", "CSV": "csv", "TSV": "tsv", "JSON lines": "jsonl"}
ENDINGS |= {
    "compressed": "fasta",
    "task CSV": "csv",
    "task TSV": "tsv",
    "task JSON": "json",
    "task parquet": "parquet",
}
ENDINGS |= {"JSON list": "json", "parquet": "parquet", "cluster table": "tsv", "recipe": "yaml"}

SNIPPETS = [
    b"\0",
    b">",
    b"\n",
    b"\r",
    b"\r\n",
    b'"',
    b",",
    b"\t",
    b"\xff",
    b"\xe9",
    b"\xef\xbb\xbf",
    b"\x1f\x8b",
    b";",
    b"#",
]
SNIPPETS += [
    b"[",
    b"{",
    b"]",
    b"}",
    b":",
    b"null",
    b"\\ud800",
    b"\\",
    b"1e999",
    b"-",
    b"*",
    b"\xe2\x80\xa8",
    b"\x85",
    b"\x1c",
]
SNIPPETS += [
    b'"\t',
    b'\t"',
    b'"a\n',
    b"sep=;\n",
    b"NA",
    b"nan",
    b"['M', 'K']",
    b"\n 61 ",
    b">P1;",
    b"*\n",
    b"\xef\xbb\xbf>",
]
SNIPPETS += [
    b"9" * 5000,
    b"[" * 3000,
    b"A" * 200_000,
    b"\n>\n",
    b"PAR1",
    *MORE_RECIPE.encode().splitlines(keepends=True),
]

PLACES = st.integers(0, 1 << 20)
BYTES = st.binary(min_size=1, max_size=4)
LETTERS = st.text('ACGTMKVJx?*-. \n,\t"1', min_size=1, max_size=6).map(str.encode)
REPLACEMENTS = st.tuples(st.just("replace"), PLACES, BYTES | LETTERS)
SMALL_MUTATIONS = st.one_of(
    REPLACEMENTS,
    st.tuples(st.just("insert"), PLACES, LETTERS),
    st.tuples(st.just("insert"), PLACES, st.sampled_from(SNIPPETS) | st.binary(min_size=1, max_size=12)),
    st.tuples(st.sampled_from(["delete", "repeat"]), PLACES, st.integers(1, 60)),
    st.tuples(st.sampled_from(["delete line", "repeat line", "move line"]), PLACES, PLACES),
)
LARGE_MUTATIONS = st.one_of(
    st.tuples(st.just("truncate"), PLACES, st.none()),
    st.tuples(st.just("splice"), PLACES, st.tuples(st.sampled_from(sorted(BASES)), PLACES)),
    st.tuples(st.just("line ends"), PLACES, st.sampled_from([b"\r", b"\r\n", b"\n\r"])),
    st.tuples(st.just("encode"), PLACES, st.sampled_from(["latin-1", "utf-16", "utf-16-le", "utf-32", "utf-8-sig"])),
    st.tuples(st.just("compress"), PLACES, st.none()),
)


def mutate(data: bytes, kind: str, place: int, what) -> bytes:
    """Change a file in one of the ways listed above; places wrap around at its end."""
    at = place % (len(data) + 1)
    if kind == "replace":
        return data[:at] + what + data[at + len(what) :]
    if kind == "insert":
        return data[:at] + what + data[at:]
    if kind == "delete":
        return data[:at] + data[at + what :]
    if kind == "repeat":
        return data[: at + what] + data[at:]
    if kind == "truncate":
        return data[:at]
    if kind == "splice":
        other = BASES[what[0]][0]
        return data[:at] + other[what[1] % (len(other) + 1) :]
    if kind == "line ends":  # from here on: the ends are mixed
        return data[:at] + data[at:].replace(b"\n", what)
    if kind == "encode":
        return data.decode("utf-8", "replace").encode(what, "replace")
    if kind == "compress":  # the rest as a second member of gzip
        return gzip.compress(data[:at], mtime=0) + (gzip.compress(data[at:], mtime=0) if place % 2 else b"")
    lines = data.splitlines(keepends=True)
    line = lines.pop(place % len(lines)) if lines else b""
    if kind == "repeat line":
        lines.insert(place % (len(lines) + 1), line)
    if kind != "delete line":
        lines.insert(what % (len(lines) + 1), line)
    return b"".join(lines)


@st.composite
def mutated_files(draw, reader: str) -> bytes:
    data = original = draw(st.sampled_from(BASES[reader]))
    small, large = draw(st.sampled_from([(1, 0), (2, 0), (3, 0), (0, 1), (1, 1), (2, 1)]))
    # of Parquet, few other changes come as far as the pages
    smalls = REPLACEMENTS if "parquet" in reader else SMALL_MUTATIONS
    for mutation in draw(st.tuples(*[smalls] * small, *[LARGE_MUTATIONS] * large)):
        data = mutate(data, *mutation)
    if reader in ("FASTA.gz", "compressed"):
        data = compressed(data, "gzip" if reader == "FASTA.gz" else draw(st.sampled_from(COMPRESSIONS)))
        if draw(st.booleans()):
            data = mutate(data, *draw(SMALL_MUTATIONS | LARGE_MUTATIONS))
    return data if data != original else data + b"\n"


def check_message(message: str, path: str) -> None:
    assert path in message and len(message.splitlines()) == 1 and len(message) < 2000, message
    message.encode()  # can be written to a log


def read_corpus(path: str, **options):
    """What the reader gives: rows of two passes and counts, or the sentence with which it refuses."""
    try:
        corpus = load_corpus(path, **options)
        passes = [[(row["id"], row["sequence"], row["length"]) for row in corpus.dataset] for _ in range(2)]
    except CorpusError as error:
        check_message(str(error), path)
        return str(error)
    assert passes[0] == passes[1]
    return passes[0], corpus.counts


def check_corpus(path: str) -> bool:
    found = read_corpus(path, cache_dir=os.path.dirname(path))
    assert read_corpus(path, streaming=True) == found
    if isinstance(found, str):
        return False
    rows, counts = found
    assert len(rows) == counts.records_kept > 0
    dropped = counts.dropped_empty + counts.dropped_no_residues + counts.dropped_too_short
    assert counts.records_read == counts.records_kept + dropped
    for identifier, sequence, length in rows:
        assert re.fullmatch("[A-IK-Z?]+", sequence) and sequence.strip("?") and 10 <= length == len(sequence)
        assert isinstance(identifier, str) and identifier
    return True


TASKS = [own_task("regression", "y"), own_task("classification", "y"), own_task("token_classification", "ss")]


def check_task_table(path: str) -> bool:
    """Read a table for three tasks; what is accepted has the sequences that pre-training would read."""
    accepted = False
    for task in TASKS:
        try:
            found = read_split(task, path)
        except CorpusError as error:
            check_message(str(error), path)
            continue
        accepted = True
        assert len(found) == len(found.targets) > 0
        required = [task.sequence_column, task.target]
        assert len(found) + found.left_out.total == len(list(read_records(path, required)))
        for sequence, target in zip(found.sequences, found.targets, strict=True):
            assert re.fullmatch("[A-IK-Z?]+", sequence) and sequence.strip("?")
            if task.kind == "token_classification":
                assert len(target) == len(sequence)
            else:
                assert math.isfinite(target) if task.kind == "regression" else target
        if task.kind == "regression":
            rows, counts = read_corpus(path, min_length=0, allow_nucleotides=True, cache_dir=os.path.dirname(path))
            assert counts.records_read == len(rows) == len(found) + found.left_out.total
            if not found.left_out.total:
                assert [sequence for _, sequence, _ in rows] == found.sequences and counts == found.cleaning()
    return accepted


def check_cluster_table(path: str) -> bool:
    try:
        clusters = read_cluster_table(path)
    except CorpusError as error:
        check_message(str(error), path)
        return False
    assert clusters and all(identifier and cluster for identifier, cluster in clusters.items())
    assert read_cluster_table(path) == clusters
    return True


def check_recipe(path: str) -> bool:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            recipe = parse_recipe([path])
    except SystemExit as stop:
        assert stop.code == 2
        check_message(said.getvalue(), path)
        return False
    assert recipe.data.train_data and parse_recipe([path]).resolved() == recipe.resolved()
    return True


CHECKS = dict.fromkeys((reader for reader in BASES if reader.startswith("task ")), check_task_table)
CHECKS |= {"cluster table": check_cluster_table, "recipe": check_recipe}


@pytest.fixture(scope="module")
def outcomes(request):
    """How many files of each reader were accepted and refused; told at the end of `make fuzz`."""
    counts: dict[str, Counter] = {reader: Counter() for reader in BASES}
    capture = request.config.pluginmanager.getplugin("capturemanager")
    if EXAMPLES:
        with capture.global_and_fixture_disabled():
            print(f"\nFUZZ_SEED={SEED}")
    yield counts
    if EXAMPLES:
        with capture.global_and_fixture_disabled():
            print()
            for reader, count in counts.items():
                print(f"{reader}: {count.total():,} files, {count[True]:,} accepted, {count[False]:,} refused")


@pytest.mark.parametrize("reader", BASES)
def test_a_mutated_file_is_read_or_refused_in_one_sentence(tmp_path, reader, outcomes):
    check, number = CHECKS.get(reader, check_corpus), iter(range(1 << 62))

    @seed(SEED)
    @fuzz_settings(30)
    @given(mutated_files(reader))
    def run(data):
        # a new name each time, as a file that is written twice within a tick of the clock could come from the cache
        folder = tmp_path / str(next(number))
        folder.mkdir()
        path = folder / f"x.{ENDINGS[reader]}"
        path.write_bytes(data)
        outcomes[reader][check(str(path))] += 1
        for left in sorted(folder.rglob("*"), reverse=True):
            left.rmdir() if left.is_dir() else left.unlink()
        folder.rmdir()

    run()
    assert Path(tmp_path).is_dir() and outcomes[reader].total() >= int(EXAMPLES or 30)
