import json
import logging

import numpy as np
import pytest

from adversarial_mlm.data import CorpusError
from adversarial_mlm.downstream.tasks import TASKS, load_task, own_task, with_labels
from adversarial_mlm.models.tokenization_protein import VOCABULARY

TAPE_TASKS = list(TASKS)


def labels_of(dataset):
    return [np.asarray(label) for label in dataset["label"][:]]


class TestLayouts:
    @pytest.mark.parametrize("ending", [".json", ".jsonl", ".jsonl.gz", ".json.gz", ".lmdb"])
    @pytest.mark.parametrize("task", TAPE_TASKS)
    def test_every_layout_gives_the_records_that_were_written(self, task, ending, write_task, tape_records):
        data = load_task(task, write_task(task, ending, folder=task))
        written = tape_records(task)
        assert list(data.splits) == list(written)
        for split, dataset in data.splits.items():
            records = written[split]
            assert dataset["sequence"][:] == [record["primary"] for record in records]
            ids = [record.get("id", str(index).encode()).decode() for index, record in enumerate(records)]
            assert dataset["id"][:] == ids
            for record, label in zip(records, labels_of(dataset), strict=True):
                expected = record[TASKS[task].target]
                if task == "secondary_structure":
                    expected = np.where(record["valid_mask"] == 1, expected, -100)
                np.testing.assert_array_equal(label, np.squeeze(expected))
        assert data.facts["files"]["train"] == f"{task}/{task}_train{ending}"

    @pytest.mark.parametrize("task", TAPE_TASKS)
    def test_fingerprints_depend_on_content_and_not_on_the_layout(self, task, write_task):
        folder_of = {ending: write_task(task, ending, folder=ending[1:]) / ending[1:] for ending in (".json", ".lmdb")}
        prints = [load_task(task, folder).facts["fingerprints"] for folder in folder_of.values()]
        assert prints[0] == prints[1]
        assert len(set(prints[0].values())) == len(prints[0])
        changed = write_task(task, ".json", folder="c", change=lambda splits: splits["valid"].pop())
        other = load_task(task, changed / "c").facts["fingerprints"]
        assert [split for split in other if other[split] != prints[0][split]] == ["valid"]

    def test_types_of_the_columns(self, write_task):
        for task, label, more in [
            ("fluorescence", "float32", {"num_mutations": "int32"}),
            ("stability", "float32", {"topology": "string", "parent": "string"}),
            ("remote_homology", "int64", {"superfamily_label": "string", "family_label": "string"}),
        ]:
            features = load_task(task, write_task(task)).splits["train"].features
            types = {name: feature.dtype for name, feature in features.items()}
            assert types == {"id": "string", "sequence": "string", "label": label, **more}
        features = load_task("secondary_structure", write_task("secondary_structure")).splits["train"].features
        assert features["label"].feature.dtype == "int64"

    def test_files_may_lie_in_the_folder_itself_and_have_another_prefix(self, write_task):
        folder = write_task("remote_homology", ".jsonl.gz", prefix="scope208")
        data = load_task("remote_homology", folder, file_prefix="scope208")
        assert data.facts["files"]["test_fold_holdout"] == "scope208_test_fold_holdout.jsonl.gz"
        with pytest.raises(CorpusError, match="remote_homology needs the splits train, valid, test_fold_holdout"):
            load_task("remote_homology", folder)

    def test_numbers_of_the_old_vocabulary_are_decoded(self, write_task, tape_records):
        old = [token for token in VOCABULARY if token != "<unk>"]
        assert (len(old), old.index("A"), old.index("Z")) == (29, 4, 28)

        def encode(splits):
            for record in splits["train"]:
                record["primary"] = np.array([old.index(letter) for letter in record["primary"]], np.int32)

        for ending in (".json", ".lmdb"):
            data = load_task(
                "stability", write_task("stability", ending, folder=ending[1:], change=encode) / ending[1:]
            )
            written = [record["primary"] for record in tape_records("stability")["train"]]
            assert data.splits["train"]["sequence"][:] == written

    def test_a_number_outside_the_old_vocabulary_is_refused(self, write_task):
        def encode(splits):
            splits["train"][1]["primary"] = [4, 29]

        with pytest.raises(CorpusError, match=r'record 2: column "primary" contains the number 29 .* are 4 to 28'):
            load_task("stability", write_task("stability", change=encode))


class TestRowCounts:
    def test_differences_from_the_paper_are_counted_and_said(self, write_task, caplog):
        data = load_task("fluorescence", write_task("fluorescence"))
        assert data.facts["rows"] == {"train": 12, "valid": 13, "test": 14}
        assert data.facts["expected_rows"] == {"train": 21446, "valid": 5362, "test": 27217}
        assert data.facts["differences"] == {"train": 12 - 21446, "valid": 13 - 5362, "test": 14 - 27217}
        assert "train: 12 records, 21,434 fewer than the 21,446 of the paper's Table 1." in caplog.text
        assert json.loads(json.dumps(data.facts)) == data.facts

    def test_the_paper_s_table(self):
        """Table 1: train, validation, test."""
        table = {
            name: [task.table_1[split] for split in ("train", "valid", task.headline)] for name, task in TASKS.items()
        }
        assert table == {
            "secondary_structure": [8678, 2170, 513],
            "remote_homology": [12312, 736, 718],
            "fluorescence": [21446, 5362, 27217],
            "stability": [53679, 2447, 12839],
        }

    def test_equal_counts_say_nothing(self, write_task, monkeypatch, caplog):
        monkeypatch.setitem(TASKS["stability"].table_1, "train", 12)
        data = load_task("stability", write_task("stability"))
        assert set(data.facts["differences"]) == {"valid", "test"}
        assert "train:" not in caplog.text

    def test_a_missing_test_is_said_and_a_missing_headline_refused(self, write_task, caplog):
        folder = write_task("secondary_structure")
        (folder / "secondary_structure_casp12.json").unlink()
        data = load_task("secondary_structure", folder)
        assert data.facts["missing_splits"] == ["casp12"]
        assert list(data.splits) == ["train", "valid", "cb513", "ts115"]
        assert "casp12: missing, there is no file secondary_structure_casp12" in caplog.text
        assert "new364" not in caplog.text, "not part of TAPE"
        for split in ("cb513", "valid", "train"):
            (folder / f"secondary_structure_{split}.json").rename(folder / "aside")
            with pytest.raises(
                CorpusError, match=f"needs the split {split}, but there is no file secondary_structure_{split}"
            ):
                load_task("secondary_structure", folder)
            (folder / "aside").rename(folder / f"secondary_structure_{split}.json")

    def test_max_records_keeps_the_same_random_records(self, write_task):
        folder = write_task("remote_homology", records=60)
        data = load_task("remote_homology", folder, max_records=20)
        assert data.facts["rows"]["train"] == 20 and data.facts["rows_in_file"]["train"] == 60
        ids = data.splits["train"]["id"][:]
        assert ids == load_task("remote_homology", folder, max_records=20).splits["train"]["id"][:]
        assert ids != load_task("remote_homology", folder).splits["train"]["id"][:20]
        assert any("at most 20 records" in note for note in data.facts["notes"])

    def test_sequences_shared_with_train_are_counted_and_said(self, write_task, caplog):
        def share(splits):
            splits["test"][0]["primary"] = splits["train"][3]["primary"]
            splits["test"][5]["primary"] = splits["train"][3]["primary"].lower()

        data = load_task("fluorescence", write_task("fluorescence", change=share))
        assert data.facts["shared_with_train"] == {"valid": 0, "test": 2}
        assert "test: the sequences of 2 of 14 records are also in train." in caplog.text


class TestResidueLabels:
    def test_letters_and_numbers_mean_the_same(self, write_task):
        def spell(splits):
            for records in splits.values():
                for record in records:
                    record["ss3"] = "".join("HEC"[label] for label in record["ss3"])
                    record["valid_mask"] = [int(value) for value in record["valid_mask"]]

        numbers = load_task("secondary_structure", write_task("secondary_structure"))
        letters = load_task("secondary_structure", write_task("secondary_structure", change=spell))
        assert numbers.facts["fingerprints"] == letters.facts["fingerprints"]
        assert numbers.classes == ["H", "E", "C"]

    def test_eight_states(self, write_task, tape_records):
        folder = write_task("secondary_structure")
        data = load_task(with_labels("ss8"), folder)
        assert data.classes == list("GHIBESTC")
        record = tape_records("secondary_structure")["cb513"][0]
        expected = np.where(record["valid_mask"] == 1, record["ss8"], -100)
        np.testing.assert_array_equal(labels_of(data.splits["cb513"])[0], expected)
        assert (
            load_task("secondary_structure", folder, target="ss8").facts["fingerprints"] == data.facts["fingerprints"]
        )
        with pytest.raises(CorpusError, match="labels must be one of ss3, ss8, got 'ss9'"):
            with_labels("ss9")

    def test_a_test_without_eight_states_is_left_out_and_said(self, write_task, caplog):
        def drop(splits):
            for record in splits["ts115"]:
                del record["ss8"]

        data = load_task(with_labels("ss8"), write_task("secondary_structure", change=drop))
        assert "ts115" not in data.splits
        assert 'ts115: left out, secondary_structure_ts115.json has no column "ss8".' in caplog.text

    def test_tests_of_another_prefix_fall_back_to_the_task_s_own(self, write_task):
        folder = write_task("secondary_structure")
        for split in ("train", "valid"):
            (folder / f"secondary_structure_{split}.json").rename(folder / f"ss8_{split}.json")
        data = load_task(with_labels("ss8"), folder, file_prefix="ss8")
        assert data.facts["files"]["cb513"] == "secondary_structure_cb513.json"
        assert any("cb513: no file name begins with" in note for note in data.facts["notes"])

    def test_the_mask_and_negative_labels_take_residues_out(self, write_task):
        def change(splits):
            first, second, *_ = splits["train"]
            first["primary"], first["ss3"], first["valid_mask"] = "MKVLA", [0, 1, -1, 2, 2], [1, 0, 1, 1, 1]
            second["valid_mask"] = None

        data = load_task("secondary_structure", write_task("secondary_structure", change=change))
        labels = labels_of(data.splits["train"])
        assert labels[0].tolist() == [0, -100, -100, 2, 2]
        assert (labels[1] >= 0).all()
        assert data.facts["records_without_mask"] == {"train": 1, "valid": 0, "cb513": 0, "ts115": 0, "casp12": 0}
        assert data.facts["residues"]["train"] == sum(map(len, labels))
        assert data.facts["masked_residues"]["train"] == sum((label == -100).sum() for label in labels)

    def test_records_without_states_are_left_out_and_minus_one_as_text_does_not_count(self, write_task):
        def change(splits):
            first, second, third, *_ = splits["valid"]
            first["ss3"], second["ss3"] = None, "NA"
            third["primary"], third["ss3"], third["valid_mask"] = "MKVLA", ["0", "-1", "1", "-100", "H"], [1] * 5

        data = load_task("secondary_structure", write_task("secondary_structure", change=change))
        assert data.facts["left_out"] == {"valid": {"without a label": 2}}
        assert data.facts["rows_in_file"]["valid"] == 13 and data.facts["rows"]["valid"] == 11
        assert labels_of(data.splits["valid"])[0].tolist() == [0, -100, 1, -100, 0]

    def test_cleaning_never_moves_a_label(self, write_task):
        def change(splits):
            record = splits["train"][0]
            record["primary"], record["ss3"], record["valid_mask"] = "mK*V-J A", [0, 1, 2, 0, 1, 2, 0], [1] * 7

        data = load_task("secondary_structure", write_task("secondary_structure", change=change))
        assert data.splits["train"][0]["sequence"] == "MK?V??A"
        assert data.splits["train"][0]["label"] == [0, 1, 2, 0, 1, 2, 0]
        assert data.facts["records_kept_in_place"]["train"] == 1
        counts = {"lower_case": 1, "whitespace_removed": 1, "unknown_residues": 3, "records_with_unknown": 1}
        assert data.facts["cleaning"]["train"] == counts

    @pytest.mark.parametrize(
        ("column", "value", "message"),
        [
            ("ss3", [0, 1, 2], r'column "ss3" has 3 labels for the 5 residues of column "primary"'),
            ("ss3", "HHHHHH", r"has 6 labels for the 5 residues"),
            ("ss3", "HHQHH", r"contains the class 'Q', but the classes are \['H', 'E', 'C'\]"),
            ("ss3", [0, 1, 2, 3, 0], "contains the class '3'"),
            ("ss3", [0, 1, 2, 0.5, 0], "contains '0.5', but must contain the name or number of a class"),
            ("ss3", 7, "must contain a list"),
            ("valid_mask", [1, 1, 1], 'column "valid_mask" has 3 values for 5 residues'),
            (
                "valid_mask",
                [1, 1, 2, 1, 1],
                "column \"valid_mask\" contains '2', but must contain only ones and zeros",
            ),
        ],
    )
    def test_labels_that_do_not_fit_are_refused(self, write_task, column, value, message):
        def change(splits):
            splits["valid"][2] |= {"primary": "MKVLA", "ss3": [0] * 5, "valid_mask": [1] * 5, column: value}

        with pytest.raises(CorpusError, match=rf"secondary_structure_valid\.json: record 3: .*{message}"):
            load_task("secondary_structure", write_task("secondary_structure", change=change))

    def test_a_split_without_any_residue_to_score_is_refused(self, write_task):
        def change(splits):
            for record in splits["cb513"]:
                record["valid_mask"] = np.zeros(len(record["primary"]))

        with pytest.raises(CorpusError, match="no residue of cb513 has a label that counts"):
            load_task("secondary_structure", write_task("secondary_structure", change=change))


class TestClasses:
    def test_numbers_from_zero_stay_what_they_are(self, write_task):
        data = load_task("remote_homology", write_task("remote_homology"))
        assert data.classes == ["0", "1", "2"]
        assert data.facts["num_classes"] == 3 and data.facts["unseen_classes"] == {}

    def test_gaps_are_closed_in_the_order_of_the_numbers(self, write_task):
        def change(splits):
            for record in [record for records in splits.values() for record in records]:
                record["fold_label"] = [3, 100, 20][record["fold_label"]]

        data = load_task("remote_homology", write_task("remote_homology", change=change))
        assert data.classes == ["3", "20", "100"]
        assert data.splits["train"]["label"][:6] == [0, 2, 1, 0, 2, 1]

    def test_classes_that_train_never_saw_are_kept_counted_and_said(self, write_task, caplog):
        def change(splits):
            for record, fold in zip(splits["test_fold_holdout"], [700, 700, 701], strict=False):
                record["fold_label"] = fold

        data = load_task("remote_homology", write_task("remote_homology", change=change))
        assert data.splits["test_fold_holdout"]["label"][:4] == [-1, -1, -1, 0]
        assert data.facts["rows"]["test_fold_holdout"] == 14
        assert data.facts["unseen_classes"] == {"test_fold_holdout": {"classes": 2, "records": 3}}
        assert "test_fold_holdout: 3 records belong to 2 classes that train lacks" in caplog.text

    def test_one_class_is_refused(self, write_task):
        def change(splits):
            for record in splits["train"]:
                record["fold_label"] = 5

        with pytest.raises(CorpusError, match=r'all labels of train are the same .*"fold_label", 12 records'):
            load_task("remote_homology", write_task("remote_homology", change=change))

    def test_levels_of_homology_are_named_by_split(self):
        assert TASKS["remote_homology"].levels == {
            "test_fold_holdout": "fold",
            "test_superfamily_holdout": "superfamily",
            "test_family_holdout": "family",
        }
        assert list(TASKS["remote_homology"].levels) == list(TASKS["remote_homology"].tests)


class TestNumbers:
    def test_mean_and_spread_are_those_of_the_labels(self, write_task, tape_records):
        data = load_task("stability", write_task("stability"))
        written = np.array([record["stability_score"][0] for record in tape_records("stability")["test"]])
        assert data.facts["label_mean"]["test"] == pytest.approx(written.mean(), rel=1e-6)
        assert data.facts["label_std"]["test"] == pytest.approx(written.std(), rel=1e-6)

    def test_a_target_may_be_a_number_or_a_list_of_one(self, write_task):
        def unwrap(splits):
            for record in splits["train"]:
                record["log_fluorescence"] = float(record["log_fluorescence"][0])

        lists = load_task("fluorescence", write_task("fluorescence"))
        numbers = load_task("fluorescence", write_task("fluorescence", change=unwrap))
        assert lists.facts["fingerprints"] == numbers.facts["fingerprints"]

    def test_stability_has_two_scores(self, write_task):
        def change(splits):
            for record in [record for records in splits.values() for record in records]:
                record["stability_score_c"] = 2 * record["stability_score"]

        folder = write_task("stability", change=change)
        consensus = load_task("stability", folder)
        chymotrypsin = load_task("stability", folder, target="stability_score_c")
        assert chymotrypsin.facts["target"] == "stability_score_c"
        ratio = chymotrypsin.facts["label_mean"]["test"] / consensus.facts["label_mean"]["test"]
        assert ratio == pytest.approx(2.0)
        assert consensus.facts["other_target_than_tape"] and not chymotrypsin.facts["other_target_than_tape"]
        assert any("TAPE and the paper use stability_score_c" in n for n in consensus.facts["notes"])
        assert not load_task("stability", write_task("stability")).facts["other_target_than_tape"]
        with pytest.raises(CorpusError, match='no column "stability_score_x"; the columns are "primary"'):
            load_task("stability", folder, target="stability_score_x")

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ([float("inf")], "contains inf"),
            (1e39, "contains 1e\\+39, but must contain a finite number of 32 bits"),
            ([], "contains a list of 0 values, but must contain one"),
            ([1.0, 2.0], "contains a list of 2 values"),
            ("bright", "contains 'bright', but must contain a number"),
            (True, "contains 'True', but must contain one number"),
            ({"a": 1}, "contains .*, but must contain one number"),
        ],
    )
    def test_targets_that_are_no_numbers_are_refused(self, write_task, value, message):
        def change(splits):
            splits["test"][4]["log_fluorescence"] = value

        with pytest.raises(
            CorpusError, match=rf'fluorescence_test\.json: record 5: column "log_fluorescence" {message}'
        ) as caught:
            load_task("fluorescence", write_task("fluorescence", change=change))
        assert "\n" not in str(caught.value)

    def test_constant_labels_are_refused_in_train_and_said_in_a_test(self, write_task, caplog):
        def constant(split):
            def change(splits):
                for record in splits[split]:
                    record["log_fluorescence"] = [1.5]

            return change

        def nearly_constant(splits):
            for index, record in enumerate(splits["train"]):
                record["log_fluorescence"] = [1.5 + 1e-12 * index]

        with pytest.raises(CorpusError, match="all labels of train are the same"):
            load_task("fluorescence", write_task("fluorescence", change=constant("train")))
        with pytest.raises(CorpusError, match="all labels of train are the same"):
            load_task("fluorescence", write_task("fluorescence", change=nearly_constant))
        load_task("fluorescence", write_task("fluorescence", change=constant("test")))
        assert "test: all labels are 1.5, so the rank correlation is not defined." in caplog.text

    def test_what_cleaning_takes_away_is_said(self, write_task, caplog):
        def change(splits):
            splits["test"][0]["primary"] += "*A"
            splits["test"][1]["primary"] += "*-J1"

        load_task("fluorescence", write_task("fluorescence", change=change))
        said = "test: 14 records read, 14 kept; 2 with stops (*) removed, 1 with gaps (- or .) removed, "
        said += "1 with unknown residues (2 residues)."
        assert said in caplog.text

    def test_stops_are_left_out_of_fluorescence_and_counted(self, write_task):
        def change(splits):
            splits["train"][0]["primary"] = "MKV*LA*"

        data = load_task("fluorescence", write_task("fluorescence", change=change))
        assert data.splits["train"][0]["sequence"] == "MKVLA"
        assert json.dumps(data.facts["cleaning"]) == '{"train": {"stops_removed": 1}, "valid": {}, "test": {}}'

    def test_numbers_without_a_value_are_left_out(self, write_task):
        def change(splits):
            for record, value in zip(splits["test"], [None, float("nan"), [float("nan")], "NA"], strict=False):
                record["log_fluorescence"] = value

        data = load_task("fluorescence", write_task("fluorescence", change=change))
        assert data.facts["left_out"] == {"test": {"without a label": 4}}
        note = "fluorescence_test.json: 4 of 14 records are left out: 4 without a label (first: record 1)."
        assert note in data.facts["notes"] and data.facts["differences"]["test"] == 14 - 27217

    @pytest.mark.parametrize("value", ["three", 2.5, 2**40, [1, 2], "1_2"])
    def test_numbers_of_mutations_are_whole(self, write_task, value):
        def change(splits):
            splits["test"][1]["num_mutations"] = value

        with pytest.raises(CorpusError, match=r'fluorescence_test\.json: record 2: column "num_mutations" contains'):
            load_task("fluorescence", write_task("fluorescence", change=change))

    def test_remarks_that_some_records_lack_are_null(self, write_task):
        def change(splits):
            del splits["test"][1]["num_mutations"]
            splits["test"][3]["num_mutations"], splits["test"][4]["num_mutations"] = "NA", float("nan")
            for record in splits["valid"]:
                del record["num_mutations"]

        data = load_task("fluorescence", write_task("fluorescence", change=change))
        assert data.splits["test"]["num_mutations"][:6] == [0, None, 2, None, None, 1]
        assert data.splits["valid"].column_names == ["id", "sequence", "label"]

    @pytest.mark.parametrize("value", ["", "**", "J?J", None, 5, [True]])
    def test_a_record_without_a_sequence_is_refused(self, write_task, value):
        def change(splits):
            splits["train"][6]["primary"] = value

        with pytest.raises(CorpusError, match=r'fluorescence_train\.json: record 7: column "primary" contains'):
            load_task("fluorescence", write_task("fluorescence", change=change))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "contact"}, "there is no task 'contact': choose one of secondary_structure, remote_homology"),
        ({"data_dir": "nowhere"}, r"nowhere: there is no such folder \(data_dir\)"),
        ({"task": own_task("regression", "y")}, "own_task has no file_prefix: set one, or use load_own_task"),
        ({"max_records": 0}, "max_records must be 1 or more, got 0"),
        (
            {"file_prefix": "other"},
            "fluorescence needs the splits train, valid, test, but there is no file other_train",
        ),
    ],
)
def test_wrong_options_are_refused_by_name(write_task, arguments, message):
    arguments = {"task": "fluorescence", "data_dir": write_task("fluorescence"), **arguments}
    with pytest.raises(CorpusError, match=message):
        load_task(**arguments)


def test_logging_is_through_the_package_s_logger(write_task, caplog):
    load_task("fluorescence", write_task("fluorescence"))
    assert {record.name for record in caplog.records} == {"adversarial_mlm.downstream.task_data"}
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
