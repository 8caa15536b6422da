from collections import Counter
from itertools import islice

import datasets
import numpy as np
import pytest
from torch.utils.data import DataLoader, IterableDataset

from adversarial_mlm.data import load_corpus, stream_order
from adversarial_mlm.data.order import ENCODER_STREAM, NOISER_STREAM
from adversarial_mlm.data.stream_order import HeldOutBatches, StreamBatches, shuffled

RECORDS, BATCH = 90, 4
LETTERS = "ACDEFGHIKLMNPQRSTVWY"


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch):
    monkeypatch.setattr(stream_order, "BUFFER", 16)


@pytest.fixture(params=["files", "datasets", "iterable"])
def stream(request, tmp_path):
    """The same 90 records as a corpus of three files, as a stream of `datasets` with three shards, as an iterable."""
    rows = [{"id": f"r{number}", "sequence": LETTERS + LETTERS[number % 20]} for number in range(RECORDS)]
    if request.param == "files":
        for part in range(3):
            text = "".join(f">{row['id']}\n{row['sequence']}\n" for row in rows[30 * part : 30 * part + 30])
            (tmp_path / f"{part}.fasta").write_text(text)
        return load_corpus(str(tmp_path / "*.fasta"), streaming=True).dataset
    if request.param == "datasets":
        return datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=3)

    class Rows(IterableDataset):
        def __iter__(self):
            return iter(rows)

    return Rows()


def same(batch):
    return batch


def batches(stream, number, world=1, rank=0, first=0, workers=0, shuffle=True, order=ENCODER_STREAM):
    dataset = StreamBatches(stream, 7, order, BATCH, world, rank, first, shuffle)
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=same, prefetch_factor=None)
    return list(islice(loader, number))


def ids(found):
    return [row["id"] for batch in found for row in batch]


ALL = {f"r{number}" for number in range(RECORDS)}


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("stop", [1, 13, 22, 23, 50])
def test_what_is_read_before_and_after_a_resume_is_every_record_once_a_pass(stream, stop, workers):
    number = 2 * RECORDS // BATCH  # two passes
    if workers and isinstance(stream, IterableDataset) and not hasattr(stream, "num_shards"):
        pytest.skip("an iterable of one's own is refused with workers")
    before = ids(batches(stream, min(stop, number), workers=workers))
    after = ids(batches(stream, max(number - stop, 0), first=stop * BATCH, workers=workers))
    assert before + after == ids(batches(stream, max(number, stop)))[: len(before + after)]
    assert set((before + after)[:RECORDS]) == set((before + after)[RECORDS : 2 * RECORDS]) == ALL
    assert (before + after)[:RECORDS] != (before + after)[RECORDS : 2 * RECORDS]


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_divide_a_stream_without_gap_or_double(stream, workers):
    if workers and isinstance(stream, IterableDataset) and not hasattr(stream, "num_shards"):
        pytest.skip("an iterable of one's own is refused with workers")
    # 90 records are 11 rounds of 8, and 2 over, which the next pass fills up on both processes alike
    ranks = [batches(stream, 12, world=2, rank=rank, workers=workers) for rank in range(2)]
    together = [batch for round_ in zip(*ranks, strict=True) for batch in round_]
    assert together == batches(stream, 24)
    assert Counter(ids(together)[:RECORDS]) == Counter(ALL)
    # one process goes on where two have stopped, and the other way round
    assert together + batches(stream, 5, first=96) == batches(stream, 29)


def test_the_order_depends_on_seed_stream_and_pass(stream):
    one = ids(batches(stream, 40))
    assert one == ids(batches(stream, 40)) != ids(batches(stream, 40, order=NOISER_STREAM))
    assert ids(batches(stream, 22, shuffle=False)) == [f"r{number}" for number in range(88)]


def test_a_shuffle_reaches_beyond_the_buffer_where_there_are_parts(stream):
    if not hasattr(stream, "num_shards"):
        pytest.skip("it has one part")
    firsts = {tuple(sorted({int(i[1:]) // 30 for i in ids(batches(stream, 2, order=order))})) for order in range(20)}
    assert {(0,), (1,), (2,)} <= firsts


def test_records_know_their_pass_and_number(stream):
    rows = [row for batch in batches(stream, 45, first=0) for row in batch]
    assert [(row["epoch"], row["record"]) for row in rows] == [divmod(number, RECORDS) for number in range(180)]
    (row, *_) = batches(stream, 1, first=1000)[0]
    assert (row["epoch"], row["record"]) == divmod(1000, RECORDS)


@pytest.mark.parametrize(("rows", "buffer_size"), [(0, 5), (3, 5), (5, 5), (5000, 5), (5000, 1)])
def test_the_buffer_gives_back_what_it_took(rows, buffer_size):
    found = list(shuffled(iter(range(rows)), np.random.default_rng(0), buffer_size))
    assert sorted(found) == list(range(rows))
    assert (found != list(range(rows))) == (rows > buffer_size > 1 or 3 <= rows <= 5)


@pytest.mark.parametrize(("workers", "world"), [(0, 3), (2, 1)])
def test_a_held_out_stream_is_read_once_in_order_whatever_reads_it(stream, workers, world):
    found = [
        list(
            DataLoader(HeldOutBatches(stream, BATCH, world, r), batch_size=None, num_workers=workers, collate_fn=same)
        )
        for r in range(world)
    ]
    rounds = [of_rank[number] for number in range(len(found[0])) for of_rank in found if number < len(of_rank)]
    assert [row["record"] for batch in rounds for row in batch] == list(range(RECORDS))
    assert [row["id"] for batch in rounds for row in batch] == [f"r{number}" for number in range(RECORDS)]
    assert {row["epoch"] for batch in rounds for row in batch} == {0}
    assert [len(batch) for batch in rounds] == [BATCH] * 22 + [2]


def test_a_stream_without_records_is_refused():
    class Nothing(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(ValueError, match="contains no records"):
        batches(Nothing(), 1)
