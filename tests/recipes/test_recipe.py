import json
import re

import pytest
import yaml

from adversarial_mlm import presets
from adversarial_mlm.recipes.recipe import parse_recipe


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return str(path)

    return write


def refusal(capsys, argv: list[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        parse_recipe(argv)
    assert stop.value.code == 2
    (message,) = capsys.readouterr().err.strip().splitlines()  # one line, without the usage
    return message


def test_the_command_line_wins_over_the_file(write, tmp_path):
    path = write(f"train_data: [a.fasta, b.fasta]\nlearning_rate: 1e-3\nencoder: tiny\noutput_dir: {tmp_path}\n")
    recipe = parse_recipe([path, "--learning_rate", "3e-4", "--masking", "random"])
    assert recipe.data.train_data == ["a.fasta", "b.fasta"]
    assert recipe.training.learning_rate == 3e-4
    assert recipe.model.encoder == "tiny" and recipe.masking.masking == "random"
    assert recipe.training.noiser_steps == 10


def test_yaml_numbers_booleans_lists_and_nothing_become_what_they_mean(write):
    path = write(
        "train_data: a.fasta\nlearning_rate: 1e-4\nstreaming: false\nlearned_options: no\n"
        "mask_options: [0.9, 0.05, 0.05]\nreport_to: []\n"
        "cluster_table: null\nsave_strategy: no\nmax_steps: 7\nlr_scheduler_kwargs: {num_cycles: 2}\n"
    )
    recipe = parse_recipe([path])
    assert recipe.training.learning_rate == 1e-4 and recipe.training.max_steps == 7
    assert recipe.data.streaming is False and recipe.masking.learned_options is False
    assert recipe.masking.mask_options == [0.9, 0.05, 0.05]
    assert recipe.data.cluster_table is None and recipe.training.lr_scheduler_kwargs == {"num_cycles": 2}


def test_null_on_the_command_line_takes_back_what_the_file_says(write):
    path = write(
        "train_data: a.fasta\npreset: blind\nencoder: small\nbackground_gate: members\ncluster_table: a.tsv\n"
    )
    options = "preset model_name_or_path background_gate cluster_table".split()
    recipe = parse_recipe([path, *(word for name in options for word in (f"--{name}", "null"))])
    assert recipe.run.background_gate is None and recipe.data.cluster_table is None
    assert recipe.model.encoder == "small"
    plain = parse_recipe(["--train_data", "a.fasta"])
    assert recipe.masking == plain.masking and recipe.training.noiser_update == plain.training.noiser_update


def test_options_alone_make_a_recipe():
    assert parse_recipe(["--train_data", "a.fasta", "--max_steps", "3"]).training.max_steps == 3


def test_an_unknown_key_is_refused_with_the_nearest_known_one(write, capsys):
    message = refusal(capsys, [write("train_data: a.fasta\nlerning_rate: 1e-3\n")])
    assert "unknown option 'lerning_rate'" in message and "did you mean 'learning_rate'" in message
    assert "recipe.yaml" in message


def test_an_unknown_option_on_the_command_line_is_refused_too(capsys):
    message = refusal(capsys, ["--train_data", "a.fasta", "--noiser_step", "3"])
    assert "unknown option 'noiser_step' on the command line; did you mean 'noiser_steps'" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train_data: [a", "cannot read the recipe"),
        ("- a\n- b\n", "must consist of lines such as `option: value`"),
        ("learning_rate: 1e-3\n", "train_data is missing"),
        ("train_data: a\nlearning_rate: fast\n", "learning_rate"),
        ("train_data: a\nmasking: clever\n", "clever"),
        ("train_data: a\nencoder: [tiny, small]\n", "encoder must be a text, got ['tiny', 'small']"),
        ("train_data: a\nmax_eval_records: 0\n", "max_eval_records must be at least 1"),
        ("train_data: a\nnoiser_steps: 0\n", "noiser_steps must be at least 1"),
        ("train_data: a\nstreaming: perhaps\n", "perhaps"),
    ],
)
def test_a_bad_recipe_ends_in_one_sentence(write, capsys, text, words):
    assert words in refusal(capsys, [write(text)])


GOOD = "train_data: a\noutput_dir: x\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "max_steps: 3\nseed: 1\nmax_steps: 4\n", "the option 'max_steps' is given twice, in lines 3 and 5"),
        (GOOD + "lr_scheduler_kwargs: {a: 1, a: 2}\n", "the option 'a' is given twice, in lines 3 and 3"),
        (
            "train_data:\n\t- a\n",
            "line 2: found character '\\\\t' that cannot start any token: use spaces instead of tabs",
        ),
        ("\tmax_steps: 3\n", "line 1: .*: use spaces instead of tabs"),
        (GOOD + "max_steps: many\n", "recipe.yaml: max_steps must be a whole number, got 'many'"),
        (GOOD + "max_steps: 3.5\n", "max_steps must be a whole number, got 3.5"),
        (GOOD + "max_steps: true\n", "max_steps must be a whole number, got True"),
        (GOOD + "holdout_families: 10%\n", "holdout_families must be a number, got '10%'"),
        (GOOD + "learning_rate: .nan\n", "learning_rate must be a number, got nan"),
        (GOOD + "streaming: 7\n", "streaming must be true or false, got 7"),
        (GOOD + "max_steps: {a: 1}\n", "max_steps must be a whole number, got {'a': 1}"),
        (GOOD + "encoder: {a: 1}\n", "encoder must be a text, got {'a': 1}"),
        ("train_data: [[a]]\n", r"train_data\[0\] must be a text, got \['a'\]"),
        ("train_data: [null]\n", r"train_data\[0\] has no value"),
        (GOOD + "max_steps: null\n", "max_steps has no value: give one, or remove the line"),
        (GOOD + "learned_options:\n", "learned_options has no value"),
        (GOOD + "mask_options: []\n", "mask_options has no value"),
        (
            GOOD + "lr_scheduler_kwargs: {a: !!set {b}}\n",
            "lr_scheduler_kwargs contains a value that JSON does not support",
        ),
        (GOOD + "lr_scheduler_kwargs: 5\n", "lr_scheduler_kwargs must be a mapping of names to values, got 5"),
        ("train_data: [a, --max_steps, '3']\n", "train_data contains '--max_steps', which is an option"),
        (GOOD + 'encoder: "a\\nb"\n', "encoder contains a line break"),
        (GOOD + "lr_scheduler_kwargs: &a {b: *a}\n", "line 3: aliases of lists and mappings are not supported"),
        (GOOD + "max_steps: !!timestamp 2020-13-45\n", "line 3: a value does not fit its tag .month must be"),
        (GOOD + "max_steps: !!bool x\n", "line 3: a value does not fit its tag"),
        ("train_data: " + "[" * 3000, "cannot read the recipe .*: it is nested too deeply"),
        (GOOD + "preset: chess\n", "recipe.yaml: there is no preset 'chess'"),
        (GOOD + "preset: paper\nnoiser_steps: 0\n", "recipe.yaml: noiser_steps must be at least 1"),
        (GOOD + "seed: " + "x" * 5000, r"seed must be a whole number, got 'x+\.\.\.$"),
    ],
)
def test_a_mistake_in_a_file_names_the_file_and_the_option(write, capsys, text, words):
    message = refusal(capsys, [write(text)])
    assert re.search(words, message) and "recipe.yaml" in message and len(message) < 1100


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD.encode("utf-16"), "not UTF-8 text .byte 0xFF at 0"),
        (GOOD.encode() + b"# \xe9\n", "not UTF-8 text .byte 0xE9 at 30"),
        (GOOD.encode() + b"\0", "the character U\\+0000"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "not UTF-8 text"),
        (b"", "must consist of lines such as `option: value`"),
        (None, "Is a directory"),
    ],
)
def test_a_file_that_is_no_text_is_refused_by_name(tmp_path, capsys, content, words):
    path = tmp_path / "recipe.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    message = refusal(capsys, [str(path)])
    assert re.search(words, message) and str(path) in message


def test_a_byte_order_mark_and_the_line_ends_of_windows_are_no_mistake(tmp_path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert parse_recipe([str(tmp_path / "recipe.yaml")]).data.train_data == ["a"]


def test_a_value_that_begins_with_a_dash_is_a_value(write):
    recipe = parse_recipe([write("train_data: a\noutput_dir: --x\nmax_steps: -1\n")])
    assert recipe.training.output_dir == "--x" and recipe.training.max_steps == -1


def test_a_wrong_value_on_the_command_line_is_not_blamed_on_the_file(write, capsys):
    message = refusal(capsys, [write(GOOD), "--max_steps", "many"])
    assert message.endswith("--max_steps must be a whole number, got 'many'")
    assert "--seed: expected one argument" in refusal(capsys, [write(GOOD), "--seed"])


def test_a_missing_file_and_a_stray_word_are_named(write, capsys):
    assert "cannot read the recipe nowhere.yaml" in refusal(capsys, ["nowhere.yaml"])
    assert "'stray'" in refusal(capsys, [write("max_steps: 3\n"), "--train_data", "a", "--max_steps", "3", "stray"])


def test_the_saved_recipe_gives_the_same_run(write, tmp_path):
    path = write("train_data: a.fasta\nlearning_rate: 2e-4\nmask_options: [0.9, 0.05, 0.05]\nmax_steps: 5\n")
    recipe = parse_recipe([path, "--output_dir", str(tmp_path / "out"), "--hub_token", "hf_secret"])
    recipe.training.resume_from_checkpoint = "latest"  # about this start, not about the run
    saved = recipe.save(recipe.training.output_dir)
    again = parse_recipe([saved])
    assert again.data == recipe.data and again.model == recipe.model and again.masking == recipe.masking
    mine, theirs = (json.loads(json.dumps(r.training.to_dict(), default=str)) for r in (recipe, again))
    assert theirs.pop("resume_from_checkpoint") is None
    mine.pop("resume_from_checkpoint"), mine.pop("hub_token"), theirs.pop("hub_token")
    assert mine == theirs
    text = (tmp_path / "out" / "recipe.yaml").read_text()
    assert "hf_secret" not in text and yaml.safe_load(text)["learning_rate"] == 2e-4


def test_a_preset_comes_before_everything_that_is_said_singly(write, tmp_path):
    path = write("train_data: a.fasta\nloss_scope: masked\npreset: paper-literal\noutput_dir: x\n")
    recipe = parse_recipe([path, "--gated", "true"])
    assert recipe.masking.selection == "threshold" and recipe.training.shared_phase_counter  # the preset
    assert recipe.training.loss_scope == "masked" and recipe.masking.gated  # the file, the command line
    # a preset on the command line beats the file, as everything there does
    recipe = parse_recipe([path, "--preset", "paper", "--temperature", "0.5"])
    assert recipe.masking.selection == "topk" and recipe.masking.temperature == 0.5
    saved = recipe.save(str(tmp_path))
    assert parse_recipe([saved, "--preset", "paper-literal"]).training.loss_scope == "all"


def test_options_of_a_noiser_that_is_not_there_are_named(write, caplog):
    path = write("train_data: a.fasta\nnoiser_learning_rate: 1e-3\npreset: blind\noutput_dir: x\n")
    words = ["--noiser_learning_rate", "1e-2", "--sampler", "rss"]
    parse_recipe([path, *words])
    parse_recipe([path, "--preset", "recommended"])  # a file may be for several presets
    assert "no effect" not in caplog.text
    parse_recipe([path, "--preset", "recommended", *words])
    assert [message for message in caplog.messages if "no effect" in message] == [
        "--noiser_learning_rate and --sampler have no effect, because masking is random, without a noiser"
    ]


@pytest.mark.parametrize("name", presets.GAMES)
def test_every_preset_can_be_run_and_saved(write, tmp_path, name):
    recipe = parse_recipe(["--train_data", "a.fasta", "--output_dir", str(tmp_path), f"--preset={name}"])
    saved = parse_recipe([recipe.save(str(tmp_path / "saved"))])
    assert saved.resolved() == recipe.resolved()
    for option, value in presets.game(name).items():
        assert recipe.resolved()[option] == value


def test_an_unknown_preset_is_refused_with_the_known_ones(capsys):
    message = refusal(capsys, ["--train_data", "a", "--output_dir", "x", "--preset", "chess"])
    assert "no preset 'chess'; there are paper, paper-literal, blind" in message


def test_a_ramp_survives_yaml(write):
    path = write(
        "train_data: a\noutput_dir: x\nnoiser_update: reversal\n"
        "adversarial_share: [0@0, 1@1000]\nreversal_strength: 0.5\n"
    )
    training = parse_recipe([path]).training
    assert training.adversarial_share == ["0@0", "1@1000"] and training.reversal_strength == ["0.5"]


def test_the_models_licence_is_one_that_the_hub_knows(capsys):
    words = ["--train_data", "a", "--output_dir", "x", "--model_license"]
    assert parse_recipe([*words, "Apache-2.0"]).model.model_license == "apache-2.0"
    assert parse_recipe([*words, "other"]).model.model_license == "other"
    assert parse_recipe([*words, ""]).model.model_license is None
    message = refusal(capsys, [*words, "apache2"])
    assert "model_license 'apache2' is not a licence identifier of the Hub: use 'apache-2.0' or 'other'" in message
    assert "is not a licence identifier of the Hub: use 'other'" in refusal(capsys, [*words, "§§"])


def test_a_model_on_the_command_line_beats_the_files_size_of_a_fresh_one(write):
    path = write("train_data: a.fasta\nencoder: tiny\nnoiser: small\n")
    recipe = parse_recipe([path, "--model_name_or_path", "somewhere", "--noiser_name_or_path=elsewhere"])
    assert (recipe.model.encoder, recipe.model.model_name_or_path) == (None, "somewhere")
    assert (recipe.model.noiser, recipe.model.noiser_name_or_path) == (None, "elsewhere")
    said_twice = parse_recipe([path, "--model_name_or_path", "somewhere", "--encoder", "small"])
    assert said_twice.model.encoder == "small"  # which pretraining refuses


@pytest.mark.parametrize("words", [["hf_abcdefghijklmnopqrst"], ["--push_to_hub", "hf_abcdefghijklmnopqrst"]])
def test_a_token_in_a_wrong_place_is_not_repeated(capsys, words):
    message = refusal(capsys, ["--train_data", "a.fasta", "--max_steps", "1", *words])
    assert "hf_..." in message and "abcdef" not in message
