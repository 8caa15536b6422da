import gzip
import random
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from adversarial_mlm.data import CleaningCounts, CorpusError, load_corpus

FORMATS = {
    "a.fasta": "FASTA",
    "a.FA": "FASTA",
    "a.faa.gz": "FASTA",
    "a.parquet": "parquet",
    "a.jsonl": "JSON lines",
    "b.json": "JSON lines",
    "a.jsonl.gz": "JSON lines",
    "a.json": "JSON list",
    "a.csv": "CSV",
    "a.csv.gz": "CSV",
    "a.tsv": "TSV",
    "folder": "folder",
    "dict_folder": "folder of splits",
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows_and_counts(
    tmp_path, name, streaming, write_records, rows_of, clean_rows, counts
):
    write_records(tmp_path / name, FORMATS[name])
    corpus = load_corpus(str(tmp_path / name), streaming=streaming, cache_dir=str(tmp_path / "cache"))
    assert rows_of(corpus.dataset) == clean_rows
    assert corpus.counts == counts
    assert corpus.source == str(tmp_path / name)
    assert corpus.dataset.column_names == ["id", "sequence", "length"]
    assert streaming or corpus.dataset.features["length"].dtype == "int32"
    assert (tmp_path / "cache").exists() is not streaming


def test_table_columns_by_name_and_row_numbers_as_ids(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("primary,Entry\nMKVLAAGIVG,P1\nMK,P2\nMKVLAAGIVC,P3\n")
    cache_dir = str(tmp_path / "cache")
    numbered = load_corpus(str(path), sequence_column="primary", cache_dir=cache_dir)
    assert numbered.dataset["id"][:] == ["0", "2"]
    named = load_corpus(str(path), sequence_column="primary", id_column="Entry", cache_dir=cache_dir)
    assert named.dataset["id"][:] == ["P1", "P3"]


@pytest.mark.parametrize("streaming", [False, True])
def test_missing_values_in_a_table_count_as_empty(tmp_path, streaming, rows_of):
    texts = ["MKVLAAGIVG", "NA", "nan", "None", "#N/A", "<NA>", "NULL", "-", "MKVLAAGIVC"]
    (tmp_path / "a.csv").write_text("sequence,y\n" + "".join(f"{text},1\n" for text in texts))
    corpus = load_corpus(str(tmp_path / "a.csv"), min_length=1, streaming=streaming, cache_dir=str(tmp_path))
    assert rows_of(corpus.dataset) == [("0", "MKVLAAGIVG", 10), ("8", "MKVLAAGIVC", 10)]
    assert corpus.counts == CleaningCounts(records_read=9, records_kept=2, dropped_empty=7, gaps_removed=1)


SEQUENCE_COLUMNS = {
    "dictionary": pa.array(["MKV", None]).dictionary_encode(),
    "large string": pa.array(["MKV", None], pa.large_string()),
    "string view": pa.array(["MKV", None], pa.string_view()),
    "binary": pa.array([b"MKV", None]),
    "large binary": pa.array([b"MKV", None], pa.large_binary()),
    "letters": pa.array([["M", "K", "V"], None]),
    "text of missing values": pa.array(["MKV", "nan"]),
}


@pytest.mark.parametrize("kind", SEQUENCE_COLUMNS)
def test_sequences_in_every_type_of_column(tmp_path, kind, rows_of):
    columns = {" sequence": SEQUENCE_COLUMNS[kind], "id": pa.array([b"a ", b"b"]), "y": pa.array([1, 2])}
    table = pa.Table.from_arrays([*columns.values(), pa.array([3, 4])], names=[*columns, "y"])
    pq.write_table(table, tmp_path / "a.parquet")
    corpus = load_corpus(str(tmp_path / "a.parquet"), min_length=1, cache_dir=str(tmp_path))
    assert rows_of(corpus.dataset) == [("a", "MKV", 3)] and corpus.counts.dropped_empty == 1


def test_ids_have_no_blanks_around_them_and_nan_is_no_id(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        "".join(f'{{"id": {name}, "sequence": "MKVLAAGIVG"}}\n' for name in ('" a "', '"\\t"', "NaN", "null", "7"))
    )
    corpus = load_corpus(str(tmp_path / "a.jsonl"), cache_dir=str(tmp_path))
    assert corpus.dataset["id"][:] == ["a", "1", "2", "3", "7"]


def test_missing_values_count_as_empty(tmp_path, rows_of):
    pq.write_table(pa.table({"id": [7, None], "sequence": [None, "MKVLAAGIVG"]}), tmp_path / "a.parquet")
    corpus = load_corpus(str(tmp_path / "a.parquet"), cache_dir=str(tmp_path))
    assert rows_of(corpus.dataset) == [("1", "MKVLAAGIVG", 10)]
    assert corpus.counts.dropped_empty == 1


def test_json_characters_that_utf8_cannot_hold(tmp_path, rows_of):
    (tmp_path / "a.jsonl").write_text('{"id": "a\\ud800", "sequence": "MKVLA\\ud800AGIVG"}')
    corpus = load_corpus(str(tmp_path / "a.jsonl"), cache_dir=str(tmp_path))
    assert rows_of(corpus.dataset) == [("a?", "MKVLA?AGIVG", 11)]


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
def test_fasta_variants_read_alike(tmp_path, variant, rows_of):
    (tmp_path / "a.fasta").write_bytes(FASTA_VARIANTS[variant])
    corpus = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path))
    assert rows_of(corpus.dataset) == [("a", "MKVLAAGIVGLC", 12), ("b", "MKVLAAGIVG", 10)]
    assert corpus.counts == CleaningCounts(records_read=2, records_kept=2)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_fasta_ids_outside_ascii(tmp_path, encoding):
    # "à" in UTF-8 ends with the byte that is a no-break space in Latin-1: the id must not end there.
    (tmp_path / "a.fasta").write_bytes(">\u00e0bc d\nMKVLAAGIVG\n".encode(encoding))
    assert load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path)).dataset[0]["id"] == "\u00e0bc"


# each gives the records a: MKVLAAGIVGLC and b: MKVLAAGIVG
PROTEINS_WITH_NUMBERS = {
    "GenBank": ">a\n        1 mkvla agivg\n       11 lc\n>b\n        1 mkvla agivg\n",
    "numbers of lines without blanks": ">a\n1MKVLAAGIVG\n11LC\n>b\n1MKVLAAGIVG\n",
    "positions at the ends": ">a\nMKVLA AGIVG 10\nLC 12\n>b\nMKVLA AGIVG 10\n",
    "positions at the ends without blanks": ">a\nMKVLAAGIVG10\nLC12\n>b\nMKVLAAGIVG10\n",
    "ruler": ">a\n         5        10\nMKVLAAGIVG\nLC\n>b\n         5        10\nMKVLAAGIVG\n",
    "CRLF": ">a\r\n1 MKVLAAGIVG\r\n11 LC\r\n>b\r\n1 MKVLAAGIVG\r\n",
}


@pytest.mark.parametrize("variant", PROTEINS_WITH_NUMBERS)
def test_numbers_of_lines_and_positions_are_no_residues(tmp_path, variant, rows_of):
    (tmp_path / "a.fasta").write_text(PROTEINS_WITH_NUMBERS[variant])
    corpus = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path))
    assert rows_of(corpus.dataset) == [("a", "MKVLAAGIVGLC", 12), ("b", "MKVLAAGIVG", 10)]
    assert corpus.counts.numbers_removed == 2 and corpus.counts.unknown_residues == 0


def test_a_digit_at_the_end_of_a_sequence_leaves_the_others_alone(tmp_path, rows_of):
    (tmp_path / "a.fasta").write_text(">a\nMKVLA3AGIVG 10\n>b\n*MKVLA3AGIV*\n")
    corpus = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path))
    assert rows_of(corpus.dataset) == [("a", "MKVLA?AGIVG", 11), ("b", "MKVLA?AGIV", 10)]


def test_pir_records_are_read_without_description_and_comments(tmp_path, rows_of):
    text = (
        ">P1;CRAB_ANAPL\nALPHA CRYSTALLIN, a chain\n  MKVLA AGIVG\n  LC*\n\nC;Species: duck\nR;Someone\n"
        ">F1;TWO\n\nMKVLAAGIVG\n*\n>sp|Q;1|X\nMKVLAAGIVG*\n"
    )
    (tmp_path / "a.fasta").write_text(text)
    corpus = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path))
    expected = [("CRAB_ANAPL", "MKVLAAGIVGLC", 12), ("TWO", "MKVLAAGIVG", 10), ("Q;1", "MKVLAAGIVG", 10)]
    assert rows_of(corpus.dataset) == expected
    assert corpus.counts.stops_removed == 1 and corpus.counts.whitespace_removed == 1


def test_header_without_sequence_is_counted(tmp_path):
    (tmp_path / "a.fasta").write_text(">a\n>b\nMKVLAAGIVG\n>c\n")
    corpus = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path))
    assert corpus.dataset["id"][:] == ["b"]
    assert corpus.counts == CleaningCounts(records_read=3, records_kept=1, dropped_empty=2)


LINE_ENDS = {"CRLF": ["\r\n"], "old Mac": ["\r"], "mixed": ["\n", "\r\n", "\r"]}


@pytest.mark.parametrize("ends", LINE_ENDS)
@pytest.mark.parametrize("name", ["a.fasta", "a.csv", "a.tsv", "a.jsonl", "b.json"])
def test_every_kind_of_line_end_is_one(tmp_path, name, ends, write_records, rows_of, clean_rows, counts):
    path = tmp_path / name
    write_records(path, "JSON list" if name == "b.json" else FORMATS[name])
    lines = path.read_text(encoding="utf-8").split("\n")
    text = "".join(line + LINE_ENDS[ends][number % len(LINE_ENDS[ends])] for number, line in enumerate(lines))
    path.write_bytes(text.encode())
    corpus = load_corpus(str(path), cache_dir=str(tmp_path / "cache"))
    assert rows_of(corpus.dataset) == clean_rows and corpus.counts == counts


@pytest.mark.parametrize("name", ["a.fasta", "a.csv"])
def test_a_sequence_of_ten_million_residues_in_one_line(tmp_path, name):
    sequence = "MKVLAAGIVG" * 1_000_000
    (tmp_path / name).write_text(f">a\n{sequence}\n" if name == "a.fasta" else f"id,sequence\na,{sequence}\n")
    (row,) = load_corpus(str(tmp_path / name), streaming=True).dataset
    assert row["length"] == 10_000_000 and row["sequence"] == sequence


def test_a_damaged_folder_is_refused_and_does_not_end_the_process(tmp_path):
    Dataset.from_dict({"sequence": ["MKVLAAGIVG" * 3] * 200}).save_to_disk(str(tmp_path / "good"))
    data = next((tmp_path / "good").glob("*.arrow")).read_bytes()
    for seed in range(20):  # 200 bytes somewhere in the offsets or letters
        folder, draw = tmp_path / str(seed), random.Random(seed)
        shutil.copytree(tmp_path / "good", folder)
        at = draw.randrange(400, len(data) - 1000)
        next(folder.glob("*.arrow")).write_bytes(data[:at] + draw.randbytes(200) + data[at + 200 :])
        with pytest.raises(CorpusError, match=rf"{seed}: .*could not"):
            load_corpus(str(folder), cache_dir=str(tmp_path / "cache"))


# Bytes that barely compress, so that a damaged place is not the last line.
GOOD_GZ = gzip.compress(
    b"".join(b">%d\n%s\n" % (i, random.Random(i).randbytes(20).hex().upper().encode()) for i in range(3000))
)

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
    "blank before the first header": ("x.fasta", b" >a\nMKV\n", "line 1 is ' >a', but must be a header"),
    "blank before a header": ("x.fasta", b">a\nMKV\n >b\nMKV\n", "line 3 is ' >b', but a header must start with"),
    "mark before a header": ("x.fasta", ">a\nMKV\n\ufeff>b\nMKV\n".encode(), "line 3 is '.ufeff>b', but a header"),
    "end of GenBank": ("x.fasta", b">a\n 1 mkv\n//\n", "line 3 is neither a header nor a sequence: '//'"),
    "PIR without an end": (
        "x.fasta",
        b">P1;a\nname\nMKV\n>P1;b\nname\nMKV*\n",
        "line 1 is the header of a PIR record",
    ),
    "PIR without a sequence": ("x.fasta", b">P1;a\nMKV*\n", "line 1 is the header of a PIR record"),
    "PIR that goes on": ("x.fasta", b">P1;a\nname\nMKV*\nLAA\n", "line 4 follows the .* PIR record: 'LAA'"),
    "tsv rows in quotes": ("x.tsv", b'id\tx\tsequence\na\t"x\nb\ty"\tMKV\n', "mark in line 2"),
    "json by column": ("x.json", b'{"sequence": {"0": "MKV"}, "id": {"1": "a"}}', "is JSON by column"),
    "binary": ("x.fasta", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary"),
    "UTF-16": ("x.fasta", ">a\nMKV\n".encode("utf-16"), "UTF-16"),
    "damaged gz": ("x.fasta.gz", b"\x1f\x8b\x08\0garbage", r"compressed file"),
    "bytes changed in gz": ("x.fasta.gz", GOOD_GZ[:2000] + b"\xff" * 40 + GOOD_GZ[2040:], "damaged"),
    "empty parquet": ("x.parquet", b"", "empty"),
    "not parquet": ("x.parquet", b"id,sequence\n", "is not a Parquet file: it is text"),
    "damaged parquet": ("x.parquet", b"PAR1garbage", "could not be read"),
    "empty json": ("x.json", b"", "empty"),
    "empty list": ("x.json", b"[]", "no records"),
    "broken json line": ("x.jsonl", b'{"sequence": "MKVLAAGIVG"}\n{"sequence": \n', "line 2 .*not a JSON object"),
    "broken json list": ("x.json", b'[{"sequence": "MKVLAAGIVG"},\n', "not a JSON list"),
    "json number": ("x.jsonl", b"17\n", "line 1 is not a JSON object"),
    "json no column": ("x.jsonl", b'{"primary": "MKV"}', 'line 1.*no column "sequence".*"primary"'),
    "json wrong type": ("x.jsonl", b'{"sequence": 17}', "record 1: column \"sequence\" contains '17'"),
    "json list of texts": ("x.jsonl", b'{"sequence": ["MKV", "L"]}\n{"sequence": ""}', "record 1: .*list of letters"),
    "empty csv": ("x.csv", b"", "empty"),
    "csv header only": ("x.csv", b"id,sequence\n", "no records"),
    "csv no column": ("x.csv", b"Entry,primary\nP1,MKV\n", 'no column "sequence".*"Entry", "primary"'),
    "csv ragged": ("x.csv", b"id,sequence\na,MKVLAAGIVG\nb\n", "line 3 has 1 field,"),
    "csv open quote": ("x.csv", b'id,sequence\na,"MKVLAAGIVG\n', "line 2 opens a field that does not end"),
    "csv Latin-1": ("x.csv", b"id,sequence\n\xe9,MKVLAAGIVG\n", "UTF-8"),
    "no known ending": ("x.sdf", b"anything", "ending"),
    "parquet gz": ("x.parquet.gz", b"anything", "ending"),
    "csv Latin-1 behind other line ends": ("x.csv", b"id,sequence\r\na,MKV\rb,MKV\n\xe9,MKV\n", "line 4 is not UTF-8"),
    "csv column twice": ("x.csv", b"id,sequence,sequence\na,MKVLAAGIVG,M\n", "'sequence'.*more than once"),
    "csv without sequences": ("x.csv", b"id,sequence\na,\nb,\n", "no record has any residues .2 read.*record 1, 'a'"),
    "json name twice": (
        "x.jsonl",
        b'{"sequence": "MKVLAAGIVG", "sequence": "M"}\n',
        "'sequence' occurs .* more than once",
    ),
    "json nested deeply": ("x.json", b"[" * 200_000, "nested too deeply"),
    "json endless number": ("x.jsonl", b'{"sequence": "MKVLAAGIVG", "id": ' + b"9" * 5000 + b"}", "line 1 .*digits"),
    "json nulls only": ("x.jsonl", b'{"sequence": null}\n{"sequence": ""}\n', "no record has any residues"),
    "headers only": ("x.fasta", b">a\n>b\n>c\n", "no record has any residues .3 read; the first is record 1, 'a'"),
    "no residues": ("x.fasta", b">a\n?????????????\n>b\n123123123123\n", "no record has any residues .2 read"),
    "one byte of gz": ("x.fasta.gz", b"\x1f", "compressed file is damaged"),
    "UTF-32": ("x.fasta", ">a\nMKV\n".encode("utf-32"), "UTF-32"),
    "DNA": ("x.fasta", b">a\nATGGCNTTAGCATACG\n", r"nucleotides.*100\.0%.*allow_nucleotides"),
    "RNA in lower case": ("x.fasta", b">a\nauggcnuuagca--uacg*\n", "nucleotides.*allow_nucleotides"),
    "DNA in a table": ("x.csv", b"id,sequence\na,ATGGCNTTAGCATACG\n", "nucleotides.*allow_nucleotides"),
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


@pytest.mark.parametrize("file_format", ["parquet", "folder"])
def test_missing_column_of_typed_tables(tmp_path, write_records, file_format):
    write_records(tmp_path / "x.parquet", file_format)
    with pytest.raises(CorpusError, match='x.parquet.*no column "primary".*sequence_column.*"id", "sequence"'):
        load_corpus(str(tmp_path / "x.parquet"), sequence_column="primary", cache_dir=str(tmp_path))
