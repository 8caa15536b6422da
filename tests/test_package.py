import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import adversarial_mlm


def test_importing_the_package_imports_nothing_heavy():
    code = "import adversarial_mlm, sys; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_public_name_is_there():
    for name in adversarial_mlm.__all__:
        assert getattr(adversarial_mlm, name) is not None
    assert set(adversarial_mlm.__all__) <= set(dir(adversarial_mlm))


def test_no_module_imports_the_packages_of_the_extras_at_its_start(repository):
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    packages = {name for extra in ("compare", "plot", "tape", "tracking") for name in extras[extra]} | {"peft"}
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


@pytest.mark.slow
def test_the_wheel_has_all_modules_and_data_files_and_no_tests(repository, tmp_path):
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(repository / name, tmp_path)
    for name in ("adversarial_mlm", "tests"):
        shutil.copytree(repository / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", "dist", "."], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    package = tmp_path / "adversarial_mlm"
    modules = {str(path.relative_to(tmp_path)) for path in package.rglob("*.py")}
    data = {"adversarial_mlm/py.typed", "adversarial_mlm/saving/model_card/template.md"}
    assert {name for name in names if ".dist-info/" not in name} == modules | data
