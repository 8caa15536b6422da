from itertools import islice

import datasets
import numpy as np
import pytest

from adversarial_mlm.data_order import EpochSampler, KeyedRecords, NoiserBatchSampler, crop_start, global_rows


def test_an_epoch_holds_every_record_once_in_a_new_order_each_time():
    sampler = EpochSampler(10, seed=3)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert sorted(first) == list(range(10)) and sorted(second) == list(range(10, 20))
    assert [key % 10 for key in second] != first
    assert list(EpochSampler(10, seed=3)) == first
    assert list(EpochSampler(10, seed=4)) != first
    assert list(EpochSampler(10, seed=3, shuffle=False)) == list(range(10))


def noiser_batches(count, batch_size, accumulation=1, world=1, rank=0, first_update=0):
    sampler = NoiserBatchSampler(7, 0, batch_size, accumulation, world, rank, first_update)
    return list(islice(iter(sampler), count))


def test_the_noisers_stream_serves_every_record_once_an_epoch():
    keys = [key for batch in noiser_batches(7, 4) for key in batch]
    for epoch in range(4):
        assert sorted(keys[7 * epoch : 7 * epoch + 7]) == [7 * epoch + record for record in range(7)]


def test_the_noisers_global_batch_is_the_same_however_it_is_split():
    whole = noiser_batches(4, 8)
    accumulated = noiser_batches(8, 4, accumulation=2)
    assert [accumulated[i] + accumulated[i + 1] for i in range(0, 8, 2)] == whole
    ranks = [noiser_batches(4, 4, world=2, rank=rank) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole


def test_the_noisers_stream_can_begin_at_any_update():
    assert noiser_batches(10, 4, accumulation=2)[6:] == noiser_batches(4, 4, accumulation=2, first_update=3)


def test_the_two_streams_are_in_different_orders():
    noisers = NoiserBatchSampler(100, 0, 100, 1, 1, 0, 0)
    assert next(iter(noisers)) != list(EpochSampler(100, seed=0))


@pytest.mark.parametrize("kind", [list, datasets.Dataset.from_list])
def test_a_key_gives_the_record_and_its_epoch(kind):
    records = KeyedRecords(kind([{"sequence": letter} for letter in "ACDEF"]))
    assert len(records) == 5
    assert records[3] == {"sequence": "E", "epoch": 0, "record": 3}
    assert records.__getitems__([5, 14]) == [
        {"sequence": "A", "epoch": 1, "record": 0},
        {"sequence": "F", "epoch": 2, "record": 4},
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
