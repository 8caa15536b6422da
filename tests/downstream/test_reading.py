import builtins
import bz2
import gzip
import json
import lzma
import pickle
import sys

import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adversarial_mlm.data import CorpusError
from adversarial_mlm.downstream.reading import read_records

ROWS = [{"primary": "MKV", "y": 1, "other": "a"}, {"primary": "ACD", "y": 2, "other": "b"}]
CSV = "primary,y,other\nMKV,1,a\nACD,2,b\n"
TEXTS = {
    "a.json": json.dumps(ROWS),
    "b.json": json.dumps(ROWS, indent=1),
    "c.json": "\n".join(map(json.dumps, ROWS)),
    "a.jsonl": "\n\n".join(map(json.dumps, ROWS)),
    "a.csv": CSV,
    "a.tsv": CSV.replace(",", "\t"),
}


def read(path, required=("primary", "y"), optional=()):
    return list(read_records(path, required, optional))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", TEXTS)
def test_every_text_format_gives_the_same_records(tmp_path, name, compressed):
    path = tmp_path / (name + ".gz" * compressed)
    path.write_bytes(gzip.compress(TEXTS[name].encode()) if compressed else TEXTS[name].encode())
    records = read(path, optional=["other", "not there"])
    assert [{key: str(value) for key, value in record.items()} for _, record in records] == [
        {"primary": "MKV", "y": "1", "other": "a"},
        {"primary": "ACD", "y": "2", "other": "b"},
    ]
    assert len({where for where, _ in records}) == 2


TABLES = {
    "spare columns of Excel": ("a.csv", "primary,y,,\nMKV,1,,\nACD,2,,\n,,,\n"),
    "rows shorter than the header": ("a.csv", "primary,y,,\nMKV,1\nACD,2\n"),
    "columns of one name that nobody asks for": ("a.csv", "x,primary,x,y\n3,MKV,4,1\n5,ACD,6,2\n"),
    "blanks around names": ("a.csv", " primary, y\nMKV,1\nACD,2\n"),
    "semicolons": ("a.csv", "primary;y\nMKV;1\nACD;2\n"),
    "separator line": ("a.csv", "sep=,\nprimary,y\nMKV,1\nACD,2\n"),
    "tabs in csv": ("a.csv", "primary\ty\nMKV\t1\nACD\t2\n"),
    "commas in tsv": ("a.tsv", "primary,y\nMKV,1\nACD,2\n"),
    "quotes in tsv": ("a.tsv", 'primary\tx\ty\nMKV\t"a\t1\nACD\tb"\t2\n'),
    "old Mac line ends": ("a.csv", "primary,y\rMKV,1\rACD,2\r"),
    "byte order mark": ("a.csv", "\ufeffprimary,y\nMKV,1\nACD,2\n"),
    "JSON by column": ("a.json", '{"primary": {"0": "MKV", "1": "ACD"}, "y": {"0": 1, "1": 2}}'),
    "JSON by column in lists": ("a.json", '{"primary": ["MKV", "ACD"], "y": [1, 2]}'),
    "JSON by row": ("a.json", '{"0": {"primary": "MKV", "y": 1}, "1": {"primary": "ACD", "y": 2}}'),
    "JSON split": ("a.json", '{"columns": ["primary", "y"], "data": [["MKV", 1], ["ACD", 2]]}'),
    "bzip2": ("a.csv", bz2.compress(b"primary,y\nMKV,1\nACD,2\n")),
    "xz in name and content": ("a.csv.xz", lzma.compress(b"primary,y\nMKV,1\nACD,2\n")),
    "gzip twice": ("a.tsv.gz", gzip.compress(gzip.compress(b"primary\ty\nMKV\t1\nACD\t2\n"))),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_as_people_have_them(tmp_path, case):
    name, content = TABLES[case]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    records = [{column: str(value) for column, value in record.items()} for _, record in read(tmp_path / name)]
    assert records == [{"primary": "MKV", "y": "1"}, {"primary": "ACD", "y": "2"}]


def test_whether_a_column_is_there_does_not_depend_on_the_separator(tmp_path):
    (tmp_path / "a.csv").write_text("primary;y\nMKV;1\n")
    assert read(tmp_path / "a.csv", [], ["y"]) == [("line 2", {"y": "1"})]
    assert read(tmp_path / "a.csv", [], ["z"]) == [("line 2", {})]


def test_records_say_where_they_stand(tmp_path):
    for name, expected in {
        "a.csv": ["line 2", "line 3"],
        "a.jsonl": ["line 1", "line 3"],
        "a.json": ["record 1", "record 2"],
    }.items():
        (tmp_path / name).write_text(TEXTS[name])
        assert [where for where, _ in read(tmp_path / name)] == expected


def test_parquet_reads_the_columns_that_are_asked_for(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [
        ("record 1", {"primary": "MKV", "y": 1}),
        ("record 2", {"primary": "ACD", "y": 2}),
    ]
    with pytest.raises(CorpusError, match='no column "z"; the columns are "primary", "y", "other"'):
        read(tmp_path / "a.parquet", ["primary", "z"])


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("layout", ["num_examples", "keys"])
def test_lmdb_folders_are_read_in_the_order_of_their_numbers(tmp_path, write_split, layout, protocol):
    records = [{"primary": "MKV", "y": index} for index in range(13)]
    path = write_split(tmp_path / "a", ".lmdb", records, protocol=protocol, layout=layout)
    assert [record["y"] for _, record in read(path)] == list(range(13))
    assert [where for where, _ in read(path)][:2] == ["entry '0'", "entry '1'"]


def test_lmdb_files_without_a_folder_are_read(tmp_path):
    with (
        lmdb.open(str(tmp_path / "a.lmdb"), subdir=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"num_examples", pickle.dumps(1))
        transaction.put(b"0", pickle.dumps(ROWS[0]))
    assert read(tmp_path / "a.lmdb") == [("entry '0'", {"primary": "MKV", "y": 1})]


def test_reading_leaves_the_lmdb_folder_alone(tmp_path, write_split):
    path = write_split(tmp_path / "a", ".lmdb", ROWS)
    (path / "lock.mdb").unlink()
    before = (path / "data.mdb").read_bytes()
    path.chmod(0o500)
    assert len(read(path)) == 2
    path.chmod(0o700)
    assert [item.name for item in path.iterdir()] == ["data.mdb"]
    assert (path / "data.mdb").read_bytes() == before


def test_a_hostile_lmdb_entry_is_refused_by_name(tmp_path, write_split):
    marker = tmp_path / "marker"

    class Payload:
        def __reduce__(self):
            return builtins.open, (str(marker), "w")

    path = write_split(tmp_path / "a", ".lmdb", [ROWS[0], {**ROWS[1], "y": Payload()}])
    with pytest.raises(CorpusError, match=r"a\.lmdb: the entry '1' was not read: it asks for '\w+\.open'"):
        read(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "no entry 'num_examples'"),
        ({b"num_examples": pickle.dumps(0)}, "contains no records"),
        ({b"num_examples": pickle.dumps(-1)}, '"num_examples" is not a number of records'),
        ({b"num_examples": pickle.dumps("3")}, '"num_examples" is not a number of records'),
        ({b"num_examples": pickle.dumps(2), b"0": pickle.dumps(ROWS[0])}, "no entry '1'"),
        ({b"num_examples": pickle.dumps(1), b"0": pickle.dumps([1])}, "entry '0' must be a record"),
        ({b"num_examples": pickle.dumps(1), b"0": b"garbage"}, "entry '0' was not read: it is not a pickle"),
        (
            {b"num_examples": pickle.dumps(1), b"0": pickle.dumps({"primary": "M"})},
            "entry '0': there is no column \"y\"",
        ),
        ({b"keys": pickle.dumps(["0"])}, '"keys" is not a list of keys'),
    ],
)
def test_wrong_lmdb_folders_are_refused(tmp_path, entries, message):
    path = tmp_path / "x.lmdb"
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        for key, value in entries.items():
            transaction.put(key, value)
    with pytest.raises(CorpusError, match=rf"x\.lmdb: .*{message}"):
        read(path)


def test_an_incomplete_lmdb_file_is_refused(tmp_path, write_split):
    path = write_split(tmp_path / "a", ".lmdb", [{"primary": "MKV" * 3000, "y": index} for index in range(50)])
    data = (path / "data.mdb").read_bytes()
    for share in (0.3, 0.6, 0.9):
        (path / "data.mdb").write_bytes(data[: int(share * len(data))])
        with pytest.raises(CorpusError, match=r"a\.lmdb: the file ends too early"):
            read(path)


def test_a_column_that_parquet_has_twice_is_refused_if_asked_for(tmp_path):
    table = pa.Table.from_arrays([pa.array(["M"]), pa.array([1]), pa.array([2])], names=["primary", "y", "y"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", ["primary"]) == [("record 1", {"primary": "M"})]
    assert read(tmp_path / "a.parquet", [], ["z"]) == [("record 1", {})]
    with pytest.raises(CorpusError, match=r"a\.parquet: the column 'y' occurs more than once"):
        read(tmp_path / "a.parquet")


def test_lmdb_missing_says_how_to_install_it(tmp_path, write_split, monkeypatch):
    path = write_split(tmp_path / "a", ".lmdb", ROWS)
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(CorpusError, match=r"a\.lmdb: .*pip install 'adversarial-mlm\[tape\]'"):
        read(path)


WRONG_FILES = {
    "empty": ("x.json", b"", "empty"),
    "blank": ("x.jsonl", b" \n \n", "no records"),
    "empty list": ("x.json", b"[]", "no records"),
    "header only": ("x.csv", b"primary,y\n", "no records"),
    "broken list": ("x.json", b'[{"primary": "M", "y": 1},', "not a JSON list"),
    "broken line": ("x.jsonl", b'{"primary": "M", "y": 1}\n{"primary"\n', "line 2 is not a JSON object"),
    "pretty objects": ("x.jsonl", b'{\n"primary": "M", "y": 1}\n{\n}\n', "not a JSON object .*line 3"),
    "deep JSON": ("x.json", b"[" * 100_000, "not a JSON list"),
    "no record": ("x.json", b"[1, 2]", "record 1 must be a record with columns, but is '1'"),
    "no column": ("x.json", b'[{"primary": "M"}]', 'record 1: there is no column "y"; the columns are "primary"'),
    "later no column": ("x.jsonl", b'{"primary": "M", "y": 1}\n{"y": 1}\n', 'line 2: there is no column "primary"'),
    "ragged": ("x.csv", b"primary,y\nM\n", "line 2 has 1 field,"),
    "two of a name": ("x.csv", b"primary,y,y\nM,1,2\n", "the column 'y' occurs more than once"),
    "blank and none": ("x.csv", b"primary,y, y\nM,1,2\n", "'y' occurs more than once, with and without blanks"),
    "other case": ("x.csv", b"Primary,y\nM,1\n", 'no column "primary"; .*: did you mean "Primary"'),
    "rows in quotes": ("x.csv", b'primary,x,y\nMKV,"a,1\nACD,b",2\n', "mark in line 2 .* ends in line 3"),
    "by column, not equal": ("x.json", b'{"primary": ["MKV", "ACD"], "y": [1]}', "by column, .* same rows"),
    "Excel": ("x.csv", b"PK\3\4", "compressed file is damaged"),
    "damaged gz": ("x.jsonl.gz", b"\x1f\x8b\x08\0garbage", "compressed file"),
    "binary": ("x.json", b"\0\1\2", "binary"),
    "parquet": ("x.parquet", b"PAR1garbage", "could not be read"),
    "empty parquet": ("x.parquet", b"", "empty"),
    "an LMDB file of garbage": ("x.lmdb", b"garbage" * 2000, "could not be opened as an LMDB folder"),
    "unknown": ("x.pkl", b"", "not that of a known format"),
    "compressed parquet": ("x.parquet.gz", b"", "not that of a known format"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_files_are_refused_by_name(tmp_path, case):
    name, data, message = WRONG_FILES[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CorpusError, match=rf"{name}: .*{message}") as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="there is no such file"):
        read(tmp_path / "x.json")
    with pytest.raises(CorpusError, match="this is a folder: name a file in it"):
        read(tmp_path)
    (tmp_path / "y.lmdb").mkdir()
    with pytest.raises(CorpusError, match="could not be opened as an LMDB folder"):
        read(tmp_path / "y.lmdb")
    assert not list((tmp_path / "y.lmdb").iterdir())
