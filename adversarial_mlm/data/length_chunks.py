"""Cut a batch by length into chunks, each as wide as its longest row, to reduce padding.

An update keeps its rows and their masks (random numbers are keyed by row), and its loss is a sum over all rows. Only
the cost changes. Unlike batches grouped by length, no update contains only long or only short proteins.
"""

from collections.abc import Mapping

import torch


def chunk_sizes(lengths: list[int], overhead: int) -> list[int]:
    """Find the cheapest cut of sorted rows: the cost is padded tokens, plus `overhead` tokens per chunk.

    Args:
        lengths (`list[int]`): Tokens of every row, longest first.
        overhead (`int`): Fixed cost of a chunk, in tokens.

    Returns:
        `list[int]`: Number of rows of each chunk, in order; the sum is `len(lengths)`.
    """
    rows = len(lengths)
    tails = torch.zeros(rows + 1)  # lowest cost of the rows from each index to the end
    ends = [rows] * rows
    for first in range(rows - 1, -1, -1):
        costs = overhead + lengths[first] * torch.arange(1, rows - first + 1) + tails[first + 1 :]
        best = int(costs.argmin())
        tails[first], ends[first] = costs[best], first + 1 + best
    sizes, first = [], 0
    while first < rows:
        sizes.append(ends[first] - first)
        first = ends[first]
    return sizes


def cut_by_length(
    batch: Mapping[str, torch.Tensor], overhead: int, multiple: int = 1
) -> list[dict[str, torch.Tensor]]:
    """Cut a padded batch into chunks of rows of similar length.

    Args:
        batch (`Mapping[str, torch.Tensor]`): Tensors on the CPU of shape `(batch, length)` or `(batch,)`. Its
            `attention_mask` must be left-aligned.
        overhead (`int`): See [`chunk_sizes`].
        multiple (`int`, *optional*, defaults to 1): Widths are multiples of this, if the batch is wide enough.

    Returns:
        `list[dict[str, torch.Tensor]]`: The chunks, widest first. Each row is in exactly one.
    """
    lengths, order = batch["attention_mask"].sum(dim=1).sort(descending=True, stable=True)
    most = batch["attention_mask"].shape[1]
    widths = [min(-(-length // multiple) * multiple, most) for length in lengths.tolist()]
    chunks, first = [], 0
    for size in chunk_sizes(widths, overhead):
        rows, width = order[first : first + size], widths[first]
        chunks.append(
            {name: tensor[rows, :width] if tensor.dim() > 1 else tensor[rows] for name, tensor in batch.items()}
        )
        first += size
    return chunks
