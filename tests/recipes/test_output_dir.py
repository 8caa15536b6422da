"""Into which folders a run writes, and that nothing there is touched before the run can start."""

import json
import os
import subprocess
import sys

import pytest

from adversarial_mlm.recipes.output_dir import check_output_dir
from adversarial_mlm.recipes.run import evaluate_saved, pretrain
from adversarial_mlm.saving.run_folder import RunFolder
from adversarial_mlm.training.trainer import AdversarialMLMTrainer
from adversarial_mlm.utils.errors import NonFiniteError, RecipeError
from tests.helpers.launching import forked_launch


def test_a_folder_with_another_run_is_refused_unless_told(make_recipe, tmp_path):
    pretrain(make_recipe(save_strategy="steps", save_steps=2))
    with pytest.raises(RecipeError, match="contains another run .*metrics.jsonl"):
        pretrain(make_recipe(overwrite_output_dir=False))
    pretrain(make_recipe(masking="random"))  # demo.yaml overwrites
    assert not (tmp_path / "run" / "noiser").exists() and not list((tmp_path / "run").glob("checkpoint-*"))


def test_no_folder_is_refused(make_recipe):
    with pytest.raises(RecipeError, match="output_dir is empty: give the folder of the run"):
        check_output_dir(make_recipe(output_dir=""))


def test_overwriting_removes_what_a_run_wrote_and_nothing_else(make_recipe, tmp_path):
    folder = tmp_path / "run"
    pretrain(make_recipe(save_strategy="steps", save_steps=2))
    (folder / "checkpoint-notes").mkdir()
    (folder / "notes.txt").write_text("mine")
    before = {path.name for path in folder.iterdir()}
    (folder / ".push-to-hub-abc").mkdir()  # of a push that was killed
    RunFolder(str(folder)).clear()
    assert {path.name for path in folder.iterdir()} == {"checkpoint-notes", "notes.txt", ".run.json", ".lock"} < before


@pytest.mark.parametrize("name", ["README.md", "config.json", "tokenizer.json", "notes.txt", "checkpoint-4"])
def test_a_folder_with_files_of_others_is_refused_and_stays(make_recipe, tmp_path, name):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).write_text("mine") if "." in name else (folder / name).mkdir()
    for settings in ({}, {"overwrite_output_dir": True}):
        with pytest.raises(RecipeError, match=rf"no run of this package has marked as its own \({name}\)"):
            pretrain(make_recipe(**settings))
    assert [path.name for path in folder.iterdir()] == [name]


def test_a_file_that_was_changed_or_added_since_is_not_replaced(make_recipe, tmp_path):
    folder = tmp_path / "run"
    evaluate_saved(recipe := make_recipe(), pretrain(recipe))
    assert RunFolder(str(folder)).others() == []
    (folder / "README.md").write_text("my notes on this run")
    (folder / "vocab.txt").write_text("mine")
    with pytest.raises(RecipeError, match=r"changed since \(README.md, vocab.txt\)"):
        pretrain(make_recipe(overwrite_output_dir=True))
    assert (folder / "README.md").read_text() == "my notes on this run" and (folder / "model.safetensors").exists()
    for name in ("README.md", "vocab.txt"):
        (folder / name).rename(tmp_path / name)
    pretrain(make_recipe(overwrite_output_dir=True))


def test_a_run_that_ends_between_its_card_and_its_last_checksums_leaves_a_folder_of_its_own(
    make_recipe, tmp_path, monkeypatch
):
    def write_and_end(facts, folder, figures):
        (tmp_path / "run" / "README.md").write_text("the card with the figures of the saved weights")
        raise KeyboardInterrupt

    trainer = pretrain(recipe := make_recipe())
    with monkeypatch.context() as patch:
        patch.setattr("adversarial_mlm.saving.model_card.write", write_and_end)
        with pytest.raises(KeyboardInterrupt):
            evaluate_saved(recipe, trainer)
    assert RunFolder(str(tmp_path / "run")).others() == []


def test_a_recipe_that_was_changed_is_taken_for_a_resumption(make_recipe, tmp_path):
    folder = tmp_path / "run"
    pretrain(make_recipe(save_strategy="steps", save_steps=2, max_steps=2))
    for number, kept in enumerate(("recipe.edited.yaml", "recipe.edited1.yaml"), start=1):
        with open(folder / "recipe.yaml", "a") as file:
            file.write(f"# comment {number}\n")
        resumed = pretrain(
            make_recipe(resume_from_checkpoint="latest", max_steps=2 + number, overwrite_output_dir=False)
        )
        assert resumed.state.global_step == 2 + number
        assert (
            f"# comment {number}" in (folder / kept).read_text()
            and "# comm" not in (folder / "recipe.yaml").read_text()
        )
    pretrain(make_recipe(resume_from_checkpoint="latest", max_steps=5, overwrite_output_dir=False))
    assert not (folder / "recipe.edited2.yaml").exists()


def test_a_recipe_of_a_run_that_was_stopped_at_its_start_may_be_changed_and_is_kept(
    make_recipe, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(AdversarialMLMTrainer, "train", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pretrain(make_recipe())
    (folder / "recipe.yaml").write_text("# mine\n")
    pretrain(make_recipe(overwrite_output_dir=False))
    assert (folder / "recipe.edited.yaml").read_text() == "# mine\n"


@pytest.mark.exhaustive
def test_a_second_process_is_refused_while_a_run_has_the_folder(make_recipe, tmp_path):
    pretrain(make_recipe())
    code = (
        "import sys; from adversarial_mlm.recipes.recipe import parse_recipe\n"
        "from adversarial_mlm.recipes.output_dir import check_output_dir\n"
        "from adversarial_mlm.utils.errors import RecipeError\n"
        "try: check_output_dir(parse_recipe(sys.argv[1:]))\n"
        "except RecipeError as error: print(error)"
    )
    options = ["--train_data", "x.fasta", "--output_dir", str(tmp_path / "run"), "--overwrite_output_dir", "true"]
    command = [sys.executable, "-c", code, *options, "--use_cpu", "true"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert f"output_dir {tmp_path / 'run'} is in use by another command" in second.stdout, second.stderr[-2000:]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_processes_of_one_launch_share_a_folder_and_those_of_another_are_refused(make_recipe, tmp_path):
    recipe = make_recipe()

    def check():
        return check_output_dir(recipe)

    with forked_launch(2, check) as first:
        assert first == [(None, False)] * 2
        with forked_launch(2, check) as second:
            pass
    sentence = (
        f"output_dir {tmp_path / 'run'} is in use by another command: wait for its end, or choose another folder"
    )
    assert second == [(sentence, False), (sentence, True)], "process 0 tells it"
    with forked_launch(2, check) as third:  # the first has ended
        assert third == [(None, False)] * 2


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("dataloader_persistent_workers", True, "dataloader_persistent_workers: true cannot be used: ValueError"),
        ("lr_scheduler_kwargs", {"nonsense": 1}, "lr_scheduler_kwargs: .*nonsense.* cannot be used: TypeError"),
        ("adam_beta1", 7.0, "adam_beta1: 7.0 cannot be used: ValueError"),
        (
            "lr_scheduler_type",
            "warmup_stable_decay",
            "lr_scheduler_type: warmup_stable_decay.* argument: 'num_decay_st",
        ),
        ("report_to", ["wandb"], "report_to is wandb, but its package is not installed: install wandb"),
    ],
)
def test_an_option_that_a_library_refuses_late_is_named_before_the_earlier_run_is_touched(
    make_recipe, tmp_path, option, value, said
):
    pretrain(make_recipe())
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    recipe = make_recipe(masking="random")
    setattr(recipe.training, option, value)
    with pytest.raises(RecipeError, match=said):
        pretrain(recipe)
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_weights_that_are_not_finite_are_not_saved(make_recipe, tmp_path):
    recipe = make_recipe(max_steps=2, learning_rate=1e38, lr_scheduler_type="constant", warmup_steps=0)
    with pytest.raises(NonFiniteError, match="weights of the encoder are not finite after step 2"):
        pretrain(recipe)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_resuming_from_another_folder_leaves_nothing_of_an_earlier_run(make_recipe, tmp_path):
    pretrain(make_recipe(output_dir=tmp_path / "first", save_strategy="steps", save_steps=2, max_steps=2))
    pretrain(make_recipe(output_dir=tmp_path / "second", save_strategy="steps", save_steps=1, max_steps=1))
    checkpoint = str(tmp_path / "first" / "checkpoint-2")
    with pytest.raises(RecipeError, match="contains another run"):
        pretrain(
            make_recipe(output_dir=tmp_path / "second", resume_from_checkpoint=checkpoint, overwrite_output_dir=False)
        )
    pretrain(make_recipe(output_dir=tmp_path / "second", resume_from_checkpoint=checkpoint, max_steps=4))
    assert not list((tmp_path / "second").glob("checkpoint-*"))
    steps = [json.loads(line)["step"] for line in open(tmp_path / "second" / "metrics.jsonl")]
    assert min(steps) == 4
