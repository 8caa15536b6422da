"""TAPE's tasks from real files, where they are."""

import pytest

from adversarial_mlm.downstream.tasks import load_task

# Counts and labels that can be looked up in the files' description and by hand.
REAL = {
    ("fluorescence", None, None): {"train": 21446, "valid": 5362, "test": 27217},
    ("stability", None, None): {"train": 53684, "valid": 2442, "test": 12851},
    ("secondary_structure", None, None): {
        "train": 9712,
        "valid": 1080,
        "cb513": 511,
        "ts115": 115,
        "casp12": 20,
        "new364": 364,
    },
    ("secondary_structure", "ss8", "ss8"): {"train": 4439, "valid": 494, "cb513": 511, "ts115": 115, "casp12": 20},
    ("remote_homology", None, None): {
        "train": 4612,
        "valid": 416,
        "test_fold_holdout": 340,
        "test_superfamily_holdout": 626,
        "test_family_holdout": 453,
    },
    ("remote_homology", "scope208", None): {
        "train": 9636,
        "valid": 397,
        "test_fold_holdout": 407,
        "test_superfamily_holdout": 747,
        "test_family_holdout": 1148,
    },
}


@pytest.mark.slow
class TestRealFiles:
    @pytest.mark.parametrize(("task", "prefix", "target"), REAL)
    def test_counts(self, real_data, task, prefix, target):
        data = load_task(task, real_data, file_prefix=prefix, target=target)
        assert data.facts["rows"] == REAL[task, prefix, target]

    def test_fluorescence(self, real_data):
        data = load_task("fluorescence", real_data)
        assert data.facts["differences"] == {} and data.facts["notes"] == []
        first = data.splits["test"][0]
        assert first["label"] == pytest.approx(1.30103123972) and first["num_mutations"] == 5
        assert first["sequence"].startswith("SKGEELFTGVVPILVELDGDVNGHKF") and len(first["sequence"]) == 237
        assert max(data.splits["train"]["num_mutations"][:]) == 3
        assert min(data.splits["test"]["num_mutations"][:]) == 4

    def test_stability_scores(self, real_data):
        first = load_task("stability", real_data).splits["test"][0]
        assert first["id"] == first["parent"] == "EEHEE_rd3_0037.pdb" and first["topology"] == "EEHEE"
        assert first["label"] == pytest.approx(0.85)
        data = load_task("stability", real_data, target="stability_score_c")
        assert data.facts["shared_with_train"] == {"valid": 0, "test": 26}
        assert data.facts["label_mean"]["test"] == pytest.approx(1.00204, abs=1e-5)

    def test_secondary_structure(self, real_data):
        data = load_task("secondary_structure", real_data)
        first = data.splits["train"][0]
        assert first["id"] == "1es5-A"
        assert first["label"][:12] == [-100, -100] + [2] * 7 + [1] * 3
        assert data.facts["masked_residues"]["cb513"] == 60584

    def test_homology_subset_has_folds_that_train_lacks(self, real_data):
        data = load_task("remote_homology", real_data)
        assert len(data.classes) == 903
        assert data.facts["unseen_classes"]["test_fold_holdout"]["records"] == 12
        assert data.splits["test_fold_holdout"]["label"][:].count(-1) == 12
        complete = load_task("remote_homology", real_data, file_prefix="scope208")
        assert complete.classes == [str(number) for number in range(1227)]
        first = complete.splits["train"][0]
        assert (first["id"], first["label"], first["superfamily"]) == ("d12asa_", 701, "d.104.1")
