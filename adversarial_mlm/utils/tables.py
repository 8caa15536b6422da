"""Tables as text, for a terminal and in Markdown."""

from collections.abc import Sequence


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]], rule: bool = True) -> str:
    """Return a table for a terminal, with left-aligned columns separated by two spaces.

    Args:
        headers (`Sequence[str]`): The header of each column.
        rows (`Sequence[Sequence[str]]`): The cells of each row, as many as there are headers.
        rule (`bool`, *optional*, defaults to `True`): Whether a line of dashes follows the headers.
    """
    widths = _widths([headers, *rows])
    lines = [_join(row, widths, "  ").rstrip() for row in (headers, *rows)]
    if rule:
        lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, padded: bool = False, numbers: bool = False
) -> str:
    """Return a Markdown table. In the cells, line breaks become spaces, and bars are escaped.

    Args:
        headers (`Sequence[str]`): The header of each column.
        rows (`Sequence[Sequence[str]]`): The cells of each row, as many as there are headers.
        padded (`bool`, *optional*, defaults to `False`): Whether to align the columns of the source with spaces.
        numbers (`bool`, *optional*, defaults to `False`): Whether to align all columns but the first to the right.
    """
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in (headers, *rows)]
    widths = [max(3, width) for width in _widths(cells)] if padded else [3] * len(headers)
    right = [numbers and column > 0 for column in range(len(headers))]
    rule = ["-" * (width - 1) + (":" if to_right else "-") for width, to_right in zip(widths, right, strict=True)]
    if not padded:
        widths = [0] * len(headers)
    return "\n".join(f"| {_join(row, widths, ' | ', right)} |" for row in (cells[0], rule, *cells[1:]))


def cell(value: float | None, digits: int = 6) -> str:
    """Return a number for a table; empty if there is none."""
    return "" if value is None or value != value else f"{value:.{digits}g}"


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _join(row: Sequence[str], widths: Sequence[int], separator: str, right: Sequence[bool] | None = None) -> str:
    right = [False] * len(row) if right is None else right
    return separator.join(
        cell.rjust(width) if to_right else cell.ljust(width)
        for cell, width, to_right in zip(row, widths, right, strict=True)
    )
