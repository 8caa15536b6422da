"""Recipes that resume with other options than before: what is refused, what counts, and what a run tells of it."""

import json
import shutil

import pytest
import yaml

from adversarial_mlm.recipes import run
from adversarial_mlm.recipes.recipe import parse_recipe
from adversarial_mlm.recipes.run import RecipeError, evaluate_saved, pretrain

SAVING = {"save_strategy": "steps", "save_steps": 2}
NOTHING_HELD_OUT = {
    **{"holdout_families": 0, "holdout_members": 0, "cluster_table": "", "background_gate": ""},
    **{"eval_strategy": "no", "max_eval_records": None},
}


@pytest.fixture
def files(tmp_path):
    """Every file of a run with its content."""
    return lambda: {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_the_card_and_the_recipe_tell_what_was_used_when(make_recipe, tmp_path):
    pretrain(make_recipe(max_steps=2, **SAVING))
    folder = tmp_path / "run"
    words = ["--resume_from_checkpoint", "latest", "--max_steps", "4", "--learning_rate", "1e-5"]
    recipe = parse_recipe([str(folder / "recipe.yaml"), *words, "--lr_scheduler_type", "constant"])
    evaluate_saved(recipe, pretrain(recipe))
    log = [json.loads(line) for line in open(folder / "metrics.jsonl")]
    assert [entry["learning_rate"] for entry in log if "loss" in entry][-1] == 1e-5
    head, rest = (folder / "recipe.yaml").read_text().split("train_data:", 1)
    assert head.splitlines()[1] == (
        "# after update 2: learning_rate 0.001 -> 1e-05, lr_scheduler_type cosine -> constant, max_steps 2 -> 4"
    )
    assert yaml.safe_load("train_data:" + rest)["learning_rate"] == 1e-5
    assert parse_recipe([str(folder / "recipe.yaml")]).training.learning_rate == 1e-5
    for card in (folder / "README.md", folder / "checkpoint-4" / "README.md"):
        text = " ".join(card.read_text().split())
        assert "peak learning rate 1e-05" in text and "resumed with other options than before" in text
        assert "| `learning_rate` | 2 | 0.001 | 1e-05 |" in text
    assert "resumed with" not in (folder / "checkpoint-2" / "README.md").read_text()
    again = parse_recipe([str(folder / "recipe.yaml"), "--resume_from_checkpoint", "latest", "--max_steps", "6"])
    assert [resumption.step for resumption in pretrain(again).resumptions] == [2, 4]


def test_what_cannot_change_is_refused_before_the_data_are_read(make_recipe, files, monkeypatch):
    pretrain(make_recipe(max_steps=2, **SAVING))
    before = files()
    monkeypatch.setattr(run, "load_data", lambda args: pytest.fail("the data were read"))
    for changes, sentence in (
        ({"masking": "random"}, "masking is random and was adversarial"),
        ({"optim": "sgd"}, "optim is sgd and was adamw_torch_fused"),
        ({"seed": 7}, "seed is 7 and was 0, data_seed is 7 and was 0"),
        ({"encoder": "small"}, "encoder is small and was tiny"),
        ({"noiser": "small"}, "noiser is small and was tiny"),
        ({"noiser_view": "full"}, "noiser_view is full and was blind"),
        ({"noiser_backbone": "conv"}, "noiser_backbone is conv and was gru"),
        ({"noiser_reward": "reducible"}, "noiser_reward is reducible and was credit"),
        ({"max_length": 600}, "max_length is 600 and was 128"),
        ({"streaming": True, **NOTHING_HELD_OUT}, "streaming is true and was false"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy is sequential and was random"),
        ({"lr_scheduler_type": "greedy"}, "lr_scheduler_type is greedy and was cosine"),
    ):
        with pytest.raises(
            RecipeError, match=f"^{sentence}: a run that resumes from the checkpoint .*checkpoint-2 ca"
        ):
            pretrain(make_recipe(resume_from_checkpoint="latest", **{"max_steps": 4, **changes}))
    assert files() == before


def test_data_may_move_but_not_change(make_recipe, tmp_path, proteins, files, caplog):
    def write(name, sequences):
        (tmp_path / name).write_text("".join(f">{i}\n{sequence}\n" for i, sequence in enumerate(sequences)))
        return tmp_path / name

    first = write("first.fasta", proteins[:40])
    settings = {**NOTHING_HELD_OUT, **SAVING, "holdout_random": 0.2, "min_length": 10}
    pretrain(make_recipe(train_data=first, max_steps=2, **settings))
    resume = {"resume_from_checkpoint": "latest", **settings}
    before = files()
    for changes, words in (
        (
            {"train_data": write("other.fasta", proteins[40:80])},
            "as before, but other .*; train_data is .*other.fasta",
        ),
        ({"train_data": write("more.fasta", proteins[:50])}, "40 records instead of 32; train_data is"),
        ({"holdout_seed": 1}, "but other sequences or another order; holdout_seed is 1 and was 0"),
        ({"min_length": 78}, "records instead of 32; min_length is 78 and was 10"),
        ({"holdout_random": 0.1}, "36 records instead of 32; holdout_random is 0.1 and was 0.2"),
        ({"validation_data": write("part.fasta", proteins[:20])}, "records instead of 32; validation_data is .*part"),
    ):
        with pytest.raises(RecipeError, match=f"^the training proteins are not those of the checkpoint .*{words}"):
            pretrain(make_recipe(**{"train_data": first, "max_steps": 4, **resume, **changes}))
    assert files() == before
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.move(first, tmp_path / "elsewhere" / "renamed.fasta")
    caplog.clear()
    trainer = pretrain(make_recipe(train_data=moved, max_steps=4, **resume))
    assert list(trainer.resumptions[0].changes) == ["max_steps"] and "cannot be" not in caplog.text


def test_the_source_of_a_stream_is_only_warned_of(make_recipe, tmp_path, proteins, caplog):
    paths = [tmp_path / name for name in ("a.fasta", "b.fasta")]
    for path in paths:
        path.write_text("".join(f">{i}\n{sequence}\n" for i, sequence in enumerate(proteins[:30])))
    settings = {**NOTHING_HELD_OUT, **SAVING, "streaming": True}
    pretrain(make_recipe(train_data=paths[0], max_steps=2, **settings))
    pretrain(make_recipe(train_data=paths[1], max_steps=3, resume_from_checkpoint="latest", **settings))
    assert "whether the training proteins are the same cannot be checked" in caplog.text


def test_the_card_names_the_model_that_the_run_started_from(make_recipe, tmp_path, save_encoder, caplog):
    base = save_encoder("prot_bert")
    start = {"model_name_or_path": base, "encoder": "", "background_gate": "", **SAVING}
    pretrain(make_recipe(max_steps=2, **start))
    moved = shutil.copytree(base, tmp_path / "copy")
    changed = {**start, "model_name_or_path": moved, "resume_from_checkpoint": "latest"}
    trainer = pretrain(make_recipe(max_steps=3, **changed))
    assert trainer.card_facts().base_model == base
    assert "copy and was" in caplog.text and "the weights are those of the checkpoint" in caplog.text
    with pytest.raises(RecipeError, match="^trained_layers is 1 and was not set"):
        pretrain(make_recipe(max_steps=4, trained_layers=1, **changed))
