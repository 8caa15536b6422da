import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from adversarial_mlm.downstream.metrics import BrightAndDark, HomologyAccuracy, ResidueAccuracy, SpearmanCorrelation
from adversarial_mlm.downstream.results import add_to_card, eval_results, read_results, record, table, write_results
from adversarial_mlm.downstream.scoring import compare, headline_name, resampled_groups, score
from adversarial_mlm.downstream.tasks import load_task
from adversarial_mlm.utils.errors import CorpusError


@pytest.fixture
def fluorescence(write_task):
    def spread(splits):
        for found in splits.values():
            for index, row in enumerate(found):
                row["log_fluorescence"] = np.array([1 + 0.05 * index])

    return load_task("fluorescence", write_task("fluorescence", records=40, change=spread))


@pytest.fixture
def predictions(fluorescence):
    generator = np.random.default_rng(0)
    labels = {split: np.array(dataset["label"][:]) for split, dataset in fluorescence.splits.items()}
    return {split: found + 0.3 * generator.normal(size=len(found)) for split, found in labels.items()}


def test_figures_are_those_of_the_metrics(fluorescence, predictions):
    labels = fluorescence.splits["test"]["label"][:]
    found = score(fluorescence, "test", predictions["test"], bootstrap_samples=50)
    metric = SpearmanCorrelation()
    wanted = metric.compute(predictions=predictions["test"], references=labels, bootstrap_samples=50)
    figure = found["spearman"]
    assert (figure.value, figure.low, figure.high) == pytest.approx(tuple(wanted.values()))
    modes = BrightAndDark().compute(predictions=predictions["test"], references=labels)
    for mode in ("bright", "dark"):
        assert found[f"{mode}_spearman"].value == pytest.approx(modes[f"{mode}_spearman"])
        assert found[f"{mode}_mse"].value == pytest.approx(modes[f"{mode}_mse"])
        assert found[f"{mode}_mse"].rows == modes[f"{mode}_proteins"]


def test_tests_of_homology_have_the_names_of_their_levels(write_task):
    data = load_task("remote_homology", write_task("remote_homology"))
    for level in ("fold", "superfamily", "family"):
        split = f"test_{level}_holdout"
        labels = data.splits[split]["label"][:]
        found = np.zeros(len(labels), dtype=int)
        wanted = HomologyAccuracy().compute(predictions=found, references=labels, levels=[level] * len(labels))
        assert list(score(data, split, found)) == [f"{level}_accuracy"]
        assert score(data, split, found)[f"{level}_accuracy"].value == wanted[f"{level}_accuracy"]
    assert headline_name(data, "valid") == "sequence_accuracy"


def test_residues_that_were_not_read_are_wrong(write_task):
    data = load_task("secondary_structure", write_task("secondary_structure"))
    labels = data.splits["cb513"]["label"][:]
    whole = [np.array(row) for row in labels]
    assert score(data, "cb513", whole)["residue_accuracy"].value == 1.0
    half = [row[: len(row) // 2] for row in whole]
    padded = [np.concatenate([row, np.full(len(w) - len(row), -1)]) for row, w in zip(half, whole, strict=True)]
    wanted = ResidueAccuracy().compute(predictions=padded, references=labels)["residue_accuracy"]
    assert score(data, "cb513", half)["residue_accuracy"].value == pytest.approx(wanted)
    assert 0 < wanted < 1


def test_several_runs_are_scored_by_their_mean_and_spread(fluorescence, predictions):
    labels = np.array(fluorescence.splits["test"]["label"][:])
    runs = [{"test": predictions["test"]}, {"test": -labels}, {"test": labels}]
    figure = record(fluorescence, "probe", runs, seeds=[0, 1, 2])["figures"]["test"]["spearman"]
    by_seed = [spearmanr(run["test"], labels).statistic for run in runs]
    assert figure["by_seed"] == pytest.approx(by_seed)
    assert figure["value"] == pytest.approx(np.mean(by_seed)) and figure["std"] == pytest.approx(
        np.std(by_seed, ddof=1)
    )
    assert figure["low"] < figure["value"] < figure["high"]


def test_a_difference_is_of_the_same_resamples(fluorescence, predictions):
    labels = np.array(fluorescence.splits["test"]["label"][:])
    same = compare(fluorescence, "test", [predictions["test"]], [predictions["test"] * 2 + 1])
    assert (same.value, same.low, same.high) == (0, 0, 0)
    better = compare(fluorescence, "test", [labels], [predictions["test"]])
    assert 0 < better.low < better.value < better.high


def test_a_result_is_marked_where_it_does_not_beat_the_best_baseline(fluorescence, predictions):
    labels = {split: np.array(dataset["label"][:]) for split, dataset in fluorescence.splits.items()}
    constant = {split: np.zeros(len(found)) for split, found in labels.items()}
    baselines = {"mean": [constant], "noisy": [predictions]}
    good = record(fluorescence, "probe", [labels], model="a/b", baselines=baselines)
    assert good["against"]["test"]["baseline"] == "noisy" and good["against"]["test"]["beaten"]
    same = record(fluorescence, "probe", [predictions], model="a/b", baselines=baselines)
    assert not same["against"]["test"]["beaten"] and same["against"]["test"]["difference"] == 0
    assert "!" not in table([good]) and "+0.000 to noisy !" in table([same])
    assert "not shown to beat the best baseline" in table([same])
    only_constant = record(fluorescence, "probe", [predictions], baselines={"mean": [constant]})
    assert only_constant["against"] == {}


def test_the_table_shows_undefined_figures_as_such_and_the_papers_with_a_footnote(fluorescence):
    labels = {split: np.array(dataset["label"][:]) for split, dataset in fluorescence.splits.items()}
    constant = record(fluorescence, "mean", [{split: found * 0 for split, found in labels.items()}])
    assert constant["figures"]["test"]["spearman"]["value"] is None
    text = table([constant])
    assert "not defined" in text and "0.678 ± 0.002" in text and "(a) on other data: your splits" in text
    constant["as_in_paper"] = True
    assert "(a)" not in table([constant])


def test_the_papers_figures_of_stability_are_of_the_chymotrypsin_score(write_task):
    def second_score(splits):
        for found in splits.values():
            for row in found:
                row["stability_score_c"] = row["stability_score"]

    folder = write_task("stability", change=second_score)
    for target, as_in_paper in (("stability_score_c", True), ("stability_score", False)):
        data = load_task("stability", folder, target=target)
        data.facts["differences"] = {}  # as if they had TAPE's sizes
        labels = {"test": np.array(data.splits["test"]["label"][:])}
        found = record(data, "probe", [labels], bootstrap_samples=0)
        text = table([found])
        assert "0.630 ± 0.009" in text and ("(a)" not in text) == as_in_paper == found["as_in_paper"]


def test_a_card_tells_figures_of_a_part_from_those_of_the_whole(fluorescence, predictions, write_task, tmp_path):
    from huggingface_hub import ModelCard

    (tmp_path / "README.md").write_text("---\nlibrary_name: transformers\n---\n# A model\n")
    part = load_task("fluorescence", tmp_path, max_records=10)
    of_part = {split: np.arange(10.0) for split in part.splits}
    whole = record(fluorescence, "probe", [predictions], model="m", bootstrap_samples=0)
    assert add_to_card(tmp_path, [whole]) == 1
    assert add_to_card(tmp_path, [record(part, "probe", [of_part], model="m", bootstrap_samples=0)]) == 1
    assert add_to_card(tmp_path, [whole]) == 1
    results = ModelCard.load(tmp_path / "README.md").data.eval_results
    names = sorted(result.dataset_name for result in results)
    assert names == [
        f"fluorescence log_fluorescence, test ({rows} proteins)" for rows in (10, len(predictions["test"]))
    ]


def test_results_take_the_place_of_earlier_ones_of_the_same_kind(fluorescence, predictions, tmp_path):
    first = record(fluorescence, "probe", [predictions], model="m", settings={"layer": 1}, bootstrap_samples=0)
    other = record(fluorescence, "probe", [predictions], model="m", settings={"layer": 2}, bootstrap_samples=0)
    path = write_results(tmp_path / "out", [first, other])
    newer = {**first, "notes": ["newer"]}
    write_results(tmp_path / "out", [newer])
    assert read_results(tmp_path / "out") == [newer, other]
    assert json.loads(path.read_text())["version"] == 1
    assert [item.name for item in path.parent.iterdir()] == ["results.json"]


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1, "results": [{}]}', '{"version": 9, "results": []}'])
def test_a_damaged_file_of_results_is_named_and_stays(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match="results.json is not a list of results"):
        write_results(tmp_path, [])
    assert (tmp_path / "results.json").read_text() == text


def test_entries_of_a_card_are_of_tests_and_of_encoders(fluorescence, predictions):
    of_encoder = record(fluorescence, "probe", [predictions], model="m", bootstrap_samples=0)
    of_baseline = record(fluorescence, "twin", [predictions], model="m", is_baseline=True, bootstrap_samples=0)
    (entry,) = eval_results([of_encoder, of_baseline])
    assert entry.dataset_split == "test" and entry.metric_type == "spearman"
    assert entry.metric_value == of_encoder["figures"]["test"]["spearman"]["value"]


def test_results_are_read_back_from_a_card(fluorescence, predictions, tmp_path):
    from huggingface_hub import ModelCard

    (tmp_path / "README.md").write_text("---\nlibrary_name: transformers\n---\n# A model\n")
    probe = record(fluorescence, "probe", [predictions], model="m", bootstrap_samples=0)
    assert add_to_card(tmp_path, [probe, {**probe, "method": "finetune"}]) == 2
    results = ModelCard.load(tmp_path / "README.md").data.eval_results
    assert {result.metric_value for result in results} == {probe["figures"]["test"]["spearman"]["value"]}
    assert len(results) == 2


def test_a_result_that_is_not_defined_stands_marked_beside_a_baseline_that_is(fluorescence, predictions):
    constant = {split: np.zeros(len(found)) for split, found in predictions.items()}
    collapsed = record(fluorescence, "finetune", [constant], baselines={"noisy": [predictions]})
    assert not collapsed["against"]["test"]["beaten"]
    assert "not defined to noisy !" in table([collapsed])


def test_a_single_protein_has_no_interval_and_does_not_show_that_a_baseline_is_beaten(write_task):
    def shorten(splits):
        splits["test_fold_holdout"] = splits["test_fold_holdout"][:1]

    data = load_task("remote_homology", write_task("remote_homology", change=shorten))
    split = "test_fold_holdout"
    right = data.splits[split]["label"][:]
    found = record(data, "probe", [{split: right}], baselines={"wrong": [{split: [right[0] + 1]}]})
    against = found["against"][split]
    assert (against["difference"], against["low"], against["beaten"]) == (1.0, None, False)
    assert "+100.0 points to wrong !" in table([found])
    assert "(without intervals, the difference itself) does not lie above 0" in table([found])


def test_a_checkpoint_that_was_trained_on_replaces_its_earlier_result_whatever_validation_chose(
    fluorescence, predictions, tmp_path
):
    def of(penalty):
        settings = {"layer": 1, "chosen": {"penalty": penalty}}
        return record(fluorescence, "probe", [predictions], model="m", settings=settings, bootstrap_samples=0)

    write_results(tmp_path, [of(0.1)])
    write_results(tmp_path, [of(10.0)])
    (kept,) = read_results(tmp_path)
    assert kept["settings"]["chosen"] == {"penalty": 10.0}


def test_intervals_resample_superfamilies_and_designs_where_the_files_name_them(write_task):
    homology = load_task("remote_homology", write_task("remote_homology", records=40))
    found = resampled_groups(homology, "test_fold_holdout")
    names = homology.splits["test_fold_holdout"]["superfamily_label"][:]
    assert (found.unit, found.number) == ("superfamilies", len(set(names))) and found.without == 0
    assert [name == names[0] for name in names] == (found.of_rows == found.of_rows[0]).tolist()
    stability = load_task("stability", write_task("stability", records=40))
    assert resampled_groups(stability, "test").unit == "proteins of one group (parent)"  # which has no interval

    def designs(splits):
        for index, row in enumerate(splits["test"]):
            row["parent"] = f"HHH_{index % 9}.pdb"

    stability = load_task("stability", write_task("stability", records=40, change=designs))
    assert resampled_groups(stability, "test").unit == "designs" and resampled_groups(stability, "test").number == 9
    fluorescence = load_task("fluorescence", write_task("fluorescence", records=40))
    assert resampled_groups(fluorescence, "test").unit == "variants of one wild type"


def test_a_record_and_the_table_say_what_was_resampled_and_that_groups_are_few(write_task):
    data = load_task("remote_homology", write_task("remote_homology", records=40))
    runs = [{split: np.zeros(len(dataset), dtype=int) for split, dataset in data.splits.items()}]
    found = record(data, "probe", runs, baselines={"other": runs}, bootstrap_samples=30)
    assert found["resampled"]["test_fold_holdout"] == {"unit": "superfamilies", "groups": 5, "without": 0}
    shown = table([found])
    assert "remote_homology, test_fold_holdout: the intervals resample 5 superfamilies. Few groups: the inter" in shown
    without = record(data, "probe", runs, bootstrap_samples=0)
    assert "resampled" not in without and "resample" not in table([without])


def test_a_column_of_groups_may_be_named_and_must_have_values(write_task):
    def clades(splits):
        for found in splits.values():
            for index, row in enumerate(found):
                row["clade"] = None if index == 0 else f"clade {index % 4}"
                row["empty"] = None
                row["log_fluorescence"] = np.array([1 + 0.05 * index])

    folder = write_task("fluorescence", records=40, change=clades)
    data = load_task("fluorescence", folder, group_column="clade")
    found = resampled_groups(data, "test")
    assert (found.unit, found.number, found.without) == ("groups of clade", 5, 1)
    wide = score(data, "test", np.array(data.splits["test"]["label"][:]), bootstrap_samples=20)
    assert wide["bright_spearman"].rows < 40  # groups of the bright proteins alone
    with pytest.raises(CorpusError, match='column "empty" .group_column. contains missing values only'):
        load_task("fluorescence", folder, group_column="empty")
    with pytest.raises(CorpusError, match='there is no column "family"'):
        load_task("fluorescence", folder, group_column="family")
