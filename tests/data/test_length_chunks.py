import itertools

import pytest
import torch

from adversarial_mlm.data.length_chunks import chunk_sizes, cut_by_length, cut_by_tokens, joined


def cost(lengths, sizes, overhead):
    starts = [0, *itertools.accumulate(sizes)]
    return sum(overhead + lengths[start] * size for start, size in zip(starts, sizes, strict=False))


def every_cut(rows):
    for cuts in itertools.product([False, True], repeat=rows - 1):
        sizes = [1]
        for cut in cuts:
            if cut:
                sizes.append(1)
            else:
                sizes[-1] += 1
        yield sizes


def batch_of(lengths):
    width = max(lengths)
    attention = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    ids = torch.arange(len(lengths))[:, None] * 1000 + torch.arange(width)
    return {"input_ids": ids * attention, "attention_mask": attention, "row": torch.arange(len(lengths))}


@pytest.mark.parametrize("overhead", [0, 7, 60, 1000])
def test_no_other_cut_costs_less(overhead):
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        lengths = sorted(torch.randint(1, 100, (9,), generator=generator).tolist(), reverse=True)
        sizes = chunk_sizes(lengths, overhead)
        assert sum(sizes) == 9 and min(sizes) >= 1
        assert cost(lengths, sizes, overhead) == min(cost(lengths, cut, overhead) for cut in every_cut(9))


def test_where_a_chunk_costs_more_than_it_saves_there_is_one():
    assert chunk_sizes([90, 80, 10], overhead=10_000) == [3]
    assert chunk_sizes([90, 90, 10, 10, 10], overhead=1) == [2, 3]


def test_every_row_is_in_one_chunk_with_all_its_tokens():
    lengths = [12, 80, 9, 11, 79, 3, 80]
    batch = batch_of(lengths)
    chunks = cut_by_length(batch, overhead=5)
    assert len(chunks) > 1
    assert sorted(row for chunk in chunks for row in chunk["row"].tolist()) == list(range(7))
    for chunk in chunks:
        assert chunk["attention_mask"].sum(dim=1).max() == chunk["attention_mask"].shape[1]  # no column of padding
        for ids, attention, row in zip(chunk["input_ids"], chunk["attention_mask"], chunk["row"], strict=True):
            assert attention.sum() == lengths[row]
            assert torch.equal(ids, batch["input_ids"][row, : len(ids)])


def test_widths_are_multiples_as_far_as_the_batch_is_wide_enough():
    lengths = [12, 80, 9, 11, 79, 3, 85]
    chunks = cut_by_length(batch_of(lengths), overhead=5, multiple=16)
    assert sorted(chunk["input_ids"].shape[1] for chunk in chunks) == [16, 80, 85]
    assert sorted(row for chunk in chunks for row in chunk["row"].tolist()) == list(range(7))


def test_rows_of_one_length_stay_one_chunk_in_their_order():
    chunks = cut_by_length(batch_of([20] * 6), overhead=1)
    assert len(chunks) == 1 and chunks[0]["row"].tolist() == list(range(6))


def test_no_chunk_has_more_tokens_than_it_may():
    lengths = [12, 80, 9, 11, 79, 3, 85, 80, 80, 80]
    chunks = cut_by_length(batch_of(lengths), overhead=5, most_tokens=170)
    assert sorted(row for chunk in chunks for row in chunk["row"].tolist()) == list(range(10))
    assert all(chunk["input_ids"].numel() <= 170 for chunk in chunks)
    assert len(cut_by_length(batch_of(lengths), overhead=5, most_tokens=10)) == 10  # a row is never cut


@pytest.mark.parametrize("most", [85, 100, 200, 10_000])
def test_parts_by_tokens_are_few_and_about_equal(most):
    lengths = torch.randint(3, 86, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    parts = cut_by_tokens(batch_of(lengths), most)
    assert sorted(row for part in parts for row in part["row"].tolist()) == list(range(40))
    tokens = [int(part["attention_mask"].sum()) for part in parts]
    assert max(tokens) <= most and len(parts) <= 1.25 * sum(lengths) / most + 1
    assert max(tokens) - min(tokens) <= max(lengths)
    for part in parts:  # as wide as its longest row, all of which is there
        assert part["input_ids"].shape[1] == part["attention_mask"].sum(dim=1).max()


def test_a_row_that_is_too_long_is_a_part_of_its_own():
    parts = cut_by_tokens(batch_of([50, 9, 8]), 20)
    assert sorted(part["row"].tolist() for part in parts) == [[0], [1, 2]]


def test_joined_batches_hold_all_rows():
    batches = [batch_of([4, 9]), batch_of([20, 1, 3])]
    whole = joined(batches, {"input_ids": 7})
    assert whole["input_ids"].shape == (5, 20) and (whole["input_ids"][:2, 9:] == 7).all()
    assert whole["attention_mask"].sum(dim=1).tolist() == [4, 9, 20, 1, 3]
    assert whole["row"].tolist() == [0, 1, 0, 1, 2]
