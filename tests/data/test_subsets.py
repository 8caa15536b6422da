import pickle

import numpy as np
import pytest
from datasets import Dataset

from adversarial_mlm.data import (
    CorpusError,
    count_lengths,
    load_corpus,
    remove_shared_sequences,
    split_corpus,
    subsets,
)
from adversarial_mlm.data.subsets import column_pieces, without_rows


@pytest.fixture(params=["mapped", "in memory"])
def dataset(request, tmp_path, random_records, fasta_text, monkeypatch):
    """500 records of 10 to 29 residues."""
    monkeypatch.setattr(subsets, "_ROWS_AT_ONCE", 64)
    records = [(name, sequence[: 10 + index % 20]) for index, (name, sequence) in enumerate(random_records(500))]
    if request.param == "in memory":
        columns = {"id": [r[0] for r in records], "sequence": [r[1] for r in records]}
        return Dataset.from_dict({**columns, "length": [len(r[1]) for r in records]})
    (tmp_path / "a.fasta").write_text(fasta_text(records))
    return load_corpus(str(tmp_path / "a.fasta"), cache_dir=str(tmp_path)).dataset


def test_rows_are_left_out_once_and_again(dataset, tmp_path):
    numbers = np.arange(500)
    out = np.sort(np.random.default_rng(0).permutation(500)[:130])
    rest = without_rows(dataset, out, str(tmp_path))
    left = np.delete(numbers, out)
    assert rest["id"][:] == [f"r{n}" for n in left] and len(rest) == 370
    again = without_rows(rest, np.array([0, 100, 369]), str(tmp_path))
    left = np.delete(left, [0, 100, 369])
    assert again["id"][:] == [f"r{n}" for n in left]
    assert again.__getitems__([5, 2])[0]["id"] == f"r{left[5]}"
    for part in (dataset, rest, again, again.select([300, 2, 77])):
        values = [value for piece in column_pieces(part, "sequence") for value in piece.to_pylist()]
        assert values == part["sequence"][:]
    if dataset.cache_files:
        # what goes to a worker is where to find the rows, not their numbers
        assert len(pickle.dumps(again)) < 3000 and pickle.loads(pickle.dumps(again))["id"][:] == again["id"][:]


def test_lengths_are_counted(dataset, tmp_path):
    for part in (dataset, without_rows(dataset, np.arange(0, 500, 3), str(tmp_path))):
        lengths, records = count_lengths(part, str(tmp_path))
        expected = np.unique(part["length"][:], return_counts=True)
        assert lengths.tolist() == expected[0].tolist() and records.tolist() == expected[1].tolist()


def test_a_second_start_looks_at_no_record(dataset, tmp_path, monkeypatch):
    if not dataset.cache_files:
        pytest.skip("of a dataset in memory nothing is kept")

    def start():
        splits = split_corpus(dataset, holdout_random=0.1, cache_dir=str(tmp_path))
        train, removed = remove_shared_sequences(splits.train, dataset.select(range(20)), cache_dir=str(tmp_path))
        return train["id"][:], removed, [part.tolist() for part in count_lengths(train, str(tmp_path))]

    first = start()
    assert first[1] > 10
    for name in ("column_pieces", "row_pieces"):
        monkeypatch.setattr(subsets, name, None)
        monkeypatch.setattr(f"adversarial_mlm.data.splits.{name}", None)
    assert start() == first


def test_a_damaged_note_is_made_anew(dataset, tmp_path):
    if not dataset.cache_files:
        pytest.skip("of a dataset in memory nothing is kept")
    first = count_lengths(dataset, str(tmp_path))
    (note,) = (tmp_path / "adversarial_mlm").glob("*.lengths-1.npy")
    note.write_bytes(note.read_bytes()[:50])
    assert [part.tolist() for part in count_lengths(dataset, str(tmp_path))] == [part.tolist() for part in first]


def test_a_cache_that_cannot_be_written_ends_in_one_sentence(dataset, tmp_path):
    if not dataset.cache_files:
        pytest.skip("of a dataset in memory nothing is kept")
    (tmp_path / "occupied").write_text("a file, not a folder")
    with pytest.raises(CorpusError, match="occupied.*cache_dir"):
        split_corpus(dataset, holdout_random=0.1, cache_dir=str(tmp_path / "occupied"))
