import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import adversarial_mlm
from tests.helpers.exhaustive import exhaustive


def test_importing_the_package_imports_nothing_heavy():
    code = "import adversarial_mlm, sys; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in adversarial_mlm.__all__:
        assert getattr(adversarial_mlm, name) is not None
    assert set(adversarial_mlm.__all__) <= set(dir(adversarial_mlm))


def test_the_api_pages_show_every_public_name(repository):
    pages = "\n".join(path.read_text() for path in (repository / "docs").glob("api_*.md"))
    shown = set(re.findall(r"^::: adversarial_mlm\.(?:\w+\.)*(\w+)$", pages, re.MULTILINE))
    assert set(adversarial_mlm.__all__) - {"__version__"} <= shown


def test_no_module_imports_the_packages_of_the_extras_at_its_start(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    packages = {name for extra in ("compare", "demo", "plot", "tape", "tracking") for name in extras[extra]} | {"peft"}
    assert "greenlet" in packages and not packages & set(project["dependencies"])
    for path in Path(adversarial_mlm.__file__).parent.rglob("*.py"):
        for statement in ast.parse(path.read_text()).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                module = getattr(statement, "module", None) or statement.names[0].name
                assert module.partition(".")[0] not in packages, f"{path}:{statement.lineno}"


def test_the_version_is_the_same_everywhere(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    assert adversarial_mlm.__version__ == project["version"] == citation["version"]


@pytest.fixture(scope="module")
def wheel(repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(repository / name, folder)
    for name in ("adversarial_mlm", "tests"):
        shutil.copytree(repository / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", "dist", "."], cwd=folder, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.mark.slow
def test_the_wheel_has_all_modules_and_data_files_and_no_tests(repository, wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = repository / "adversarial_mlm"
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert names == {str(path.relative_to(repository)) for path in files}
    assert {path.name for path in files} >= {"demo.fasta", "demo.yaml", "template.md", "py.typed"}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Install the wheel into a folder; returns a function that starts a module there, without a clone in sight."""
    target, empty = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("empty")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}

    def start(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", *words]
        return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)

    return start, target, empty


LAUNCH = ("accelerate.commands.launch", "--quiet", "--num_processes", "1", "--num_machines", "1", "--mixed_precision")
LAUNCH += ("no", "--dynamo_backend", "no", "-m", "adversarial_mlm")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [("adversarial_mlm",), exhaustive(LAUNCH)])
def test_the_demo_runs_from_a_wheel_in_an_empty_folder(installed, launcher):
    start, target, empty = installed
    result = start(
        *launcher, "train", "demo", "--max_steps", "2", "--eval_strategy", "no", "--max_eval_records", "30",
        "--per_device_train_batch_size", "4", "--noiser_steps", "1", "--background_gate", "", "--use_cpu", "true",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert "Card        runs/demo/README.md" in result.stdout
    assert [path.name for path in empty.iterdir()] == ["runs"]
    assert str(target / "adversarial_mlm") in (empty / "runs" / "demo" / "recipe.yaml").read_text()
    card = (empty / "runs" / "demo" / "README.md").read_text()
    assert "\nadv-mlm train demo --max_steps 2 " in card
    assert "- sources: `demo.fasta`" in card and str(target) not in card


@pytest.mark.exhaustive  # four minutes: `make demo` is the same run
@pytest.mark.slow
def test_the_whole_demo_runs_from_a_wheel(installed):
    start, _, _ = installed
    result = start("adversarial_mlm", "train", "demo")
    assert result.returncode == 0 and "PASSED      members" in result.stdout, result.stderr[-3000:]
