import dataclasses
import re

import pytest

from adversarial_mlm.downstream.arguments import read_grid
from adversarial_mlm.downstream.command_line import parse_arguments
from adversarial_mlm.downstream.finetune_settings import FinetuneSettings

COMMON = ["--model_name_or_path", "m", "--data_dir", "d"]
OWN = ["--task", "regression", "--model_name_or_path", "m", "--train_file", "t.csv", "--target", "y"]


GYM = ["--benchmark", "proteingym", *COMMON, "--reference_file", "r.csv", "--output_dir", "o"]
FLIP = ["--benchmark", "flip", *COMMON]


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--benchmark", "gym", *COMMON], "--benchmark must be one of proteingym, flip, got 'gym'"),
        ([*GYM, "--task", "stability"], "task is given, but benchmark proteingym has tasks of its own"),
        ([*GYM, "--mode", "probe"], "mode is probe, but benchmark proteingym only has mode zero_shot"),
        (GYM[:-2], "output_dir is missing: benchmark proteingym writes its scores there"),
        ([*GYM[:6], "--output_dir", "o"], "reference_file is missing: give the benchmark's list of assays"),
        ([*GYM, "--wild_type", "MK"], "wild_type is set, but has no effect with benchmark proteingym"),
        ([*GYM, "--max_records", "9"], "max_records is set, but has no effect with benchmark proteingym"),
        ([*GYM, "--group_column", "x"], "group_column is set, but has no effect with benchmark proteingym"),
        ([*GYM, "--assays", "x"], "unknown option 'assays' on the command line; did you mean 'only'?"),
        ([*FLIP, "--mode", "zero_shot"], "mode is zero_shot, but benchmark flip only has the other modes"),
        ([*FLIP, "--task", "stability"], "with benchmark flip it can only be the kind of all splits: regression, "),
        ([*FLIP, "--reference_file", "r"], "reference_file is given, but only applies to proteingym"),
        ([*FLIP, "--target", "y"], "target is set, but benchmark flip has columns and splits of its own"),
        ([*FLIP, "--only", "a", "a"], "only names one twice"),
        ([*FLIP, "--one_pass"], "one_pass is set, but only has an effect with mode zero_shot"),
        (
            ["--benchmark", "flip", "--model_name_or_path", "m"],
            "data_dir is missing: give the folder with the files of",
        ),
        (["--task", "stability", *COMMON, "--only", "a"], "only is set, but only has an effect with a benchmark"),
        (
            ["--task", "stability", *COMMON, "--group_column", "a", "--bootstrap_samples", "0"],
            "group_column is given, but bootstrap_samples is 0, so there are no intervals",
        ),
        (["--task", "fluorescense", *COMMON], "there is no task 'fluorescense'; did you mean 'fluorescence'?"),
        ([*COMMON], "task is missing"),
        (["--task", "fluorescence", "--modle", "x", *COMMON], "unknown option 'modle' on the command line; did you"),
        (
            ["--task", "fluorescence", *COMMON, "--mode", "linear"],
            "--mode must be one of probe, finetune, zero_shot, baselines, got 'l",
        ),
        (["--task", "stability", "stability", *COMMON], "task names a task twice"),
        (["--task", "stability", "--data_dir", "d"], "model_name_or_path is missing"),
        (["--task", "stability", "--model_name_or_path", "m"], "data_dir is missing"),
        (["--task", "all", *COMMON, "--mode", "baselines"], "mode baselines uses no encoder"),
        (["--task", "all", *COMMON, "--mode", "finetune"], "output_dir is missing"),
        (
            ["--task", "all", *COMMON, "--target", "x"],
            "target is given, but only applies to a single task, and there are 4",
        ),
        (["--task", "stability", *COMMON, "--labels", "ss8"], "labels is ss8, but secondary_structure is not among"),
        (["--task", "secondary_structure", *COMMON, "--target", "ss8"], "secondary_structure takes labels"),
        (
            ["--task", "stability", *COMMON, "--train_file", "x"],
            "train_file is given, but only applies to your own table",
        ),
        (["--task", "stability", *COMMON, "--seeds", "1", "1"], "seeds must be one or more different numbers"),
        (["--task", "stability", *COMMON, "--max_records", "0"], "max_records must be at least 1, got 0"),
        (
            ["--task", "stability", *COMMON, "--learning_rate", "1e-3"],
            "learning_rate is set, but only has an effect with mode finetune",
        ),
        (
            ["--task", "stability", *COMMON, "--grid", "seed=1"],
            "grid is set, but only has an effect with mode finetune",
        ),
        (
            ["--task", "stability", *COMMON, "--seed", "1"],
            "unknown option 'seed' on the command line; did you mean 'seeds'?",
        ),
        (
            ["--task", "stability", *COMMON, "--wild_type", "MK"],
            "wild_type is set, but only has an effect with mode zero_shot",
        ),
        (
            [*OWN, "--mode", "zero_shot", "--offset", "5"],
            "offset is 5, but only changes the positions in mutations_col",
        ),
        ([*OWN, "--offset", "5"], "offset is set, but only has an effect with mode zero_shot"),
        (["--task", "stability", *COMMON, "--mode", "finetune", "--output_dir", "o", "--layer", "1"], "layer is set"),
        ([*OWN, "--data_dir", "d"], "data_dir is given, but only applies to TAPE's tasks"),
        ([*OWN[:-2]], "target is missing: task regression needs it"),
        (
            ["--task", "regression", "stability", *OWN[2:]],
            "is for your own table and cannot be combined with other tasks",
        ),
        ([*OWN, "--mode", "zero_shot", "--test_file", "x"], "zero_shot only reads train_file"),
        ([*OWN, "--mode", "zero_shot", "--split_seed", "1"], "zero_shot only reads train_file"),
        (
            [*OWN, "--mode", "zero_shot", "--seeds", "1"],
            "seeds is set, but only has an effect with mode probe or finetune",
        ),
        (
            [*OWN, "--mode", "zero_shot", "--untrained", "false"],
            "untrained is set, but only has an effect with mode probe",
        ),
        ([*OWN, "--labels", "ss8"], "labels is ss8, but secondary_structure is not among"),
        ([*OWN, "--max_train_residues", "9"], "max_train_residues is set, but no task has labels of residues"),
        (
            [*OWN, "--mode", "zero_shot", "--mutations_column", "m", "--sequence_column", "s"],
            "sequence_column is given, but with mutations_column",
        ),
        ([*OWN, "--valid_file", "v", "--test_file", "t", "--split_seed", "1"], "nothing is split at random"),
        (
            ["--task", "stability", *COMMON, "--sequence_column", "s"],
            "sequence_column is given, but only applies to your own table",
        ),
        (
            ["--task", "stability", *COMMON, "--split_seed", "1"],
            "split_seed is given, but only applies to your own table",
        ),
        (
            ["--task", "all", "--data_dir", "d", "--mode", "baselines", "--use_cpu", "true"],
            "use_cpu is set, but only has",
        ),
        (
            [*OWN, "--use_feature_cache", "false", "--feature_cache_dir", "x"],
            "use_feature_cache is false: remove one of them",
        ),
    ],
)
def test_mistakes_on_the_command_line_give_one_message(capsys, words, sentence):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(words)
    assert stop.value.code == 2
    assert sentence in capsys.readouterr().err.strip().split("\n")[-1]


def test_all_stands_for_the_four_tasks_and_options_of_fine_tuning_arrive():
    args, settings = parse_arguments(
        [
            "--task",
            "all",
            *COMMON,
            "--mode",
            "finetune",
            "--output_dir",
            "o",
            "--learning_rate",
            "3e-5",
            "--seeds",
            "0",
            "2",
        ]
    )
    assert args.task == ["secondary_structure", "remote_homology", "fluorescence", "stability"]
    assert settings.learning_rate == 3e-5 and settings.head is None and args.seeds == [0, 2]


def test_a_grid_has_values_of_the_options_types():
    grid = read_grid(["learning_rate=1e-5,1e-4", "batch_size=16,32", "head=mean", "frozen_encoder=true"])
    assert grid == {"learning_rate": [1e-5, 1e-4], "batch_size": [16, 32], "head": ["mean"], "frozen_encoder": [True]}
    for word, reason in (
        ("learning_rate", "must look like"),
        ("lerning_rate=1", "did you mean 'learning_rate'"),
        ("batch_size=1.5", "grid: batch_size must be a whole number, got '1.5'"),
    ):
        with pytest.raises(ValueError, match=reason):
            read_grid([word])


def test_every_option_of_fine_tuning_is_explained(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_arguments(["--help"])
    assert stop.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for option in dataclasses.fields(FinetuneSettings):
        # Python 3.13 writes "--a_b, --a-b A_B" and earlier versions "--a_b A_B, --a-b A_B"
        assert re.search(rf"--{option.name}[ ,]", shown) or option.name == "seed"
    assert "finetune: Units of the head's hidden layer. (default: 512)" in shown
