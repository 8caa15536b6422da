import json
import logging

import numpy as np
import pytest
import torch

from adversarial_mlm.cli.main import main
from adversarial_mlm.utils import progress
from tests.helpers.foreign_encoders import BUILDERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("esm")
    torch.manual_seed(0)
    for saved in BUILDERS["esm"](path):
        saved.save_pretrained(path)
    (path / "a.csv").write_text("name,seq\nx,MKTAYIAKQR\nx,MKT\n")
    return path


def words(folder, out, *more) -> list[str]:
    return ["embed", "--model", str(folder), "--fasta", str(folder / "a.csv"), "--out", str(out), *more]


TABLE = ("--sequence_column", "seq", "--id_column", "name")


def test_every_option_reaches_the_file(folder, tmp_path, capsys):
    out = tmp_path / "a.npz"
    more = ("--per_residue", "--layer", "-2", "--dtype", "bf16", "--max_length", "8", "--overlap", "2")
    assert main(words(folder, out, *TABLE, *more, "--output_dtype", "float16", "--batch_tokens", "20")) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 2 proteins, ")
    arrays = np.load(out)
    assert arrays["ids"].tolist() == ["x", "x"] and arrays["windows"].tolist() == [2, 1]
    assert arrays["embeddings"].shape == (13, 16) and arrays["embeddings"].dtype == np.float16
    wanted = {"layer": -2, "dtype": "bfloat16", "max_length": 8, "overlap": 2, "per_residue": True}
    about = json.loads(str(arrays["about"]))
    assert {name: about[name] for name in wanted} == wanted
    assert main(words(folder, out, *TABLE)) == 2
    assert "a.npz, which exists" in capsys.readouterr().err
    assert main(words(folder, out, *TABLE, "--overwrite", "--pooling", "cls")) == 0
    assert np.load(out)["embeddings"].shape == (2, 16)


def test_one_protein_is_said_in_the_singular(folder, tmp_path, capsys):
    (tmp_path / "one.fasta").write_text(">a\nMKTAY\n")
    assert (
        main(["embed", "--model", str(folder), "--fasta", str(tmp_path / "one.fasta"), "--out", f"{tmp_path}/b.npz"])
        == 0
    )
    assert capsys.readouterr().out.startswith(f"{tmp_path}/b.npz: 1 protein, ")


@pytest.mark.parametrize(
    "more, sentence",
    [
        ((), 'there is no column "sequence" (sequence_column); the columns are "name", "seq"'),
        ((*TABLE, "--layer", "9"), "layer is 9, but must be 0 to 3"),
        ((*TABLE, "--device", "abacus"), "device is abacus"),
        ((*TABLE, "--out", "~no_such_user/a.npz"), "begins with ~, but there is no user 'no_such_user'"),
        ((*TABLE, "--model", "no/such/folder"), "--model is no/such/folder, but there is no such folder"),
    ],
)
def test_mistakes_end_in_one_sentence(folder, tmp_path, capsys, more, sentence):
    assert main(words(folder, tmp_path / "a.npz", *more)) == 2
    message = capsys.readouterr().err
    assert sentence in message and message.splitlines()[-1].startswith("adv-mlm: ")
    assert not (tmp_path / "a.npz").exists()


def test_without_a_terminal_the_log_has_a_line_every_minute(folder, tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    assert main(words(folder, tmp_path / "a.npz", *TABLE, "--batch_tokens", "5")) == 0
    lines = [line for line in caplog.messages if "proteins/s" in line]
    assert len(lines) == 2 and lines[-1].startswith("0 of 2 proteins, ") and lines[-1].endswith(" 00:00 left")
