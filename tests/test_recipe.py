import json

import pytest
import yaml

from adversarial_mlm import presets
from adversarial_mlm.recipe import parse_recipe


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
    message = capsys.readouterr().err.strip().split("\n")[-1]
    assert "Traceback" not in message
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
        ("- a\n- b\n", "must be a list of `option: value` lines"),
        ("learning_rate: 1e-3\n", "train_data is missing"),
        ("train_data: a\nlearning_rate: fast\n", "learning_rate"),
        ("train_data: a\nmasking: clever\n", "clever"),
        ("train_data: a\nencoder: [tiny, small]\n", "the option 'encoder'"),
        ("train_data: a\nmax_eval_records: 0\n", "max_eval_records must be at least 1"),
        ("train_data: a\nnoiser_steps: 0\n", "noiser_steps must be at least 1"),
        ("train_data: a\nstreaming: perhaps\n", "perhaps"),
    ],
)
def test_a_bad_recipe_ends_in_one_sentence(write, capsys, text, words):
    assert words in refusal(capsys, [write(text)])


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


@pytest.mark.parametrize("name", presets.GAMES)
def test_every_preset_can_be_run_and_saved(write, tmp_path, name):
    recipe = parse_recipe(["--train_data", "a.fasta", "--output_dir", str(tmp_path), f"--preset={name}"])
    saved = parse_recipe([recipe.save(str(tmp_path / "saved"))])
    assert saved.resolved() == recipe.resolved()
    for option, value in presets.game(name).items():
        assert recipe.resolved()[option] == value


def test_an_unknown_preset_is_refused_with_the_known_ones(capsys):
    message = refusal(capsys, ["--train_data", "a", "--output_dir", "x", "--preset", "chess"])
    assert "no game preset 'chess'; there are paper, paper-literal, blind" in message


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
    assert "model_license 'apache2' is no licence identifier of the Hub; use 'apache-2.0' if that is meant" in message
    assert "use 'other' for one that it does not list" in refusal(capsys, [*words, "§§"])
