"""The script as users start it."""

import importlib.util
import json
import os
import signal
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adversarial_mlm.downstream import run as downstream_run


@pytest.fixture
def run(repository, tmp_path):
    def run(*words: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": str(repository), "HF_HOME": str(tmp_path / "hf")}
        script = str(repository / "examples" / "run_tape.py")
        return subprocess.run([sys.executable, script, *words], env=environment, capture_output=True, text=True)

    return run


@pytest.fixture
def saved(make_encoder, tokenizer, tmp_path):
    make_encoder().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def table(tmp_path, proteins):
    """A user's own task: the share of K."""
    short = [protein[:60] for protein in proteins[:120]]
    rows = [f"{sequence},{sequence.count('K') / len(sequence)}" for sequence in dict.fromkeys(short)]
    (tmp_path / "mine.csv").write_text("\n".join(["sequence,share", *rows]))
    return str(tmp_path / "mine.csv")


@pytest.mark.exhaustive
def test_a_probe_of_ones_own_task_prints_the_table_and_writes_results(run, saved, table, tmp_path):
    words = ["--task", "regression", "--train_file", table, "--target", "share", "--model_name_or_path", saved]
    out = tmp_path / "out"
    first = run(*words, "--seeds", "0", "1", "--output_dir", str(out), "--use_cpu")
    assert first.returncode == 0, first.stderr
    for words_in_table in ("probe, model", "probe, no pre-training, model", "composition", "mean", "not defined"):
        assert words_in_table in first.stdout
    results = json.loads((out / "results.json").read_text())["results"]
    assert [result["method"] for result in results][:2] == ["probe", "probe, no pre-training"]
    untrained = results[1]["figures"]["test"]["spearman"]
    assert len(untrained["by_seed"]) == 2 and untrained["std"] > 0
    assert list((tmp_path / "hf" / "adversarial_mlm" / "features").glob("*.npy"))
    second = run(*words, "--seeds", "0", "1", "--output_dir", str(out), "--use_cpu")
    assert second.stdout == first.stdout
    assert json.loads((out / "results.json").read_text())["results"] == results


@pytest.fixture
def call(repository, monkeypatch, capsys):
    """The script's `main` in this process; returns the exit status and what was said."""
    place = importlib.util.spec_from_file_location("run_tape", repository / "examples" / "run_tape.py")
    script = importlib.util.module_from_spec(place)
    place.loader.exec_module(script)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["examples/run_tape.py", *words])
        try:
            status = script.main()
        except SystemExit as stop:
            status = stop.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_mistakes_end_with_one_sentence(call, saved, table, tmp_path):
    own = ["--task", "regression", "--train_file", table, "--target", "share"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}")
    (other / "results.json").write_text("{")
    for words, sentence in (
        ([*own[:-1], "shares", "--model_name_or_path", saved], 'there is no column "shares"'),
        ([*own, "--model_name_or_path", str(other)], "model_name_or_path is"),
        ([*own, "--model_name_or_path", str(tmp_path / "nowhere")], "there is no such folder"),
        ([*own, "--model_name_or_path", saved, "--max_length", "900"], "the encoder has 512 positions"),
        ([*own, "--model_name_or_path", saved, "--update_card", "true"], "there is no README.md"),
        ([*own, "--model_name_or_path", saved, "--output_dir", str(other)], "results.json is not a list of results"),
    ):
        status, _, said = call(*words)
        assert status == 2 and said.strip().split("\n")[-1].startswith("run_tape.py: ")
        assert sentence in said.strip().split("\n")[-1]


def test_an_encoder_without_residues_is_refused(call, table, make_encoder, tmp_path):
    words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[MASK]", "the", "of"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]"
    )
    folder = str(tmp_path / "english")
    make_encoder().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    status, _, said = call(
        "--task", "regression", "--train_file", table, "--target", "share", "--model_name_or_path", folder
    )
    assert status == 2 and "no single token for the standard residue" in said.strip().split("\n")[-1]


def test_baselines_need_no_encoder(call, table):
    status, said, _ = call("--mode", "baselines", "--task", "regression", "--train_file", table, "--target", "share")
    assert status == 0 and "composition" in said and "probe" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_evaluation_in_one_sentence_and_what_is_complete_is_kept(
    call, table, tmp_path, monkeypatch, number
):
    own = ["--mode", "baselines", "--task", "regression", "--train_file", table, "--target", "share"]
    complete = downstream_run.run

    def stopped(*args):
        complete(*args)
        os.kill(os.getpid(), number)

    monkeypatch.setattr(downstream_run, "run", stopped)
    status, _, said = call(*own, "--output_dir", str(tmp_path / "out"))
    assert status == 128 + number
    last = said.splitlines()[-1]
    assert last == (
        f"run_tape.py: stopped by {number.name}; what is complete is in {tmp_path / 'out'}: start the same command to "
        "continue"
    )
    assert json.loads((tmp_path / "out" / "results.json").read_text())["results"]


@pytest.mark.parametrize("name", ["README.md", "model.safetensors", "regression-share/model.safetensors"])
def test_a_folder_with_files_of_others_is_refused_and_stays(call, table, tmp_path, name):
    own = ["--mode", "baselines", "--task", "regression", "--train_file", table, "--target", "share"]
    folder = tmp_path / "mine"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("mine")
    status, _, said = call(*own, "--output_dir", str(folder))
    assert status == 2
    assert f"no evaluation of this package has marked as its own ({name.partition('/')[0]})" in said
    assert [path for path in folder.rglob("*") if path.is_file()] == [folder / name]


def test_results_of_a_version_without_markers_are_added_to(call, table, tmp_path):
    own = ["--mode", "baselines", "--task", "regression", "--train_file", table, "--target", "share"]
    assert call(*own, "--output_dir", str(tmp_path / "out"))[0] == 0
    (tmp_path / "out" / ".output.json").unlink()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert call(*own, "--output_dir", str(tmp_path / "out"))[0] == 0
    (tmp_path / "old" / "stability-stability_score" / "finetuned").mkdir(parents=True)  # stopped before its results
    assert call(*own, "--output_dir", str(tmp_path / "old"))[0] == 0


@pytest.mark.slow
def test_fine_tuning_stands_beside_its_baselines(call, saved, table, tmp_path):
    status, said, _ = call(
        "--mode", "finetune", "--task", "regression", "--train_file", table, "--target", "share", "--seeds", "0", "1",
        "--model_name_or_path", saved, "--output_dir", str(tmp_path / "out"), "--max_steps", "3", "--batch_size", "8",
        "--head_size", "8", "--max_length", "40", "--grid", "learning_rate=1e-4,1e-3",
    )  # fmt: skip
    assert status == 0
    for words in ("finetune, model", "finetune, no pre-training, model", "composition", "±"):
        assert words in said
    first, untrained, *_ = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    assert [trial["options"] for trial in first["trials"]] == [{"learning_rate": 1e-4}, {"learning_rate": 1e-3}]
    assert len(untrained["figures"]["test"]["spearman"]["by_seed"]) == 2
    tested = first["data"]["rows"]["test"]
    assert first["cut"]["test"] == {"proteins": tested, "residues": tested * (60 - 38)}
