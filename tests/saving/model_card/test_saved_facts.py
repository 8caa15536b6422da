"""Cards that are written anew. The fixture `run` does so with the card of every whole run."""

import json
import re

import pytest
from huggingface_hub import EvalResult, ModelCard

from adversarial_mlm.cli.main import main
from adversarial_mlm.saving import model_card
from adversarial_mlm.saving.model_card.facts import RecipeFacts
from adversarial_mlm.saving.model_card.saved_facts import read_facts
from adversarial_mlm.saving.run_folder import RunFolder

FIGURES = {"eval_members_loss": 2.5, "eval_members_perplexity": 12.2, "eval_members_accuracy": 0.2}


@pytest.fixture
def folder(make_facts, make_noiser_facts, make_encoder, make_noiser, tmp_path):
    """The folder of a complete run, made from facts."""
    run = tmp_path / "run"
    make_encoder().save_pretrained(run)
    make_noiser(view="blind").save_pretrained(run / "noiser")
    log = [
        {"step": 50, "loss": 2.9, "seconds_encoder": 3.0, "residues_per_second": 100.0, "grad_norm": float("nan")},
        {"step": 100, **FIGURES},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(entry).replace("NaN", "null") + "\n" for entry in log))
    facts = make_facts(
        noiser=make_noiser_facts(view="blind", adversarial_share=((0, 0.0), (50, 1.0))),
        recipe=RecipeFacts(train_data=("a.fasta", "b.fasta"), holdout_members=0.1),
        log_history=log,
        options={"learning_rate": "0.002"},
    )
    model_card.write(facts, run, FIGURES)
    model_card.save_facts(facts, run, FIGURES)
    RunFolder(str(run)).seal(["noiser/config.json"])
    return run


def test_a_card_written_anew_is_the_same_to_the_byte(folder):
    card = folder / "README.md"
    before = card.read_bytes()
    assert b"a.fasta" in before and b"12.20" in before
    card.unlink()
    model_card.rewrite(folder)
    assert card.read_bytes() == before and not RunFolder(str(folder)).others()
    model_card.rewrite(folder)
    assert card.read_bytes() == before


def test_the_facts_come_back_as_they_were(folder, make_facts):
    facts, figures = read_facts(folder)
    assert figures == FIGURES and facts.rules == make_facts().rules
    assert facts.noiser.adversarial_share == ((0, 0.0), (50, 1.0)) and facts.recipe.train_data == (
        "a.fasta",
        "b.fasta",
    )
    assert facts.log_history[0]["grad_norm"] != facts.log_history[0]["grad_norm"]  # NaN
    assert facts.environment.device == "CPU" and facts.encoder.config.hidden_size == 16


def test_results_of_tasks_are_kept(folder):
    result = EvalResult(
        task_type="regression", dataset_type="tape", dataset_name="TAPE", metric_type="spearman", metric_value=0.4
    )
    model_card.add_results(folder, [result])
    model_card.rewrite(folder, overwrite=True)
    values = {one.metric_type: one.metric_value for one in ModelCard.load(folder / "README.md").data.eval_results}
    assert values["spearman"] == 0.4 and values["perplexity"] == 12.2
    before = (folder / "README.md").read_bytes()
    model_card.rewrite(folder)
    assert (folder / "README.md").read_bytes() == before


def test_a_card_that_was_changed_is_replaced_only_on_request(folder, capsys):
    card = folder / "README.md"
    before = card.read_text()
    card.write_text(before + "\nMy notes.\n")
    assert main(["card", str(folder)]) == 2
    assert "README.md was changed since its run wrote it" in capsys.readouterr().err
    assert card.read_text().endswith("My notes.\n")
    assert main(["card", str(folder), "--overwrite"]) == 0
    assert capsys.readouterr().out == f"Card        {card}\n" and card.read_text() == before


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("card_facts.json", None, "has no card_facts.json, from which its card could be written anew"),
        ("card_facts.json", "{", "cannot be read"),
        ("card_facts.json", '{"format": 2}', "its format is 2, and this version reads 1"),
        ("card_facts.json", '{"format": 1, "figures": {}, "facts": []}', "cannot be read"),
        ("card_facts.json", '{"format": 1, "figures": {}, "facts": {"noiser": null}}', "cannot be read"),
        ("metrics.jsonl", None, "metrics.jsonl"),
        ("metrics.jsonl", "[1]\n", "cannot be read"),
        ("config.json", None, "cannot be read"),
        ("noiser/config.json", None, "cannot be read"),
        ("README.md", "---\nmodel-index: [\n---\n", "results in .*README.md cannot be read"),
    ],
)
def test_a_folder_without_facts_is_refused_in_one_sentence(folder, name, text, sentence, capsys):
    (folder / name).unlink()
    if text is not None:
        (folder / name).write_text(text)
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert main(["card", str(folder), "--overwrite"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("adv-mlm: ") and len(said.splitlines()) == 1
    assert re.search(sentence, said), said
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_folder_that_is_not_there_is_not_made(tmp_path, capsys):
    assert main(["card", str(tmp_path / "nowhere")]) == 2
    assert "nowhere: there is no such folder" in capsys.readouterr().err and not (tmp_path / "nowhere").exists()
