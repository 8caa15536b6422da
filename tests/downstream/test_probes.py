import re

import numpy as np
import pytest
import torch

from adversarial_mlm.downstream import baselines, probes
from adversarial_mlm.downstream.baselines import baselines_for
from adversarial_mlm.downstream.linear_heads import PENALTIES
from adversarial_mlm.downstream.probes import ProbeSettings, probe
from adversarial_mlm.downstream.scoring import headline_score
from adversarial_mlm.downstream.tasks import load_task
from adversarial_mlm.inference.embeddings import encode_residues
from adversarial_mlm.inference.feature_cache import FeatureCache

TASKS = ("fluorescence", "remote_homology", "secondary_structure")


@pytest.fixture
def backbone(make_encoder):
    model = make_encoder(num_hidden_layers=1, hidden_size=32).bert.eval()
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.mul_(20)  # letters that stand out from their places
    return model


def figures(data, predictions):
    return {
        split: headline_score(data.task.kind, found, data.splits[split]["label"][:])
        for split, found in predictions.items()
    }


@pytest.mark.parametrize("task", TASKS)
def test_a_probe_learns_what_residues_tell(learnable, backbone, tokenizer, task):
    data = load_task(task, learnable())
    result = probe(data, backbone, tokenizer)
    found = figures(data, result.predictions)
    least = {"fluorescence": 0.8, "remote_homology": 0.8, "secondary_structure": 0.97}[task]
    tests = [found[split] for split in data.task.splits if split in found and split != "train"]
    assert min(tests) > least, found
    assert result.valid_score == pytest.approx(found["valid"], abs=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_predictions_have_the_rows_order_and_types(learnable, backbone, tokenizer, task):
    data = load_task(task, learnable(40, 20))
    predictions = probe(data, backbone, tokenizer).predictions
    for split, found in predictions.items():
        sequences = data.splits[split]["sequence"][:]
        assert len(found) == len(sequences)
        if task == "secondary_structure":
            assert [len(row) for row in found] == [len(sequence) for sequence in sequences]
            assert all(np.issubdtype(row.dtype, np.integer) for row in found)
    shuffled = load_task(task, learnable(40, 20))
    order = np.random.default_rng(0).permutation(20)
    shuffled.splits["valid"] = shuffled.splits["valid"].select(order)
    again = probe(shuffled, backbone, tokenizer).predictions["valid"]
    for row, place in enumerate(order):
        np.testing.assert_allclose(again[row], predictions["valid"][place], atol=5e-3)


def test_test_labels_are_never_looked_at(learnable, backbone, tokenizer):
    data = load_task("fluorescence", learnable(40, 20))
    first = probe(data, backbone, tokenizer)
    data.splits["test"] = data.splits["test"].map(lambda row: {"label": -row["label"]})
    second = probe(data, backbone, tokenizer)
    np.testing.assert_array_equal(first.predictions["test"], second.predictions["test"])
    assert first.settings == second.settings


def test_features_come_from_the_cache_and_give_the_same(learnable, backbone, tokenizer, tmp_path, monkeypatch):
    data = load_task("secondary_structure", learnable(40, 20))
    first = probe(data, backbone, tokenizer, cache=FeatureCache(tmp_path / "cache"))
    monkeypatch.setattr(probes, "encode_residues", None)  # nothing is encoded any more
    cache = FeatureCache(tmp_path / "cache")
    second = probe(data, backbone, tokenizer, cache=cache)
    assert (cache.hits, cache.misses) == (len(data.splits), 0)
    for split, found in first.predictions.items():
        np.testing.assert_array_equal(np.concatenate(found), np.concatenate(second.predictions[split]))
    with pytest.raises(TypeError):
        probe(data, backbone, tokenizer, ProbeSettings(max_length=30), cache=cache)


def test_splits_of_the_same_proteins_share_their_features(learnable, backbone, tokenizer, tmp_path):
    data = load_task("fluorescence", learnable(40, 20))
    alone = probe(data, backbone, tokenizer)
    cache = FeatureCache(tmp_path / "cache")
    first = probe(data, backbone, tokenizer, cache=cache)
    np.testing.assert_allclose(first.predictions["test"], alone.predictions["test"])
    assert (cache.hits, cache.misses) == (0, 1)
    data.splits["valid"], data.splits["test"] = data.splits["test"], data.splits["valid"]
    other = probe(data, backbone, tokenizer, cache=cache)
    assert (cache.hits, cache.misses) == (1, 1)
    assert len(other.predictions["test"]) == len(first.predictions["valid"])


def test_proteins_are_drawn_until_they_have_enough_residues(learnable, backbone, tokenizer):
    data = load_task("secondary_structure", learnable(120, 20))
    all_of_them = probe(data, backbone, tokenizer)
    assert not all_of_them.seed_matters and all_of_them.settings["train_proteins"] == 120
    settings = ProbeSettings(max_train_residues=3500)
    some = [probe(data, backbone, tokenizer, settings, seed=seed) for seed in (0, 0, 1)]
    assert all(result.seed_matters and "train" not in result.predictions for result in some)
    assert 3500 / 50 <= some[0].settings["train_proteins"] <= 3500 / 30 + 1
    first, again, _ = (np.concatenate(result.predictions["valid"]) for result in some)
    assert np.array_equal(first, again)


def test_the_seed_says_which_proteins_are_drawn():
    labels = [np.where(np.arange(30) < 10, -100, 0) for _ in range(50)]
    first, again, other = (probes._draw_proteins(labels, 400, seed) for seed in (0, 0, 1))
    assert len(first) == len(other) == 20  # of 20 residues with a label each
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert len(probes._draw_proteins(labels, 10**6, 0)) == 50


def test_a_residues_head_sees_its_neighbours_and_zeros_beyond_the_ends(backbone, tokenizer):
    sequences = ["MKTAYIAK", "QRQIS"]
    features = encode_residues(backbone, tokenizer, sequences).astype(np.float32)
    rows = np.concatenate(list(probes._with_neighbours(features, [8, 5], 2).blocks()))
    rows = rows.reshape(13, 5, -1)
    np.testing.assert_array_equal(rows[3], features[1:6])
    assert not rows[0, :2].any() and not rows[7, 3:].any() and not rows[8, :2].any()
    np.testing.assert_array_equal(rows[8, 2:], features[8:11])


@pytest.mark.parametrize("task", TASKS)
def test_baselines_give_every_row_a_prediction(learnable, task):
    data = load_task(task, learnable(60, 20))
    for name, compute in baselines_for(data).items():
        for split, found in compute().items():
            assert len(found) == len(data.splits[split]), name


def test_trigrams_back_off_to_residues_and_to_the_most_frequent_class(write_split, tmp_path):
    train = [{"primary": "AKAKACAA", "ss3": "HEHEHHHH"}, {"primary": "AKAC", "ss3": "CCHC"}]
    others = {"valid": "KAKA", "cb513": "WKWKA", "ts115": "AK", "casp12": "AK"}
    write_split(tmp_path / "secondary_structure_train", ".jsonl", train)
    for split, sequence in others.items():
        records = [{"primary": sequence, "ss3": "H" * len(sequence)}]
        write_split(tmp_path / f"secondary_structure_{split}", ".jsonl", records)
    data = load_task("secondary_structure", tmp_path)
    found = baselines_for(data)["trigram"]()
    # A between K and K, K between A and A: seen; K at the start and A at the end: by residue and by the end
    assert found["valid"][0].tolist() == [1, 0, 1, 0]
    # W was never seen (H is most frequent); K beside W: K is E twice and C once
    assert found["cb513"][0].tolist() == [0, 1, 0, 1, 0]
    majority = baselines_for(data)["majority"]()
    assert majority["cb513"][0].tolist() == [0] * 5


def test_variants_with_a_residue_left_out_are_put_into_columns():
    from adversarial_mlm.downstream.alignment import align_variants, residue_numbers

    wild_type = "MKTAYIAKQRQISFVKSHFSRQ"
    variants = [wild_type, wild_type.replace("T", "W"), wild_type, wild_type]
    shorter = [wild_type[:5] + wild_type[6:], "W" + wild_type[1:10] + wild_type[11:15] + wild_type[16:]]
    train, other = align_variants(variants, [shorter])
    reference = residue_numbers(wild_type)
    assert np.array_equal(train[0], reference) and (train[1] != reference).sum() == 1
    assert np.array_equal(other[0], np.where(np.arange(22) == 5, 0, reference))
    wanted = np.where(np.isin(np.arange(22), (10, 15)), 0, reference)
    assert np.array_equal(other[1][1:], wanted[1:]) and other[1][0] == residue_numbers("W")[0]
    assert align_variants(variants, [["MKT"]]) is None


def test_proteins_that_are_no_variants_stand_from_their_first_residue():
    from adversarial_mlm.downstream.alignment import align_variants, residue_numbers

    (table,) = align_variants(["MKTAYIAK", "WWGGCCDD", "QRQISF", "LLDDPPE"], [])
    assert np.array_equal(table[2], [*residue_numbers("QRQISF"), 0, 0])


def test_one_hot_ridge_is_that_of_scikit_learn(learnable):
    from scipy.stats import spearmanr
    from sklearn.linear_model import Ridge

    data = load_task("fluorescence", learnable(80, 30))
    found = baselines_for(data)["one_hot_ridge"]()
    alphabet = "ACDEFGHIKLMNPQRSTVWY"
    one_hot = {
        split: np.array([[letter == x for x in sequence for letter in alphabet] for sequence in dataset["sequence"]])
        for split, dataset in data.splits.items()
    }
    seen = one_hot["train"].any(axis=0)
    best = (-2, None)
    for penalty in PENALTIES:
        model = Ridge(alpha=penalty * 80).fit(one_hot["train"][:, seen], data.splits["train"]["label"][:])
        on_valid = model.predict(one_hot["valid"][:, seen])
        on_test = model.predict(one_hot["test"][:, seen])
        best = max(
            best, (spearmanr(on_valid, data.splits["valid"]["label"][:]).statistic, on_test), key=lambda x: x[0]
        )
    np.testing.assert_allclose(found["test"], best[1], atol=1e-4)


def test_a_one_hot_ridge_that_would_not_fit_into_memory_is_left_out_and_said(learnable, monkeypatch, caplog):
    data = load_task("fluorescence", learnable(40, 20))
    assert "one_hot_ridge" in baselines_for(data)
    monkeypatch.setattr(baselines, "_MOST_COLUMNS", 5)
    assert list(baselines_for(data)) == ["mean", "composition"]
    assert "one_hot_ridge is left out" in caplog.text and "takes at most 5" in caplog.text


def test_where_validation_cannot_choose_the_whole_protein_is_one_segment(learnable, backbone, tokenizer):
    data = load_task("fluorescence", learnable(40, 20))
    equal = data.splits["valid"].remove_columns("label").add_column("label", [1.0] * 20)
    data.splits["valid"] = equal
    result = probe(data, backbone, tokenizer)
    assert np.isnan(result.valid_score) and result.settings["segments"] == 1


@pytest.mark.slow
def test_the_additive_ridge_reaches_its_known_figure_on_fluorescence(real_data):
    data = load_task("fluorescence", real_data)
    found = figures(data, baselines_for(data)["one_hot_ridge"]())
    assert found["test"] == pytest.approx(0.68, abs=0.01)
    assert found["valid"] == pytest.approx(0.82, abs=0.02)


@pytest.mark.slow
def test_trigrams_reach_their_known_figure_on_cb513(real_data):
    data = load_task("secondary_structure", real_data)
    found = figures(data, baselines_for(data)["trigram"]())
    assert found["cb513"] == pytest.approx(0.56, abs=0.01)
    assert found["ts115"] == pytest.approx(0.58, abs=0.01)
    assert found["casp12"] == pytest.approx(0.54, abs=0.01)


def test_progress_counts_the_proteins_that_were_read(learnable, backbone, tokenizer, caplog, monkeypatch):
    shown = []

    class Seen(probes.Progress):
        def __init__(self, total, text, logger):
            super().__init__(total, text, logger)
            shown.append([total, 0, text])

        def advance(self, amount):
            shown[-1][1] += amount

    monkeypatch.setattr(probes, "Progress", Seen)
    for task in ("fluorescence", "secondary_structure"):
        shown.clear()
        data = load_task(task, learnable(20, 12))
        probe(data, backbone, tokenizer, ProbeSettings(max_length=30), show_progress=True)
        lengths = [len(sequence) for dataset in data.splits.values() for sequence in dataset["sequence"][:]]
        assert sum(total for total, _, _ in shown) == sum(done for _, done, _ in shown) == sum(lengths)
        assert all(
            re.search(rf"^{task}: features of (\d+) of \1 proteins, .* proteins/s$", text()) for *_, text in shown
        )
