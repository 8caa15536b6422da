"""Rows of delimited text, records of JSON, and columns by name. Invalid input raises [`CorpusError`]."""

import csv
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from adversarial_mlm.data.text_files import read_lines
from adversarial_mlm.utils.counts import count
from adversarial_mlm.utils.errors import CorpusError, clip, one_line, shorten

_DELIMITERS = (",", "\t", ";", "|")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)

# Characters in a CSV field, and lines of a row. Bounded, because an unclosed quotation mark takes in the rest.
_LONGEST_FIELD = 1 << 26
_MOST_LINES = 1000

# Characters of a first line of JSON that may be the beginning of an object of several lines.
_LONGEST_FIRST_LINE = 1000

_COLUMNS_LISTED = 30


def find_column(path: str, columns: Sequence[str], asked: str, option: str = "") -> int | None:
    """Return the index of a column by its name, with or without blanks around it; `None` if it is missing.

    Args:
        path (`str`): The file, for messages.
        columns (`Sequence[str]`): The names of all columns. Those that are not asked for may repeat.
        asked (`str`): The name to find.
        option (`str`, *optional*): The option that names the column, for messages.

    Raises:
        [`CorpusError`]: If there is more than one column of this name.
    """
    found = [index for index, name in enumerate(columns) if name == asked or name.strip() == asked.strip()]
    if len(found) > 1:
        option = option and f" ({option})"
        blanks = "" if {columns[index] for index in found} == {asked} else ", with and without blanks"
        raise CorpusError(f"{path}: the column {shorten(asked)}{option} occurs more than once{blanks}: rename one.")
    return found[0] if found else None


def column_index(path: str, columns: Sequence[str], asked: str, option: str = "") -> int:
    """Return the index of a column as [`find_column`] does.

    Raises:
        [`CorpusError`]: If the column is missing, or if there is more than one of this name.
    """
    found = find_column(path, columns, asked, option)
    if found is not None:
        return found
    listed = ", ".join(f'"{_brief(name)}"' for name in columns[:_COLUMNS_LISTED])
    listed += ", ..." if len(columns) > _COLUMNS_LISTED else ""
    alike = next((name for name in columns if name.strip().lower() == asked.strip().lower()), None)
    hint = "." if alike is None else f': did you mean "{_brief(alike)}"?'
    option = option and f" ({option})"
    raise CorpusError(f'{path}: there is no column "{asked}"{option}; the columns are {listed or "none"}{hint}')


def _brief(text: str) -> str:
    """Return the beginning of a text from the input, in any language, without control characters."""
    text = clip(text, 40)
    return text if text.isprintable() else ascii(text)[1:-1]


def csv_rows(path: str, wanted: Sequence[str] = (), delimiter: str | None = None) -> Iterator[tuple[int, list[str]]]:
    r"""Yield (line number, fields) of each row, header first. All rows have as many fields as the header.

    The columns are separated by commas, tabs, semicolons or `|`. The separator is what a first line `sep=;` says, as
    Excel writes it, or else what gives the wanted columns. Blank lines are skipped, and also rows of several fields
    that are all blank.

    In a table with tabs, a quotation mark only counts if it encloses a field, because most such tables do not quote.
    With other separators, quotation marks hide separators and line ends, as in RFC 4180.

    Args:
        path (`str`): The file.
        wanted (`Sequence[str]`, defaults to none): Columns that the caller needs.
        delimiter (`str`, *optional*): The separator if several give the wanted columns; by default a tab if the
            header has one, else a comma.

    Raises:
        [`CorpusError`]: If the file cannot be read. If a row has more or fewer fields than the header, or repeats it.
            If a quotation mark may have taken in whole rows.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    lines = read_lines(path, newline="")
    first_line, header, separator = _header(lines)
    if not header:
        return
    delimiter = separator or _delimiter(path, header, wanted, delimiter or ("\t" if "\t" in header else ","))
    columns: list[str] | None = None
    numbered = enumerate(itertools.chain([header], lines), start=first_line)
    for number, line in numbered:
        line = line.rstrip("\r\n")
        if '"' in line:
            number, fields = _quoted_row(path, number, line, numbered, delimiter, columns)
        else:
            fields = line.split(delimiter)
        if not line or (not fields[0].strip() and _is_blank(fields, columns)):
            continue
        if columns is None:
            columns = fields
        elif len(fields) != len(columns):
            fields = _fit(path, number, fields, columns)
        elif fields[-1].endswith(columns[-1]) and [fields[0].lstrip("\ufeff"), *fields[1:]] == columns:
            raise CorpusError(f"{path}: line {number:,} repeats the header, as in two joined files: remove the line.")
        yield number, fields


def _header(lines: Iterator[str]) -> tuple[int, str, str | None]:
    """Return the number and text of the header line, and the separator if the first line names it."""
    separator = None
    for number, line in enumerate(lines, start=1):
        named = _SEPARATOR_LINE.fullmatch(line.rstrip("\r\n")) if number == 1 else None
        if named is not None:
            separator = named[1]
        elif line.strip():
            return number, line, separator
    return 0, "", separator


def _delimiter(path: str, header: str, wanted: Sequence[str], default: str) -> str:
    """Return the separator that gives the wanted columns, else the one that gives the most columns."""
    try:
        split = {
            delimiter: [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
            for delimiter in dict.fromkeys((default, *_DELIMITERS))
        }
    except csv.Error as error:
        raise CorpusError(f"{path}: the header line could not be read ({one_line(error)}).") from error
    for delimiter, names in split.items():
        if {name.strip() for name in wanted} <= set(names):
            return delimiter
    if wanted and set(wanted) <= {name.strip('"') for name in header.split()}:
        raise CorpusError(f"{path}: the columns are separated by blanks: separate them by commas or tabs.")
    return max(split, key=lambda delimiter: len(split[delimiter]))


def _is_blank(fields: list[str], columns: list[str] | None) -> bool:
    """Whether a row is blank; in a table of one column, a blank field is a record."""
    return max(len(fields), len(columns or ())) > 1 and not any(map(str.strip, fields))


def _fit(path: str, number: int, fields: list[str], columns: list[str]) -> list[str]:
    """Remove or add empty fields at the end of a row, if they belong to columns without a name."""
    width = len(columns)
    if not any(map(str.strip, fields[width:])) and not any(map(str.strip, columns[len(fields) :])):
        return (fields + [""] * width)[:width]
    fields_found = count(len(fields), "field")
    raise CorpusError(f"{path}: line {number:,} has {fields_found}, but the header has {width}.")


def _quoted_row(
    path: str,
    begins: int,
    line: str,
    following: Iterator[tuple[int, str]],
    delimiter: str,
    columns: list[str] | None,
) -> tuple[int, list[str]]:
    """Read a row with quotation marks, and the lines that belong to it: (number of its last line, fields)."""
    lines, width = [line], len(columns or ())
    if delimiter == "\t":
        fields = line.split(delimiter)
        if not width or len(fields) == width:
            return begins, [_unquoted(field) for field in fields]
    while True:
        try:
            fields = next(csv.reader(["\n".join(lines)], delimiter=delimiter, strict=True))
            break
        except csv.Error as error:
            # the standard library has no other sign of a field that continues
            unclosed = "unexpected end" in str(error)
            if not unclosed and delimiter == "\t" and len(lines) == 1:
                return begins, fields  # the quotation marks are part of the text
            number, more = next(following, (0, "")) if unclosed else (0, "")
            if not number or len(lines) == _MOST_LINES:
                reason = (
                    "opens a field that does not end" if unclosed else f"is in the wrong place ({one_line(error)})"
                )
                raise CorpusError(f"{path}: a quotation mark in line {begins:,} {reason}: remove it.") from error
            lines.append(more.rstrip("\r\n"))
    if len(lines) > 1 and width > 1:
        tabs_inside = any("\n" in field and "\t" in field for field in fields) if delimiter == "\t" else False
        if tabs_inside or all(line.count(delimiter) == width - 1 for line in lines):
            raise CorpusError(
                f"{path}: a quotation mark in line {begins:,} opens a field that ends in line {number:,}, but these "
                "lines may be separate rows: remove the quotation mark, or the line ends inside the field."
            )
    return begins + len(lines) - 1, fields


def _unquoted(field: str) -> str:
    """Remove quotation marks that enclose a field; others are part of the text."""
    inside = field[1:-1].replace('""', "")
    if len(field) < 2 or not field.startswith('"') or not field.endswith('"') or '"' in inside:
        return field
    return field[1:-1].replace('""', '"')


def json_records(path: str, wanted: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """Yield (location, record) from JSON lines, or from one JSON document, which is loaded into memory as a whole.

    The document is a list of records, or a table as pandas writes it: by column (`{"sequence": {"0": ...}}` or
    `{"sequence": [...]}`), by row, split, or with the records in `data`.

    Args:
        path (`str`): The file.
        wanted (`Sequence[str]`, defaults to none): Columns that the caller needs; the first of them tells a table by
            column from a record.

    Raises:
        [`CorpusError`]: If the file cannot be read, is not JSON, or is a table whose columns differ in their rows.
    """
    numbered = enumerate(read_lines(path), start=1)
    lines = ((number, line) for number, line in numbered if line.strip())
    number, line = next(lines, (0, ""))
    if not line:
        return
    document: Any
    if line.lstrip().startswith("[") or _is_incomplete(line):
        text = line + "".join(more for _, more in numbered)
        document = _parsed(path, number, text, "list" if line.lstrip().startswith("[") else "object")
    else:
        document = _parsed(path, number, line)
        second = next(lines, None)
        if second is not None:
            yield f"line {number:,}", document
            for number, line in itertools.chain([second], lines):
                yield f"line {number:,}", _parsed(path, number, line)
            return
    records = _rows_of_table(path, document, wanted) if isinstance(document, dict) else document
    if isinstance(records, list):
        yield from ((f"record {index:,}", record) for index, record in enumerate(records, start=1))
    else:
        yield f"line {number:,}", document


def _is_incomplete(line: str) -> bool:
    """Whether a first line is only the beginning of a JSON object."""
    if len(line) > _LONGEST_FIRST_LINE or not line.lstrip().startswith("{"):
        return False
    try:
        json.loads(line)
    except json.JSONDecodeError as error:
        return error.pos >= len(line.rstrip())
    except (ValueError, RecursionError):
        pass
    return False


def _parsed(path: str, number: int, text: str, document: str = "") -> Any:
    """Parse one line, or a document that begins in line `number`."""
    try:
        return json.loads(text, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        reason = one_line(error)
        if isinstance(error, RecursionError):
            reason = "it is nested too deeply"
        elif isinstance(error, json.JSONDecodeError):
            reason = f"{error.msg} at line {number - 1 + error.lineno:,}" if document else error.msg
        where = f"not a JSON {document}" if document else f"line {number:,} is not a JSON object"
        raise CorpusError(f"{path}: {where} ({reason}).") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object, and refuse duplicate names, of which Python would silently keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {shorten(max(names, key=names.count))} occurs in one object more than once")
    return found


def _rows_of_table(path: str, table: dict[str, Any], wanted: Sequence[str]) -> list[Any] | None:
    """Return the records of a table that is one JSON object; `None` if the object is a record itself."""
    column = wanted[0] if wanted else None
    data, values = table.get("data"), table.get(column) if column is not None else None
    if column not in table and isinstance(data, list):
        names = table.get("columns")
        if not isinstance(names, list):
            return data
        if not all(isinstance(row, list) and len(row) == len(names) for row in data):
            raise CorpusError(f'{path}: the rows in "data" do not have one value for each name in "columns".')
        return [dict(zip(names, row, strict=True)) for row in data]
    if column not in table and table and all(isinstance(row, dict) and column in row for row in table.values()):
        return list(table.values())
    if isinstance(values, dict):
        if not all(isinstance(cells, dict) and cells.keys() == values.keys() for cells in table.values()):
            raise CorpusError(f"{path}: is JSON by column, but its columns do not have the same rows.")
        return [{name: cells[row] for name, cells in table.items()} for row in values]
    # a list of letters is the sequence of one record
    if isinstance(values, list) and any(isinstance(value, str) and len(value) > 1 for value in values):
        if all(isinstance(cells, list) and len(cells) == len(values) for cells in table.values()):
            return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
        if len(values) > 1:
            raise CorpusError(f"{path}: is JSON by column, but its columns do not have the same rows.")
    return None
