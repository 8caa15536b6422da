import gzip
import logging
import os
import random
from collections import Counter

import datasets
import pytest
from datasets import Dataset

from adversarial_mlm.data import (
    CleaningCounts,
    CorpusError,
    load_corpus,
    read_cluster_table,
    remove_shared_sequences,
    split_corpus,
)


@pytest.fixture
def family_corpus(random_records):
    """Make records `f<family>-<member>` in a shuffled order, and their cluster table."""

    def make(families=40, members=10):
        rows = [
            {"id": f"f{index // members}-{index % members}", "sequence": sequence, "length": len(sequence)}
            for index, (_, sequence) in enumerate(random_records(families * members))
        ]
        random.Random(0).shuffle(rows)
        return Dataset.from_list(rows), {row["id"]: row["id"].split("-")[0] for row in rows}

    return make


def test_families_and_members_are_held_out(family_corpus):
    dataset, clusters = family_corpus()
    splits = split_corpus(dataset, clusters=clusters, holdout_families=0.1, holdout_members=0.2, holdout_seed=1)
    assert list(splits.held_out) == ["families", "members"]
    families = Counter(clusters[identifier] for identifier in splits.held_out["families"]["id"])
    members = Counter(clusters[identifier] for identifier in splits.held_out["members"]["id"])
    train = Counter(clusters[identifier] for identifier in splits.train["id"])
    assert set(families.values()) == {10} and len(families) == 4  # 10 % of 400 records
    assert not families.keys() & (members.keys() | train.keys())
    assert members.keys() == train.keys() and set(members.values()) == {2} and set(train.values()) == {8}
    assert splits.train.column_names == dataset.column_names


def test_splits_are_deterministic_and_follow_the_seed(family_corpus):
    dataset, clusters = family_corpus()
    options = {"clusters": clusters, "holdout_families": 0.1, "holdout_members": 0.1, "holdout_random": 0.1}
    first, again = split_corpus(dataset, **options), split_corpus(dataset, **options)
    other = split_corpus(dataset, **options, holdout_seed=1)
    for name in ("families", "members", "sample"):
        assert first.held_out[name]["id"][:] == again.held_out[name]["id"][:]
        assert first.held_out[name]["id"][:] != other.held_out[name]["id"][:]
    assert first.train["id"][:] == again.train["id"][:]
    reordered = split_corpus(dataset.select(range(len(dataset) - 1, -1, -1)), **options)
    assert set(reordered.held_out["families"]["id"]) == set(first.held_out["families"]["id"])


def test_small_families_give_no_members_and_large_ones_at_least_one(family_corpus):
    dataset, clusters = family_corpus(families=10, members=4)
    with pytest.raises(CorpusError, match="holdout_members=0.5.*no family with 5"):
        split_corpus(dataset, clusters=clusters, holdout_members=0.5)
    dataset, clusters = family_corpus(families=10, members=5)
    few = split_corpus(dataset, clusters=clusters, holdout_members=0.01)
    assert Counter(clusters[identifier] for identifier in few.held_out["members"]["id"]) == {
        family: 1 for family in clusters.values()
    }
    most = split_corpus(dataset, clusters=clusters, holdout_members=0.99)
    assert set(Counter(clusters[identifier] for identifier in most.train["id"]).values()) == {1}


def test_a_large_family_does_not_swell_the_held_out_set(family_corpus):
    dataset, clusters = family_corpus()
    clusters = {identifier: "big" if int(family[1:]) < 20 else family for identifier, family in clusters.items()}
    for seed in range(10):
        splits = split_corpus(dataset, clusters=clusters, holdout_families=0.1, holdout_seed=seed)
        assert 40 <= len(splits.held_out["families"]) <= 60
    with pytest.raises(CorpusError, match="holdout_families.*smallest family has 400"):
        split_corpus(dataset, clusters=dict.fromkeys(clusters, "all"), holdout_families=0.1)


def test_random_records_are_held_out_with_a_warning(caplog, family_corpus):
    dataset, _ = family_corpus()
    with caplog.at_level(logging.WARNING, logger="adversarial_mlm.data"):
        splits = split_corpus(dataset, holdout_random=0.05)
    assert len(splits.held_out["sample"]) == 20 and len(splits.train) == 380
    assert not set(splits.held_out["sample"]["id"]) & set(splits.train["id"])
    assert "optimistic" in caplog.text


def test_verbatim_twins_of_held_out_records_leave_train(caplog, family_corpus):
    dataset, _ = family_corpus(families=20, members=5)
    twins = dataset.map(lambda row: {"id": row["id"] + "-twin"})
    dataset = datasets.concatenate_datasets([dataset, twins])
    with caplog.at_level(logging.WARNING, logger="adversarial_mlm.data"):
        splits = split_corpus(dataset, holdout_random=0.2, holdout_seed=3)
    held_out = set(splits.held_out["sample"]["sequence"])
    assert splits.duplicates_removed > 0 and not held_out & set(splits.train["sequence"])
    assert len(splits.train) + len(splits.held_out["sample"]) + splits.duplicates_removed == len(dataset)
    assert f"{splits.duplicates_removed} records were removed from train" in caplog.text


def test_sequences_of_a_validation_file_leave_train(family_corpus):
    dataset, _ = family_corpus(families=4)
    rest, removed = remove_shared_sequences(dataset, dataset.select(range(5)))
    assert removed == 5 and rest["id"][:] == dataset["id"][5:]
    assert remove_shared_sequences(rest, dataset.select(range(5))) == (rest, 0)
    with pytest.raises(CorpusError, match="all 40 training records"):
        remove_shared_sequences(dataset, dataset)


def test_records_missing_in_the_table_are_families_of_their_own(caplog, family_corpus):
    dataset, clusters = family_corpus(families=20, members=5)
    listed = {identifier: family for identifier, family in clusters.items() if family != "f3"}
    with caplog.at_level(logging.WARNING, logger="adversarial_mlm.data"):
        splits = split_corpus(dataset, clusters=listed, holdout_families=0.3)
    assert splits.missing_in_clusters == 5 and "5 of 100 records are not in the cluster table" in caplog.text
    # As one family of five they would give a member.
    members = split_corpus(dataset, clusters=listed, holdout_members=0.2).held_out["members"]
    assert len(members) == 19 and not any(identifier.startswith("f3-") for identifier in members["id"])
    with pytest.raises(CorpusError, match="none of the 100 record ids"):
        split_corpus(dataset, clusters={"other": "family"}, holdout_families=0.3)


def test_nothing_asked_nothing_held_out(family_corpus):
    dataset, clusters = family_corpus(families=2)
    splits = split_corpus(dataset, clusters=clusters)
    assert splits.held_out == {} and len(splits.train) == len(dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"holdout_families": 0.1}, "holdout_families=0.1 needs a table of clusters"),
        ({"holdout_members": 0.1}, "holdout_members=0.1 needs a table of clusters"),
        ({"holdout_random": 1.0}, "holdout_random must be"),
        ({"holdout_random": -0.1}, "holdout_random must be"),
        ({"clusters": {"f0-0": "f0"}, "holdout_families": 0.6, "holdout_random": 0.5}, "add up"),
        ({"holdout_random": 0.1, "holdout_seed": -1}, "holdout_seed"),
    ],
)
def test_wrong_split_options_are_named(options, message, family_corpus):
    dataset, _ = family_corpus(families=2)
    with pytest.raises(CorpusError, match=message):
        split_corpus(dataset, **options)


def test_streamed_corpus_cannot_be_split(tmp_path, write_records):
    write_records(tmp_path / "a.fasta")
    with pytest.raises(CorpusError, match="streaming=False"):
        split_corpus(load_corpus(str(tmp_path / "a.fasta"), streaming=True).dataset, holdout_random=0.1)


def test_ids_that_differ_in_a_blank_are_shown_with_it(family_corpus):
    dataset, clusters = family_corpus()
    with pytest.raises(CorpusError, match=r"such as 'f\d+-\d'\) is in c.tsv, whose ids are like 'f\d+-\d '"):
        split_corpus(
            dataset,
            clusters={f"{name} ": cluster for name, cluster in clusters.items()},
            clusters_name="c.tsv",
            holdout_families=0.1,
        )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c.tsv", b"id\tcluster\na\tf1\nb\tf1\na\tf1\n\n"),
        ("c.csv", b"id,cluster\r\na,f1\r\nb,f1\r\n"),
        ("blanks.tsv", b"id \tcluster\na \tf1\n b\tf1 \n"),
        ("semicolons.csv", b"sep=;\nid;cluster;;\na;f1;;\nb;f1;;\n;;;\n"),
        ("quotes.tsv", b'id\tname\tcluster\na\t"x\tf1\nb\ty"\tf1\n'),
        pytest.param("c.tsv.gz", gzip.compress(b"cluster\tremark\tid\nf1\t\ta\nf1\tx\tb\n"), id="compressed"),
    ],
)
def test_cluster_tables(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_cluster_table(tmp_path / name) == {"a": "f1", "b": "f1"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "could not be read.*No such file"),
        (b"", "empty"),
        (b"id\tcluster\n", "no line after its header"),
        (b"P1\tP2\n", '"id" and "cluster"'),
        (b"id\tcluster\na\tf1\na\tf2\n", "line 3 puts .a. in cluster .f2.*f1"),
        (b"id\tcluster\tcluster\na\tf1\tf2\n", "cluster.*more than once"),
        (b"id\tcluster\na\n", "line 2"),
        (b"id\tcluster\na\t\n", "line 2"),
        pytest.param(
            gzip.compress(b"id\tcluster\n" + os.urandom(5000).hex().encode())[:-500], "ends too early", id="cut short"
        ),
    ],
)
def test_wrong_cluster_tables_are_refused_by_name(tmp_path, content, message):
    if content is not None:
        (tmp_path / "c.tsv").write_bytes(content)
    with pytest.raises(CorpusError, match=rf"c\.tsv.*{message}"):
        read_cluster_table(tmp_path / "c.tsv")


def test_demo_data_loads_and_splits_by_family(tmp_path, demo_fasta):
    corpus = load_corpus(str(demo_fasta), cache_dir=str(tmp_path))
    clusters = read_cluster_table(demo_fasta.with_name("demo_clusters.tsv"))
    assert corpus.counts == CleaningCounts(records_read=2240, records_kept=2240)
    assert set(corpus.dataset["id"]) == clusters.keys() and len(set(clusters.values())) == 133
    assert corpus.dataset[0]["id"] == "A0AJR1" and corpus.dataset[0]["length"] == 77

    splits = split_corpus(corpus.dataset, clusters=clusters, holdout_families=0.1, holdout_members=0.1)
    families = {clusters[identifier] for identifier in splits.held_out["families"]["id"]}
    train = {clusters[identifier] for identifier in splits.train["id"]}
    members = {clusters[identifier] for identifier in splits.held_out["members"]["id"]}
    assert splits.missing_in_clusters == 0
    assert not families & (train | members) and members <= train
    assert 0.1 <= len(splits.held_out["families"]) / 2240 <= 0.15
    assert 0.08 <= len(splits.held_out["members"]) / 2240 <= 0.12
