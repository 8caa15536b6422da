import csv
import shutil

import numpy as np
import pytest

from adversarial_mlm.cli.main import main
from adversarial_mlm.inference.mask_view import view_masks
from adversarial_mlm.masking.rules import MaskingRules
from adversarial_mlm.models.loading import load_encoder, load_noiser

PROTEIN = "MKTAYIAKQRQISFVKSHFSRQLEERLG?W"


@pytest.fixture
def mask(trained, tmp_path, monkeypatch, capsys, caplog):
    """Run `adv-mlm mask`; returns the status, what is shown, and what is said of mistakes."""
    monkeypatch.chdir(tmp_path)

    def run(*words, model=trained):
        status = main(["mask", "--model", str(model), *words])
        captured = capsys.readouterr()
        return status, captured.out, captured.err + caplog.text

    return run


def test_table_and_terminal_show_the_view_of_the_recipes_rules(mask, tmp_path, trained):
    status, shown, _ = mask("--protein", PROTEIN, "--out", "m.tsv", "--figure", "m.png", "--draws", "7")
    model, tokenizer = load_encoder(trained)
    rules = MaskingRules(0.1, adversarial_rate=0.2, sampler="gumbel_topk", learned_options=False, blind=True)
    view = view_masks(model.eval(), tokenizer, load_noiser(trained).eval(), rules, PROTEIN, draws=7)
    assert status == 0
    with open(tmp_path / "m.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert "".join(row["residue"] for row in rows) == PROTEIN and rows[-1]["position"] == "30"
    np.testing.assert_allclose([float(row["probability"]) for row in rows], view.probability, rtol=1e-4)
    np.testing.assert_allclose([float(row["entropy"]) for row in rows], view.entropy, rtol=1e-4)
    assert [row["loss"] for row in rows].index("") == PROTEIN.index("?")
    assert {row["draws"] for row in rows} == {"7"} and {row["favourite"] for row in rows} == {"[MASK]"}
    assert {row["method"] for row in rows} == {view.method}
    assert "      1  MKTAYIAKQR QISFVKSHFS RQLEERLG?W  30" in shown
    assert "The noiser masks 6 of 30 residues" in shown and "mean over 7 candidate sets" in shown
    assert "This noiser only uses [MASK]." in shown and "at most 0.50 of the time" in shown
    assert (tmp_path / "m.png").read_bytes()[:4] == b"\x89PNG"


def test_all_reads_are_counted(trained):
    model, tokenizer = load_encoder(trained)
    rules = MaskingRules(0.1, adversarial_rate=0.2, sampler="gumbel_topk", learned_options=False, blind=True)
    seen = []
    view_masks(
        model.eval(), tokenizer, load_noiser(trained).eval(), rules, PROTEIN, draws=7, max_length=22, batch_tokens=50,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert len(seen) > 4 and {total for _, total in seen} == {len(PROTEIN) + 2 * 7}
    assert seen == sorted(set(seen)) and seen[-1][0] == seen[-1][1]


def test_options_override_the_rules_of_the_recipe(mask):
    words = ("--adversarial_rate", "0.5", "--learned_options", "true", "--sampler", "rss", "--selection", "threshold")
    status, shown, _ = mask("--protein", PROTEIN, *words, "--draws", "3")
    assert status == 0 and "The noiser masks 15 of 30 residues" in shown
    assert "share of 3 draws of rss (threshold), each with another candidate set" in shown
    assert "only uses [MASK]" not in shown


def test_a_protein_of_a_file_is_chosen_by_its_id(mask, tmp_path):
    (tmp_path / "a.fasta").write_text(f">a\nMKT\n>b\n{PROTEIN}\n")
    assert mask("--protein", "a.fasta", "--id", "b")[1] == mask("--protein", PROTEIN)[1]
    status, _, said = mask("--protein", "a.fasta")
    assert status == 2 and "a.fasta: contains several proteins: choose one with --id" in said


def test_dna_is_not_taken_for_a_protein(mask, tmp_path):
    status, _, said = mask("--protein", "atggcgattaacgga")
    assert status == 2 and "--protein is 'atggcgattaacgga', which seems to be nucleotides: give a protein" in said
    (tmp_path / "dna.fasta").write_text(">a\nATGGCGATTAACGGA\n")
    status, _, said = mask("--protein", "dna.fasta")
    assert status == 2 and "--protein dna.fasta is 'ATGGCGATTAACGGA', which seems to be nucleotides" in said


def test_a_long_protein_is_said_to_be_read_in_parts(mask):
    status, shown, _ = mask("--protein", PROTEIN, "--max_length", "12")
    assert status == 0 and "read the protein in 3 parts" in shown


def test_a_model_without_a_noiser_or_a_recipe(mask, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "recipe.yaml").unlink()
    status, shown, said = mask("--protein", PROTEIN, model=tmp_path / "run")
    assert status == 0 and "The noiser masks 3 of 30 residues" in shown
    assert "has no recipe.yaml, so the default rates are used: adversarial_rate 0.1, random_rate 0.1" in said
    shutil.rmtree(tmp_path / "run" / "noiser")
    status, _, said = mask("--protein", PROTEIN, model=tmp_path / "run")
    assert status == 2 and f"adv-mlm: --model is {tmp_path}/run, which is not a noiser and has none in noiser/" in said


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("--protein", "???"), "the protein '???' has no residue that can be masked"),
        (("--protein", "none.fasta"), "none.fasta: there is no such file"),
        (("--protein", "MK", "--draws", "0"), "draws must be at least 1, got 0"),
        (("--protein", "MK", "--adversarial_rate", "2"), "adversarial_rate must be at least 0"),
        (("--protein", "MK", "--adversarial_rate", "0"), "adversarial_rate is 0, so the noiser masks nothing"),
        (("--protein", "MK", "--sampler", "dice"), "sampler must be one of rss, gumbel_topk, logistic_topk, got"),
        (("--protein", "MK", "--learned_options", "perhaps"), "perhaps must be true or false"),
        (("--protein", "MK", "--out", "a.txt"), "--out is a.txt, but must end in .tsv or .csv"),
        (("--protein", "M" * 2001, "--figure", "a.png"), "has 2,001 residues, but a figure is drawn for at most"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(mask, words, sentence):
    status, _, said = mask(*words)
    assert status == 2 and sentence in said and said.startswith("adv-mlm: ")
