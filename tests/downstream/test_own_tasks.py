import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adversarial_mlm.data import CorpusError
from adversarial_mlm.downstream.tasks import load_own_task, own_task
from tests.helpers.exhaustive import exhaustive

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def rows_of(number, prefix="p", **more):
    """Records with distinct sequences, a number and a class of three."""
    return [
        {
            "name": f"{prefix}{index}",
            "sequence": f"MK{prefix.upper()}" + "".join(LETTERS[(index // 20**power) % 20] for power in range(3)),
            "score": index / 4,
            "kind": ["soluble", "membrane", "secreted"][index % 3],
            **more,
        }
        for index in range(number)
    ]


def write_csv(path, rows):
    header = list(rows[0])
    quote = lambda value: '"' + str(value).replace('"', '""') + '"'  # noqa: E731
    lines = [",".join(header), *(",".join(quote(row[column]) for column in header) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def three_files(tmp_path):
    return {
        "train_file": write_csv(tmp_path / "train.csv", rows_of(30)),
        "valid_file": write_csv(tmp_path / "valid.csv", rows_of(6, "v")),
        "test_file": write_csv(tmp_path / "test.csv", rows_of(9, "t")),
    }


SCORE = own_task("regression", "score", id_column="name")
KIND = own_task("classification", "kind")


class TestSplits:
    def test_three_files(self, three_files):
        data = load_own_task(SCORE, **three_files)
        assert data.facts["rows"] == {"train": 30, "valid": 6, "test": 9}
        assert data.facts["files"] == {"train": "train.csv", "valid": "valid.csv", "test": "test.csv"}
        assert data.facts["split"] == "files" and data.facts["notes"] == []
        assert data.splits["test"]["id"][:3] == ["t0", "t1", "t2"]
        assert data.splits["test"]["label"][:3] == [0.0, 0.25, 0.5]
        assert data.splits["valid"].column_names == ["id", "sequence", "label"]
        assert json.loads(json.dumps(data.facts)) == data.facts

    def test_every_format_gives_the_same_data(self, tmp_path):
        rows = rows_of(40)
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (tmp_path / "a.json").write_text(json.dumps(rows))
        write_csv(tmp_path / "a.csv", rows)
        found = [
            load_own_task(task, tmp_path / f"a.{ending}").facts["fingerprints"]
            for task in (SCORE, KIND)
            for ending in ("parquet", "jsonl", "json", "csv")
        ]
        assert found[:4] == [found[0]] * 4 and found[4:] == [found[4]] * 4

    def test_a_column_that_names_the_split(self, tmp_path):
        names = ["train"] * 10 + ["Validation"] * 3 + ["TEST"] * 4
        rows = [{**row, "part": name} for row, name in zip(rows_of(17), names, strict=True)]
        data = load_own_task(SCORE, write_csv(tmp_path / "a.csv", rows), split_column="part")
        assert data.facts["rows"] == {"train": 10, "valid": 3, "test": 4}
        assert data.splits["test"]["id"][:] == ["p13", "p14", "p15", "p16"]
        assert data.facts["split"] == 'column "part"'

    def test_one_file_is_split_at_random_by_the_seed_which_is_said(self, tmp_path, caplog):
        path = write_csv(tmp_path / "a.csv", rows_of(200))
        data = load_own_task(SCORE, path, seed=3, test_fraction=0.2)
        assert data.facts["rows"] == {"train": 140, "valid": 20, "test": 40}
        ids = [set(dataset["id"][:]) for dataset in data.splits.values()]
        assert len(set.union(*ids)) == 200
        assert data.facts["split"] == "files; test and valid at random with seed 3"
        assert "taken from train at random (seed 3)" in caplog.text
        again = load_own_task(SCORE, path, seed=3, test_fraction=0.2).facts["fingerprints"]
        other = load_own_task(SCORE, path, seed=4, test_fraction=0.2).facts["fingerprints"]
        assert again == data.facts["fingerprints"] and set(again.values()).isdisjoint(other.values())

    def test_equal_sequences_stay_on_one_side(self, tmp_path):
        rows = rows_of(60) * 3
        data = load_own_task(SCORE, write_csv(tmp_path / "a.csv", rows))
        assert data.facts["rows"] == {"train": 144, "valid": 18, "test": 18}
        assert data.facts["shared_with_train"] == {"valid": 0, "test": 0}

    def test_what_is_cleaned_is_counted_in_the_split_that_it_falls_into(self, tmp_path):
        rows = [{**row, "split": "train" if number < 20 else "test"} for number, row in enumerate(rows_of(30))]
        for row in rows[17:]:
            row["sequence"] += "*"
        path = write_csv(tmp_path / "all.csv", rows)
        data = load_own_task(SCORE, path, split_column="split")
        counts = {split: found.get("stops_removed", 0) for split, found in data.facts["cleaning"].items()}
        assert counts["test"] == 10 and counts["train"] + counts["valid"] == 3
        assert "test: 10 records read, 10 kept; 10 with stops (*) removed." in data.facts["notes"]
        assert load_own_task(SCORE, path, split_column="split", max_records=4).facts["cleaning"]["test"] == {
            "stops_removed": 4
        }

    def test_missing_validation_data_are_taken_from_train(self, three_files, caplog):
        del three_files["valid_file"]
        data = load_own_task(SCORE, **three_files)
        assert data.facts["rows"] == {"train": 27, "valid": 3, "test": 9}
        assert list(data.splits) == ["train", "valid", "test"]
        assert data.facts["split"] == "files; valid at random with seed 0"
        assert "valid: taken from train at random" in caplog.text

    def test_sequences_of_the_test_that_stand_in_train_are_counted_and_said(self, three_files, tmp_path, caplog):
        rows = rows_of(9, "t")
        rows[0]["sequence"] = rows[1]["sequence"] = rows_of(1)[0]["sequence"]
        three_files["test_file"] = write_csv(tmp_path / "test.csv", rows)
        data = load_own_task(SCORE, **three_files)
        assert data.facts["shared_with_train"] == {"valid": 0, "test": 2}
        assert "test: the sequences of 2 of 9 records are also in train." in caplog.text

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"split_column": "part", "test_file": "x.csv"},
                "cannot be combined with valid_file or test_file: remove one",
            ),
            ({"valid_file": "x.csv"}, "valid_file is given without test_file: give both"),
            ({"test_file": "a.csv"}, "a file is named for more than one split"),
            ({"valid_fraction": 0.0}, "valid_fraction must be between 0 and 1, got 0.0"),
            ({"test_fraction": 20}, "test_fraction must be between 0 and 1, got 20"),
            (
                {"valid_fraction": 0.5, "test_fraction": 0.5},
                "12 distinct sequences are too few to take test and valid",
            ),
            ({"seed": -1}, "seed must be 0 or more, got -1"),
            ({"max_records": 0}, "max_records must be 1 or more"),
            ({"split_column": "part"}, 'a.csv: there is no column "part"'),
            ({"split_column": "kind"}, "line 2: column \"kind\" contains 'soluble', but must contain train"),
            ({"split_column": "always"}, 'column "always" has no record with test'),
        ],
    )
    def test_options_that_cannot_be_honoured_are_refused(self, tmp_path, monkeypatch, options, message):
        monkeypatch.chdir(tmp_path)
        write_csv(tmp_path / "a.csv", rows_of(12, always="train"))
        with pytest.raises(CorpusError, match=message):
            load_own_task(SCORE, "a.csv", **options)


class TestTargets:
    @pytest.mark.parametrize(
        ("task", "value", "message"),
        [
            (SCORE, "high", "column \"score\" contains 'high', but must contain a number"),
            (SCORE, "0,5", "column \"score\" contains '0,5', but must contain a number with a decimal point"),
            exhaustive(SCORE, "1_2", "column \"score\" contains '1_2', but must contain a number"),
            exhaustive(SCORE, "[1, 2]", 'column "score" contains a list of 2 values'),
            (SCORE, "inf", 'column "score" contains inf'),
            (SCORE, "-Infinity", 'column "score" contains -inf'),
            (own_task("classification", "score"), "[1, 2]", 'column "score" contains a list of 2 values'),
        ],
    )
    def test_targets_that_cannot_be_read_are_refused_with_their_line(
        self, three_files, tmp_path, task, value, message
    ):
        rows = rows_of(9, "t")
        rows[4]["score"] = value
        three_files["test_file"] = write_csv(tmp_path / "test.csv", rows)
        with pytest.raises(CorpusError, match=rf"test\.csv: line 6: {message}") as caught:
            load_own_task(task, **three_files)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("task", [SCORE, KIND])
    def test_records_without_a_label_are_left_out_and_counted(self, three_files, tmp_path, caplog, task):
        rows = rows_of(9, "t")
        without = [row for index, row in enumerate(rows) if index not in (4, 5, 7)]
        for index, value in ((4, ""), (5, "NA"), (7, "nan")):
            rows[index][task.target] = value
        fingerprints = []
        for found in (rows, without):
            three_files["test_file"] = write_csv(tmp_path / "test.csv", found)
            data = load_own_task(own_task(task.kind, task.target, id_column="name"), **three_files)
            fingerprints.append(data.facts["fingerprints"])
            if found is rows:
                assert data.facts["rows_in_file"]["test"] == 9 and data.facts["rows"]["test"] == 6
                assert data.facts["left_out"] == {"test": {"without a label": 3}}
                note = "test.csv: 3 of 9 records are left out: 3 without a label (first: line 6)."
                assert data.facts["notes"] == [note] and note in caplog.text
        assert data.facts["left_out"] == {} and fingerprints[0] == fingerprints[1]

    def test_missing_labels_do_not_change_a_random_split(self, tmp_path):
        rows = [{**row, "score": "NA" if index % 10 == 3 else row["score"]} for index, row in enumerate(rows_of(60))]
        labelled = write_csv(tmp_path / "b.csv", [row for row in rows if row["score"] != "NA"])
        data = load_own_task(SCORE, write_csv(tmp_path / "a.csv", rows))
        assert data.facts["fingerprints"] == load_own_task(SCORE, labelled).facts["fingerprints"]
        assert data.facts["left_out"] == {"train": {"without a label": 6}}

    def test_a_column_of_missing_values_only_is_refused(self, tmp_path):
        path = write_csv(tmp_path / "a.csv", rows_of(9, score="NA"))
        with pytest.raises(CorpusError, match='a.csv: no record has a label: column "score" contains missing values'):
            load_own_task(SCORE, path)

    def test_decimals_of_parquet_are_numbers(self, tmp_path):
        rows = rows_of(40)
        write_csv(tmp_path / "a.csv", rows)
        rows = [{**row, "score": Decimal(str(row["score"]))} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
        plain, decimals = (load_own_task(SCORE, tmp_path / name).facts for name in ("a.csv", "a.parquet"))
        assert plain["fingerprints"] == decimals["fingerprints"]

    @pytest.mark.parametrize(
        ("column", "option"), [("score", r" \(target\)"), ("sequence", r" \(sequence_column\)"), ("name", "")]
    )
    def test_an_unknown_column_is_refused_by_name(self, tmp_path, column, option):
        rows = [{key: value for key, value in row.items() if key != column} for row in rows_of(9)]
        with pytest.raises(CorpusError, match=rf'a\.csv: there is no column "{column}"{option}; the columns are "'):
            load_own_task(SCORE, write_csv(tmp_path / "a.csv", rows))

    def test_constant_labels_are_refused(self, tmp_path):
        path = write_csv(tmp_path / "a.csv", rows_of(40, score=2, kind="soluble"))
        for task in (SCORE, KIND):
            with pytest.raises(CorpusError, match=rf'all labels of train are the same .*column "{task.target}"'):
                load_own_task(task, path)

    def test_measured_numbers_are_no_classes(self, tmp_path):
        rows = [{**row, "kind": 0.37 * index} for index, row in enumerate(rows_of(40))]
        with pytest.raises(CorpusError, match=r'column "kind" has \d+ different values in .*so use regression'):
            load_own_task(KIND, write_csv(tmp_path / "a.csv", rows))
        levels = [{**row, "kind": (0.5, 1.5)[index % 2]} for index, row in enumerate(rows_of(40))]
        assert load_own_task(KIND, write_csv(tmp_path / "b.csv", levels)).classes == ["0.5", "1.5"]

    def test_names_of_classes_are_numbered_by_the_alphabet(self, three_files):
        data = load_own_task(KIND, **three_files)
        assert data.classes == ["membrane", "secreted", "soluble"]
        assert data.splits["train"]["label"][:3] == [2, 0, 1]
        assert data.splits["train"]["id"][:3] == ["0", "1", "2"]

    @pytest.mark.parametrize("values", [[10, 9, 11], [10.0, 9.0, 11.0], ["10", "9", "11"]])
    def test_numbers_of_classes_are_ordered_as_numbers(self, tmp_path, values):
        rows = [{**row, "kind": values[index % 3]} for index, row in enumerate(rows_of(30))]
        (tmp_path / "a.json").write_text(json.dumps(rows))
        assert load_own_task(KIND, tmp_path / "a.json").classes == ["9", "10", "11"]

    def test_labels_that_mean_the_same_are_one_class_in_all_splits(self, tmp_path):
        spellings = ["0", "1", "0.0", "1.0", " 0", "-100", "None"]
        rows = [{**row, "kind": spellings[index % 7]} for index, row in enumerate(rows_of(42))]
        data = load_own_task(KIND, write_csv(tmp_path / "a.csv", rows))
        assert data.classes == ["0", "1"] and data.facts["unseen_classes"] == {}
        assert data.facts["left_out"] == {"train": {"without a label": 12}}

    def test_classes_that_differ_only_in_case_are_named(self, tmp_path, caplog):
        spellings = ["soluble", "Soluble", "membrane", "h", "H"]
        rows = [{**row, "kind": spellings[index % 5]} for index, row in enumerate(rows_of(60))]
        data = load_own_task(KIND, write_csv(tmp_path / "a.csv", rows))
        note = "the classes 'Soluble' and 'soluble' differ only in case; each counts as a class of its own."
        assert data.classes == sorted(spellings) and note in data.facts["notes"]

    @pytest.mark.parametrize(
        ("values", "listed"), [(["-1", "0", "1"], "0, 1"), (["3", "-1.0", "0", "1", "2"], "0, 1, 2, ...")]
    )
    def test_minus_one_next_to_several_classes_is_refused_because_it_may_mean_missing(self, tmp_path, values, listed):
        rows = [{**row, "kind": values[index % len(values)]} for index, row in enumerate(rows_of(40))]
        message = f'column "kind" contains -1 next to the classes {listed}: write null or -100 if it marks missing'
        with pytest.raises(CorpusError, match=message):
            load_own_task(KIND, write_csv(tmp_path / "a.csv", rows))

    @pytest.mark.parametrize("values", [["-1", "1"], ["-2", "-1", "0", "1"], ["-1", "low", "high"]])
    def test_minus_one_is_a_class_where_it_can_mean_nothing_else(self, tmp_path, values):
        rows = [{**row, "kind": values[index % len(values)]} for index, row in enumerate(rows_of(40))]
        assert "-1" in load_own_task(KIND, write_csv(tmp_path / "a.csv", rows)).classes

    def test_a_number_that_is_not_whole_is_no_class(self, tmp_path):
        (tmp_path / "a.json").write_text(json.dumps(rows_of(30)))
        with pytest.raises(CorpusError, match="record 2: .*'0.25', but must contain the name or number of a class"):
            load_own_task(own_task("classification", "score"), tmp_path / "a.json")

    def test_a_class_that_only_the_test_has_is_never_right(self, three_files, tmp_path, caplog):
        rows = rows_of(9, "t")
        rows[2]["kind"] = "nuclear"
        three_files["test_file"] = write_csv(tmp_path / "test.csv", rows)
        data = load_own_task(KIND, **three_files)
        assert data.splits["test"]["label"][:3] == [2, 0, -1]
        assert data.facts["unseen_classes"] == {"test": {"classes": 1, "records": 1}}
        assert "1 record belongs to 1 class that train lacks" in caplog.text


class TestResidueLabels:
    task = own_task("token_classification", "sites")

    def write(self, tmp_path, sites, sequence="MKVLA", **more):
        rows = [{"sequence": sequence + 5 * LETTERS[index], "sites": sites, **more} for index in range(20)]
        for row in rows:
            row["sites"] = row["sites"] + "....." if isinstance(sites, str) else [*row["sites"], 0, 0, 0, 0, 0]
        (tmp_path / "a.json").write_text(json.dumps(rows))
        return tmp_path / "a.json"

    def test_letters(self, tmp_path):
        data = load_own_task(self.task, self.write(tmp_path, "..b.a"))
        assert data.classes == [".", "a", "b"]
        assert data.splits["train"][0]["label"] == [0, 0, 2, 0, 1] + [0] * 5

    def test_numbers_may_be_negative_and_null_or_minus_100_does_not_count(self, tmp_path):
        data = load_own_task(self.task, self.write(tmp_path, [-2, 1, None, -100, 0]))
        assert data.classes == ["-2", "0", "1"]
        assert data.splits["train"][0]["label"][:5] == [0, 2, -100, -100, 1]

    def test_lists_in_csv_are_json(self, tmp_path):
        rows = [{"sequence": "MKV" + letter, "sites": "[0, 1, null, 1]"} for letter in LETTERS]
        data = load_own_task(self.task, write_csv(tmp_path / "a.csv", rows))
        assert data.splits["train"][0]["label"] == [0, 1, -100, 1]

    def test_spaces_between_residues_and_labels_change_nothing(self, tmp_path, caplog):
        rows = [{"sequence": "MKVL" + letter, "sites": "HEECC", "mask": "11011"} for letter in LETTERS]
        spaced = [{column: " ".join(value) for column, value in row.items()} for row in rows]
        only = [{**row, "sequence": " ".join(row["sequence"])} for row in rows]
        task = own_task("token_classification", "sites", mask_column="mask")
        facts = [load_own_task(task, write_csv(tmp_path / "a.csv", found)).facts for found in (rows, spaced, only)]
        assert [found["fingerprints"] for found in facts] == [facts[0]["fingerprints"]] * 3
        assert [found["residues"]["train"] for found in facts] == [80] * 3
        assert facts[1]["cleaning"]["train"] == {"whitespace_removed": 16}
        assert "train: 16 records read, 16 kept; 16 with white space removed." in caplog.text

    @pytest.mark.parametrize(
        "spell",
        [
            str,
            json.dumps,
            lambda mask: json.dumps([float(value) for value in mask]),
            lambda mask: json.dumps([value == 1 for value in mask]),
            lambda mask: str(np.array(mask)),
        ],
    )
    def test_masks_in_csv_may_be_lists(self, tmp_path, spell):
        task = own_task("token_classification", "sites", mask_column="mask")
        rows = [{"sequence": "MKVL" + letter, "sites": "HEECC", "mask": spell([1, 1, 0, 1, 1])} for letter in LETTERS]
        data = load_own_task(task, write_csv(tmp_path / "a.csv", rows))
        assert data.splits["train"][0]["label"] == [2, 1, -100, 0, 0]

    def test_minus_100_as_text_does_not_count(self, tmp_path, caplog):
        texts = ['[-100, 1, 0, "NA", 1]', '["-100", "1", "0.0", null, 1.0]', "-100 1 0 NA 1"]
        for text in texts:
            rows = [{"sequence": "MKVL" + letter, "sites": text} for letter in LETTERS]
            data = load_own_task(self.task, write_csv(tmp_path / "a.csv", rows))
            assert data.classes == ["0", "1"] and data.splits["train"][0]["label"] == [-100, 1, 0, -100, 1]
        assert "train: 32 of 80 residues do not count (no label, or masked)." in caplog.text

    def test_a_sequence_may_be_a_list_of_residues(self, tmp_path):
        rows = [{"sequence": "MK*L" + letter, "sites": "HEECC"} for letter in LETTERS]
        as_lists = [{"sequence": str(list(row["sequence"])), "sites": str(list(row["sites"]))} for row in rows]
        (tmp_path / "a.json").write_text(json.dumps([{**row, "sequence": list(row["sequence"])} for row in rows]))
        paths = [write_csv(tmp_path / "a.csv", rows), write_csv(tmp_path / "b.csv", as_lists), tmp_path / "a.json"]
        facts = [load_own_task(self.task, path).facts for path in paths]
        assert [found["fingerprints"] for found in facts] == [facts[0]["fingerprints"]] * 3
        assert facts[1]["records_kept_in_place"]["train"] == 16

    @pytest.mark.parametrize("value", ["NA", "", "n.a.", "#N/A"])
    def test_a_missing_sequence_is_refused_with_its_line(self, tmp_path, value):
        rows = [
            {"sequence": "MKVL" + letter, "sites": "HEECC", "score": index} for index, letter in enumerate(LETTERS)
        ]
        rows[3]["sequence"] = value
        path = write_csv(tmp_path / "a.csv", rows)
        for task in (self.task, own_task("regression", "score")):
            with pytest.raises(CorpusError, match='a.csv: line 5: column "sequence" contains .*(no|of a) sequence'):
                load_own_task(task, path)

    def test_a_blank_is_neither_a_class_nor_a_residue(self, tmp_path):
        rows = [{"sequence": "MKVL" + letter, "sites": "HH  C"} for letter in LETTERS]
        message = r'line 2: column "sites" has 3 labels \(white space is no label\) for the 5 residues'
        with pytest.raises(CorpusError, match=message):
            load_own_task(self.task, write_csv(tmp_path / "a.csv", rows))

    def test_a_mask_that_is_asked_for_must_be_there(self, tmp_path):
        masked = own_task("token_classification", "sites", mask_column="known")
        data = load_own_task(masked, self.write(tmp_path, "ab.ba", known="1101111111"))
        assert data.splits["train"][0]["label"][:5] == [1, 2, -100, 2, 1]
        with pytest.raises(CorpusError, match='no column "known"'):
            load_own_task(masked, self.write(tmp_path, "ab.ba"))

    def test_a_class_that_only_the_test_has_is_scored_and_never_right(self, tmp_path):
        rows = [{"sequence": "MKVL" + letter, "sites": "aabba", "part": "train"} for letter in LETTERS]
        rows[-1] |= {"part": "test", "sites": "aabca"}
        data = load_own_task(self.task, write_csv(tmp_path / "a.csv", rows), split_column="part")
        assert data.splits["test"][0]["label"] == [0, 0, 1, -1, 0]
        assert data.facts["unseen_classes"] == {"test": {"classes": 1, "residues": 1}}

    def test_labels_that_do_not_fit_the_sequence_are_refused(self, tmp_path):
        with pytest.raises(CorpusError, match=r'record 1: column "sites" has 9 labels for the 10 residues'):
            load_own_task(self.task, self.write(tmp_path, "a.b."))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ranking", "score"), "must be one of regression, classification, token_classification, got 'ranking'"),
        (("regression", "sequence"), "need different columns, got"),
    ],
)
def test_tasks_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(CorpusError, match=message):
        own_task(*arguments)
    with pytest.raises(CorpusError, match="mask_column='known' does not apply to regression"):
        own_task("regression", "score", mask_column="known")
