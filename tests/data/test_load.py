import copy
import logging
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from datasets import Dataset
from torch.utils.data import DataLoader

from adversarial_mlm.data import CleaningCounts, CorpusError, arrow_tables, load, load_corpus
from tests.helpers.exhaustive import exhaustive


def test_min_length_is_honoured(tmp_path, write_records):
    write_records(tmp_path / "a.fasta")
    corpus = load_corpus(str(tmp_path / "a.fasta"), min_length=15, cache_dir=str(tmp_path))
    assert corpus.dataset["id"][:] == ["clean", "lower"]
    assert corpus.counts.dropped_too_short == 6 and corpus.counts.dropped_no_residues == 1
    everything = load_corpus(str(tmp_path / "a.fasta"), min_length=0, cache_dir=str(tmp_path))
    assert everything.counts.dropped_too_short == 0 and everything.counts.dropped_empty == 2


def test_empty_and_foreign_files_are_refused_before_streaming_starts(tmp_path, write_records):
    write_records(tmp_path / "a.fasta")
    (tmp_path / "b.fasta").write_bytes(b"no header\n")
    with pytest.raises(CorpusError, match="b.fasta"):
        load_corpus(str(tmp_path / "*.fasta"), streaming=True)


def test_unwritable_cache_names_the_folder_and_the_option(tmp_path, write_records):
    write_records(tmp_path / "a.fasta")
    (tmp_path / "occupied").write_text("a file, not a folder")
    with pytest.raises(CorpusError, match="occupied.*cache_dir"):
        load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path / "occupied"))


def test_second_start_uses_the_cache_and_keeps_the_counts(
    tmp_path, monkeypatch, write_records, rows_of, clean_rows, counts
):
    write_records(tmp_path / "a.fasta")
    first = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path / "cache"))

    def no_reading(*args):
        raise AssertionError("the file was read again")

    monkeypatch.setattr(load, "clean_shard", no_reading)
    second = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path / "cache"))
    assert second.counts == first.counts == counts
    assert rows_of(second.dataset) == clean_rows
    assert second.dataset.cache_files == first.dataset.cache_files
    (file,) = second.dataset.cache_files
    assert Path(file["filename"]).parent == tmp_path / "cache/adversarial_mlm"
    assert sorted(path.suffix for path in (tmp_path / "cache/adversarial_mlm").iterdir()) == [".arrow", ".json"]


def test_changed_file_is_read_anew(tmp_path, rows_of):
    path = tmp_path / "a.fasta"
    path.write_text(">a\nMKVLAAGIVG\n")
    assert rows_of(load_corpus(str(path), cache_dir=str(tmp_path)).dataset) == [("a", "MKVLAAGIVG", 10)]
    before = path.stat()
    path.write_text(">a\nMKVLAAGIVC\n")  # of the same size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert rows_of(load_corpus(str(path), cache_dir=str(tmp_path)).dataset) == [("a", "MKVLAAGIVC", 10)]


def test_half_a_cache_entry_is_not_trusted(tmp_path, write_records, counts):
    write_records(tmp_path / "a.fasta")
    load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path / "cache"))
    (counts_file,) = (tmp_path / "cache/adversarial_mlm").glob("*.json")
    counts_file.write_text('{"records_read": ')
    assert load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path / "cache")).counts == counts


def test_starts_at_once_do_not_disturb_each_other(tmp_path, rows_of, random_records, fasta_text):
    (tmp_path / "a.fasta").write_text(fasta_text(random_records(2000)))

    def start(_):
        corpus = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path / "cache"))
        return rows_of(corpus.dataset), corpus.counts

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(start, range(4)))
    assert all(result == results[0] for result in results) and results[0][1].records_kept == 2000
    assert sorted(path.suffix for path in (tmp_path / "cache/adversarial_mlm").iterdir()) == [".arrow", ".json"]


def test_many_batches_keep_the_order(tmp_path, monkeypatch, rows_of, random_records, fasta_text):
    monkeypatch.setattr(arrow_tables, "_ROWS_PER_BATCH", 7)
    records = random_records(50)
    (tmp_path / "a.fasta").write_text(fasta_text(records))
    corpus = load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path))
    assert [(identifier, sequence) for identifier, sequence, _ in rows_of(corpus.dataset)] == records


def identity(examples):
    return examples


@pytest.mark.parametrize("start_method", ["fork", exhaustive("spawn")])
def test_streaming_workers_give_the_rows_and_counts_of_the_memory_mapped_corpus(
    tmp_path, start_method, rows_of, random_records, fasta_text
):
    for part in range(3):
        clean = random_records(100, seed=part, prefix=f"{part}-")
        (tmp_path / f"{part}.fasta").write_text(fasta_text(prefix=f"{part}-") + fasta_text(clean))
    source = str(tmp_path / "*.fasta")
    mapped = load_corpus(source, cache_dir=str(tmp_path))
    streamed = load_corpus(source, streaming=True)
    assert streamed.counts == CleaningCounts()
    loader = DataLoader(
        streamed.dataset, batch_size=16, num_workers=2, multiprocessing_context=start_method, collate_fn=identity
    )
    epochs = 2 if start_method == "fork" else 1
    for _ in range(epochs):  # counts do not grow with epochs
        rows = [(row["id"], row["sequence"], row["length"]) for batch in loader for row in batch]
        assert Counter(rows) == Counter(rows_of(mapped.dataset))
        assert streamed.counts == mapped.counts


def test_streaming_a_folder_in_workers(tmp_path, rows_of, random_records):
    Dataset.from_dict({"sequence": [s for _, s in random_records(2500)]}).save_to_disk(str(tmp_path / "folder"))
    mapped = load_corpus(str(tmp_path / "folder"), cache_dir=str(tmp_path))
    streamed = load_corpus(str(tmp_path / "folder"), streaming=True)
    assert streamed.dataset.num_shards == 3
    loader = DataLoader(streamed.dataset, batch_size=None, num_workers=2)
    assert Counter(rows_of(loader)) == Counter(rows_of(mapped.dataset))
    assert streamed.counts == mapped.counts


def test_streaming_counts_are_live_and_survive_copies(tmp_path, write_records, counts):
    write_records(tmp_path / "a.fasta")
    streamed = load_corpus(str(tmp_path / "a.fasta"), streaming=True)
    rows = iter(copy.deepcopy(streamed.dataset))
    next(rows)
    assert 0 < streamed.counts.records_kept < counts.records_kept
    assert len(list(rows)) == counts.records_kept - 1
    assert streamed.counts == counts


LOST = ">lost sheep\n"


@pytest.mark.parametrize("streaming", [False, True])
def test_one_warning_per_file_names_the_first_record_without_residues(
    tmp_path, caplog, streaming, random_records, fasta_text
):
    one, two = fasta_text(random_records(5)), fasta_text(random_records(5, seed=1))
    (tmp_path / "a.fasta").write_text(one + LOST + two + ">late\n???????????\n" + LOST)
    (tmp_path / "b.fasta").write_text(two)
    (tmp_path / "c.fasta").write_text(two + LOST)  # as a download ends that was cut off
    with caplog.at_level(logging.WARNING, logger="adversarial_mlm"):
        corpus = load_corpus(str(tmp_path / "?.fasta"), streaming=streaming, cache_dir=str(tmp_path))
        for _ in range(2):  # said in the first epoch, counted in each
            assert len(list(corpus.dataset)) == 20
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/a.fasta: left out 3 of 13 records, which have no residues; the first is record 6, 'lost'.",
        f"{tmp_path}/c.fasta: left out 1 of 6 records, which has no residues; the first is record 6, 'lost'.",
    ]
    assert (corpus.counts.dropped_empty, corpus.counts.dropped_no_residues) == (3, 1)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_file_of_headers_alone_is_refused_among_others(tmp_path, streaming, write_records):
    write_records(tmp_path / "a.fasta")
    (tmp_path / "b.fasta").write_text(">a\n>b\n")
    with pytest.raises(
        CorpusError, match=r"b\.fasta: no record has any residues \(2 read; the first is record 1, 'a'"
    ):
        list(load_corpus(str(tmp_path / "?.fasta"), streaming=streaming, cache_dir=str(tmp_path)).dataset)


@pytest.mark.parametrize("streaming", [False, True])
def test_nucleotides_are_refused_unless_allowed_and_also_from_the_cache(tmp_path, streaming, write_records):
    write_records(tmp_path / "a.fasta")
    (tmp_path / "b.fasta").write_text(">gene\nATGGCNTTAGCATACG\n")
    options = {"streaming": streaming, "cache_dir": str(tmp_path)}
    allowed = load_corpus(str(tmp_path / "?.fasta"), allow_nucleotides=True, **options)
    assert "gene" in [row["id"] for row in allowed.dataset]
    with pytest.raises(CorpusError, match=r"b\.fasta: .*nucleotides"):
        load_corpus(str(tmp_path / "?.fasta"), **options)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_folder_of_nucleotides_is_refused(tmp_path, streaming):
    Dataset.from_dict({"sequence": ["ATGGCNTTAGCATACG"] * 3}).save_to_disk(str(tmp_path / "genes"))
    with pytest.raises(CorpusError, match="genes: .*nucleotides"):
        load_corpus(str(tmp_path / "genes"), streaming=streaming, cache_dir=str(tmp_path))


def test_proteins_with_few_kinds_of_residues_are_no_nucleotides(tmp_path, random_records, fasta_text):
    poor = [("silk", "GAGAGS" * 20), ("poly-N", "N" * 50), ("alanine", "A" * 40)]
    (tmp_path / "a.fasta").write_text(fasta_text([*poor, *random_records(5)]))
    assert load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path)).counts.records_kept == 8


def test_errors_in_workers_keep_their_sentence(tmp_path, random_records, fasta_text):
    for part in range(2):
        (tmp_path / f"{part}.fasta").write_text(fasta_text(random_records(150)) + ">bad\nMKV>worse\n")
    # One worker: torch waits five seconds for each when one has failed.
    loader = DataLoader(load_corpus(str(tmp_path / "*.fasta"), streaming=True).dataset, batch_size=None, num_workers=1)
    with pytest.raises(CorpusError, match=r"\d\.fasta: record 151, .*a line end is missing") as caught:
        list(loader)
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)
