"""FLIP from files in its layouts, and groups whose proteins are resampled together."""

import gzip

import numpy as np
import pytest

from adversarial_mlm.cli.main import main
from adversarial_mlm.downstream.command_line import parse_arguments
from adversarial_mlm.downstream.flip import UnsupportedTargetsError, find_splits, load_split
from adversarial_mlm.downstream.run import run
from adversarial_mlm.downstream.tasks import load_own_task, own_task
from adversarial_mlm.utils.errors import CorpusError, RecipeError
from tests.helpers.gym_files import protein, write_csv

HEADER = ["sequence", "target", "set", "validation"]


def rows(train=12, valid=4, test=8, label=lambda number: number / 10):
    """Rows of FLIP's tables: validation is empty but for the rows of train that are validation data."""
    sets = [("train", "")] * train + [("train", "True")] * valid + [("test", "")] * test
    return [[protein(14, number), label(number), *chosen] for number, chosen in enumerate(sets)]


def fasta(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f">{header}\n{text}\n" for header, text in records))
    return path


@pytest.fixture
def split(tmp_path):
    """Load the only split in a folder."""

    def split(**options):
        (found,) = find_splits(str(tmp_path / "flip"))
        return load_split(found, **options)

    return split


def sequences(data):
    return {name: dataset["sequence"][:] for name, dataset in data.splits.items()}


def test_rows_of_train_that_are_marked_are_validation_data_and_no_training_data(split, tmp_path):
    table = rows()
    write_csv(tmp_path / "flip" / "gb1" / "splits" / "two_vs_rest.csv", HEADER, table)
    data = split()
    wanted = {"train": table[:12], "valid": table[12:16], "test": table[16:]}
    assert sequences(data) == {name: [row[0] for row in found] for name, found in wanted.items()}
    assert data.splits["valid"]["label"][:] == pytest.approx([1.2, 1.3, 1.4, 1.5])
    assert data.task.name == "gb1-two_vs_rest" and data.task.kind == "regression" and not data.facts["notes"]
    assert data.facts["split"] == "column set of FLIP: test, train, valid"


def test_a_table_of_the_user_is_read_in_the_same_way(tmp_path):
    table = rows()
    path = write_csv(tmp_path / "mine.csv", HEADER, table)
    data = load_own_task(own_task("regression", "target"), path, split_column="set")
    assert sequences(data)["valid"] == [row[0] for row in table[12:16]]
    assert sequences(data)["train"] == [row[0] for row in table[:12]]
    assert data.facts["split"] == 'column "set" and column "validation"' and not data.facts["notes"]
    table[0][3] = "fold 3"  # another column of this name has another meaning
    other = load_own_task(own_task("regression", "target"), write_csv(path, HEADER, table), split_column="set")
    assert other.facts["split"] == 'column "set"; valid at random with seed 0'


def test_a_marked_row_of_test_is_a_contradiction(split, tmp_path):
    table = rows()
    table[20][3] = "True"
    path = write_csv(tmp_path / "flip" / "gb1" / "sampled.csv", HEADER, table)
    message = 'line 22: "set" is test, but validation is true: correct one of them'
    with pytest.raises(CorpusError, match=message):
        split()
    with pytest.raises(CorpusError, match=message):
        load_own_task(own_task("regression", "target"), path, split_column="set")


def test_rows_without_a_set_are_left_out_and_counted_and_valid_is_drawn_if_there_is_none(split, tmp_path, caplog):
    table = rows(valid=0)
    table[1][2], table[2][2] = "", "nan"
    write_csv(tmp_path / "flip" / "aav" / "splits" / "sampled.csv", HEADER, table)
    data = split()
    assert data.facts["rows"] == {"train": 9, "valid": 1, "test": 8}
    assert data.facts["left_out"] == {"train": {"without a set": 2}}
    assert "sampled.csv: 2 of 20 records are left out: 2 without a set (first: line 3)." in caplog.text
    assert "valid: taken from train at random (seed 0)" in caplog.text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({2: "trian"}, "line 2: \"set\" is 'trian', but must be train, val, pred, or begin with test"),
        ({3: "maybe"}, "line 2: \"validation\" is 'maybe', but must be true, false or empty"),
        ({0: ""}, 'line 2: column "sequence" contains no sequence'),
    ],
)
def test_a_wrong_row_ends_in_a_sentence_with_file_and_line(split, tmp_path, change, sentence):
    table = rows()
    for column, value in change.items():
        table[0][column] = value
    write_csv(tmp_path / "flip" / "scl" / "mixed.csv", HEADER, table)
    with pytest.raises(CorpusError, match=sentence):
        split()


def test_labels_of_residues_come_from_a_file_next_to_the_sequences_with_a_mask(split, tmp_path):
    folder = tmp_path / "flip" / "secondary_structure" / "splits"
    proteins = {f"p{number}-A": protein(12, number) for number in range(9)}
    labels = {name: "".join("HEC"[ord(letter) % 3] for letter in text) for name, text in proteins.items()}
    fasta(folder / "sequences.fasta", proteins.items())
    fasta(folder / "mask.fasta", [(name, "0" + "1" * 11) for name in proteins])
    sets = ["SET=train VALIDATION=False"] * 5 + ["SET=train VALIDATION=True"] * 2 + ["SET=test VALIDATION=False"] * 2
    fasta(folder / "sampled.fasta", [(f"{n} {s}", labels[n]) for n, s in zip(labels, sets, strict=True)])
    data = split()
    assert data.task.kind == "token_classification" and data.classes == ["C", "E", "H"]
    assert data.facts["rows"] == {"train": 5, "valid": 2, "test": 2}
    assert data.splits["test"]["id"][:] == ["p7-A", "p8-A"] and data.splits["test"]["sequence"][0] == proteins["p7-A"]
    wanted = [-100, *("CEH".index(label) for label in labels["p7-A"][1:])]
    assert data.splits["test"]["label"][0] == wanted
    fasta(folder / "sampled.fasta", [("p0-A SET=train", labels["p0-A"]), ("other SET=test", "HHH")])
    with pytest.raises(CorpusError, match=r"record 2 \('other'\): .*sequences.fasta has no protein of this id"):
        split()
    fasta(folder / "sampled.fasta", [("p0-A SET=train", labels["p0-A"]), ("p1-A SET=test", "HHH")])
    with pytest.raises(CorpusError, match=r"record 2 \('p1-A'\): column \"target\" has 3 labels for the 12 residues"):
        split()


def test_classes_of_residues_that_are_digits_are_no_numbers(split, tmp_path):
    folder = tmp_path / "flip" / "bind"
    proteins = [protein(11, number) for number in range(8)]
    texts = ["".join("04"[ord(letter) % 2] for letter in text) for text in proteins]
    sets = ["train"] * 5 + ["val"] + ["test"] * 2
    headers = [f"p{n} TARGET={t} SET={s} MASK={'1' * 10}0" for n, (t, s) in enumerate(zip(texts, sets, strict=True))]
    fasta(folder / "one_vs_many.fasta", zip(headers, proteins, strict=True))
    data = split()
    assert data.task.kind == "token_classification" and data.classes == ["0", "4"]
    assert data.splits["valid"]["label"][0][-1] == -100 and data.facts["rows"]["valid"] == 1


def test_targets_in_headers_are_numbers_or_classes_and_test_sets_may_be_several(split, tmp_path):
    sets = ["train"] * 6 + ["val"] * 2 + ["test1"] * 2 + ["test2"] * 3 + ["pred"]
    headers = [
        f"p{number} TARGET={'Nucleus' if number % 2 else 'Golgi'} SET={name}" for number, name in enumerate(sets)
    ]
    path = fasta(tmp_path / "flip" / "scl" / "mixed_hard.fasta", [(h, protein(12, n)) for n, h in enumerate(headers)])
    data = split()
    assert data.task.kind == "classification" and data.classes == ["Golgi", "Nucleus"]
    assert data.task.splits == ("train", "valid", "test1", "test2") and data.task.headline == "test1"
    assert data.facts["left_out"] == {"train": {"for prediction only (set pred)": 1}}
    fasta(path, [(header.replace("Nucleus", "1.5").replace("Golgi", "2"), protein(12, 0)) for header in headers[:13]])
    assert split().task.kind == "regression"
    assert split(kind="classification").task.kind == "classification"


def test_several_classes_of_a_protein_are_not_supported(split, tmp_path):
    write_csv(tmp_path / "flip" / "scl" / "mixed_vs_human_2.csv", HEADER, rows(label=lambda n: "Golgi;Nucleus"))
    with pytest.raises(UnsupportedTargetsError, match="line 2: the target is 'Golgi;Nucleus', but several classes of"):
        split()


def test_splits_are_found_by_their_content_in_any_folder(tmp_path, caplog):
    caplog.set_level("INFO")
    root = tmp_path / "flip"
    write_csv(root / "gb1" / "splits" / "sampled.csv", HEADER, rows())
    fasta(root / "gb1" / "splits" / "sampled.fasta", [("a TARGET=1 SET=train", "MKT")])
    fasta(root / "gb1" / "5LDE_1.fasta", [("5LDE_1", "MKT")])
    write_csv(root / "gb1" / "full_data.csv", ["Variants", "Fitness"], [["VDGV", 1]])
    packed = write_csv(root / "aav" / "des_mut.csv", HEADER, rows())
    (root / "aav" / "des_mut.csv.gz").write_bytes(gzip.compress(packed.read_bytes()))
    packed.unlink()
    write_csv(root / "__MACOSX" / "sampled.csv", HEADER, rows())
    found = find_splits(str(root))
    assert [split.name for split in found] == ["aav-des_mut", "gb1-sampled"] and found[1].path.endswith(".csv")
    assert "5LDE_1.fasta: skipped" in caplog.text and "full_data.csv: skipped" in caplog.text
    assert [split.name for split in find_splits(str(root / "gb1" / "splits"))] == ["gb1-sampled"]
    assert [split.name for split in find_splits(str(root), ["gb1-sampled"])] == ["gb1-sampled"]
    with pytest.raises(RecipeError, match="only names 'gb1-sample', but there is no such split .*; there are aav"):
        find_splits(str(root), ["gb1-sample"])
    (tmp_path / "zipped").mkdir()
    (tmp_path / "zipped" / "splits.zip").write_bytes(b"PK")
    with pytest.raises(CorpusError, match=r"there is no split, .*: unpack splits.zip first"):
        find_splits(str(tmp_path / "zipped"))


def test_linked_folders_are_followed_and_a_circle_of_links_ends(tmp_path):
    write_csv(tmp_path / "stored" / "splits" / "sampled.csv", HEADER, rows())
    (tmp_path / "flip").mkdir()
    (tmp_path / "flip" / "gb1").symlink_to(tmp_path / "stored")
    (tmp_path / "stored" / "back").symlink_to(tmp_path / "flip")
    assert [split.name for split in find_splits(str(tmp_path / "flip"))] == ["gb1-sampled"]


def test_a_folder_of_splits_is_evaluated_in_one_call_beside_its_baselines(tmp_path, caplog):
    root = tmp_path / "flip"
    for name in ("one_vs_rest", "two_vs_rest"):
        write_csv(root / "gb1" / "splits" / f"{name}.csv", HEADER, rows())
    write_csv(root / "scl" / "multi.csv", HEADER, rows(label=lambda n: "a;b"))
    words = ["--benchmark", "flip", "--data_dir", str(root), "--mode", "baselines", "--bootstrap_samples", "20"]
    records = run(*parse_arguments(words))
    assert [(record["task"], record["method"]) for record in records] == [
        (task, method)
        for task in ("gb1-one_vs_rest", "gb1-two_vs_rest")
        for method in ("mean", "composition", "one_hot_ridge")
    ]
    assert records[1]["resampled"]["test"] == {"unit": "variants of one wild type", "groups": 8, "without": 0}
    assert "scl-multi is left out." in caplog.text


def test_a_folder_of_splits_is_probed_from_the_command_line(tmp_path, make_encoder, tokenizer, capsys):
    make_encoder().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    write_csv(tmp_path / "flip" / "gb1" / "splits" / "sampled.csv", HEADER, rows(train=20))
    words = ["--model_name_or_path", str(tmp_path / "model"), "--use_feature_cache", "false", "--untrained", "false"]
    assert main(["evaluate", "--benchmark", "flip", "--data_dir", str(tmp_path / "flip"), *words]) == 0
    shown = capsys.readouterr().out
    assert "gb1-sampled target  test   probe, model" in shown
    assert "gb1-sampled, test: the intervals resample 8 variants of one wild type. Few groups" in shown


def test_groups_of_a_column_are_resampled_together(split, tmp_path):
    table = [[*row, f"clade {number % 3}"] for number, row in enumerate(rows(train=30, test=60))]
    table[-1][-1] = ""
    write_csv(tmp_path / "flip" / "meltome" / "mixed.csv", [*HEADER, "clade"], table)
    words = ["--benchmark", "flip", "--data_dir", str(tmp_path / "flip"), "--mode", "baselines"]
    by_group = run(*parse_arguments([*words, "--group_column", "clade"]))[1]
    assert by_group["resampled"]["test"] == {"unit": "groups of clade", "groups": 4, "without": 1}
    single = run(*parse_arguments(words))[1]
    assert single["resampled"]["test"]["unit"] == "proteins"
    first, second = (record["figures"]["test"]["spearman"] for record in (by_group, single))
    assert first["value"] == second["value"] and (first["low"], first["high"]) != (second["low"], second["high"])
    with pytest.raises(CorpusError, match='there is no column "family"'):
        split(group_column="family")
    with pytest.raises(CorpusError, match="group_column is target, which holds sequences or labels"):
        split(group_column="target")
    labels = np.array(split(group_column="clade").splits["test"]["label"][:])
    assert len(labels) == 60
