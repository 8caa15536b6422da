"""The notebook runs from its first to its last cell, and has no outputs in git."""

import json
import os
import re
from pathlib import Path

import pytest

from adversarial_mlm import presets

# a run of seconds; all other cells stay as they are
SETTINGS = """
UPDATES = 6
OUTPUT_DIR = "runs/quickstart"
OTHER_OPTIONS = [
    *("--use_cpu", "true", "--cache_dir", "cache", "--max_eval_records", "20", "--per_device_train_batch_size", "4"),
    *("--encoder_steps", "2", "--noiser_steps", "1", "--logging_steps", "2", "--warmup_steps", "2"),
]
PACKAGE = "adversarial-mlm"
PUSH_TO_HUB = False
HUB_MODEL_ID = "quickstart"
"""


@pytest.fixture
def path(repository) -> Path:
    return repository / "examples" / "quickstart.ipynb"


@pytest.fixture
def cells(path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def test_the_notebook_in_git_has_no_outputs_and_nothing_of_a_machine(path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook["cells"]:
        is_settings = cell["id"] == "settings"
        assert cell["metadata"] == ({"tags": ["parameters"]} if is_settings else {})
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert json.dumps(notebook, indent=1, ensure_ascii=False) + "\n" == path.read_text(encoding="utf-8")


def test_the_first_code_is_the_settings_which_send_nothing(cells):
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    settings: dict = {}
    exec(source(code[0]), settings)
    assert code[0]["id"] == "settings" and settings["PUSH_TO_HUB"] is False
    names = re.findall(r"(?m)^(\w+) = ", SETTINGS)
    assert names == re.findall(r"(?m)^(\w+) = ", source(code[0]))  # the tests replace all of them
    assert not any(line.lstrip().startswith(("!", "%")) for cell in code for line in cell["source"])


def test_the_pages_that_the_notebook_names_exist(cells, path):
    links = re.findall(r"\]\(([^)\s]+)\)", "".join(source(cell) for cell in cells if cell["cell_type"] == "markdown"))
    assert links and all((path.parent / link).is_file() for link in links)


@pytest.mark.slow
def test_the_cells_run_one_after_the_other(cells, tmp_path, monkeypatch, capsys):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pytest.importorskip("IPython")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    monkeypatch.setitem(presets.ENCODERS, "tiny", sizes)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pyplot, "show", lambda: None)
    names: dict = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(SETTINGS if cell["id"] == "settings" else source(cell), names)
    pyplot.close("all")
    printed = capsys.readouterr().out
    for told in (
        "2,240 proteins of 133 families", "A0AJR1 MAEVLEKVTK", "members     cross-entropy", "under the noiser",
        "Nearest neighbour of the same family: ", "D36N:S37A  ", "Nothing was sent, because PUSH_TO_HUB is False.",
    ):  # fmt: skip
        assert told in printed, told
    assert names["trainer"].state.global_step == 6 and len(names["vectors"]) == len(names["chosen"]) > 100
    assert "](mask_policy.png)" in Path("runs/quickstart/README.md").read_text(encoding="utf-8")


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_notebook_runs_in_a_kernel(path, repository, tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    (settings,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    settings.source = SETTINGS
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # an error in a cell is raised
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    pictures = {name: sum("image/png" in one.get("data", {}) for one in of) for name, of in outputs.items()}
    assert pictures == {**dict.fromkeys(outputs, 0), "report": 2, "embed": 1}
    tables_of_the_trainer = [one for of in outputs.values() for one in of if "text/html" in one.get("data", {})]
    assert not tables_of_the_trainer
    assert "Nothing was sent" in outputs["push"][0].text
