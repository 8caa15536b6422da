import os
import sys

import pytest

from adversarial_mlm.cli.main import main


@pytest.fixture
def demo(tmp_path, monkeypatch, capsys):
    """Run `adv-mlm demo` with what it must refuse; returns the status and what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(*words):
        return main(["demo", *words]), capsys.readouterr().err

    return run


def test_without_the_demo_the_sentence_says_how_to_make_it(demo):
    assert demo() == (
        2,
        "adv-mlm: there is no folder runs/demo: train the demo first, with `adv-mlm train demo`, or give another "
        "--model\n",
    )


def test_without_gradio_one_sentence_says_what_to_install(demo, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    status, said = demo("--model", trained)
    assert status == 2 and said == (
        "adv-mlm: the page of adv-mlm demo needs the package gradio, which is not installed: pip install "
        "'adversarial-mlm[demo]'\n"
    )


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_a_port_that_does_not_exist_is_refused(demo, port):
    assert demo("--port", port) == (2, f"adv-mlm: --port must be from 1 to 65535, got {port}\n")


def test_a_model_that_cannot_be_loaded_is_refused_before_the_page_starts(demo, tmp_path):
    pytest.importorskip("gradio")
    os.mkdir("empty")
    status, said = demo("--model", "empty")
    assert status == 2 and said.startswith("adv-mlm: --model is empty, ")
    status, said = demo("--model", "no/such/folder")
    assert status == 2 and said.startswith("adv-mlm: --model is no/such/folder, but there is no such folder")
