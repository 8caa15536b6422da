import json
import logging

import numpy as np
import pytest

from adversarial_mlm.cli.main import main
from adversarial_mlm.downstream.contacts.data import ContactProtein
from adversarial_mlm.downstream.contacts.regression import fit_contacts
from adversarial_mlm.downstream.contacts.results import contact_table, record
from adversarial_mlm.downstream.contacts.scoring import HEADLINE, METRICS, pairs_of, precisions
from adversarial_mlm.downstream.results import eval_results, read_results
from adversarial_mlm.utils.errors import CorpusError

LETTERS = list("ACDEFGHIKLMNPQRSTVWY")


def random_protein(generator, length=40, share=0.1):
    """A protein with contacts at random; the last residue has no known place."""
    first, second = pairs_of(length)
    chosen = generator.random(len(first)) < share
    known = np.arange(length) < length - 1
    contacts = np.stack([first[chosen], second[chosen]], axis=1)
    return ContactProtein("p", "".join(generator.choice(LETTERS, length)), known, contacts=contacts)


def write_proteins(path, proteins, lengths=(30, 45), seed=0):
    generator = np.random.default_rng(seed)
    with open(path, "w") as file:
        for index in range(proteins):
            protein = random_protein(generator, int(generator.integers(*lengths)))
            contacts = (protein.contacts + 1).tolist()
            file.write(json.dumps({"id": str(index), "sequence": protein.sequence, "contacts": contacts}) + "\n")
    return str(path)


@pytest.fixture
def encoder(save_encoder):
    return save_encoder("bert", initializer_range=0.3, max_position_embeddings=64)


def evaluate(*words):
    return main(["evaluate", "--task", "contacts", "--bootstrap_samples", "50", *words])


class TestRegression:
    def test_it_finds_the_head_that_shows_contacts_and_gives_others_no_weight(self):
        generator = np.random.default_rng(1)
        planted, heads = 5, 8

        def features_of(protein):
            labels = protein.labels()
            features = generator.normal(size=(heads, len(labels))).astype(np.float32)
            features[planted] += 4.0 * (labels == 1)
            return features

        fit = fit_contacts([random_protein(generator) for _ in range(3)], features_of)
        assert np.abs(fit.weights).argmax() == planted and fit.weights[planted] > 0.5
        assert np.abs(np.delete(fit.weights, planted)).max() < 0.2 * fit.weights[planted]
        other = random_protein(generator)
        found = precisions(fit.scores(features_of(other)), other.labels(), 40, 15)
        assert found[METRICS.index("long_precision_L5")] == 1.0

    def test_heads_of_noise_get_no_weight(self):
        generator = np.random.default_rng(2)
        proteins = [random_protein(generator) for _ in range(2)]
        # attention is small: of the order of 1 / length
        fit = fit_contacts(proteins, lambda p: generator.normal(size=(6, len(p.labels()))) / 40)
        assert not fit.weights.any() and fit.facts()["heads_with_a_weight"] == 0

    def test_pairs_without_a_known_place_are_not_fitted(self):
        generator = np.random.default_rng(3)
        protein = random_protein(generator)

        def features_of(protein):
            labels = protein.labels()
            features = np.stack([(labels == 1).astype(float), generator.normal(size=len(labels))])
            features[:, labels < 0] = np.nan  # would spoil the fit
            return features

        fit = fit_contacts([protein], features_of)
        assert np.isfinite(fit.weights).all() and fit.pairs == (protein.labels() >= 0).sum()

    def test_proteins_without_a_contact_are_refused(self):
        protein = random_protein(np.random.default_rng(4), share=0.0)
        with pytest.raises(CorpusError, match="the 1 training proteins have 0 contacts in 561 pairs"):
            fit_contacts([protein], lambda p: np.zeros((2, len(p.labels()))))


def test_a_figure_is_the_mean_over_the_proteins_that_have_it_with_its_interval():
    column = METRICS.index(HEADLINE)
    own, other = np.full((30, len(METRICS)), np.nan), np.full((30, len(METRICS)), np.nan)
    own[:20, column] = np.linspace(0.4, 0.6, 20)
    other[:20, column] = own[:20, column] - 0.1
    data = {"files": {}, "rows": {}, "fingerprints": {"test": "0"}}
    found = record("attention", [own, own], data, baselines={"separation": [other], "chance": [other - 0.1]})
    figure = found["figures"]["test"][HEADLINE]
    assert figure["value"] == pytest.approx(0.5) and figure["rows"] == 20 and figure["std"] == 0
    assert 0.46 < figure["low"] < 0.5 < figure["high"] < 0.54
    against = found["against"]["test"]
    assert (against["baseline"], against["beaten"]) == ("separation", True)
    assert against["difference"] == pytest.approx(0.1) and "short" not in found["against_by_range"]
    assert found["figures"]["test"]["short_precision_L"]["value"] is None
    (entry,) = eval_results([found])  # for a card
    assert entry.metric_name == "Precision at L, long range" and entry.dataset_name.endswith("test (20 proteins)")
    rows = contact_table([found]).splitlines()
    assert rows[2].split("  ")[0] == "long, 24 and more" and "+0.100 to separation" in rows[2]
    assert "not defined" in rows[-1]


def test_an_encoder_is_measured_beside_separation_chance_and_encoders_without_pre_training(
    encoder, tmp_path, capsys, caplog
):
    caplog.set_level(logging.INFO)
    train, test = write_proteins(tmp_path / "train.jsonl", 8), write_proteins(tmp_path / "test.jsonl", 6, seed=1)
    out = str(tmp_path / "out")
    words = ["--model_name_or_path", encoder, "--train_file", train, "--test_file", test, "--seeds", "0", "1"]
    assert evaluate(*words, "--contact_train_proteins", "4", "--output_dir", out) == 0
    results = {result["method"]: result for result in read_results(out)}
    assert list(results) == [
        *("attention", "regression", "attention, no pre-training", "regression, no pre-training"),
        *("separation", "chance"),
    ]
    assert results["regression"]["data"]["rows"] == {"train": 8, "test": 6}
    assert [fit["heads"] for fit in results["regression"]["settings"]["chosen"]] == [6, 6]  # a fit for each seed
    assert set(results["attention"]["figures"]["test"]) == set(METRICS)
    shown = capsys.readouterr().out
    for row in ("long, 24 and more", "medium, 12 to 23", "short, 6 to 11", "regression, bert", "P@L/5"):
        assert row in shown
    assert evaluate(*words, "--contact_train_proteins", "4", "--output_dir", out) == 0
    assert read_results(out) == list(results.values())  # the same again, in place of the first


def test_training_proteins_of_one_file_are_left_out_of_the_test_and_long_proteins_are_counted(
    encoder, tmp_path, caplog
):
    path = write_proteins(tmp_path / "all.jsonl", 9)
    with open(path, "a") as file:
        file.write(json.dumps({"sequence": "A" * 80, "contacts": [[1, 20]]}) + "\n")
    out = str(tmp_path / "out")
    assert evaluate("--model_name_or_path", encoder, "--test_file", path, "--output_dir", out) == 0
    (attention, *_) = read_results(out)
    assert attention["data"]["rows"] == {"train": 4, "test": 5}  # at most half
    notes = " ".join(attention["notes"])
    assert "1 of 10 proteins is left out, because it has more than the 62 residues" in notes
    assert "the regression is fitted on 4 of 9 proteins, drawn at random (split_seed 0)" in notes
    assert notes in " ".join(record.message for record in caplog.records).replace("contacts: ", "")


def test_baselines_need_no_encoder_and_tapes_folder_is_read(tmp_path, write_split, capsys):
    generator = np.random.default_rng(0)
    for split, number in (("train", 3), ("test", 4)):
        records = [
            {
                "primary": "".join(generator.choice(LETTERS, 40)),
                "tertiary": np.cumsum(generator.normal(0, 2.5, (40, 3)), axis=0),
                "valid_mask": np.ones(40, dtype=bool),
            }
            for _ in range(number)
        ]
        write_split(tmp_path / "proteinnet" / f"proteinnet_{split}", ".json", records)
    assert evaluate("--data_dir", str(tmp_path), "--mode", "baselines") == 0
    shown = capsys.readouterr().out
    assert "separation" in shown and "chance" in shown and "attention" not in shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--model_name_or_path", "m"], "test_file is missing"),
        (
            ["--model_name_or_path", "m", "--test_file", "t", "--mode", "zero_shot"],
            "mode is zero_shot, but task",
        ),
        (["--model_name_or_path", "m", "--test_file", "t", "--layer", "1"], "layer is given, but has no effect"),
        (["--model_name_or_path", "m", "--test_file", "t", "--data_dir", "d"], "data_dir is given, but the files"),
        (
            ["--model_name_or_path", "m", "--test_file", "t", "--contact_train_proteins", "0"],
            "contact_train_proteins must be at least 1, got 0",
        ),
    ],
)
def test_options_without_an_effect_are_refused(capsys, words, sentence):
    with pytest.raises(SystemExit) as stop:
        evaluate(*words)
    assert stop.value.code == 2 and sentence in capsys.readouterr().err


def test_contacts_are_evaluated_on_their_own(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--task", "contacts", "stability", "--data_dir", "d", "--model_name_or_path", "m"])
    assert "task contacts cannot be combined with other tasks" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "--task", "stability", "--contacts_column", "c", "--data_dir", "d", "--mode", "baselines"])
    assert "contacts_column is given, but only applies to task contacts" in capsys.readouterr().err


def test_a_folder_without_test_proteins_is_refused_by_name(tmp_path, capsys):
    assert evaluate("--data_dir", str(tmp_path), "--mode", "baselines") == 2
    assert "there is neither a file proteinnet_test" in capsys.readouterr().err
