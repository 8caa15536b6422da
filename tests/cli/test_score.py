import csv
import io
import re

import numpy as np
import pytest

from adversarial_mlm.cli import mask as mask_module
from adversarial_mlm.cli import score as score_module
from adversarial_mlm.cli.command_parser import build_parser
from adversarial_mlm.cli.main import main
from adversarial_mlm.inference.mutant_tables import saturation_matrix, score_mutants
from adversarial_mlm.inference.pseudo_likelihood import pseudo_log_likelihoods
from adversarial_mlm.models.loading import load_encoder
from adversarial_mlm.models.tokenization_protein import STANDARD_RESIDUES

WILD_TYPE = "MKTAYIAKQRQISFVKSHFSRQ"


@pytest.fixture(scope="module")
def networks(trained):
    model, tokenizer = load_encoder(trained)
    return model.eval(), tokenizer


@pytest.fixture
def score(trained, tmp_path, monkeypatch, capsys, caplog):
    """Run `adv-mlm score`; returns the status, the rows of the table, and what was said."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")

    def run(*words, out="out.tsv"):
        caplog.clear()
        status = main(["score", "--model", trained, *words, *(["--out", out] if out else [])])
        captured = capsys.readouterr()
        text = (tmp_path / out).read_text() if out and (tmp_path / out).exists() else "" if out else captured.out
        rows = list(csv.DictReader(io.StringIO(text), delimiter="," if str(out).endswith(".csv") else "\t"))
        return status, rows, captured.err + caplog.text

    return run


def test_every_protein_of_a_file_has_its_row(score, tmp_path, networks):
    (tmp_path / "a.fasta").write_text(f">a\n{WILD_TYPE}\n>b\nMKXW\n>none\n\n>a\n{WILD_TYPE.lower()}\n")
    status, rows, said = score("--fasta", "a.fasta")
    wanted = list(pseudo_log_likelihoods(*networks, [WILD_TYPE, "MKXW"]))
    assert status == 0 and [row["id"] for row in rows] == ["a", "b", "none", "a"] and rows[0] == rows[3]
    assert [row["residues"] for row in rows] == ["22", "3", "0", "22"]
    for row, score_of in zip(rows, wanted, strict=False):
        assert float(row["pll"]) == pytest.approx(score_of.pll, rel=1e-6)
        assert float(row["pseudo_perplexity"]) == pytest.approx(score_of.pseudo_perplexity, rel=1e-4)
    assert rows[1]["note"] == "1 residue not counted: ambiguous or unknown"
    assert (rows[2]["pll"], rows[2]["pseudo_perplexity"], rows[2]["note"]) == ("", "", "empty sequence")
    assert "out.tsv: 4 proteins, 47 residues, pll " in said and "not counted: 1 residue" in said
    assert "without a score: 1 protein in which no residue counts" in said


def test_the_approximation_has_its_own_names_and_a_table_its_own_columns(score, tmp_path, networks):
    (tmp_path / "a.csv").write_text(f"name,protein\nx,{WILD_TYPE}\n")
    options = ("--sequence_column", "protein", "--id_column", "name", "--one_pass")
    status, rows, _ = score("--fasta", "a.csv", *options, out="out.csv")
    (wanted,) = pseudo_log_likelihoods(*networks, [WILD_TYPE], one_pass=True)
    assert status == 0 and list(rows[0]) == [
        "id",
        "residues",
        "one_pass_pll",
        "one_pass_pseudo_perplexity",
        "note",
    ]
    assert rows[0]["id"] == "x" and float(rows[0]["one_pass_pll"]) == pytest.approx(wanted.pll, rel=1e-6)


def test_every_mutant_of_a_table_has_its_row(score, tmp_path, networks):
    texts = ["A4W", "A4W:Q9R", "G4W", "", "wt", "A400W", "A4W", "M1*", "strange"]
    (tmp_path / "dms.csv").write_text("fitness,mutant\n" + "".join(f"{n},{text}\n" for n, text in enumerate(texts)))
    (tmp_path / "wt.fasta").write_text(f">wt\n{WILD_TYPE}\n")
    options = ("--wild_type", "wt.fasta", "--marginals", "mutant", "--keep_columns", "fitness")
    status, rows, said = score("--mutants", "dms.csv", *options)
    assert status == 0 and [row["mutant"] for row in rows] == texts
    assert [row["row"] for row in rows] == [f"line {n}" for n in range(2, 11)]
    assert [row["fitness"] for row in rows] == [str(n) for n in range(9)]
    wanted = score_mutants(*networks, WILD_TYPE, texts, marginals="mutant")
    for row, one in zip(rows, wanted, strict=True):
        assert row["reason"] == one.explanation and (row["score"] == "") == (one.score is None)
        assert one.score is None or float(row["score"]) == pytest.approx(one.score, rel=1e-6)
    assert "out.tsv: 4 of 9 mutants have a score; without a score: 1 with another old residue" in said
    assert "(line 4: 'G4W', the wild type has A at position 4)" in said
    assert "1 in a notation that is not known (line 10: 'strange')" in said
    (tmp_path / "wt.fasta").write_text(f">other\nMK\n>wt\n{WILD_TYPE}\n")
    assert score("--mutants", "dms.csv", *options, "--id", "wt", out="again.tsv")[1] == rows


def test_wild_types_are_sequences_of_a_column_or_ids_of_a_file(score, tmp_path, networks):
    other = "G" + WILD_TYPE
    wanted = [score_mutants(*networks, *pair)[0].score for pair in ((WILD_TYPE, ["A4W"]), (other, ["A5W"]))]
    (tmp_path / "s.csv").write_text(f"mutant,wt\nA4W,{WILD_TYPE}\nA5W,{other}\nA4W,\n")
    (tmp_path / "i.csv").write_text("mutant,wt\nA4W,one\nA5W,two\nA4W,three\n")
    (tmp_path / "wt.fasta").write_text(f">one\n{WILD_TYPE}\n>two\n{other}\n")
    for number, words in enumerate((("s.csv",), ("i.csv", "--wild_type", "wt.fasta"))):
        status, rows, said = score("--mutants", *words, "--wild_type_column", "wt", out=f"{number}.tsv")
        assert status == 0 and "2 of 3 mutants have a score; without a score: 1 without a usable wild type" in said
        assert [float(row["score"]) for row in rows[:2]] == pytest.approx(wanted, rel=1e-6)
        assert rows[2]["score"] == "" and rows[2]["reason"].startswith("without a usable wild type")
    assert rows[2]["reason"].endswith("the id is not in wt.fasta") and rows[2]["wt"] == "three"


def test_a_table_without_any_score_is_written_and_ends_with_a_hint(score, tmp_path):
    (tmp_path / "dms.csv").write_text("mutant\nA27W\nQ32G\nF37A\nS40P\n")
    status, rows, said = score("--mutants", "dms.csv", "--wild_type", WILD_TYPE)
    assert status == 2 and len(rows) == 4 and all(row["score"] == "" for row in rows)
    assert "adv-mlm: dms.csv: 0 of 4 mutants have a score" in said and "the positions fit with --offset 23." in said
    status, rows, said = score("--mutants", "dms.csv", "--wild_type", WILD_TYPE, "--offset", "23", "--overwrite")
    assert status == 0 and all(row["score"] for row in rows)


def test_a_saturation_matrix_has_a_row_for_each_position(score, tmp_path, networks):
    wild_type = WILD_TYPE[:6]
    words = ("--saturation", "--wild_type", wild_type, "--offset", "23")
    status, rows, said = score(*words, "--marginals", "wild_type", "--figure", "a.png")
    assert status == 0 and list(rows[0]) == ["position", "wild_type", *STANDARD_RESIDUES]
    assert [(row["position"], row["wild_type"]) for row in rows] == [(str(24 + n), r) for n, r in enumerate(wild_type)]
    found = [[float(row[letter]) for letter in STANDARD_RESIDUES] for row in rows]
    np.testing.assert_allclose(found, saturation_matrix(*networks, wild_type, marginals="wild_type"), rtol=1e-4)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG" and "6 of 6 positions have scores" in said


def test_without_a_file_the_table_goes_to_the_standard_output(score):
    status, rows, said = score("--saturation", "--wild_type", "MKX", out=None)
    assert status == 0 and [row["wild_type"] for row in rows] == ["M", "K", "X"] and rows[2]["A"] == ""
    assert "2 of 3 positions have scores; 1 has none" in said


@pytest.mark.parametrize(
    "words, sentence",
    [
        ((), "give one of --fasta, --mutants and --saturation; given is none of them"),
        (("--fasta", "a.fasta", "--saturation"), "given is --fasta and --saturation"),
        (("--saturation",), "--saturation needs --wild_type"),
        (("--mutants", "m.csv"), "--mutants needs --wild_type"),
        (("--fasta", "a.fasta", "--wild_type", "MK"), "--wild_type does not apply to --fasta, only to --mutants and"),
        (("--fasta", "a.fasta", "--offset", "0"), "--offset does not apply to --fasta"),
        (("--saturation", "--wild_type", "MK", "--one_pass"), "--one_pass does not apply to --saturation"),
        (("--saturation", "--wild_type", "MK", "--sequence_column", "s"), "--sequence_column does not apply to --sat"),
        (
            ("--saturation", "--wild_type", "MK", "--allow_nucleotides"),
            "--allow_nucleotides does not apply to --satur",
        ),
        (("--saturation", "--wild_type", "ATGGCGATTAACGGA"), "'ATGGCGATTAACGGA', which seems to be nucleotides"),
        (("--fasta", "a.fasta", "--out", "a.txt"), "--out is a.txt, but must end in .tsv or .csv"),
        (("--saturation", "--wild_type", "MK", "--figure", "a.pdf"), "--figure is a.pdf, but must end in .png"),
        (("--fasta", "a.fasta", "--out", "old.tsv"), "--out is old.tsv, which exists: name another file, or add"),
        (("--fasta", "m.csv", "--out", "m.csv", "--overwrite"), "--out is m.csv, which is also an input"),
        (("--fasta", "a.fasta", "--batch_tokens", "0"), "--batch_tokens must be at least 1, got 0"),
        (("--fasta", "a.fasta", "--max_length", "2"), "max_length is 2, which leaves no room for a residue"),
        (("--fasta", "a.fasta", "--max_length", "9999"), "max_length is 9999, but the encoder has 512 positions"),
        (("--fasta", "a.fasta", "--device", "abacus"), "--device is abacus, which cannot be used"),
        (("--fasta", "none.fasta"), "none.fasta: there is no such file"),
        (("--fasta", "empty.fasta"), "empty.fasta: no protein has a residue that counts."),
        (("--mutants", "m.csv", "--wild_type", "none.fasta"), "none.fasta: there is no such file"),
        (("--mutants", "m.csv", "--wild_type", "a.fasta"), "a.fasta: contains several proteins"),
        (("--mutants", "m.csv", "--wild_type", "M*K"), "wild_type is 'M*K', but must be a protein"),
        (("--mutants", "a.csv", "--wild_type", "MK"), 'there is no column "mutant" (--mutant_column); the'),
        (("--mutants", "m.csv", "--wild_type", "MK", "--wild_type_column", "w"), "must be a file with the proteins"),
        (("--mutants", "m.csv", "--wild_type_column", "w", "--id", "a"), "--id and --wild_type_column both name"),
        (("--saturation", "--wild_type", "a.fasta", "--id", "c"), "a.fasta: contains no protein of id c"),
        (("--saturation", "--wild_type", "a.fasta", "--id", "a"), "a.fasta: contains 2 proteins of id a"),
        (("--saturation", "--wild_type", "MK", "--id", "a"), "--id is a, but --wild_type is a sequence"),
        (("--saturation", "--wild_type", "M" * 2001, "--figure", "a.png"), "has 2,001 residues, but a heat map"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(score, tmp_path, words, sentence):
    (tmp_path / "a.fasta").write_text(">a\nMK\n>b\nMKT\n>a\nMW\n")
    (tmp_path / "empty.fasta").write_text(">a\n\n")
    (tmp_path / "m.csv").write_text("mutant,sequence\nM1A,MK\n")
    (tmp_path / "a.csv").write_text("variant\nM1A\n")
    (tmp_path / "old.tsv").write_text("precious")
    status, _, said = score(*words, out=None)
    assert status == 2
    (line,) = [line for line in said.splitlines() if line.startswith("adv-mlm: ")]
    assert sentence in line and (tmp_path / "old.tsv").read_text() == "precious"


def test_the_page_of_the_docs_names_options_that_exist_and_its_example_runs(
    repository, trained, tmp_path, monkeypatch
):
    page = (repository / "docs" / "scoring.md").read_text(encoding="utf-8")
    known = set()
    for module in (score_module, mask_module):
        parser = build_parser(module, "adv-mlm")
        known |= {text for action in parser._actions for text in action.option_strings}
    named = set(re.findall(r"--[a-z_]+", page))
    assert named - known == {"--help"} and len(named) > 15
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(trained)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "scoring.md", "exec"), {})


def test_a_model_that_cannot_be_loaded_is_named(score):
    status, _, said = score("--model", "nowhere/at/all", "--saturation", "--wild_type", "MK")
    assert status == 2 and "adv-mlm: --model is nowhere/at/all, but there is no such folder" in said


def test_a_file_that_cannot_be_written_is_status_1(score, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, said = score("--saturation", "--wild_type", "MK", out="file/out.tsv")
    assert status == 1 and "adv-mlm: file/out.tsv: could not be written: " in said


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (("--mutants", "dms.csv", "--wild_type", WILD_TYPE), "2/2 "),  # two positions
        (("--mutants", "dms.csv", "--wild_type", WILD_TYPE, "--marginals", "mutant"), "3/3 "),
        (("--saturation", "--wild_type", "MKTAY", "--marginals", "mutant"), "95/95 "),
    ],
)
def test_a_terminal_shows_how_much_is_done_the_rate_and_the_time_left(score, tmp_path, monkeypatch, words, last):
    (tmp_path / "dms.csv").write_text("mutant\nA4W\nA4G\nQ9R\n")
    monkeypatch.setattr("sys.stderr", shown := Terminal())
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)
    assert score(*words)[0] == 0
    unit = "variants" if "mutant" in words else "positions"
    line = shown.getvalue().rsplit("\r", 1)[-1]
    assert "100%" in line and last in line and f" {unit}/s" in line and "<00:00" in line


def test_without_a_terminal_there_is_no_bar(score):
    status, _, said = score("--saturation", "--wild_type", "MKTAY")
    assert status == 0 and "positions" not in said.replace("5 of 5 positions have scores", "")


def test_one_of_anything_is_said_in_the_singular(score, tmp_path):
    (tmp_path / "dms.csv").write_text("mutant\nA4W\n")
    assert "1 of 1 mutant has a score" in score("--mutants", "dms.csv", "--wild_type", WILD_TYPE)[2]
    assert "1 of 1 position has scores" in score("--saturation", "--wild_type", "M", out="b.tsv")[2]
