"""Cut a batch by length into chunks, each as wide as its longest row, to reduce padding.

An update keeps its rows and their masks (random numbers are keyed by row), and its loss is a sum over all rows. Only
the cost changes. Unlike batches grouped by length, no update contains only long or only short proteins.
"""

import heapq
from collections.abc import Mapping, Sequence

import numpy as np
import torch


def chunk_sizes(lengths: Sequence[int], overhead: int) -> list[int]:
    """Find the cheapest cut of sorted rows: the cost is padded tokens, plus `overhead` tokens per chunk.

    Rows of equal length stay together.

    Args:
        lengths (`Sequence[int]`): Tokens of every row, longest first.
        overhead (`int`): Fixed cost of a chunk, in tokens.

    Returns:
        `list[int]`: Number of rows of each chunk, in order; the sum is `len(lengths)`.
    """
    rows = np.asarray(lengths, dtype=np.int64)
    if not len(rows):
        return []
    starts = np.flatnonzero(np.diff(rows, prepend=rows[0] + 1))  # first row of each length
    ends = np.append(starts[1:], len(rows))
    tails = np.zeros(len(starts) + 1, dtype=np.int64)  # lowest cost of the rows from each length to the last
    nexts = np.empty(len(starts), dtype=np.int64)
    for first in range(len(starts) - 1, -1, -1):
        costs = overhead + rows[starts[first]] * (ends[first:] - starts[first]) + tails[first + 1 :]
        best = int(costs.argmin())
        tails[first], nexts[first] = costs[best], first + 1 + best
    sizes, first = [], 0
    while first < len(starts):
        sizes.append(int(ends[nexts[first] - 1] - starts[first]))
        first = nexts[first]
    return sizes


def cut_by_length(
    batch: Mapping[str, torch.Tensor], overhead: int, multiple: int = 1, most_tokens: int | None = None
) -> list[dict[str, torch.Tensor]]:
    """Cut a padded batch into chunks of rows of similar length.

    Args:
        batch (`Mapping[str, torch.Tensor]`): Tensors on the CPU of shape `(batch, length)` or `(batch,)`. Its
            `attention_mask` must be left-aligned.
        overhead (`int`): See [`chunk_sizes`].
        multiple (`int`, *optional*, defaults to 1): Widths are multiples of this, if the batch is wide enough.
        most_tokens (`int`, *optional*): Largest number of tokens of a chunk, padding included; a row with more is a
            chunk of its own.

    Returns:
        `list[dict[str, torch.Tensor]]`: The chunks, widest first. Each row is in exactly one.
    """
    lengths, order = batch["attention_mask"].sum(dim=1).sort(descending=True, stable=True)
    most = batch["attention_mask"].shape[1]
    widths = [min(-(-length // multiple) * multiple, most) for length in lengths.tolist()]
    chunks, first = [], 0
    for size in chunk_sizes(widths, overhead):
        stop, width = first + size, widths[first]
        step = size if most_tokens is None else max(most_tokens // width, 1)
        chunks += [rows_of(batch, order[start : min(start + step, stop)], width) for start in range(first, stop, step)]
        first = stop
    return chunks


def cut_by_tokens(batch: Mapping[str, torch.Tensor], most_tokens: int) -> list[dict[str, torch.Tensor]]:
    """Cut a batch into parts of about equal numbers of tokens, padding not counted; as few as possible.

    Args:
        batch (`Mapping[str, torch.Tensor]`): See [`cut_by_length`].
        most_tokens (`int`): Largest number of tokens of a part; a row with more is a part of its own.

    Returns:
        `list[dict[str, torch.Tensor]]`: The parts. Each row is in exactly one.
    """
    lengths = batch["attention_mask"].sum(dim=1)
    order = lengths.argsort(descending=True, stable=True).tolist()
    tokens = lengths.tolist()
    fitting = [length for length in tokens if length <= most_tokens]
    number = len(tokens) - len(fitting) - (-sum(fitting) // most_tokens)
    while True:
        # each row goes to the part that has the fewest tokens, longest rows first
        parts: list[tuple[int, int, list[int]]] = [(0, index, []) for index in range(number)]
        for row in order:
            filled, index, rows = parts[0]
            rows.append(row)
            heapq.heapreplace(parts, (filled + tokens[row], index, rows))
        if number >= len(tokens) or all(filled <= most_tokens or len(rows) == 1 for filled, _, rows in parts):
            break
        number += 1
    chosen = [sorted(rows) for _, _, rows in sorted(parts, key=lambda part: part[1]) if rows]
    return [rows_of(batch, torch.tensor(rows), max(tokens[row] for row in rows)) for rows in chosen]


def rows_of(batch: Mapping[str, torch.Tensor], rows: torch.Tensor, width: int) -> dict[str, torch.Tensor]:
    """Some rows of a batch, `width` tokens wide."""
    return {name: tensor[rows, :width] if tensor.dim() > 1 else tensor[rows] for name, tensor in batch.items()}


def joined(batches: Sequence[Mapping[str, torch.Tensor]], padding: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Join batches to one that is as wide as the widest.

    Args:
        batches (`Sequence[Mapping[str, torch.Tensor]]`): Batches with the same names, see [`cut_by_length`].
        padding (`Mapping[str, int]`): Value at padding by name; 0 for others.
    """
    width = max(batch["attention_mask"].shape[1] for batch in batches)

    def wide(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 1:
            return tensor
        return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=padding.get(name, 0))

    return {name: torch.cat([wide(name, batch[name]) for batch in batches]) for name in batches[0]}
