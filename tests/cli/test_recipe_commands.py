"""`train`, `evaluate` and `compare`: what they have in common. tests/examples/ has the scripts, which call them."""

import pytest

from adversarial_mlm.cli import completion, evaluate, train
from adversarial_mlm.cli.main import COMMANDS, main
from adversarial_mlm.comparison.compare import build_parser
from adversarial_mlm.downstream import arguments
from adversarial_mlm.recipes import recipe
from adversarial_mlm.recipes.shipped import FOLDER

OF_TRANSFORMERS = {"output_dir", "max_steps", "per_device_train_batch_size", "resume_from_checkpoint"}


@pytest.mark.parametrize(("module", "options"), [(train, recipe.OPTIONS), (evaluate, arguments.OPTIONS)])
def test_the_short_help_says_what_the_options_say(module, options):
    assert len(module.COMMON_OPTIONS) == {train: 10, evaluate: 12}[module]
    for name, _, text in module.COMMON_OPTIONS:
        if name in OF_TRANSFORMERS and module is train:  # whose own texts are long
            assert name in options.fields
        else:
            assert text == options.fields[name].metadata["help"], name


def test_the_short_help_of_compare_has_all_of_its_own_options(capsys):
    assert main(["compare", "--help"]) == 0
    shown = capsys.readouterr().out
    own = [action.option_strings[0] for action in build_parser()._actions if action.option_strings]
    assert len(own) == 9 and all(f"  {option}" in shown for option in own if option != "-h")


def test_a_misspelt_option_of_compare_is_named_as_such(capsys):
    assert main(["compare", "compare_small", "--dryrun"]) == 2
    assert "unknown option 'dryrun' on the command line; did you mean 'dry_run'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "title", "options"),
    [
        ("train", "Source of the proteins, and which of them are held out:", recipe.OPTIONS),
        ("evaluate", "Options of fine-tuning an encoder on a task:", arguments.OPTIONS),
        ("compare", "Arguments of AdversarialMLMTrainer:", recipe.OPTIONS),
    ],
)
def test_the_whole_help_has_every_option_in_groups(command, title, options, capsys):
    assert main([command, "--help", "all"]) == 0
    shown = capsys.readouterr().out
    assert f"\n{title}\n" in shown and f"usage: adv-mlm {command}" in shown
    missing = [name for name in options.fields if f"  --{name}" not in shown]
    assert not missing


def test_recipes_are_listed(capsys):
    assert main(["train", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if line[0] != " "] == [
        "demo", "evotune", "family_study", "oracle_tuned", "pretrain", "quick", "tape-38m",
    ]  # fmt: skip
    assert main(["compare", "--list"]) == 0
    assert "compare_small " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train"], "no recipe is given: try `train demo`; --list lists the recipes of the package"),
        (["train", "deno"], "there is no file 'deno', and the package has no recipe of this name; there are demo, "),
        (["train", "demo", "--learnin_rate", "1"], "unknown option 'learnin_rate' on the command line; did you mean"),
        (["train", "demo", "--max_steps", "many"], "--max_steps must be a whole number, got 'many'"),
        (["train", "pretrain"], "pretrain: train_data is missing"),
        (["train", "evotune"], "evotune: train_data is missing"),
        (["train", "compare_small"], "compare_small is the recipe of a comparison: start it with `adv-mlm compare"),
        (["evaluate"], "task is missing"),
        (["evaluate", "--tusk", "all"], "unknown option 'tusk' on the command line; did you mean 'task'?"),
        (["compare"], "no recipe is given: name a file, or a recipe of the package (--list lists them)"),
        (["compare", "demo"], "demo is the recipe of a single run: start it with `adv-mlm train demo`"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.utils.logging.set_verbosity_error", lambda: None)
    monkeypatch.setattr("transformers.utils.logging.disable_progress_bar", lambda: None)
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code
    said = capsys.readouterr().err
    assert status == 2 and said.startswith("adv-mlm: ") and sentence in said and len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_completion_knows_commands_recipes_and_options():
    parser = completion.build_parser("adv-mlm", COMMANDS, ["train"])
    (commands,) = [action for action in parser._actions if action.choices]
    assert list(commands.choices) == list(COMMANDS)
    of_train = commands.choices["train"]._actions
    (recipes,) = [action for action in of_train if action.dest == "recipe"]
    assert {f"--{name}" for name, *_ in train.COMMON_OPTIONS} <= {o for a in of_train for o in a.option_strings}
    for word, has_it in (("--noiser_re", True), ("--max", False)):
        parser = completion.build_parser("adv-mlm", COMMANDS, ["train", "demo", word])
        (commands,) = [action for action in parser._actions if action.choices]
        assert ("--noiser_reward" in commands.choices["train"]._option_string_actions) == has_it
    pytest.importorskip("argcomplete")
    assert "demo" in recipes.completer("") and "compare_small" not in recipes.completer("")


@pytest.mark.parametrize(
    "words", [("compare", "compare_small", "--dry_run"), ("train", "family_study", "--use_cpu", "1")]
)
def test_without_the_proteins_of_a_study_one_sentence_says_where_to_read_how_to_make_them(
    words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(list(words)) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("adv-mlm: runs/") and "there is no such file" in last
    assert last.endswith(
        f"The comment at the top of {FOLDER / words[1]}.yaml says how to make the files of this recipe"
    )
