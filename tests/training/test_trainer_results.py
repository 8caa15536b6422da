"""Evaluation, logs, and what is written."""

import subprocess
import sys

import datasets
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from adversarial_mlm import NoiserModel
from tests.helpers.loaded_networks import check_same_weights
from tests.helpers.trainer_helpers import largest_difference, log_of, parameters_of

# ---- evaluation ----


def test_evaluation_does_not_depend_on_batches_nor_on_the_masks_of_training(make_trainer):
    keys = ("loss", "perplexity", "accuracy", "masked_residues", "background_loss")
    figures = [
        make_trainer(masking, per_device_eval_batch_size=size).evaluate()
        for masking, size in (("adversarial", 3), ("adversarial", 40), ("random", 7))
    ]
    for other in figures[1:]:
        assert all(other[f"eval_{key}"] == pytest.approx(figures[0][f"eval_{key}"], rel=1e-6) for key in keys)
    assert figures[0]["eval_gap"] == pytest.approx(figures[1]["eval_gap"], rel=1e-4)
    other_masks = make_trainer(eval_mask_seed=1).evaluate()
    assert other_masks["eval_loss"] != figures[0]["eval_loss"]


def test_background_loss_is_the_cross_entropy_of_the_letters_shares(make_trainer, proteins):
    short = datasets.Dataset.from_dict({"sequence": [protein[:60] for protein in proteins]})
    letters = "".join(short["sequence"])
    shares = torch.tensor([letters.count(letter) / len(letters) for letter in set(letters)])
    trainer = make_trainer(eval_mask_rate=0.5, data=short, max_length=64)
    figures = trainer.evaluate(short)
    assert figures["eval_background_loss"] == pytest.approx(-(shares * shares.log()).sum().item(), abs=0.005)


def test_several_sets_are_evaluated_under_their_names(make_trainer, dataset):
    trainer = make_trainer()
    trainer.eval_dataset = {"members": dataset.select(range(10)), "families": dataset.select(range(10, 40))}
    figures = trainer.evaluate()
    assert {"eval_members_perplexity", "eval_families_perplexity", "eval_families_adversarial_loss"} <= set(figures)


def test_evaluation_sees_the_same_windows_and_masks_whatever_the_seed(make_trainer):
    first, second = (make_trainer(seed=seed) for seed in (0, 1))
    batches = [next(iter(trainer.get_eval_dataloader()))["input_ids"] for trainer in (first, second)]
    assert torch.equal(*batches)
    second.model.load_state_dict(first.model.state_dict())
    assert first.evaluate()["eval_loss"] == second.evaluate()["eval_loss"]


def test_a_diverged_encoder_is_reported_and_not_a_crash(make_trainer):
    trainer = make_trainer()
    trainer.model.cls.predictions.bias.data.mul_(0).add_(torch.linspace(-1e5, 1e5, 30))
    assert trainer.evaluate()["eval_perplexity"] == float("inf")


def test_evaluation_leaves_the_run_untouched(make_trainer):
    quiet = make_trainer(folder="quiet", dropout=0.1)
    quiet.train()
    watched = make_trainer(folder="watched", dropout=0.1, eval_strategy="steps", eval_steps=1)
    watched.train()
    assert largest_difference(parameters_of(quiet), parameters_of(watched)) == 0


# ---- logs ----


def test_everything_promised_is_logged(make_trainer):
    trainer = make_trainer()
    trainer.train()
    entry = next(entry for entry in log_of(trainer) if "loss" in entry)
    promised = {
        "loss", "adversarial_loss", "random_loss", "gap", "mask_rate", "share_mask", "share_keep", "share_replace",
        "entropy", "enrichment_A", "enrichment_max", "grad_norm", "noiser_grad_norm", "noiser_reward", "learning_rate",
        "noiser_learning_rate", "residues_per_second", "seconds_encoder", "seconds_noiser", "seconds_data",
    }  # fmt: skip
    assert promised <= set(entry)
    assert entry["mask_rate"] == pytest.approx(0.2, abs=0.01)
    assert entry["share_mask"] + entry["share_keep"] + entry["share_replace"] == pytest.approx(1)
    assert entry["loss"] == pytest.approx((entry["adversarial_loss"] + entry["random_loss"]) / 2, rel=0.02)


def test_a_random_run_logs_nothing_of_a_noiser(make_trainer):
    trainer = make_trainer("random")
    trainer.train()
    entry = next(entry for entry in log_of(trainer) if "loss" in entry)
    assert entry["share_mask"] == pytest.approx(0.8, abs=0.15)
    assert not any("noiser" in key or "adversarial" in key or "enrichment" in key for key in entry)


def test_the_last_updates_are_logged_where_they_are_fewer_than_logging_steps(make_trainer):
    for strategy, steps in (("steps", [3, 5]), ("no", [])):
        trainer = make_trainer("random", max_steps=5, logging_steps=3, logging_strategy=strategy, folder=strategy)
        trainer.train()
        assert [entry["step"] for entry in log_of(trainer) if "loss" in entry] == steps


def test_a_fresh_run_starts_a_fresh_log(make_trainer):
    make_trainer().train()
    trainer = make_trainer(max_steps=2)
    trainer.train()
    assert max(entry["step"] for entry in log_of(trainer)) == 2


# ---- what is written ----


@pytest.mark.exhaustive
def test_the_result_loads_in_an_interpreter_without_this_package(make_trainer, proteins, tmp_path):
    trainer = make_trainer()
    trainer.train()
    trainer.save_model()
    trainer.model.eval()
    inputs = trainer.processing_class(proteins[:2], padding=True, return_tensors="pt")
    expected = trainer.model(**inputs).logits.sum().item()
    code = f"""
import sys, torch
sys.modules["adversarial_mlm"] = None  # importing it fails
from transformers import AutoModelForMaskedLM, AutoTokenizer
model = AutoModelForMaskedLM.from_pretrained({trainer.args.output_dir!r})
tokenizer = AutoTokenizer.from_pretrained({trainer.args.output_dir!r})
inputs = tokenizer({proteins[:2]!r}, padding=True, return_tensors="pt")
print(type(model).__name__, model(**inputs).logits.sum().item())
"""
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    name, value = result.stdout.split()
    assert name == "BertForMaskedLM" and float(value) == pytest.approx(expected, rel=1e-4)


def test_the_output_holds_no_pickle_and_no_token(make_trainer, tmp_path):
    trainer = make_trainer(hub_token="hf_secret", save_strategy="steps", save_steps=2)
    trainer.train()
    trainer.save_model()
    root = tmp_path / "run"
    names = {path.name for path in root.iterdir() if path.is_file()}
    assert names == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "metrics.jsonl",
        "training_args.json",
    }  # fmt: skip
    assert {path.name for path in (root / "noiser").iterdir()} == {"config.json", "model.safetensors"}
    assert not list(root.rglob("training_args.bin"))
    for path in root.rglob("*"):
        assert path.is_dir() or b"hf_secret" not in path.read_bytes()


def test_the_saved_noiser_is_the_trained_one(make_trainer, proteins):
    trainer = make_trainer()
    trainer.train()
    trainer.save_model()
    loaded = NoiserModel.from_pretrained(trainer.args.output_dir, subfolder="noiser")
    ids = AutoTokenizer.from_pretrained(trainer.args.output_dir)(proteins[0], return_tensors="pt")["input_ids"]
    trained = trainer.noiser.eval()
    check_same_weights(loaded, trained)
    torch.testing.assert_close(loaded(ids).any_mask_scores, trained(ids).any_mask_scores)


def test_the_best_model_comes_back_with_its_noiser_and_its_card(make_trainer):
    trainer = make_trainer(
        max_steps=6, eval_strategy="steps", eval_steps=2, save_strategy="steps", save_steps=2,
        load_best_model_at_end=True, metric_for_best_model="eval_loss", greater_is_better=True,
        learning_rate=3e-2, noiser_learning_rate=3e-2,
    )  # fmt: skip
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best.endswith("checkpoint-2")  # the encoder learns, so that the highest loss is the first
    noiser = NoiserModel.from_pretrained(best, subfolder="noiser")
    encoder = AutoModelForMaskedLM.from_pretrained(best)
    loaded = parameters_of(trainer)
    assert all(torch.equal(loaded[f"noiser.{name}"], value) for name, value in noiser.named_parameters())
    assert all(torch.equal(loaded[f"encoder.{name}"], value) for name, value in encoder.named_parameters())
    trainer.save_model()
    losses = {entry["step"]: entry["eval_loss"] for entry in log_of(trainer) if "eval_loss" in entry}
    card = open(f"{trainer.args.output_dir}/README.md").read()
    assert "2 of 6 encoder updates" in card and f" {losses[2]:.3f} |" in card and f"{losses[6]:.3f}" not in card


def test_the_tokenizer_of_a_checkpoint_has_the_length_of_the_training(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.save_model(str(tmp_path / "saved"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert tokenizer.model_max_length == trainer.data_collator.sequence_encoder.max_length
    assert tokenizer.model_max_length != trainer.data_collator.tokenizer.model_max_length
