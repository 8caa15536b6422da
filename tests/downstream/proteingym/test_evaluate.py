"""ProteinGym from files in its layouts: scores, metrics, averages, and what a second run does."""

import csv
import json
import os

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from adversarial_mlm.downstream.command_line import parse_arguments
from adversarial_mlm.downstream.proteingym.evaluate import Scorer, evaluate_proteingym
from adversarial_mlm.downstream.proteingym.results import gym_table
from adversarial_mlm.downstream.results import eval_results, take_output_dir, write_results
from adversarial_mlm.inference.mutant_tables import score_mutants
from adversarial_mlm.inference.pseudo_likelihood import pseudo_log_likelihoods
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.utils.errors import CorpusError, RecipeError
from tests.helpers.gym_files import HEADER, indels, protein, substitutions, write_csv, write_reference

TARGETS = {"A": protein(20, 1), "B": protein(24, 2), "C": protein(90, 3)}
ASSAYS = [
    ("A_HUMAN_one", "A_HUMAN", "Activity"),
    ("B_MOUSE_two", "B_MOUSE", "Stability"),
    ("C_X_long", "C_X", "Stability"),
]


@pytest.fixture
def saved(make_encoder, tokenizer, tmp_path):
    model = make_encoder()
    torch.nn.init.normal_(model.bert.embeddings.word_embeddings.weight)
    model.save_pretrained(tmp_path / "small-model")
    tokenizer.save_pretrained(tmp_path / "small-model")
    return str(tmp_path / "small-model")


@pytest.fixture
def gym(saved, tmp_path):
    """Write three assays and their reference file; returns a function that evaluates them like the command does."""
    for name, *_ in ASSAYS:
        rows = substitutions(TARGETS[name[0]], 40, depth=3 if name[0] == "B" else 1)
        write_csv(tmp_path / "DMS" / f"{name}.csv", HEADER, rows)
    reference = write_reference(tmp_path / "ref.csv", [(*assay, TARGETS[assay[0][0]]) for assay in ASSAYS])

    def evaluate(*words, out="out", table=reference):
        words = ["--model_name_or_path", saved, "--data_dir", str(tmp_path / "DMS"), *words]
        words += ["--reference_file", str(table), "--output_dir", str(tmp_path / out)]
        args, settings = parse_arguments(["--benchmark", "proteingym", *words])
        take_output_dir(args.output_dir)
        return evaluate_proteingym(args, settings.max_length, lambda found: write_results(args.output_dir, found))

    return evaluate


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def values(record):
    return {name: figure["value"] for name, figure in record["figures"]["test"].items()}


def test_every_variant_is_scored_and_compared_with_its_measurement(gym, saved, tmp_path):
    *assays, summary = gym()
    model, tokenizer = load_encoder(saved)
    for record in assays:
        rows = table(tmp_path / "DMS" / f"{record['target']}.csv")
        written = table(tmp_path / "out" / "scores" / f"{record['target']}.csv")
        assert [{name: row[name] for name in HEADER} for row in written] == rows  # in the benchmark's layout
        scores = [float(row["small-model"]) for row in written]
        wanted = score_mutants(model.eval(), tokenizer, TARGETS[record["target"][0]], [row["mutant"] for row in rows])
        np.testing.assert_allclose(scores, [one.score for one in wanted], atol=1e-5)
        labels = [float(row["DMS_score"]) for row in rows]
        assert values(record)["spearman"] == pytest.approx(spearmanr(scores, labels).statistic)
        assert {*values(record)} == {"spearman", "auc", "mcc", "ndcg", "top_recall"}  # no squared error
    by_function = summary["figures"]["test"]["spearman"]["by_function"]
    rounded = [round(values(record)["spearman"], 3) for record in assays]
    assert by_function == pytest.approx({"Activity": rounded[0], "Stability": (rounded[1] + rounded[2]) / 2})
    assert summary["figures"]["test"]["spearman"]["value"] == pytest.approx(np.mean(list(by_function.values())))
    assert summary["resampled"]["test"] == {"unit": "proteins (UniProt ids) within each function", "groups": 3}
    taxa = summary["figures"]["test"]["spearman"]["by_taxon"]
    assert taxa == pytest.approx({"Human": np.mean(rounded)})
    shown = gym_table([*assays, summary])
    assert "average over functions" in shown and "few groups, so it is rough" in shown
    (entry,) = eval_results([*assays, summary])  # the card has the average alone
    assert entry.metric_type == "spearman" and entry.dataset_name.startswith("proteingym substitutions, test (3 ")


def test_the_number_of_substitutions_stands_beside_assays_in_which_it_differs(gym):
    records = {record["target"]: record for record in gym()}
    assert "against" not in records["A_HUMAN_one"]
    against = records["B_MOUSE_two"]["against"]["test"]
    assert against["baseline"] == "fewer substitutions" and against["beaten"] == (against["difference"] > 0)


@pytest.mark.parametrize("column", ["mutated_sequence", "mutant"])
def test_indels_are_scored_by_their_pseudo_likelihood(gym, saved, tmp_path, column):
    rows = indels(TARGETS["A"], 15)
    write_csv(tmp_path / "DMS" / "A_HUMAN_one.csv", [column, "DMS_score", "DMS_score_bin"], [*rows, rows[0]])
    record, summary = gym("--only", "A_HUMAN_one", "--bootstrap_samples", "0")
    model, tokenizer = load_encoder(saved)
    wanted = [score.pll for score in pseudo_log_likelihoods(model.eval(), tokenizer, [row[0] for row in rows])]
    written = table(tmp_path / "out" / "scores" / "A_HUMAN_one.csv")
    found = [float(row["small-model"]) for row in written]
    np.testing.assert_allclose(found, [*wanted, wanted[0]], atol=1e-4)
    assert [row["mutated_sequence"] for row in written] == [row[0] for row in [*rows, rows[0]]]
    assert record["method"] == "zero-shot, pseudo-likelihood" and summary["target"] == "indels"
    once, _ = gym("--only", "A_HUMAN_one", "--one_pass", out="once")
    assert once["method"] == "zero-shot, one-pass pseudo-likelihood" and values(once) != values(record)
    with pytest.raises(RecipeError, match="marginals is mutant, but .*A_HUMAN_one.csv has no substitutions"):
        gym("--only", "A_HUMAN_one", "--marginals", "mutant", out="mutant")


def test_options_of_indels_are_refused_for_substitutions(gym):
    with pytest.raises(
        RecipeError, match="one_pass is set, but .*A_HUMAN_one.csv has substitutions, to which it does not apply"
    ):
        gym("--one_pass")


def test_a_target_that_is_too_long_is_read_in_windows_and_the_result_says_so(gym, caplog):
    *assays, _ = gym("--max_length", "32")
    (note,) = assays[2]["notes"]
    assert note.startswith(
        "target_seq has 90 residues, and the model reads 30 at once: each position is read in a win"
    )
    assert note in caplog.text and not assays[0]["notes"]
    assert assays[2]["settings"]["max_length"] == 32


def test_variants_without_a_label_are_scored_and_others_without_a_score_are_counted(gym, tmp_path, caplog):
    rows = substitutions(TARGETS["A"], 30)
    plain, *_ = gym("--only", "A_HUMAN_one", out="plain")
    odd = [["M1*", "", 1, 1], [f"{TARGETS['A'][1]}2X", "", 2, 1], ["K99A", "", 0, 0]]
    for row in rows[:4]:
        row[2:] = ["", "NA"]
    write_csv(tmp_path / "DMS" / "A_HUMAN_one.csv", HEADER, [*rows, *odd])
    record, _ = gym("--only", "A_HUMAN_one")
    figures = record["figures"]["test"]
    assert figures["spearman"]["rows"] == figures["auc"]["rows"] == 26 and record["data"]["rows"] == {"test": 30}
    written = table(tmp_path / "out" / "scores" / "A_HUMAN_one.csv")
    assert [row["small-model"] == "" for row in written] == [False] * 30 + [True] * 3
    assert record["left_out"] == {
        "with a stop (*)": 1,
        "with a residue that is unknown or ambiguous (?, B, J, X or Z)": 1,
        "with a position outside of the wild type": 1,
    }
    assert "A_HUMAN_one.csv: 3 of 33 records are left out: 1 with a stop (*) (line 32: 'M1*')" in caplog.text
    assert "4 of 33 variants have a score but no DMS_score, so their metrics lack them." in record["notes"]
    assert values(plain) != values(record)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (["A1C", "", "high", 1], r"A_HUMAN_one.csv: line 3: column \"DMS_score\" contains 'high', but must contain a"),
        (["A1C", "", 0.5, 2], r"line 3: column \"DMS_score_bin\" contains '2', but must contain 0 or 1"),
    ],
)
def test_a_wrong_value_ends_in_a_sentence_with_file_line_and_column(gym, tmp_path, row, sentence):
    write_csv(tmp_path / "DMS" / "A_HUMAN_one.csv", HEADER, [*substitutions(TARGETS["A"], 1), row])
    with pytest.raises(CorpusError, match=sentence):
        gym()


def test_an_assay_of_another_numbering_is_refused_with_what_would_fit(gym, tmp_path):
    rows = substitutions(TARGETS["A"], 20)
    for row in rows:
        row[0] = f"{row[0][0]}{int(row[0][1:-1]) + 23}{row[0][-1]}"
    write_csv(tmp_path / "DMS" / "A_HUMAN_one.csv", HEADER, rows)
    with pytest.raises(CorpusError, match="20 of 20 variants do not fit target_seq of A_HUMAN_one, .* if 23 is subtr"):
        gym()


def test_assays_without_a_table_are_named_and_left_out(gym, tmp_path, caplog):
    os.unlink(tmp_path / "DMS" / "B_MOUSE_two.csv")
    *assays, summary = gym()
    assert [record["target"] for record in assays] == ["A_HUMAN_one", "C_X_long"]
    assert "1 of 3 assays have no table" in caplog.text and "the first is B_MOUSE_two" in caplog.text
    assert summary["notes"] == ["1 of 3 assays of ref.csv have no table and are left out."]
    with pytest.raises(CorpusError, match="B_MOUSE_two.csv: there is no such file"):
        gym("--only", "B_MOUSE_two")
    with pytest.raises(RecipeError, match="only names 'A_HUMAN', which is no DMS_id of .*ref.csv"):
        gym("--only", "A_HUMAN")


def test_a_reference_file_with_a_wrong_row_is_refused(gym, tmp_path):
    for number, (assays, sentence) in enumerate(
        [
            ([("A", "P", "Activity", "MK-T")], "line 2: column \"target_seq\": is 'MK-T', but must be a protein"),
            ([("A", "P", "", "MKT")], 'line 2: column "coarse_selection_type" is empty'),
            ([("A", "P", "Activity", "MKT")] * 2, "line 3: the DMS_id 'A' occurs twice"),
            ([("../A", "P", "Activity", "MKT")], "line 2: column \"DMS_id\" contains '../A', but must be the name"),
        ]
    ):
        with pytest.raises(CorpusError) as error:
            gym(table=write_reference(tmp_path / f"ref{number}.csv", assays))
        assert sentence in str(error.value)


def test_a_run_that_was_stopped_continues_with_the_assays_that_are_missing(gym, tmp_path, monkeypatch):
    scored = []
    score = Scorer.score

    def counting(self, assay, rows):
        scored.append(assay.name)
        if len(scored) == 2:
            raise KeyboardInterrupt
        return score(self, assay, rows)

    monkeypatch.setattr(Scorer, "score", counting)
    with pytest.raises(KeyboardInterrupt):
        gym()
    assert sorted(os.listdir(tmp_path / "out" / "scores")) == ["A_HUMAN_one.csv"]
    *assays, summary = gym()
    assert scored == ["A_HUMAN_one", "B_MOUSE_two", "B_MOUSE_two", "C_X_long"]
    again = gym()
    assert len(scored) == 4 and again[-1] == summary
    assert [values(record) for record in again[:-1]] == [values(record) for record in assays]
    # a damaged table of scores, and a changed assay, are computed again
    (tmp_path / "out" / "scores" / "C_X_long.csv").write_text("damaged")
    write_csv(tmp_path / "DMS" / "B_MOUSE_two.csv", HEADER, substitutions(TARGETS["B"], 41, seed=1))
    gym()
    assert scored[4:] == ["B_MOUSE_two", "C_X_long"]
    stored = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert {record["target"] for record in stored} == {"A_HUMAN_one", "B_MOUSE_two", "C_X_long", "substitutions"}


def test_other_options_or_weights_need_another_folder(gym, saved, make_encoder, tmp_path):
    gym("--only", "A_HUMAN_one")
    with pytest.raises(RecipeError, match="with marginals masked, but this run has wild_type: choose another folder"):
        gym("--marginals", "wild_type")
    with pytest.raises(RecipeError, match="with max_length 512, but this run has 32"):
        gym("--max_length", "32")
    make_encoder(seed=7).save_pretrained(saved)
    with pytest.raises(RecipeError, match="with another encoder: choose another folder"):
        gym("--only", "A_HUMAN_one")


@pytest.mark.parametrize("marginals", ["wild_type", "mutant"])
def test_other_marginals_are_those_of_the_scorer_of_mutants(gym, saved, tmp_path, marginals):
    record, _ = gym("--marginals", marginals, "--only", "B_MOUSE_two")
    model, tokenizer = load_encoder(saved)
    written = table(tmp_path / "out" / "scores" / "B_MOUSE_two.csv")
    mutants = [row["mutant"] for row in written]
    wanted = score_mutants(model.eval(), tokenizer, TARGETS["B"], mutants, marginals=marginals)
    found = [float(row["small-model"]) for row in written]
    np.testing.assert_allclose(found, [one.score for one in wanted], atol=1e-5)
    assert record["method"] == f"zero-shot, {marginals.replace('_', ' ')} marginals"
