import time
import tracemalloc
from itertools import islice

import datasets
import numpy as np
import pytest
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler

from adversarial_mlm.data import order as order_module
from adversarial_mlm.data.order import (
    EncoderBatchSampler,
    KeyedRecords,
    NoiserBatchSampler,
    RecordOrder,
    crop_start,
    global_rows,
)


@pytest.fixture
def small_windows(monkeypatch):
    """Orders of thousands of records that are made as those of millions are."""
    monkeypatch.setattr(order_module, "BLOCK", 8)
    monkeypatch.setattr(order_module, "WINDOW", 1000)


def test_an_epoch_holds_every_record_once_in_a_new_order_each_time():
    order = RecordOrder(10, seed=3, stream=0)
    first, second = order.keys(0, 10), order.keys(10, 20)
    assert sorted(first) == list(range(10)) and sorted(second) == list(range(10, 20))
    assert [key % 10 for key in second] != first
    assert RecordOrder(10, seed=3, stream=0).keys(0, 10) == first
    assert RecordOrder(10, seed=4, stream=0).keys(0, 10) != first
    assert RecordOrder(10, seed=3, stream=1).keys(0, 10) != first
    assert RecordOrder(10, seed=3, stream=0, shuffle=False).keys(8, 13) == [8, 9, 10, 11, 12]


@pytest.mark.parametrize("records", [1, 999, 1999, 2000, 4999, 5004, 17 * 1000 + 7])
def test_windows_and_blocks_make_a_permutation_of_any_number_of_records(small_windows, records):
    order = RecordOrder(records, seed=0, stream=0)
    for epoch in range(2):
        keys = order.keys(epoch * records, (epoch + 1) * records)
        assert np.array_equal(np.sort(keys), np.arange(epoch * records, (epoch + 1) * records))


def test_any_stretch_of_the_order_can_be_asked_for(small_windows):
    whole = RecordOrder(5004, seed=1, stream=0).keys(0, 3 * 5004)
    asked = np.random.default_rng(0).integers(0, 3 * 5004 - 1500, 50)
    fresh = [RecordOrder(5004, seed=1, stream=0).keys(start, start + 1500) for start in asked[:10]]
    assert fresh == [whole[start : start + 1500] for start in asked[:10]]
    one = RecordOrder(5004, seed=1, stream=0)  # back and forth in the same one
    assert all(one.keys(start, start + 7) == whole[start : start + 7] for start in asked)


def test_every_record_is_as_likely_at_every_position(small_windows):
    """Chi-square of where every 50th record stands, over 400 epochs."""
    records, epochs, groups = 4503, 400, 30
    watched = np.arange(0, records, 50)  # of different blocks, so that one tells nothing of another
    counts = np.zeros((groups, groups))
    order = RecordOrder(records, seed=2, stream=0)
    for epoch in range(epochs):
        place = np.empty(records, dtype=np.int64)
        place[np.array(order.keys(epoch * records, (epoch + 1) * records)) % records] = np.arange(records)
        np.add.at(counts, (watched * groups // records, place[watched] * groups // records), 1)
    expected = counts.sum(axis=1, keepdims=True) * np.bincount(np.arange(records) * groups // records) / records
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = groups * (groups - 1)
    assert abs(statistic - freedom) < 4 * (2 * freedom) ** 0.5


def test_neighbours_of_a_sorted_corpus_do_not_meet_in_batches():
    """Families of 500 records one after the other, 4 million in all: pairs of one family in batches of 128."""
    records, size = 4_000_000, 128
    order = RecordOrder(records, seed=0, stream=0)
    batches = np.array([order.keys(start, start + size) for start in range(0, 500 * size, size)])
    pairs = size * (size - 1) / 2
    families = np.sort(batches // 500, axis=1)
    same = (families[:, :, None] == families[:, None, :]).sum(axis=(1, 2)) / 2 - size / 2
    by_chance = pairs * 499 / records  # 1.01
    of_blocks = pairs * (order_module.BLOCK - 1) / order_module.WINDOW  # 0.98, less where windows are longer
    assert by_chance < same.mean() < by_chance + of_blocks + 0.2
    following = np.abs(np.diff(batches, axis=1)) == 1
    assert following.mean() < 1e-4


def test_a_window_reads_blocks_that_lie_together(small_windows):
    records = 20_000
    keys = np.array(RecordOrder(records, seed=0, stream=0).keys(0, 1000))
    pieces = 1 + (np.diff(np.sort(keys)) > 1).sum()  # runs of neighbours in the file
    assert pieces <= 1000 / 8 + 2
    assert np.abs(np.diff(keys)).mean() > records / 4  # in no order among themselves


def test_32_million_records_need_neither_a_list_nor_time():
    tracemalloc.start()
    began = time.perf_counter()
    sampler = EncoderBatchSampler(32_000_000, seed=0, batch_size=32, num_processes=4, process_index=1)
    sampler.start_at(7, first=200_000)
    first = next(iter(sampler))
    seconds, (held, peak) = time.perf_counter() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(first) == 32 and all(7 <= key / 32_000_000 < 8 for key in first)
    assert held < 12e6 and peak < 40e6 and seconds < 2


# ---- the encoder's batches ----


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_processes_share_batches_as_accelerate_lets_them(processes, drop_last):
    for records in (5, 12, 16, 17, 23, 24, 31):
        for size in (1, 2, 4):
            if drop_last and records < size * processes:
                continue
            keys = RecordOrder(records, seed=0, stream=0).keys(2 * records, 3 * records)
            theirs = BatchSampler(keys, size, drop_last)
            for rank in range(processes):
                shard = BatchSamplerShard(theirs, processes, rank) if processes > 1 else theirs
                ours = EncoderBatchSampler(records, 0, size, processes, rank, drop_last=drop_last)
                ours.start_at(2)
                read = [[max(key, ~key) for key in batch] for batch in ours]
                assert read == list(shard) and len(ours) == len(shard)


def test_what_fills_up_the_last_round_does_not_count():
    for records, size, processes in ((5, 4, 3), (17, 4, 2), (23, 2, 4), (24, 4, 3)):
        samplers = [EncoderBatchSampler(records, 0, size, processes, rank) for rank in range(processes)]
        counted = [key for sampler in samplers for batch in sampler for key in batch if key >= 0]
        assert sorted(counted) == list(range(records))  # every record once
        assert {len(batch) for sampler in samplers for batch in sampler} == {size}


def test_the_encoders_batches_can_begin_and_end_anywhere():
    sampler = EncoderBatchSampler(23, 0, 2, 2, 1)
    sampler.start_at(3)
    whole = list(sampler)
    sampler.start_at(3, first=2, stop=5)
    assert list(sampler) == whole[2:5]
    sampler.start_at(3, first=5)
    assert list(sampler) == whole[5:]


def test_the_share_of_an_epoch_is_the_same_for_every_split():
    for layout in ((8, 1, 1), (4, 2, 1), (2, 4, 1), (2, 2, 2), (1, 1, 8)):
        size, processes, accumulation = layout
        sampler = EncoderBatchSampler(33, 0, size, processes)
        assert [sampler.share(update * accumulation) for update in range(6)] == [
            0,
            8 / 33,
            16 / 33,
            24 / 33,
            32 / 33,
            1,
        ]
    assert EncoderBatchSampler(33, 0, 8, drop_last=True).share(4) == 1


def test_an_epoch_that_is_dropped_whole_is_refused():
    with pytest.raises(ValueError, match="dataloader_drop_last drops all of the 7 records"):
        EncoderBatchSampler(7, 0, 4, 2, drop_last=True)


# ---- the noiser's batches ----


def noiser_batches(count, batch_size, world=1, rank=0, first_micro_step=0):
    sampler = NoiserBatchSampler(7, 0, batch_size, world, rank, first_micro_step)
    return list(islice(iter(sampler), count))


def test_the_noisers_stream_serves_every_record_once_an_epoch():
    keys = [key for batch in noiser_batches(7, 4) for key in batch]
    for epoch in range(4):
        assert sorted(keys[7 * epoch : 7 * epoch + 7]) == [7 * epoch + record for record in range(7)]


def test_the_noisers_global_batch_is_the_same_however_it_is_split():
    whole = noiser_batches(4, 8)
    accumulated = noiser_batches(8, 4)
    assert [accumulated[i] + accumulated[i + 1] for i in range(0, 8, 2)] == whole
    ranks = [noiser_batches(4, 4, world=2, rank=rank) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole


def test_the_noisers_stream_can_begin_anywhere():
    assert noiser_batches(10, 4)[6:] == noiser_batches(4, 4, first_micro_step=6)


def test_the_two_streams_are_in_different_orders():
    assert next(iter(NoiserBatchSampler(100, 0, 100, 1, 0, 0))) != next(iter(EncoderBatchSampler(100, 0, 100)))


# ---- records and rows ----


@pytest.mark.parametrize("kind", [list, datasets.Dataset.from_list])
def test_a_key_gives_the_record_and_its_epoch(kind):
    records = KeyedRecords(kind([{"sequence": letter} for letter in "ACDEF"]))
    assert len(records) == 5
    assert records[3] == {"sequence": "E", "epoch": 0, "record": 3, "filler": False}
    assert records.__getitems__([5, ~14]) == [
        {"sequence": "A", "epoch": 1, "record": 0, "filler": False},
        {"sequence": "F", "epoch": 2, "record": 4, "filler": True},
    ]


def test_crops_reach_both_ends_change_with_the_epoch_and_repeat():
    starts = [crop_start(110, 100, seed=0, epoch=epoch, record=5) for epoch in range(400)]
    assert min(starts) == 0 and max(starts) == 10
    assert np.abs(np.bincount(starts, minlength=11) - 400 / 11).max() < 25
    assert starts[7] == crop_start(110, 100, seed=0, epoch=7, record=5)
    assert crop_start(100, 100, 0, 0, 0) == 0


def test_rows_are_numbered_over_micro_batches_and_processes():
    numbered = [global_rows(4, 4, micro_step, 2, rank).tolist() for micro_step in range(2) for rank in range(2)]
    assert sum(numbered, []) == list(range(16))
