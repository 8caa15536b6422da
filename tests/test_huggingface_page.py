"""Every example of two pages about other libraries does what its page says, in an interpreter without this package."""

import hashlib
import json
import re
from pathlib import Path

import datasets
import h5py
import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from adversarial_mlm.inference.embed_file import embed_file
from adversarial_mlm.inference.embeddings import encode_proteins
from tests.helpers.snippets import SnippetResult, python_blocks, run_snippets
from tests.helpers.trainer_helpers import build_trainer

PAGES = ("docs/huggingface.md", "docs/other_libraries.md")
PROTEIN = "MKTAYIAKQRQISFVKSHFSRQ"
LABELLED = ("MKTAYIAKQRQ", "MSDNGPQNQRNAP", "MEEPQSDPSVE", "MGSSHHHHHHSSG")
TRAINERS = ("residue_trainer", "protein_trainer", "residue_lora", "protein_lora")
KEEP = (
    *("guesses", "residues", "embedding", "predicted", "predicted_lora", "embeddings", "loaded_embeddings"),
    *("per_protein", "metrics", "keys"),
    *("onnx_logits", "classified", "protein_data", "residue_trainer.train_dataset"),
    *(f"{name}.state.log_history" for name in TRAINERS),
)
OPTIONAL = ("biotrainer", "h5py", "peft", "sentence_transformers", "onnx", "onnxscript", "onnxruntime")


def examples(page: str) -> list[tuple[str, str]]:
    """Section and code of each example; those of one section continue one another."""
    sections = re.split(r"(?m)^## ", page)
    return [(section.split("\n")[0], code) for section in sections for code in python_blocks(section)]


def about(call: str, found: list[tuple[tuple[str, str], SnippetResult]]) -> SnippetResult:
    """The result of the only example with this call; skips where a package of it is missing."""
    (result,) = [result for (_, code), result in found if call in code]
    if result.missing:
        pytest.skip(f"{result.missing} is not installed")
    return result


@pytest.mark.slow
def test_the_examples_run_without_this_package(
    repository, tmp_path, tokenizer, make_encoder, make_noiser, subtests, monkeypatch
):
    data = datasets.Dataset.from_dict({"sequence": [PROTEIN] * 4})
    trainer = build_trainer(
        tmp_path, tokenizer, make_encoder, make_noiser, data, folder="runs/demo", noiser_config={"view": "blind"}
    )
    trainer.save_model()
    model = trainer.model.eval()
    settings = json.loads((tmp_path / "runs/demo/tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"  # which Transformers 4 knows, too
    monkeypatch.chdir(tmp_path)  # adapters name their encoder by a relative path

    write_embeddings()

    snippets = [example for page in PAGES for example in examples((repository / page).read_text(encoding="utf-8"))]
    results, _ = run_snippets(snippets, tmp_path, KEEP, OPTIONAL)
    found = list(zip(snippets, results, strict=True))
    assert len(found) == 10

    @torch.no_grad()
    def tokens(*proteins: str):
        inputs = tokenizer(list(proteins), padding=True, return_tensors="pt")
        output = model(**inputs, output_hidden_states=True)
        return inputs, output.hidden_states[-1], output.logits

    def residue_means(*proteins: str) -> np.ndarray:
        return encode_proteins(model.base_model, tokenizer, proteins, dtype="float32")[:, 0]

    check_pipelines(found, tokens, residue_means, subtests)
    check_trained_models(found, tokens, model, subtests)
    with subtests.test("sentence-transformers"):
        values = about("sentence_transformers", found).values
        np.testing.assert_allclose(values["embeddings"], residue_means(PROTEIN, "MSDNGPQN"), atol=1e-5)
        np.testing.assert_allclose(values["loaded_embeddings"], values["embeddings"], atol=1e-6)

    with subtests.test("biotrainer"):
        values = about("parse_config_file_and_execute_run", found).values
        for protein, vector in values["per_protein"].items():
            np.testing.assert_allclose(vector, residue_means(protein)[0], atol=1e-5)
        assert np.isfinite(values["metrics"]["mse"])

    with subtests.test("the embeddings of a file for biotrainer"):
        values = about("hashlib", found).values
        with h5py.File("runs/renamed.h5") as renamed:
            for protein in LABELLED:
                key = hashlib.sha256(f"{protein}_{len(protein)}".encode()).hexdigest()
                np.testing.assert_allclose(renamed[key], residue_means(protein)[0], atol=1e-5)
        assert len(values["keys"]) == len(LABELLED)

    with subtests.test("ONNX"):
        values = about("torch.onnx", found).values
        _, _, logits = tokens("MEEPQSDPSVEPPLSQETFSDLWKLL", "MKT", "MGSSHH")
        np.testing.assert_allclose(values["onnx_logits"], logits, atol=1e-4)


def write_embeddings() -> None:
    """Embed the labelled proteins, as the command of the page does."""
    lines = [line for number, protein in enumerate(LABELLED) for line in (f">protein{number}", protein)]
    Path("runs/labelled.fasta").write_text("\n".join(lines) + "\n", encoding="utf-8")
    embed_file("runs/demo", "runs/labelled.fasta", "runs/labelled.h5")


def check_pipelines(found, tokens, residue_means, subtests) -> None:
    with subtests.test("fill-mask"):
        guesses = about('"fill-mask"', found).values["guesses"]
        inputs, _, logits = tokens("MKTAYIAKQ<mask>QISFVKSHFSRQ")
        scores, ids = logits[0, 10].softmax(dim=-1).topk(3)
        assert [guess["token"] for guess in guesses] == ids.tolist()
        assert [guess["score"] for guess in guesses] == pytest.approx(scores.tolist(), rel=1e-4)

    with subtests.test("feature-extraction"):
        values = about('"feature-extraction"', found).values
        np.testing.assert_allclose(values["residues"], tokens(PROTEIN)[1][0, 1:-1], atol=1e-5)
        np.testing.assert_allclose(values["embedding"], residue_means(PROTEIN)[0], atol=1e-5)


def check_trained_models(found, tokens, model, subtests) -> None:
    with subtests.test("token classification"):
        values = about("residue_trainer = ", found).values
        charged = [int(residue in "DEKR") for residue in PROTEIN]
        assert values["residue_trainer.train_dataset"][0]["labels"] == [-100, *charged, -100]
        classified = values["classified"]
        saved = AutoModelForTokenClassification.from_pretrained("runs/charged_residues").eval()
        logits = saved(**tokens(PROTEIN)[0]).logits[0, 1:-1]
        assert [residue["word"] for residue in classified] == list(PROTEIN)
        assert [residue["entity"] for residue in classified] == [f"LABEL_{i}" for i in logits.argmax(dim=-1).tolist()]
        check_it_learned(values["residue_trainer.state.log_history"], saved, model)

    with subtests.test("sequence classification"):
        values = about("protein_trainer = ", found).values
        saved = AutoModelForSequenceClassification.from_pretrained("runs/charge_fraction").eval()
        np.testing.assert_allclose(predictions(saved, values["protein_data"]), values["predicted"], atol=1e-5)
        check_it_learned(values["protein_trainer.state.log_history"], saved, model)

    with subtests.test("LoRA on token classification"):
        values = about("residue_lora = ", found).values
        adapted = AutoModelForTokenClassification.from_pretrained("runs/charged_residues_lora", num_labels=2)
        check_it_learned(values["residue_lora.state.log_history"], adapted, model, frozen=True)

    with subtests.test("LoRA on sequence classification"):
        values = about("protein_lora = ", found).values
        adapted = AutoModelForSequenceClassification.from_pretrained("runs/charge_fraction_lora", num_labels=1).eval()
        np.testing.assert_allclose(predictions(adapted, values["protein_data"]), values["predicted_lora"], atol=1e-5)
        check_it_learned(values["protein_lora.state.log_history"], adapted, model, frozen=True)


def predictions(model, records: list[dict]) -> np.ndarray:
    with torch.no_grad():
        rows = [model(input_ids=torch.tensor([record["input_ids"]])).logits[0] for record in records]
    return torch.stack(rows).numpy()


def check_it_learned(log: list[dict], saved, encoder, frozen: bool = False) -> None:
    """The loss fell, and the weights of the encoder are where training started (`frozen`: where they stay)."""
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]), losses
    weights = {name.replace(".base_layer", ""): value for name, value in saved.base_model.state_dict().items()}
    for name, start in encoder.base_model.state_dict().items():
        distance = (weights[name] - start).abs().max()
        assert distance == 0 if frozen else distance < 0.1, name
