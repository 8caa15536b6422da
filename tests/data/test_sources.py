import os

import datasets
import pytest
from datasets import Dataset, DatasetDict

from adversarial_mlm.data import CorpusError, load_corpus, sources


def test_globs_and_lists_of_files(tmp_path, rows_of):
    for part in range(3):
        (tmp_path / f"part{part}.fasta").write_text(f">p{part}\n{'M' * 12}\n")
    cache_dir = str(tmp_path / "cache")
    expected = [(f"p{part}", "M" * 12, 12) for part in range(3)]
    assert rows_of(load_corpus(str(tmp_path / "part*.fasta"), cache_dir=cache_dir).dataset) == expected
    listed = [str(tmp_path / "part2.fasta"), tmp_path / "part[01].fasta"]
    assert rows_of(load_corpus(listed, cache_dir=cache_dir).dataset) == [expected[2], *expected[:2]]


def test_split_of_a_folder_with_several(tmp_path, objects):
    splits = {"train": Dataset.from_list(objects[:1]), "test": Dataset.from_list(objects[1:2])}
    DatasetDict(splits).save_to_disk(str(tmp_path / "folder"))
    corpus = load_corpus(str(tmp_path / "folder"), dataset_split="test", cache_dir=str(tmp_path))
    assert corpus.dataset["id"][:] == ["lower"]
    with pytest.raises(CorpusError, match=r"folder.*'valid'.*dataset_split.*'train', 'test'"):
        load_corpus(str(tmp_path / "folder"), dataset_split="valid", cache_dir=str(tmp_path))


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_dataset(tmp_path, monkeypatch, streaming, rows_of, clean_rows, counts, objects):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        dataset = Dataset.from_list(objects)
        return dataset.to_iterable_dataset(num_shards=2) if kwargs["streaming"] else dataset

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    cache_dir = str(tmp_path)
    corpus = load_corpus(
        "owner/name", dataset_config="c", dataset_split="test", streaming=streaming, cache_dir=cache_dir
    )
    assert rows_of(corpus.dataset) == clean_rows
    assert corpus.counts == counts
    assert calls == [(("owner/name", "c"), {"split": "test", "streaming": streaming, "cache_dir": cache_dir})]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_dataset_of_nucleotides_is_refused(tmp_path, monkeypatch, streaming):
    def load_dataset(*args, **kwargs):
        dataset = Dataset.from_dict({"sequence": ["ATGGCNTTAGCATACG"] * 8})
        return dataset.to_iterable_dataset(num_shards=2) if kwargs["streaming"] else dataset

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(CorpusError, match="owner/name: .*nucleotides.*allow_nucleotides"):
        load_corpus("owner/name", streaming=streaming, cache_dir=str(tmp_path))


def test_a_hub_that_fails_in_the_middle_of_a_stream_ends_in_one_sentence(monkeypatch):
    def records(fail_at):
        for number in range(3000):
            if number == fail_at:
                raise ConnectionError("Couldn't reach\nthe Hub.")
            yield {"sequence": "MKVLAAGIVGLC"}

    for fail_at in (0, 2500):
        stream = datasets.IterableDataset.from_generator(records, gen_kwargs={"fail_at": fail_at})
        monkeypatch.setattr(datasets, "load_dataset", lambda *args, stream=stream, **kwargs: stream)
        with pytest.raises(CorpusError, match="owner/name: .*could not be read .*Couldn't reach the Hub"):
            list(load_corpus("owner/name", streaming=True).dataset)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("missing.fasta", {}, "missing.fasta.*no such file"),
        ("folder/missing.csv", {}, "missing.csv.*no such file"),
        ("*.fasta", {}, r"\*\.fasta.*no file matches"),
        ([], {}, "source is empty"),
        ("", {}, "source is empty"),
        (None, {}, "source contains 'None', but must be a file"),
        (["a.csv", None], {}, "source contains 'None', but must be a file"),
        (["a.csv", "b.jsonl"], {}, "b.jsonl.*one format"),
        (["a.csv", "a.csv"], {}, "a.csv.*more than once"),
        (["a.csv", "folder"], {}, "folder"),
        ("folder", {}, "folder.*save_to_disk"),
        ("a.csv", {"min_length": -1}, "min_length"),
        ("a.csv", {"sequence_column": None}, "sequence_column must be the name of a column, got None"),
        ("a.csv", {"dataset_split": "test"}, "dataset_split='test'.*a.csv"),
        ("a.csv", {"dataset_config": "x"}, "dataset_config='x'.*a.csv"),
        ("a.csv", {"id_column": "Entry"}, 'a.csv.*no column "Entry".*id_column.*"remark", "id", "sequence"'),
        ("dataset", {"dataset_split": "test"}, "dataset_split='test'.*dataset"),
        ("dataset", {"dataset_config": "x"}, "dataset_config='x'.*dataset"),
    ],
)
def test_wrong_options_are_named(tmp_path, monkeypatch, source, options, message, write_records):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    write_records(tmp_path / "a.csv", "CSV")
    write_records(tmp_path / "b.jsonl", "JSON lines")
    write_records(tmp_path / "dataset", "folder")
    (tmp_path / "c.fasta").mkdir() if source == "*.fasta" else write_records(tmp_path / "c.fasta")
    with pytest.raises(CorpusError, match=message):
        load_corpus(source, **options, cache_dir=str(tmp_path / "cache"))


@pytest.mark.parametrize("streaming", [False, True])
def test_fasta_ignores_options_meant_for_other_sources(tmp_path, streaming, write_records, rows_of, clean_rows):
    path = write_records(tmp_path / "a.fasta")
    for options in (
        {},
        {"sequence_column": "primary", "id_column": "Entry", "dataset_split": "test", "dataset_config": "x"},
    ):
        corpus = load_corpus(path, **options, streaming=streaming, cache_dir=str(tmp_path / "cache"))
        assert rows_of(corpus.dataset) == clean_rows
    assert len(list(tmp_path.glob("cache/adversarial_mlm/*.arrow"))) == (0 if streaming else 1)


def test_failing_hub_name_says_that_neither_exists(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach\nthe Hub.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(CorpusError, match=r"owner/name: no file or folder.*Hub dataset.*ConnectionError: Couldn't"):
        load_corpus("owner/name")


def test_a_dataset_is_not_asked_for_where_the_hub_cannot_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "host_without_address", lambda: "hub.example")
    with pytest.raises(
        CorpusError, match="^corpora/mine: no file or folder of this name exists, and hub.example cannot"
    ):
        load_corpus("corpora/mine", cache_dir=str(tmp_path))
