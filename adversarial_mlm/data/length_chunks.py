"""Less padding: a batch is cut by length into chunks, each as wide as its own longest row.

The rows of an update stay what they are, with their masks (noise is keyed by row), and the loss is a sum over all of
them. So nothing changes but the cost: no update prefers a length, as batches grouped by length do.
"""

from collections.abc import Mapping

import torch


def chunk_sizes(lengths: list[int], overhead: int) -> list[int]:
    """The cut of sorted rows that costs least: padded tokens, and `overhead` tokens more for every chunk.

    Args:
        lengths (`list[int]`): Tokens of every row, the longest first.
        overhead (`int`): What a chunk costs by itself, in tokens.

    Returns:
        `list[int]`: Rows of each chunk, in the order of the rows; they add up to `len(lengths)`.
    """
    rows = len(lengths)
    tails = torch.zeros(rows + 1)  # the least cost of the rows from each one on
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


def cut_by_length(batch: Mapping[str, torch.Tensor], overhead: int) -> list[dict[str, torch.Tensor]]:
    """Cut a padded batch into chunks of rows of similar length.

    Args:
        batch (`Mapping[str, torch.Tensor]`): On the CPU, with `attention_mask` `(batch, length)` that is 1 from the
            left on; tensors of that shape lose columns, those of shape `(batch,)` rows alone.
        overhead (`int`): See [`chunk_sizes`].

    Returns:
        `list[dict[str, torch.Tensor]]`: The chunks, the widest first; together all rows, each once.
    """
    lengths, order = batch["attention_mask"].sum(dim=1).sort(descending=True, stable=True)
    chunks, first = [], 0
    for size in chunk_sizes(lengths.tolist(), overhead):
        rows, width = order[first : first + size], int(lengths[first])
        chunks.append(
            {name: tensor[rows, :width] if tensor.dim() > 1 else tensor[rows] for name, tensor in batch.items()}
        )
        first += size
    return chunks
