"""Ctrl-C in each command: one sentence, exit status 130, and nothing that was there is changed."""

import os
import signal
from pathlib import Path

import pytest

from adversarial_mlm.cli.main import main
from tests.reports.conftest import quick, write_run  # noqa: F401

PROTEIN = "MKTAYIAKQRQISFVKSHFSRQ"
CONTINUES = "complete parts are kept: start the same command to continue"
NO_FILE = "no file is written: start the same command again"

# command → its words, a function in the middle of its work, and the end of the sentence
WORK = {
    "embed": (
        "--model {trained} --fasta a.fasta --out a.npz",
        "adversarial_mlm.inference.protein_embeddings.ProteinEmbedder.embed",
        CONTINUES,
    ),
    "score proteins": (
        "--model {trained} --fasta a.fasta --out a.tsv",
        "adversarial_mlm.inference.position_windows.PositionReader.read",
        NO_FILE,
    ),
    "score mutants": (
        "--model {trained} --mutants a.csv --wild_type {protein} --out b.tsv",
        "adversarial_mlm.inference.position_windows.PositionReader.read",
        NO_FILE,
    ),
    "score all substitutions": (
        "--model {trained} --saturation --wild_type {protein} --out c.tsv --figure c.png",
        "adversarial_mlm.reports.score_plots.draw_saturation",
        NO_FILE,
    ),
    "mask": (
        "--model {trained} --protein {protein} --out d.tsv --figure d.png",
        "adversarial_mlm.reports.mask_plots.draw_masks",
        "nothing is written: start the same command again",
    ),
    "report": ("mine", "adversarial_mlm.reports.run_report.png", "no file was changed, or all are complete"),
    "card": (
        "mine",
        "adversarial_mlm.saving.model_card.saved_facts.read_facts",
        "each card is either the earlier one or complete",
    ),
    "prepare": ("a.fasta --output_dir p --workers 1", "adversarial_mlm.data.prepare.clean_rows", CONTINUES),
    "evaluate": (
        "--mode baselines --task regression --train_file a.csv --target y --output_dir e",
        "adversarial_mlm.downstream.run.load_data",
        "what is complete is in e: start the same command to continue",
    ),
    "compare": (
        "compare_small --output_dir c",
        "adversarial_mlm.comparison.compare.load_comparison_data",
        "start the same command to resume",
    ),
}


def press(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGINT)


def raise_it(*args, **kwargs):
    raise KeyboardInterrupt  # as a library does that has a handler of its own


@pytest.fixture
def files(tmp_path, monkeypatch, write_run):  # noqa: F811
    """What the commands read, in the current folder; returns the content of all files that are not hidden."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transformers.utils.logging.set_verbosity_error", lambda: None)
    Path("a.fasta").write_text(f">a\n{PROTEIN}\n>b\n{PROTEIN[::-1]}\n")
    Path("a.csv").write_text(f"sequence,mutant,y\n{PROTEIN},A4W,1\n{PROTEIN[::-1]},A4G,2\n")
    write_run("mine")

    def content() -> dict[str, bytes]:
        paths = [path for path in tmp_path.rglob("*") if path.is_file()]
        names = {path.relative_to(tmp_path): path for path in paths}
        return {str(name): names[name].read_bytes() for name in names if not any(p[0] == "." for p in name.parts)}

    return content


@pytest.mark.parametrize("ctrl_c", [press, raise_it])
@pytest.mark.parametrize("work", WORK)
def test_ctrl_c_is_one_sentence_and_leaves_what_is_there(work, ctrl_c, trained, files, quick, monkeypatch, capsys):  # noqa: F811
    if work in ("report", "score all substitutions", "mask"):
        pytest.importorskip("matplotlib")
    words, function, kept = WORK[work]
    before = files()
    monkeypatch.setattr(function, ctrl_c)
    words = [word.format(trained=trained, protein=PROTEIN) for word in words.split()]
    assert main([work.split()[0], *words]) == 130
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == f"adv-mlm: stopped by SIGINT; {kept}" and "Traceback" not in said
    after = files()
    assert after.keys() - before.keys() <= {"p/plan.json"}  # of a preparation that can go on
    assert {name: after[name] for name in before} == before


def test_an_embedding_that_was_stopped_goes_on_with_its_parts(trained, files, monkeypatch, capsys, caplog):
    monkeypatch.setattr("adversarial_mlm.inference.protein_embeddings._RESIDUES_PER_BLOCK", {"cpu": 1})
    words = ["embed", "--model", trained, "--fasta", "a.fasta", "--out", "a.npz", "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr("adversarial_mlm.inference.embed_file._Progress.block_done", press)
        assert main(words) == 130
    caplog.set_level("INFO")
    assert main(words) == 0
    assert "continuing: 1 of 2 proteins was computed before" in caplog.text
    assert capsys.readouterr().out.startswith("a.npz: 2 proteins, ")
