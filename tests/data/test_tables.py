import csv
import io

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adversarial_mlm.data import CorpusError, tables
from adversarial_mlm.data.tables import column_index, csv_rows, find_column, json_records


@pytest.fixture
def rows(tmp_path):
    """Write a table to a file, and read its rows."""

    def rows(text, wanted=("sequence",), delimiter=None, numbers=False):
        path = tmp_path / "a.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        found = list(csv_rows(str(path), wanted, delimiter))
        return found if numbers else [fields for _, fields in found]

    return rows


HEADER = ["id", "name", "sequence"]
TABLES = {
    "commas": ("id,name,sequence\na,x,MKV\n", [["a", "x", "MKV"]]),
    "tabs": ("id\tname\tsequence\na\tx\tMKV\n", [["a", "x", "MKV"]]),
    "semicolons": ("id;name;sequence\na;1,5;MKV\n", [["a", "1,5", "MKV"]]),
    "bars": ("id|name|sequence\na|x|MKV\n", [["a", "x", "MKV"]]),
    "separator line": ("sep=;\nid;name;sequence\na;x;MKV\n", [["a", "x", "MKV"]]),
    "separator line in quotes": ('"sep=,"\r\nid,name,sequence\r\na,x,MKV\r\n', [["a", "x", "MKV"]]),
    "separator line with a tab": ("SEP=\t\nid\tname\tsequence\na\tx\tMKV\n", [["a", "x", "MKV"]]),
    "old Mac line ends": ("id,name,sequence\ra,x,MKV\rb,y,MKA\r", [["a", "x", "MKV"], ["b", "y", "MKA"]]),
    "byte order mark": ("\ufeffid,name,sequence\na,x,MKV\n", [["a", "x", "MKV"]]),
    "blank lines": ("\n \nid,name,sequence\n\na,x,MKV\n  \n\t\n,,\n , ,\n", [["a", "x", "MKV"]]),
    "empty fields at the end": ("id,name,sequence\na,x,MKV,,\nb,y,MKA,\n", [["a", "x", "MKV"], ["b", "y", "MKA"]]),
    "quotes": ('id,name,sequence\na,"x, ""y""",MKV\n', [["a", 'x, "y"', "MKV"]]),
    "quotes around line ends": ('id,name,sequence\na,"x, y\nz",MKV\n', [["a", "x, y\nz", "MKV"]]),
    "quotes inside a field": ('id,name,sequence\na,5"-x,MKV\n', [["a", '5"-x', "MKV"]]),
    "tabs, quoted": ('"id"\t"name"\t"sequence"\n"a"\t"x ""y"""\t"MKV"\n', [["a", 'x "y"', "MKV"]]),
    "tabs, quotes around tabs": ('id\tname\tsequence\na\t"x\ty"\tMKV\n', [["a", "x\ty", "MKV"]]),
    "tabs, quotes around line ends": ('id\tname\tsequence\na\t"x\r\ny"\tMKV\r\n', [["a", "x\ny", "MKV"]]),
    "tabs, not quoted": (
        'id\tname\tsequence\na\t"x\tMKV\nb\ty"\tMKA\nc\t"x" y\tMKC\n',
        [["a", '"x', "MKV"], ["b", 'y"', "MKA"], ["c", '"x" y', "MKC"]],
    ),
    "tabs, a quotation mark in every row": (
        'id\tname\tsequence\na\t"x\tMKV\nb\t"y\tMKA\nc\t"z\tMKC\n',
        [["a", '"x', "MKV"], ["b", '"y', "MKA"], ["c", '"z', "MKC"]],
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_as_people_have_them(rows, case):
    text, expected = TABLES[case]
    assert rows(text) == [HEADER, *expected]


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_long_fields_are_read_with_and_without_quotation_marks(rows, delimiter):
    sequence = "MKV" * 100_000
    for field in (sequence, f'"{sequence}"'):
        assert rows(f"id{delimiter}sequence\na{delimiter}{field}\n") == [["id", "sequence"], ["a", sequence]]
    assert rows(f"sequence{delimiter}{sequence}\nM{delimiter}K\n") == [["sequence", sequence], ["M", "K"]]


def test_a_header_that_is_too_long_is_refused(rows, monkeypatch):
    monkeypatch.setattr(tables, "_LONGEST_FIELD", 0)
    before = csv.field_size_limit(1000)
    try:
        with pytest.raises(CorpusError, match="a.csv: the header line could not be read .field larger"):
            rows("x" * 2000 + "\nMKV\n")
    finally:
        csv.field_size_limit(before)


def test_the_separator_is_the_one_that_gives_the_wanted_columns(rows):
    assert rows("id;x,sequence\na;b,MKV\n", ("sequence",)) == [["id;x", "sequence"], ["a;b", "MKV"]]
    assert rows("id;x,sequence\na;b,MKV\n", ("id",)) == [["id", "x,sequence"], ["a", "b,MKV"]]
    assert rows("a,b;c;d\n1,2;3;4\n", ("z",)) == [["a,b", "c", "d"], ["1,2", "3", "4"]], "else the most columns"
    assert rows("sequence\nM;K\n") == [["sequence"], ["M;K"]]


def test_columns_without_a_name_may_be_shorter_than_the_header(rows):
    assert rows("sequence,y,,\nMKV,1,,\nMKA,2\n") == [
        ["sequence", "y", "", ""],
        ["MKV", "1", "", ""],
        ["MKA", "2", "", ""],
    ]


def test_a_blank_field_in_a_table_of_one_column_is_a_record(rows):
    assert rows('sequence\nMKV\n""\n \n\nMKA\n') == [["sequence"], ["MKV"], [""], [" "], ["MKA"]]


def test_rows_have_the_number_of_their_last_line(rows):
    text = 'sep=,\n\nid,name,sequence\na,"x\ny",MKV\n\nb,y,MKA\n'
    assert [number for number, _ in rows(text, numbers=True)] == [3, 5, 7]


WRONG_TABLES = {
    "ragged": ("id,sequence\na,MKV\nb\n", "line 3 has 1 field, but the header has 2"),
    "too many": ("id,sequence\na,MKV,x\n", "line 2 has 3 fields, but the header has 2"),
    "blanks": ('"sequence" "y"\n"1" "MKV" 0.5\n', "the columns are separated by blanks"),
    "header twice": ("id,sequence\na,MKV\nid,sequence\nb,MKV\n", "line 3 repeats the header"),
    "header twice, marked": ("sequence\nMKV\n\ufeffsequence\nMKV\n", "line 3 repeats the header"),
    "rows in quotes": ('id,name,sequence\na,"x,MKV\nb,y,MKA\nc,z",MKC\n', "mark in line 2 .* ends in line 4"),
    "rows in quotes, semicolons": ('id;name;sequence\na;"x;MKV\nb;z";MKC\n', "mark in line 2 .* ends in line 3"),
    "rows in quotes, tabs": ('id\tname\tsequence\na\t"x\nb\ty"\tMKV\n', "mark in line 2 .* ends in line 3"),
    "open": ('id,name,sequence\na,x,MKV\na,"x,MKV\nb,y,MKA\n', "mark in line 3 opens a field that does not end"),
    "open, tabs": ('id\tname\tsequence\na\t"x\n', "mark in line 2 opens a field that does not end"),
    "open for long": ('id,sequence\na,"' + "MKV\n" * 2000, "mark in line 2 opens a field that does not end"),
    "in the wrong place": ('id,sequence\na,MKV\n"5"-x",MKV\n', "mark in line 3 is in the wrong place"),
    "wrong place later": ('id,sequence\n"x\ny"z,MKV\n', "mark in line 2 is in the wrong place"),
}


@pytest.mark.parametrize("case", WRONG_TABLES)
def test_tables_that_may_lose_rows_are_refused_with_the_line(rows, case):
    text, message = WRONG_TABLES[case]
    with pytest.raises(CorpusError, match=f"a.csv: .*{message}") as caught:
        rows(text)
    assert "\n" not in str(caught.value)


NAMES = st.lists(st.text("\"\t\n,;|' a", max_size=6), min_size=1, max_size=5)


@pytest.mark.parametrize("dialect", ["comma", "semicolon", "all quoted", "tab", "tab, not quoted"])
def test_no_row_is_lost_whatever_the_names_contain(rows, dialect):
    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(NAMES)
    @example(['"', "a", '"'])
    @example(['"a', '"', 'a"'])
    def run(names):
        if dialect == "tab":  # fields with tabs and line ends can look like several rows
            names = [name.replace("\t", " ") if "\n" in name else name for name in names]
        table = [HEADER, *([str(row), name, "MKV" + "A" * row] for row, name in enumerate(names))]
        text = io.StringIO()
        if dialect == "tab, not quoted":
            names = [name.replace("\t", " ").replace("\n", " ") for name in names]
            text.write(
                "".join(f"{row[0]}\t{name}\t{row[2]}\n" for row, name in zip(table, ["name", *names], strict=True))
            )
        else:
            delimiter = {"semicolon": ";", "tab": "\t"}.get(dialect, ",")
            quoting = csv.QUOTE_ALL if dialect == "all quoted" else csv.QUOTE_MINIMAL
            csv.writer(text, delimiter=delimiter, quoting=quoting).writerows(table)
        try:
            found = rows(text.getvalue())
        except CorpusError:
            assert any("\n" in name for name in names), "only line ends inside of fields may be refused"
            return
        assert [[row[0], row[2]] for row in found] == [[row[0], row[2]] for row in table]
        if dialect != "tab, not quoted":
            assert found == table

    run()


def test_columns_are_found_with_and_without_blanks():
    assert find_column("a", ["", " sequence ", "y", "y"], "sequence") == 1
    assert find_column("a", ["sequence", "Sequence"], "sequence") == 0
    assert find_column("a", ["x"], "sequence") is None
    with pytest.raises(CorpusError, match="a: the column 'y' .o. occurs more than once: rename one"):
        find_column("a", ["y", "y"], "y", "o")
    with pytest.raises(CorpusError, match="a: the column 'y' occurs more than once, with and without blanks"):
        find_column("a", ["y", " y"], "y")
    with pytest.raises(CorpusError, match='a: there is no column "sequence" .o.; .* "Sequence ": did you mean "Seq'):
        column_index("a", ["id", "Sequence "], "sequence", "o")


@pytest.fixture
def records(tmp_path):
    """Write JSON to a file, and read its records."""

    def records(text, wanted=("sequence", "y")):
        (tmp_path / "a.json").write_text(text)
        return list(json_records(str(tmp_path / "a.json"), wanted))

    return records


ROWS = [{"sequence": "MKV", "y": 1}, {"sequence": "MKA", "y": 2}]
DOCUMENTS = {
    "list": '[{"sequence": "MKV", "y": 1},\n {"sequence": "MKA", "y": 2}]',
    "by column": '{"sequence": {"0": "MKV", "1": "MKA"}, "y": {"0": 1, "1": 2}}',
    "by column in lists": '{"sequence": ["MKV", "MKA"], "y": [1, 2]}',
    "by row": '{"0": {"sequence": "MKV", "y": 1}, "1": {"sequence": "MKA", "y": 2}}',
    "split": '{"columns": ["sequence", "y"], "index": [0, 1], "data": [["MKV", 1], ["MKA", 2]]}',
    "with a schema": '{"schema": {}, "data": [{"sequence": "MKV", "y": 1}, {"sequence": "MKA", "y": 2}]}',
    "in several lines": '\n{\n "sequence": {"0": "MKV",\n\n "1": "MKA"},\n "y": {"0": 1, "1": 2}\n}\n',
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_json_tables_as_pandas_writes_them(records, case):
    assert records(DOCUMENTS[case]) == [("record 1", ROWS[0]), ("record 2", ROWS[1])]


def test_one_json_record_is_not_a_table(records):
    letters = {"sequence": ["M", "K"], "y": ["a", "b"]}
    assert records('{"sequence": ["M", "K"], "y": ["a", "b"]}\n') == [("line 1", letters)]
    assert records('{"sequence": "MKV", "data": [1]}') == [("line 1", {"sequence": "MKV", "data": [1]})]
    assert records('{\n"sequence": "MKV"\n}\n') == [("line 1", {"sequence": "MKV"})]
    assert [where for where, _ in records('\n{"y": [1]}\n\n{"y": {"a": 1}}\n')] == ["line 2", "line 4"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"sequence": {"0": "MKV"}, "y": {"1": 1}}', "by column, but its columns do not have the same rows"),
        ('{"sequence": {"0": "MKV"}, "y": 1}', "by column, but its columns do not have the same rows"),
        ('{"sequence": ["MKV", "MKA"], "y": [1]}', "by column, but its columns do not have the same rows"),
        ('{"columns": ["sequence", "y"], "data": [["MKV"]]}', 'the rows in "data" do not have one value for each'),
        ('{"sequence":\n"MKV"\n', "not a JSON object .*line 3"),
        ('{"sequence": }\n{"sequence": "MKV"}', "line 1 is not a JSON object"),
        ('[{"sequence": "MKV"}\n\n{"sequence": "MKA"}]', "not a JSON list .*line 3"),
        ("{\n}\n" * 2000, "not a JSON object .*line 3"),
    ],
)
def test_json_that_is_no_table_is_refused(records, text, message):
    with pytest.raises(CorpusError, match=f"a.json: .*{message}"):
        records(text)
